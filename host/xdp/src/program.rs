//! The XDP program on an interface: loaded once for all ports on it, attached while there is one.
//!
//! The attachment is a link that this process holds and that is pinned nowhere: it goes with the process, also when that
//! crashes, and the interface is the kernel's again. See docs/adr/0011-xdp-ports.md.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fmt, io};

use aya::maps::{Array, MapData, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfError};
use weir_xdp_layout::{COUNTS, Counts, PROGRAM, QUEUES, RULES, RULES_WORDS, Rules, SOCKETS};

use crate::config::Mode;
use crate::interface::Interface;

/// What `scripts/build-ebpf` made; empty if it had not run when this was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-redirect.o"));

/// Which interface: its network namespace's inode, and its index there.
type Key = (u64, u32);

/// The programs that ports have at this moment.
static ATTACHED: Mutex<BTreeMap<Key, Weak<Program>>> = Mutex::new(BTreeMap::new());

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
    /// Other ports have it in another mode.
    OtherMode(Mode),
}

/// See the module.
pub(crate) struct Program {
    mode: Mode,
    maps: Mutex<Maps>,
    /// Held for its drop, which detaches the program. Behind the maps: sockets leave their map when they are closed.
    _link: FdLink,
    _ebpf: Ebpf,
}

struct Maps {
    sockets: XskMap<MapData>,
    rules: Array<MapData, [u16; RULES_WORDS]>,
    counts: PerCpuArray<MapData, [u64; 3]>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Program {
    /// The program on this interface: the one that other ports have, or a new one.
    pub(crate) fn on(interface: &Interface, wanted: Mode) -> Result<Arc<Self>, Refused> {
        let key = (namespace(), interface.index);
        let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|_, program| program.strong_count() > 0);
        if let Some(program) = attached.get(&key).and_then(Weak::upgrade) {
            if wanted != Mode::Auto && wanted != program.mode {
                return Err(Refused::OtherMode(program.mode));
            }
            return Ok(program);
        }
        let program = Arc::new(Self::attach(interface.index, wanted)?);
        attached.insert(key, Arc::downgrade(&program));
        Ok(program)
    }

    /// Whether this process has the program on this interface.
    pub(crate) fn is_ours(interface: &Interface) -> bool {
        let attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        attached.get(&(namespace(), interface.index)).is_some_and(|p| p.strong_count() > 0)
    }

    fn attach(index: u32, wanted: Mode) -> Result<Self, Refused> {
        if OBJECT.is_empty() {
            return Err(Refused::NotBuilt);
        }
        let mut ebpf =
            Ebpf::load(OBJECT).map_err(|error| Refused::Load(of_load(&error), chain(&error)))?;
        let maps = Maps::of(&mut ebpf).map_err(|what| Refused::Load(None, what))?;
        let program =
            ebpf.program_mut(PROGRAM).and_then(|program| <&mut Xdp>::try_from(program).ok());
        let Some(program) = program else {
            return Err(Refused::Load(None, format!("the object has no XDP program {PROGRAM}")));
        };
        program.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Refused::Load(Some(io_error), verifier_log.to_string())
            }
            other => Refused::Load(None, chain(&other)),
        })?;
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
                    return Ok(Self {
                        mode: *mode,
                        maps: Mutex::new(maps),
                        _link: link,
                        _ebpf: ebpf,
                    });
                }
                Err(error) => {
                    let error =
                        of_program(&error).unwrap_or_else(|| io::Error::other(chain(&error)));
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

    /// Where it runs: never `Auto`.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Sends a queue's packets to this socket, as the rules say. They are in force before the first packet gets there.
    pub(crate) fn claim(
        &self,
        queue: u32,
        rules: &Rules,
        socket: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut maps = self.maps();
        maps.rules.set(queue, rules.words(), 0).map_err(io::Error::other)?;
        maps.sockets.set(queue, socket.as_raw_fd(), 0).map_err(io::Error::other)
    }

    /// What became of a queue's packets since the program was attached, on all CPUs.
    pub(crate) fn counts(&self, queue: u32) -> Counts {
        let mut sum = Counts::default();
        if let Ok(values) = self.maps().counts.get(&queue, 0) {
            for [redirected, unclaimed, no_socket] in values.iter() {
                sum.redirected += redirected;
                sum.unclaimed += unclaimed;
                sum.no_socket += no_socket;
            }
        }
        sum
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn of(ebpf: &mut Ebpf) -> Result<Self, String> {
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
        let (sockets, rules, counts) = (take(SOCKETS)?, take(RULES)?, take(COUNTS)?);
        let wrong = |error| format!("a map of the object is not as this host has it: {error}");
        Ok(Self {
            sockets: XskMap::try_from(sockets).map_err(wrong)?,
            rules: Array::try_from(rules).map_err(wrong)?,
            counts: PerCpuArray::try_from(counts).map_err(wrong)?,
        })
    }
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
