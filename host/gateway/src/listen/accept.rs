//! From a socket that listens to a connection that is served.
//!
//! Owns: accepting, the PROXY protocol's header, the TLS handshake, finding out which HTTP is
//! spoken. Must not know: requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderValue;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::chain::{Ended, Origin};
use crate::config::{ForwardedFields, Protocol};
use crate::connection::stream::{Pulse, Stream};
use crate::connection::tcp;
use crate::http::client::Client;
use crate::http::client_chain::Watched;
use crate::http::rules::{Forwarded, Shown};
use crate::listen::listener::{Admission, Listener, Site, unless_killed};
use crate::listen::proxy_protocol;
use crate::observe::counters::Traffic;
use crate::observe::statistics::Failure;
use crate::tls::{self, Trust};

/// What HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After accepting failed, for instance because there are too many files, it is tried again in so
/// long.
const PAUSE: Duration = Duration::from_millis(50);
/// While it goes on failing, it is told so often.
const TELL: Duration = Duration::from_secs(10);

/// Accepts connections for as long as it is polled.
pub(crate) async fn run(listener: Rc<Listener>, socket: TcpListener) {
    let mut told: Option<Instant> = None;
    loop {
        match socket.accept().await {
            Ok((tcp, peer)) => {
                let Some(admission) = listener.admit() else { continue };
                tokio::task::spawn_local(serve(Rc::clone(&listener), tcp, peer, admission));
            }
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    told = Some(Instant::now());
                    let name = &listener.site().plan.config.name;
                    tracing::warn!(listener = name, %error, "connections cannot be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A connection that can be served.
struct Opened {
    stream: Stream,
    origin: Origin,
    /// What the client's certificate says of it.
    certificate: Option<HeaderValue>,
    /// By what that was taken.
    trust: Option<Trust>,
    /// What ALPN said.
    http2: Option<bool>,
}

/// Why a connection did not begin, and what is counted of that.
type NotBegun = (Option<Failure>, io::Error);

async fn serve(listener: Rc<Listener>, tcp: TcpStream, peer: SocketAddr, admission: Admission) {
    let site = listener.site();
    let begin = Begin { listener: &listener, site: &site, admission: &admission, peer };
    let Some(opened) = begin.in_time(open(&site, tcp, peer)).await else { return };
    let Opened { mut stream, origin, certificate, trust, http2 } = opened;
    if site.plan.config.protocol == Protocol::Tcp {
        let pulse = Pulse::new();
        let stream = stream.with_pulse(Rc::clone(&pulse));
        return tcp::serve(listener, stream, pulse, origin, admission).await;
    }
    let watched = Watched::open(&site, &origin);
    let watched = match unless_killed(&listener, &admission, watched).await {
        None => return,
        Some(Ok(watched)) => watched,
        Some(Err(how)) => {
            if how == Ended::Reset {
                stream.abort();
            }
            return;
        }
    };
    let http2 = match http2 {
        Some(http2) => http2,
        None => match begin.in_time(speaks_http2(&mut stream)).await {
            Some(http2) => http2,
            None => return,
        },
    };
    let pulse = Pulse::new();
    let traffic = Arc::clone(stream.traffic());
    let stream = stream.with_pulse(Rc::clone(&pulse));
    let Ok(client) = HeaderValue::from_str(&origin.client.ip().to_canonical().to_string()) else {
        return;
    };
    let scheme = HeaderValue::from_static(if origin.tls { "https" } else { "http" });
    let config = &site.plan.config;
    let speaks_for_client =
        config.client_certificates.is_some() || config.forwarded != ForwardedFields::Keep;
    let forwarded = Forwarded {
        client,
        scheme,
        certificate: if speaks_for_client { Shown::Here(certificate) } else { Shown::Before },
        via: site.plan.via.clone(),
    };
    let client = Rc::new(Client {
        listener,
        pulse,
        traffic,
        origin,
        forwarded,
        trust: trust.as_ref().map(Trust::mark),
        requests: Cell::new(0),
        spent: Cell::new(false),
        upgraded: RefCell::new(None),
        upstream: watched.as_ref().and_then(Watched::upstream),
        watched: RefCell::new(watched),
    });
    let how = if http2 {
        Rc::clone(&client).http2(stream, admission).await
    } else {
        Rc::clone(&client).http1(stream, admission).await
    };
    // A service may go on with a request of it.
    if let Some(watched) = client.watched.take() {
        watched.ends(how);
    }
}

/// A connection that has not begun yet.
struct Begin<'a> {
    listener: &'a Listener,
    site: &'a Site,
    admission: &'a Admission,
    peer: SocketAddr,
}

impl Begin<'_> {
    /// What the client does in time, as long as the listener takes connections.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, NotBegun>>) -> Option<T> {
        let counters = &self.site.counters;
        let mut work = pin!(tokio::time::timeout(self.site.plan.config.timeouts.header, work));
        let done = poll_fn(|cx| {
            self.admission.task(cx);
            if self.listener.draining() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        })
        .await;
        match done? {
            Ok(Ok(done)) => return Some(done),
            Ok(Err((failure, error))) => {
                tracing::debug!(client = %self.peer, %error, "a connection did not begin");
                if let Some(failure) = failure {
                    counters.failures.count(failure);
                }
            }
            Err(_) => counters.failures.count(Failure::ClientSlow),
        }
        None
    }
}

async fn open(site: &Site, mut tcp: TcpStream, peer: SocketAddr) -> Result<Opened, NotBegun> {
    let plan = &site.plan;
    let plain = |error| (None, error);
    tcp.set_nodelay(true).map_err(plain)?;
    let (mut client, mut local) = (peer, tcp.local_addr().map_err(plain)?);
    if plan.config.expects_proxy_header(peer.ip()) {
        let told = proxy_protocol::read(&mut tcp).await;
        let told = told.map_err(|error| (Some(Failure::ProxyHeader), error))?;
        (client, local) = told.unwrap_or((client, local));
    }
    let traffic = Traffic::within(&site.counters.traffic);
    let patience = plan.config.timeouts.body;
    let (mut server_name, mut http2, mut certificate, mut trust) = (None, None, None, None);
    let stream = if let Some(tls) = &plan.tls {
        let served = tls.now();
        let acceptor = TlsAcceptor::from(Arc::clone(&served.config));
        let mut accepting = pin!(acceptor.accept(tcp));
        let mut refused = None;
        let tls = poll_fn(|cx| {
            let polled = accepting.as_mut().poll(cx);
            // Of this one: nothing else has run on this thread meanwhile.
            refused = tls::refused_subject().or(refused.take());
            polled
        });
        let tls = tls.await.map_err(|error| {
            certificate_refused(site, client, &error, refused.as_deref());
            (Some(Failure::Tls), error)
        })?;
        let session = tls.get_ref().1;
        server_name = session.server_name().map(Box::from);
        // A connection that carries no requests has nobody to tell.
        if plan.config.protocol == Protocol::Http {
            certificate = session.peer_certificates().and_then(|all| tls::told(all.first()?));
            trust = served.trust.clone().filter(|_| session.peer_certificates().is_some());
        }
        let stream = Stream::tls(tls.into(), traffic, patience);
        http2 = stream.alpn().map(|protocol| protocol == b"h2");
        stream
    } else {
        Stream::plain(tcp, traffic, patience)
    };
    let tls = plan.tls.is_some();
    let origin = Origin { client, local, tls, server_name, upgrade: false };
    Ok(Opened { stream, origin, certificate, trust, http2 })
}

/// Says whose certificate was refused, and why: some in the log of everybody, all in that of who
/// looks closely.
#[cold]
fn certificate_refused(site: &Site, client: SocketAddr, error: &io::Error, subject: Option<&str>) {
    let why = match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::NoCertificatesPresented) => "it showed none".to_owned(),
        Some(rustls::Error::InvalidCertificate(error)) => tls::why(error),
        _ => return,
    };
    let Some(left_out) = site.refused.say(tokio::time::Instant::now()) else { return };
    let subject = subject.map(|subject| format!(" ({subject})")).unwrap_or_default();
    let left_out = match left_out {
        0 => String::new(),
        left_out => format!("; {left_out} others are not shown"),
    };
    let listener = &site.plan.config.name;
    tracing::info!(
        "listener {listener}: tls: certificate of {client}{subject} refused: {why}{left_out}"
    );
}

/// Looks at a client's first bytes, which are put back.
async fn speaks_http2(stream: &mut Stream) -> Result<bool, NotBegun> {
    let mut first = BytesMut::with_capacity(4096);
    loop {
        let ended = stream.read_buf(&mut first).await.map_err(|error| (None, error))? == 0;
        let length = first.len().min(PREFACE.len());
        let alike = first[..length] == PREFACE[..length];
        if ended || !alike || length == PREFACE.len() {
            stream.unread(first.freeze());
            return Ok(alike && length == PREFACE.len());
        }
    }
}
