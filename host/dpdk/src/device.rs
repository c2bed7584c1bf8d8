//! A device: adding it, what it can do, setting it up, how it is, taking it away.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;
use weir_port::{Details, Inspect};

use crate::address::Address;
use crate::kernel_drops::KernelDrops;
use crate::sockets::{self, Socket};
use crate::{interface, log};

/// Kernel drivers that leave a PCI device to DPDK, or share it (the last two). Those of uio would
/// have it write to physical addresses, and it is given addresses of the process.
const USABLE_DRIVERS: [&str; 3] = ["vfio-pci", "mlx5_core", "mlx4_core"];
/// Drivers that need frames to lie in their mempool's own memory: the first makes its objects the
/// kernel's umem, the second tells its peer only of DPDK's memory, the others receive only into
/// memory that they have found behind the mempool's objects.
const COPYING_DRIVERS: [&str; 4] = ["net_af_xdp", "net_virtio_user", "mlx5_pci", "net_mlx4"];
/// Drivers that need to be root, or to have CAP_NET_ADMIN and CAP_NET_RAW.
const PRIVILEGED_DRIVERS: [&str; 3] = ["net_tap", "net_af_packet", "net_af_xdp"];

/// A device that was added, and is taken away when dropped or closed.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) address: Address,
    /// DPDK's number of its port.
    pub(crate) number: u16,
    pub(crate) info: sys::Info,
    driver: String,
    bus: CString,
    name: CString,
    /// Written by DPDK when the device goes away ([`sys::REMOVED`]) or was reset ([`sys::RESET`]).
    fate: Box<AtomicU8>,
    /// Facts that the port found out.
    facts: Mutex<Vec<(&'static str, String)>>,
    started: AtomicBool,
    kernel_drops: Option<KernelDrops>,
    /// AF_XDP sockets that the driver opened, and their queues.
    xdp_sockets: Mutex<Vec<(u16, Socket)>>,
    /// How it was at last, once it is closed.
    last: Mutex<Option<Details>>,
    /// The number of the interface that it lies on.
    index: Option<u32>,
    claim: Claim,
}

impl Device {
    /// Adds it. DPDK runs.
    pub(crate) fn add(address: Address) -> Result<Self, String> {
        check(&address)?;
        let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
        let (bus, name) = (text(address.bus())?, text(&address.name)?);
        let arguments = text(&address.arguments)?;
        let mut number = 0;
        let claim = Claim::of(&address)?;
        let turn = turn();
        log::forget();
        // Before the driver looks for it: of one that comes between the two it is told that it is
        // another one.
        let index = on_interface(&address).and_then(interface::index);
        // SAFETY: DPDK runs, by the contract of `add`; `turn` makes this one thread at a time; the
        // texts are `CString`s.
        let added = unsafe {
            sys::weir_dpdk_probe(bus.as_ptr(), name.as_ptr(), arguments.as_ptr(), &raw mut number)
        };
        if added < 0 {
            return Err(format!(
                "the device {address} cannot be had: {}{}",
                log::explain(added),
                hint(&address)
            ));
        }
        drop(turn);
        // SAFETY: integers, for which zero is valid.
        let mut info: sys::Info = unsafe { std::mem::zeroed() };
        // SAFETY: [C]: the device was opened above, and nobody else knows of it yet.
        let told = unsafe { sys::weir_dpdk_info(number, &raw mut info) };
        // SAFETY: the shim ends the text with a zero, and zeroes are an empty one.
        let driver = unsafe { CStr::from_ptr(info.driver.as_ptr()) }.to_string_lossy().into_owned();
        let kernel_drops = on_interface(&address).map(|name| KernelDrops::of(name, &driver));
        let device = Self {
            address,
            number,
            info,
            driver,
            bus,
            name,
            fate: Box::default(),
            facts: Mutex::default(),
            started: AtomicBool::new(false),
            kernel_drops,
            xdp_sockets: Mutex::default(),
            last: Mutex::default(),
            index,
            claim,
        };
        device.did("say what it can do", told)?;
        // SAFETY: [C]: the device is open; the flag is atomic, zero, and lives in a box until
        // `close` has unwatched it.
        let watched = unsafe { sys::weir_dpdk_watch(number, device.fate.as_ptr()) };
        device.did("be watched", watched)?;
        Ok(device)
    }

    /// The driver's name.
    pub(crate) fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether frames must be copied between the pool and memory of the driver's.
    pub(crate) fn copies(&self) -> bool {
        COPYING_DRIVERS.contains(&self.driver.as_str())
    }

    /// Whether it works no more: it went away, or was reset.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.fate.load(Relaxed) != 0
    }

    /// Whether it went away.
    pub(crate) fn is_removed(&self) -> bool {
        self.fate.load(Relaxed) == sys::REMOVED
    }

    /// Why it works no more. Asks whether it went away, which DPDK does not always say by itself.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Some(gone) = self.lost_interface() {
            return Some(gone);
        }
        // SAFETY: [C]: a port of the device asks, within its gate if there are several, so nobody
        // closes it meanwhile.
        let removed = self.is_removed() || unsafe { sys::weir_dpdk_is_removed(self.number) };
        removed.then(|| self.removed()).or_else(|| self.told())
    }

    /// That the interface which it lies on is gone, if it is.
    fn lost_interface(&self) -> Option<String> {
        let name = self.interface()?;
        let why = match interface::index(name) {
            index if index == self.index => return None,
            None => "is gone",
            Some(_) => "is another one than before",
        };
        Some(format!("the interface {name} of its device {} {why}", self.address))
    }

    fn removed(&self) -> String {
        format!("its device {} was removed", self.address)
    }

    /// Why it works no more, as far as DPDK says it by itself.
    fn told(&self) -> Option<String> {
        match self.fate.load(Relaxed) {
            0 => None,
            sys::RESET => Some(format!(
                "its device {} was reset, by the driver of its physical function or by its own, and has to be set up anew: remove the \
                 chain, and apply it again",
                self.address
            )),
            _ => Some(self.removed()),
        }
    }

    /// The kernel's interface that it lies on.
    pub(crate) fn interface(&self) -> Option<&str> {
        on_interface(&self.address)
    }

    /// Says what failed.
    pub(crate) fn did(&self, what: &str, result: i32) -> Result<(), String> {
        if result >= 0 {
            return Ok(());
        }
        Err(format!("the device {} cannot {what}: {}", self.address, log::explain(result)))
    }

    /// Whether its driver receives by the kernel's sockets.
    pub(crate) fn has_sockets(&self) -> bool {
        matches!(self.driver(), "net_af_packet" | "net_af_xdp")
    }

    /// Calls what sets this receive queue up, and remembers the AF_XDP socket that the driver opens
    /// for it.
    pub(crate) fn opening(&self, queue: u16, set_up: impl FnOnce() -> i32) -> i32 {
        if self.driver() != "net_af_xdp" {
            return set_up();
        }
        sockets::wait_for_release();
        let others = sockets::xdp();
        let result = set_up();
        let mut opened = sockets::xdp();
        opened.retain(|socket| !others.contains(socket));
        // Of several, one is somebody else's.
        if let [socket] = opened[..] {
            self.xdp_sockets().push((queue, socket));
        }
        result
    }

    /// Calls with the kernel's sockets that the started device, which has so many queues, receives
    /// by in some of them; with none if not all are known.
    pub(crate) fn with_sockets(&self, queues: &[u16], all: u16, call: impl FnOnce(&[BorrowedFd])) {
        let by_queue: Vec<(u16, RawFd)> = match (self.driver(), &self.kernel_drops) {
            // The driver opened them queue by queue, so that their numbers rise.
            ("net_af_packet", Some(drops)) if drops.sockets.len() == usize::from(all) => {
                (0..).zip(drops.sockets.iter().copied()).collect()
            }
            _ => self.xdp_sockets().iter().map(|(queue, socket)| (*queue, socket.fd)).collect(),
        };
        let mut sockets = Vec::new();
        for queue in queues {
            let Some((_, fd)) = by_queue.iter().rfind(|(of, _)| of == queue) else {
                return call(&[]);
            };
            // SAFETY: the driver has it open as long as the device is, and nobody closes it during
            // the call.
            sockets.push(unsafe { BorrowedFd::borrow_raw(*fd) });
        }
        call(&sockets);
    }

    fn xdp_sockets(&self) -> MutexGuard<'_, Vec<(u16, Socket)>> {
        self.xdp_sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, name: &'static str, value: String) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).push((name, value));
    }

    /// The same of what is so at times; none: it is not, now.
    pub(crate) fn note_now(&self, name: &'static str, value: Option<String>) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.retain(|fact| fact.0 != name);
        facts.extend(value.map(|value| (name, value)));
    }

    /// What the kernel had no room for while nobody had the port does not count. Not while somebody
    /// asks for details: before it is started.
    pub(crate) fn forget_kernel_drops(&self) {
        if let Some(drops) = &self.kernel_drops {
            drops.forget_not_received();
        }
    }

    /// It was started, so that its link and counters mean something.
    pub(crate) fn mark_started(&self) {
        self.started.store(true, Relaxed);
    }

    /// Stops it and takes it away. Only its owner may call this, when no thread uses a queue.
    pub(crate) fn close(&self) {
        let _turn = turn();
        let mut last = self.last();
        if last.is_some() {
            return;
        }
        *last = Some(self.details());
        // SAFETY: [S]: the owner says that nobody uses a queue; who asks for details holds `last`,
        // which is held here, and finds the device closed later; `turn` is held. The flag is the
        // one that is watched.
        let removed = unsafe {
            sys::weir_dpdk_unwatch(self.number, self.fate.as_ptr());
            sys::weir_dpdk_remove(self.bus.as_ptr(), self.name.as_ptr(), self.number)
        };
        // The driver forgets to close them, and nobody else could open the queue.
        sockets::close_xdp(self.xdp_sockets().drain(..).map(|(_, socket)| socket));
        self.claim.release();
        if removed < 0 {
            tracing::debug!("device {}: removing: {}", self.address, log::explain(removed));
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Details>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn details(&self) -> Details {
        let mut details = Details::default();
        let facts = &mut details.facts;
        facts.push(("device", self.address.to_string()));
        facts.push(("driver", self.driver.clone()));
        facts.extend(self.facts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        if self.is_gone() {
            let link = if self.is_removed() { "removed" } else { "reset" };
            facts.push(("link", link.to_owned()));
            details.problem = self.told();
            return details;
        }
        if let Some(gone) = self.lost_interface() {
            facts.push(("link", "gone".to_owned()));
            details.problem = Some(gone);
            return details;
        }
        if !self.started.load(Relaxed) {
            return details;
        }
        let mut link = sys::Link::default();
        let mut stats = sys::Stats::default();
        let mut mtu = 0;
        // SAFETY: [C]: the caller holds `last` and has found the device open, so it is not closed
        // meanwhile.
        unsafe {
            // Drivers over an interface say what they were built with.
            if let Some(up) = self.interface().and_then(|name| interface::has_link(name).ok()) {
                facts.push(("link", if up { "up" } else { "down" }.to_owned()));
            } else if sys::weir_dpdk_link(self.number, &raw mut link) >= 0 {
                facts.push(("link", link_text(&link)));
            }
            if sys::weir_dpdk_mtu(self.number, &raw mut mtu) >= 0 {
                facts.push(("mtu", mtu.to_string()));
            }
            facts.push(("promiscuous", sys::weir_dpdk_is_promiscuous(self.number).to_string()));
            if sys::weir_dpdk_stats(self.number, &raw mut stats) >= 0 {
                details.rx_dropped = vec![
                    ("device-missed", stats.rx_missed),
                    ("device-error", stats.rx_errors),
                    ("device-no-buffer", stats.rx_no_buffer),
                ];
                details.tx_dropped = vec![("device-error", stats.tx_errors)];
            }
            if let Some(drops) = &self.kernel_drops {
                details.rx_dropped.push(("kernel-ring-full", drops.not_received()));
                details.tx_dropped.push(("kernel", drops.not_sent()));
            }
            // The context is the vector, which `push_counter` fills during the call.
            let counters = (&raw mut details.counters).cast();
            sys::weir_dpdk_xstats(self.number, counters, push_counter);
        }
        details
    }
}

impl Inspect for Device {
    fn inspect(&self) -> Details {
        let last = self.last();
        last.clone().unwrap_or_else(|| self.details())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes a device from DPDK, which has it since it started, if no port does.
pub(crate) fn release(address: &Address) {
    /// The number of no port.
    const NO_PORT: u16 = u16::MAX;
    let names = (CString::new(address.bus()), CString::new(address.name.as_str()));
    let ((Ok(bus), Ok(name)), Ok(_claim)) = (names, Claim::of(address)) else { return };
    let _turn = turn();
    log::forget();
    // SAFETY: DPDK runs, as the caller has seen; the texts are `CString`s, and nobody has the
    // device.
    let removed = unsafe { sys::weir_dpdk_remove(bus.as_ptr(), name.as_ptr(), NO_PORT) };
    if removed < 0 {
        tracing::debug!("device {address}: removing: {}", log::explain(removed));
    }
}

/// Whoever adds a device or takes one away: DPDK's lists of devices are for one thread at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device's name as long as a port of this process has it.
#[derive(Debug)]
struct Claim(String);

static CLAIMED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Claim {
    fn of(address: &Address) -> Result<Self, String> {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        if claimed.contains(&address.name) {
            return Err(format!("the device {} is in use by another port", address.name));
        }
        claimed.push(address.name.clone());
        Ok(Self(address.name.clone()))
    }

    fn release(&self) {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.retain(|name| *name != self.0);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

unsafe extern "C" fn push_counter(context: *mut c_void, name: *const c_char, value: u64) {
    // SAFETY: the context is the vector of `details`, and the name a text that ends with a zero.
    let (counters, name) =
        unsafe { (&mut *context.cast::<Vec<(String, u64)>>(), CStr::from_ptr(name)) };
    counters.push((name.to_string_lossy().into_owned(), value));
}

fn link_text(link: &sys::Link) -> String {
    match (link.up, link.mbit) {
        (false, _) => "down".to_owned(),
        (true, 0 | u32::MAX) => "up".to_owned(),
        (true, mbit) => {
            let duplex = if link.full_duplex { "full" } else { "half" };
            format!("up, {mbit} Mbit/s, {duplex} duplex")
        }
    }
}

/// The interface that a device of this address lies on.
pub(crate) fn on_interface(address: &Address) -> Option<&str> {
    match address.driver() {
        "net_af_packet" | "eth_af_packet" | "net_af_xdp" => address.argument("iface"),
        _ => None,
    }
}

/// Finds out what DPDK would say less clearly, and keeps devices that the kernel uses from being
/// taken from it.
pub(crate) fn check(address: &Address) -> Result<(), String> {
    if let Some(name) = on_interface(address)
        && interface::index(name).is_none()
    {
        return Err(format!("there is no interface {name} (`ip link` lists them)"));
    }
    if !address.is_pci() {
        return Ok(());
    }
    let place = Path::new("/sys/bus/pci/devices").join(&address.name);
    if !place.exists() {
        return Err(format!("there is no PCI device {} (`lspci -D` lists them)", address.name));
    }
    let driver = fs::read_link(place.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    match driver {
        Some(driver) if USABLE_DRIVERS.contains(&driver) => Ok(()),
        // The kernel would not let vfio-pci have it.
        _ if !place.join("iommu_group").exists() => Err(format!(
            "the PCI device {} has no IOMMU, so that DPDK cannot have it: switch the IOMMU on in the machine's firmware, and on the \
             kernel's command line (`intel_iommu=on iommu=pt`, `amd_iommu=on iommu=pt`)",
            address.name
        )),
        Some(driver) => Err(format!(
            "the PCI device {} is in use by the kernel's driver {driver}: `dpdk-devbind.py -b vfio-pci {}` gives it \
             to DPDK (the kernel then has it no more)",
            address.name, address.name
        )),
        None => Err(format!(
            "the PCI device {} has no driver: `dpdk-devbind.py -b vfio-pci {}` gives it one that DPDK can use",
            address.name, address.name
        )),
    }
}

/// What may be the cause.
fn hint(address: &Address) -> &'static str {
    if PRIVILEGED_DRIVERS.contains(&address.driver()) && !rustix::process::geteuid().is_root() {
        return " (this driver needs root, or CAP_NET_ADMIN and CAP_NET_RAW)";
    }
    if address.is_pci() {
        return " (was vfio-pci loaded when the host started, is the IOMMU on, and may this user open /dev/vfio?)";
    }
    " (is the driver's package, librte-net-*, installed, and are its arguments right?)"
}
