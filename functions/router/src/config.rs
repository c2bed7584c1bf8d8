//! The configuration, checked and compiled.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;
use weir_sdk::config::{mac, prefix};
use weir_sdk::lpm::Lpm;
use weir_sdk::prelude::Setup;

/// Smallest MTU that IPv4 allows (RFC 791, section 3.2).
const MTU_MIN: u32 = 68;
/// Smallest MTU that IPv6 allows (RFC 8200, section 5).
pub(crate) const MTU_MIN_V6: u32 = 1280;

/// `[function.config]` of `router`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The router's own addresses.
    #[serde(default)]
    pub addresses: Vec<AddressConfig>,
    /// Who is on the links; each is also a route to itself.
    #[serde(default)]
    pub neighbours: Vec<NeighbourConfig>,
    /// Routes, each with its hop.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// Hops by name, for `table`.
    #[serde(default)]
    pub hops: BTreeMap<String, HopConfig>,
    /// Many routes: prefix and name of a hop.
    #[serde(default)]
    pub table: Vec<(String, String)>,
    /// ICMP errors in a second, at most; 0 for none at all.
    #[serde(default = "icmp_errors_per_second")]
    pub icmp_errors_per_second: u32,
    /// Of these, in answer to one sender, at most; a tenth if left out.
    #[serde(default)]
    pub icmp_errors_per_source: Option<u32>,
}

/// As Linux has it (`icmp_msgs_per_sec`).
const fn icmp_errors_per_second() -> u32 {
    1000
}

/// An address of the router.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressConfig {
    /// The address.
    pub ip: IpAddr,
    /// The MAC it is answered for with, and which packets that leave by its port come from.
    pub mac: String,
    /// Name of the port that it is on; ICMP errors about packets from there have it as source.
    #[serde(default)]
    pub port: Option<String>,
}

/// Somebody on a link.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighbourConfig {
    /// The address.
    pub ip: IpAddr,
    /// Its MAC.
    pub mac: String,
    /// Name of the port that it is behind; packets go on in the chain if left out.
    #[serde(default)]
    pub port: Option<String>,
}

/// One route.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteConfig {
    /// `"ADDRESS/LENGTH"`, or an address.
    pub prefix: String,
    /// As [`HopConfig::via`].
    #[serde(default, alias = "next-hop")]
    pub via: Option<IpAddr>,
    /// As [`HopConfig::mac`].
    #[serde(default)]
    pub mac: Option<String>,
    /// As [`HopConfig::source_mac`].
    #[serde(default)]
    pub source_mac: Option<String>,
    /// As [`HopConfig::port`].
    #[serde(default)]
    pub port: Option<String>,
    /// As [`HopConfig::mtu`].
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// Where packets go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HopConfig {
    /// Address of a neighbour, from which `mac` and `port` are taken if they are left out.
    #[serde(default, alias = "next-hop", alias = "ip")]
    pub via: Option<IpAddr>,
    /// MAC of the hop.
    #[serde(default)]
    pub mac: Option<String>,
    /// The router's MAC on the way there; that of its first address on `port` if left out.
    #[serde(default)]
    pub source_mac: Option<String>,
    /// Name of the port; the packet goes on in the chain if there is none.
    #[serde(default)]
    pub port: Option<String>,
    /// Bytes of an IP packet that get through; any number if left out.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl From<RouteConfig> for HopConfig {
    fn from(route: RouteConfig) -> Self {
        let RouteConfig { via, mac, source_mac, port, mtu, .. } = route;
        Self { via, mac, source_mac, port, mtu }
    }
}

/// An address as it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) mac: [u8; 6],
    pub(crate) port: Option<u16>,
}

/// A hop as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hop {
    /// Destination and source MAC, as they stand in a frame.
    pub(crate) macs: [u8; 12],
    pub(crate) port: Option<u16>,
    pub(crate) mtu: u32,
}

/// Everything, compiled.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) addresses: Vec<Address>,
    pub(crate) hops: Vec<Hop>,
    /// Places in `hops`, or [`Routes::OWN`].
    pub(crate) v4: Lpm<u32>,
    pub(crate) v6: Lpm<u128>,
}

impl Routes {
    /// In place of a hop: the address is the router's own.
    pub(crate) const OWN: u32 = weir_sdk::lpm::VALUE_MAX;
}

/// What is collected while the configuration is compiled.
struct Compiler<'a> {
    setup: &'a Setup,
    addresses: Vec<Address>,
    neighbours: HashMap<IpAddr, (&'a str, Option<&'a str>)>,
    hops: Vec<Hop>,
    /// Routes through the same hop share it.
    places: HashMap<Hop, u32>,
    v4: Vec<(u32, u8, u32)>,
    v6: Vec<(u128, u8, u32)>,
}

/// ICMP errors in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorRates {
    /// To all together; 0 for none at all.
    pub(crate) all: u32,
    /// To one sender, at least 1.
    pub(crate) source: u32,
}

impl Config {
    /// How many ICMP errors may be sent.
    pub(crate) fn error_rates(&self) -> Result<ErrorRates, String> {
        let all = self.icmp_errors_per_second;
        let source = self.icmp_errors_per_source.unwrap_or((all / 10).max(1));
        if source == 0 {
            return Err(
                "config: icmp-errors-per-source: 0; allowed are 1 and more (for no errors at all, icmp-errors-per-second = 0)"
                    .to_owned(),
            );
        }
        Ok(ErrorRates { all, source })
    }

    /// Resolves names, neighbours and ports, and builds the tables. Of two routes with the same
    /// prefix the later one counts; `routes` come after `table`, and both after `neighbours`.
    pub(crate) fn compile(&self, setup: &Setup) -> Result<Routes, String> {
        let mut compiler = Compiler {
            setup,
            addresses: Vec::new(),
            neighbours: HashMap::new(),
            hops: Vec::new(),
            places: HashMap::new(),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        for (n, address) in self.addresses.iter().enumerate() {
            compiler.address(address).map_err(|e| format!("config: addresses[{n}]: {e}"))?;
        }
        for (n, neighbour) in self.neighbours.iter().enumerate() {
            compiler.neighbour(neighbour).map_err(|e| format!("config: neighbours[{n}]: {e}"))?;
        }
        let mut names = HashMap::new();
        for (name, hop) in &self.hops {
            let place = compiler.hop(hop).map_err(|e| format!("config: hops.{name}: {e}"))?;
            names.insert(name.as_str(), place);
        }
        for (n, (text, hop)) in self.table.iter().enumerate() {
            let place = names.get(hop.as_str()).copied();
            let added = place.ok_or_else(|| format!("there is no hop {hop:?} in hops"));
            added
                .and_then(|place| compiler.route(prefix(text)?, place))
                .map_err(|e| format!("config: table[{n}]: {e}"))?;
        }
        for (n, route) in self.routes.iter().enumerate() {
            let place = compiler.hop(&route.clone().into());
            place
                .and_then(|place| compiler.route(prefix(&route.prefix)?, place))
                .map_err(|e| format!("config: routes[{n}]: {e}"))?;
        }
        compiler.finish()
    }
}

impl<'a> Compiler<'a> {
    fn address(&mut self, config: &AddressConfig) -> Result<(), String> {
        let port = self.port(config.port.as_deref())?;
        self.addresses.push(Address { ip: config.ip, mac: parse_mac(&config.mac)?, port });
        Ok(())
    }

    fn neighbour(&mut self, config: &'a NeighbourConfig) -> Result<(), String> {
        let known = (config.mac.as_str(), config.port.as_deref());
        if self.neighbours.insert(config.ip, known).is_some() {
            return Err(format!("ip: {} is in the list already", config.ip));
        }
        let place = self.hop(&HopConfig { via: Some(config.ip), ..HopConfig::default() })?;
        self.route((config.ip, if config.ip.is_ipv4() { 32 } else { 128 }), place)
    }

    fn port(&self, name: Option<&str>) -> Result<Option<u16>, String> {
        name.map(|name| self.setup.port(name).map_err(|e| format!("port: {e}"))).transpose()
    }

    /// The place of a hop.
    fn hop(&mut self, config: &HopConfig) -> Result<u32, String> {
        let neighbour = config.via.and_then(|via| self.neighbours.get(&via)).copied();
        if let (Some(via), None, None) = (config.via, neighbour, &config.port)
            && config.mac.is_some()
        {
            return Err(format!(
                "via: {via} is not among neighbours, which would give the port: list it there, say `port`, or leave `via` out"
            ));
        }
        let mac =
            config.mac.as_deref().or(neighbour.map(|(mac, _)| mac)).ok_or_else(
                || match config.via {
                    Some(via) => format!("via: {via} is not among neighbours, and there is no mac"),
                    None => "mac: needed, or a neighbour's address as via".to_owned(),
                },
            )?;
        let name = config.port.as_deref().or(neighbour.and_then(|(_, port)| port));
        let port = self.port(name)?;
        let own = |address: &&Address| port.is_none() || address.port == port;
        let source = match &config.source_mac {
            Some(mac) => parse_mac(mac)?,
            None => self.addresses.iter().find(own).map(|a| a.mac).ok_or_else(|| {
                let place = name.map_or(String::new(), |name| format!(" on port `{name}`"));
                format!("source-mac: needed, since none of addresses is{place}")
            })?,
        };
        if let Some(mtu) = config.mtu.filter(|mtu| *mtu < MTU_MIN) {
            return Err(format!("mtu: {mtu}; allowed are {MTU_MIN} and more"));
        }
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&parse_mac(mac)?);
        macs[6..].copy_from_slice(&source);
        let hop = Hop { macs, port, mtu: config.mtu.unwrap_or(u32::MAX) };
        let next = u32::try_from(self.hops.len()).map_err(|_| "too many hops".to_owned())?;
        Ok(*self.places.entry(hop).or_insert_with(|| {
            self.hops.push(hop);
            next
        }))
    }

    fn route(&mut self, (address, length): (IpAddr, u8), place: u32) -> Result<(), String> {
        let mtu = self.hops[place as usize].mtu;
        match address {
            IpAddr::V4(address) => self.v4.push((address.into(), length, place)),
            IpAddr::V6(_) if mtu < MTU_MIN_V6 => {
                return Err(format!(
                    "the hop's mtu is {mtu}; IPv6 needs {MTU_MIN_V6} at least (RFC 8200, section 5)"
                ));
            }
            IpAddr::V6(address) => self.v6.push((address.into(), length, place)),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Routes, String> {
        // Last, so that no route hides them.
        for address in &self.addresses {
            match address.ip {
                IpAddr::V4(ip) => self.v4.push((ip.into(), 32, Routes::OWN)),
                IpAddr::V6(ip) => self.v6.push((ip.into(), 128, Routes::OWN)),
            }
        }
        let built = |e: weir_sdk::lpm::Error| format!("config: table: {e}");
        Ok(Routes {
            addresses: self.addresses,
            hops: self.hops,
            v4: Lpm::build(self.v4).map_err(built)?,
            v6: Lpm::build(self.v6).map_err(built)?,
        })
    }
}

/// A MAC of one station: a frame for a group has more than one receiver, and none comes from one.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let mac = mac(text)
        .ok_or_else(|| format!("{text:?} is no MAC; expected is \"aa:bb:cc:dd:ee:ff\""))?;
    if mac[0] & 1 != 0 {
        return Err(format!("{text:?} is the MAC of a group, not of a host"));
    }
    Ok(mac)
}
