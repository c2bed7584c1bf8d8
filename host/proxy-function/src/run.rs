//! A guest's run, from its instantiation to its end, on a runner's thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Request};
use tokio::sync::{mpsc, oneshot};
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use weir_sandbox::{ARGUMENTS_MAX, Fault, FaultKind, Level, SETUP_DEADLINE, Ticking};

use crate::body::{Progress, Read, is_bodiless, length};
use crate::function::ProxyFunction;
use crate::guest::{Call, Exchange, Guest};
use crate::meter::Meter;
use crate::reuse::Instance;
use crate::serve::How;

/// What the guest gives by its outparam.
pub(crate) type Given = Result<http::Response<HyperOutgoingBody>, ErrorCode>;

/// An exchange as a runner has it.
pub(crate) struct Run {
    pub(crate) function: Arc<ProxyFunction>,
    pub(crate) request: Request<Read>,
    pub(crate) authority: HeaderValue,
    pub(crate) tls: bool,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) given: oneshot::Sender<Given>,
    pub(crate) shared: Arc<Shared>,
    /// One that has served others.
    pub(crate) instance: Option<Instance>,
}

/// What both sides know of a run.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) progress: Arc<Progress>,
    pub(crate) meter: Meter,
    /// Whether the instance had served others.
    pub(crate) reused: bool,
    end: Mutex<Option<How>>,
}

impl Shared {
    pub(crate) fn of(reused: bool) -> Self {
        Self { reused, ..Self::default() }
    }

    /// How it ended; none as long as it has not, or was cut off.
    pub(crate) fn end(&self) -> Option<How> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ends(&self, how: How) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }
}

impl Run {
    /// The instance, if it may serve another exchange.
    pub(crate) async fn run(self) -> Option<Instance> {
        let Self { function, request, authority, tls, calls, given, shared, instance } = self;
        let mut instance = instance.unwrap_or_else(|| fresh(&function, 0));
        let mut ticking = begin(&function, &mut instance, &shared);
        let exchange = Exchange { authority, calls, progress: Arc::clone(&shared.progress) };
        // Whether the outparam was used is known when the store is gone, and by then it is too late
        // to say what happened.
        let used = Arc::new(AtomicBool::new(false));
        let outparam = Outparam { given, used: Arc::clone(&used), progress: &shared.progress };
        let entered = async {
            start(&function, &mut instance, &shared, &mut ticking).await?;
            instance.store.data_mut().begins(exchange);
            enter(&mut instance, request, tls, outparam).await
        };
        let timed = tokio::time::timeout(function.config().timeout, shared.meter.measure(entered));
        let ended = timed.await;
        let answered = used.load(Relaxed);
        let returned = matches!(ended, Ok(Ok(())));
        let how = match ended {
            Ok(Ok(())) => finished(answered),
            Ok(Err(error)) if error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0) => {
                finished(answered)
            }
            Ok(Err(error)) if error.is::<PoolConcurrencyLimitError>() => How::Full,
            Ok(Err(error)) => {
                let fault = fault(&function, &instance.store, &error);
                if shared.progress.is_excused() && fault.kind == FaultKind::Trap {
                    How::Failed(fault.message)
                } else {
                    How::Fault(fault)
                }
            }
            Err(_) => How::Late,
        };
        if !matches!(how, How::Finished) {
            shared.progress.breaks();
        }
        match &how {
            How::Fault(_) if shared.reused => {
                if function.idle.as_ref().is_some_and(|idle| idle.gives_up()) {
                    let said = "an instance that had served others faulted: until the function is deployed anew, each request \
                                has one of its own";
                    function.config().telemetry.log(Level::Warn, said);
                }
            }
            How::Finished | How::Fault(_) | How::Full => (),
            How::Failed(message) if shared.progress.is_abandoned() => {
                tracing::debug!(function = function.config().name, message, "trapped unheard");
            }
            How::Failed(message) => {
                let said = format!("it trapped when others had failed: {message}");
                function.config().telemetry.log(Level::Warn, &said);
            }
            How::Late => {
                let said = format!("an exchange took longer than {:?}", function.config().timeout);
                function.config().telemetry.log(Level::Warn, &said);
            }
        }
        let finished = returned && matches!(how, How::Finished);
        shared.ends(how);
        let most = function.config().requests_per_instance;
        if !finished || most <= 1 {
            return None;
        }
        if let Err(reason) = instance.serves_again(most, &shared.progress) {
            tracing::debug!(function = function.config().name, reason, "the instance ends");
            return None;
        }
        Some(instance)
    }
}

/// Makes an instance that serves nobody: what only the first one costs (the image of its memory,
/// the pages of its code) is paid before there are exchanges, and start code that faults is known
/// before them.
///
/// # Errors
/// Why there cannot be an instance.
pub(crate) async fn rehearse(function: Arc<ProxyFunction>) -> Result<(), String> {
    let _ticking = function.tickers[0].tick_for(SETUP_DEADLINE);
    let shared = Arc::<Shared>::default();
    // What the host does for it is in its time, the image of the memory above all, and takes a
    // machine that has just started many times what it takes later: the deadline of functions would
    // not do.
    let mut store = store(&function, 0);
    watch(&mut store, &shared, SETUP_DEADLINE);
    let made = shared.meter.measure(function.linked.places[0].instantiate_async(&mut store));
    match tokio::time::timeout(function.config().timeout, made).await {
        Ok(Ok(_)) => Ok(()),
        // Others have all of the room: that says nothing of this one.
        Ok(Err(error)) if error.is::<PoolConcurrencyLimitError>() => Ok(()),
        Ok(Err(error)) => Err(fault(&function, &store, &error).message),
        Err(_) => Err(format!("it took longer than {:?}", function.config().timeout)),
    }
}

/// An instance in this place, which has not been started.
fn fresh(function: &ProxyFunction, place: usize) -> Instance {
    let generation = function.idle.as_ref().map_or(0, |idle| idle.generation());
    Instance::new(store(function, place), generation, place)
}

/// Has an instance looked at, for an exchange, as long as the answer lives.
fn begin(function: &ProxyFunction, instance: &mut Instance, shared: &Arc<Shared>) -> Ticking {
    let deadline = function.config().deadline;
    watch(&mut instance.store, shared, deadline);
    function.tickers[instance.place].tick_for(deadline)
}

/// Instantiates it, if it is not: in the first place that has room.
async fn start(
    function: &ProxyFunction,
    instance: &mut Instance,
    shared: &Arc<Shared>,
    ticking: &mut Ticking,
) -> wasmtime::Result<()> {
    loop {
        let next = instance.place + 1;
        match instance.start(function).await {
            Err(error)
                if error.is::<PoolConcurrencyLimitError>()
                    && next < function.linked.places.len() =>
            {
                *instance = fresh(function, next);
                *ticking = begin(function, instance, shared);
            }
            started => return started,
        }
    }
}

/// A store for an instance in this place.
fn store(function: &ProxyFunction, place: usize) -> Store<Guest> {
    let mut store = Store::new(function.linked.places[place].engine(), Guest::new(function));
    store.set_hostcall_fuel(ARGUMENTS_MAX);
    store.limiter(|guest| &mut guest.memory);
    store
}

/// Has a store looked at with every epoch from now on.
fn watch(store: &mut Store<Guest>, shared: &Arc<Shared>, deadline: Duration) {
    let watching = Arc::clone(shared);
    store.epoch_deadline_callback(move |_| watching.meter.look(deadline));
    store.set_epoch_deadline(1);
}

fn fault(function: &ProxyFunction, store: &Store<Guest>, error: &wasmtime::Error) -> Fault {
    Fault::new(error, Some(0), store.data().memory.refused()).in_code(Some(function.config().hash))
}

fn finished(answered: bool) -> How {
    if answered {
        return How::Finished;
    }
    How::Fault(Fault {
        kind: FaultKind::Contract,
        function: Some(0),
        message: "it ended without a response: response-outparam.set was not called".into(),
        lost: Duration::ZERO,
    })
}

/// Where a response goes, and what is noted of it.
struct Outparam<'a> {
    given: oneshot::Sender<Given>,
    used: Arc<AtomicBool>,
    progress: &'a Arc<Progress>,
}

async fn enter(
    instance: &mut Instance,
    request: Request<Read>,
    tls: bool,
    Outparam { given, used, progress }: Outparam<'_>,
) -> wasmtime::Result<()> {
    let (to_head, progress) = (request.method() == Method::HEAD, Arc::clone(progress));
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    let (Some(exports), store) = instance.parts() else { return Ok(()) };
    let incoming = store.data_mut().http().new_incoming_request(scheme, request)?;
    let give = move |response: Given| {
        used.store(true, Relaxed);
        // WASI holds it to a length that is that of another response's body. The guest goes on at
        // once, and may trap for it before anybody has looked at the response.
        if response
            .as_ref()
            .is_ok_and(|it| is_bodiless(to_head, it.status()) && length(it.headers()) != Some(0))
        {
            progress.excuse();
        }
        // Whoever waited for it has gone.
        let _ = given.send(response);
    };
    let outparam = store.data_mut().http().new_response_outparam_from_callback(give)?;
    exports.wasi_http_incoming_handler().call_handle(store, incoming, outparam).await
}
