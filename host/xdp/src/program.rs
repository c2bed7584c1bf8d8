//! The XDP program on an interface: loaded once for all ports on it, attached while there is one.
//!
//! The attachment is a link. Pinned, it outlives a crash of this process: what steering gives to
//! the kernel or drops stays decided, packets for sockets go to the kernel, and the next host puts
//! its own program in the place of this one without a gap. Unpinned, it goes with the process. See
//! docs/adr/0011-xdp-ports.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::{fmt, io};

use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfError, EbpfLoader};
use weir_xdp_layout::{Counts, PLACED, PLACED_MAX, PLACES, PROGRAM, QUEUES, TABLE};

use crate::config::{Mode, XdpConfig};
use crate::interface::Interface;
use crate::maps::{Maps, Written, quiesce};
use crate::pin::{self, Pin, Pinning, Unpinned};
use crate::steering::{ENTRIES_MAX, Table};

/// What `scripts/build-ebpf` made; empty if it had not run when this was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-redirect.o"));

/// Entries of the largest map of rules. The kernel has 16 bytes for each place of it, used or not.
const TABLE_MOST: u32 = 1 << 21;
/// Flows of the largest map of those that functions have moved. The kernel has some 110 bytes for
/// each, used or not.
const PLACED_MOST: u32 = 1 << 18;
/// Entries that are taken out of the maps in one go.
const CLEARED_AT_ONCE: usize = 256;

/// Which interface: its network namespace's inode, and its index there.
pub(crate) type Key = (u64, u32);

/// A program, and its number in the kernel: one that nobody has any more may be on its interface
/// yet.
type Numbered = (Weak<Program>, Option<u32>);

/// The programs that ports have at this moment, or had.
static ATTACHED: Mutex<BTreeMap<Key, Numbered>> = Mutex::new(BTreeMap::new());

/// Why there is no program on an interface.
#[derive(Debug)]
pub(crate) enum Refused {
    NotBuilt,
    /// The kernel does not take the program: what it said.
    Load(Option<io::Error>, String),
    /// No mode that is allowed works on this interface.
    Attach(Mode, io::Error),
    /// The link is of the old kind, which outlives the process.
    OldKernel,
    /// Another port has this queue.
    Queue(u32),
    /// Other ports have it in another mode.
    OtherMode(Mode),
    /// It cannot be pinned where it is to be.
    Pin(String),
    /// Another host has it, and lives.
    Held,
}

/// See the module.
pub(crate) struct Program {
    mode: Mode,
    /// One port has the interface: its rules hold at all queues.
    is_one_ports: bool,
    maps: Arc<Maps>,
    taken: Mutex<Taken>,
    /// Takes out what the last table left, once no packet looks at it.
    clearing: Mutex<Option<JoinHandle<()>>>,
    /// Its drop detaches the program. Behind the maps: sockets leave their map when they are
    /// closed.
    link: FdLink,
    /// Where the link is pinned, or why it is not. Behind the link: nobody has the place while it
    /// is still there.
    pin: Result<Pin, String>,
    _ebpf: Ebpf,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// A queue's place in the program, one port's alone until this is dropped. What the queue claims
/// and what steers it its port takes back before
/// ([`Steering::closing`](crate::steering::Steering::closing)).
#[derive(Debug)]
pub(crate) struct Claim {
    program: Arc<Program>,
    queue: u32,
}

/// Which queues ports have, and what became of packets at the others.
#[derive(Default)]
struct Taken {
    queues: BTreeSet<u32>,
    /// Of queues that ports had: the counts there when they let go of it.
    left: BTreeMap<u32, Counts>,
    /// Of packets that came to queues, while no port had them, which ports have by now.
    before: Counts,
}

impl Taken {
    /// What became of a queue's packets since the last port let go of it.
    fn since(&self, queue: u32, maps: &Maps) -> Counts {
        maps.counts(queue) - self.left.get(&queue).copied().unwrap_or_default()
    }
}

impl Claim {
    fn new(program: &Arc<Program>, queue: u32) -> Result<Self, Refused> {
        let mut taken = program.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.queues.insert(queue) {
            return Err(Refused::Queue(queue));
        }
        let before = taken.since(queue, &program.maps);
        taken.before += before;
        Ok(Self { program: Arc::clone(program), queue })
    }

    /// The program.
    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.program
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.program.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.queues.remove(&self.queue);
        taken.left.insert(self.queue, self.program.maps.counts(self.queue));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(pin) = &self.pin {
            pin.remove();
        }
    }
}

impl Program {
    /// A queue of the program on this interface: of the one that other ports have, or of a new one.
    /// `prepare` fills its maps before a packet of the queue comes to it.
    pub(crate) fn on(
        interface: &Interface,
        config: &XdpConfig,
        prepare: impl FnOnce(&Maps),
    ) -> Result<Claim, Refused> {
        let key = key(interface);
        let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|_, (program, _)| program.strong_count() > 0);
        if let Some(program) = attached.get(&key).and_then(|(program, _)| program.upgrade()) {
            if config.mode != Mode::Auto && config.mode != program.mode {
                return Err(Refused::OtherMode(program.mode));
            }
            let claim = Claim::new(&program, config.queue)?;
            prepare(&program.maps);
            return Ok(claim);
        }
        let program = Arc::new(Self::attach(interface, config, key.0, prepare)?);
        attached.insert(key, (Arc::downgrade(&program), pin::of(&program.link)));
        Claim::new(&program, config.queue)
    }

    /// Whether the program on this interface is this process's, or was left by a host that has
    /// crashed.
    pub(crate) fn can_be_ours(interface: &Interface, config: &XdpConfig) -> bool {
        let attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        let held = attached.get(&key(interface));
        held.is_some_and(|(program, number)| {
            program.strong_count() > 0 || number.is_some() && *number == interface.program
        }) || interface.program.is_some_and(|program| {
            pin::is_left(&config.pin, &config.interface, namespace(), program)
        })
    }

    fn attach(
        interface: &Interface,
        config: &XdpConfig,
        namespace: u64,
        prepare: impl FnOnce(&Maps),
    ) -> Result<Self, Refused> {
        if OBJECT.is_empty() {
            return Err(Refused::NotBuilt);
        }
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(TABLE, table_entries(interface.queues))
            .map_max_entries(PLACED, placed_entries(interface.queues))
            .load(OBJECT)
            .map_err(|error| Refused::Load(of_load(&error), chain(&error)))?;
        let stand_in = config.alone.then(|| config.first_queue());
        let maps = Maps::of(&mut ebpf, stand_in).map_err(|what| Refused::Load(None, what))?;
        let program = xdp(&mut ebpf)?;
        program.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Refused::Load(Some(io_error), verifier_log.to_string())
            }
            other => Refused::Load(None, chain(&other)),
        })?;
        prepare(&maps);
        let pin = match Pin::take(&config.pin, &config.interface, namespace) {
            Ok(pin) => Ok(pin),
            Err(Unpinned::Note(note)) => Err(note),
            Err(Unpinned::Refused(problem)) => return Err(Refused::Pin(problem)),
            Err(Unpinned::Held) => return Err(Refused::Held),
        };
        let left = pin.as_ref().ok().and_then(Pin::left);
        let taken = left.and_then(|link| take_over(program, link, interface, config.mode));
        let ((mode, link), pin) = match (taken, pin) {
            (Some(taken), pin) => {
                tracing::info!("{}: taken over from a host that crashed", config.interface);
                (taken, pin)
            }
            (None, Ok(pin)) => {
                // What is there is nobody's.
                pin.remove();
                let (mode, link) = attach(program, interface.index, config.mode)?;
                match link.pin(pin.link()) {
                    Ok(link) => ((mode, FdLink::from(link)), Ok(pin)),
                    Err(error) if config.pin == Pinning::Auto => {
                        let again = attach(program, interface.index, config.mode)?;
                        (again, Err(chain(&error)))
                    }
                    Err(error) => return Err(Refused::Pin(chain(&error))),
                }
            }
            (None, Err(note)) => (attach(program, interface.index, config.mode)?, Err(note)),
        };
        let maps = Arc::new(maps);
        let (taken, clearing) = (Mutex::default(), Mutex::default());
        let is_one_ports = config.alone;
        Ok(Self { mode, is_one_ports, maps, taken, clearing, pin, link, _ebpf: ebpf })
    }

    /// Where it runs: never `Auto`.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Replaces a queue's table. The old one is in nobody's way when this returns, and goes behind
    /// it: the kernel takes some milliseconds to say that no packet looks at it any more.
    pub(crate) fn steer(&self, queue: u32, table: &Arc<Table>) -> Result<(), String> {
        let mut clearing = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = clearing.take() {
            // There is room for one table more than there are queues. What it did not take out
            // stays until the program goes.
            let _ = last.join();
        }
        let steered = self.maps.steer(queue, table);
        let old = self.maps.take_old();
        if old.is_empty() {
            return steered;
        }
        let maps = Arc::downgrade(&self.maps);
        let clear = move || {
            quiesce();
            for Written { generation, table, .. } in &old {
                for entries in table.entries.chunks(CLEARED_AT_ONCE) {
                    // The program may go meanwhile, and tables may be replaced.
                    let Some(maps) = maps.upgrade() else { return };
                    maps.clear(*generation, entries);
                }
            }
        };
        match std::thread::Builder::new().name("weir-xdp-clear".to_owned()).spawn(clear) {
            Ok(thread) => *clearing = Some(thread),
            Err(error) => {
                tracing::warn!("entries of old steering rules stay in the XDP program: {error}");
            }
        }
        steered
    }

    /// Its maps.
    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What became of packets at queues without a port, since the program was loaded: those for
    /// nobody's socket, and, if these queues are steered as the port's, those that steering has
    /// decided.
    pub(crate) fn at_others(&self) -> Counts {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = taken.before;
        for queue in (0..PLACES).filter(|queue| !taken.queues.contains(queue)) {
            counts += taken.since(queue, &self.maps);
        }
        let steered = if self.is_one_ports { counts } else { Counts::default() };
        Counts {
            redirected: 0,
            unclaimed: 0,
            no_socket: counts.unclaimed + counts.no_socket,
            ..steered
        }
    }

    /// Where it is pinned, or why it is not.
    pub(crate) fn pinned(&self) -> String {
        match &self.pin {
            Ok(pin) => pin.link().display().to_string(),
            Err(why) => format!("no: {why}"),
        }
    }
}

/// Rules that the program of an interface with so many queues has room for: a table for each queue,
/// and one that replaces another.
fn table_entries(queues: u32) -> u32 {
    let tables = queues.clamp(1, QUEUES) + 1;
    (tables * ENTRIES_MAX as u32).min(TABLE_MOST)
}

/// Moved flows that the program of an interface with so many queues has room for: as many for each
/// queue as its worker remembers.
fn placed_entries(queues: u32) -> u32 {
    (queues.clamp(1, QUEUES) * PLACED_MAX).min(PLACED_MOST)
}

/// The program of the object.
fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Refused> {
    let program = ebpf.program_mut(PROGRAM).and_then(|program| <&mut Xdp>::try_from(program).ok());
    program.ok_or_else(|| Refused::Load(None, format!("the object has no XDP program {PROGRAM}")))
}

/// Puts the program in the place of the one that a link has on this interface, in one step for
/// packets. Not if the link is for another mode or nothing any more.
fn take_over(
    program: &mut Xdp,
    link: FdLink,
    interface: &Interface,
    wanted: Mode,
) -> Option<(Mode, FdLink)> {
    let mode = interface.mode.filter(|mode| wanted == Mode::Auto || wanted == *mode)?;
    if pin::of(&link) != interface.program {
        return None;
    }
    let link = XdpLink::try_from(link).ok()?;
    let id = program.attach_to_link(link).ok()?;
    let link = program.take_link(id).ok()?;
    Some((mode, FdLink::try_from(link).ok()?))
}

/// Puts the program on an interface that has none.
fn attach(program: &mut Xdp, index: u32, wanted: Mode) -> Result<(Mode, FdLink), Refused> {
    let modes: &[Mode] = match wanted {
        Mode::Auto => &[Mode::Native, Mode::Generic],
        Mode::Native => &[Mode::Native],
        Mode::Generic => &[Mode::Generic],
    };
    let mut refused = None;
    for mode in modes {
        let aya = if *mode == Mode::Native { XdpMode::Driver } else { XdpMode::Skb };
        let attached = program.attach_to_if_index(index, aya);
        match attached.and_then(|id| program.take_link(id)) {
            Ok(link) => {
                let link = FdLink::try_from(link).map_err(|_| Refused::OldKernel)?;
                return Ok((*mode, link));
            }
            Err(error) => {
                let error = of_program(&error).unwrap_or_else(|| io::Error::other(chain(&error)));
                // Somebody has the interface: another mode would only hide it.
                let busy = error.raw_os_error() == Some(libc::EBUSY);
                refused = Some(Refused::Attach(*mode, error));
                if busy {
                    break;
                }
            }
        }
    }
    Err(refused.unwrap_or(Refused::OldKernel))
}

/// Queues that the program knows.
pub(crate) const fn queues() -> u32 {
    QUEUES
}

/// A program's name, for messages.
pub(crate) fn name_of(id: u32) -> Option<String> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.name_as_str().map(str::to_owned)
}

/// Which interface it is.
pub(crate) fn key(interface: &Interface) -> Key {
    (namespace(), interface.index)
}

/// The inode of this thread's network namespace; 0 where there is no /proc.
fn namespace() -> u64 {
    rustix::fs::stat("/proc/thread-self/ns/net").map_or(0, |stat| stat.st_ino)
}

fn of_load(error: &EbpfError) -> Option<io::Error> {
    find(error)
}

fn of_program(error: &ProgramError) -> Option<io::Error> {
    find(error)
}

/// What the kernel said, from within an error of aya's.
fn find(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(number) = io.raw_os_error()
        {
            return Some(io::Error::from_raw_os_error(number));
        }
        next = error.source();
    }
    None
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
