//! A chain as one component.

use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, TypedFunc};
use weir_layout::WASM_PAGE;
use weir_pool::Memory;
use weir_sandbox::{
    ARGUMENTS_MAX, Configure, Exports, Fault, Guest, Running, Sandbox, Services, Setup, Shared,
    Snapshot, World, configure, giving, link_function, link_runner, once,
};

use crate::board::runs;
use crate::executor::{ChainError, ChainSpec, Tick, guest_function, new_board, setup};
use crate::{board, compose, control};

/// The linked chain of one worker.
pub struct LinkedChain<S: 'static> {
    store: Store<Guest<S>>,
    run: TypedFunc<(u32, u32, u32), ()>,
    serve: TypedFunc<(), ()>,
    functions: Vec<Calls>,
}

/// What is called of a function beside `process`.
pub(crate) struct Calls {
    pub(crate) tick: TypedFunc<(u64,), ()>,
    pub(crate) snapshot: Option<Snapshot>,
}

impl<S: Services> LinkedChain<S> {
    pub(crate) fn new(
        sandbox: &Sandbox,
        spec: &ChainSpec,
        component: &Component,
        window: &Shared,
        room_bytes: u32,
        setup_deadline: Duration,
    ) -> Result<Self, ChainError> {
        let functions = spec.functions.iter().map(|f| guest_function(f, window)).collect();
        let mut guest = Guest::new(functions);
        guest.setup = setup_deadline;
        let board = new_board(room_bytes)?;
        guest.set_board(board, window.clone(), control::POSITION, control::SEQUENCE);
        let mut linker = sandbox.linker();
        for place in 0..spec.functions.len() {
            link_function(&mut linker, &compose::function_import(place), place).map_err(wrong)?;
        }
        link_runner(&mut linker, compose::RUNNER_IMPORT).map_err(wrong)?;
        let mut store = sandbox.store(guest);
        let instance = sandbox
            .instantiate(&linker, &mut store, component, None)
            .map_err(|error| ChainError::start(error, &spec.functions))?;

        let copies = spec.functions.iter().any(|f| f.admitted.world != World::Window);
        // One Wasm page more, because the runner rounds down to whole pages.
        let bytes = if copies { window.bytes() } else { 0 };
        let align = window.align().next_multiple_of(WASM_PAGE);
        let attach: TypedFunc<(u32, u32), ()> =
            instance.get_typed_func(&mut store, "attach").map_err(wrong)?;
        let word = |n: usize| u32::try_from(n).expect("windows are far below 4 GiB");
        giving(&mut store, bytes + align + ARGUMENTS_MAX, |store| {
            attach.call(store, (word(bytes), word(align)))
        })
        .map_err(wrong)?;

        let mut functions = Vec::new();
        for (place, function) in spec.functions.iter().enumerate() {
            let name = compose::function_export(place);
            let exports = Exports { instance: &instance, interface: &name };
            let name = compose::snapshot_export(place);
            let snapshot = Exports { instance: &instance, interface: &name };
            let snapshot = function.admitted.saves.then_some(snapshot);
            let setup = setup(spec, place, window, room_bytes);
            functions.push(begin(&mut store, place, exports, snapshot, setup)?);
            if function.admitted.world == World::Burst {
                let heads = head_bytes(&mut store, place, exports)?;
                store.data_mut().board_mut().0.set(control::HEADS + place * 4, heads);
            }
        }
        let run = instance.get_typed_func(&mut store, "run").map_err(wrong)?;
        let serve = instance.get_typed_func(&mut store, "serve").map_err(wrong)?;
        Ok(Self { store, run, serve, functions })
    }

    pub(crate) fn board(&self) -> &Memory {
        self.store.data().board()
    }

    pub(crate) fn board_mut(&mut self) -> &mut Memory {
        self.store.data_mut().board_mut().0
    }

    pub(crate) fn run(
        &mut self,
        services: &mut Option<S>,
        count: usize,
        start: usize,
        reverse: bool,
    ) -> Result<(), Fault> {
        let parameters = (word(count), word(start), u32::from(reverse));
        let run = self.run;
        with_services(&mut self.store, services, Running::Chain, |store| {
            run.call(store, parameters)
        })
    }

    pub(crate) fn serve(&mut self, services: &mut Option<S>) -> Result<(), Fault> {
        let serve = self.serve;
        with_services(&mut self.store, services, Running::Chain, |store| serve.call(store, ()))
    }

    pub(crate) fn next_timer(&self) -> u64 {
        let guest = self.store.data();
        if guest.next_timer == 0 {
            return 0;
        }
        let timers = guest.functions.iter().map(|function| function.timer).enumerate();
        let timers = timers.filter(|(place, timer)| *timer != 0 && runs(guest.board(), *place));
        timers.map(|(_, timer)| timer).min().unwrap_or(0)
    }

    pub(crate) fn tick(
        &mut self,
        services: &mut Option<S>,
        now: u64,
        who: Tick,
    ) -> Result<(), Fault> {
        for place in 0..self.functions.len() {
            if !runs(self.board(), place) {
                continue;
            }
            tick(&mut self.store, services, place, &self.functions[place].tick, now, who)?;
        }
        Ok(())
    }

    pub(crate) fn save(&mut self, place: usize) -> Result<Option<Vec<u8>>, ChainError> {
        save(&mut self.store, place, self.functions[place].snapshot.as_ref())
    }

    pub(crate) fn restore(&mut self, place: usize, saved: &[u8]) -> Result<(), ChainError> {
        restore(&mut self.store, place, self.functions[place].snapshot.as_ref(), saved)
    }
}

#[inline]
pub(crate) fn word(n: usize) -> u32 {
    u32::try_from(n).expect("bursts and chains are small")
}

/// Lends the services to the store for the time of a call, and explains what goes wrong.
#[inline]
pub(crate) fn with_services<S: Services>(
    store: &mut Store<Guest<S>>,
    services: &mut Option<S>,
    running: Running,
    call: impl FnOnce(&mut Store<Guest<S>>) -> wasmtime::Result<()>,
) -> Result<(), Fault> {
    let guest = store.data_mut();
    guest.services = services.take();
    guest.set_running(running);
    let result = call(store);
    let guest = store.data_mut();
    *services = guest.services.take();
    let result = guest.outcome(result);
    guest.set_running(Running::Nobody);
    if result.is_err()
        && let Some(services) = services
    {
        board::forget_verdicts(services.window());
    }
    result
}

/// What is wrong with an instance's types.
pub(crate) fn wrong(error: wasmtime::Error) -> ChainError {
    ChainError::Instantiate(format!("{error:#}"))
}

/// Configures the function at this place, with these exports, and those of `snapshot` if it has
/// them: what is called of it later.
pub(crate) fn begin<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    exports: Exports<'_>,
    snapshot: Option<Exports<'_>>,
    setup: Setup,
) -> Result<Calls, ChainError> {
    let take: Configure<()> = exports.get(store, "configure").map_err(wrong)?;
    let tick = exports.get(store, "tick").map_err(wrong)?;
    let snapshot = snapshot.map(|s| s.snapshot(store)).transpose().map_err(wrong)?;
    configure(store, place, &take, setup)?;
    Ok(Calls { tick, snapshot })
}

/// How many bytes of each packet a function wants that gets bursts by value.
pub(crate) fn head_bytes<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    exports: Exports<'_>,
) -> Result<u32, ChainError> {
    let ask: TypedFunc<(), (u32,)> = exports.get(store, "head-bytes").map_err(wrong)?;
    let deadline = store.data().setup;
    let (bytes,) = once(store, place, "head-bytes", deadline, |store| ask.call(store, ()))?;
    Ok(bytes)
}

pub(crate) fn save<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    snapshot: Option<&Snapshot>,
) -> Result<Option<Vec<u8>>, ChainError> {
    Ok(snapshot.map(|snapshot| snapshot.save(store, place)).transpose()?)
}

pub(crate) fn restore<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    snapshot: Option<&Snapshot>,
    saved: &[u8],
) -> Result<(), ChainError> {
    let Some(snapshot) = snapshot else { return Ok(()) };
    Ok(snapshot.restore(store, place, saved.to_vec())?)
}

/// Calls a function's `tick` if it is its turn.
pub(crate) fn tick<S: Services>(
    store: &mut Store<Guest<S>>,
    services: &mut Option<S>,
    place: usize,
    tick: &TypedFunc<(u64,), ()>,
    now: u64,
    who: Tick,
) -> Result<(), Fault> {
    let function = &store.data().functions[place];
    if who == Tick::Due && (function.timer == 0 || function.timer > now) {
        return Ok(());
    }
    let running = Running::Function { place, deadline: function.limits.deadline };
    store.data_mut().set_timer(place, 0);
    if let Some(services) = services {
        board::forget_verdicts(services.window());
    }
    with_services(store, services, running, |store| tick.call(store, (now,)))
}
