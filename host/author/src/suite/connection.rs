//! Connections in `weir-test.toml`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, de};
use weir_spec::Invalid;

/// A connection: what its two sides send, one step after the other. Behind the last step the client
/// ends it, and then the upstream; until then it has to be open unless a step says that it ends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Connection {
    /// The client's address, one of 127.0.0.0/8; 127.0.0.1 without it.
    pub from: Option<Ipv4Addr>,
    /// What is sent, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What has to come of it.
    #[serde(default)]
    pub expect: ExpectConnection,
}

/// One side sends something: exactly one of `client` and `upstream` is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Step {
    /// What the client sends.
    pub client: Option<Octets>,
    /// What the upstream sends.
    pub upstream: Option<Octets>,
    /// What the other side gets of it: these bytes, or `false` for nothing. Without it: what was
    /// sent.
    pub arrives: Option<Arrives>,
    /// Whether the function ends the connection then: both sides see its end.
    #[serde(default)]
    pub ends: bool,
}

/// What has to come of a connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExpectConnection {
    /// Whether it reaches the upstream. If it does not, the client sees its end.
    pub upstream: Option<bool>,
}

/// Bytes: a text, or `{ hex = "16 03 01" }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a text, bytes such as { hex = \"16 03\" }, or `false` if nothing arrives"
)]
pub enum Arrives {
    /// Something (`true`: what was sent), or nothing.
    Something(bool),
    /// These bytes.
    These(Octets),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, or bytes such as { hex = \"16 03\" }")]
enum Written {
    Text(String),
    Bytes(Hex),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hex {
    hex: String,
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Bytes(Hex { hex }) => bytes_of(&hex).map(Self).ok_or_else(|| {
                de::Error::custom(format!("{hex:?} is not pairs of hexadecimal digits"))
            }),
        }
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.chars().filter(|c| !c.is_ascii_whitespace()).map(|c| c.to_digit(16));
    let digits: Vec<u32> = digits.collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high << 4 | low).ok(),
        _ => None,
    });
    pairs.collect()
}

impl Connection {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(from) = self.from
            && !from.is_loopback()
        {
            return Err(Invalid::at("from", format!("{from} is no address of this machine alone"))
                .help("allowed: 127.0.0.0/8"));
        }
        let reached = self.expect.upstream;
        for (n, step) in self.steps.iter().enumerate() {
            let wrong = |invalid: Invalid| Err(invalid.within_array("steps", n));
            if step.client.is_some() == step.upstream.is_some() {
                return wrong(
                    Invalid::whole("one side has to send something in a step")
                        .help("write `client = \"...\"` or `upstream = \"...\"`"),
                );
            }
            if step.upstream.is_some() && reached == Some(false) {
                return wrong(Invalid::at(
                    "upstream",
                    "the upstream cannot send what `expect.upstream = false` says it never hears of",
                ));
            }
            if step.ends && n + 1 < self.steps.len() {
                return wrong(Invalid::at("ends", "no step can follow the connection's end"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_text_or_digits() {
        let step = |text: &str| toml_step(text);
        assert_eq!(step("client = \"a\\n\"").unwrap().client, Some(Octets(b"a\n".to_vec())));
        let hex = step("client = { hex = \"16 03 fF\" }\narrives = false").unwrap();
        assert_eq!(hex.client, Some(Octets(vec![0x16, 3, 0xff])));
        assert_eq!(hex.arrives, Some(Arrives::Something(false)));
        for wrong in ["client = { hex = \"1\" }", "client = { hex = \"xy\" }", "client = 1"] {
            assert!(step(wrong).is_err(), "{wrong}");
        }
    }

    fn toml_step(text: &str) -> Result<Step, String> {
        let text = format!(
            "[[test]]\nname = \"x\"\n[[test.connection]]\n[[test.connection.steps]]\n{text}\n"
        );
        let suite = weir_spec::Document::<crate::suite::Suite>::parse("t.toml", &text);
        suite
            .map(|suite| suite.value.tests[0].connection[0].steps[0].clone())
            .map_err(|error| error.to_string())
    }
}
