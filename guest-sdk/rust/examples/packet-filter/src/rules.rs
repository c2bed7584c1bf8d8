//! The rules: as they are written, and as they are compared.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de::Error as _};
use weir_sdk::config::prefix;

use crate::frame::{NO_PORT, Rest};

const RULES_MAX: usize = 64;

/// `[function.config]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    default: Action,
    #[serde(default)]
    rules: Vec<Written>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    action: Action,
    proto: Option<Protocol>,
    src: Option<Prefix>,
    dst: Option<Prefix>,
    sport: Option<Ports>,
    dport: Option<Ports>,
}

#[derive(Clone, Copy, Debug)]
struct Protocol(u8);

#[derive(Clone, Copy, Debug)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Clone, Copy, Debug)]
struct Ports(u16, u16);

/// A number, or text that says more.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("allowed are tcp, udp, icmp, icmpv6 and 0 to 255");
        let number = match NumberOrText::deserialize(from).map_err(|_| wrong())? {
            NumberOrText::Number(number) => u8::try_from(number).map_err(|_| wrong())?,
            NumberOrText::Text(name) => match name.as_str() {
                "icmp" => 1,
                "tcp" => 6,
                "udp" => 17,
                "icmpv6" => 58,
                _ => return Err(wrong()),
            },
        };
        Ok(Self(number))
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (address, length) = prefix(&text).map_err(D::Error::custom)?;
        Ok(Self { address, length })
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong =
            || D::Error::custom("allowed are a port such as 80 and a range such as 1000-2000");
        let (low, high) = match NumberOrText::deserialize(from).map_err(|_| wrong())? {
            NumberOrText::Number(port) => (port.to_string(), None),
            NumberOrText::Text(text) => match text.split_once('-') {
                Some((low, high)) => (low.to_owned(), Some(high.to_owned())),
                None => (text, None),
            },
        };
        let low: u16 = low.parse().map_err(|_| wrong())?;
        let high = high.map_or(Ok(low), |high| high.parse()).map_err(|_| wrong())?;
        if low > high {
            return Err(wrong());
        }
        Ok(Self(low, high))
    }
}

/// What rules of both families look at.
#[derive(Clone, Copy, Debug)]
struct Common {
    allow: bool,
    protocol: u32,
    /// 0 for any protocol.
    protocol_mask: u32,
    sport: [u32; 2],
    dport: [u32; 2],
}

impl Common {
    fn new(written: &Written) -> Self {
        let any = [0, NO_PORT];
        let ports = |ports: Option<Ports>| ports.map_or(any, |Ports(a, b)| [a.into(), b.into()]);
        Self {
            allow: written.action == Action::Allow,
            protocol: written.proto.map_or(0, |protocol| protocol.0.into()),
            protocol_mask: if written.proto.is_some() { 0xff } else { 0 },
            sport: ports(written.sport),
            dport: ports(written.dport),
        }
    }

    #[inline]
    fn matches(&self, rest: Rest) -> bool {
        (rest.protocol ^ self.protocol) & self.protocol_mask == 0
            && rest.dport.wrapping_sub(self.dport[0]) <= self.dport[1] - self.dport[0]
            && rest.sport.wrapping_sub(self.sport[0]) <= self.sport[1] - self.sport[0]
    }
}

/// Addresses and masks are source and destination, one after the other.
#[derive(Clone, Copy, Debug)]
struct Rule<A> {
    address: A,
    mask: A,
    common: Common,
}

/// The rules of each family, in order.
pub(crate) struct Rules {
    v4: Vec<Rule<[u32; 2]>>,
    v6: Vec<Rule<[u64; 4]>>,
    default: bool,
}

impl Rules {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        if config.rules.len() > RULES_MAX {
            return Err(format!("rules: {} are too many, {RULES_MAX} at most", config.rules.len()));
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for written in &config.rules {
            let common = Common::new(written);
            let (mut a4, mut m4, mut a6, mut m6) = ([0; 2], [0; 2], [0; 4], [0; 4]);
            let (mut of_v4, mut of_v6) = (true, true);
            for (place, prefix) in [written.src, written.dst].into_iter().enumerate() {
                let Some(Prefix { address, length }) = prefix else { continue };
                let length = u32::from(length);
                match address {
                    IpAddr::V4(address) => {
                        of_v6 = false;
                        m4[place] = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                        a4[place] = u32::from(address) & m4[place];
                    }
                    IpAddr::V6(address) => {
                        of_v4 = false;
                        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
                        let address = u128::from(address) & mask;
                        for (at, shift) in [(2 * place, 64), (2 * place + 1, 0)] {
                            m6[at] = (mask >> shift) as u64;
                            a6[at] = (address >> shift) as u64;
                        }
                    }
                }
            }
            if of_v4 {
                v4.push(Rule { address: a4, mask: m4, common });
            }
            if of_v6 {
                v6.push(Rule { address: a6, mask: m6, common });
            }
        }
        Ok(Self { v4, v6, default: config.default == Action::Allow })
    }

    /// What the first rule that matches says.
    #[inline]
    pub(crate) fn allow_v4(&self, packet: [u32; 2], rest: Rest) -> bool {
        for rule in &self.v4 {
            let differ = (packet[0] ^ rule.address[0]) & rule.mask[0]
                | (packet[1] ^ rule.address[1]) & rule.mask[1];
            if differ == 0 && rule.common.matches(rest) {
                return rule.common.allow;
            }
        }
        self.default
    }

    /// As [`Rules::allow_v4`].
    #[inline]
    pub(crate) fn allow_v6(&self, packet: [u64; 4], rest: Rest) -> bool {
        for rule in &self.v6 {
            let differ = (0..4).fold(0, |differ, word| {
                differ | (packet[word] ^ rule.address[word]) & rule.mask[word]
            });
            if differ == 0 && rule.common.matches(rest) {
                return rule.common.allow;
            }
        }
        self.default
    }
}
