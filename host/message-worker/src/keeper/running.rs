//! What a keeper remembers of its worker: what runs, what is ready, what is tried, and what a fault brings back. A worker that comes after a
//! dead one is told so much, and whoever has to know what the chain is like reads it from here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::turns::State;
use crate::gateway::Link;
use crate::orders::{FunctionImage, News, Order, Reply};

impl State {
    pub(super) fn news(&mut self, news: News) {
        if news.rolled_back
            && let Some(before) = self.before.take()
            && let Some(place) = self.functions.iter_mut().find(|f| f.name == before.name)
        {
            *place = before;
            self.policy();
        }
        (self.config.news)(news);
    }

    pub(super) fn policy(&self) {
        let open = !self.functions.is_empty() && self.functions.iter().all(|f| f.fails_open);
        self.config.fails_open.store(open, Ordering::Relaxed);
        let tried = self.trial.iter().map(|(function, _)| function);
        let all = || self.functions.iter().chain(tried.clone());
        // So is what may come to run before this is looked at again: what is ready, and what a fault brings back.
        let ready = self.staged.iter().flatten().chain(&self.before);
        let services = all().chain(ready).any(|f| f.proxy.is_some());
        self.config.services.store(services, Ordering::Relaxed);
        // A function may keep the worker's thread for as long as its deadline says, and that of a trial, too; services have others.
        let of_events = all().filter(|f| f.proxy.is_none());
        let longest = of_events.map(|f| f.deadline).max().unwrap_or(0);
        let patience = self.config.silence.max(Duration::from_nanos(longest) * 2);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.config.patience.store(patience, Ordering::Relaxed);
    }

    pub(super) fn replied(&mut self, reply: Reply) {
        let Some(live) = self.live.as_mut() else { return };
        let generation = live.generation;
        let Some((order, answer, _)) = live.ordered.take() else {
            return self.kill(generation, "it answers what it was not asked");
        };
        match (&order, &reply) {
            (Order::Begin { .. }, Reply::Staged(_)) => {
                if let Some((end, memory)) = live.link.take() {
                    // The chain's thread may have ended.
                    let _ = self.config.links.send(Link::Up { end, memory, generation });
                }
                // A worker that comes after this one goes on with the regions that this one began with.
                let kept: Vec<FunctionImage> =
                    self.functions.iter().cloned().map(running).collect();
                self.functions = kept;
                self.policy();
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
            }
            (Order::Begin { .. }, _) => {
                tracing::error!(
                    "chain {}: its worker does not begin: {reply:?}",
                    self.config.chain
                );
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
                self.kill(generation, "it cannot begin");
            }
            (Order::StageChain(functions), Reply::Staged(kept)) => {
                self.staged = Some(functions.iter().map(|f| chosen(f, kept)).collect());
                self.policy();
            }
            (Order::StageFunction { function, .. }, Reply::Staged(kept)) => {
                self.staged = Some(vec![chosen(function, kept)]);
                self.policy();
            }
            (Order::Publish, Reply::Done) => {
                self.functions = self.staged.take().unwrap_or_default();
                (self.trial, self.before) = (None, None);
                self.policy();
            }
            (Order::Swap, Reply::Done) => {
                let function = self.staged.take().unwrap_or_default().pop();
                self.put(function);
            }
            (Order::Canary(_) | Order::Shadow, Reply::Done) => {
                let canary = if let Order::Canary(percent) = order { Some(percent) } else { None };
                if let Some(function) = self.staged.take().unwrap_or_default().pop() {
                    self.trial = Some((function, canary));
                    self.policy();
                }
            }
            (Order::ChangeCanary(percent), Reply::Done) => {
                if let Some((_, canary)) = &mut self.trial {
                    *canary = Some(*percent);
                }
            }
            (Order::Promote, Reply::Done) => {
                let function = self.trial.take().map(|(function, _)| function);
                self.put(function);
            }
            (Order::Promote | Order::EndTrial, _) => self.trial = None,
            (Order::Report, Reply::Report(report)) => {
                (self.config.reports)((**report).clone());
            }
            (Order::Unwatch(name), _) => {
                self.before.take_if(|before| before.name == *name);
            }
            (Order::GoBack(..), Reply::Done) => {
                if let Some(before) = self.before.take()
                    && let Some(place) = self.functions.iter_mut().find(|f| f.name == before.name)
                {
                    *place = before;
                    self.policy();
                }
            }
            _ => {}
        }
        if let Some(answer) = answer {
            // Whoever waited may have given up.
            let _ = answer.send(reply);
        }
    }

    /// A function takes the place of the one of its name.
    fn put(&mut self, function: Option<FunctionImage>) {
        self.trial = None;
        let Some(function) = function else { return };
        if let Some(place) = self.functions.iter_mut().find(|f| f.name == function.name) {
            self.before = Some(std::mem::replace(place, function));
        }
        self.policy();
    }
}

/// A function with the region that it went on with, or began with.
fn chosen(function: &FunctionImage, kept: &[String]) -> FunctionImage {
    let mut function = function.clone();
    if !kept.contains(&function.name) {
        function.state = None;
    }
    running(function)
}

/// The same for whoever comes after it.
fn running(mut function: FunctionImage) -> FunctionImage {
    function.state = function.state.take().or(function.blank.take());
    function.blank = None;
    function
}
