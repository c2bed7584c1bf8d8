//! `weir.toml`: the host's configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::Api;
use crate::invalid::{Check, Invalid};
use crate::listener::{Gateway, Listener};
use crate::nic::{self, Naming, Nic, VfName};
use crate::port::{Port, PortKind, same_path};
use crate::quota::Quota;
use crate::text::counted;
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
    /// Memory for packets.
    #[serde(default)]
    pub pool: Pool,
    /// How new versions are watched.
    #[serde(default)]
    pub rollout: Rollout,
    /// What each tenant may keep.
    #[serde(default)]
    pub quota: Quota,
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
            let message = format!(
                "{} for {}",
                counted(self.cores.len(), "core"),
                counted(self.number(), "worker")
            );
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

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Store {
    /// Directory; made if it is not there.
    #[serde(default = "default_store")]
    pub path: PathBuf,
    /// Bytes of compiled code kept there.
    #[serde(default = "default_compiled")]
    pub compiled: Size,
}

fn default_store() -> PathBuf {
    "/var/lib/weir".into()
}

const fn default_compiled() -> Size {
    Size::mebibytes(2048)
}

impl Default for Store {
    fn default() -> Self {
        Self { path: default_store(), compiled: default_compiled() }
    }
}

/// `[pool]`: memory for packets; chains of a tenant between the same ports have one together.
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

    /// Whether each queue of an interface is one `xdp` port's.
    fn check_xdp_queues(&self) -> Result<(), Invalid> {
        for (index, port) in self.ports.iter().enumerate() {
            let mine = port.xdp_queues();
            let other = self.ports[..index].iter().find(|other| {
                let theirs = other.xdp_queues();
                port.interface.is_some()
                    && other.interface == port.interface
                    && mine.start < theirs.end
                    && theirs.start < mine.end
            });
            if let (Some(other), Some(interface)) = (other, &port.interface) {
                let queue = mine.start.max(other.xdp_queues().start);
                let message = format!("port {} has queue {queue} of {interface}, too", other.name);
                return Err(Invalid::at("interface", message)
                    .help("give each port its own queues (`queue`, `queues`)")
                    .within_array("port", index));
            }
        }
        Ok(())
    }

    /// Whether no port writes over what another one reads or writes, as far as the paths say it.
    fn check_captures(&self) -> Result<(), Invalid> {
        for (index, port) in self.ports.iter().enumerate() {
            // Devices, of which `/dev/null` is one, are there for many.
            let written = port.output.as_ref().filter(|output| !output.starts_with("/dev"));
            let Some(output) = written else { continue };
            let others = self.ports.iter().enumerate().filter(|(other, _)| *other != index);
            for (_, other) in others {
                let what = if other.file.as_ref().is_some_and(|file| same_path(file, output)) {
                    "reads"
                } else if other.output.as_ref().is_some_and(|theirs| same_path(theirs, output)) {
                    "writes"
                } else {
                    continue;
                };
                let message = format!("{} is what port {} {what}", output.display(), other.name);
                return Err(Invalid::at("output", message)
                    .help("name another file: what is there would be overwritten")
                    .within_array("port", index));
            }
        }
        Ok(())
    }

    /// Whether ways to the kernel that are ports of their own are such, and one port's each.
    fn check_kernel_ports(&self) -> Result<(), Invalid> {
        let named = |port: &Port| port.kernel_port.clone();
        for (index, port) in self.ports.iter().enumerate() {
            let Some(name) = &port.kernel_port else { continue };
            let fail = |message: String, help: String| {
                Err(Invalid::at("kernel-port", message).help(help).within_array("port", index))
            };
            let with_peer = self.ports.iter().filter(|other| other.peer.is_some());
            match self.ports.iter().find(|other| other.name == *name) {
                Some(other) if other.peer.is_none() => {
                    return fail(
                        format!("port {name} is no way to the kernel's stack"),
                        "give it `peer`: the kernel's interface at the other end of its link"
                            .to_owned(),
                    );
                }
                Some(other) if other.tenant != port.tenant => {
                    return fail(
                        format!("port {name} is tenant {}'s", other.tenant),
                        format!("name a port of tenant {}", port.tenant),
                    );
                }
                Some(_) => {}
                None => {
                    let all: Vec<_> = with_peer.map(|port| port.name.to_string()).collect();
                    let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                    return fail(
                        format!("there is no port {name}"),
                        format!("ports with `peer` are: {all}"),
                    );
                }
            }
            if let Some(other) = self.ports[..index].iter().find(|p| named(p) == named(port)) {
                return fail(
                    format!("port {name} is the way to the kernel of port {} already", other.name),
                    "each port needs one of its own".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Whether the ends of links between virtual functions are in one VLAN, as far as the file says
    /// it.
    fn check_peers(&self) -> Result<(), Invalid> {
        for (index, port) in self.ports.iter().enumerate() {
            let own = if port.kind == PortKind::Dpdk { &port.device } else { &port.interface };
            let [Some(own), Some(peer)] =
                [own, &port.peer].map(|text| self.vlan_of(text.as_ref()?))
            else {
                continue;
            };
            if own != peer {
                let says = |vlan: u16| if vlan == 0 { "none".to_owned() } else { vlan.to_string() };
                let message = format!(
                    "the port's VLAN is {}, that of its `peer` {}: no frame gets from one to the other",
                    says(own),
                    says(peer)
                );
                return Err(Invalid::at("peer", message)
                    .help("give both the same `vlan` in [[nic.vf]]")
                    .within_array("port", index));
            }
        }
        Ok(())
    }

    /// The VLAN that a virtual function is to be in, by the name that ports have for it; none: it
    /// stays as it is. 0: in none.
    #[must_use]
    pub fn vlan_of(&self, name: &str) -> Option<u16> {
        let name = VfName::of(name).ok()??;
        let nic = self.nics.iter().find(|nic| nic.pf == name.pf)?;
        nic.functions.iter().find(|vf| vf.index == name.index)?.vlan
    }

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
        let peers = self.ports.iter().enumerate().filter_map(|(place, port)| {
            Some(Naming { table: "port", place, key: "peer", text: port.peer.as_deref()? })
        });
        let listeners = self.listeners.iter().enumerate().filter_map(|(place, listener)| {
            let text = listener.device.as_deref()?;
            Some(Naming { table: "listener", place, key: "device", text })
        });
        ports.chain(peers).chain(listeners)
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
        self.quota.check().map_err(|e| e.within("quota"))?;
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
            for other in &self.listeners[..index] {
                listener.check_beside(other).map_err(|e| e.within_array("listener", index))?;
            }
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
        self.check_xdp_queues()?;
        self.check_captures()?;
        self.check_kernel_ports()?;
        self.check_peers()?;
        unique("listener", self.listeners.iter().map(|l| &l.name))
    }
}
