//! Opening a port as the configuration has it, and what can be known of it before.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rustix::fs::Access;
use weir_kernel_port::TapDevice;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_port::pcap::{Pace, PcapConfig, PcapPort};
use weir_port::{Inspect, Port, PortError};
use weir_spec::{HostConfig, Invalid, PacketMatch, PortKind, XdpMode, XdpPin};
use weir_xdp::{Match, Mode, Pinning, XdpConfig, XdpPort};

/// A port that was opened; see [`Slot`](super::Slot).
pub(super) struct Opened {
    pub(super) ports: Vec<Box<dyn Port>>,
    pub(super) taps: Vec<TapDevice>,
    pub(super) kernel: Option<[u8; 6]>,
    pub(super) own: Option<[u8; 6]>,
    pub(super) inspectors: Vec<Arc<dyn Inspect>>,
}

impl Opened {
    pub(super) fn new(
        config: &weir_spec::Port,
        room_bytes: u32,
        lanes: usize,
        alone: bool,
    ) -> Result<Self> {
        let ports = open(config, room_bytes, lanes, alone)?;
        let (mut taps, mut kernel) = (Vec::new(), None);
        if let Some(tap) = &config.kernel {
            taps = open_taps(config, tap, lanes)?;
            kernel = taps.first().map(TapDevice::hardware_address).transpose()?;
        }
        let interface = config.interface.as_deref();
        let own = ports.first().and_then(|port| port.hardware_address());
        let own = own.or_else(|| interface.and_then(hardware_address));
        if config.kernel_port.is_some() {
            kernel = own;
        }
        let mut inspectors: Vec<_> = ports.iter().filter_map(|port| port.inspector()).collect();
        if config.kind == PortKind::Dpdk {
            // All queues are of one device.
            inspectors.truncate(1);
        }
        Ok(Self { ports, taps, kernel, own, inspectors })
    }
}

/// Which of the configuration's ports could not be opened, and why: what can be known without
/// opening a device, and while another host has them.
///
/// # Errors
/// What is wrong with the configuration, on whatever machine.
pub(crate) fn check(config: &HostConfig) -> Result<Vec<Invalid>, Invalid> {
    check_devices(&config.ports)?;
    check_captures(&config.ports)?;
    let room_bytes = room_bytes(config);
    let looked = config.ports.iter().enumerate();
    let away = looked.filter_map(|(place, port)| {
        let error = look(port, room_bytes).err()?;
        Some(located(port, place, &error))
    });
    Ok(away.collect())
}

/// Whether what a port needs is there, as far as that can be seen without touching it.
pub(super) fn look(config: &weir_spec::Port, room_bytes: u32) -> Result<()> {
    match config.kind {
        PortKind::Pcap => check_pcap(config),
        PortKind::Xdp => check_xdp(config, room_bytes),
        PortKind::Dpdk => look_dpdk(config.device.as_deref().unwrap_or_default()),
        PortKind::Memory => Ok(()),
    }
}

/// Whether DPDK could have the ports' devices on some machine, each for one port.
pub(super) fn check_devices(configs: &[weir_spec::Port]) -> Result<(), Invalid> {
    let mut taken = BTreeMap::new();
    for (place, config) in configs.iter().enumerate() {
        if config.kind != PortKind::Dpdk {
            continue;
        }
        let invalid = |key, error| {
            let message = format!("port {}: {error}", config.name);
            Err(Invalid::at(key, message).within_array("port", place))
        };
        if let Some(absent) = weir_dpdk::ABSENT {
            return invalid("kind", absent.to_owned());
        }
        // Of what is a virtual function here it is known where the host has found it.
        let device = config.device.as_deref().filter(|device| !device.starts_with("vf:"));
        match device.map(weir_dpdk::name).transpose() {
            Err(error) => return invalid("device", error),
            Ok(Some(device)) => {
                if let Some(other) = taken.insert(device.clone(), &config.name) {
                    let error = format!("the device {device} is in use by another port, {other}");
                    return invalid("device", error);
                }
            }
            Ok(None) => {}
        }
    }
    Ok(())
}

/// Whether no port would write over a capture that another one reads or writes, by whatever link.
pub(super) fn check_captures(configs: &[weir_spec::Port]) -> Result<(), Invalid> {
    let file = |path: &Option<PathBuf>| {
        let found = path.as_ref()?.metadata().ok().filter(Metadata::is_file)?;
        Some((found.dev(), found.ino()))
    };
    let files: Vec<_> = configs.iter().map(|port| (file(&port.file), file(&port.output))).collect();
    for (place, (_, output)) in files.iter().enumerate() {
        let same = |(other, (read, written)): &(usize, &(Option<_>, Option<_>))| {
            *other != place && (read == output || written == output)
        };
        let (Some(_), Some((other, _))) = (output, files.iter().enumerate().find(same)) else {
            continue;
        };
        let message = format!("its file is also that of port {}", configs[other].name);
        return Err(Invalid::at("output", message)
            .help("name another file: what is there would be overwritten")
            .within_array("port", place));
    }
    Ok(())
}

/// Bytes of a room of all pools.
pub(in super::super) fn room_bytes(config: &HostConfig) -> u32 {
    u32::try_from(config.pool.room.get()).unwrap_or(u32::MAX)
}

fn check_pcap(config: &weir_spec::Port) -> Result<()> {
    PcapPort::check(config.name.as_str(), &pcap(config))?;
    let Some(path) = &config.output else { return Ok(()) };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| PortError::Create { path: path.clone(), source: error.into() })?;
    Ok(())
}

fn check_xdp(config: &weir_spec::Port, room_bytes: u32) -> Result<()> {
    let mut xdp = xdp(config);
    if xdp.interface.starts_with("vf:") {
        // Its interface is there when the host has made it.
        return Ok(());
    }
    xdp.queue += u32::from(config.queues.unwrap_or(1).saturating_sub(1));
    XdpPort::look(&xdp, room_bytes).map_err(anyhow::Error::msg)
}

/// Why the port at this place cannot be opened, at the key that it is about.
pub(super) fn located(config: &weir_spec::Port, index: usize, error: &anyhow::Error) -> Invalid {
    let message = format!("port {}: {}", config.name, problem(error));
    let invalid = match (config.kind, error.downcast_ref()) {
        (PortKind::Xdp, _) => Invalid::at("interface", message),
        (PortKind::Pcap, Some(PortError::Create { .. })) => Invalid::at("output", message),
        (PortKind::Pcap, _) => Invalid::at("file", message),
        (PortKind::Dpdk, _) => Invalid::at("device", message),
        (PortKind::Memory, _) => Invalid::whole(message),
    };
    invalid.within_array("port", index)
}

/// What is wrong, for whoever names the port.
pub(super) fn problem(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(PortError::Configuration { problem, .. } | PortError::Device { problem, .. }) => {
            problem.clone()
        }
        // It has its cause in its words.
        Some(error) => error.to_string(),
        None => format!("{error:#}"),
    }
}

/// The kernel's interface that a port's device is or lies on, if there is one.
pub(in super::super) fn interface(config: &weir_spec::Port) -> Option<String> {
    match config.kind {
        PortKind::Xdp => config.interface.clone(),
        PortKind::Dpdk => weir_dpdk::interface(config.device.as_deref()?),
        PortKind::Pcap | PortKind::Memory => None,
    }
}

/// Whether a port's device is a virtual function.
pub(super) fn is_on_vf(config: &weir_spec::Port) -> bool {
    config.kind == PortKind::Dpdk && config.device.as_deref().is_some_and(is_vf)
}

/// Whether a PCI device is a virtual function.
fn is_vf(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or(device);
    Path::new("/sys/bus/pci/devices").join(address).join("physfn").exists()
}

/// DPDK must know all PCI devices when it starts. If it does not start, each of its ports says why.
pub(super) fn start_dpdk(configs: &[weir_spec::Port]) {
    let mut devices = dpdk_devices(configs).peekable();
    if devices.peek().is_some() {
        drop(weir_dpdk::start(devices));
    }
}

/// Whether there is such a device.
fn look_dpdk(device: &str) -> Result<()> {
    if device.starts_with("vf:") {
        // It is there when the host has found or made it.
        return Ok(());
    }
    weir_dpdk::look(device).map_err(anyhow::Error::msg)
}

/// The devices of ports that DPDK has.
pub(super) fn dpdk_devices(configs: &[weir_spec::Port]) -> impl Iterator<Item = &str> {
    let ports = configs.iter().filter(|config| config.kind == PortKind::Dpdk);
    ports.filter_map(|config| config.device.as_deref())
}

fn open_dpdk(
    config: &weir_spec::Port,
    room_bytes: u32,
    lanes: usize,
) -> Result<Vec<Box<dyn Port>>> {
    let dpdk = weir_dpdk::DpdkConfig {
        device: config.device.clone().unwrap_or_default(),
        queues: config.queues,
        rx_descriptors: config.rx_descriptors,
        tx_descriptors: config.tx_descriptors,
        mtu: config.mtu,
        promiscuous: config.promiscuous,
        multicast: config.multicast,
        checksum_offload: config.checksum_offload.unwrap_or(false),
        idle: config.idle.map(|idle| match idle {
            weir_spec::Idle::Poll => weir_dpdk::Idle::Poll,
            weir_spec::Idle::Sleep => weir_dpdk::Idle::Sleep,
        }),
        room_bytes,
    };
    let port = weir_dpdk::DpdkPort::open(config.name.as_str(), &dpdk)?;
    let ports = port.divided(lanes).into_iter();
    Ok(ports.map(|port| -> Box<dyn Port> { Box::new(port) }).collect())
}

/// Opens a port for so many lanes; whoever asks has seen that it has as many queues. `alone`: no
/// other port is on its interface.
pub(super) fn open(
    config: &weir_spec::Port,
    room_bytes: u32,
    lanes: usize,
    alone: bool,
) -> Result<Vec<Box<dyn Port>>> {
    Ok(match config.kind {
        PortKind::Pcap => {
            vec![Box::new(PcapPort::open(config.name.as_str(), &pcap(config))?)]
        }
        PortKind::Memory => open_memory(config, lanes)?,
        PortKind::Dpdk => open_dpdk(config, room_bytes, lanes)?,
        PortKind::Xdp => {
            (0..lanes).map(|lane| open_xdp(config, lane, alone)).collect::<Result<_>>()?
        }
    })
}

/// Opens the ways to the kernel beside a port's queues.
fn open_taps(config: &weir_spec::Port, tap: &str, queues: usize) -> Result<Vec<TapDevice>> {
    // What comes for the interface's own address is for the TAP device's.
    let mac = config.interface.as_deref().and_then(hardware_address);
    let opened = TapDevice::open(tap, mac, queues);
    opened.map_err(|error| anyhow::anyhow!("{}: {error}", refused_tap(tap, queues, error.kind())))
}

/// Why a way to the kernel cannot be had, and what to do.
fn refused_tap(tap: &str, queues: usize, kind: ErrorKind) -> String {
    let why = match kind {
        ErrorKind::InvalidInput if queues > 1 => {
            let anew = format!(
                "`ip link delete {tap}`, then `ip tuntap add dev {tap} mode tap multi_queue`"
            );
            format!(
                "it was made for one queue, and the port has {queues} ({anew}), or is no TAP interface"
            )
        }
        ErrorKind::InvalidInput => {
            "there is an interface of that name that is no TAP interface: choose another name"
                .to_owned()
        }
        ErrorKind::ResourceBusy => "another program has it".to_owned(),
        ErrorKind::PermissionDenied => "it needs the capability CAP_NET_ADMIN".to_owned(),
        ErrorKind::NotFound => "there is no /dev/net/tun".to_owned(),
        _ => "the kernel refuses it".to_owned(),
    };
    format!("the TAP interface {tap} (`kernel`) cannot be had: {why}")
}

/// An interface's address, if it has one.
pub(super) fn hardware_address(interface: &str) -> Option<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address")).ok()?;
    text.trim().parse::<weir_spec::MacAddress>().ok().map(weir_spec::MacAddress::get)
}

fn pcap(config: &weir_spec::Port) -> PcapConfig {
    let pace = match config.pace.unwrap_or_default() {
        weir_spec::Pace::Full => Pace::Full,
        weir_spec::Pace::Recorded => Pace::Recorded,
    };
    PcapConfig {
        input: config.file.clone(),
        output: config.output.clone(),
        pace,
        rounds: config.rounds.unwrap_or(1),
    }
}

/// Each lane generates its share of the flows.
fn open_memory(config: &weir_spec::Port, lanes: usize) -> Result<Vec<Box<dyn Port>>> {
    let generator = config.generate.as_ref().map(|generate| -> Result<_> {
        let templates = Templates::flows(Shape {
            flows: generate.flows,
            frame_bytes: generate.size as usize,
            protocol: Protocol::Udp,
        })?;
        let mut generator = GeneratorConfig::new(templates);
        generator.count = generate.count;
        generator.rate = generate.rate;
        Ok(generator)
    });
    let generators = match generator.transpose()? {
        Some(generator) => generator.divided(lanes).into_iter().map(Some).collect(),
        None => vec![None; lanes],
    };
    let port = |generator| -> Box<dyn Port> {
        Box::new(MemoryPort::new(config.name.as_str(), generator, Keep::Nothing))
    };
    Ok(generators.into_iter().map(port).collect())
}

fn open_xdp(config: &weir_spec::Port, lane: usize, alone: bool) -> Result<Box<dyn Port>> {
    let queue = queue_of(config, u16::try_from(lane)?, alone);
    Ok(Box::new(XdpPort::open(config.name.as_str(), queue)?))
}

/// What one of an `xdp` port's queues is to be like, counted from its first.
pub(in super::super) fn queue_of(config: &weir_spec::Port, lane: u16, alone: bool) -> XdpConfig {
    let mut xdp = xdp(config);
    xdp.first_queue = Some(xdp.queue);
    xdp.alone = alone;
    xdp.queue += u32::from(lane);
    xdp
}

pub(super) fn xdp(config: &weir_spec::Port) -> XdpConfig {
    let matches = |matches: &[PacketMatch]| {
        let of = |of: &PacketMatch| Match {
            ethertype: of.ethertype.map(weir_spec::EtherType::get),
            vlan: of.vlan,
            destination: of.destination.map(weir_spec::MacAddress::get),
        };
        matches.iter().map(of).collect()
    };
    let mut xdp = XdpConfig::new(config.interface.as_deref().unwrap_or_default());
    xdp.queue = config.queue.unwrap_or(0);
    xdp.mode = match config.mode.unwrap_or_default() {
        XdpMode::Auto => Mode::Auto,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    };
    xdp.busy_poll =
        config.busy_poll.map(|period| u32::try_from(period.get().as_micros()).unwrap_or(u32::MAX));
    xdp.rx_ring = config.rx_ring.unwrap_or(xdp.rx_ring);
    xdp.tx_ring = config.tx_ring.unwrap_or(xdp.tx_ring);
    xdp.pin = match &config.pin {
        None => Pinning::Auto,
        Some(XdpPin::At(path)) => Pinning::At(path.clone()),
        Some(XdpPin::Never) => Pinning::Never,
    };
    xdp.leave = matches(&config.leave);
    xdp.claim = matches(&config.claim);
    xdp
}
