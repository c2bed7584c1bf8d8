//! `[[port]]` of `weir.toml`: where packets enter and leave.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::xdp::{self, PacketMatch, XdpMode, XdpPin};
use crate::{Name, Period};

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

    /// That of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Pcap, Self::Memory, Self::Xdp, Self::Dpdk].into_iter().find(|k| k.name() == name)
    }

    /// The keys that a port of this kind may have.
    pub(crate) fn keys(self) -> Vec<&'static str> {
        [&["name", "kind", "tenant", "kernel", "kernel-port"], self.own_keys()].concat()
    }

    /// Those that not all kinds have.
    const fn own_keys(self) -> &'static [&'static str] {
        match self {
            Self::Pcap => &["file", "output", "pace", "rounds"],
            Self::Memory => &["generate"],
            Self::Xdp => &[
                "interface",
                "queue",
                "queues",
                "mode",
                "pin",
                "busy-poll",
                "rx-ring",
                "tx-ring",
                "leave",
                "claim",
                "peer",
            ],
            Self::Dpdk => &[
                "device",
                "queues",
                "peer",
                "rx-descriptors",
                "tx-descriptors",
                "mtu",
                "promiscuous",
                "multicast",
                "checksum-offload",
                "idle",
            ],
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
    /// The TAP interface that is the port's way to the kernel's stack and back; made if it is not
    /// there. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Another port that is this one's way to the kernel's stack and back, in place of `kernel`:
    /// one with `peer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_port: Option<Name>,
    /// xdp, dpdk: the interface of this machine's kernel at the other end of the port's link, or a
    /// virtual function's: `vf:PF/NUMBER`. Such a port is another one's `kernel-port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// xdp: its queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// xdp: where the XDP program runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<XdpMode>,
    /// xdp: where the XDP program is pinned; on the bpffs at `/sys/fs/bpf`, if there is one, when
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<XdpPin>,
    /// xdp: how long the kernel may poll the device in one of our system calls; not at all if left
    /// out.
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
    /// The queues of its interface that an `xdp` port has.
    #[must_use]
    pub fn xdp_queues(&self) -> Range<u32> {
        let first = self.queue.unwrap_or(0);
        first..first.saturating_add(self.queues.map_or(1, u32::from))
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let given = [
            ("file", self.file.is_some()),
            ("output", self.output.is_some()),
            ("pace", self.pace.is_some()),
            ("rounds", self.rounds.is_some()),
            ("generate", self.generate.is_some()),
            ("interface", self.interface.is_some()),
            ("queue", self.queue.is_some()),
            ("mode", self.mode.is_some()),
            ("pin", self.pin.is_some()),
            ("busy-poll", self.busy_poll.is_some()),
            ("rx-ring", self.rx_ring.is_some()),
            ("tx-ring", self.tx_ring.is_some()),
            ("leave", !self.leave.is_empty()),
            ("claim", !self.claim.is_empty()),
            ("device", self.device.is_some()),
            ("queues", self.queues.is_some()),
            ("peer", self.peer.is_some()),
            ("rx-descriptors", self.rx_descriptors.is_some()),
            ("tx-descriptors", self.tx_descriptors.is_some()),
            ("mtu", self.mtu.is_some()),
            ("promiscuous", self.promiscuous.is_some()),
            ("multicast", self.multicast.is_some()),
            ("checksum-offload", self.checksum_offload.is_some()),
            ("idle", self.idle.is_some()),
        ];
        let own = self.kind.own_keys();
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !own.contains(key)) {
            let message = format!("a port of kind \"{}\" has no `{key}`", self.kind.name());
            let help = format!("allowed: {}", self.kind.keys().join(", "));
            return Err(Invalid::at(key, message).help(help));
        }
        if let Some(interface) = &self.kernel {
            check_interface("kernel", interface)?;
        }
        if let Some(interface) = self.peer.as_ref().filter(|peer| !peer.starts_with("vf:")) {
            check_interface("peer", interface)?;
        }
        if self.kernel_port.is_some() && self.kernel.is_some() {
            return Err(Invalid::at("kernel-port", "there are two ways to the kernel's stack")
                .help("keep one of `kernel` and `kernel-port`"));
        }
        if self.peer.is_some() && (self.kernel.is_some() || self.kernel_port.is_some()) {
            let key = if self.kernel.is_some() { "kernel" } else { "kernel-port" };
            return Err(Invalid::at(
                key,
                "the port is a way to the kernel's stack itself (`peer`)",
            )
            .help("put it into the table of the port by which packets come in from outside"));
        }
        let needs = |key: &str| {
            Err(Invalid::at(key, format!("a port of kind \"{}\" needs `{key}`", self.kind.name())))
        };
        match self.kind {
            PortKind::Pcap if self.file.is_none() && self.output.is_none() => {
                Err(Invalid::at("file", "a port of kind \"pcap\" needs `file`, `output`, or both")
                    .help("`file` is read, `output` is written"))
            }
            PortKind::Pcap if self.file.iter().zip(&self.output).any(|(a, b)| same_path(a, b)) => {
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
        /// Queues of an interface that the XDP program knows (`weir_xdp_layout::QUEUES`).
        const QUEUES: u32 = 64;
        let first = self.queue.unwrap_or(0);
        if first >= QUEUES {
            return Err(Invalid::at("queue", format!("`queue` is {first}"))
                .help(format!("allowed: 0 to {}", QUEUES - 1)));
        }
        let most = QUEUES - first;
        if let Some(queues) = self.queues.filter(|n| !(1..=most).contains(&u32::from(*n))) {
            return Err(Invalid::at("queues", format!("`queues` is {queues}"))
                .help(format!("allowed: 1 to {most}, from queue {first} on")));
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

/// Whether two paths lead to one file, as far as they say it: `./a` is `a`.
pub(crate) fn same_path(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(|path| path.components().filter(|part| *part != Component::CurDir));
    a.eq(b)
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
