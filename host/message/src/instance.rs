//! An instance of a message function: entering it, and what it left behind.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, TypedFunc};
use weir_layout::message::{Outcome, Wants};
use weir_sandbox::{
    Configure, Exports, Fault, FaultKind, Guest, GuestFunction, InstanceError, Limits, Running,
    Setup, Shared, Snapshot, Window, World, configure, link_exchange, link_function, start_failure,
};

use crate::context::{Context, Effects, NOBODY};
use crate::plan::{FunctionPlan, MessageError, Site};

/// A function's share of its chain's rooms: one of so many.
const SHARE: u32 = 4;

/// What happens to an exchange, as a function is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// `request-head`, or `opened` for connections.
    RequestHead { head: u32 },
    /// `request-body`, or `data` from the client.
    RequestBody { offset: u32, length: u32, last: bool },
    /// `response-head`.
    ResponseHead { head: u32 },
    /// `response-body`, or `data` from the upstream.
    ResponseBody { offset: u32, length: u32, last: bool },
    /// `resume`.
    Resume { token: u32, status: u32, head: u32, body: u32, length: u32 },
}

type Head = TypedFunc<(u32, u32), (u64,)>;
type Body = TypedFunc<(u32, u32, u32, bool), (u64,)>;
type Resume = TypedFunc<(u32, u32, u32, u32, u32, u32), (u64,)>;
type Data = TypedFunc<(u32, bool, u32, u32, bool), (u64,)>;

enum Calls {
    Message { request_head: Head, request_body: Body, response_head: Head, response_body: Body },
    Connection { opened: Head, data: Data },
}

impl Calls {
    fn of(
        exports: &Exports<'_>,
        store: &mut Store<Guest<Context>>,
        world: World,
    ) -> wasmtime::Result<Self> {
        if world == World::Connection {
            return Ok(Self::Connection {
                opened: exports.get(store, "opened")?,
                data: exports.get(store, "data")?,
            });
        }
        Ok(Self::Message {
            request_head: exports.get(store, "request-head")?,
            request_body: exports.get(store, "request-body")?,
            response_head: exports.get(store, "response-head")?,
            response_body: exports.get(store, "response-body")?,
        })
    }
}

/// What a function is told by `configure`.
fn setup(
    site: &Site,
    plan: &FunctionPlan,
    (names, place): (&[String], usize),
    state: Option<&(Shared, bool)>,
    seed: u64,
) -> Setup {
    let small = |bytes: usize| u32::try_from(bytes).expect("regions are far below 4 GiB");
    Setup {
        window_bytes: small(site.window.bytes()),
        window_align: small(site.window.align()),
        room_bytes: small(site.rooms.room_bytes()),
        state_bytes: state.map_or(0, |(state, _)| small(state.bytes())),
        state_align: state.map_or(0, |(state, _)| small(state.align())),
        state_kept: state.is_some_and(|(_, kept)| *kept),
        seed,
        ports: site.names.clone(),
        functions: names.to_vec(),
        position: small(place),
        config: plan.config.clone(),
    }
}

/// The data of its store: what it may use.
fn guest(
    site: &Site,
    plan: &FunctionPlan,
    state: Option<(Shared, bool)>,
    seed: u64,
) -> Guest<Context> {
    let limits = Limits {
        memory: plan.memory,
        memory_at_start: usize::try_from(plan.admitted.memory_at_start).unwrap_or(usize::MAX),
        deadline: plan.deadline,
    };
    // In `configure` it may ask for something, in rooms of its own, and so writes there beside
    // those that are at work.
    let window = Window { memory: site.window.clone(), writes: plan.writes, in_use: false };
    let telemetry = Arc::clone(&plan.telemetry);
    let function = GuestFunction::new(plan.name.clone(), Some(window), state, limits, telemetry)
        .with_seed(seed)
        .with_code(plan.admitted.hash);
    let mut guest = Guest::new(vec![function]);
    let share = (site.rooms.accounting().total / SHARE).max(1) as usize;
    let (upstreams, kv) = (Arc::clone(&site.upstreams), site.store.clone());
    guest.services = Some(Context::new(site.rooms.clone(), share, upstreams, kv));
    guest
}

/// See the module.
pub(crate) struct Instance {
    store: Store<Guest<Context>>,
    calls: Calls,
    resume: Resume,
    ended: TypedFunc<(u32, u32, u32, u64), ()>,
    tick: TypedFunc<(u64,), ()>,
    snapshot: Option<Snapshot>,
    wants: Wants,
    deadline: Duration,
}

impl Instance {
    /// Instantiates and configures a function, at its place among those of these names.
    pub(crate) fn new(
        site: &Site,
        plan: &FunctionPlan,
        component: &Component,
        (names, place): (&[String], usize),
        state: Option<(Shared, bool)>,
        seed: u64,
    ) -> Result<Self, MessageError> {
        let _ticking = site.sandbox.ticker().tick();
        let failed = |message| MessageError::Instantiate { name: plan.name.clone(), message };
        let told = |error: &wasmtime::Error| weir_sandbox::told(error, [&*plan.admitted]);
        let wrong = |error: wasmtime::Error| failed(told(&error));
        let start = |error: wasmtime::Error| match start_failure(&error) {
            Some(how) => {
                failed(format!("its start code {how}, before `configure`: {}", told(&error)))
            }
            None => wrong(error),
        };
        let setup = setup(site, plan, (names, place), state.as_ref(), seed);
        let guest = guest(site, plan, state, seed);
        let mut linker = site.sandbox.linker();
        link_function(&mut linker, "weir:net/host@0.1.0", 0).map_err(wrong)?;
        link_exchange(&mut linker).map_err(wrong)?;
        let mut store = site.sandbox.store(guest);
        let wasm =
            site.sandbox.instantiate(&linker, &mut store, component, Some(0)).map_err(start)?;
        let exports = Exports { instance: &wasm, interface: plan.admitted.world.interface() };
        let s = &mut store;
        let calls = Calls::of(&exports, s, plan.admitted.world).map_err(wrong)?;
        let snapshot = Exports { instance: &wasm, interface: "weir:net/snapshot@0.1.0" };
        let snapshot = plan.admitted.saves.then_some(snapshot);
        let snapshot = snapshot.map(|exports| exports.snapshot(s)).transpose().map_err(wrong)?;
        let take: Configure<u32> = exports.get(s, "configure").map_err(wrong)?;
        let mut instance = Self {
            resume: exports.get(s, "resume").map_err(wrong)?,
            ended: exports.get(s, "ended").map_err(wrong)?,
            tick: exports.get(s, "tick").map_err(wrong)?,
            store,
            calls,
            snapshot,
            wants: Wants::default(),
            deadline: plan.deadline,
        };
        let wants = Wants(configure(&mut instance.store, 0, &take, setup)?);
        instance.wants = wants.among(match &instance.calls {
            Calls::Connection { .. } => Wants::OF_CONNECTIONS,
            Calls::Message { .. } => Wants::OF_REQUESTS,
        });
        Ok(instance)
    }

    /// Events that it wants.
    pub(crate) fn wants(&self) -> Wants {
        self.wants
    }

    /// When it wants its `tick`, 0 for never.
    pub(crate) fn timer(&self) -> u64 {
        self.store.data().next_timer
    }

    /// Tells it what happened to an exchange.
    ///
    /// # Errors
    /// When it trapped, or answered what means nothing: the instance must not be used any more
    /// after a trap.
    pub(crate) fn call(
        &mut self,
        exchange: u32,
        event: Event,
    ) -> Result<(Outcome, Option<Box<Effects>>), Fault> {
        let deadline = self.deadline;
        let (word,) = match (&self.calls, event) {
            (_, Event::Resume { token, status, head, body, length }) => {
                let resume = self.resume;
                let parameters = (exchange, token, status, head, body, length);
                self.enter(exchange, deadline, |s| resume.call(s, parameters))
            }
            (Calls::Message { request_head, .. }, Event::RequestHead { head }) => {
                let call = *request_head;
                self.enter(exchange, deadline, |s| call.call(s, (exchange, head)))
            }
            (Calls::Message { response_head, .. }, Event::ResponseHead { head }) => {
                let call = *response_head;
                self.enter(exchange, deadline, |s| call.call(s, (exchange, head)))
            }
            (Calls::Message { request_body, .. }, Event::RequestBody { offset, length, last }) => {
                let call = *request_body;
                self.enter(exchange, deadline, |s| call.call(s, (exchange, offset, length, last)))
            }
            (
                Calls::Message { response_body, .. },
                Event::ResponseBody { offset, length, last },
            ) => {
                let call = *response_body;
                self.enter(exchange, deadline, |s| call.call(s, (exchange, offset, length, last)))
            }
            (Calls::Connection { opened, .. }, Event::RequestHead { head }) => {
                let call = *opened;
                self.enter(exchange, deadline, |s| call.call(s, (exchange, head)))
            }
            (Calls::Connection { data, .. }, Event::RequestBody { offset, length, last }) => {
                let call = *data;
                let parameters = (exchange, false, offset, length, last);
                self.enter(exchange, deadline, |s| call.call(s, parameters))
            }
            (Calls::Connection { data, .. }, Event::ResponseBody { offset, length, last }) => {
                let call = *data;
                let parameters = (exchange, true, offset, length, last);
                self.enter(exchange, deadline, |s| call.call(s, parameters))
            }
            (Calls::Connection { .. }, Event::ResponseHead { .. }) => Ok((0,)),
        }?;
        let effects = self.context().end();
        match Outcome::decode(word) {
            Some(outcome) => Ok((outcome, effects)),
            None => Err(contract(format!("it answered {word:#x}, which is no outcome"))),
        }
    }

    /// Tells it that an exchange is over.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub(crate) fn ended(
        &mut self,
        exchange: u32,
        how: u32,
        upstream: u32,
        nanoseconds: u64,
    ) -> Result<(), Fault> {
        let (ended, deadline) = (self.ended, self.deadline);
        self.enter(NOBODY, deadline, |s| ended.call(s, (exchange, how, upstream, nanoseconds)))?;
        self.context().end();
        Ok(())
    }

    /// Calls its `tick`, and gives what that asked for.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub(crate) fn tick(&mut self, now: u64) -> Result<Option<Box<Effects>>, Fault> {
        self.store.data_mut().set_timer(0, 0);
        let (tick, deadline) = (self.tick, self.deadline);
        self.enter(NOBODY, deadline, |s| tick.call(s, (now,)))?;
        Ok(self.context().end())
    }

    /// What it asked for when it was configured.
    pub(crate) fn left_over(&mut self) -> Option<Box<Effects>> {
        self.context().end()
    }

    /// What it saved, if it exports `snapshot`.
    ///
    /// # Errors
    /// When `save` trapped.
    pub(crate) fn save(&mut self) -> Result<Option<Vec<u8>>, InstanceError> {
        self.snapshot.map(|snapshot| snapshot.save(&mut self.store, 0)).transpose()
    }

    /// Gives it what its predecessor saved.
    ///
    /// # Errors
    /// When it refuses that, or `restore` trapped.
    pub(crate) fn restore(&mut self, saved: Vec<u8>) -> Result<(), InstanceError> {
        self.snapshot.map_or(Ok(()), |snapshot| snapshot.restore(&mut self.store, 0, saved))
    }

    fn context(&mut self) -> &mut Context {
        self.store.data_mut().services.as_mut().expect("lent for as long as the store lives")
    }

    fn enter<T>(
        &mut self,
        exchange: u32,
        deadline: Duration,
        call: impl FnOnce(&mut Store<Guest<Context>>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.context().begin(exchange);
        self.store.data_mut().set_running(Running::Function { place: 0, deadline });
        let result = call(&mut self.store);
        let guest = self.store.data_mut();
        let result = guest.outcome(result);
        guest.set_running(Running::Nobody);
        result
    }
}

/// A fault by what a function answered.
pub(crate) fn contract(message: String) -> Fault {
    Fault { kind: FaultKind::Contract, function: Some(0), message, lost: Duration::ZERO }
}
