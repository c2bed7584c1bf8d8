//! Virtual functions that the configuration names: found or made before ports are opened, and left
//! as they were found.

mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_control::engine::{EngineEvent, EngineStatus, EventSink};
use weir_spec::{HostConfig, Name};
use weir_sriov::{Journal, LentAddress, Live, Outcome, PciAddress, UndoneChange, Unwritten};

use self::wanted::{Role, Used, Wanted, of_sriov};

/// The journal's name in the store's directory.
const JOURNAL: &str = "sriov.journal";
/// How often, and with which pause, undoing is tried while the host's own ports let go of their
/// devices.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Where the journal of a host with this store is.
fn journal_of(store: &Path) -> PathBuf {
    store.join(JOURNAL)
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

/// MAC addresses by which steering rules have NICs bring frames to virtual functions. They go with
/// [`Nics`] at the latest.
#[derive(Default)]
pub(crate) struct VfMacs {
    in_use: InUse,
    journal: SharedJournal,
    /// By port.
    lent: Mutex<BTreeMap<Name, ([u8; 6], LentAddress)>>,
}

impl VfMacs {
    /// Whether a port's device is a virtual function that the configuration names, and so the host
    /// has set up.
    pub(crate) fn is_set_up(&self, port: &Name) -> bool {
        self.function_of(port).is_some()
    }

    fn function_of(&self, port: &Name) -> Option<&Used> {
        let has = |used: &&Used| used.users.iter().any(|u| u.role == Role::Port && u.name == *port);
        self.in_use.0.iter().find(has)
    }

    /// Has frames for this address brought to the function that a port has; none: no more than what
    /// is the function's own. The answer is none if the port has no function, else whether the NIC
    /// does that, or why not.
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
        let name = of_sriov(&used.called);
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
pub struct Nics {
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
    pub fn new(store: &Path) -> Result<Self> {
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

    /// Makes what the configuration names, and puts addresses and interfaces into it in place of
    /// names.
    ///
    /// # Errors
    /// What cannot be had, and where the configuration asks for it.
    pub fn prepare(&mut self, config: &mut HostConfig) -> Result<()> {
        let wanted = Wanted::of(config);
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
            let failed = |undone: &UndoneChange| matches!(undone.outcome, Outcome::Failed { .. });
            let again = last > 0 && (unwritten.is_some() || undone.iter().any(failed));
            for text in
                undone.iter().filter(|u| !again || !failed(u)).filter_map(UndoneChange::text)
            {
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
pub fn plan(config: &HostConfig) -> Result<Vec<String>> {
    let wanted = Wanted::of(config);
    let planned = weir_sriov::plan(&Live::default(), &wanted.wish);
    planned.map_err(|error| wanted.locate(error).into())
}

/// Undoes by hand what a host has left in this store.
///
/// # Errors
/// When the journal cannot be had, or something could not be undone.
pub fn restore(store: &Path) -> Result<Vec<UndoneChange>> {
    let path = journal_of(store);
    if !Journal::is_left_at(&path) {
        return Ok(Vec::new());
    }
    let kernel = Live::default();
    let mut journal = Journal::open(&path, &kernel)?;
    weir_sriov::undo(&kernel, &mut journal).context("undoing")
}
