//! Tells how a port's interface and program are, from any thread, while the port's worker goes on
//! or sleeps.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use weir_port::{Details, Inspect};
use weir_xdp_layout::Counts;

use crate::config::XdpConfig;
use crate::error::{self, mode_name};
use crate::interface::Interface;
use crate::program::Program;
use crate::steering::Steering;

/// See the module.
#[derive(Debug)]
pub(crate) struct Inspector {
    interface: String,
    queue: u32,
    /// None of a port that is yet to be opened.
    steering: Option<Arc<Steering>>,
    /// The queue is the port's first: it tells of queues without a port, too.
    first: bool,
    /// Rooms in the fill ring.
    filled: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    driver: Option<String>,
    pinned: Option<String>,
    /// There while the port has the program.
    program: Weak<Program>,
    /// The queue's counts when the port got the program; without one, what they had come to.
    counts: Counts,
    /// The interface that the port was attached to, as long as there is the port: another one may
    /// have the name by now.
    index: Option<u32>,
    /// Why the port works no more.
    broken: Option<String>,
}

impl Inspector {
    pub(crate) fn new(config: &XdpConfig, steering: Option<Arc<Steering>>) -> Self {
        Self {
            interface: config.interface.clone(),
            queue: config.queue,
            steering,
            first: config.first_queue() == config.queue,
            filled: AtomicU32::new(0),
            state: Mutex::default(),
        }
    }

    /// The port has this program on the interface of this number, and a socket now.
    pub(crate) fn opened(&self, program: &Arc<Program>, index: u32, zero_copy: bool) {
        let (mode, copies) =
            (mode_name(program.mode()), if zero_copy { "zero-copy" } else { "copy" });
        *self.state() = State {
            driver: Some(format!("{mode}, {copies}")),
            pinned: Some(program.pinned()),
            program: Arc::downgrade(program),
            counts: self.counts_of(program),
            index: Some(index),
            broken: None,
        };
    }

    /// The kernel has so many rooms to receive into.
    #[inline]
    pub(crate) fn filled(&self, rooms: u32) {
        self.filled.store(rooms, Relaxed);
    }

    /// The port does not work any more, and does not by itself again.
    pub(crate) fn broken(&self, problem: &str) {
        self.state().broken = Some(problem.to_owned());
    }

    /// There is no such port any more: who asks wants to know of the interface that the next one
    /// would be on.
    pub(crate) fn dropped(&self) {
        let mut state = self.state();
        (state.index, state.broken) = (None, None);
    }

    /// The port is about to let go of the program.
    pub(crate) fn closing(&self) {
        self.filled(0);
        let mut state = self.state();
        let (index, broken) = (state.index, state.broken.take());
        *state = State { counts: self.counts(&state), index, broken, ..State::default() };
    }

    fn counts(&self, state: &State) -> Counts {
        let Some(program) = state.program.upgrade() else { return state.counts };
        self.counts_of(&program) - state.counts
    }

    /// Since the program was loaded.
    fn counts_of(&self, program: &Program) -> Counts {
        let mut counts = program.maps().counts(self.queue);
        if self.first {
            counts += program.at_others();
        }
        counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inspect for Inspector {
    fn inspect(&self) -> Details {
        let state = self.state();
        let mut details = Details::default();
        details.facts.push(("interface", self.interface.clone()));
        details.facts.push(("queue", self.queue.to_string()));
        let interface = match state.index {
            Some(index) => Interface::again(index),
            None => Interface::find(&self.interface),
        };
        details.problem.clone_from(&state.broken);
        details.waiting_rooms = self.filled.load(Relaxed);
        let link = match interface {
            Ok(Some(interface)) => {
                details.facts.push(("mtu", interface.mtu.to_string()));
                if interface.strips_tags(&self.interface) {
                    details.facts.push(("vlan-tags", "stripped".to_owned()));
                }
                match (interface.up, interface.carrier) {
                    (true, true) => "up",
                    (true, false) => "no carrier",
                    (false, _) => "down",
                }
            }
            Ok(None) => {
                details.problem.get_or_insert_with(|| error::gone(&self.interface));
                "gone"
            }
            Err(_) => "unknown",
        };
        details.facts.push(("link", link.to_owned()));
        details.facts.extend(state.driver.clone().map(|driver| ("driver", driver)));
        details.facts.extend(state.pinned.clone().map(|pinned| ("pinned", pinned)));
        details.facts.extend(
            self.steering.as_deref().and_then(Steering::told).map(|told| ("steering", told)),
        );
        let counts = self.counts(&state);
        details.counters = [
            ("xdp_redirected", counts.redirected),
            ("xdp_to_kernel_unclaimed", counts.unclaimed),
            ("xdp_to_kernel_no_socket", counts.no_socket),
            ("xdp_to_kernel_steered", counts.steered),
            ("xdp_dropped_steered", counts.dropped),
        ]
        .map(|(name, n)| (name.to_owned(), n))
        .into();
        details
    }
}
