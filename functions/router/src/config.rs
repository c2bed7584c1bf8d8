//! The configuration, checked and compiled.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;
use weir_sdk::lpm::Lpm;
use weir_sdk::prelude::Setup;

/// `[function.config]` of `router`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The router's own addresses.
    #[serde(default)]
    pub addresses: Vec<AddressConfig>,
    /// Where packets go, by name.
    pub hops: BTreeMap<String, HopConfig>,
    /// Prefix and name of a hop.
    pub table: Vec<(String, String)>,
}

/// An address of the router.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressConfig {
    /// The address.
    pub ip: IpAddr,
    /// The MAC it is answered for with.
    pub mac: String,
    /// Name of the port that it is on; ICMP errors about packets from there have it as source.
    #[serde(default)]
    pub port: Option<String>,
}

/// A neighbour that packets are sent to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HopConfig {
    /// Its MAC.
    pub mac: String,
    /// The router's MAC on the way there.
    pub source_mac: String,
    /// Name of the port; the packet goes on in the chain if left out.
    #[serde(default)]
    pub port: Option<String>,
    /// Bytes of an IP packet that get through.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// An address as it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) mac: [u8; 6],
    pub(crate) port: Option<u16>,
}

/// A hop as it is used.
#[derive(Clone, Copy, Debug)]
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
    pub(crate) v4: Lpm<u32>,
    pub(crate) v6: Lpm<u128>,
}

impl Config {
    pub(crate) fn compile(self, setup: &Setup) -> Result<Routes, String> {
        let mut addresses = Vec::new();
        for (n, address) in self.addresses.iter().enumerate() {
            let wrong = |e: String| format!("config: addresses[{n}]: {e}");
            let port = address.port.as_deref().map(|p| setup.port(p)).transpose().map_err(wrong)?;
            addresses.push(Address { ip: address.ip, mac: mac(&address.mac).map_err(wrong)?, port });
        }
        let mut hops = Vec::new();
        let mut names = HashMap::new();
        for (name, hop) in &self.hops {
            let wrong = |e: String| format!("config: hops.{name}: {e}");
            let mut macs = [0; 12];
            macs[..6].copy_from_slice(&mac(&hop.mac).map_err(wrong)?);
            macs[6..].copy_from_slice(&mac(&hop.source_mac).map_err(wrong)?);
            let port = hop.port.as_deref().map(|p| setup.port(p)).transpose().map_err(wrong)?;
            if hop.mtu.is_some_and(|mtu| mtu < 68) {
                return Err(wrong(format!("mtu: {}; allowed are 68 and more", hop.mtu.unwrap_or(0))));
            }
            names.insert(name.as_str(), hops.len() as u32);
            hops.push(Hop { macs, port, mtu: hop.mtu.unwrap_or(u32::MAX) });
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (n, (prefix, hop)) in self.table.iter().enumerate() {
            let wrong = |e: String| format!("config: table[{n}]: {e}");
            let hop = *names
                .get(hop.as_str())
                .ok_or_else(|| wrong(format!("there is no hop {hop:?} in hops")))?;
            match parse_prefix(prefix).map_err(wrong)? {
                (IpAddr::V4(address), length) => v4.push((u32::from(address), length, hop)),
                (IpAddr::V6(address), length) => v6.push((u128::from(address), length, hop)),
            }
        }
        let built = |e: weir_sdk::lpm::Error| format!("config: table: {e}");
        Ok(Routes {
            addresses,
            hops,
            v4: Lpm::build(v4).map_err(built)?,
            v6: Lpm::build(v6).map_err(built)?,
        })
    }
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text:?} is no prefix; expected is ADDRESS/LENGTH");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length: u8 = length.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if length > most {
        return Err(format!("{text:?}: the length is above {most}"));
    }
    Ok((address, length))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let fine = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| part.len() == 2);
        part.and_then(|part| u8::from_str_radix(part, 16).ok()).is_some_and(|b| {
            *byte = b;
            true
        })
    });
    if fine && parts.next().is_none() {
        Ok(mac)
    } else {
        Err(format!("{text:?} is no MAC; expected is \"aa:bb:cc:dd:ee:ff\""))
    }
}
