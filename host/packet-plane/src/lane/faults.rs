//! What a lane does about its functions' faults.

use std::time::Duration;

use weir_chain::board;
use weir_sandbox::{Fault, Health, OnFault, Treatment};

use super::{Lane, LaneEvent};
use crate::context::Entry;
use crate::counters::DropReason;
use crate::trial::Trial;

impl Lane {
    /// Brings functions back whose back-off is over, and learns when to look again.
    pub(super) fn wake_functions(&mut self) {
        self.try_to_restore();
        let now = self.context().now;
        let mut changed = false;
        for place in 0..self.records.len() {
            if self.records[place].recover(now) {
                self.treat(place);
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
        let own = match &self.outage {
            Some(outage) => outage.next(),
            None => self.version.staged.executor.next_timer(),
        };
        let timers = back.chain([own, self.trial.as_ref().map_or(0, Trial::next_timer)]);
        let timer = timers.filter(|timer| *timer != 0 && !self.draining).min();
        self.context_mut().ledger.timer = timer.unwrap_or(0);
        if let Some(over) = self.probation.take_if(|probation| probation.is_over(now)) {
            self.dispose(over.previous);
        }
    }

    /// Has a function treated as its record says, also beside a canary of another one. That is
    /// called, whatever the running version has done.
    pub(crate) fn treat(&mut self, place: usize) {
        let treatment = self.records[place].treatment();
        self.version.staged.executor.set_treatment(place, treatment);
        if let Some(Trial::Canary { version, function, .. }) = &mut self.trial {
            let treatment = if *function == place { Treatment::Run } else { treatment };
            version.staged.executor.set_treatment(place, treatment);
        }
    }

    pub(super) fn set_skips(&mut self, mut skip: u64, on: bool) {
        while skip != 0 {
            let place = skip.trailing_zeros() as usize;
            skip &= skip - 1;
            if !on {
                self.treat(place);
                continue;
            }
            self.version.staged.executor.set_treatment(place, Treatment::Skip);
            if let Some(Trial::Canary { version, .. }) = &mut self.trial {
                version.staged.executor.set_treatment(place, Treatment::Skip);
            }
        }
    }

    /// A function trapped, of the running version or of the canary (`in_trial`). Its packets get
    /// what its policy says, or are run again by the version before if it goes; the others go on;
    /// the chain gets new instances.
    pub(crate) fn handle_fault(&mut self, fault: &Fault, in_trial: bool) {
        let guilty = fault.function;
        let suspect = if in_trial { self.on_trial() } else { None };
        let goes_back = match (suspect, &self.probation) {
            // Of what failed outside of any function the canary is what is new.
            (Some(function), _) => guilty.is_none_or(|guilty| guilty == function),
            (None, Some(probation)) => probation.is_failed_by(guilty, self.context().now),
            (None, None) => false,
        };
        self.settle_burst(in_trial, goes_back);
        if in_trial && goes_back {
            return self.end_trial_by(&fault.to_string());
        }
        if let Some(k) = guilty {
            self.note_fault(k, fault);
        } else {
            self.note(format!("the chain failed outside of any function: {fault}"));
        }
        if in_trial {
            // The running version goes on with the instances that it has.
            if let Some(k) = guilty {
                self.treat(k);
            }
            self.renew_canary();
        } else if goes_back {
            self.roll_back(&fault.to_string());
        } else {
            self.reinstantiate();
        }
    }

    /// Ends the burst in which a function trapped; `again`: its packets are run again.
    fn settle_burst(&mut self, in_trial: bool, again: bool) {
        let context = self.context.as_mut().expect("the context is home between calls");
        if context.burst.is_empty() {
            return;
        }
        let board = match &self.trial {
            Some(Trial::Canary { version, .. }) if in_trial => version.staged.executor.board(),
            _ => self.version.staged.executor.board(),
        };
        board::departed(board, &mut |origin, descriptor, end| {
            context.end(origin, descriptor, end);
        });
        let (reverse, records) = (context.reverse, &self.records);
        board::stranded(board, |stranded| {
            let mut packet = context.burst[stranded.origin];
            packet.descriptor = stranded.descriptor;
            let place = stranded.function;
            match records.get(place) {
                // It had passed all functions when one was found out.
                None if again => context.leave(packet, reverse),
                Some(_) if again || !stranded.reached => {
                    let (start, moves) = (place, context.moved);
                    context.ledger.entries.push_back(Entry { packet, start, reverse, moves });
                }
                Some(record) => {
                    context.ledger.counters.functions[place].undecided += 1;
                    match record.policy {
                        OnFault::FailOpen => context.continue_behind(packet, place, reverse),
                        OnFault::FailClosed => context.discard(packet.buffer, DropReason::Fault),
                    }
                }
                None => context.discard(packet.buffer, DropReason::Fault),
            }
        });
        context.burst.clear();
    }

    /// Bad verdicts and descriptors in the last burst are faults too, one for each function and
    /// burst. `in_trial`: it was a canary's.
    pub(crate) fn handle_violations(&mut self, in_trial: bool) {
        if self.context().violations.is_empty() {
            return;
        }
        let suspect = if in_trial { self.on_trial() } else { None };
        let mut violations = std::mem::take(&mut self.context_mut().violations);
        violations.sort_unstable_by_key(|it| (it.function, it.kind, it.place));
        violations.dedup_by_key(|it| (it.function, it.kind));
        for violation in violations.drain(..) {
            let function = violation.function;
            let plan = match &self.trial {
                Some(Trial::Canary { version, .. }) if in_trial => &version.staged.plan,
                _ => self.plan(),
            };
            let world = plan.functions[function].admitted.world;
            let (kind, message) = (violation.kind, violation.told(self.context(), world));
            if suspect == Some(function) {
                self.end_trial_by(&format!("{}: {message}", kind.name()));
                continue;
            }
            let lost = Duration::ZERO;
            self.note_fault(function, &Fault { kind, function: Some(function), message, lost });
            self.treat(function);
        }
        self.context_mut().violations = violations;
    }

    pub(super) fn note_fault(&mut self, function: usize, fault: &Fault) {
        let now = self.context().now;
        self.context_mut().ledger.counters.functions[function].faults += 1;
        self.records[function].fault(now, fault.lost);
        let plan = &self.version.staged.plan.functions[function];
        plan.telemetry.fault(&format!("fault: {fault}"));
        let event = LaneEvent::Fault {
            function: plan.name.clone(),
            version: plan.version.clone(),
            kind: fault.kind,
            health: self.records[function].health,
            message: fault.message.clone(),
        };
        self.event(event);
        self.report();
    }

    /// New instances of the same version, over the same state regions.
    pub(super) fn reinstantiate(&mut self) {
        self.renew(self.version.staged.ready(), None);
    }
}
