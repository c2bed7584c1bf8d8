//! What a function says about itself: `function.toml`, which the SDK also embeds into the
//! component.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::chain::{Access, OnFault};
use crate::invalid::{Check, Invalid};
use crate::report::World;
use crate::{Name, Period, Size};

/// What becomes of a function's state when its instance is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum State {
    /// It starts fresh.
    #[default]
    None,
    /// It lies in a state region, which the next instance finds as it was.
    Region,
    /// It goes through the exports `save` and `restore`.
    Save,
}

/// A function's manifest. Every key may be left out; what a chain says goes before it, except that
/// a chain can only narrow `access`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Manifest {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Its version, by semver.org.
    #[serde(
        default,
        deserialize_with = "crate::text::version",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::VersionSchema>))]
    pub version: Option<Version>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it may do with packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What becomes of its state.
    #[serde(default)]
    pub state: State,
    /// Bytes of its state region, if the chain does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<Size>,
    /// Name of the state region's layout: a successor takes the region over only if it says the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Whether its instances on all workers have one state region together, if the chain does not
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_shared: Option<bool>,
    /// Bytes of linear memory it may have, if the chain does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// CPU time it may take for a burst, if the chain does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// What happens to packets when it faults, if the chain does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_fault: Option<OnFault>,
    /// Maximum number of requests that an instance serves, one after the other, if the chain does
    /// not say: for functions of the world `wasi:http/proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub requests_per_instance: Option<u32>,
    /// Whether it decides about whole flows, if the chain does not say: the host remembers those
    /// decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_verdicts: Option<bool>,
}

impl Manifest {
    /// The same with what holds for components of this world where it says nothing: those of
    /// `wasi:http/proxy` come out of toolchains that know nothing of manifests, and bring a whole
    /// language along.
    #[must_use]
    pub fn of_world(mut self, world: Option<World>) -> Self {
        if world == Some(World::WasiHttpProxy) {
            self.memory.get_or_insert(Size::mebibytes(128));
            self.deadline.get_or_insert(Period::milliseconds(1000));
        }
        self
    }

    /// Name of the custom section in which a component carries its manifest.
    pub const SECTION: &'static str = "weir:manifest";

    /// Bytes of a manifest that is pushed, at most: it is kept in memory, and while it is read it
    /// takes forty times as much.
    pub const MAX: usize = 64 << 10;

    /// Whether a manifest of this text may be pushed.
    ///
    /// # Errors
    /// That it is too long.
    pub fn check_length(text: &str) -> Result<(), String> {
        let (bytes, most) = (text.len(), Self::MAX);
        if bytes > most {
            return Err(format!("its manifest has {bytes} bytes; allowed are {most}"));
        }
        Ok(())
    }

    /// The text of the manifest that was appended to a module or component, if one was: the last
    /// custom section of that name at the top. What the SDK embeds into a component's module lies
    /// deeper, and is the sandbox's to find.
    #[must_use]
    pub fn appended(wasm: &[u8]) -> Option<&str> {
        let mut found = None;
        let mut rest = wasm.get(8..)?;
        while let Some((id, after)) = rest.split_first() {
            let (size, after) = leb128(after)?;
            let (body, next) = after.split_at_checked(size)?;
            if *id == 0 {
                let (name, text) = leb128(body).and_then(|(n, body)| body.split_at_checked(n))?;
                if name == Self::SECTION.as_bytes() {
                    found = std::str::from_utf8(text).ok();
                }
            }
            rest = next;
        }
        found
    }

    /// Appends the text of a manifest to a module or component, as a custom section.
    #[must_use]
    pub fn embed(wasm: &[u8], text: &str) -> Vec<u8> {
        let length = |n: usize| {
            let mut n = n;
            let mut bytes = Vec::new();
            while n > 0x7f {
                bytes.push((n & 0x7f) as u8 | 0x80);
                n >>= 7;
            }
            bytes.push(n as u8);
            bytes
        };
        let mut body = length(Self::SECTION.len());
        body.extend_from_slice(Self::SECTION.as_bytes());
        body.extend_from_slice(text.as_bytes());
        let mut out = wasm.to_vec();
        out.push(0); // a custom section
        out.extend(length(body.len()));
        out.extend(body);
        out
    }
}

/// An unsigned 32-bit number in LEB128, and what follows.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u32;
    for (place, byte) in bytes.iter().enumerate().take(5) {
        value |= u32::from(byte & 0x7f).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            return Some((value as usize, &bytes[place + 1..]));
        }
    }
    None
}

impl Check for Manifest {
    fn check(&self) -> Result<(), Invalid> {
        if let Some(memory) = self.memory {
            limits::memory(memory).map_err(|e| e.within("memory"))?;
        }
        if let Some(deadline) = self.deadline {
            limits::deadline(deadline).map_err(|e| e.within("deadline"))?;
        }
        if let Some(bytes) = self.state_bytes {
            limits::state(bytes).map_err(|e| e.within("state-bytes"))?;
        }
        if let Some(requests) = self.requests_per_instance {
            limits::requests_per_instance(requests)
                .map_err(|e| e.within("requests-per-instance"))?;
        }
        if self.state != State::Region {
            let help = "set `state = \"region\"`, or leave this key out";
            if self.state_bytes.is_some() {
                return Err(
                    Invalid::at("state-bytes", "the function has no state region").help(help)
                );
            }
            if self.layout.is_some() {
                return Err(Invalid::at("layout", "the function has no state region").help(help));
            }
            if self.state_shared == Some(true) {
                let message = "the function has no state region to share";
                return Err(Invalid::at("state-shared", message).help(help));
            }
        }
        if self.layout.as_ref().is_some_and(|layout| layout.len() > 128) {
            return Err(Invalid::at("layout", "the text is too long").help("allowed: 128 bytes"));
        }
        if self.description.as_ref().is_some_and(|text| text.len() > 1024) {
            return Err(
                Invalid::at("description", "the text is too long").help("allowed: 1024 bytes")
            );
        }
        Ok(())
    }
}

/// Bounds on what a function may be given.
pub(crate) mod limits {
    use super::{Invalid, Period, Size};

    fn within<T: PartialOrd + std::fmt::Display>(value: T, from: T, to: T) -> Result<(), Invalid> {
        if value >= from && value <= to {
            return Ok(());
        }
        Err(Invalid::whole(format!("{value} is out of range"))
            .help(format!("allowed: {from} to {to}")))
    }

    pub(crate) fn memory(size: Size) -> Result<(), Invalid> {
        within(size, Size::bytes(64 << 10), Size::mebibytes(1024))
    }

    pub(crate) fn state(size: Size) -> Result<(), Invalid> {
        within(size, Size::bytes(64 << 10), Size::mebibytes(1024))
    }

    /// The longest [`deadline`].
    pub(crate) const DEADLINE_MAX: Period = Period::milliseconds(10_000);

    pub(crate) fn deadline(period: Period) -> Result<(), Invalid> {
        within(period, Period::milliseconds(1), DEADLINE_MAX)
    }

    pub(crate) fn requests_per_instance(requests: u32) -> Result<(), Invalid> {
        within(requests, 1, 1_000_000)
    }

    pub(crate) fn instance_idle(period: Period) -> Result<(), Invalid> {
        within(period, Period::milliseconds(10), Period::milliseconds(3_600_000))
    }

    pub(crate) fn timeout(period: Period) -> Result<(), Invalid> {
        within(period, Period::milliseconds(10), Period::milliseconds(3_600_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_embedded_as_a_custom_section() {
        let text = "x".repeat(200);
        let wasm = Manifest::embed(b"\0asm\x01\0\0\0", &text);
        // id, length 214 in two bytes, length of the name, name, text
        assert_eq!(wasm[8..12], [0, 0xd6, 0x01, 13]);
        assert_eq!(&wasm[12..25], b"weir:manifest");
        assert_eq!(&wasm[25..], text.as_bytes());
        assert_eq!(Manifest::appended(&wasm), Some(text.as_str()));
        let again = Manifest::embed(&wasm, "name = \"x\"");
        assert_eq!(Manifest::appended(&again), Some("name = \"x\""));
        assert_eq!(Manifest::appended(&wasm[..wasm.len() - 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Manifest::appended(&bytes);
        }
    }
}
