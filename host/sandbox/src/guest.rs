//! The data of a store: the functions in it, their limits, and who is running.

use std::collections::VecDeque;
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};
use weir_layout::WASM_PAGE;
use weir_pool::Memory;

use crate::deadline::{Lateness, Look, Watch};
use crate::fault::{Fault, FaultKind, Overdue, Violation};
use crate::guard::Guard;
use crate::host::Requests;
use crate::memories::Memories;
use crate::memory_ledger::MemoryLedger;
use crate::runner::Board;
use crate::said::one_line;
use crate::telemetry::{Level, Telemetry};

/// Shared memory that can be mapped into guests, independent of who owns the [`Memory`].
#[derive(Clone, Debug)]
pub struct Shared {
    fd: Arc<OwnedFd>,
    bytes: usize,
    align: usize,
}

impl Shared {
    /// A handle to this memory.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new(memory: &Memory) -> std::io::Result<Self> {
        Ok(Self {
            fd: Arc::new(memory.fd().try_clone_to_owned()?),
            bytes: memory.len(),
            align: memory.page_bytes(),
        })
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Alignment that keeps huge pages.
    #[must_use]
    pub fn align(&self) -> usize {
        self.align
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a function sees of its security domain's memory.
#[derive(Clone, Debug)]
pub struct Window {
    /// Burst area and rooms.
    pub memory: Shared,
    /// False: the MMU refuses writes to descriptors and rooms.
    pub writes: bool,
    /// Somebody may be at work in it while the function is configured: all of it is read-only until
    /// that has succeeded ([`crate::configure`]).
    pub in_use: bool,
}

/// What a function may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of linear memory, window and state region not counted.
    pub memory: usize,
    /// Bytes of linear memory and tables that it is instantiated with
    /// ([`crate::Admitted::memory_at_start`]), for when others are instantiated with it.
    pub memory_at_start: usize,
    /// CPU time for one burst.
    pub deadline: Duration,
}

/// A function in a store: what it may use, and what it did.
#[derive(Debug)]
pub struct GuestFunction {
    /// Name, for messages.
    pub name: String,
    /// The window it may attach; none for functions that copy.
    pub window: Option<Window>,
    /// The state region it may attach.
    pub state: Option<Shared>,
    /// Its predecessor's content is in the state region: read-only until it is configured
    /// ([`crate::configure`]).
    pub state_kept: bool,
    /// What it may use.
    pub limits: Limits,
    /// Its log and counters.
    pub telemetry: Arc<Telemetry>,
    /// When it wants `tick` to be called (0: never), in the time of `now`.
    pub timer: u64,
    /// State of its sequence of random numbers.
    random: u64,
    /// The component that its code is of ([`crate::Admitted::hash`]).
    code: Option<[u8; 32]>,
    /// Where the host has mapped its window and state region, by address: they lie apart.
    pub(crate) window_attached: Option<Range<usize>>,
    pub(crate) state_attached: Option<Range<usize>>,
    taken: MemoryLedger,
    lateness: Lateness,
    /// Its read-only pages, see [`crate::guard`].
    pub(crate) guards: Vec<Guard>,
}

impl GuestFunction {
    /// A function that has not started.
    #[must_use]
    pub fn new(
        name: String,
        window: Option<Window>,
        state: Option<(Shared, bool)>,
        limits: Limits,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let (state, state_kept) = match state {
            Some((state, kept)) => (Some(state), kept),
            None => (None, false),
        };
        Self {
            name,
            window,
            state,
            state_kept,
            limits,
            telemetry,
            timer: 0,
            random: 0,
            code: None,
            window_attached: None,
            state_attached: None,
            taken: MemoryLedger::new(limits.memory_at_start),
            lateness: Lateness::default(),
            guards: Vec::new(),
        }
    }

    /// Takes write access away from what the function may only read of its window, watches that,
    /// and enters the rest into the page table.
    ///
    /// # Safety
    /// The window must have been mapped at `start` into a memory of the function's store, and be
    /// writable.
    pub(crate) unsafe fn set_up(&mut self, start: *mut u8, window: &Window) -> std::io::Result<()> {
        let bytes = window.memory.bytes();
        // SAFETY: the caller's contract.
        unsafe {
            crate::window::protect(start, bytes, window.writes)?;
            crate::window::populate(start, window.memory.fd(), bytes);
        }
        for part in crate::window::read_only(bytes, window.writes) {
            let addresses = start as usize + part.start..start as usize + part.end;
            self.guards.push(Guard::new(addresses, part.start, &window.memory)?);
        }
        Ok(())
    }

    /// Where its sequence of random numbers begins: at another place for each name.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        (seed, &self.name).hash(&mut hasher);
        self.random = hasher.finish();
        self
    }

    /// Which component its code is of ([`crate::Admitted::hash`]): [`crate::explain`] finds lines
    /// of source by it.
    #[must_use]
    pub fn with_code(mut self, hash: [u8; 32]) -> Self {
        self.code = Some(hash);
        self
    }

    /// The next of its random numbers: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Linear memory it may reach, with the regions that the host maps onto it.
    fn memory_limit(&self) -> usize {
        let region = |memory: &Shared| memory.bytes() + memory.align();
        let window = self.window.as_ref().map_or(0, |window| region(&window.memory));
        let state = self.state.as_ref().map_or(0, region);
        self.limits.memory.saturating_add(window).saturating_add(state)
    }
}

/// CPU time for what is called once, before a function sees anything: its start code and
/// `configure`, unless [`Guest::setup`] says otherwise. Big tables are read there.
pub const SETUP_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes that a guest may hand the host in one call, or answer: they may be copied into the host's
/// memory. Where regions are handed over, of which nothing is copied, there may be more
/// ([`giving`](crate::giving)).
pub const ARGUMENTS_MAX: usize = 4 << 20;
/// Bytes that a function may save.
pub(crate) const SAVED_MAX: usize = 128 << 20;

/// Bytes of memories and tables that there may be after instantiation beside what the functions may
/// have: the chain runner's, and tables of a function whose memory is all that it may have.
const RUNNER_MEMORY: usize = 1 << 20;

/// What is said of who wrote where the MMU refuses it, with the host's hand ([`crate::guard`]).
const TRESPASS: &str =
    "it wrote, by a bulk or interface operation, to memory that it may only read";

/// Lines that [`Guest::heard`] gives, and bytes of each.
const HEARD_LINES: usize = 8;
const HEARD_BYTES: usize = 512;

/// Core instances of a function; components of many libraries have some dozens. The chain's runner
/// has as many.
pub const INSTANCES_MAX: usize = 256;
/// Tables of a function.
pub const TABLES_MAX: usize = 64;
/// Between two looks at the count of epochs that are so far apart there is one from its beginning
/// to its end.
const WHOLE_EPOCH: u64 = 2;

/// Linear memories of a function. Each takes three of the mappings of which a process has 65,530.
pub const MEMORIES_MAX: usize = 16;

/// Who is running in a store.
#[derive(Clone, Debug, Default)]
pub enum Running {
    /// Nobody: a call now is a host bug, and is not bounded by a deadline.
    #[default]
    Nobody,
    /// Start code, while the store's functions are instantiated.
    Start {
        /// Whose; none: of one of those that are linked together, not known which.
        place: Option<usize>,
    },
    /// This function, called by itself, with this much CPU time.
    Function {
        /// Its place.
        place: usize,
        /// CPU time it has.
        deadline: Duration,
    },
    /// A linked chain. Its runner notes in shared memory who runs.
    Chain,
}

/// The data of a store with one function, or with a linked chain of them. `S` is what the packet
/// plane lends while it runs the store.
#[derive(Debug)]
pub struct Guest<S> {
    /// The functions, by place.
    pub functions: Vec<GuestFunction>,
    /// What the packet plane lends; none while the store is being prepared.
    pub services: Option<S>,
    /// The earliest of the functions' timers, 0 when none is set.
    pub next_timer: u64,
    /// CPU time for start code, and for each `configure`.
    pub setup: Duration,
    running: Running,
    pub(crate) board: Option<Board>,
    watch: Watch,
    /// Counts the epochs; none in a guest without a store.
    pub(crate) epochs: Option<Arc<AtomicU64>>,
    /// How many there had been when what runs began.
    begun: u64,
    /// What was made or grown while functions were instantiated.
    at_start: MemoryLedger,
    memories: Memories,
    /// The last lines that were logged since [`Self::listen`].
    heard: Option<VecDeque<String>>,
}

impl<S> Guest<S> {
    /// Data for a store with these functions.
    #[must_use]
    pub fn new(functions: Vec<GuestFunction>) -> Self {
        Self {
            functions,
            services: None,
            next_timer: 0,
            setup: SETUP_DEADLINE,
            running: Running::Nobody,
            board: None,
            watch: Watch::default(),
            epochs: None,
            begun: 0,
            at_start: MemoryLedger::default(),
            memories: Memories::default(),
            heard: None,
        }
    }

    /// Whether the function attached a state region with its predecessor's content.
    fn state_is_kept(&self, place: usize) -> bool {
        let function = &self.functions[place];
        function.state_kept && function.state_attached.is_some()
    }

    /// Whether this fault of its `configure` is taken to mean that it wrote to the region of
    /// [`Self::state_is_kept`]: then it is started once more, with a fresh one. Who took too long
    /// has written nothing.
    #[must_use]
    pub(crate) fn lays_state_out_anew(&self, place: usize, fault: &Fault) -> bool {
        fault.kind != FaultKind::Deadline && self.state_is_kept(place)
    }

    /// The function is configured and is not called before those that are at work in its window and
    /// state region are done, or share them knowingly: lets it write there from now on, where it
    /// may.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn open(&mut self, place: usize) -> std::io::Result<()> {
        let function = &mut self.functions[place];
        if let (Some(range), Some(window)) = (&function.window_attached, &function.window)
            && window.in_use
        {
            let (start, window) = (range.start as *mut u8, window.clone());
            // Those of all of it, and of the state region, which is open in a moment.
            function.guards.clear();
            // SAFETY: the range was mapped by `attach_window`; otherwise as for the state region
            // below.
            unsafe {
                crate::window::open(start, range.len())?;
                function.set_up(start, &window)?;
            }
        }
        match &function.state_attached {
            Some(range) if function.state_kept => {
                // SAFETY: the range was mapped by `attach_state` into a memory of this store, whose
                // data this is; nothing else was mapped over it since but private copies of its
                // pages (`guard`), of a function that wrote there and is stopped for it before this
                // is called. Memories never move, and go only with the store.
                unsafe { crate::window::open(range.start as *mut u8, range.len()) }
            }
            _ => Ok(()),
        }
    }

    /// What came of a call, with the fault if there is one: of the function that wrote, through the
    /// host, to memory that it may only read, whatever else happened then; or of the one that ran
    /// last. Costs one load when all is well.
    ///
    /// # Errors
    /// When there is a fault.
    #[inline]
    pub fn outcome<T>(&mut self, called: wasmtime::Result<T>) -> Result<T, Fault> {
        if crate::guard::anybody()
            && let Some(place) =
                self.functions.iter().position(|f| f.guards.iter().any(Guard::take))
        {
            let (kind, message) = (FaultKind::Contract, TRESPASS.to_owned());
            return Err(Fault { kind, function: Some(place), message, lost: Duration::ZERO });
        }
        called
            .and_then(|answer| self.look_behind().map(|()| answer))
            .map_err(|error| self.fault(&error))
    }

    /// Whether one of the functions has written, through the host, to memory that it may only read.
    fn is_trespassed(&self) -> bool {
        crate::guard::anybody()
            && self.functions.iter().any(|f| f.guards.iter().any(Guard::is_marked))
    }

    /// Bytes that the function may hand the host in one call of its `configure`, for
    /// [`giving`](crate::giving): its regions, and what it says beside.
    #[must_use]
    pub(crate) fn given_in_setup(&self, place: usize) -> usize {
        self.functions[place].memory_limit().saturating_add(ARGUMENTS_MAX)
    }

    /// Sets or (0) cancels a function's timer.
    pub fn set_timer(&mut self, place: usize, at: u64) {
        self.functions[place].timer = at;
        self.next_timer =
            self.functions.iter().map(|f| f.timer).filter(|t| *t != 0).min().unwrap_or(0);
    }

    /// Says who is about to run.
    #[inline]
    pub fn set_running(&mut self, running: Running) {
        if let Running::Start { place: Some(place) } = running {
            // All that there is at the start is counted as it is made.
            self.functions[place].taken = MemoryLedger::default();
        }
        self.running = running;
        self.begun = self.epochs();
        self.watch.begin();
        self.begin_burst();
    }

    /// The epochs that there have been.
    #[inline]
    fn epochs(&self) -> u64 {
        self.epochs.as_ref().map_or(0, |epochs| epochs.load(Ordering::Relaxed))
    }

    /// What runs now is called once in a while: its CPU time is known from here on.
    pub(crate) fn watch_exactly(&mut self) {
        let burst = self.burst();
        self.watch.begin_burst(burst);
    }

    /// A burst, or a call, begins. Costs a comparison, unless there is a doubt whether somebody
    /// runs long without being looked at.
    #[inline]
    pub(crate) fn begin_burst(&mut self) {
        if self.watch.is_in_doubt() {
            let burst = self.burst();
            self.watch.begin_burst(burst);
        }
    }

    /// Number of the burst of a linked chain; 0 in a call that is not the runner's.
    fn burst(&self) -> u32 {
        match (&self.running, &self.board) {
            (Running::Chain, Some(board)) => board.burst(),
            _ => 0,
        }
    }

    /// The place of the function that is running.
    #[must_use]
    pub fn who(&self) -> Option<usize> {
        match self.running {
            Running::Nobody | Running::Start { .. } => None,
            Running::Function { place, .. } => Some(place),
            Running::Chain => {
                let place = self.board.as_ref()?.who();
                (place < self.functions.len()).then_some(place)
            }
        }
    }

    /// Keeps what functions log from now on, as far as a fault's explanation has room for it: of a
    /// call for which there is no other log yet.
    pub(crate) fn listen(&mut self) {
        self.heard = Some(VecDeque::new());
    }

    /// What was logged since [`Self::listen`]: the last lines, oldest first. Nothing more is kept.
    pub(crate) fn heard(&mut self) -> Vec<String> {
        self.heard.take().unwrap_or_default().into()
    }

    /// Logs a line of the function at this place.
    pub(crate) fn log(&mut self, place: usize, level: Level, message: &str) {
        self.functions[place].telemetry.log(level, message);
        if let Some(heard) = &mut self.heard {
            if heard.len() == HEARD_LINES {
                heard.pop_front();
            }
            let message = one_line(message);
            heard.push_back(message[..message.floor_char_boundary(HEARD_BYTES)].trim().to_owned());
        }
    }

    /// Explains wasmtime's error and names the function at fault.
    fn fault(&self, error: &wasmtime::Error) -> Fault {
        let who = self.who();
        let function = who.map(|place| &self.functions[place]);
        let refused = function.filter(|f| f.taken.is_refused()).map(|f| f.limits.memory);
        let fault = Fault::new(error, who, refused);
        fault.in_code(function.and_then(|f| f.code))
    }

    /// Who takes memories and tables now, and how many bytes there may be; nobody while nobody
    /// runs.
    fn taking(&mut self) -> Option<(&mut MemoryLedger, usize)> {
        if let Running::Start { place: Some(place) } = self.running {
            let function = &mut self.functions[place];
            let limit = function.memory_limit().saturating_add(RUNNER_MEMORY);
            return Some((&mut function.taken, limit));
        }
        if matches!(self.running, Running::Start { .. }) {
            // Regions are attached when it is over, so no memory is made for them. Tables below a
            // page are in no limit.
            let limits = self.functions.iter().map(|f| f.limits.memory.saturating_add(WASM_PAGE));
            return Some((&mut self.at_start, limits.fold(RUNNER_MEMORY, usize::saturating_add)));
        }
        let who = self.who()?;
        let function = &mut self.functions[who];
        let limit = function.memory_limit();
        Some((&mut function.taken, limit))
    }

    /// Called at each epoch while a guest runs: has the one that runs used up its time, or one of
    /// them written where it must not?
    pub(crate) fn look(mut context: StoreContextMut<'_, Self>) -> wasmtime::Result<UpdateDeadline> {
        let guest = context.data_mut();
        if guest.is_trespassed() {
            return Err(wasmtime::Error::new(Violation(TRESPASS.to_owned())));
        }
        guest.is_in_time()?;
        Ok(UpdateDeadline::Continue(1))
    }

    /// Whether the one that runs has used up its time.
    fn is_in_time(&mut self) -> wasmtime::Result<()> {
        let who = self.who();
        let limit = match (&self.running, who) {
            (Running::Start { .. }, _) => self.setup,
            (Running::Function { deadline, .. }, _) => *deadline,
            (Running::Chain, Some(place)) => self.functions[place].limits.deadline,
            (Running::Chain, None) | (Running::Nobody, _) => return Ok(()),
        };
        let burst = self.burst();
        let Look { is_over, late } = self.watch.look(who, burst, limit);
        // Also of one whose time is up: each look forgives something.
        let function = who.map(|place| &mut self.functions[place]);
        let late = function.map(|function| (function.lateness.add(late, limit), function.lateness));
        let (is_late, lateness) = late.unwrap_or_default();
        if is_over || is_late {
            let lost = limit.saturating_add(lateness.time());
            return Err(wasmtime::Error::new(Overdue { limit, lost }));
        }
        Ok(())
    }

    /// A function that was called by itself is done. The engine may have worked for it to its very
    /// end, where no epoch is looked at. Costs a load if it was short.
    #[inline]
    fn look_behind(&mut self) -> wasmtime::Result<()> {
        let is_long = self.epochs() - self.begun >= WHOLE_EPOCH;
        if is_long && matches!(self.running, Running::Function { .. }) {
            return self.is_in_time();
        }
        Ok(())
    }

    /// The runner is about to call the function at this place in a burst that somebody looks at.
    pub(crate) fn begin_watched(&mut self, place: usize) {
        let burst = self.burst();
        self.watch.begin_exactly(place, burst);
    }

    /// The function that the runner called in such a burst is done, and still noted as the one that
    /// runs.
    pub(crate) fn end_watched(&mut self) -> wasmtime::Result<()> {
        self.is_in_time()
    }
}

impl<S: Requests> ResourceLimiter for Guest<S> {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self
            .taking()
            .is_none_or(|(taken, limit)| taken.memory(current, desired, maximum, limit));
        if allowed {
            self.memories.grows(current, desired, maximum);
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.taking().is_none_or(|(taken, limit)| taken.table(current, desired, maximum, limit)))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX * (self.functions.len() + 1)
    }

    fn tables(&self) -> usize {
        TABLES_MAX * (self.functions.len() + 1)
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX * (self.functions.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use weir_pool::HugePages;

    use super::*;

    #[test]
    fn a_fault_means_another_layout_where_there_is_kept_state_and_time_was_not_up() {
        let memory = Memory::new("kept", 4096, HugePages::Never).unwrap();
        let state = Some((Shared::new(&memory).unwrap(), true));
        let limits = Limits { memory: 0, memory_at_start: 0, deadline: Duration::ZERO };
        let function = GuestFunction::new("keeps".into(), None, state, limits, Arc::default());
        let mut guest = Guest::<()>::new(vec![function]);
        let fault =
            |kind| Fault { kind, function: Some(0), message: String::new(), lost: Duration::ZERO };
        assert!(!guest.lays_state_out_anew(0, &fault(FaultKind::Trap)), "it was not attached");
        guest.functions[0].state_attached = Some(0..4096);
        for (kind, anew) in
            [(FaultKind::Trap, true), (FaultKind::Contract, true), (FaultKind::Deadline, false)]
        {
            assert_eq!(guest.lays_state_out_anew(0, &fault(kind)), anew, "{kind:?}");
        }
    }
}
