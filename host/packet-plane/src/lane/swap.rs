//! How a lane's version is replaced: by the next one at a burst boundary, and by the one before
//! when that was no good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_chain::{ChainError, Executor, Tick, board};
use weir_sandbox::{FOLLOWING, Fault, InstanceError, Level, PROBATION, Record, Sandbox, State};

use super::{Lane, LaneEvent, Version, add_usage, names, records};
use crate::context::{Context, Disown};
use crate::counters::{DropReason, FunctionCounts};
use crate::observer::Observers;
use crate::plan::{ChainPlan, FunctionPlan, PlaneError, Ready, Staged};

/// What publishing a version cost.
#[derive(Clone, Debug)]
pub struct Published {
    /// Time for which the data path stood still.
    pub pause: Duration,
    /// Functions that started with an empty state although their predecessor had one.
    pub fresh: Vec<String>,
}

/// Why a version is made the running one.
enum Reason {
    /// The function at this place is new: a fault of it within ten seconds brings the old version
    /// back.
    Swap(usize),
    /// It is a chain as an operator wants it: faults are forgotten.
    Chain,
    /// The one function at this place is what an operator wants back: faults of the functions that
    /// stay are not forgotten.
    Rollback(usize),
    /// It ran before as a whole, and the same holds for faults. What it is on probation towards, if
    /// it was.
    Back(Option<Probation>),
}

/// What the lane goes back to if the new version faults on probation.
#[derive(Clone)]
pub struct Probation {
    pub(super) previous: Ready,
    function: usize,
    until: u64,
}

impl Probation {
    /// Whether a fault of this function has the lane go back.
    pub(super) fn is_failed_by(&self, function: Option<usize>, now: u64) -> bool {
        function == Some(self.function) && now <= self.until
    }

    /// Whether no other lane can ask for the version before any more.
    pub(super) fn is_over(&self, now: u64) -> bool {
        now > self.until.saturating_add(FOLLOWING)
    }
}

/// What a new version replaced. Dropping it unmaps memory, which is not for the data path.
pub struct Retired {
    executor: Executor<Box<Context>>,
    /// The old version's, and whatever else nobody goes back to. A router's configuration has some
    /// megabytes.
    chains: Vec<Ready>,
    _rest: (Vec<Option<Arc<State>>>, Observers),
}

impl Retired {
    /// A version that runs no more, or never did.
    pub(crate) fn of(staged: Staged) -> Self {
        let Staged { plan, prepared, executor, states, .. } = staged;
        let chains = vec![Ready::new(plan, prepared)];
        Self { executor, chains, _rest: (states, Observers::default()) }
    }

    /// Has the old instances flush their counters, then ends them.
    pub fn end(mut self, sandbox: &Sandbox) {
        let _ticking = sandbox.ticker().tick();
        // A function that faults in its last moment harms nobody.
        drop(self.executor.tick(&mut None, u64::MAX, Tick::All));
    }
}

#[derive(Clone, Copy)]
pub(super) enum Disowner {
    AtSwap { same_shape: bool },
    AfterFault,
}

impl Disowner {
    fn same_shape(self) -> bool {
        !matches!(self, Self::AtSwap { same_shape: false })
    }
}

impl Lane {
    /// Back to the version before the last swap.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(probation) = self.probation.take() else { return };
        let faulty = &self.version.staged.plan.functions[probation.function];
        let event = LaneEvent::RolledBack {
            function: faulty.name.clone(),
            version: faulty.version.clone(),
            message: why.to_owned(),
        };
        self.renew(probation.previous, Some((probation.function, event)));
    }

    /// Publishes a version that was staged elsewhere, at this burst boundary. With `swapped`, the
    /// place of the one function that is new, a fault of it within ten seconds brings the old
    /// version back. Without, it is a chain as an operator wants it: policies are those that it
    /// says, and faults are forgotten. A canary beside other functions ends. What is replaced is
    /// given back, to be dropped off the data path.
    ///
    /// # Errors
    /// When another function than the swapped one is not what runs, what was to be replaced by a
    /// chain does not run any more, or a function refuses the state that its predecessor saved;
    /// then nothing has changed. When a function faults in `save`; then the chain has new
    /// instances, without what that one kept privately.
    pub fn publish(
        &mut self,
        staged: Staged,
        swapped: Option<usize>,
    ) -> Result<(Published, Retired), PlaneError> {
        self.publish_for(staged, swapped.map_or(Reason::Chain, Reason::Swap))
    }

    /// As [`Self::publish`], with the version of the function at this place that an operator wants
    /// back. The other functions stay as they are, in back-off and quarantine too.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_rollback(
        &mut self,
        staged: Staged,
        function: usize,
    ) -> Result<(Published, Retired), PlaneError> {
        self.publish_for(staged, Reason::Rollback(function))
    }

    /// As [`Self::publish`], a chain that ran before: because another lane went back by itself, or
    /// refused the next one; then it goes on with the probation that it was on. The functions that
    /// are the same stay as they are, in back-off and quarantine too.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_back(
        &mut self,
        staged: Staged,
        probation: Option<Probation>,
    ) -> Result<(Published, Retired), PlaneError> {
        self.publish_for(staged, Reason::Back(probation))
    }

    /// The probation that the running version is on, or was a moment ago.
    #[must_use]
    pub fn probation(&self) -> Option<Probation> {
        self.probation.clone()
    }

    fn publish_for(
        &mut self,
        mut staged: Staged,
        reason: Reason,
    ) -> Result<(Published, Retired), PlaneError> {
        let started = Instant::now();
        self.context_mut().read_clock();
        let is_stale = match reason {
            Reason::Swap(place) | Reason::Rollback(place) => {
                // It may be about to go back from the version of another one, too.
                let other_goes_back = self.goes_back().is_some_and(|function| function != place);
                other_goes_back || !staged.plan.differs_only_in(place, self.plan())
            }
            // It brings all functions, and with them the version that the lane has gone back from
            // since.
            Reason::Chain => self.goes_back().is_some() || staged.replaces != self.chains,
            Reason::Back(_) => false,
        };
        if is_stale {
            return Err(PlaneError::changed());
        }
        if self.same_names(&staged.plan) {
            self.hand_over_saved(&mut staged)?;
            self.end_canary_beside(&staged.plan);
        } else {
            self.end_canary_beside(&staged.plan);
            self.run_dry();
        }
        Ok(self.replace(staged, reason, started))
    }

    /// Makes the canary's version the running one, which has what it needs of the one before.
    pub(crate) fn replace_by_canary(
        &mut self,
        staged: Staged,
        function: usize,
        started: Instant,
    ) -> (Published, Retired) {
        self.replace(staged, Reason::Swap(function), started)
    }

    /// Makes a version the running one that has what it needs of the one before.
    fn replace(
        &mut self,
        staged: Staged,
        reason: Reason,
        started: Instant,
    ) -> (Published, Retired) {
        let same_shape = self.same_names(&staged.plan);
        match reason {
            Reason::Swap(_) => {}
            Reason::Chain => self.records = records(&staged.plan),
            Reason::Rollback(_) | Reason::Back(_) if same_shape => {
                let running = &self.version.staged.plan.functions;
                let both = staged.plan.functions.iter().zip(running);
                for (record, (new, old)) in self.records.iter_mut().zip(both) {
                    if new.differs(old) || new.on_fault != record.policy {
                        *record = Record::new(new.on_fault);
                    }
                }
            }
            // Places are others; they get new ones.
            Reason::Rollback(_) | Reason::Back(_) => {}
        }
        let fresh = staged.fresh(&self.states()).map(str::to_owned).collect();
        let mut retired = self.install(staged, Disowner::AtSwap { same_shape });
        self.chains += 1;
        let now = self.context().now;
        let before = self.probation.take();
        retired.chains.extend(before.map(|probation| probation.previous));
        match reason {
            Reason::Swap(function) => {
                self.forgive(function);
                let until = now.saturating_add(PROBATION);
                let previous = retired.chains.swap_remove(0);
                self.probation = Some(Probation { previous, function, until });
            }
            Reason::Chain | Reason::Rollback(_) => {}
            Reason::Back(probation) => self.probation = probation,
        }
        self.report();
        (Published { pause: started.elapsed(), fresh }, retired)
    }

    /// The chain before the last swap, if that brought this version of the function, and it is on
    /// probation, or was a moment ago.
    #[must_use]
    pub fn before_swap(&self, function: &str, version: &str) -> Option<ChainPlan> {
        let probation = self.probation.as_ref()?;
        let swapped = &self.version.staged.plan.functions[probation.function];
        let same = swapped.name == function && swapped.version == version;
        same.then(|| probation.previous.plan.clone())
    }

    /// Forgets a function's faults: it is another version now.
    pub(super) fn forgive(&mut self, function: usize) {
        let record = Record::new(self.version.staged.plan.functions[function].on_fault);
        self.version.staged.executor.set_treatment(function, record.treatment());
        self.records[function] = record;
    }

    fn same_names(&self, plan: &ChainPlan) -> bool {
        let running = &self.version.staged.plan.functions;
        plan.functions.iter().map(|f| &f.name).eq(running.iter().map(|f| &f.name))
    }

    /// What functions keep privately goes through `save` and `restore`.
    pub(crate) fn hand_over_saved(&mut self, staged: &mut Staged) -> Result<(), PlaneError> {
        if self.outage.is_some() {
            // It went with the instances.
            return Ok(());
        }
        board::forget_verdicts(self.context_mut().pool.memory_mut());
        for place in 0..staged.plan.functions.len() {
            if !staged.plan.functions[place].admitted.saves {
                continue;
            }
            match self.version.staged.executor.save(place) {
                Ok(Some(saved)) => staged.executor.restore(place, &saved)?,
                Ok(None) => {}
                Err(error) => {
                    if let ChainError::Instance(InstanceError::Fault { fault, .. }) = &error {
                        let message = format!("in `save`: {}", fault.message);
                        self.note_fault(place, &Fault { message, ..fault.clone() });
                    }
                    self.reinstantiate();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Lets packets that are on their way between functions finish, because places are about to
    /// change.
    fn run_dry(&mut self) {
        let ended = self.context().ended.clone();
        self.context_mut().ended.fill(true);
        let functions = self.version.staged.plan.functions.len();
        // What functions behind them take meanwhile they let go of in the next round.
        for _ in 0..=functions {
            for function in 0..functions {
                let instance = self.version.instance;
                self.context_mut().disown(function, instance, Disown::Pass);
            }
            self.drain();
        }
        let context = self.context_mut();
        // Their functions' numbers mean nothing in the next chain.
        for moved in std::mem::take(&mut context.moves) {
            context.discard(moved.packet.buffer, DropReason::HeldAtEnd);
        }
        context.ended = ended;
    }

    /// Makes a version the running one.
    pub(super) fn install(&mut self, staged: Staged, disowner: Disowner) -> Retired {
        add_usage(&mut self.used, self.version.staged.executor.board());
        self.outage = None;
        self.instances += 1;
        let instance = self.instances;
        let kept = staged.kept.clone();
        let old = std::mem::replace(&mut self.version, Version { staged, instance });
        // It may have written some in `restore`.
        board::forget_verdicts(self.context_mut().pool.memory_mut());
        for function in 0..old.staged.plan.functions.len() {
            let keeps = kept.get(function).copied().unwrap_or(false);
            let how = match disowner {
                _ if keeps && disowner.same_shape() => {
                    Disown::HandOver { to: instance, inherited: true }
                }
                Disowner::AtSwap { same_shape: true } => Disown::Pass,
                // Of another chain their places mean nothing in this one.
                _ => Disown::Discard(DropReason::LostInFault),
            };
            self.context_mut().disown(function, old.instance, how);
        }
        let mut observers = Observers::default();
        if !disowner.same_shape() {
            self.records = records(&self.version.staged.plan);
            let names = names(&self.version.staged.plan);
            let used = std::mem::take(&mut self.used);
            let context = self.context_mut();
            let counted = context.ledger.counters.functions.iter_mut().zip(used);
            counted.for_each(|(counts, usage)| counts.set_usage(usage));
            context.set_functions(names);
            let counts = context.ledger.counters.functions.iter();
            self.used = counts.map(FunctionCounts::usage).collect();
            observers = std::mem::take(&mut self.ledger_mut().observers);
        }
        for (place, record) in self.records.iter().enumerate() {
            self.version.staged.executor.set_treatment(place, record.treatment());
        }
        let upward = self.version.staged.plan.upward.clone();
        self.ledger_mut().upward = upward;
        self.tell_inherited(instance);
        let mut retired = Retired::of(old.staged);
        retired._rest.1 = observers;
        retired
    }

    /// Says which functions were handed packets: only what is in their state regions tells them so.
    fn tell_inherited(&mut self, instance: u64) {
        for place in 0..self.version.staged.plan.functions.len() {
            let packets = match self.context().inherited(place, instance) {
                0 => continue,
                1 => "1 packet".to_owned(),
                packets => format!("{packets} packets"),
            };
            let FunctionPlan { name, telemetry, .. } = &self.version.staged.plan.functions[place];
            let text = format!(
                "it was handed {packets} that an instance before it held: those that its state region does not tell it of stay until it holds its share, and are dropped then"
            );
            telemetry.log(Level::Warn, &text);
            self.note(format!("function {name}: {text}"));
        }
    }

    pub(crate) fn next_instance(&mut self) -> u64 {
        self.instances += 1;
        self.instances
    }
}
