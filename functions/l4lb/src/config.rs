//! The configuration, checked.

use std::net::IpAddr;

use serde::Deserialize;
use weir_sdk::config::mac;
use weir_sdk::flow::Hasher;
use weir_sdk::parse::protocol;

use crate::maglev::{self, Preference};

/// Entries of all tables together: 8 MiB.
const ENTRIES_MAX: usize = 1 << 22;

/// `[function.config]` of `l4lb`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Entries of Maglev's table, a prime.
    #[serde(default = "table")]
    pub table: usize,
    /// Connections at most.
    #[serde(default = "connections")]
    pub max_connections: usize,
    /// Seconds without a packet after which a connection of UDP is forgotten.
    #[serde(default = "idle")]
    pub idle: u32,
    /// The same for TCP; RFC 5382, REQ-5: 2 hours 4 minutes at least.
    #[serde(default = "idle_tcp")]
    pub idle_tcp: u32,
    /// What is balanced.
    pub services: Vec<ServiceConfig>,
}

const fn table() -> usize {
    65_537
}

const fn connections() -> usize {
    65_536
}

const fn idle() -> u32 {
    300
}

const fn idle_tcp() -> u32 {
    7440
}

/// How packets reach their backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By its address.
    #[default]
    Dnat,
    /// By its MAC; it answers by itself.
    L2,
}

/// A virtual address and its backends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Address that clients use.
    pub vip: IpAddr,
    /// `tcp` or `udp`.
    pub proto: String,
    /// Port; 0 for every port.
    #[serde(default)]
    pub port: u16,
    /// How packets reach their backend.
    #[serde(default)]
    pub mode: Mode,
    /// Who serves.
    pub backends: Vec<BackendConfig>,
}

/// Who serves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, if not the service's.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its MAC, for `mode = "l2"`.
    #[serde(default)]
    pub mac: Option<String>,
    /// Its share of new connections, relative to others.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it serves: if not, not even connections that it has stay there.
    #[serde(default = "yes")]
    pub healthy: bool,
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

/// A service as it is used.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) vip: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) mode: Mode,
    pub(crate) backends: Vec<Backend>,
    pub(crate) table: Vec<u16>,
}

/// A backend as it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    /// The same in every configuration that has this backend in this service.
    pub(crate) id: u32,
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) mac: [u8; 6],
    pub(crate) healthy: bool,
}

impl Config {
    /// Checks everything and fills the tables. Names are hashed with fixed keys, so that all
    /// instances everywhere choose alike.
    pub(crate) fn services(&self) -> Result<Vec<Service>, String> {
        if !maglev::is_prime(self.table) || self.table > 1 << 20 {
            return Err(format!(
                "config: table: {} is no prime below 1048576; 65537 suits up to 600 backends",
                self.table
            ));
        }
        if !(64..=1 << 22).contains(&self.max_connections) {
            return Err(format!(
                "config: max-connections: {}; allowed are 64 to 4194304",
                self.max_connections
            ));
        }
        for (key, seconds) in [("idle", self.idle), ("idle-tcp", self.idle_tcp)] {
            if seconds == 0 {
                return Err(format!("config: {key}: 0; allowed are 1 second and more"));
            }
        }
        if self.services.is_empty() || self.services.len() > 256 {
            return Err(format!("config: services: {}; allowed are 1 to 256", self.services.len()));
        }
        if self.services.len() * self.table > ENTRIES_MAX {
            return Err(format!(
                "config: {} services with tables of {} entries; allowed are {ENTRIES_MAX} entries in all: use a smaller table",
                self.services.len(),
                self.table
            ));
        }
        let all: usize = self.services.iter().map(|s| s.backends.len()).sum();
        if all > 1024 {
            return Err(format!("config: {all} backends; allowed are 1024"));
        }
        let mut services: Vec<Service> = Vec::new();
        for (n, service) in self.services.iter().enumerate() {
            let made = self.service(service).map_err(|e| format!("config: services[{n}]: {e}"))?;
            let twin = services
                .iter()
                .any(|s| (s.vip, s.protocol, s.port) == (made.vip, made.protocol, made.port));
            if twin {
                return Err(format!(
                    "config: services[{n}]: vip, proto and port are another's too"
                ));
            }
            services.push(made);
        }
        Ok(services)
    }

    fn service(&self, service: &ServiceConfig) -> Result<Service, String> {
        let protocol = match service.proto.as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            other => return Err(format!("proto: {other:?}; allowed are \"tcp\" and \"udp\"")),
        };
        if service.backends.len() > self.table {
            return Err(format!(
                "backends: {} are more than the table's {} entries, so that some would get nothing: use a larger `table`",
                service.backends.len(),
                self.table
            ));
        }
        let mut backends = Vec::new();
        let mut preferences = Vec::new();
        for (n, backend) in service.backends.iter().enumerate() {
            let wrong = |what: String| format!("backends[{n}]: {what}");
            if backend.ip.is_ipv4() != service.vip.is_ipv4() {
                return Err(wrong(format!("ip: {} is not of the vip's version of IP", backend.ip)));
            }
            if backend.port == Some(0) || backend.port.is_some() && service.port == 0 {
                let why = "a backend's port is 1 to 65535, and stays the client's in a service of every port";
                return Err(wrong(format!("port: {}; {why}", backend.port.unwrap_or(0))));
            }
            if backend.weight > 100 {
                return Err(wrong(format!("weight: {}; allowed are 0 to 100", backend.weight)));
            }
            let mac = match (&backend.mac, service.mode) {
                (Some(text), _) => mac(text).ok_or_else(|| {
                    wrong(format!("mac: {text:?}; expected is \"aa:bb:cc:dd:ee:ff\""))
                })?,
                (None, Mode::L2) => return Err(wrong("mac: needed for mode = \"l2\"".into())),
                (None, Mode::Dnat) => [0; 6],
            };
            let name = name(service, backend, protocol);
            let hash = |seed: u64| Hasher::new(seed).hash(&name);
            // Without weight it is drained: what it has stays.
            let weight = if backend.healthy { backend.weight } else { 0 };
            preferences.push(Preference::new((hash(1), hash(2)), self.table, weight));
            backends.push(Backend {
                // Even, so that none is `DIRECT`.
                id: hash(3) as u32 & !1,
                ip: backend.ip,
                port: backend.port,
                mac,
                healthy: backend.healthy,
            });
        }
        let table = maglev::populate(&preferences, self.table);
        Ok(Service {
            vip: service.vip,
            protocol,
            port: service.port,
            mode: service.mode,
            backends,
            table,
        })
    }
}

/// What a backend is known by: service and address.
fn name(service: &ServiceConfig, backend: &BackendConfig, protocol: u8) -> [u64; 5] {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let (vip, ip) = (number(service.vip), number(backend.ip));
    let port = backend.port.unwrap_or(service.port);
    let rest = u64::from(service.port) | u64::from(port) << 16 | u64::from(protocol) << 32;
    [vip as u64, (vip >> 64) as u64, ip as u64, (ip >> 64) as u64, rest]
}
