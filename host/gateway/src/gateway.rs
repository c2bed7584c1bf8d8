//! The handle of a running gateway: listeners come, change and go while it runs.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::time::Instant;

use crate::chain::{Stage, Upstreams};
use crate::config::{GatewayConfig, ListenerConfig, Protocol, Target, UpstreamConfig};
use crate::error::GatewayError;
use crate::listen::listener::{Plan, ThreadCounters};
use crate::listen::thread::{Command, Handle};
use crate::observe::counters::{ListenerCounters, UpstreamCounters};
use crate::observe::request_log::Journal;
use crate::observe::statistics::{Expiry, ListenerStatistics, Statistics, UpstreamStatistics};
use crate::tls::{self, Served};
use crate::upstream::dial::Route;
use crate::upstream::environment::ListenerUpstreams;
use crate::upstream::keeper::{Errand, Keeper};
use crate::upstream::members::Members;
use crate::upstream::news::News;

/// Connections that the kernel accepts before the gateway does.
const BACKLOG: i32 = 4096;
/// How long a listener that comes waits for names to be looked up.
const FIRST_LOOK_UP: Duration = Duration::from_secs(2);
/// How long the last lines of logs of requests may take to be written when connections took all of
/// the time.
const LOG_LINGER: Duration = Duration::from_secs(1);

/// A running gateway. When it is dropped, all connections are cut off; [`Gateway::drain`] first
/// lets them end.
pub struct Gateway {
    via: [HeaderValue; 3],
    threads: Vec<Handle>,
    keeper: Keeper,
    news: News,
    listeners: Mutex<BTreeMap<String, Entry>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// A listener.
struct Entry {
    plan: Arc<Plan>,
    bound: Vec<Bound>,
    counters: Vec<Arc<ListenerCounters>>,
    upstreams: BTreeMap<Target, UpstreamEntry>,
}

/// An address of a listener.
#[derive(Clone)]
struct Bound {
    /// As it was asked for, and as it was got.
    asked: SocketAddr,
    got: SocketAddr,
    device: Option<String>,
    transparent: bool,
    /// Each thread's. They are kept here, too, for whoever has the address next: what waits there
    /// to be accepted is not lost.
    sockets: Vec<Arc<TcpListener>>,
}

impl Bound {
    /// Whether it is this address.
    fn is_at(&self, address: SocketAddr, device: Option<&str>) -> bool {
        self.got == address && self.device.as_deref() == device
    }
}

/// A listener as it is to be, and what is not there yet.
struct Coming {
    entry: Entry,
    stages: Vec<Option<Stage>>,
    sockets: Sockets,
}

/// What a listener's files say: its certificates, and the way to each of its upstreams.
type Files = (Option<Arc<tls::Read<Served>>>, Vec<Arc<Route>>);

/// By thread: sockets that it does not have, with the addresses as they were asked for.
type Sockets = Vec<Vec<(SocketAddr, TcpListener)>>;

/// An upstream of a listener. It is kept when the listener changes, and comes back with what was
/// counted.
#[derive(Clone)]
struct UpstreamEntry {
    members: Arc<Members>,
    counters: Vec<Arc<UpstreamCounters>>,
}

impl Gateway {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started, or the configuration is wrong.
    pub fn start(config: GatewayConfig) -> Result<Self, GatewayError> {
        let wrong = |what: String| GatewayError::Config { listener: "(all)".to_owned(), what };
        if config.threads == 0 {
            return Err(wrong("threads = 0: at least one is needed".to_owned()));
        }
        let via = |version: &str| {
            HeaderValue::from_str(&format!("{version} {}", config.via))
                .map_err(|_| wrong(format!("via = {:?}: not a token", config.via)))
        };
        let via = [via("1.0")?, via("1.1")?, via("2")?];
        let threads = (0..config.threads)
            .map(|number| Handle::start(number, config.response_buffers))
            .collect::<Result<_, _>>();
        let threads = threads.map_err(GatewayError::Thread)?;
        let keeper = Keeper::start().map_err(GatewayError::Thread)?;
        Ok(Self { via, threads, keeper, news: config.news, listeners: Mutex::default() })
    }

    /// Whether a gateway could have such a listener: what can be known without listening. Its files
    /// are read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(config: &ListenerConfig) -> Result<(), GatewayError> {
        read(config).map(drop)
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener, or changes the one of this name, as [`Self::change`] does.
    ///
    /// # Errors
    /// As there.
    pub fn set(&self, config: ListenerConfig) -> Result<(), GatewayError> {
        self.change(vec![config], &[], Duration::ZERO)
    }

    /// Adds listeners, changes those that there are of these names, and takes others away: all of
    /// it or nothing. Sockets of addresses that stay are kept, also when another listener has the
    /// address from now on; connections go on, and their next requests follow the new
    /// configuration. Those of listeners that go end as [`Self::remove`] says; nobody waits for
    /// that.
    ///
    /// # Errors
    /// What is wrong; then all is as before, unless it is [`GatewayError::Partly`].
    pub fn change(
        &self,
        configs: Vec<ListenerConfig>,
        gone: &[&str],
        time: Duration,
    ) -> Result<(), GatewayError> {
        let mut ready = Vec::new();
        for config in configs {
            let (tls, routes) = read(&config)?;
            ready.push((config, tls, routes));
        }
        let mut listeners = self.listeners();
        let mut addresses = Addresses::new(&listeners, ready.iter().map(|(c, ..)| c), gone);
        let mut bound = Vec::new();
        for (config, ..) in &ready {
            bound.push(addresses.of(config, listeners.get(&config.name), self.threads.len())?);
        }
        let mut coming = Vec::new();
        for ((config, tls, routes), (bound, sockets)) in ready.into_iter().zip(bound) {
            let old = listeners.get(&config.name);
            let mut upstreams = old.map(|old| old.upstreams.clone()).unwrap_or_default();
            upstreams.retain(|address, _| config.upstreams.iter().any(|u| u.address == *address));
            for upstream in &config.upstreams {
                let new = || self.upstream(&config.name, &upstream.address);
                upstreams.entry(upstream.address.clone()).or_insert_with(new);
            }
            let members = |upstream: &UpstreamConfig| {
                let entry = upstreams.get(&upstream.address);
                let new = || self.upstream(&config.name, &upstream.address).members;
                entry.map_or_else(new, |entry| Arc::clone(&entry.members))
            };
            let plan = Arc::new(Plan {
                members: config.upstreams.iter().map(members).collect(),
                routes,
                trust: tls.as_ref().and_then(|tls| tls.now().trust.clone()),
                tls,
                connections: match old {
                    Some(old) => Arc::clone(&old.plan.connections),
                    None => Arc::new(AtomicUsize::new(0)),
                },
                via: self.via.clone(),
                journal: journal(&config, old)?,
                config,
            });
            let counters = match old {
                Some(old) => old.counters.clone(),
                None => self.threads.iter().map(|_| Arc::default()).collect(),
            };
            coming.push((Entry { plan, bound, counters, upstreams }, sockets));
        }
        self.look_up(coming.iter().flat_map(|(entry, _)| &entry.plan.members));
        let stage = |(entry, sockets): (Entry, _)| {
            let stages = (0..self.threads.len()).map(|thread| entry.stage(thread));
            Ok(Coming { stages: stages.collect::<Result<_, _>>()?, entry, sockets })
        };
        let coming = coming.into_iter().map(stage).collect::<Result<Vec<_>, _>>()?;
        for Coming { entry, stages, sockets } in coming {
            let told = self.tell(&entry, stages, sockets);
            let _ = self.keeper.errands.send(Errand::Keep(Arc::clone(&entry.plan)));
            // Also if only some threads have it: it can be changed back, or taken away.
            listeners.insert(entry.plan.config.name.clone(), entry);
            told?;
        }
        let deadline = Instant::now() + time;
        for name in gone.iter().filter(|name| listeners.remove(**name).is_some()) {
            let _ = self.keeper.errands.send(Errand::Forget((*name).to_owned()));
            for (closed, _) in self.tell_removed(name, deadline) {
                // A thread that has ended has no sockets either.
                let _ = closed.recv();
            }
        }
        Ok(())
    }

    fn upstream(&self, listener: &str, target: &Target) -> UpstreamEntry {
        let counters = self.threads.iter().map(|_| Arc::default()).collect();
        let members = Members::new(target, self.news.of(listener, target));
        UpstreamEntry { members, counters }
    }

    /// Has names looked up that never were, so that the first request finds somebody. Whoever is
    /// not found in time comes later.
    fn look_up<'m>(&self, members: impl Iterator<Item = &'m Arc<Members>>) {
        let unknown: Vec<_> = members.filter(|m| m.is_unknown()).cloned().collect();
        if unknown.is_empty() {
            return;
        }
        let (answer, answered) = sync_channel(1);
        let _ = self.keeper.errands.send(Errand::LookUp(unknown, answer));
        let _ = answered.recv_timeout(FIRST_LOOK_UP);
    }

    /// Tells every thread of a listener, and waits until it follows.
    fn tell(
        &self,
        entry: &Entry,
        stages: Vec<Option<Stage>>,
        sockets: Sockets,
    ) -> Result<(), GatewayError> {
        let each = self.threads.iter().zip(stages).zip(sockets).enumerate();
        for (number, ((thread, stage), sockets)) in each {
            let counters = ThreadCounters {
                listener: Arc::clone(&entry.counters[number]),
                upstreams: entry
                    .upstreams()
                    .map(|upstream| Arc::clone(&upstream.counters[number]))
                    .collect(),
            };
            let (answer, answered) = sync_channel(1);
            let plan = Arc::clone(&entry.plan);
            let _ = thread.commands.send(Command::Set { plan, stage, counters, sockets, answer });
            let followed = answered.recv();
            followed.unwrap_or_else(|_| Err("it has ended".to_owned())).map_err(|what| {
                GatewayError::Partly { listener: entry.plan.config.name.clone(), what }
            })?;
        }
        Ok(())
    }

    /// Takes a listener away. Its connections end when they have done what they are doing; after
    /// this time they are cut off. Returns when there are none.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove(&self, name: &str, time: Duration) -> Result<(), GatewayError> {
        if self.listeners().remove(name).is_none() {
            return Err(GatewayError::Unknown(name.to_owned()));
        }
        let _ = self.keeper.errands.send(Errand::Forget(name.to_owned()));
        self.remove_all(vec![name.to_owned()], time);
        Ok(())
    }

    /// Takes all listeners away, as [`Self::remove`] does.
    pub fn drain(&self, time: Duration) {
        let all = std::mem::take(&mut *self.listeners());
        // Their sockets are let go of here, too: else the kernel goes on to take connections that
        // nobody will accept.
        let (names, plans): (Vec<_>, Vec<_>) =
            all.into_iter().map(|(name, entry)| (name, entry.plan)).unzip();
        for name in &names {
            let _ = self.keeper.errands.send(Errand::Forget(String::clone(name)));
        }
        let deadline = std::time::Instant::now() + time;
        self.remove_all(names, time);
        end_journals(&plans, deadline);
    }

    fn remove_all(&self, names: Vec<String>, time: Duration) {
        let deadline = Instant::now() + time;
        let told = |name: &String| self.tell_removed(name, deadline);
        let waiting: Vec<_> = names.iter().flat_map(told).collect();
        for (_, ended) in waiting {
            // A thread that has ended has no connections either.
            let _ = ended.recv();
        }
    }

    /// Tells every thread that a listener goes. Each says when its sockets are closed, and when it
    /// has no connections.
    fn tell_removed(&self, name: &str, deadline: Instant) -> Vec<(Receiver<()>, Receiver<()>)> {
        let tell = |thread: &Handle| {
            let ((closed, is_closed), (ended, has_ended)) = (sync_channel(1), sync_channel(1));
            let name = name.to_owned();
            let _ = thread.commands.send(Command::Remove { name, deadline, closed, ended });
            (is_closed, has_ended)
        };
        self.threads.iter().map(tell).collect()
    }

    /// The addresses a listener listens at, with the ports it got.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let listeners = self.listeners();
        let bound = listeners.get(name).map(|entry| entry.bound.as_slice()).unwrap_or_default();
        bound.iter().map(|bound| bound.got).collect()
    }

    /// Reads all files of certificates again.
    ///
    /// # Errors
    /// Those that are no good; the listeners they belong to keep the ones they have.
    pub fn reload(&self) -> Result<(), Vec<GatewayError>> {
        let plans: Vec<_> =
            self.listeners().values().map(|entry| Arc::clone(&entry.plan)).collect();
        let files = plans.iter().flat_map(|plan| plan.files());
        let errors: Vec<_> = files.filter_map(|files| files.reload().err()).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// A listener's upstreams as chains on this thread see them; none if there is no such listener
    /// or thread.
    #[must_use]
    pub fn upstreams(&self, listener: &str, thread: usize) -> Option<Arc<dyn Upstreams>> {
        let listeners = self.listeners();
        (thread < self.threads.len()).then_some(())?;
        Some(listeners.get(listener)?.seen_by(thread))
    }

    /// Threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What was counted. Listeners that were taken away are not in it.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let listeners = self.listeners();
        Statistics { listeners: listeners.iter().map(|(name, entry)| entry.read(name)).collect() }
    }
}

impl Entry {
    /// Its upstreams, in order.
    fn upstreams(&self) -> impl Iterator<Item = &UpstreamEntry> {
        let config = self.plan.config.upstreams.iter();
        config.filter_map(|upstream| self.upstreams.get(&upstream.address))
    }

    /// The same as chains on this thread see them.
    fn seen_by(&self, thread: usize) -> Arc<dyn Upstreams> {
        let upstreams = self.upstreams().map(|upstream| {
            (Arc::clone(&upstream.members), Arc::clone(&upstream.counters[thread]))
        });
        Arc::new(ListenerUpstreams(upstreams.collect()))
    }

    /// Begins to make a thread's chain.
    fn stage(&self, thread: usize) -> Result<Option<Stage>, GatewayError> {
        let Some(factory) = &self.plan.config.chain else { return Ok(None) };
        factory.stage(thread, self.seen_by(thread)).map(Some).map_err(|what| {
            let listener = self.plan.config.name.clone();
            GatewayError::Chain { listener, what }
        })
    }

    fn read(&self, name: &str) -> ListenerStatistics {
        let mut read = ListenerStatistics { name: name.to_owned(), ..Default::default() };
        for counters in &self.counters {
            read.add(counters);
        }
        for upstream in &self.plan.config.upstreams {
            let Some(entry) = self.upstreams.get(&upstream.address) else { continue };
            let mut of = UpstreamStatistics::new(&entry.members);
            for counters in &entry.counters {
                of.add(counters);
            }
            read.upstreams.push(of);
        }
        read.log_lost = self.plan.journal.as_ref().map_or(0, |journal| journal.lost());
        let of_log = self.plan.journal.as_ref().and_then(|journal| journal.problem());
        let of_files = self.plan.files().filter_map(|files| files.problem());
        read.not_taken = of_files.chain(of_log).collect();
        if let Some(served) = self.plan.tls.as_ref().map(|tls| tls.now()) {
            read.certificates.clone_from(&served.status);
            read.expiries.extend(served.expiries.iter().map(|expiry| (None, *expiry)));
        }
        for route in &self.plan.routes {
            let shown = route.tls.as_ref().map(|tls| tls.files.now());
            let expiries = shown.iter().flat_map(|shown| &shown.expiries);
            let of_upstream = |expiry: &Expiry| (Some(route.config.address.clone()), *expiry);
            read.expiries.extend(expiries.map(of_upstream));
        }
        read
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.keeper.errands.send(Errand::Stop);
        for thread in &self.threads {
            let _ = thread.commands.send(Command::Stop);
        }
        let threads = self.threads.iter_mut().filter_map(|handle| handle.thread.take());
        for thread in threads.chain(self.keeper.thread.take()) {
            // One that panicked has said so already.
            let _ = thread.join();
        }
        let all = std::mem::take(&mut *self.listeners()).into_values();
        let plans: Vec<_> = all.map(|entry| entry.plan).collect();
        end_journals(&plans, std::time::Instant::now());
    }
}

/// Waits until what listeners have handed over is written, until the deadline, or a little longer
/// if that has gone by.
fn end_journals(all: &[Arc<Plan>], deadline: std::time::Instant) {
    let deadline = deadline.max(std::time::Instant::now() + LOG_LINGER);
    let journals = all.iter().filter_map(|plan| plan.journal.as_ref());
    journals.for_each(|journal| journal.end(deadline));
}

/// Addresses while listeners change.
struct Addresses {
    /// Those that a listener has, with its name.
    taken: Vec<(String, Bound)>,
    /// Those whose listeners go, or listen elsewhere.
    free: Vec<Bound>,
}

impl Addresses {
    fn new<'c>(
        listeners: &BTreeMap<String, Entry>,
        configs: impl Iterator<Item = &'c ListenerConfig> + Clone,
        gone: &[&str],
    ) -> Self {
        let mut addresses = Self { taken: Vec::new(), free: Vec::new() };
        for (name, entry) in listeners {
            let config = configs.clone().find(|config| config.name == *name);
            for bound in &entry.bound {
                let stays = config.is_none_or(|config| config.addresses.contains(&bound.asked));
                if stays && !gone.contains(&name.as_str()) {
                    addresses.taken.push((name.clone(), bound.clone()));
                } else {
                    addresses.free.push(bound.clone());
                }
            }
        }
        addresses
    }

    /// A listener's addresses, and the sockets that its threads do not have yet.
    fn of(
        &mut self,
        config: &ListenerConfig,
        old: Option<&Entry>,
        threads: usize,
    ) -> Result<(Vec<Bound>, Sockets), GatewayError> {
        let listener = || config.name.clone();
        let device = config.device.as_deref();
        let mut bound: Vec<Bound> = old.map(|old| old.bound.clone()).unwrap_or_default();
        bound.retain(|bound| config.addresses.contains(&bound.asked));
        let mut sockets: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        for &asked in &config.addresses {
            if bound.iter().any(|bound| bound.asked == asked) {
                continue;
            }
            let mut others = self.taken.iter().filter(|(name, _)| *name != config.name);
            if let Some((other, _)) = others.find(|(_, bound)| bound.is_at(asked, device)) {
                let what = format!("{asked} is where listener {other} listens: name another");
                return Err(GatewayError::Config { listener: listener(), what });
            }
            let fits =
                |free: &&Bound| free.is_at(asked, device) && free.transparent == config.transparent;
            let got = match self.free.iter().find(fits) {
                Some(free) => Bound { asked, ..free.clone() },
                None => self.bind(config, asked, threads)?,
            };
            for (sockets, socket) in sockets.iter_mut().zip(&got.sockets) {
                let socket = socket.try_clone().map_err(|error| GatewayError::Listen {
                    listener: listener(),
                    address: asked,
                    error,
                })?;
                sockets.push((asked, socket));
            }
            self.taken.push((listener(), got.clone()));
            bound.push(got);
        }
        Ok((bound, sockets))
    }

    /// Listens at an address where no listener does.
    fn bind(
        &self,
        config: &ListenerConfig,
        asked: SocketAddr,
        threads: usize,
    ) -> Result<Bound, GatewayError> {
        let mut ours = self.taken.iter().map(|(_, bound)| bound).chain(&self.free);
        let device = config.device.as_deref();
        // The kernel tells whether somebody else listens there, as long as that cannot be the
        // gateway itself.
        let mut alone =
            !ours.any(|a| a.got.port() == asked.port() && a.got.is_ipv4() == asked.is_ipv4());
        let mut got = asked;
        let mut sockets = Vec::new();
        for _ in 0..threads {
            let listened = listen(got, device, config.transparent, std::mem::take(&mut alone))
                .and_then(|socket| socket.local_addr().map(|address| (socket, address)));
            let (socket, address) = listened.map_err(|error| GatewayError::Listen {
                listener: config.name.clone(),
                address: got,
                error,
            })?;
            got = address;
            sockets.push(Arc::new(socket));
        }
        let (device, transparent) = (config.device.clone(), config.transparent);
        Ok(Bound { asked, got, device, transparent, sockets })
    }
}

/// A socket that listens beside others of the gateway at the same address, to connections from this
/// interface only, if one is named. `alone`: there must be no other yet.
fn listen(
    address: SocketAddr,
    device: Option<&str>,
    transparent: bool,
    alone: bool,
) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(SocketProtocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(!alone)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if device.is_some() {
        socket.bind_device(device.map(str::as_bytes))?;
    }
    if transparent {
        // IPv6 sockets have the same option.
        socket.set_ip_transparent_v4(true).map_err(|error| {
            io::Error::new(error.kind(), format!("`transparent` needs CAP_NET_ADMIN: {error}"))
        })?;
    }
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The file for a listener's requests: the one that it has, if it is to be the same.
fn journal(
    config: &ListenerConfig,
    old: Option<&Entry>,
) -> Result<Option<Arc<Journal>>, GatewayError> {
    let Some(file) = &config.log else { return Ok(None) };
    let open = old.and_then(|old| old.plan.journal.as_ref());
    if let Some(same) = open.filter(|journal| journal.path() == file) {
        return Ok(Some(Arc::clone(same)));
    }
    Journal::start(file).map(Some).map_err(GatewayError::Thread)
}

/// Reads the files of a listener that is as it should be: its certificates, and how its upstreams
/// are reached.
fn read(config: &ListenerConfig) -> Result<Files, GatewayError> {
    check(config)?;
    let tls = tls::served(config)?.map(Arc::new);
    let routes = config.upstreams.iter().map(|u| Route::new(config, u).map(Arc::new));
    Ok((tls, routes.collect::<Result<_, _>>()?))
}

fn check(config: &ListenerConfig) -> Result<(), GatewayError> {
    let wrong = |what: &str| {
        Err(GatewayError::Config { listener: config.name.clone(), what: what.to_owned() })
    };
    if config.addresses.is_empty() {
        return wrong("no address: name at least one, as in 0.0.0.0:8080");
    }
    if config.upstreams.is_empty() && config.chain.is_none() {
        return wrong("neither an upstream nor a chain that could answer: name one");
    }
    if config.client_certificates.is_some() && config.certificates.is_empty() {
        return wrong("clients are asked for certificates by TLS only: name one of the listener's");
    }
    for (i, upstream) in config.upstreams.iter().enumerate() {
        if config.upstreams[..i].iter().any(|u| u.address == upstream.address) {
            return wrong(&format!(
                "upstream {} is named twice: give it a weight",
                upstream.address
            ));
        }
        if upstream.http2 && config.upstream_proxy_protocol.is_some() {
            return wrong(
                "an HTTP/2 connection is shared by clients: no PROXY protocol towards it",
            );
        }
        if upstream.http2 && config.protocol == Protocol::Tcp {
            return wrong("http2 is for listeners whose protocol is http");
        }
    }
    let t = &config.timeouts;
    for (name, period) in [
        ("header", t.header),
        ("body", t.body),
        ("connect", t.connect),
        ("response", t.response),
        ("idle", t.idle),
        ("tunnel", t.tunnel),
        ("upstream-idle", t.upstream_idle),
    ] {
        if period.is_zero() {
            return wrong(&format!("timeouts.{name} = 0: give it a period, as in 10s"));
        }
    }
    if config.limits.connections == 0 || config.limits.streams == 0 || config.limits.head == 0 {
        return wrong("a limit of 0 connections, streams or bytes of a head lets nothing through");
    }
    Ok(())
}
