//! What a lane does about its functions' faults.

use weir_chain::board;
use weir_sandbox::{Fault, Health, OnFault, Treatment};

use super::swap::Disowner;
use super::{Lane, LaneEvent};
use crate::context::Entry;
use crate::counters::DropReason;
use crate::trial::Trial;

impl Lane {
    /// Brings functions back whose back-off is over, and learns when to look again.
    pub(super) fn wake_functions(&mut self) {
        let now = self.context().now;
        let mut changed = false;
        for (place, record) in self.records.iter_mut().enumerate() {
            if record.recover(now) {
                self.version.staged.executor.set_treatment(place, record.treatment());
                changed = true;
            }
        }
        if changed {
            self.report();
        }
        let back = self.records.iter().filter_map(|record| match record.health {
            Health::BackOff { until } => Some(until),
            _ => None,
        });
        let timers = back.chain([self.version.staged.executor.next_timer()]);
        self.context_mut().ledger.timer = timers.filter(|timer| *timer != 0).min().unwrap_or(0);
        if let Some(probation) = &self.probation
            && now > probation.until
        {
            self.probation = None;
        }
    }

    pub(super) fn set_skips(&mut self, mut skip: u64, on: bool) {
        while skip != 0 {
            let place = skip.trailing_zeros() as usize;
            skip &= skip - 1;
            let mode = if on { Treatment::Skip } else { self.records[place].treatment() };
            self.version.staged.executor.set_treatment(place, mode);
            if let Some(Trial::Canary { version, .. }) = &mut self.trial {
                let mode = if on { Treatment::Skip } else { Treatment::Run };
                version.staged.executor.set_treatment(place, mode);
            }
        }
    }

    /// A function trapped. Its packets get what its policy says, the others go on; the chain gets new instances.
    pub(crate) fn handle_fault(&mut self, fault: &Fault, in_trial: bool) {
        if in_trial {
            return self.end_trial_by(fault);
        }
        let guilty = fault.function;
        let executor = &self.version.staged.executor;
        let context = self.context.as_mut().expect("the context is home between calls");
        let in_burst = !context.burst.is_empty();
        let returns_to_previous = match (&self.probation, guilty) {
            (Some(probation), Some(k)) => probation.function == k,
            _ => false,
        };
        if in_burst {
            board::departed(executor.board(), &mut |origin, descriptor, end| {
                context.end(origin, descriptor, end);
            });
            let reverse = context.reverse;
            let records = &self.records;
            board::stranded(executor.board(), |stranded| {
                let mut packet = context.burst[stranded.origin];
                packet.descriptor = stranded.descriptor;
                let place = stranded.function;
                if !stranded.reached || returns_to_previous {
                    context.ledger.entries.push_back(Entry { packet, start: place, reverse });
                    return;
                }
                if place < records.len() {
                    context.ledger.counters.functions[place].undecided += 1;
                }
                match records.get(place).map(|record| record.policy) {
                    Some(OnFault::FailOpen) => context.continue_behind(packet, place, reverse),
                    _ => context.discard(packet.buffer, DropReason::Fault),
                }
            });
            context.burst.clear();
        }
        let functions = &self.version.staged.plan.functions;
        let fault = match guilty.and_then(|k| functions.get(k)) {
            Some(function) => &fault.clone().of(&function.admitted),
            None => fault,
        };
        if let Some(k) = guilty {
            self.note_fault(k, &fault.to_string());
        } else {
            self.note(format!("the chain failed outside of any function: {fault}"));
        }
        if returns_to_previous {
            self.roll_back(&fault.to_string());
        } else {
            self.reinstantiate();
        }
    }

    /// Bad verdicts and descriptors in the last burst are faults too, one for each function and burst.
    pub(super) fn handle_violations(&mut self) {
        if self.context().violations.is_empty() {
            return;
        }
        let mut violations = std::mem::take(&mut self.context_mut().violations);
        violations.sort_unstable();
        violations.dedup();
        for (function, kind) in violations.drain(..) {
            let message = format!("{}: see wit/window.md for what may be written", kind.name());
            self.note_fault(function, &message);
            let mode = self.records[function].treatment();
            self.version.staged.executor.set_treatment(function, mode);
        }
        self.context_mut().violations = violations;
    }

    fn note_fault(&mut self, function: usize, message: &str) {
        let now = self.context().now;
        self.context_mut().ledger.counters.functions[function].faults += 1;
        self.records[function].fault(now);
        let plan = &self.version.staged.plan.functions[function];
        plan.telemetry.log(weir_sandbox::Level::Error, &format!("fault: {message}"));
        let event = LaneEvent::Fault {
            function: plan.name.clone(),
            version: plan.version.clone(),
            health: self.records[function].health.name(),
            message: message.to_owned(),
        };
        self.event(event);
        self.report();
    }

    /// New instances of the same version, over the same state regions.
    pub(super) fn reinstantiate(&mut self) {
        let states = self.states();
        match self.site.stage_beside(self.version.staged.plan.clone(), &states, &states) {
            Ok(staged) => {
                self.install(staged, Disowner::AfterFault);
            }
            Err(error) => {
                // It was instantiated before, so this is memory or a configuration that its kept state
                // does not go with: without instances nothing can pass.
                self.note(format!("the chain cannot be instantiated again: {error}"));
                for record in &mut self.records {
                    record.health = Health::Quarantined;
                }
                self.report();
            }
        }
    }
}
