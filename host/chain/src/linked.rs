//! A chain as one component.

use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, Instance, TypedFunc};
use weir_layout::WASM_PAGE;
use weir_pool::Memory;
use weir_sandbox::{
    ARGUMENTS_MAX, Fault, Guest, Running, SAVED_MAX, Sandbox, Services, Setup, Shared, World,
    giving, link_function, link_runner, one_line,
};

use crate::board::runs;
use crate::executor::{ChainError, ChainSpec, Tick, guest_function, new_board, setup};
use crate::{board, compose, control};

/// The linked chain of one worker.
pub struct Linked<S: 'static> {
    store: Store<Guest<S>>,
    run: TypedFunc<(u32, u32, u32), ()>,
    serve: TypedFunc<(), ()>,
    functions: Vec<Exports>,
}

/// What a function exports beside `process`.
pub(crate) struct Exports {
    pub(crate) tick: TypedFunc<(u64,), ()>,
    pub(crate) snapshot: Option<Snapshot>,
}

pub(crate) struct Snapshot {
    pub(crate) save: TypedFunc<(), (Vec<u8>,)>,
    pub(crate) restore: TypedFunc<(Vec<u8>,), (Result<(), String>,)>,
}

/// CPU time for `save` and `restore` of functions that have less for a burst.
const SNAPSHOT_DEADLINE: Duration = Duration::from_millis(10);

pub(crate) type Configure = TypedFunc<(Setup,), (Result<(), String>,)>;

impl<S: Services> Linked<S> {
    pub(crate) fn new(
        sandbox: &Sandbox,
        spec: &ChainSpec,
        component: &Component,
        window: &Shared,
        room_bytes: u32,
        setup_deadline: Duration,
    ) -> Result<Self, ChainError> {
        let wrong = |error: wasmtime::Error| ChainError::Instantiate(format!("{error:#}"));
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

        let mut exports = Vec::new();
        for (place, function) in spec.functions.iter().enumerate() {
            let name = compose::function_export(place);
            let (configure, tick) = standard_exports(&mut store, &instance, &name)?;
            let snapshot = function
                .admitted
                .saves
                .then(|| snapshot(&mut store, &instance, &compose::snapshot_export(place)))
                .transpose()?;
            call_configure(&mut store, &configure, place, setup(spec, place, window, room_bytes))?;
            if function.admitted.world == World::Burst {
                let heads = head_bytes(&mut store, &instance, &name, place)?;
                store.data_mut().board_mut().0.set(control::HEADS + place * 4, heads);
            }
            exports.push(Exports { tick, snapshot });
        }
        let run = instance.get_typed_func(&mut store, "run").map_err(wrong)?;
        let serve = instance.get_typed_func(&mut store, "serve").map_err(wrong)?;
        Ok(Self { store, run, serve, functions: exports })
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

/// `configure` and `tick` of an exported instance.
pub(crate) fn standard_exports<S: Services>(
    store: &mut Store<Guest<S>>,
    instance: &Instance,
    export: &str,
) -> Result<(Configure, TypedFunc<(u64,), ()>), ChainError> {
    Ok((typed(store, instance, export, "configure")?, typed(store, instance, export, "tick")?))
}

pub(crate) fn snapshot<S: Services>(
    store: &mut Store<Guest<S>>,
    instance: &Instance,
    export: &str,
) -> Result<Snapshot, ChainError> {
    Ok(Snapshot {
        save: typed(store, instance, export, "save")?,
        restore: typed(store, instance, export, "restore")?,
    })
}

/// A function of an exported instance, with its type checked.
pub(crate) fn typed<S, P, R>(
    store: &mut Store<Guest<S>>,
    instance: &Instance,
    export: &str,
    name: &str,
) -> Result<TypedFunc<P, R>, ChainError>
where
    S: Services,
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
    R: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    let index = instance
        .get_export_index(&mut *store, None, export)
        .and_then(|outer| instance.get_export_index(&mut *store, Some(&outer), name))
        .ok_or_else(|| {
            ChainError::Instantiate(format!("it does not export `{name}` in {export}"))
        })?;
    instance
        .get_typed_func(&mut *store, index)
        .map_err(|error| ChainError::Instantiate(format!("`{name}` of {export}: {error:#}")))
}

/// Calls an export while a chain is being prepared.
fn prepare<S: Services, T>(
    store: &mut Store<Guest<S>>,
    place: usize,
    what: &'static str,
    deadline: Duration,
    call: impl FnOnce(&mut Store<Guest<S>>) -> wasmtime::Result<T>,
) -> Result<T, ChainError> {
    let guest = store.data_mut();
    guest.set_running(Running::Function { place, deadline });
    guest.listen();
    let result = call(store);
    let guest = store.data_mut();
    let result = guest.outcome(result);
    let said = guest.heard();
    guest.set_running(Running::Nobody);
    result.map_err(|fault| ChainError::Fault {
        name: guest.functions[place].name.clone(),
        call: what,
        fault: fault.having_said(&said),
    })
}

pub(crate) fn call_configure<S: Services>(
    store: &mut Store<Guest<S>>,
    configure: &Configure,
    place: usize,
    setup: Setup,
) -> Result<(), ChainError> {
    let deadline = store.data().setup;
    let given = store.data().given_in_setup(place);
    let called = prepare(store, place, "configure", deadline, |store| {
        giving(store, given, |store| configure.call(store, (setup,)))
    });
    let guest = store.data_mut();
    let (answer,) = match called {
        Ok(answer) => answer,
        Err(ChainError::Fault { name, fault, .. }) if guest.lays_state_out_anew(place, &fault) => {
            return Err(ChainError::State { name, place });
        }
        Err(error) => return Err(error),
    };
    guest.open(place).map_err(ChainError::Share)?;
    answer.map_err(|message| ChainError::Refused {
        name: store.data().functions[place].name.clone(),
        what: "configuration",
        message: one_line(&message).into_owned(),
    })
}

/// How many bytes of each packet a function wants that gets bursts by value.
pub(crate) fn head_bytes<S: Services>(
    store: &mut Store<Guest<S>>,
    instance: &Instance,
    export: &str,
    place: usize,
) -> Result<u32, ChainError> {
    let ask: TypedFunc<(), (u32,)> = typed(store, instance, export, "head-bytes")?;
    let deadline = store.data().setup;
    let (bytes,) = prepare(store, place, "head-bytes", deadline, |store| ask.call(store, ()))?;
    Ok(bytes)
}

/// CPU time for `save` and `restore`: packets wait for them.
fn snapshot_deadline<S>(store: &Store<Guest<S>>, place: usize) -> Duration {
    store.data().functions[place].limits.deadline.max(SNAPSHOT_DEADLINE)
}

pub(crate) fn save<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    snapshot: Option<&Snapshot>,
) -> Result<Option<Vec<u8>>, ChainError> {
    let Some(snapshot) = snapshot else { return Ok(None) };
    let deadline = snapshot_deadline(store, place);
    let (saved,) = prepare(store, place, "save", deadline, |store| {
        giving(store, SAVED_MAX, |store| snapshot.save.call(store, ()))
    })?;
    Ok(Some(saved))
}

pub(crate) fn restore<S: Services>(
    store: &mut Store<Guest<S>>,
    place: usize,
    snapshot: Option<&Snapshot>,
    saved: &[u8],
) -> Result<(), ChainError> {
    let Some(snapshot) = snapshot else { return Ok(()) };
    let deadline = snapshot_deadline(store, place);
    let (answer,) = prepare(store, place, "restore", deadline, |store| {
        snapshot.restore.call(store, (saved.to_vec(),))
    })?;
    answer.map_err(|message| ChainError::Refused {
        name: store.data().functions[place].name.clone(),
        what: "saved state",
        message: one_line(&message).into_owned(),
    })
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
