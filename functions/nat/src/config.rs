//! The configuration, and what is wrong with one.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use weir_sdk::config::{decimal, prefix};

/// `[function.config]` of `nat`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Addresses that inside hosts appear under.
    pub external: Vec<Ipv4Addr>,
    /// What is translated; the private addresses of RFC 1918 and the shared ones of RFC 6598 if
    /// left out.
    #[serde(default = "private")]
    pub internal: Vec<String>,
    /// Ports to give out, `"FIRST-LAST"`.
    #[serde(default = "ports")]
    pub ports: String,
    /// External ports that an inside host may have, of each protocol (RFC 6888, REQ-4).
    #[serde(default = "max_ports_per_host")]
    pub max_ports_per_host: u16,
    /// Flows at most.
    #[serde(default = "max_flows")]
    pub max_flows: usize,
    /// Whether inside hosts reach each other by their external addresses (RFC 4787, REQ-9).
    #[serde(default = "yes")]
    pub hairpin: bool,
    /// Who may send to a mapped port (RFC 4787, section 5).
    #[serde(default)]
    pub filtering: Filtering,
    /// What happens to packets to an external address that belong to no mapping.
    #[serde(default)]
    pub unmatched_inbound: Unmatched,
    /// Ports that lead inside for good.
    #[serde(default)]
    pub forward: Vec<Forward>,
    /// Seconds without a packet after which a flow ends.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// RFC 4787, section 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Only whom the inside host has sent to, address and port.
    #[default]
    AddressAndPortDependent,
}

/// For packets that belong to no mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unmatched {
    /// They are dropped.
    #[default]
    Drop,
    /// They pass as they are.
    Pass,
}

/// A static port forward.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Port on the first external address.
    pub port: u16,
    /// Inside address and port, `"10.0.0.5:80"`.
    pub to: std::net::SocketAddrV4,
    /// VLANs of the inside, the outer one first, two at most; if left out, those that a packet is
    /// in.
    #[serde(default)]
    pub vlans: Vec<u16>,
}

/// Seconds. The defaults are what the RFCs ask for at least.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Timeouts {
    /// RFC 5382, REQ-5: 2 hours 4 minutes.
    pub tcp_established: u32,
    /// RFC 5382, REQ-5: 4 minutes; half-open and closing connections.
    pub tcp_transitory: u32,
    /// RFC 4787, REQ-5: 5 minutes.
    pub udp: u32,
    /// RFC 5508, REQ-2: 60 seconds.
    pub icmp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_established: 7440, tcp_transitory: 240, udp: 300, icmp: 60 }
    }
}

fn private() -> Vec<String> {
    ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"].map(String::from).to_vec()
}

fn ports() -> String {
    "1024-65535".into()
}

/// No limit.
const fn max_ports_per_host() -> u16 {
    u16::MAX
}

const fn max_flows() -> usize {
    65_536
}

const fn yes() -> bool {
    true
}

/// The first number that no VLAN has (IEEE 802.1Q, section 9.6).
const VLAN_END: u16 = 4095;
/// Most seconds after which a flow ends: a year.
const LONGEST: u32 = 31_536_000;

impl Config {
    /// Checks what is no more than numbers and addresses.
    ///
    /// # Errors
    /// Names the key and says what is allowed.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.external.is_empty() || self.external.len() > 255 {
            return Err(format!(
                "config: external: there are {} addresses; allowed are 1 to 255",
                self.external.len()
            ));
        }
        for (n, address) in self.external.iter().enumerate() {
            check_host(*address).map_err(|error| format!("config: external[{n}]: {error}"))?;
            // Each has ports of its own: one endpoint would be given to two hosts.
            if self.external[..n].contains(address) {
                return Err(format!("config: external[{n}]: {address} is in the list already"));
            }
        }
        if !(16..=1 << 22).contains(&self.max_flows) {
            return Err(format!(
                "config: max-flows: {}; allowed are 16 to 4194304",
                self.max_flows
            ));
        }
        if self.max_ports_per_host == 0 {
            return Err("config: max-ports-per-host: 0; allowed are 1 to 65535".to_owned());
        }
        for (n, forward) in self.forward.iter().enumerate() {
            check_host(*forward.to.ip())
                .map_err(|error| format!("config: forward[{n}].to: {error}"))?;
            if forward.port == 0 || forward.to.port() == 0 {
                let key = if forward.port == 0 { "port" } else { "to" };
                return Err(format!("config: forward[{n}].{key}: no packet is for port 0"));
            }
            if forward.vlans.len() > 2 || !forward.vlans.iter().all(|v| (1..VLAN_END).contains(v)) {
                return Err(format!(
                    "config: forward[{n}].vlans: {:?}; allowed are two at most, 1 to 4094, the outer one first",
                    forward.vlans
                ));
            }
        }
        let Timeouts { tcp_established, tcp_transitory, udp, icmp } = self.timeouts;
        for (key, seconds) in [
            ("tcp-established", tcp_established),
            ("tcp-transitory", tcp_transitory),
            ("udp", udp),
            ("icmp", icmp),
        ] {
            if !(1..=LONGEST).contains(&seconds) {
                return Err(format!(
                    "config: timeouts.{key}: {seconds}; allowed are 1 to {LONGEST} seconds"
                ));
            }
        }
        Ok(())
    }

    /// Refuses forwards to addresses that are not translated: their answers would leave as they
    /// are.
    ///
    /// # Errors
    /// Names the key and says what is allowed.
    pub(crate) fn check_forwards(&self, internal: &[Prefix]) -> Result<(), String> {
        let outside = |forward: &Forward| {
            !internal.iter().any(|prefix| prefix.contains((*forward.to.ip()).into()))
        };
        match self.forward.iter().enumerate().find(|(_, forward)| outside(forward)) {
            None => Ok(()),
            Some((n, forward)) => Err(format!(
                "config: forward[{n}].to: {} is in no prefix of `internal`, so that its answers would not be translated: add one",
                forward.to.ip()
            )),
        }
    }
}

/// Refuses what is no single host's address.
fn check_host(address: Ipv4Addr) -> Result<(), String> {
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Err(format!("{address} is no host's address"));
    }
    Ok(())
}

/// An IPv4 prefix: address and mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// As they lie in a packet.
    address: u32,
    mask: u32,
}

impl Prefix {
    /// Reads `"10.0.0.0/8"`, or an address.
    ///
    /// # Errors
    /// Says what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, length) =
            prefix(text).map_err(|error| format!("config: internal: {error}"))?;
        let IpAddr::V4(address) = address else {
            return Err(format!("config: internal: \"{text}\" is no prefix of IPv4"));
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let address = u32::from(address);
        Ok(Self { address: address.to_be(), mask: mask.to_be() })
    }

    /// Whether an address lies within.
    #[must_use]
    #[inline]
    pub(crate) fn contains(self, address: u32) -> bool {
        address.to_be() & self.mask == self.address
    }
}

/// Reads `"FIRST-LAST"`.
///
/// # Errors
/// Says what is allowed.
pub(crate) fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('-').and_then(|(first, last)| {
        Some((decimal::<u16>(first.trim())?, decimal::<u16>(last.trim())?))
    });
    match parsed {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(format!(
            "config: ports: {text:?} is no range: allowed is \"FIRST-LAST\", 1 to 65535"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_wrong_ones_explained() {
        let ten = Prefix::parse("10.0.0.0/8").unwrap();
        assert!(ten.contains(0x0aff_ffff) && !ten.contains(0x0b00_0000));
        assert!(Prefix::parse("0.0.0.0/0").unwrap().contains(u32::MAX));
        assert!(Prefix::parse("10.0.0.1/8").unwrap_err().contains("behind its length"));
        let one = Prefix::parse("10.0.0.1").unwrap();
        assert!(one.contains(0x0a00_0001) && !one.contains(0x0a00_0002));
        assert!(Prefix::parse("2001:db8::/32").unwrap_err().contains("no prefix of IPv4"));
        assert!(Prefix::parse("10.0.0.0/33").unwrap_err().contains("10.0.0.0/33"));
        assert!(parse_ports("2000-1000").unwrap_err().contains("2000-1000"));
        assert_eq!(parse_ports("1024-65535"), Ok((1024, 65535)));
    }
}
