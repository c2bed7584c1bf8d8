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

use crate::chain::{Chain, Stage, Upstreams};
use crate::config::{GatewayConfig, ListenerConfig, Protocol, Target, UpstreamConfig};
use crate::counters::{ListenerCounters, UpstreamCounters};
use crate::environment::ListenerUpstreams;
use crate::error::GatewayError;
use crate::keeper::{Errand, Keeper};
use crate::listener::{Plan, ThreadCounters};
use crate::members::Members;
use crate::statistics::{ListenerStatistics, Statistics, UpstreamStatistics};
use crate::thread::{Command, Handle};
use crate::tls::{self, Certificates};

/// Connections that the kernel accepts before the gateway does.
const BACKLOG: i32 = 4096;
/// How long a listener that comes waits for names to be looked up.
const FIRST_LOOK_UP: Duration = Duration::from_secs(2);

/// A running gateway. When it is dropped, all connections are cut off; [`Gateway::drain`] first lets them end.
pub struct Gateway {
    via: [HeaderValue; 3],
    threads: Vec<Handle>,
    keeper: Keeper,
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
    /// Addresses as they were asked for, with those that were got.
    bound: Vec<(SocketAddr, SocketAddr)>,
    counters: Vec<Arc<ListenerCounters>>,
    upstreams: BTreeMap<Target, UpstreamEntry>,
}

/// An upstream of a listener. It is kept when the listener changes, and comes back with what was counted.
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
        let threads = (0..config.threads).map(Handle::start).collect::<Result<_, _>>();
        let threads = threads.map_err(GatewayError::Thread)?;
        let keeper = Keeper::start().map_err(GatewayError::Thread)?;
        Ok(Self { via, threads, keeper, listeners: Mutex::default() })
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener, or changes the one of this name. Sockets of addresses that stay are kept; connections go on, and their next
    /// requests follow the new configuration.
    ///
    /// # Errors
    /// What is wrong; then all is as before, except that a thread whose chain was made follows the new configuration already
    /// when another thread's was not.
    pub fn set(&self, config: ListenerConfig) -> Result<(), GatewayError> {
        check(&config)?;
        let tls = Certificates::new(&config.certificates, config.protocol)?;
        let listener = config.name.clone();
        let mut routes = Vec::new();
        for upstream in &config.upstreams {
            routes.push(tls::route(&listener, upstream)?);
        }
        let mut listeners = self.listeners();
        let old = listeners.get(&listener);
        let mut upstreams = old.map(|old| old.upstreams.clone()).unwrap_or_default();
        upstreams.retain(|address, _| config.upstreams.iter().any(|u| u.address == *address));
        for upstream in &config.upstreams {
            let new = || self.upstream(&upstream.address);
            upstreams.entry(upstream.address.clone()).or_insert_with(new);
        }
        let counters = match old {
            Some(old) => old.counters.clone(),
            None => self.threads.iter().map(|_| Arc::default()).collect(),
        };
        let mut bound: Vec<(SocketAddr, SocketAddr)> =
            old.map(|old| old.bound.clone()).unwrap_or_default();
        bound.retain(|(asked, _)| config.addresses.contains(asked));
        let others = listeners.iter().filter(|(name, _)| **name != listener);
        let taken = others.flat_map(|(name, entry)| {
            let device = entry.plan.config.device.as_deref();
            entry.bound.iter().map(move |(_, got)| (name, *got, device))
        });
        let taken: Vec<(&String, SocketAddr, Option<&str>)> = taken.collect();
        let mut sockets: Vec<Vec<(SocketAddr, TcpListener)>> =
            self.threads.iter().map(|_| Vec::new()).collect();
        for &asked in &config.addresses {
            if bound.iter().any(|(address, _)| *address == asked) {
                continue;
            }
            let device = config.device.as_deref();
            if let Some((other, ..)) = taken.iter().find(|(_, a, d)| (*a, *d) == (asked, device)) {
                let what = format!("{asked} is where listener {other} listens: name another");
                return Err(GatewayError::Config { listener, what });
            }
            let ours = taken.iter().map(|(_, address, _)| address);
            let mut ours = ours.chain(bound.iter().map(|(_, got)| got));
            // The kernel tells whether somebody else listens there, as long as that cannot be the gateway itself.
            let mut alone =
                !ours.any(|a| a.port() == asked.port() && a.is_ipv4() == asked.is_ipv4());
            let mut address = asked;
            for sockets in &mut sockets {
                let listened =
                    listen(address, device, config.transparent, std::mem::take(&mut alone))
                        .and_then(|s| s.local_addr().map(|a| (s, a)));
                let (socket, got) = listened.map_err(|error| GatewayError::Listen {
                    listener: listener.clone(),
                    address,
                    error,
                })?;
                address = got;
                sockets.push((asked, socket));
            }
            bound.push((asked, address));
        }
        let members = |upstream: &UpstreamConfig| {
            let entry = upstreams.get(&upstream.address);
            entry.map_or_else(|| Members::new(&upstream.address), |e| Arc::clone(&e.members))
        };
        let members: Vec<_> = config.upstreams.iter().map(members).collect();
        self.look_up(&members);
        let plan = Arc::new(Plan {
            members,
            routes,
            tls,
            connections: match old {
                Some(old) => Arc::clone(&old.plan.connections),
                None => Arc::new(AtomicUsize::new(0)),
            },
            via: self.via.clone(),
            config,
        });
        let entry = Entry { plan: Arc::clone(&plan), bound, counters, upstreams };
        let stages = (0..self.threads.len()).map(|thread| entry.stage(thread));
        let stages = stages.collect::<Result<_, _>>()?;
        self.tell(&entry, stages, sockets)?;
        let _ = self.keeper.errands.send(Errand::Keep(plan));
        listeners.insert(listener, entry);
        Ok(())
    }

    fn upstream(&self, target: &Target) -> UpstreamEntry {
        let counters = self.threads.iter().map(|_| Arc::default()).collect();
        UpstreamEntry { members: Members::new(target), counters }
    }

    /// Has names looked up that never were, so that the first request finds somebody. Whoever is not found in time comes later.
    fn look_up(&self, members: &[Arc<Members>]) {
        let unknown: Vec<_> = members.iter().filter(|m| m.is_unknown()).cloned().collect();
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
        sockets: Vec<Vec<(SocketAddr, TcpListener)>>,
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
            match answered.recv() {
                Ok(Ok(())) => (),
                Ok(Err(what)) => {
                    let listener = entry.plan.config.name.clone();
                    return Err(GatewayError::Chain { listener, what });
                }
                Err(_) => return Err(GatewayError::Thread(io::ErrorKind::BrokenPipe.into())),
            }
        }
        Ok(())
    }

    /// Takes a listener away. Its connections end when they have done what they are doing; after this time they are cut off.
    /// Returns when there are none.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove(&self, name: &str, time: Duration) -> Result<(), GatewayError> {
        for answered in self.begin_remove(name, time)? {
            // A thread that has ended has no connections either.
            let _ = answered.recv();
        }
        Ok(())
    }

    /// The same without waiting; each thread says when it has none.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn begin_remove(
        &self,
        name: &str,
        time: Duration,
    ) -> Result<Vec<Receiver<()>>, GatewayError> {
        if self.listeners().remove(name).is_none() {
            return Err(GatewayError::Unknown(name.to_owned()));
        }
        let _ = self.keeper.errands.send(Errand::Forget(name.to_owned()));
        Ok(self.tell_removed(name, Instant::now() + time).collect())
    }

    /// Takes all listeners away, as [`Self::remove`] does.
    pub fn drain(&self, time: Duration) {
        let names: Vec<String> = std::mem::take(&mut *self.listeners()).into_keys().collect();
        for name in &names {
            let _ = self.keeper.errands.send(Errand::Forget(name.clone()));
        }
        self.remove_all(names, time);
    }

    fn remove_all(&self, names: Vec<String>, time: Duration) {
        let deadline = Instant::now() + time;
        let told = |name: &String| self.tell_removed(name, deadline).collect::<Vec<_>>();
        let waiting: Vec<_> = names.iter().flat_map(told).collect();
        for answered in waiting {
            let _ = answered.recv();
        }
    }

    /// Tells every thread that a listener goes.
    fn tell_removed(&self, name: &str, deadline: Instant) -> impl Iterator<Item = Receiver<()>> {
        self.threads.iter().map(move |thread| {
            let (answer, answered) = sync_channel(1);
            let name = name.to_owned();
            let _ = thread.commands.send(Command::Remove { name, deadline, answer });
            answered
        })
    }

    /// The addresses a listener listens at, with the ports it got.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let listeners = self.listeners();
        let bound = listeners.get(name).map(|entry| entry.bound.as_slice()).unwrap_or_default();
        bound.iter().map(|(_, got)| *got).collect()
    }

    /// Reads all certificates again.
    ///
    /// # Errors
    /// Those that are no good; the listeners they belong to keep the ones they have.
    pub fn reload(&self) -> Result<(), Vec<GatewayError>> {
        let listeners = self.listeners();
        let certificates = listeners.values().filter_map(|entry| entry.plan.tls.as_ref());
        let errors: Vec<_> = certificates.filter_map(|c| c.reload().err()).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// A listener's upstreams as chains on this thread see them; none if there is no such listener or thread.
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

    /// Does something to the chain of a listener on a thread, between two events of its connections; it must not block. It gets `None`
    /// if the listener or its chain is not there.
    pub fn with_chain(
        &self,
        listener: &str,
        thread: usize,
        work: impl FnOnce(Option<&Chain>) + Send + 'static,
    ) {
        if let Some(thread) = self.threads.get(thread) {
            let _ = thread.commands.send(Command::WithChain(listener.to_owned(), Box::new(work)));
        }
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
        read.certificates = self.plan.tls.as_ref().map(|tls| tls.status()).unwrap_or_default();
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
    }
}

/// A socket that listens beside others of the gateway at the same address, to connections from this interface only, if one is
/// named. `alone`: there must be no other yet.
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
