//! Schemas of types that are not ours.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A version by semver.org, for `#[schema(value_type = ...)]` on fields of type
/// [`semver::Version`].
#[derive(Debug)]
pub enum VersionSchema {}

/// The expression of semver.org, for numbers that fit into 64 bits.
const PATTERN: &str = concat!(
    r"^(0|[1-9][0-9]{0,15})\.(0|[1-9][0-9]{0,15})\.(0|[1-9][0-9]{0,15})",
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?",
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$",
);

impl PartialSchema for VersionSchema {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A version by semver.org."))
            .pattern(Some(PATTERN))
            .examples(["1.2.0"])
            .into()
    }
}

impl ToSchema for VersionSchema {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Version")
    }
}

/// A number of workers, or `"all"`: for fields of type [`crate::WorkerCount`].
#[derive(Debug)]
pub enum WorkerCountSchema {}

impl PartialSchema for WorkerCountSchema {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(crate::workers::WORKERS_MAX));
        let all = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["all"]));
        OneOfBuilder::new()
            .item(number)
            .item(all)
            .description(Some("A number of workers, or \"all\"."))
            .into()
    }
}

impl ToSchema for WorkerCountSchema {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("WorkerCount")
    }
}

/// A schema for `#[schema(value_type = ...)]`: texts of a pattern, and perhaps numbers from 1 to a
/// last one.
macro_rules! text_schema {
    ($name:ident, $called:literal, $about:literal, $example:literal, $pattern:expr, $last:expr) => {
        #[doc = $about]
        #[derive(Debug)]
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let last: Option<u32> = $last;
                let schema = ObjectBuilder::new()
                    .description(Some($about))
                    .pattern(Some($pattern))
                    .examples([$example]);
                match last {
                    None => schema.schema_type(Type::String).into(),
                    Some(last) => schema
                        .schema_type(SchemaType::Array(vec![Type::String, Type::Integer]))
                        .minimum(Some(1))
                        .maximum(Some(last))
                        .into(),
                }
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($called)
            }
        }
    };
}

/// A port from 1 to 65535 in decimal digits.
const PORT: &str =
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

text_schema!(
    PrefixSchema,
    "IpPrefix",
    "An address, or ADDRESS/LENGTH; bits behind the length are 0.",
    "10.0.0.0/8",
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:]{2,39}|::ffff:[0-9]{1,3}(\.[0-9]{1,3}){3})(/[0-9]{1,3})?$",
    None
);
text_schema!(
    ProtocolSchema,
    "IpProtocol",
    "The protocol behind IP's headers: a name, or a number.",
    "tcp",
    "^(icmp|igmp|tcp|udp|dccp|gre|esp|icmpv6|ospf|sctp|udplite|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])$",
    Some(255)
);
text_schema!(
    PortsSchema,
    "PortRange",
    "A port of TCP, UDP and their like, or FIRST-LAST.",
    "1024-65535",
    format!("^{PORT}(-{PORT})?$"),
    Some(65_535)
);
text_schema!(
    EtherTypeSchema,
    "EtherType",
    "What a frame carries: a name, or a number.",
    "0x88cc",
    "^(arp|ipv4|ipv6|lldp|lacp|eapol|0x(0[6-9a-fA-F]|[1-9a-fA-F][0-9a-fA-F])[0-9a-fA-F]{2})$",
    None
);
text_schema!(
    MacAddressSchema,
    "MacAddress",
    "A hardware address.",
    "02:00:00:00:00:01",
    "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$",
    None
);
