//! Instances that serve several exchanges, one after the other: who may, and where they wait.
//!
//! Owns: the instances of one function that serve nobody. Must not know: what an exchange is.
//! Whether one may serve again is [`Instance::serves_again`]'s to say; here they wait, and leave
//! when their time is up or their version is no longer wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use crate::body::Progress;
use crate::function::ProxyFunction;
use crate::guest::{Guest, RESOURCES_MAX};

/// A guest with its store.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    started: Option<Started>,
    served: u32,
    /// Of which [`Idle`] it is: instances of another one do not come back.
    generation: u64,
    /// The place of its engine among those of the function.
    pub(crate) place: usize,
}

/// What it was when it had been instantiated.
struct Started {
    exports: Proxy,
    memory: usize,
}

impl Instance {
    /// One that has not been instantiated.
    pub(crate) fn new(store: Store<Guest>, generation: u64, place: usize) -> Self {
        Self { store, started: None, served: 0, generation, place }
    }

    /// Instantiates it, if it is not.
    pub(crate) async fn start(&mut self, function: &ProxyFunction) -> wasmtime::Result<()> {
        if self.started.is_none() {
            let exports =
                function.linked.places[self.place].instantiate_async(&mut self.store).await?;
            let memory = self.store.data().memory.taken.bytes();
            self.started = Some(Started { exports, memory });
        }
        Ok(())
    }

    /// What it exports, and its store.
    pub(crate) fn parts(&mut self) -> (Option<&Proxy>, &mut Store<Guest>) {
        (self.started.as_ref().map(|started| &started.exports), &mut self.store)
    }

    /// An exchange has ended as it should, for the guest.
    ///
    /// # Errors
    /// Why no other may follow. Languages with a garbage collector leave handles behind that are no
    /// more than numbers: those are counted. What is still connected to somebody is not left to a
    /// guest that may never come to it.
    pub(crate) fn serves_again(
        &mut self,
        most: u32,
        progress: &Progress,
    ) -> Result<(), &'static str> {
        self.served += 1;
        let guest = self.store.data_mut();
        guest.ends();
        let (handles, writes) = guest.handles();
        let memory = self.started.as_ref().map_or(0, |started| started.memory);
        let reasons = [
            (self.served >= most, "it has served as many requests as it may"),
            (progress.has_failed(), "a body broke off, or a request that it sent on failed"),
            (progress.is_open(), "it did not read a body to its end, or wait for a response"),
            (writes, "it did not finish a body that it had begun"),
            (handles > RESOURCES_MAX / 2, "it has half of the handles that it may have"),
            (guest.memory.taken.is_refused(), "it was refused memory"),
            (guest.memory.is_grown(memory), "it has taken half of the memory that it may take"),
        ];
        match reasons.into_iter().find(|(applies, _)| *applies) {
            Some((_, reason)) => Err(reason),
            None => Ok(()),
        }
    }
}

/// Instances of a function that serve nobody. There are never more of them than exchanges that
/// could be served beside those that are.
pub(crate) struct Idle {
    state: Mutex<State>,
    /// How long one may stay.
    time: Duration,
    /// Instances end there: to unmap their memories takes its time.
    runners: Handle,
}

struct State {
    /// Since when each has been here, the oldest first.
    instances: Vec<(Instant, Instance)>,
    generation: u64,
    takes: bool,
    /// The component is not made for it: it takes none any more, whatever is said.
    unfit: bool,
    /// Somebody looks after them.
    swept: bool,
}

impl Idle {
    pub(crate) fn new(time: Duration, runners: Handle) -> Arc<Self> {
        let state =
            State { instances: Vec::new(), generation: 0, takes: true, unfit: false, swept: false };
        Arc::new(Self { state: Mutex::new(state), time, runners })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that came last: its memory is the most likely to be at hand.
    pub(crate) fn take(&self) -> Option<Instance> {
        self.state().instances.pop().map(|(_, instance)| instance)
    }

    /// What instances that are made now are of.
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// One that may serve again comes back.
    fn give(self: &Arc<Self>, instance: Instance) {
        let mut state = self.state();
        if !state.takes || state.unfit || state.generation != instance.generation {
            drop(state);
            return self.end(instance);
        }
        state.instances.push((Instant::now(), instance));
        if !state.swept {
            state.swept = true;
            drop(state);
            self.runners.spawn(sweep(Arc::downgrade(self), self.time));
        }
    }

    /// Whether instances may come back. If not, those that are here go, and those that serve will
    /// not come.
    pub(crate) fn takes(&self, takes: bool) {
        self.state().takes = takes;
        if !takes {
            self.forget();
        }
    }

    /// No instance that there is now serves again.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.generation += 1;
        let gone = std::mem::take(&mut state.instances);
        drop(state);
        if !gone.is_empty() {
            self.end(gone);
        }
    }

    /// No instance serves a second exchange any more: one that did faulted. False if that was so
    /// before.
    pub(crate) fn gives_up(&self) -> bool {
        !std::mem::replace(&mut self.state().unfit, true)
    }

    fn end<T: Send + 'static>(&self, instances: T) {
        self.runners.spawn(async move { drop(instances) });
    }

    /// Ends those whose time is up: when the next one's is.
    fn overdue(&self) -> Option<Duration> {
        let mut state = self.state();
        let now = Instant::now();
        let left = |since: Instant| self.time.saturating_sub(now.saturating_duration_since(since));
        let gone = state.instances.partition_point(|(since, _)| left(*since).is_zero());
        let gone: Vec<_> = state.instances.drain(..gone).collect();
        let next = state.instances.first().map(|(since, _)| left(*since));
        state.swept = next.is_some();
        drop(state);
        drop(gone);
        next
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.forget();
    }
}

async fn sweep(idle: Weak<Idle>, mut sleep: Duration) {
    loop {
        tokio::time::sleep(sleep).await;
        match idle.upgrade().and_then(|idle| idle.overdue()) {
            Some(next) => sleep = next,
            None => return,
        }
    }
}

/// The way of an instance back to those that serve nobody. An exchange has two ends, in any order:
/// the guest returns, and somebody has taken all of the response.
pub(crate) struct WayBack {
    idle: Arc<Idle>,
    ends: Mutex<Ends>,
}

enum Ends {
    /// Neither has come.
    None,
    /// The guest has returned. It is still one of the instances at a time.
    Returned(Box<(Instance, OwnedSemaphorePermit)>),
    /// The response is whole.
    Responded,
    /// It broke off.
    Broken,
}

impl WayBack {
    pub(crate) fn new(idle: Arc<Idle>) -> Arc<Self> {
        Arc::new(Self { idle, ends: Mutex::new(Ends::None) })
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has returned, and may serve again.
    pub(crate) fn returned(&self, instance: Instance, permit: OwnedSemaphorePermit) {
        let mut ends = self.ends();
        match *ends {
            Ends::None => *ends = Ends::Returned(Box::new((instance, permit))),
            Ends::Responded => {
                drop(ends);
                // Before anybody gets the permit: who has one finds an instance here.
                self.idle.give(instance);
            }
            Ends::Returned(_) | Ends::Broken => {}
        }
    }

    /// Somebody has all of the response.
    pub(crate) fn responded(&self) {
        let ends = std::mem::replace(&mut *self.ends(), Ends::Responded);
        if let Ends::Returned(back) = ends {
            let (instance, _permit) = *back;
            self.idle.give(instance);
        }
    }

    /// The response broke off, or nobody takes it any more.
    pub(crate) fn breaks(&self) {
        let ends = std::mem::replace(&mut *self.ends(), Ends::Broken);
        if let Ends::Returned(back) = ends {
            self.idle.end(back);
        }
    }
}
