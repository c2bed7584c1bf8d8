//! A listener: what all threads share of it, and what each has for itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use slab::Slab;

use crate::chain::{Chain, Lent, Stage};
use crate::config::ListenerConfig;
use crate::http::response_buffers::ResponseBuffers;
use crate::http::retry_budget::RetryBudget;
use crate::http::stream_body::StreamExecutor;
use crate::observe::counters::{ListenerCounters, UpstreamCounters};
use crate::observe::failure_lines::Lines;
use crate::observe::record::Records;
use crate::observe::request_log::Journal;
use crate::tls::{FromFiles, Read, Served, Trust};
use crate::upstream::balance::Balance;
use crate::upstream::dial::{Route, Told};
use crate::upstream::environment::ListenerEnvironment;
use crate::upstream::members::Members;
use crate::upstream::pool::Upstream;
use crate::upstream::rotation::{Choice, Rotation, Tried};

/// Fields of a head that hyper takes if nothing is said; it has room for them without filling it
/// first.
pub(crate) const HYPERS_FIELDS: usize = 100;

/// The largest window of HTTP/2 (RFC 9113 section 6.9.1).
pub(crate) const HTTP2_WINDOW_MAX: u32 = (1 << 31) - 1;
/// Bytes of a request's body that an HTTP/2 client may send before its upstream takes any: what one
/// gets through on a path of 20 ms is 12 MB/s.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of all bodies that one HTTP/2 connection may have the gateway keep.
const CONNECTION_WINDOW_MAX: u32 = 16 * 1024 * 1024;

/// A listener's configuration with all that its threads share.
pub(crate) struct Plan {
    pub(crate) config: ListenerConfig,
    pub(crate) routes: Vec<Arc<Route>>,
    /// Where requests are written down.
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) members: Vec<Arc<Members>>,
    pub(crate) tls: Option<Arc<Read<Served>>>,
    /// By which clients' certificates are taken, if any are asked for.
    pub(crate) trust: Option<Trust>,
    /// Connections open, on all threads.
    pub(crate) connections: Arc<AtomicUsize>,
    /// `via` for HTTP/1.0, 1.1, 2.
    pub(crate) via: [HeaderValue; 3],
}

impl Plan {
    /// What an upstream is told of a connection that no client is behind.
    pub(crate) fn told_of_own(&self) -> Told {
        self.config.upstream_proxy_protocol.map(|version| (version, None))
    }
}

/// What a thread counts into.
pub(crate) struct ThreadCounters {
    pub(crate) listener: Arc<ListenerCounters>,
    pub(crate) upstreams: Vec<Arc<UpstreamCounters>>,
}

impl Plan {
    /// The mark of the authorities and lists by which clients' certificates are taken, if any are
    /// asked for.
    pub(crate) fn trusted(&self) -> Option<u64> {
        self.trust.as_ref().map(Trust::now)
    }

    /// Files that it was made of, and that are read again when they change.
    pub(crate) fn files(&self) -> impl Iterator<Item = Arc<dyn FromFiles>> {
        let of_listener = self.tls.iter().map(|tls| Arc::clone(tls) as Arc<dyn FromFiles>);
        let of_upstreams = self.routes.iter().filter_map(|route| route.tls.as_ref());
        of_listener.chain(of_upstreams.map(|tls| Arc::clone(&tls.files) as Arc<dyn FromFiles>))
    }
}

/// A plan at work on one thread.
pub(crate) struct Site {
    pub(crate) plan: Arc<Plan>,
    pub(crate) rotations: Rc<[Rotation]>,
    pub(crate) balance: Balance,
    pub(crate) chain: Option<Chain>,
    pub(crate) counters: Arc<ListenerCounters>,
    pub(crate) http1: http1::Builder,
    pub(crate) http2: http2::Builder<StreamExecutor>,
    /// `host` for upstreams when the client named none.
    pub(crate) default_hosts: Vec<HeaderValue>,
    /// Attempts beyond the first that are under way.
    pub(crate) retries: RetryBudget,
    /// What of it is said in the log.
    pub(crate) lines: Lines,
    /// The same of clients' certificates that are refused.
    pub(crate) refused: Lines,
    /// Requests are written down.
    pub(crate) records: Option<Records>,
}

impl Site {
    /// Puts a plan to work, on its thread.
    ///
    /// # Errors
    /// What the chain's maker said.
    pub(crate) fn new(
        plan: Arc<Plan>,
        stage: Option<Stage>,
        counters: ThreadCounters,
    ) -> Result<Rc<Self>, String> {
        let config = &plan.config;
        let counted = counters.upstreams.into_iter().enumerate();
        let rotations: Rc<[Rotation]> =
            counted.map(|(index, counters)| Rotation::new(index, &plan, counters)).collect();
        let chain = match stage {
            Some(stage) => {
                let environment = Rc::new(ListenerEnvironment::new(Rc::clone(&rotations)));
                Some(stage(Lent { environment })?)
            }
            None => None,
        };
        let default_hosts = config
            .upstreams
            .iter()
            .map(|upstream| {
                HeaderValue::from_str(&upstream.address.to_string()).map_err(|e| e.to_string())
            })
            .collect::<Result<_, _>>()?;
        Ok(Rc::new(Self {
            balance: Balance::new(config.upstreams.iter().map(|upstream| upstream.weight)),
            chain,
            rotations,
            counters: counters.listener,
            http1: http1_builder(config),
            http2: http2_builder(config),
            default_hosts,
            retries: RetryBudget::new(config.retry.budget),
            lines: Lines::of_exchanges(),
            refused: Lines::of_certificates(),
            records: plan.journal.clone().map(Records::new),
            plan,
        }))
    }

    /// The next member to try: of the upstream that was chosen, or of the one whose turn it is.
    /// When all members of a chosen one were tried, others take its place only if it is one of
    /// those that are balanced.
    pub(crate) fn next(&self, chosen: Option<Choice>, tried: &Tried) -> Option<Rc<Upstream>> {
        let untried = |i: usize| self.rotations[i].is_untried(tried);
        let weight = |i: usize| self.plan.config.upstreams[i].weight;
        let chosen = chosen.filter(|chosen| chosen.upstream < self.rotations.len());
        let next = match chosen {
            Some(Choice { upstream, .. }) if untried(upstream) => upstream,
            Some(choice) if choice.only || weight(choice.upstream) == 0 => return None,
            _ => self.balance.next(untried, |i| self.rotations[i].healthy())?,
        };
        self.rotations[next].next(tried)
    }

    /// What an upstream is told of the client's address.
    pub(crate) fn told(&self, client: &crate::chain::Origin) -> Told {
        let addresses = (client.client, client.local);
        self.plan.config.upstream_proxy_protocol.map(|version| (version, Some(addresses)))
    }
}

fn http1_builder(config: &ListenerConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The connection's task sees to it, without a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(config.limits.head.max(8192))
        .max_header_size(config.limits.head);
    if config.limits.fields != HYPERS_FIELDS {
        builder.max_headers(config.limits.fields);
    }
    builder
}

fn http2_builder(config: &ListenerConfig) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.limits.streams)
        // An upload that its upstream does not take holds up no other, unless there are many: all
        // of them lie in memory.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(
            STREAM_WINDOW.saturating_mul(config.limits.streams).min(CONNECTION_WINDOW_MAX),
        )
        .max_header_list_size(u32::try_from(config.limits.head).unwrap_or(u32::MAX))
        // Floods of streams that are reset before they are accepted end the connection; the
        // client's task sees to others.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(config.timeouts.idle)
        .keep_alive_timeout(config.timeouts.header);
    builder
}

/// A listener on one thread: the plan it follows now, and its connections.
pub(crate) struct Listener {
    site: RefCell<Rc<Site>>,
    /// The thread's.
    pub(crate) buffers: Rc<ResponseBuffers>,
    clients: RefCell<Slab<Waker>>,
    draining: Cell<bool>,
    killed: Cell<bool>,
}

impl Listener {
    pub(crate) fn new(site: Rc<Site>, buffers: Rc<ResponseBuffers>) -> Rc<Self> {
        Rc::new(Self {
            site: RefCell::new(site),
            buffers,
            clients: RefCell::default(),
            draining: Cell::new(false),
            killed: Cell::new(false),
        })
    }

    /// The plan for new requests.
    pub(crate) fn site(&self) -> Rc<Site> {
        Rc::clone(&self.site.borrow())
    }

    /// From now on, new requests follow this one.
    pub(crate) fn follow(&self, site: Rc<Site>) {
        *self.site.borrow_mut() = site;
    }

    /// Connections shall end after what they are doing.
    pub(crate) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Connections shall end at once.
    pub(crate) fn killed(&self) -> bool {
        self.killed.get()
    }

    /// Ends connections when they have done what they are doing, or at once.
    pub(crate) fn drain(&self, kill: bool) {
        self.draining.set(true);
        self.killed.set(kill);
        for (_, waker) in self.clients.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Connections that are open.
    pub(crate) fn clients(&self) -> usize {
        self.clients.borrow().len()
    }

    /// A new connection; `None` if there are as many as may be.
    pub(crate) fn admit(self: &Rc<Self>) -> Option<Admission> {
        let site = self.site();
        let connections = Arc::clone(&site.plan.connections);
        if connections.fetch_add(1, Relaxed) >= site.plan.config.limits.connections {
            connections.fetch_sub(1, Relaxed);
            site.counters.refused.add(1);
            return None;
        }
        site.counters.accepted.add(1);
        site.counters.open.add(1);
        let place = self.clients.borrow_mut().insert(Waker::noop().clone());
        let counters = Arc::clone(&site.counters);
        Some(Admission { listener: Rc::clone(self), place, counters, connections })
    }
}

/// A connection that is counted.
pub(crate) struct Admission {
    listener: Rc<Listener>,
    place: usize,
    counters: Arc<ListenerCounters>,
    connections: Arc<AtomicUsize>,
}

impl Admission {
    /// The task that [`Listener::drain`] wakes.
    pub(crate) fn task(&self, cx: &Context<'_>) {
        let mut clients = self.listener.clients.borrow_mut();
        let waker = &mut clients[self.place];
        if !waker.will_wake(cx.waker()) {
            waker.clone_from(cx.waker());
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.listener.clients.borrow_mut().remove(self.place);
        self.counters.open.sub(1);
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// Does this, unless the listener's connections are to be cut off.
pub(crate) async fn unless_killed<T>(
    listener: &Listener,
    admission: &Admission,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        admission.task(cx);
        if listener.killed() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
