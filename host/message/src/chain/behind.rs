//! What a chain does beside its exchanges: ticks, orders, what functions asked for and do not wait
//! for.

use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use weir_exchange::Origin;

use super::{Chain, Inner};
use crate::asks::{Answer, Asks, Ready};
use crate::clock;
use crate::context::{Ask, Asked, Effects, NOBODY};
use crate::function::{Called, Function, Seat};

/// How long after the last event the clock of deadlines goes on.
const IDLE: Duration = Duration::from_millis(20);

impl Chain {
    /// Drives this beside the exchanges.
    pub(crate) fn behind(&self, work: LocalBoxFuture<'static, ()>) {
        self.0.background.borrow_mut().push(work);
        self.0.wake.notify_one();
    }

    /// Carries out what functions want outside of exchanges (their ticks, and what they asked for
    /// and did not wait for) and orders from other threads. When nobody can give any, another chain
    /// is in its place: functions have no ticks any more, and this ends with the last exchange and
    /// the last visit of a service.
    pub async fn drive(self) {
        let mut running = FuturesUnordered::new();
        let Some(mut orders) = self.0.orders.borrow_mut().take() else { return };
        loop {
            running.extend(self.0.background.borrow_mut().drain(..));
            let replaced = self.0.replaced.get();
            if replaced && Rc::strong_count(&self.0) == 1 && self.0.visits.get() == 0 {
                return;
            }
            let timeout = self.due();
            let sleep = async {
                match timeout {
                    Some(timeout) => self.0.environment.sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let notified = pin!(self.0.wake.notified());
            tokio::select! {
                () = notified => {}
                Some(()) = running.next(), if !running.is_empty() => {}
                () = sleep => {}
                order = orders.next(), if !replaced => match order {
                    Some(order) => order(&self),
                    None => self.0.replaced.set(true),
                },
            }
            self.tick();
        }
    }

    /// A service has a visit, until this is dropped.
    pub(crate) fn visit(&self) -> Visiting {
        self.0.visits.set(self.0.visits.get() + 1);
        Visiting(self.weak())
    }

    /// When [`Self::drive`] has something to do by itself.
    fn due(&self) -> Option<Duration> {
        let version = self.0.version.borrow();
        let ticked = version.all().filter(|_| !self.0.replaced.get());
        let timer = ticked.map(|function| function.timer()).filter(|timer| *timer != 0).min();
        self.0.timer.set(timer.unwrap_or(0));
        let timer = timer.map(|at| Duration::from_nanos(at.saturating_sub(clock::monotonic())));
        let idle = self.0.ticking.borrow().is_some().then_some(IDLE);
        timer.into_iter().chain(idle).min()
    }

    fn tick(&self) {
        let now = clock::monotonic();
        if !self.0.replaced.get() {
            self.tick_functions(now);
        }
        if now.saturating_sub(self.0.last_event.get()) >= IDLE.as_nanos() as u64 {
            self.0.ticking.borrow_mut().take();
        }
    }

    fn tick_functions(&self, now: u64) {
        let version = Rc::clone(&self.0.version.borrow());
        if version.all().any(|function| function.timer() != 0 && function.timer() <= now) {
            self.moment();
        }
        let trial = version.canary.iter().map(|canary| (canary.place, &canary.function));
        for (place, function) in version.functions.iter().enumerate().chain(trial) {
            function.forget(now);
            match function.tick(now) {
                None => {}
                Some(Ok(effects)) => self.nobodys(function, effects),
                Some(Err(fault)) => self.faulted(place, function, &fault),
            }
        }
    }

    /// A function has this timer now; what waits for a later one is told.
    pub(crate) fn note_timer(&self, timer: u64) {
        let waited_for = self.0.timer.get();
        if timer != 0 && (waited_for == 0 || timer < waited_for) {
            self.0.timer.set(timer);
            self.0.wake.notify_one();
        }
    }

    /// A function is about to get events: what it asked for in `configure` is carried out.
    pub(super) fn started(&self, function: &Rc<Function>) {
        let effects = function.left_over();
        self.nobodys(function, effects);
    }

    /// What was asked for outside of exchanges.
    fn nobodys(&self, function: &Rc<Function>, effects: Option<Box<Effects>>) {
        let Some(effects) = effects.filter(|effects| !effects.asks.is_empty()) else { return };
        let asks: Asks = effects.asks.into_iter().map(|ask| self.ask(ask)).collect();
        self.go_on(NOBODY, function, asks);
    }

    /// Has a function resumed with these as they come, its answers unheeded.
    pub(crate) fn go_on(&self, exchange: u32, function: &Rc<Function>, mut asks: Asks) {
        let (chain, function): (Weak<Inner>, _) = (Rc::downgrade(&self.0), Rc::clone(function));
        let seat = Seat::default();
        let nobody = Origin {
            client: ([0, 0, 0, 0], 0).into(),
            local: ([0, 0, 0, 0], 0).into(),
            tls: false,
            server_name: None,
            upgrade: false,
        };
        let going = async move {
            while let Some(ready) = asks.next().await {
                let Some(chain) = chain.upgrade().map(Chain) else { return };
                let Some(laid) = ready.lay_out(chain.rooms(), &nobody) else {
                    chain.count_exhausted();
                    continue;
                };
                let mut at = chain.moment();
                match function.call(exchange, &seat, laid.event(), &mut at) {
                    Called::Outcome(_, None) => {}
                    Called::Outcome(_, Some(effects)) => {
                        asks.extend(effects.asks.into_iter().map(|ask| chain.ask(ask)));
                    }
                    Called::Fault(fault) => {
                        let place = chain.place(&function.plan.name).unwrap_or_default();
                        return chain.faulted(place, &function, &fault);
                    }
                    Called::Skip | Called::Refuse => return,
                }
            }
        };
        self.behind(Box::pin(going));
    }

    /// Sets about what a function asked for.
    pub(crate) fn ask(&self, ask: Ask) -> LocalBoxFuture<'static, Ready> {
        let Ask { token, what, open } = ask;
        let environment = Rc::clone(&self.0.environment);
        let body_max = self.0.site.rooms.room_bytes();
        Box::pin(async move {
            let answer = match what {
                Asked::Value(value) => Answer::Value(value.get().await),
                Asked::Sleep(time) => {
                    environment.sleep(time).await;
                    Answer::Slept
                }
                Asked::Call { upstream, request, timeout } => {
                    Answer::Called(environment.call(upstream, *request, timeout, body_max).await)
                }
            };
            drop(open);
            Ready { token, answer }
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // The one that is left is `drive`'s, which ends then.
        if self.0.replaced.get() && Rc::strong_count(&self.0) == 2 {
            self.0.wake.notify_one();
        }
    }
}

/// A service's visit, whose end is still to be counted.
pub(crate) struct Visiting(Weak<Inner>);

impl Drop for Visiting {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.visits.set(inner.visits.get() - 1);
        }
    }
}
