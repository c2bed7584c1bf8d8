//! `weir.toml`: the host's configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::invalid::{Check, Invalid};
use crate::listener::{Gateway, Listener};
use crate::nic::{self, Naming, Nic};
use crate::xdp::{self, PacketMatch, XdpMode, XdpPin};
use crate::{Name, Period, Size};

/// The whole file; an empty one is a host with a socket, a store and no ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostConfig {
    /// Threads that run chains.
    #[serde(default)]
    pub workers: Workers,
    /// How to be reached.
    #[serde(default)]
    pub api: Api,
    /// Where to keep things.
    #[serde(default)]
    pub store: Store,
    /// Memory for packets, for each chain.
    #[serde(default)]
    pub pool: Pool,
    /// How new versions are watched.
    #[serde(default)]
    pub rollout: Rollout,
    /// Virtual functions of network devices.
    #[serde(rename = "nic", default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Where packets enter and leave.
    #[serde(rename = "port", default)]
    pub ports: Vec<Port>,
    /// The threads that serve listeners.
    #[serde(default)]
    pub gateway: Gateway,
    /// Where connections are accepted.
    #[serde(rename = "listener", default)]
    pub listeners: Vec<Listener>,
}

/// `[workers]`: threads that run chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Workers {
    /// How many; one for each of `cores`, or 1, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// Cores to pin them to, one each; not pinned if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u16>,
}

impl Workers {
    /// How many there are.
    #[must_use]
    pub fn number(&self) -> usize {
        self.count.map_or(self.cores.len().max(1), usize::from)
    }

    fn check(&self) -> Result<(), Invalid> {
        if let Some(count) = self.count.filter(|n| !(1..=1024).contains(n)) {
            return Err(Invalid::at("count", format!("{count} workers")).help("allowed: 1 to 1024"));
        }
        if !self.cores.is_empty() && self.number() != self.cores.len() {
            let message = format!("{} cores for {} workers", self.cores.len(), self.number());
            return Err(Invalid::at("cores", message).help("name one core for each worker"));
        }
        let twice = (1..self.cores.len()).find(|i| self.cores[..*i].contains(&self.cores[*i]));
        if let Some(index) = twice {
            let message = format!("core {} is named twice", self.cores[index]);
            return Err(Invalid::whole(message)
                .help("name one core for each worker")
                .within_array("cores", index));
        }
        Ok(())
    }
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Api {
    /// Unix socket, for the user that runs the host.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// TCP address, for holders of a token.
    #[serde(
        default,
        deserialize_with = "crate::text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub listen: Option<SocketAddr>,
    /// Tokens; more can be made with the API.
    #[serde(rename = "token", default)]
    pub tokens: Vec<Token>,
    /// Largest upload.
    #[serde(default = "default_upload")]
    pub max_upload: Size,
    /// Time for one request.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
    /// Time for one upload to compile.
    #[serde(default = "default_compile_timeout")]
    pub compile_timeout: Period,
}

fn default_socket() -> PathBuf {
    "/run/weir/api.sock".into()
}

const fn default_upload() -> Size {
    Size::mebibytes(64)
}

const fn default_timeout() -> Period {
    Period::milliseconds(120_000)
}

const fn default_compile_timeout() -> Period {
    Period::milliseconds(60_000)
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: default_socket(),
            listen: None,
            tokens: Vec::new(),
            max_upload: default_upload(),
            timeout: default_timeout(),
            compile_timeout: default_compile_timeout(),
        }
    }
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    /// Everything, for every tenant.
    Admin,
    /// Change what belongs to its tenant.
    Operator,
    /// See what belongs to its tenant.
    Viewer,
}

/// `[[api.token]]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    /// For logs.
    pub name: Name,
    /// The token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A file that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What its holder may do.
    pub role: Role,
    /// Whose things; needed unless the role is `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
}

/// Where a token's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource<'a> {
    /// Here.
    Inline(&'a str),
    /// In this file.
    File(&'a std::path::Path),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// Characters of a token at least: 16 random ones cannot be guessed.
const TOKEN_MIN: usize = 16;

impl Token {
    /// Where its text is.
    #[must_use]
    pub fn source(&self) -> Option<TokenSource<'_>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => Some(TokenSource::Inline(text)),
            (None, Some(path)) => Some(TokenSource::File(path)),
            (None, None) => None,
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        match (&self.token, &self.token_file) {
            (None, None) => {
                return Err(Invalid::whole("the token has no text")
                    .help("add `token-file = \"FILE\"` (better) or `token = \"TEXT\"`"));
            }
            (Some(_), Some(_)) => {
                return Err(Invalid::at("token", "`token` and `token-file` exclude each other")
                    .help("keep one of them"));
            }
            (Some(text), None) if text.len() < TOKEN_MIN => {
                return Err(Invalid::at(
                    "token",
                    format!("the token has {} characters", text.len()),
                )
                .help(format!("allowed: at least {TOKEN_MIN}, better 32 random ones")));
            }
            _ => {}
        }
        match (self.role, &self.tenant) {
            (Role::Admin, Some(_)) => {
                Err(Invalid::at("tenant", "an admin's token is for every tenant")
                    .help("leave `tenant` out, or use `role = \"operator\"`"))
            }
            (Role::Operator | Role::Viewer, None) => {
                Err(Invalid::at("role", "the token has a role for one tenant, but no tenant")
                    .help("add `tenant = \"NAME\"`"))
            }
            _ => Ok(()),
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Store {
    /// Directory; made if it is not there.
    #[serde(default = "default_store")]
    pub path: PathBuf,
}

fn default_store() -> PathBuf {
    "/var/lib/weir".into()
}

impl Default for Store {
    fn default() -> Self {
        Self { path: default_store() }
    }
}

/// `[pool]`: memory for packets, for each chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pool {
    /// Packets it holds.
    #[serde(default = "default_rooms")]
    pub rooms: u32,
    /// Bytes for each, 128 of them headroom; a power of two.
    #[serde(default = "default_room")]
    pub room: Size,
    /// Whether to take huge pages where there are some. They are committed at once.
    #[serde(default)]
    pub huge_pages: bool,
}

const fn default_rooms() -> u32 {
    4096
}

const fn default_room() -> Size {
    Size::bytes(2048)
}

impl Default for Pool {
    fn default() -> Self {
        Self { rooms: default_rooms(), room: default_room(), huge_pages: false }
    }
}

/// Bytes of a room in front of a packet.
const HEADROOM: u64 = 128;

impl Pool {
    /// Whether frames of a generator fit into rooms.
    fn check_fits(&self, frame: u32) -> Result<(), Invalid> {
        let longest = self.room.get() - HEADROOM;
        if u64::from(frame) <= longest {
            return Ok(());
        }
        let message = format!("frames of {frame} bytes do not fit into rooms of {}", self.room);
        let help = format!("allowed here: 60 to {longest}; or raise `room` in [pool]");
        Err(Invalid::at("size", message).help(help))
    }
}

/// `[rollout]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rollout {
    /// How long after a swap a fault of the new version brings the old one back.
    #[serde(default = "default_watch")]
    pub watch: Period,
}

const fn default_watch() -> Period {
    Period::milliseconds(10_000)
}

impl Default for Rollout {
    fn default() -> Self {
        Self { watch: default_watch() }
    }
}

/// Kinds of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PortKind {
    /// Capture files.
    Pcap,
    /// A generator and a sink.
    Memory,
    /// AF_XDP on an interface.
    Xdp,
    /// A DPDK device.
    Dpdk,
}

impl PortKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Memory => "memory",
            Self::Xdp => "xdp",
            Self::Dpdk => "dpdk",
        }
    }
}

/// How fast a capture is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// As fast as packets are taken.
    #[default]
    Full,
    /// As it was captured.
    Recorded,
}

/// What a `dpdk` port does while nothing comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Its worker asks it again and again, and uses its core.
    Poll,
    /// Its worker sleeps.
    Sleep,
}

/// What a `memory` port generates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Generate {
    /// Bytes of a frame.
    #[serde(default = "default_frame")]
    pub size: u32,
    /// Flows (UDP, IPv4).
    #[serde(default = "default_flows")]
    pub flows: u32,
    /// Packets a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Packets after which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Generate {
    fn check(&self) -> Result<(), Invalid> {
        if !(60..=9216).contains(&self.size) {
            return Err(Invalid::at("size", format!("frames of {} bytes", self.size))
                .help("allowed: 60 to 9216"));
        }
        if !(1..=1_000_000).contains(&self.flows) {
            return Err(
                Invalid::at("flows", format!("{} flows", self.flows)).help("allowed: 1 to 1000000")
            );
        }
        for (key, value) in [("rate", self.rate), ("count", self.count)] {
            if value == Some(0) {
                return Err(Invalid::at(key, "nothing would be generated")
                    .help("allowed: 1 and more; leave it out for no limit"));
            }
        }
        Ok(())
    }
}

const fn default_frame() -> u32 {
    64
}

const fn default_flows() -> u32 {
    10_000
}

/// `[[port]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Port {
    /// Its name, for chains.
    pub name: Name,
    /// Its kind, on which it depends which other keys it has.
    pub kind: PortKind,
    /// The tenant whose chains may use it.
    #[serde(default = "Name::default_tenant")]
    pub tenant: Name,
    /// pcap: the capture to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// pcap: the capture to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// pcap: how fast it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// pcap: how often it is read, 0 for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
    /// memory: what comes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<Generate>,
    /// xdp: the interface, or a virtual function's: `vf:PF/NUMBER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The TAP interface that is the port's way to the kernel's stack and back; made if it is not there. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// xdp: its queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// xdp: where the XDP program runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<XdpMode>,
    /// xdp: where the XDP program is pinned; on the bpffs at `/sys/fs/bpf`, if there is one, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<XdpPin>,
    /// xdp: how long the kernel may poll the device in one of our system calls; not at all if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_poll: Option<Period>,
    /// xdp: entries of the receive ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_ring: Option<u32>,
    /// xdp: entries of the transmit ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_ring: Option<u32>,
    /// xdp: packets that stay with the kernel, whatever `claim` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave: Vec<PacketMatch>,
    /// xdp: packets that the port takes; all, if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim: Vec<PacketMatch>,
    /// dpdk: a PCI address, a virtual function (`vf:PF/NUMBER`) or a vdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// xdp, dpdk: receive queues, and as many transmit queues. An xdp port's begin with `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// dpdk: descriptors of each receive queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_descriptors: Option<u16>,
    /// dpdk: descriptors of each transmit queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_descriptors: Option<u16>,
    /// dpdk: longest IP packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// dpdk: whether frames for any address are received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promiscuous: Option<bool>,
    /// dpdk: whether frames for any multicast address are received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicast: Option<bool>,
    /// dpdk: whether the device verifies and fills in checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_offload: Option<bool>,
    /// dpdk: what it does while nothing comes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}

impl Port {
    fn check(&self) -> Result<(), Invalid> {
        let keys = [
            ("file", self.file.is_some(), PortKind::Pcap),
            ("output", self.output.is_some(), PortKind::Pcap),
            ("pace", self.pace.is_some(), PortKind::Pcap),
            ("rounds", self.rounds.is_some(), PortKind::Pcap),
            ("generate", self.generate.is_some(), PortKind::Memory),
            ("interface", self.interface.is_some(), PortKind::Xdp),
            ("queue", self.queue.is_some(), PortKind::Xdp),
            ("mode", self.mode.is_some(), PortKind::Xdp),
            ("pin", self.pin.is_some(), PortKind::Xdp),
            ("busy-poll", self.busy_poll.is_some(), PortKind::Xdp),
            ("rx-ring", self.rx_ring.is_some(), PortKind::Xdp),
            ("tx-ring", self.tx_ring.is_some(), PortKind::Xdp),
            ("leave", !self.leave.is_empty(), PortKind::Xdp),
            ("claim", !self.claim.is_empty(), PortKind::Xdp),
            ("device", self.device.is_some(), PortKind::Dpdk),
            ("queues", self.queues.is_some(), PortKind::Dpdk),
            ("rx-descriptors", self.rx_descriptors.is_some(), PortKind::Dpdk),
            ("tx-descriptors", self.tx_descriptors.is_some(), PortKind::Dpdk),
            ("mtu", self.mtu.is_some(), PortKind::Dpdk),
            ("promiscuous", self.promiscuous.is_some(), PortKind::Dpdk),
            ("multicast", self.multicast.is_some(), PortKind::Dpdk),
            ("checksum-offload", self.checksum_offload.is_some(), PortKind::Dpdk),
            ("idle", self.idle.is_some(), PortKind::Dpdk),
        ];
        for (key, given, kind) in keys {
            let of = |key: &str, kind| {
                kind == self.kind || (key == "queues" && self.kind == PortKind::Xdp)
            };
            if given && !of(key, kind) {
                let own: Vec<_> = keys.iter().filter(|k| of(k.0, k.2)).map(|k| k.0).collect();
                let message = format!("a port of kind \"{}\" has no `{key}`", self.kind.name());
                let help = format!("allowed: name, kind, tenant, kernel, {}", own.join(", "));
                return Err(Invalid::at(key, message).help(help));
            }
        }
        if let Some(interface) = &self.kernel {
            check_interface("kernel", interface)?;
        }
        let needs = |key: &str| {
            Err(Invalid::at(key, format!("a port of kind \"{}\" needs `{key}`", self.kind.name())))
        };
        match self.kind {
            PortKind::Pcap if self.file.is_none() && self.output.is_none() => {
                Err(Invalid::at("file", "a port of kind \"pcap\" needs `file`, `output`, or both")
                    .help("`file` is read, `output` is written"))
            }
            PortKind::Pcap if self.file.is_some() && self.file == self.output => {
                Err(Invalid::at("output", "`output` is the file that is read")
                    .help("name another file: this one would be overwritten while it is read"))
            }
            PortKind::Xdp => match &self.interface {
                None => needs("interface"),
                Some(interface) => self.check_xdp(interface),
            },
            PortKind::Dpdk if self.device.is_none() => needs("device"),
            PortKind::Dpdk => self.check_dpdk(),
            _ => self
                .generate
                .as_ref()
                .map_or(Ok(()), |g| g.check().map_err(|e| e.within("generate"))),
        }
    }
}

impl Port {
    /// What no device can do; the rest is for the device to say.
    fn check_dpdk(&self) -> Result<(), Invalid> {
        let numbers = [
            ("queues", self.queues, 1, 1024),
            ("rx-descriptors", self.rx_descriptors, 32, 32_768),
            ("tx-descriptors", self.tx_descriptors, 32, 32_768),
            // RFC 791, section 3.1: every network carries 68 bytes.
            ("mtu", self.mtu, 68, 65_000),
        ];
        for (key, given, least, most) in numbers {
            if let Some(n) = given.filter(|n| !(least..=most).contains(n)) {
                return Err(Invalid::at(key, format!("`{key}` is {n}"))
                    .help(format!("allowed: {least} to {most}")));
            }
        }
        Ok(())
    }

    fn check_xdp(&self, interface: &str) -> Result<(), Invalid> {
        if !interface.starts_with("vf:") {
            check_interface("interface", interface)?;
        }
        /// Queues of an interface at most.
        const QUEUES_MAX: u16 = 1024;
        if let Some(queues) = self.queues.filter(|n| !(1..=QUEUES_MAX).contains(n)) {
            return Err(Invalid::at("queues", format!("`queues` is {queues}"))
                .help(format!("allowed: 1 to {QUEUES_MAX}")));
        }
        if let Some(period) =
            self.busy_poll.filter(|p| !(1..=10_000).contains(&p.get().as_micros()))
        {
            return Err(Invalid::at("busy-poll", format!("{period} is out of range"))
                .help("allowed: 1us to 10ms; 20us suits most devices"));
        }
        xdp::check_ring("rx-ring", self.rx_ring)?;
        xdp::check_ring("tx-ring", self.tx_ring)?;
        xdp::check_matches(&self.leave, &self.claim)
    }
}

/// Whether there could be an interface of this name.
pub(crate) fn check_interface(key: &str, interface: &str) -> Result<(), Invalid> {
    /// Bytes of an interface's name at most (`IFNAMSIZ`, with a zero behind it).
    const NAME_MAX: usize = 15;
    let wrong = interface.is_empty()
        || interface.len() > NAME_MAX
        || interface.bytes().any(|b| b == b'/' || b.is_ascii_whitespace() || b == 0);
    if wrong {
        return Err(Invalid::at(key, format!("{interface:?} is not an interface's name")).help(
            format!(
                "allowed: 1 to {NAME_MAX} characters without `/` and spaces, as `ip link` shows it"
            ),
        ));
    }
    Ok(())
}

impl HostConfig {
    /// Makes relative paths relative to this directory.
    pub fn resolve_paths(&mut self, directory: &Path) {
        let own = [&mut self.api.socket, &mut self.store.path];
        let tokens = self.api.tokens.iter_mut().filter_map(|token| token.token_file.as_mut());
        let ports = self.ports.iter_mut().flat_map(|port| [&mut port.file, &mut port.output]);
        let listeners = self.listeners.iter_mut().flat_map(Listener::paths);
        for path in own.into_iter().chain(tokens).chain(ports.flatten()).chain(listeners) {
            *path = directory.join(&*path);
        }
    }
}

impl HostConfig {
    /// Where devices are named that may be virtual functions.
    fn namings(&self) -> impl Iterator<Item = Naming<'_>> {
        let ports = self.ports.iter().enumerate().filter_map(|(place, port)| {
            let (key, text) = match port.kind {
                PortKind::Dpdk => ("device", port.device.as_deref()?),
                PortKind::Xdp => ("interface", port.interface.as_deref()?),
                PortKind::Pcap | PortKind::Memory => return None,
            };
            Some(Naming { table: "port", place, key, text })
        });
        let listeners = self.listeners.iter().enumerate().filter_map(|(place, listener)| {
            let text = listener.device.as_deref()?;
            Some(Naming { table: "listener", place, key: "device", text })
        });
        ports.chain(listeners)
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a Name>) -> Result<(), Invalid> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(Invalid::at("name", format!("there are two {what}s named \"{name}\""))
                .help("names are unique")
                .within_array(what, index));
        }
    }
    Ok(())
}

impl Check for HostConfig {
    fn check(&self) -> Result<(), Invalid> {
        self.workers.check().map_err(|e| e.within("workers"))?;
        for (index, token) in self.api.tokens.iter().enumerate() {
            token.check().map_err(|e| e.within_array("token", index).within("api"))?;
        }
        unique("token", self.api.tokens.iter().map(|t| &t.name)).map_err(|e| e.within("api"))?;
        let upload = self.api.max_upload;
        if upload.get() < 1024 || upload > Size::mebibytes(64) {
            return Err(Invalid::at("max-upload", format!("{upload} is out of range"))
                .help("allowed: 1KiB to 64MiB")
                .within("api"));
        }
        if self.api.timeout < Period::milliseconds(1000) {
            return Err(Invalid::at("timeout", format!("{} is too short", self.api.timeout))
                .help("allowed: 1s and more")
                .within("api"));
        }
        let compile = self.api.compile_timeout;
        if compile < Period::milliseconds(1000) || compile > Period::milliseconds(600_000) {
            return Err(Invalid::at("compile-timeout", format!("{compile} is out of range"))
                .help("allowed: 1s to 10m")
                .within("api"));
        }
        let watch = self.rollout.watch;
        if watch < Period::milliseconds(10_000) || watch > Period::milliseconds(3_600_000) {
            return Err(Invalid::at("watch", format!("{watch} is out of range"))
                .help("allowed: 10s to 1h")
                .within("rollout"));
        }
        let room = self.pool.room.get();
        if !room.is_power_of_two() || !(512..=65_536).contains(&room) {
            return Err(Invalid::at("room", format!("rooms of {}", self.pool.room))
                .help("allowed: a power of two from 512B to 64KiB")
                .within("pool"));
        }
        let rooms = self.pool.rooms;
        if !(64..=1 << 20).contains(&rooms) || u64::from(rooms) * room > 1 << 30 {
            return Err(Invalid::at("rooms", format!("{rooms} rooms of {}", self.pool.room))
                .help("allowed: 64 to 1048576, and 1GiB in all")
                .within("pool"));
        }
        for (index, port) in self.ports.iter().enumerate() {
            port.check().map_err(|e| e.within_array("port", index))?;
            if let Some(generate) = &port.generate {
                self.pool
                    .check_fits(generate.size)
                    .map_err(|e| e.within("generate").within_array("port", index))?;
            }
        }
        self.gateway.check().map_err(|e| e.within("gateway"))?;
        for (index, listener) in self.listeners.iter().enumerate() {
            listener.check().map_err(|e| e.within_array("listener", index))?;
        }
        for (index, nic) in self.nics.iter().enumerate() {
            nic.check().map_err(|e| e.within_array("nic", index))?;
            if self.nics[..index].iter().any(|other| other.pf == nic.pf) {
                return Err(Invalid::at("pf", format!("{} is named twice", nic.pf))
                    .help("put both tables into one")
                    .within_array("nic", index));
            }
        }
        nic::check_names(&self.nics, self.namings())?;
        unique("port", self.ports.iter().map(|p| &p.name))?;
        unique("listener", self.listeners.iter().map(|l| &l.name))
    }
}
