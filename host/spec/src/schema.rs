//! Schemas of types that are not ours.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A version by semver.org, for `#[schema(value_type = ...)]` on fields of type [`semver::Version`].
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

/// A number, or a text, for `#[schema(value_type = ...)]`.
#[derive(Debug)]
pub enum NumberOrTextSchema {}

impl PartialSchema for NumberOrTextSchema {
    fn schema() -> RefOr<Schema> {
        let either = SchemaType::Array(vec![Type::String, Type::Integer]);
        ObjectBuilder::new().schema_type(either).description(Some("A text, or a number.")).into()
    }
}

impl ToSchema for NumberOrTextSchema {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("NumberOrText")
    }
}
