//! Taps of a running chain: where to look, which packets to copy, and what they look like.

use serde::{Deserialize, Serialize};

use crate::Name;
use crate::invalid::{Check, Invalid};
use crate::packet::{IpPrefix, IpProtocol, PortRange};
use crate::steering::{SteerTo, SteeringRule};
use crate::trace::Base64;

/// Bytes of a packet that are copied at most.
const SNAP_LENGTH_MAX: u32 = 65_536;
/// Seconds that a tap may be limited to.
const SECONDS_MAX: u32 = 86_400;

/// The body of `POST /v1/chains/{name}/tap`: where to look, and at what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TapRequest {
    /// The function of the chain whose packets are copied, before and after it; without it those
    /// that come to the chain and those that leave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Name>,
    /// Only those that go this way; without it both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<TapDirection>,
    /// It ends after so many packets; without it when the client goes.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub packets: Option<u32>,
    /// It ends after so many seconds.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 86_400))]
    pub seconds: Option<u32>,
    /// Bytes of each packet that are copied at most.
    #[serde(default = "whole", deserialize_with = "crate::text::number")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65_536))]
    pub snap_length: u32,
    /// How they are written.
    #[serde(default)]
    pub format: TapFormat,
    /// Which packets are copied.
    #[serde(default)]
    pub only: PacketConditions,
}

const fn whole() -> u32 {
    SNAP_LENGTH_MAX
}

impl Default for TapRequest {
    fn default() -> Self {
        Self {
            function: None,
            direction: None,
            packets: None,
            seconds: None,
            snap_length: whole(),
            format: TapFormat::default(),
            only: PacketConditions::default(),
        }
    }
}

/// Where a packet is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TapDirection {
    /// To the chain or function.
    In,
    /// Away from it.
    Out,
}

/// How a tap's packets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TapFormat {
    /// A capture (`application/x-pcapng`).
    #[default]
    Pcapng,
    /// One JSON object a line (`application/x-ndjson`).
    Json,
}

/// Which packets: all that is named has to be so, as in a steering rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PacketConditions {
    /// The port by which they come in; of what leaves the chain, by which they leave.
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

impl PacketConditions {
    /// The same, as a steering rule that drops them.
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

    /// True if they mean every packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Check for TapRequest {
    fn check(&self) -> Result<(), Invalid> {
        let limits = [
            ("packets", self.packets, u32::MAX),
            ("seconds", self.seconds, SECONDS_MAX),
            ("snap-length", Some(self.snap_length), SNAP_LENGTH_MAX),
        ];
        for (key, given, most) in limits {
            if let Some(given) = given.filter(|given| !(1..=most).contains(given)) {
                return Err(
                    Invalid::at(key, format!("{given}")).help(format!("allowed: 1 to {most}"))
                );
            }
        }
        self.only.rule().check().map_err(|invalid| invalid.within("only"))
    }
}

/// A packet that a tap copied: a line with `format = "json"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TappedPacket {
    /// When it came in, in nanoseconds since 1970.
    pub time: u64,
    /// The port by which it came in; of what leaves the chain, by which it leaves. None if a
    /// function made it without a packet that came in, in a timer for instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Where it goes.
    pub direction: TapDirection,
    /// It passes the chain from the last function to the first.
    pub reverse: bool,
    /// What the function decided; `to-kernel` if it leaves the chain to the kernel's stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The same number for what a function was given and for what it made of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Packets that were not copied since the one before, because they came faster than they were
    /// taken.
    pub lost: u64,
    /// Bytes that it has.
    pub length: u32,
    /// Those that were copied, in base64.
    #[cfg_attr(feature = "openapi", schema(value_type = String, content_encoding = "base64"))]
    pub bytes: Base64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<TapRequest, String> {
        let request: TapRequest = serde_json::from_str(text).map_err(|error| error.to_string())?;
        request.check().map(|()| request).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn everything_in_both_directions_unless_less_is_said() {
        assert_eq!(checked("{}").unwrap(), TapRequest::default());
        let text =
            r#"{"function": "nat", "direction": "out", "only": {"proto": "udp", "dport": 53}}"#;
        let request = checked(text).unwrap();
        assert_eq!(request.only.rule().conditions(), "proto=udp dport=53");
        assert_eq!(request.direction, Some(TapDirection::Out));
        assert!(!request.only.is_empty() && TapRequest::default().only.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, part) in [
            (r#"{"packets": 0}"#, "packets"),
            (r#"{"seconds": 86401}"#, "seconds"),
            (r#"{"snap-length": 0}"#, "snap-length"),
            (r#"{"only": {"proto": "icmp", "dport": 53}}"#, "only.dport"),
            (r#"{"only": {"source": "10.0.0.1"}}"#, "source"),
            (r#"{"direction": "up"}"#, "up"),
        ] {
            let refused = checked(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
