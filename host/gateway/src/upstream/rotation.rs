//! The rotation of one upstream of a listener, on one thread: a member for each address, taken in
//! turn.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::watch;

use crate::listen::listener::Plan;
use crate::observe::counters::UpstreamCounters;
use crate::upstream::members::{List, Members};
use crate::upstream::pool::Upstream;

/// Members that a request was at already: the place, and the address.
pub(crate) type Tried = SmallVec<[(usize, SocketAddr); 2]>;

/// The upstream that somebody chose for a request.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) upstream: usize,
    /// No other one will do.
    pub(crate) only: bool,
}

impl Choice {
    /// A function's: another one may be taken if this one fails, as among those that are balanced.
    pub(crate) fn preferred(upstream: usize) -> Self {
        Self { upstream, only: false }
    }

    /// The one that is meant, and no other.
    pub(crate) fn only(upstream: usize) -> Self {
        Self { upstream, only: true }
    }
}

/// See the module.
pub(crate) struct Rotation {
    index: usize,
    plan: Arc<Plan>,
    members: Arc<Members>,
    counters: Arc<UpstreamCounters>,
    watch: RefCell<watch::Receiver<List>>,
    upstreams: RefCell<Vec<Rc<Upstream>>>,
    turn: Cell<usize>,
}

impl Rotation {
    pub(crate) fn new(index: usize, plan: &Arc<Plan>, counters: Arc<UpstreamCounters>) -> Self {
        let members = Arc::clone(&plan.members[index]);
        let mut watch = members.watch();
        watch.mark_changed();
        Self {
            index,
            plan: Arc::clone(plan),
            counters,
            watch: RefCell::new(watch),
            members,
            upstreams: RefCell::default(),
            turn: Cell::new(0),
        }
    }

    /// Whether a member may have requests.
    pub(crate) fn healthy(&self) -> bool {
        self.members.healthy()
    }

    /// Whether it has a member that was not tried.
    pub(crate) fn is_untried(&self, tried: &Tried) -> bool {
        self.follow();
        self.upstreams.borrow().iter().any(|upstream| !upstream.is_among(tried))
    }

    /// The member whose turn it is: one that is healthy and was not tried, or one that was not
    /// tried, or one.
    pub(crate) fn next(&self, tried: &Tried) -> Option<Rc<Upstream>> {
        self.follow();
        let upstreams = self.upstreams.borrow();
        if let [only] = &upstreams[..] {
            return Some(Rc::clone(only));
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let begin = turn % upstreams.len().max(1);
        let all = || upstreams[begin..].iter().chain(&upstreams[..begin]);
        let untried = |upstream: &&Rc<Upstream>| !upstream.is_among(tried);
        all()
            .find(|upstream| untried(upstream) && upstream.standing.healthy())
            .or_else(|| all().find(untried))
            .or_else(|| all().next())
            .map(Rc::clone)
    }

    /// Makes members of the addresses that there are now. Those that are no more lose their idle
    /// connections; requests that are there end there.
    fn follow(&self) {
        if !self.watch.borrow().has_changed().unwrap_or(false) {
            return;
        }
        let mut watch = self.watch.borrow_mut();
        let list = watch.borrow_and_update();
        let mut upstreams = self.upstreams.borrow_mut();
        let mut before = std::mem::take(&mut *upstreams);
        *upstreams = list
            .iter()
            .map(|member| {
                match before.iter().position(|upstream| upstream.address == member.address) {
                    Some(at) => before.swap_remove(at),
                    None => Upstream::new(self.index, &self.plan, member, &self.counters),
                }
            })
            .collect();
    }
}
