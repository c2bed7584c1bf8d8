//! Traces of a running chain: which packets to follow, and what became of them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Name;
use crate::invalid::{Check, Invalid};
use crate::packet::{IpPrefix, IpProtocol, PortRange};
use crate::steering::{SteerTo, SteeringRule};

/// Packets of a trace at most.
const PACKETS_MAX: u32 = 1000;
/// Seconds that a trace waits for them at most.
const SECONDS_MAX: u32 = 60;

/// The body of `POST /v1/chains/{name}/trace`: which packets to follow. All that is named of a
/// packet has to be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceRequest {
    /// How many packets.
    #[serde(default = "ten", deserialize_with = "crate::text::number")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub packets: u32,
    /// How long to wait for them, in seconds.
    #[serde(default = "ten", deserialize_with = "crate::text::number")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 60))]
    pub seconds: u32,
    /// The port by which they come in; any of the chain's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// Source address, or its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PrefixSchema>))]
    pub src: Option<IpPrefix>,
    /// Destination address, or its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PrefixSchema>))]
    pub dst: Option<IpPrefix>,
    /// The protocol behind IP's headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::ProtocolSchema>))]
    pub proto: Option<IpProtocol>,
    /// Source port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PortsSchema>))]
    pub sport: Option<PortRange>,
    /// Destination port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PortsSchema>))]
    pub dport: Option<PortRange>,
}

const fn ten() -> u32 {
    10
}

impl TraceRequest {
    /// What it says of packets, as a steering rule that drops them.
    #[must_use]
    pub fn rule(&self) -> SteeringRule {
        SteeringRule {
            port: self.port.clone(),
            src: self.src,
            dst: self.dst,
            proto: self.proto,
            sport: self.sport,
            dport: self.dport,
            to: Some(SteerTo::Drop),
            ..SteeringRule::default()
        }
    }
}

impl Check for TraceRequest {
    fn check(&self) -> Result<(), Invalid> {
        for (key, given, most) in
            [("packets", self.packets, PACKETS_MAX), ("seconds", self.seconds, SECONDS_MAX)]
        {
            if !(1..=most).contains(&given) {
                return Err(Invalid::at(key, format!("{given} {key}"))
                    .help(format!("allowed: 1 to {most}")));
            }
        }
        self.rule().check()
    }
}

/// What a trace of a running chain shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChainTrace {
    /// The packets that were followed, in the order in which they came.
    pub packets: Vec<FollowedPacket>,
    /// Packets that came to the chain while it was traced.
    pub seen: u64,
}

/// A packet's way through a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowedPacket {
    /// Its number among those that came since the trace began, from 1; none if a function made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// It goes from the last function to the first.
    pub reverse: bool,
    /// The packet as the first of these functions got it, in base64.
    #[cfg_attr(feature = "openapi", schema(value_type = String, content_encoding = "base64"))]
    pub bytes: Base64,
    /// The functions that saw it, in order.
    pub steps: Vec<FollowedStep>,
}

/// What a function did to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowedStep {
    /// Its name in the chain.
    pub function: String,
    /// Its verdict, with its number if it has one; none if it faulted, or was not done when the
    /// trace ended.
    pub verdict: Option<String>,
    /// The packet behind it, in base64, if it is another than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, content_encoding = "base64"))]
    pub changed: Option<Base64>,
}

/// Bytes that are written as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<TraceRequest, String> {
        let request: TraceRequest =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        request.check().map(|()| request).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn ten_packets_in_ten_seconds_unless_more_is_said() {
        let request = checked("{}").unwrap();
        assert_eq!((request.packets, request.seconds), (10, 10));
        let request = checked(r#"{"packets": 3, "seconds": 60, "proto": "udp", "dport": 53}"#);
        assert_eq!(request.unwrap().rule().conditions(), "proto=udp dport=53");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, part) in [
            (r#"{"packets": 0}"#, "packets"),
            (r#"{"packets": 1001}"#, "packets"),
            (r#"{"seconds": 61}"#, "seconds"),
            (r#"{"proto": "icmp", "dport": 53}"#, "dport"),
            (r#"{"src": "10.0.0.1", "dst": "::1"}"#, "dst"),
            (r#"{"count": 1}"#, "count"),
        ] {
            let refused = checked(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[test]
    fn bytes_go_through_text() {
        let packet =
            FollowedPacket { bytes: Base64(vec![0, 1, 0xff]), ..FollowedPacket::default() };
        let text = serde_json::to_string(&packet).unwrap();
        assert!(text.contains(r#""bytes":"AAH/""#), "{text}");
        assert_eq!(serde_json::from_str::<FollowedPacket>(&text).unwrap(), packet);
    }
}
