//! What a keeper remembers of its worker: what runs and is brought back, what is ready, what is
//! tried. A worker that comes after a dead one is told so much, and whoever has to know what the
//! chain is like reads it from here.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_message::Change;
use weir_sandbox::one_line;

use super::turns::State;
use super::versions::{Kept, Versions};
use crate::gateway::Link;
use crate::orders::{FunctionImage, News, Order, Reply, TRIAL};

/// Bytes of a text of the news: a fault's, with all places that it names, has fewer.
const SAID_MAX: usize = 16 << 10;

impl State {
    /// A worker may say anything, as often as it likes: that a function went back is believed once
    /// for each time that it can, because all other parts of the chain follow. Else it is a fault
    /// like others.
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
    pub(super) fn go_back(&mut self, change: &Change) -> bool {
        let (name, version, undone) = match change {
            Change::GoBack { name, version } => (name, version, false),
            Change::Undo { name, version } => (name, version, true),
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
        // So is what may come to run before this is looked at again: what is ready, and what a
        // fault brings back.
        let ready = || self.staged.iter().flatten().chain(self.versions.before());
        let all = || functions.iter().chain(tried.clone()).chain(ready());
        self.config.services.store(all().any(|f| f.proxy.is_some()), Ordering::Relaxed);
        // A function may keep the worker's thread for as long as its deadline says, and that of a
        // trial, too; services have others.
        let of_events = all().filter(|f| f.proxy.is_none());
        let longest = of_events.map(|f| f.deadline).max().unwrap_or(0);
        let patience = self.config.silence.max(Duration::from_nanos(longest) * 2);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.config.patience.store(patience, Ordering::Relaxed);
    }

    pub(super) fn replied(&mut self, mut reply: Reply) {
        let Some(live) = self.live.as_mut() else { return };
        let generation = live.generation;
        let Some((order, answers, _)) = live.ordered.take() else {
            return self.kill(generation, "it answers what it was not asked");
        };
        // The chain's thread may have ended.
        let _ = self.config.links.send(Link::Order { generation, given: false });
        // What a new worker is told beside the chain is what is tried, and to forget it.
        let of_trial = answers.is_empty() && !matches!(order, Order::Begin { .. } | Order::Forget);
        if of_trial && !matches!(reply, Reply::Staged(_) | Reply::Done) {
            return self.trial_is_over(&reply);
        }
        match (&order, &reply) {
            (Order::Begin { .. }, Reply::Staged(_)) => {
                if let Some((end, memory)) = live.link.take() {
                    // The chain's thread may have ended.
                    let _ = self.config.links.send(Link::Up { end, memory, generation });
                }
                // A worker that comes after this one goes on with the regions that this one began
                // with.
                self.versions.begun();
                self.policy();
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
            }
            (Order::Begin { .. }, _) => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(reply.clone());
                }
                self.end(generation, format!("it cannot begin: {}", why(&reply)));
            }
            (Order::StageChain(functions), Reply::Staged(kept)) => {
                self.staged = Some(functions.iter().map(|f| chosen(f, kept)).collect());
                self.policy();
            }
            (Order::StageFunction { function, .. }, Reply::Staged(kept)) => {
                self.staged = Some(vec![chosen(function, kept)]);
                self.policy();
            }
            (Order::Forget, _) => {
                self.staged = None;
                self.policy();
            }
            (Order::Report, Reply::Report(report)) => {
                (self.config.reports)((**report).clone());
            }
            (Order::Change(change), _) => {
                let done = matches!(reply, Reply::Done);
                let known = self.changed(change, done);
                if known && !done {
                    // It was started since, or has forgotten it: the next one begins where it
                    // should be.
                    self.end(generation, "it did not know what it was to go back to".into());
                    reply = Reply::Done;
                }
            }
            _ => {}
        }
        for answer in answers {
            // Whoever waited may have given up.
            let _ = answer.send(reply.clone());
        }
    }

    /// A new worker was to go on with what is tried, and does not. Then it is over: the other parts
    /// of the chain are told so by whoever hears of it.
    fn trial_is_over(&mut self, refused: &Reply) {
        if let Some(live) = self.live.as_mut() {
            live.next = VecDeque::from([Order::Forget]);
        }
        let Some((FunctionImage { name, version, .. }, _)) = self.trial.take() else { return };
        self.policy();
        let message = format!(
            "the chain's worker was started again, and cannot go on with it: {}",
            why(refused)
        );
        (self.config.news)(News {
            function: name,
            version,
            kind: TRIAL.into(),
            message,
            rolled_back: false,
            quarantined: false,
        });
    }

    /// The worker was told to change its chain, and has done it or not. True if what it was to
    /// bring back is known here.
    fn changed(&mut self, change: &Change, done: bool) -> bool {
        match change {
            Change::Publish if done => {
                self.versions = Versions::new(self.staged.take().unwrap_or_default());
                self.trial = None;
                self.policy();
            }
            Change::Swap if done => self.put_staged(Kept::ForFaults),
            Change::SwapBack if done => self.put_staged(Kept::ForUndoing),
            Change::Canary { percent, .. } if done => self.tries(Some(*percent)),
            Change::Shadow { .. } if done => self.tries(None),
            Change::CanaryShare(percent) if done => {
                if let Some((_, canary)) = &mut self.trial {
                    *canary = Some(*percent);
                }
            }
            Change::Promote if done => {
                let function = self.trial.take().map(|(function, _)| function);
                self.put(function, Kept::ForFaults);
            }
            Change::Promote | Change::EndTrial => {
                self.trial = None;
                self.policy();
            }
            Change::Unwatch(name) => {
                self.versions.unwatch(name);
                self.policy();
            }
            Change::GoBack { .. } | Change::Undo { .. } => return self.go_back(change),
            Change::Publish
            | Change::Swap
            | Change::SwapBack
            | Change::Canary { .. }
            | Change::Shadow { .. }
            | Change::CanaryShare(_) => {}
        }
        false
    }

    /// The version that was ready is tried, on this share of the clients or on copies.
    fn tries(&mut self, canary: Option<u8>) {
        if let Some(function) = self.staged.take().unwrap_or_default().pop() {
            self.trial = Some((function, canary));
            self.policy();
        }
    }

    /// The version that was ready takes the place of the one of its name.
    fn put_staged(&mut self, before: Kept) {
        let function = self.staged.take().unwrap_or_default().pop();
        self.put(function, before);
    }

    /// A function takes the place of the one of its name.
    fn put(&mut self, function: Option<FunctionImage>, before: Kept) {
        self.trial = None;
        if let Some(function) = function {
            self.versions.put(function, before, Instant::now());
        }
        self.policy();
    }
}

/// Why a worker has not done what it was ordered, as it says.
fn why(reply: &Reply) -> String {
    match reply {
        Reply::Configuration(function, message) => {
            let (function, message) = (one_line(function), one_line(message));
            format!("function {function} refused its configuration: {message}")
        }
        Reply::Conflict(message) | Reply::Refused(message) => one_line(message).into_owned(),
        Reply::Done | Reply::Staged(_) | Reply::Report(_) => {
            "it answers what it was not asked".into()
        }
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
