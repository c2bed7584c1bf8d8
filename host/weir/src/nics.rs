//! Virtual functions that the configuration names: found or made before ports are opened, and left as they were found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_control::engine::{EngineEvent, EngineStatus, EventSink};
use weir_spec::{HostConfig, Invalid, MacAddress, Name, NicVf, PortKind, VfLink, VfName};
use weir_sriov::{
    Found, InterfaceWish, Journal, Lent, Live, NewSettings, NicWish, Outcome, PciAddress, Purpose,
    Undone, Unfulfilled, Unwritten, VfWish, Wish,
};

/// The journal's name in the store's directory.
const JOURNAL: &str = "sriov.journal";
/// How often, and with which pause, undoing is tried while the host's own ports let go of their devices.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Where the journal of a host with this store is.
pub(crate) fn journal_of(store: &Path) -> PathBuf {
    store.join(JOURNAL)
}

/// Who has a virtual function.
#[derive(Clone, Debug)]
struct User {
    tenant: Name,
    name: Name,
    role: Role,
}

/// As what somebody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A port's device.
    Port,
    /// The kernel's end of a port's link.
    Peer,
    /// A listener's device.
    Listener,
}

/// A virtual function that ports or listeners have.
#[derive(Clone, Debug)]
struct Used {
    called: VfName,
    address: PciAddress,
    driver: Option<String>,
    users: Vec<User>,
}

impl Used {
    fn problem(&self) -> Option<String> {
        let lost = weir_sriov::lost(&Live::default(), self.address, self.driver.as_deref())?;
        Some(format!("its device {} ({}) is lost: {lost}", self.called, self.address))
    }
}

/// The virtual functions in use, for whoever tells how ports are.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse(Arc<Vec<Used>>);

impl InUse {
    /// Adds what became of devices to what the planes say of themselves.
    pub(crate) fn amend(&self, status: &mut EngineStatus) {
        for used in self.0.iter() {
            let problem = used.problem();
            for user in &used.users {
                if user.role == Role::Listener {
                    let listeners = status.listeners.iter_mut();
                    for listener in listeners.filter(|listener| listener.name == user.name) {
                        listener.problem.clone_from(&problem);
                    }
                    continue;
                }
                for port in status.ports.iter_mut().filter(|port| port.name == user.name) {
                    if user.role == Role::Peer {
                        port.device.insert("peer".to_owned(), used.called.to_string());
                        port.problem = port.problem.take().or_else(|| problem.clone());
                        continue;
                    }
                    port.device.insert("vf".to_owned(), used.called.to_string());
                    if problem.is_some() {
                        port.device.insert("link".to_owned(), "lost".to_owned());
                    }
                    port.problem = problem.clone().or_else(|| port.problem.take());
                }
            }
        }
    }

    /// Tells of devices that are lost, as long as the process lives.
    pub(crate) fn watch(&self, sink: Arc<EventSink>) {
        /// For the kernel to be done with a device that loses its driver because it goes.
        const SETTLED: Duration = Duration::from_millis(200);
        if self.0.is_empty() {
            return;
        }
        let all = Arc::clone(&self.0);
        let mut told: Vec<(PciAddress, String)> = Vec::new();
        let devices = all.iter().map(|used| used.address).collect();
        let watching = weir_sriov::watch(devices, move |device| {
            sleep(SETTLED);
            let Some(used) = all.iter().find(|used| used.address == device) else { return };
            let Some(problem) = used.problem() else { return };
            if told.contains(&(device, problem.clone())) {
                return;
            }
            for user in &used.users {
                let what = if user.role == Role::Listener { "listener" } else { "port" };
                sink(EngineEvent::PortDown {
                    tenant: user.tenant.clone(),
                    port: user.name.clone(),
                    message: format!("{what} {} is down: {problem}", user.name),
                });
            }
            told.push((device, problem));
        });
        if let Err(error) = watching {
            tracing::warn!("nobody will tell when a virtual function goes away: {error}");
        }
    }
}

/// The journal, for those who change something while the host runs.
type SharedJournal = Arc<Mutex<Option<Journal>>>;

fn lock(journal: &SharedJournal) -> MutexGuard<'_, Option<Journal>> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// MAC addresses by which steering rules have NICs bring frames to virtual functions. They go with [`Nics`] at the latest.
#[derive(Default)]
pub(crate) struct VfMacs {
    in_use: InUse,
    journal: SharedJournal,
    /// By port.
    lent: Mutex<BTreeMap<Name, ([u8; 6], Lent)>>,
}

impl VfMacs {
    /// Whether a port's device is a virtual function that the configuration names, and so the host has set up.
    pub(crate) fn is_set_up(&self, port: &Name) -> bool {
        self.function_of(port).is_some()
    }

    fn function_of(&self, port: &Name) -> Option<&Used> {
        let has = |used: &&Used| used.users.iter().any(|u| u.role == Role::Port && u.name == *port);
        self.in_use.0.iter().find(has)
    }

    /// Has frames for this address brought to the function that a port has; none: no more than what is the function's own. The answer is
    /// none if the port has no function, else whether the NIC does that, or why not.
    pub(crate) fn bring(&self, port: &Name, mac: Option<[u8; 6]>) -> Option<Result<(), String>> {
        let used = self.function_of(port)?;
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        if lent.get(port).is_some_and(|(has, _)| Some(*has) == mac) {
            return Some(Ok(()));
        }
        let mut journal = lock(&self.journal);
        let journal = journal.as_mut()?;
        let kernel = Live::default();
        if let Some((_, old)) = lent.remove(port)
            && let Err(error) = weir_sriov::return_mac(&kernel, &old, journal)
        {
            tracing::warn!("port {port} keeps an address that steering rules named: {error}");
        }
        let mac = mac?;
        if used.driver.as_deref().is_some_and(|driver| driver != "vfio-pci") {
            let why =
                "its driver takes an address when it gets the function: set `mac` in [[nic.vf]]";
            return Some(Err(why.to_owned()));
        }
        let name = weir_sriov::VfName { pf: used.called.pf.clone(), index: used.called.index };
        let given = weir_sriov::lend_mac(&kernel, &name, weir_sriov::MacAddress(mac), journal);
        Some(match given {
            Ok(given) => {
                lent.insert(port.clone(), (mac, given));
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        })
    }
}

/// What the host changed of the machine's devices; undone when dropped.
pub(crate) struct Nics {
    kernel: Live,
    path: PathBuf,
    journal: SharedJournal,
    pub(crate) in_use: InUse,
}

impl Nics {
    /// Undoes what a host that crashed has left in this store.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) fn new(store: &Path) -> Result<Self> {
        let (kernel, path) = (Live::default(), journal_of(store));
        let nics =
            Self { kernel, path, journal: SharedJournal::default(), in_use: InUse::default() };
        if Journal::is_left_at(&nics.path) {
            tracing::warn!(
                "a host ended without undoing what it changed of network devices: it is undone now"
            );
            *lock(&nics.journal) = Some(Journal::open(&nics.path, &nics.kernel)?);
            nics.undo();
        }
        Ok(nics)
    }

    /// Makes what the configuration names, and puts addresses and interfaces into it in place of names.
    ///
    /// # Errors
    /// What cannot be had, and where the configuration asks for it.
    pub(crate) fn prepare(&mut self, config: &mut HostConfig) -> Result<()> {
        let wanted = Wanted::of(config)?;
        if wanted.is_nothing() {
            return Ok(());
        }
        for port in &config.ports {
            let Some(peer) = port.peer.as_deref().filter(|peer| peer.starts_with("vf:")) else {
                continue;
            };
            if config.vlan_of(peer).unwrap_or(0) == 0 {
                tracing::warn!(
                    "port {}: {peer} is given no VLAN, so that frames from the wire may get to the kernel without passing a chain: set \
                     `vlan` in [[nic.vf]], the same for it and for the port's own function, and one that the wire does not have",
                    port.name
                );
            }
        }
        let mut journal = lock(&self.journal);
        if journal.is_none() {
            *journal = Some(Journal::open(&self.path, &self.kernel)?);
        }
        let Some(journal) = &mut *journal else { return Ok(()) };
        let done = weir_sriov::apply(&self.kernel, &wanted.wish, journal);
        let done = done.map_err(|error| wanted.locate(error))?;
        for step in &done.steps {
            tracing::info!("{step}");
        }
        self.in_use = InUse(Arc::new(wanted.resolve(config, &done.functions)));
        Ok(())
    }

    /// For steering rules.
    pub(crate) fn macs(&self) -> VfMacs {
        VfMacs {
            in_use: self.in_use.clone(),
            journal: Arc::clone(&self.journal),
            lent: Mutex::default(),
        }
    }

    /// Leaves the machine's devices as they were found.
    fn undo(&self) {
        let mut journal = lock(&self.journal);
        let Some(journal) = &mut *journal else { return };
        for last in (0..TRIES).rev() {
            let (undone, unwritten) = match weir_sriov::undo(&self.kernel, journal) {
                Ok(undone) => (undone, None),
                Err(Unwritten { undone, error }) => (undone, Some(error)),
            };
            let failed = |undone: &Undone| matches!(undone.outcome, Outcome::Failed { .. });
            let again = last > 0 && (unwritten.is_some() || undone.iter().any(failed));
            for text in undone.iter().filter(|u| !again || !failed(u)).filter_map(Undone::text) {
                tracing::info!("{text}");
            }
            if !again {
                if let Some(error) = unwritten {
                    tracing::error!("{error}");
                }
                return;
            }
            sleep(PAUSE);
        }
    }
}

impl Drop for Nics {
    fn drop(&mut self) {
        self.undo();
        // A change that is still under way gives no function an address any more.
        *lock(&self.journal) = None;
    }
}

/// What a host with this configuration would do, step by step.
///
/// # Errors
/// What cannot be had, as far as that can be told.
pub(crate) fn plan(config: &HostConfig) -> Result<Vec<String>> {
    let wanted = Wanted::of(config)?;
    let planned = weir_sriov::plan(&Live::default(), &wanted.wish);
    planned.map_err(|error| wanted.locate(error).into())
}

/// Undoes by hand what a host has left in this store.
///
/// # Errors
/// When the journal cannot be had, or something could not be undone.
pub(crate) fn restore(store: &Path) -> Result<Vec<Undone>> {
    let path = journal_of(store);
    if !Journal::is_left_at(&path) {
        return Ok(Vec::new());
    }
    let kernel = Live::default();
    let mut journal = Journal::open(&path, &kernel)?;
    weir_sriov::undo(&kernel, &mut journal).context("undoing")
}

/// Who names a function, and where.
struct Naming {
    name: VfName,
    table: &'static str,
    place: usize,
    key: &'static str,
    user: User,
}

/// The wish, and where it comes from.
struct Wanted {
    wish: Wish,
    namings: Vec<Naming>,
    /// The numbers of `[[nic]]`, for those wishes that come from one.
    tables: Vec<Option<usize>>,
    /// The table, the place and the key that ask for an interface.
    interfaces: Vec<(&'static str, usize, &'static str)>,
}

impl Wanted {
    fn of(config: &HostConfig) -> Result<Self, Invalid> {
        let mut wanted = Self {
            wish: Wish::default(),
            namings: Vec::new(),
            tables: Vec::new(),
            interfaces: Vec::new(),
        };
        for (place, nic) in config.nics.iter().enumerate() {
            let functions = nic.functions.iter().map(vf_wish).collect();
            wanted.wish.nics.push(NicWish { pf: nic.pf.clone(), vfs: nic.vfs, functions });
            wanted.tables.push(Some(place));
        }
        for (place, port) in config.ports.iter().enumerate() {
            let (key, text, purpose) = match port.kind {
                PortKind::Dpdk => ("device", &port.device, Purpose::Vfio),
                PortKind::Xdp => ("interface", &port.interface, Purpose::Kernel),
                PortKind::Pcap | PortKind::Memory => continue,
            };
            // What is no name was refused when the file was read.
            let Ok(Some(name)) = VfName::of(text.as_deref().unwrap_or_default()) else { continue };
            let user =
                User { tenant: port.tenant.clone(), name: port.name.clone(), role: Role::Port };
            let of = weir_sriov::VfName { pf: name.pf.clone(), index: name.index };
            wanted.name(Naming { name, table: "port", place, key, user }, purpose);
            if purpose == Purpose::Kernel {
                wanted.interface(InterfaceWish::OfVf(of, Vec::new()), "port", place, "interface");
            }
        }
        for (place, port) in config.ports.iter().enumerate() {
            let Some(peer) = &port.peer else { continue };
            let Ok(Some(name)) = VfName::of(peer) else {
                let wish = InterfaceWish::Named(peer.clone(), Vec::new());
                wanted.interface(wish, "port", place, "peer");
                continue;
            };
            let of = weir_sriov::VfName { pf: name.pf.clone(), index: name.index };
            let (tenant, own) = (port.tenant.clone(), port.name.clone());
            let user = User { tenant, name: own, role: Role::Peer };
            let naming = Naming { name, table: "port", place, key: "peer", user };
            wanted.name(naming, Purpose::Kernel);
            wanted.interface(InterfaceWish::OfVf(of, Vec::new()), "port", place, "peer");
        }
        for (place, listener) in config.listeners.iter().enumerate() {
            let Some(device) = &listener.device else { continue };
            let given = |prefix| listener.address.iter().map(move |a| (a.ip(), prefix));
            let addresses = listener.prefix.into_iter().flat_map(given).collect();
            let Ok(Some(name)) = VfName::of(device) else {
                let wish = InterfaceWish::Named(device.clone(), addresses);
                wanted.interface(wish, "listener", place, "device");
                continue;
            };
            let of = weir_sriov::VfName { pf: name.pf.clone(), index: name.index };
            let (tenant, own) = (listener.tenant.clone(), listener.name.clone());
            let user = User { tenant, name: own, role: Role::Listener };
            let naming = Naming { name, table: "listener", place, key: "device", user };
            wanted.name(naming, Purpose::Kernel);
            wanted.interface(InterfaceWish::OfVf(of, addresses), "listener", place, "device");
        }
        Ok(wanted)
    }

    fn is_nothing(&self) -> bool {
        self.wish == Wish::default()
    }

    fn interface(
        &mut self,
        wish: InterfaceWish,
        table: &'static str,
        place: usize,
        key: &'static str,
    ) {
        self.wish.interfaces.push(wish);
        self.interfaces.push((table, place, key));
    }

    fn name(&mut self, naming: Naming, purpose: Purpose) {
        let name = &naming.name;
        let nics = &mut self.wish.nics;
        let place = nics.iter().position(|nic| nic.pf == name.pf).unwrap_or_else(|| {
            nics.push(NicWish { pf: name.pf.clone(), vfs: None, functions: Vec::new() });
            self.tables.push(None);
            nics.len() - 1
        });
        let functions = &mut nics[place].functions;
        match functions.iter_mut().find(|vf| vf.index == name.index) {
            Some(vf) => vf.purpose = Some(purpose),
            None => functions.push(VfWish {
                index: name.index,
                settings: NewSettings::default(),
                purpose: Some(purpose),
            }),
        }
        self.namings.push(naming);
    }

    /// An error where the configuration has what cannot be had.
    fn locate(&self, unfulfilled: Unfulfilled) -> Invalid {
        let message = unfulfilled.error.to_string();
        if let Some((table, place, key)) =
            unfulfilled.interface.and_then(|i| self.interfaces.get(i))
        {
            return Invalid::at(key, message).within_array(table, *place);
        }
        let number = unfulfilled.nic.unwrap_or(usize::MAX);
        let nic = self.wish.nics.get(number);
        let names = |naming: &&Naming| {
            nic.is_some_and(|nic| nic.pf == naming.name.pf)
                && unfulfilled.vf.is_none_or(|index| index == naming.name.index)
        };
        let naming = self.namings.iter().find(names);
        let table = self.tables.get(number).copied().flatten();
        match (table, naming, unfulfilled.vf) {
            (Some(table), _, None) => Invalid::at("pf", message).within_array("nic", table),
            (_, Some(naming), _) => {
                Invalid::at(naming.key, message).within_array(naming.table, naming.place)
            }
            (Some(table), None, Some(_)) => Invalid::whole(message).within_array("nic", table),
            (None, None, _) => Invalid::whole(message),
        }
    }

    /// Puts what was found in place of names.
    fn resolve(self, config: &mut HostConfig, found: &[Found]) -> Vec<Used> {
        let mut all: Vec<Used> = Vec::new();
        for naming in self.namings {
            let same = |found: &&Found| {
                found.name.pf == naming.name.pf && found.name.index == naming.name.index
            };
            let Some(found) = found.iter().find(same) else { continue };
            match (naming.table, naming.key) {
                ("port", "device") => {
                    let device = &mut config.ports[naming.place].device;
                    // What follows is for the driver.
                    let arguments =
                        device.as_deref().and_then(|d| d.split_once(',')).map(|d| d.1.to_owned());
                    let arguments = arguments.map_or_else(String::new, |text| format!(",{text}"));
                    *device = Some(format!("{}{arguments}", found.address));
                }
                ("port", "peer") => config.ports[naming.place].peer.clone_from(&found.interface),
                ("port", _) => config.ports[naming.place].interface.clone_from(&found.interface),
                _ => config.listeners[naming.place].device.clone_from(&found.interface),
            }
            match all.iter_mut().find(|used| used.address == found.address) {
                Some(used) => used.users.push(naming.user),
                None => all.push(Used {
                    called: naming.name,
                    address: found.address,
                    driver: found.driver.clone(),
                    users: vec![naming.user],
                }),
            }
        }
        all
    }
}

fn vf_wish(vf: &NicVf) -> VfWish {
    let settings = NewSettings {
        mac: vf.mac.map(|mac: MacAddress| weir_sriov::MacAddress(mac.get())),
        vlan: vf.vlan,
        qos: vf.qos,
        trust: vf.trust,
        spoof_check: vf.spoof_check,
        min_rate: vf.min_rate,
        max_rate: vf.max_rate,
        link: vf.link.map(|link| match link {
            VfLink::Auto => weir_sriov::LinkState::Auto,
            VfLink::Up => weir_sriov::LinkState::Up,
            VfLink::Down => weir_sriov::LinkState::Down,
        }),
    };
    VfWish { index: vf.index, settings, purpose: None }
}
