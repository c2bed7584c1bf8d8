//! Where an upstream is.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address, or a name with a port, which is looked up again and again: all addresses that it has
/// are its members.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name, in lower case.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What is neither an address nor a name with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither an address nor a name with a port from 1 to 65535: write it like \"127.0.0.1:9000\" or \"api.example:9000\""
)]
pub struct NoTarget(String);

impl FromStr for Target {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let no = || NoTarget(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(no()) } else { Ok(Self::Address(address)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(no)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(no)?;
        if !is_host(host) {
            return Err(no());
        }
        Ok(Self::Name { host: host.to_ascii_lowercase(), port })
    }
}

/// Whether this is a host's name (RFC 1123 section 2.1; and underscores, which are in use). Its
/// last label is not a number: that is an address with a mistake in it.
fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl TryFrom<String> for Target {
    type Error = NoTarget;

    fn try_from(text: String) -> Result<Self, NoTarget> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_read_and_written() {
        for text in
            ["127.0.0.1:80", "[::1]:8080", "api.example:9000", "my_app:1", "a-b.example.:443"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert!(matches!("[::1]:1".parse(), Ok(Target::Address(_))));
        let name = Target::Name { host: "api.example".into(), port: 80 };
        assert_eq!("API.Example:80".parse(), Ok(name));
    }

    #[test]
    fn what_is_neither_is_refused() {
        let long = format!("{}:80", "a.".repeat(128));
        for text in [
            "",
            "a",
            "a:",
            ":80",
            "a:0",
            "127.0.0.1:0",
            "[::1]:0",
            "a:65536",
            "a b:80",
            "-a:80",
            "a-:80",
            "a..b:80",
            "10.0.0.300:80",
            "10.0.1:80",
            "::1:80",
            "http://a:80",
            "a/b:80",
            &long,
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
