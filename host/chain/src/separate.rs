//! The same chain, one function at a time, each in a store of its own.
//!
//! Does in Rust what `runner.wat` does in Wasm, over the same control area; a property test holds
//! the two to the same output. Slower: an entry into Wasm for each function and burst.

use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, ComponentType, Lift, TypedFunc};
use weir_layout::{self as layout, BURST_AREA, Descriptor, HEADROOM, Metadata, Verdict};
use weir_pool::Memory;
use weir_sandbox::{
    Exports, Fault, Guest, Running, Sandbox, Services, Shared, World, link_function,
};

use crate::board::runs;
use crate::executor::{ChainError, ChainSpec, Tick, guest_function, new_board, setup};
use crate::linked::{Calls, begin, head_bytes, restore, save, tick, with_services, word, wrong};
use crate::{board, bursting, control as at};

/// The separate chain of one worker.
pub struct Separate<S: 'static> {
    functions: Vec<Function<S>>,
    board: Memory,
    room_bytes: u32,
}

struct Function<S: 'static> {
    store: Store<Guest<S>>,
    process: Process,
    calls: Calls,
    writes: bool,
}

enum Process {
    Window(TypedFunc<(u32,), ()>),
    Copy(TypedFunc<(Vec<u8>, u32, u64), (Outcome,)>),
    Burst { process: TypedFunc<(Vec<u8>,), (bursting::Answer,)>, head: usize },
}

/// WIT `packet-copy.outcome`.
#[derive(ComponentType, Lift)]
#[component(record)]
struct Outcome {
    verdict: u32,
    packet: Option<Vec<u8>>,
}

impl<S: Services> Separate<S> {
    pub(crate) fn new(
        sandbox: &Sandbox,
        spec: &ChainSpec,
        components: &[Component],
        window: &Shared,
        room_bytes: u32,
        setup_deadline: Duration,
    ) -> Result<Self, ChainError> {
        let mut functions = Vec::new();
        for (place, (function, component)) in spec.functions.iter().zip(components).enumerate() {
            // Each store knows all functions, so that a place means the same in every one.
            let guests = spec.functions.iter().map(|f| guest_function(f, window)).collect();
            let mut linker = sandbox.linker();
            link_function(&mut linker, "weir:net/host@0.1.0", place).map_err(wrong)?;
            let mut guest = Guest::new(guests);
            guest.setup = setup_deadline;
            let mut store = sandbox.store(guest);
            let instance = sandbox
                .instantiate(&linker, &mut store, component, Some(place))
                .map_err(|error| ChainError::start(error, std::slice::from_ref(function)))?;
            let interface = function.admitted.world.interface();
            let exports = Exports { instance: &instance, interface };
            let mut process = match function.admitted.world {
                World::Window => {
                    Process::Window(exports.get(&mut store, "process").map_err(wrong)?)
                }
                World::Copy => Process::Copy(exports.get(&mut store, "process").map_err(wrong)?),
                World::Burst => Process::Burst {
                    process: exports.get(&mut store, "process").map_err(wrong)?,
                    head: 0,
                },
                World::Message | World::Connection | World::Proxy => {
                    return Err(ChainError::World(function.name.clone()));
                }
            };
            let snapshot = Exports { instance: &instance, interface: "weir:net/snapshot@0.1.0" };
            let snapshot = function.admitted.saves.then_some(snapshot);
            let setup = setup(spec, place, window, room_bytes);
            let calls = begin(&mut store, place, exports, snapshot, setup)?;
            if let Process::Burst { head, .. } = &mut process {
                *head = head_bytes(&mut store, place, exports)? as usize;
            }
            functions.push(Function { store, process, calls, writes: function.writes });
        }
        Ok(Self { functions, board: new_board(room_bytes)?, room_bytes })
    }

    /// Has the function at `place` process the first `count` packets of the window, and leaves its
    /// verdicts there, unapplied: the packets have been filled in with [`crate::board::fill`].
    ///
    /// # Errors
    /// When it trapped.
    pub fn probe(
        &mut self,
        services: &mut Option<S>,
        place: usize,
        count: usize,
    ) -> Result<(), Fault> {
        board::forget_verdicts(lent(services).window());
        self.call(services, place, count)
    }

    pub(crate) fn board(&self) -> &Memory {
        &self.board
    }

    pub(crate) fn board_mut(&mut self) -> &mut Memory {
        &mut self.board
    }

    pub(crate) fn run(
        &mut self,
        services: &mut Option<S>,
        count: usize,
        start: usize,
        reverse: bool,
    ) -> Result<(), Fault> {
        self.board.set(at::DONE, 0u32);
        self.board.set(at::PARKED, 0u32);
        self.board.set(at::EVEN, 0u32);
        board::forget_verdicts(lent(services).window());
        let mut active = count;
        if reverse {
            for place in (0..=start.min(self.functions.len() - 1)).rev() {
                active = self.step(services, place, active, true)?;
            }
        } else {
            for place in start..self.functions.len() {
                active = self.step(services, place, active, false)?;
            }
        }
        self.board.set(at::ACTIVE, word(active));
        self.board.set(at::POSITION, at::NOBODY);
        Ok(())
    }

    pub(crate) fn serve(&mut self, services: &mut Option<S>) -> Result<(), Fault> {
        loop {
            let burst = lent(services).next_burst(&mut self.board);
            if burst == 0 {
                return Ok(());
            }
            let (count, start, reverse) = unpack(burst);
            self.run(services, count, start, reverse)?;
        }
    }

    pub(crate) fn next_timer(&self) -> u64 {
        let timers = self.functions.iter().map(|f| f.store.data().next_timer).enumerate();
        let timers = timers.filter(|(place, timer)| *timer != 0 && runs(&self.board, *place));
        timers.map(|(_, timer)| timer).min().unwrap_or(0)
    }

    pub(crate) fn tick(
        &mut self,
        services: &mut Option<S>,
        now: u64,
        who: Tick,
    ) -> Result<(), Fault> {
        for (place, function) in self.functions.iter_mut().enumerate() {
            if !runs(&self.board, place) {
                continue;
            }
            tick(&mut function.store, services, place, &function.calls.tick, now, who)?;
        }
        Ok(())
    }

    pub(crate) fn save(&mut self, place: usize) -> Result<Option<Vec<u8>>, ChainError> {
        let function = &mut self.functions[place];
        save(&mut function.store, place, function.calls.snapshot.as_ref())
    }

    pub(crate) fn restore(&mut self, place: usize, saved: &[u8]) -> Result<(), ChainError> {
        let function = &mut self.functions[place];
        restore(&mut function.store, place, function.calls.snapshot.as_ref(), saved)
    }

    /// One function's turn; the answer is how many packets stay.
    fn step(
        &mut self,
        services: &mut Option<S>,
        place: usize,
        mut count: usize,
        reverse: bool,
    ) -> Result<usize, Fault> {
        if self.board.get::<u32>(at::PARKED) != 0 {
            count = self.unpark(lent(services).window(), place, count);
        }
        if count == 0 {
            return Ok(0);
        }
        match self.board.get::<u8>(at::MODES + place) {
            at::RUN => {}
            at::SKIP => return Ok(count),
            _ => {
                for slot in 0..count {
                    let (origin, descriptor) = at::kept(&self.board, slot);
                    self.finish(origin, word(place) | at::REFUSED, 0, descriptor);
                }
                return Ok(0);
            }
        }
        self.board.set(at::POSITION, word(place));
        self.board.set(at::ACTIVE, word(count));
        let seen = at::SEEN + place * 8;
        self.board.set(seen, self.board.get::<u64>(seen) + count as u64);
        let watched = self.board.get::<u32>(at::WATCHED) != 0;
        if watched {
            lent(services).look(place, count, false);
            lent(services).time(place, count, false);
        }
        self.call(services, place, count)?;
        if watched {
            lent(services).time(place, count, true);
            lent(services).look(place, count, true);
        }
        Ok(self.settle(services, place, count, reverse))
    }

    fn call(&mut self, services: &mut Option<S>, place: usize, count: usize) -> Result<(), Fault> {
        let function = &mut self.functions[place];
        let deadline = function.store.data().functions[place].limits.deadline;
        let running = Running::Function { place, deadline };
        match &function.process {
            Process::Window(process) => {
                let process = *process;
                with_services(&mut function.store, services, running, |store| {
                    process.call(store, (word(count),))
                })
            }
            Process::Copy(process) => {
                let process = *process;
                for slot in 0..count {
                    let (_, descriptor) = at::kept(&self.board, slot);
                    let window = lent(services).window();
                    let mut packet = vec![0; descriptor.length as usize];
                    window.copy_out(descriptor.offset as usize, &mut packet);
                    let port = window.get::<Metadata>(layout::METADATA + slot * 8).port;
                    let now = window.get::<u64>(layout::CLOCK);
                    let mut answer = None;
                    with_services(&mut function.store, services, running.clone(), |store| {
                        answer = Some(process.call(store, (packet, port.into(), now))?.0);
                        Ok(())
                    })?;
                    let answer = answer.expect("the call gave an answer");
                    let writes = function.writes;
                    let window = lent(services).window();
                    store_outcome(window, slot, descriptor, self.room_bytes, writes, answer);
                }
                Ok(())
            }
            Process::Burst { process, head } => {
                let (process, head) = (*process, *head);
                let mut first = 0;
                while first < count {
                    let kept: Vec<_> =
                        (first..count).map(|slot| at::kept(&self.board, slot).1).collect();
                    let (burst, staged) =
                        bursting::stage(lent(services).window(), &kept, first, head);
                    let mut answer = None;
                    with_services(&mut function.store, services, running.clone(), |store| {
                        answer = Some(process.call(store, (burst,))?.0);
                        Ok(())
                    })?;
                    let answer = answer.expect("the call gave an answer");
                    let mut part = bursting::Part {
                        window: lent(services).window(),
                        kept: &kept[..staged],
                        first,
                        head,
                        room_bytes: self.room_bytes,
                        writes: function.writes,
                    };
                    part.apply(&answer);
                    first += staged;
                }
                Ok(())
            }
        }
    }

    fn settle(
        &mut self,
        services: &mut Option<S>,
        place: usize,
        count: usize,
        reverse: bool,
    ) -> usize {
        let writes = self.functions[place].writes;
        let last = self.functions.len() - 1;
        let mut stay = 0;
        for slot in 0..count {
            let window = lent(services).window();
            let verdict = window.get::<u32>(layout::VERDICTS + slot * 4);
            let metadata = window.get::<Metadata>(layout::METADATA + slot * 8);
            let (origin, kept) = at::kept(&self.board, slot);
            let now = if writes {
                window.get::<Descriptor>(layout::DESCRIPTORS + slot * 8)
            } else {
                kept
            };
            let room = kept.offset & !(self.room_bytes - 1);
            if now != kept && !now.lies_in(room, self.room_bytes) {
                self.finish(origin, word(place) | at::BAD_DESCRIPTOR, verdict, now);
                continue;
            }
            let stays = match Verdict::decode_final(verdict) {
                Some((Verdict::Next, whole_flow)) => {
                    if whole_flow {
                        at::add_final(&mut self.board, origin, place);
                    }
                    true
                }
                Some((Verdict::Jump(target), _)) => {
                    let target = usize::from(target);
                    let later =
                        if reverse { target < place } else { (place + 1..=last).contains(&target) };
                    if later {
                        self.park(origin, target, now, metadata);
                        let jumped = at::JUMPED + place * 8;
                        self.board.set(jumped, self.board.get::<u64>(jumped) + 1);
                    } else {
                        self.finish(origin, word(place) | at::BAD_VERDICT, verdict, now);
                    }
                    false
                }
                Some((Verdict::Clone(port), _)) => {
                    let exists =
                        lent(services).clone_packet(now.offset, now.length, u32::from(port));
                    if exists {
                        let cloned = at::CLONED + place * 8;
                        self.board.set(cloned, self.board.get::<u64>(cloned) + 1);
                    } else {
                        self.finish(origin, word(place) | at::BAD_VERDICT, verdict, now);
                    }
                    exists
                }
                Some(_) => {
                    self.finish(origin, word(place), verdict, now);
                    false
                }
                None => {
                    self.finish(origin, word(place) | at::BAD_VERDICT, verdict, now);
                    false
                }
            };
            if stays {
                self.put(lent(services).window(), stay, origin, now, metadata);
                stay += 1;
            }
        }
        let window = lent(services).window();
        for slot in 0..count {
            window.set(layout::VERDICTS + slot * 4, 0u32);
        }
        stay
    }

    fn put(
        &mut self,
        window: &mut Memory,
        slot: usize,
        origin: usize,
        descriptor: Descriptor,
        metadata: Metadata,
    ) {
        self.board.set(at::ORIGINS + slot * 4, word(origin));
        self.board.set(at::KEPT + slot * 8, descriptor);
        window.set(layout::DESCRIPTORS + slot * 8, descriptor);
        window.set(layout::METADATA + slot * 8, metadata);
    }

    fn finish(&mut self, origin: usize, function: u32, verdict: u32, descriptor: Descriptor) {
        let index = self.board.get::<u32>(at::DONE);
        at::set_done(&mut self.board, index as usize, origin, function, verdict, descriptor);
        self.board.set(at::DONE, index + 1);
    }

    fn park(&mut self, origin: usize, target: usize, descriptor: Descriptor, metadata: Metadata) {
        let index = self.board.get::<u32>(at::PARKED);
        let parked = at::Parked { origin, target, descriptor, metadata };
        at::set_parked(&mut self.board, index as usize, parked);
        self.board.set(at::PARKED, index + 1);
    }

    /// Takes packets that wait for this function back into the vector, in the burst's order.
    fn unpark(&mut self, window: &mut Memory, place: usize, mut count: usize) -> usize {
        let parked = self.board.get::<u32>(at::PARKED) as usize;
        let mut left = 0;
        for index in 0..parked {
            let record = at::parked(&self.board, index);
            if record.target != place {
                at::set_parked(&mut self.board, left, record);
                left += 1;
                continue;
            }
            let mut slot = count;
            while slot > 0 {
                let (origin, descriptor) = at::kept(&self.board, slot - 1);
                if origin < record.origin {
                    break;
                }
                let metadata = window.get::<Metadata>(layout::METADATA + (slot - 1) * 8);
                self.put(window, slot, origin, descriptor, metadata);
                slot -= 1;
            }
            self.put(window, slot, record.origin, record.descriptor, record.metadata);
            // A function before may have written behind the packets that it was given.
            window.set(layout::VERDICTS + count * 4, 0u32);
            count += 1;
        }
        self.board.set(at::PARKED, word(left));
        count
    }
}

fn lent<S>(services: &mut Option<S>) -> &mut S {
    services.as_mut().expect("the packet plane lends its services for a run")
}

/// The parts of a packed burst, see [`crate::board::pack`].
fn unpack(burst: u64) -> (usize, usize, bool) {
    ((burst & 0xffff) as usize, (burst >> 16 & 0xffff) as usize, burst >> 32 != 0)
}

/// A verdict that means nothing: what a function without a window may not do.
pub(crate) const NOTHING: u32 = 0xff;

/// Writes a copying function's answer into the window, where it is settled like any other's.
fn store_outcome(
    window: &mut Memory,
    slot: usize,
    kept: Descriptor,
    room_bytes: u32,
    writes: bool,
    answer: Outcome,
) {
    let mut verdict = answer.verdict;
    if verdict & 0xff == Verdict::Hold.kind() {
        verdict = NOTHING;
    }
    if let Some(packet) = answer.packet {
        if !writes || packet.len() + HEADROOM > room_bytes as usize {
            verdict = NOTHING;
        } else {
            let offset = (kept.offset & !(room_bytes - 1)) + word(HEADROOM);
            debug_assert!(offset as usize >= BURST_AREA);
            window.copy_in(offset as usize, &packet);
            let moved = Descriptor { offset, length: word(packet.len()) };
            window.set(layout::DESCRIPTORS + slot * 8, moved);
        }
    }
    window.set(layout::VERDICTS + slot * 4, verdict);
}
