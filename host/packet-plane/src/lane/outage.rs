//! A chain without instances: after a fault they cannot be made again, or not on the worker,
//! because that takes too long.
//!
//! As long as that lasts no function is called: packets pass the chain by if all its functions fail
//! open, else they are dropped.

use std::sync::Arc;
use std::time::Duration;

use weir_sandbox::{OnFault, SETUP_DEADLINE};

use super::swap::{Disowner, Retired};
use super::{Lane, LaneEvent};
use crate::counters::DropReason;
use crate::plan::{LaneSite, PlaneError, Ready, Staged, Standing};

/// CPU time that making a chain's instances again may take on its worker, where all others wait for
/// it: less than a function has for a burst if nobody says otherwise.
const HERE: Duration = Duration::from_millis(5);
/// How long after a failure it is tried again, in ns of the lane's clock; then twice as long each
/// time.
const FIRST_WAIT: u64 = 10_000_000;
const LONGEST_WAIT: u64 = 5_000_000_000;

/// Told, on the worker, that a lane's chain has no instances: whoever it is takes [`Lane::missing`]
/// to another thread, makes them there, and gives them to [`Lane::restore`]. Must not block.
pub type Restorer = Arc<dyn Fn() + Send + Sync>;

/// Given, on the worker, what a lane has no use for any more, to be dropped elsewhere: that unmaps
/// memory. Must not block.
pub type Disposer = Arc<dyn Fn(Box<dyn Send>) + Send + Sync>;

/// See the module.
pub(super) struct Outage {
    /// What is to run.
    chain: Ready,
    /// It is the version before: of this function, and what is told once it runs.
    back: Option<(usize, LaneEvent)>,
    /// When it is tried; none while somebody else is at it.
    next: Option<u64>,
    failures: u32,
    /// Why it failed last.
    why: String,
}

/// The instances that a lane's chain does not have.
pub struct Missing {
    site: LaneSite,
    chain: Ready,
    states: Standing,
    /// The instance of the chain that faulted.
    instance: u64,
}

/// What became of [`Missing`].
pub struct Replacement {
    instance: u64,
    staged: Result<Staged, PlaneError>,
}

impl Missing {
    /// Makes them, on the calling thread.
    #[must_use]
    pub fn make(self) -> Replacement {
        let Self { site, chain, states, instance } = self;
        Replacement { instance, staged: site.instantiate(chain, &states, &states, SETUP_DEADLINE) }
    }
}

impl Outage {
    /// When something is to be done about it; 0: nothing by this lane.
    pub(super) fn next(&self) -> u64 {
        self.next.unwrap_or(0)
    }
}

impl Lane {
    /// Who makes new instances when that would take too long on the worker. Without anybody the
    /// lane makes them itself, however long it takes.
    pub fn restored_by(&mut self, restorer: Restorer) {
        self.restorer = Some(restorer);
    }

    /// Who drops what the lane has no use for any more. Without anybody the lane does so itself, on
    /// the worker.
    pub fn disposed_by(&mut self, disposer: Disposer) {
        self.disposer = Some(disposer);
    }

    /// Drops this where it keeps no packets waiting.
    pub(super) fn dispose(&self, what: impl Send + 'static) {
        match &self.disposer {
            Some(disposer) => disposer(Box::new(what)),
            None => drop(what),
        }
    }

    /// The function from whose version the lane is about to go back.
    pub(super) fn goes_back(&self) -> Option<usize> {
        self.outage.as_ref()?.back.as_ref().map(|(function, _)| *function)
    }

    /// What somebody else is to make. None: nothing.
    #[must_use]
    pub fn missing(&self) -> Option<Missing> {
        let outage = self.outage.as_ref().filter(|outage| outage.next.is_none())?;
        Some(Missing {
            site: self.site(),
            chain: outage.chain.clone(),
            states: self.states(),
            instance: self.version.instance,
        })
    }

    /// Goes on with instances that somebody else has made. What the lane has no use for is given
    /// back, to be dropped off the data path.
    pub fn restore(&mut self, made: Replacement) -> Option<Retired> {
        let Replacement { instance, staged } = made;
        self.context_mut().read_clock();
        let wanted = self.outage.as_ref().is_some_and(|outage| outage.next.is_none());
        let wanted = wanted && instance == self.version.instance;
        match staged {
            Ok(staged) if wanted => self.end_outage(staged),
            Ok(staged) => Some(Retired::of(staged)),
            Err(error) => {
                if wanted {
                    self.stay_out(&error);
                }
                None
            }
        }
    }

    /// New instances after a fault, over the same state regions: of the version before if it goes
    /// `back`.
    pub(super) fn renew(&mut self, chain: Ready, back: Option<(usize, LaneEvent)>) {
        let next = Some(self.context().now);
        self.outage = Some(Outage { chain, back, next, failures: 0, why: String::new() });
        self.try_to_restore();
    }

    /// Makes the instances that are missing, or has them made, if it is time.
    pub(super) fn try_to_restore(&mut self) {
        let now = self.context().now;
        let Some(outage) = &self.outage else { return };
        if outage.next.is_none_or(|next| next > now) {
            return;
        }
        let quick = outage.failures == 0 && self.version.staged.set_up_in <= HERE;
        if self.restorer.is_some() && !quick {
            return self.ask_for_instances();
        }
        let (chain, states) = (outage.chain.clone(), self.states());
        match self.site.instantiate(chain, &states, &states, self.here()) {
            Ok(staged) => {
                let retired = self.end_outage(staged);
                self.dispose(retired);
            }
            Err(_) if self.restorer.is_some() => self.ask_for_instances(),
            Err(error) => self.stay_out(&error),
        }
    }

    /// CPU time for a function's setup on this thread.
    fn here(&self) -> Duration {
        if self.restorer.is_some() { HERE } else { SETUP_DEADLINE }
    }

    /// The same version again, if it can be made on this thread.
    pub(crate) fn again(&self, staged: &Staged) -> Option<Staged> {
        if staged.set_up_in > self.here() {
            return None;
        }
        let states = Standing { states: staged.states(), chain: self.chains };
        self.site.instantiate(staged.ready(), &states, &states, self.here()).ok()
    }

    fn ask_for_instances(&mut self) {
        let (Some(outage), Some(restorer)) = (&mut self.outage, &self.restorer) else { return };
        outage.next = None;
        restorer();
        self.report();
    }

    fn end_outage(&mut self, staged: Staged) -> Option<Retired> {
        let outage = self.outage.take()?;
        self.end_canary_beside(&staged.plan);
        let retired = self.install(staged, Disowner::AfterFault);
        if let Some((function, event)) = outage.back {
            self.chains += 1;
            self.forgive(function);
            self.event(event);
        }
        self.report();
        Some(retired)
    }

    /// It was tried in vain.
    fn stay_out(&mut self, error: &PlaneError) {
        let now = self.context().now;
        let Some(outage) = &mut self.outage else { return };
        let why = error.to_string();
        let mut text = None;
        if outage.back.take().is_some() {
            outage.chain = self.version.staged.ready();
            outage.next = Some(now);
            text = Some(format!("rolling back failed: {why}"));
        } else {
            let wait = (FIRST_WAIT << outage.failures.min(16)).min(LONGEST_WAIT);
            outage.next = Some(now.saturating_add(wait));
            if outage.why != why {
                text = Some(format!("the chain cannot be instantiated again: {why}"));
                outage.why = why;
            }
        }
        outage.failures += 1;
        if let Some(text) = text {
            self.note(text);
        }
        self.report();
    }

    /// Whether the running version has no instances.
    pub(crate) fn is_out(&self) -> bool {
        self.outage.is_some()
    }

    /// What happens to the context's burst when there is nobody to pass it to.
    pub(crate) fn do_without(&mut self) {
        let open = self.records.iter().all(|record| record.policy == OnFault::FailOpen);
        let context = self.context_mut();
        if open {
            context.pass_burst_by();
        } else {
            context.drop_burst(DropReason::OutOfOrder);
        }
    }
}
