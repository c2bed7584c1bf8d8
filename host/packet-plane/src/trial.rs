//! Trying a new version beside the running one: canary (a share of the flows is really its) and
//! shadow (it sees copies and decides nothing).

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use weir_pool::{Memory, Packet};
use weir_sandbox::Fault;
use weir_steering::affinity_hash;

use crate::context::{Context, Disown};
use crate::counters::DropReason;
use crate::lane::{Lane, LaneEvent, Published, Retired, Version};
use crate::observer::{Observer, Watch};
use crate::plan::{ChainPlan, PlaneError, Staged};
use crate::shadow::{ShadowReport, Side};

/// Which kind of trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialKind {
    /// This share of the flows, in percent.
    Canary(u8),
    /// Copies of all packets.
    Shadow(ShadowReport),
}

/// A running trial, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialStatus {
    /// The function.
    pub function: String,
    /// The version on trial.
    pub version: String,
    /// How, with what was seen.
    pub kind: TrialKind,
    /// Packets that the version on trial got.
    pub packets: u64,
}

pub(crate) enum Trial {
    Canary { version: Box<Version>, function: usize, percent: u8, aside: Vec<Packet>, packets: u64 },
    Shadow { watch: Watch, function: String, version: String, report: Arc<Mutex<ShadowReport>> },
}

impl Trial {
    /// Whether bursts are to be divided between two versions.
    pub(crate) fn splits(&self) -> bool {
        matches!(self, Self::Canary { .. })
    }

    pub(crate) fn board(&self) -> Option<&Memory> {
        match self {
            Self::Canary { version, .. } => Some(version.staged.executor.board()),
            Self::Shadow { .. } => None,
        }
    }

    /// The earliest time at which a function wants its `tick`; 0 when none does.
    pub(crate) fn next_timer(&self) -> u64 {
        match self {
            Self::Canary { version, .. } => version.staged.executor.next_timer(),
            Self::Shadow { .. } => 0,
        }
    }

    pub(crate) fn instance(&self) -> u64 {
        match self {
            Self::Canary { version, .. } => version.instance,
            Self::Shadow { .. } => u64::MAX,
        }
    }

    pub(crate) fn status(&self) -> TrialStatus {
        match self {
            Self::Canary { version, function, percent, packets, .. } => {
                let plan = &version.staged.plan.functions[*function];
                TrialStatus {
                    function: plan.name.clone(),
                    version: plan.version.clone(),
                    kind: TrialKind::Canary(*percent),
                    packets: *packets,
                }
            }
            Self::Shadow { function, version, report, .. } => {
                let report = report.lock().unwrap_or_else(PoisonError::into_inner).clone();
                TrialStatus {
                    function: function.clone(),
                    version: version.clone(),
                    packets: report.packets,
                    kind: TrialKind::Shadow(report),
                }
            }
        }
    }
}

impl Lane {
    /// Gives `percent` of the flows (by their symmetric hash) to a version that differs in one
    /// function. It ends by itself when that version faults; its packets then go to the running
    /// one.
    ///
    /// # Errors
    /// When another trial runs, or the chains differ in another function.
    pub fn begin_canary(
        &mut self,
        staged: Staged,
        function: usize,
        percent: u8,
    ) -> Result<(), PlaneError> {
        self.no_trial()?;
        if !staged.plan.differs_only_in(function, self.plan()) {
            return Err(PlaneError::changed());
        }
        let instance = self.next_instance();
        let aside = Vec::with_capacity(weir_layout::BURST_MAX);
        let version = Box::new(Version { staged, instance });
        self.trial = Some(Trial::Canary { version, function, percent, aside, packets: 0 });
        self.treat_all();
        self.report();
        Ok(())
    }

    /// Gives the canary another share of the flows. When that grows, the flows that it has stay
    /// with it.
    ///
    /// # Errors
    /// When there is no canary.
    pub fn change_canary(&mut self, share: u8) -> Result<(), PlaneError> {
        let Some(Trial::Canary { percent, .. }) = &mut self.trial else {
            return Err(PlaneError::Trial("no canary is running".into()));
        };
        *percent = share;
        self.report();
        Ok(())
    }

    /// Makes the canary the running version.
    ///
    /// # Errors
    /// When there is no canary, or a function refuses the saved state; then the trial is over.
    pub fn promote(&mut self) -> Result<(Published, Retired), PlaneError> {
        let started = Instant::now();
        self.context_mut().read_clock();
        let Some(Trial::Canary { mut version, function, .. }) = self.take_canary() else {
            return Err(PlaneError::Trial("no canary is running".into()));
        };
        if let Err(error) = self.hand_over_saved(&mut version.staged) {
            self.spent = Some(self.let_go(*version));
            return Err(error);
        }
        let trial_instance = version.instance;
        let functions = version.staged.plan.functions.len();
        let published = self.replace_by_canary(version.staged, function, started);
        let to = self.version.instance;
        for place in 0..functions {
            let how = Disown::HandOver { to, inherited: false };
            self.context_mut().disown(place, trial_instance, how);
        }
        Ok(published)
    }

    fn take_canary(&mut self) -> Option<Trial> {
        if self.trial.as_ref().is_some_and(Trial::splits) { self.trial.take() } else { None }
    }

    fn no_trial(&self) -> Result<(), PlaneError> {
        match &self.trial {
            None => Ok(()),
            Some(trial) => {
                let TrialStatus { function, version, .. } = trial.status();
                Err(PlaneError::Trial(format!(
                    "a trial of {function} {version} is running: promote it or roll it back first"
                )))
            }
        }
    }

    /// Ends a canary; its flows go back to the running version. It is given back, to be ended off
    /// the data path, also if it had ended by itself. None: there was none.
    pub fn end_canary(&mut self) -> Option<Retired> {
        match self.take_canary() {
            Some(Trial::Canary { version, .. }) => Some(self.let_go(*version)),
            _ => self.spent.take(),
        }
    }

    /// A canary runs no more; what it holds goes on in the running version.
    fn let_go(&mut self, version: Version) -> Retired {
        self.add_usage(version.staged.executor.board());
        for place in 0..version.staged.plan.functions.len() {
            self.context_mut().disown(place, version.instance, Disown::Pass);
        }
        self.report();
        Retired::of(version.staged)
    }

    /// Ends a canary whose other functions are not those of the chain that is about to run: it
    /// would bring the old ones back.
    pub(crate) fn end_canary_beside(&mut self, plan: &ChainPlan) {
        if let Some(Trial::Canary { version, function, .. }) = &self.trial
            && !plan.differs_only_in(*function, &version.staged.plan)
        {
            self.abandon_canary("other functions of the chain are replaced");
        }
    }

    /// Ends a canary for a reason that says nothing about its version.
    fn abandon_canary(&mut self, why: &str) {
        let Some(TrialStatus { function, version, .. }) = self.trial.as_ref().map(Trial::status)
        else {
            return;
        };
        self.spent = self.end_canary();
        self.event(LaneEvent::CanaryEnded { function, version, message: why.to_owned() });
    }

    /// The place of the function of which a version is a canary.
    pub(crate) fn on_trial(&self) -> Option<usize> {
        match &self.trial {
            Some(Trial::Canary { function, .. }) => Some(*function),
            _ => None,
        }
    }

    fn treat_all(&mut self) {
        for place in 0..self.plan().functions.len() {
            self.treat(place);
        }
    }

    /// Another function than the one on trial faulted in it: new instances of the canary, as of the
    /// running version.
    pub(crate) fn renew_canary(&mut self) {
        let Some(Trial::Canary { version, .. }) = &self.trial else { return };
        let Some(staged) = self.again(&version.staged) else {
            return self.abandon_canary("new instances after a fault take too long, or fail");
        };
        let (kept, instance) = (staged.kept.clone(), self.next_instance());
        let Some(Trial::Canary { version, .. }) = &mut self.trial else { return };
        let old = mem::replace(&mut **version, Version { staged, instance });
        self.add_usage(old.staged.executor.board());
        for (place, kept) in kept.into_iter().enumerate() {
            let how = if kept {
                Disown::HandOver { to: instance, inherited: true }
            } else {
                Disown::Discard(DropReason::LostInFault)
            };
            self.context_mut().disown(place, old.instance, how);
        }
        self.treat_all();
    }

    /// Has a new version of one function see copies of what that function sees.
    ///
    /// # Errors
    /// When another trial runs.
    pub fn begin_shadow(&mut self, mut side: Side) -> Result<(), PlaneError> {
        self.no_trial()?;
        side.copy_state(&self.version.staged.states);
        let (function, version) = (side.function().to_owned(), side.version().to_owned());
        let report = side.report();
        let watch = self.observe(Box::new(side));
        self.trial = Some(Trial::Shadow { watch, function, version, report });
        self.report();
        Ok(())
    }

    /// Ends a shadow: what was seen, and what is to be dropped off the data path. None: there is
    /// none.
    pub fn end_shadow(&mut self) -> Option<(TrialStatus, Option<Box<dyn Observer>>)> {
        let trial = self.trial.take_if(|trial| matches!(trial, Trial::Shadow { .. }))?;
        let status = trial.status();
        let Trial::Shadow { watch, .. } = trial else { return None };
        let observer = self.end_observing(watch);
        self.report();
        Some((status, observer))
    }

    /// A turn in which each burst is divided between the running version and the canary.
    pub(crate) fn split_turn(&mut self) -> Result<(), Fault> {
        loop {
            self.context_mut().flush();
            let Some(start) = self.context_mut().receive() else { return Ok(()) };
            if let Err(fault) = self.divide(start) {
                self.handle_fault(&fault, false);
            }
        }
    }

    /// Divides the burst that the context has between the running version and the canary.
    pub(crate) fn divide(&mut self, start: usize) -> Result<(), Fault> {
        // What is decided about flows holds for one version only.
        self.context_mut().flows.clear();
        let seed = self.site.seed;
        let Some(Trial::Canary { aside, percent, packets, .. }) = &mut self.trial else {
            return self.run_main(start);
        };
        let context = self.context.as_mut().expect("the context is home between calls");
        let pool = &context.pool;
        let percent = u64::from(*percent);
        context.burst.retain(|packet| {
            let bytes = pool.bytes(packet.descriptor).unwrap_or_default();
            let chosen = (u64::from(affinity_hash(bytes, seed)) * 100) >> 32 < percent;
            if chosen {
                aside.push(*packet);
            }
            !chosen
        });
        *packets += aside.len() as u64;
        let mut others = mem::take(aside);
        let main = if context.burst.is_empty() { Ok(()) } else { self.run_main(start) };
        if let Err(fault) = main {
            self.handle_fault(&fault, false);
        }
        self.handle_violations(false);
        let context = self.context_mut();
        context.burst.append(&mut others);
        if context.burst.is_empty() {
            self.put_aside_back(others);
            return Ok(());
        }
        // It may have ended with the running version's fault.
        let in_trial = self.on_trial().is_some();
        let ran = self.run_trial(start);
        self.put_aside_back(others);
        if let Err(fault) = ran {
            self.handle_fault(&fault, in_trial);
        }
        self.handle_violations(in_trial);
        Ok(())
    }

    fn put_aside_back(&mut self, others: Vec<Packet>) {
        if let Some(Trial::Canary { aside, .. }) = &mut self.trial {
            *aside = others;
        }
    }

    pub(crate) fn run_main(&mut self, start: usize) -> Result<(), Fault> {
        if self.is_out() {
            self.do_without();
            return Ok(());
        }
        run(&mut self.context, &mut self.version, start)
    }

    fn run_trial(&mut self, start: usize) -> Result<(), Fault> {
        match &mut self.trial {
            Some(Trial::Canary { version, .. }) => run(&mut self.context, version, start),
            _ => self.run_main(start),
        }
    }

    /// The canary faulted: it ends, and its flows go to the running version.
    pub(crate) fn end_trial_by(&mut self, message: &str) {
        let Some(Trial::Canary { version, function, .. }) = self.take_canary() else { return };
        let context = self.context_mut();
        context.ledger.counters.functions[function].faults += 1;
        context.violations.retain(|violation| violation.function != function);
        let plan = &version.staged.plan.functions[function];
        plan.telemetry.fault(&format!("fault in canary: {message}"));
        let event = LaneEvent::RolledBack {
            function: plan.name.clone(),
            version: plan.version.clone(),
            message: message.to_owned(),
        };
        self.spent = Some(self.let_go(*version));
        self.event(event);
    }
}

/// Passes the burst that the context has through a version of the chain, from this function on.
fn run(lent: &mut Option<Box<Context>>, version: &mut Version, start: usize) -> Result<(), Fault> {
    let context = lent.as_mut().expect("the context is home between calls");
    context.ledger.instance = version.instance;
    let executor = &mut version.staged.executor;
    context.fill(executor.board_mut());
    let (count, reverse) = (context.burst.len(), context.reverse);
    executor.run(lent, count, start, reverse)?;
    let context = lent.as_mut().expect("the context is home between calls");
    context.end_burst(executor.board_mut());
    Ok(())
}
