//! What a keeper remembers of its worker: what runs and is brought back, what is ready, what is tried. A worker that comes after a
//! dead one is told so much, and whoever has to know what the chain is like reads it from here.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::turns::State;
use super::versions::{Kept, Versions};
use crate::gateway::Link;
use crate::orders::{FunctionImage, News, Order, Reply};

/// Bytes of a text of the news: a fault's, with all places that it names, has fewer.
const SAID_MAX: usize = 16 << 10;

impl State {
    /// A worker may say anything, as often as it likes: that a function went back is believed once for each time that it can, because all
    /// other parts of the chain follow. Else it is a fault like others.
    pub(super) fn news(&mut self, mut news: News) {
        for text in [&mut news.function, &mut news.version, &mut news.kind, &mut news.message] {
            text.truncate(text.floor_char_boundary(SAID_MAX));
            if text.contains(char::is_control) {
                *text = text.replace(char::is_control, " ");
            }
        }
        news.rolled_back &= self.versions.can_go_back(&news.function, &news.version);
        if news.rolled_back {
            self.versions.go_back(&news.function, &news.version, false);
            self.policy();
        }
        (self.config.news)(news);
    }

    /// Goes back as it was ordered. False: to what, is not known.
    pub(super) fn go_back(&mut self, order: &Order) -> bool {
        let (name, version, undone) = match order {
            Order::GoBack(name, version) => (name, version, false),
            Order::Undo(name, version) => (name, version, true),
            _ => return false,
        };
        let went = self.versions.go_back(name, version, undone);
        self.policy();
        went
    }

    /// Has others see what runs, as far as it concerns them.
    pub(super) fn policy(&self) {
        *self.regions.lock().unwrap_or_else(PoisonError::into_inner) = self.versions.regions();
        let functions = self.versions.running();
        let open = !functions.is_empty() && functions.iter().all(|f| f.fails_open);
        self.config.fails_open.store(open, Ordering::Relaxed);
        let tried = self.trial.iter().map(|(function, _)| function);
        let all = || functions.iter().chain(tried.clone());
        // So is what may come to run before this is looked at again: what is ready, and what a fault brings back.
        let ready = self.staged.iter().flatten().chain(self.versions.before());
        let services = all().chain(ready).any(|f| f.proxy.is_some());
        self.config.services.store(services, Ordering::Relaxed);
        // A function may keep the worker's thread for as long as its deadline says, and that of a trial, too; services have others.
        let of_events = all().filter(|f| f.proxy.is_none());
        let longest = of_events.map(|f| f.deadline).max().unwrap_or(0);
        let patience = self.config.silence.max(Duration::from_nanos(longest) * 2);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.config.patience.store(patience, Ordering::Relaxed);
    }

    pub(super) fn replied(&mut self, mut reply: Reply) {
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
                self.versions.begun();
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
                self.versions = Versions::new(self.staged.take().unwrap_or_default());
                self.trial = None;
                self.policy();
            }
            (Order::Swap { back }, Reply::Done) => {
                let function = self.staged.take().unwrap_or_default().pop();
                self.put(function, if *back { Kept::ForUndoing } else { Kept::ForFaults });
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
                self.put(function, Kept::ForFaults);
            }
            (Order::Promote | Order::EndTrial, _) => self.trial = None,
            (Order::Report, Reply::Report(report)) => {
                (self.config.reports)((**report).clone());
            }
            (Order::Unwatch(name), _) => {
                self.versions.unwatch(name);
                self.policy();
            }
            (Order::GoBack(..) | Order::Undo(..), _) => {
                let known = self.go_back(&order);
                if known && !matches!(reply, Reply::Done) {
                    // It was started since, or has forgotten it: the next one begins where it should be.
                    self.end(generation, "it did not know what it was to go back to".into());
                    reply = Reply::Done;
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
    fn put(&mut self, function: Option<FunctionImage>, before: Kept) {
        self.trial = None;
        let Some(function) = function else { return };
        self.versions.put(function, before, Instant::now());
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
pub(super) fn running(mut function: FunctionImage) -> FunctionImage {
    function.state = function.state.take().or(function.blank.take());
    function.blank = None;
    function
}
