//! From a socket that listens to a connection that is served.
//!
//! Owns: accepting, the PROXY protocol's header, the TLS handshake, finding out which HTTP is spoken. Must not know: requests.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
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

use crate::chain::Origin;
use crate::client::Client;
use crate::config::Protocol;
use crate::listener::{Admission, Listener, Site};
use crate::proxy_protocol;
use crate::rules::Forwarded;
use crate::statistics::Failure;
use crate::stream::{Pulse, Stream};
use crate::tcp;

/// What HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After accepting failed, for instance because there are too many files, it is tried again in so long.
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
    pulse: Rc<Pulse>,
    origin: Origin,
    http2: bool,
}

async fn serve(listener: Rc<Listener>, tcp: TcpStream, peer: SocketAddr, admission: Admission) {
    let site = listener.site();
    let header = site.plan.config.timeouts.header;
    let mut opening = pin!(tokio::time::timeout(header, open(&site, tcp, peer)));
    let opened = poll_fn(|cx| {
        admission.task(cx);
        if listener.draining() {
            return Poll::Ready(None);
        }
        opening.as_mut().poll(cx).map(Some)
    })
    .await;
    let opened = match opened {
        None => return,
        Some(Ok(Ok(opened))) => opened,
        Some(Ok(Err((failure, error)))) => {
            tracing::debug!(client = %peer, %error, "a connection did not begin");
            if let Some(failure) = failure {
                site.counters.failures.count(failure);
            }
            return;
        }
        Some(Err(_)) => {
            site.counters.failures.count(Failure::ClientSlow);
            return;
        }
    };
    let Opened { stream, pulse, origin, http2 } = opened;
    if site.plan.config.protocol == Protocol::Tcp {
        return tcp::serve(listener, stream, pulse, origin, admission).await;
    }
    let Ok(client) = HeaderValue::from_str(&origin.client.ip().to_canonical().to_string()) else {
        return;
    };
    let scheme = HeaderValue::from_static(if origin.tls { "https" } else { "http" });
    let forwarded = Forwarded { client, scheme, via: site.plan.via.clone() };
    let client = Rc::new(Client {
        listener,
        pulse,
        origin,
        forwarded,
        requests: Cell::new(0),
        spent: Cell::new(false),
        upgraded: RefCell::new(None),
    });
    if http2 {
        client.http2(stream, admission).await;
    } else {
        client.http1(stream, admission).await;
    }
}

async fn open(
    site: &Site,
    mut tcp: TcpStream,
    peer: SocketAddr,
) -> Result<Opened, (Option<Failure>, io::Error)> {
    let plan = &site.plan;
    let plain = |error| (None, error);
    tcp.set_nodelay(true).map_err(plain)?;
    let (mut client, mut local) = (peer, tcp.local_addr().map_err(plain)?);
    if plan.config.expects_proxy_header(peer.ip()) {
        let told = proxy_protocol::read(&mut tcp).await;
        let told = told.map_err(|error| (Some(Failure::ProxyHeader), error))?;
        (client, local) = told.unwrap_or((client, local));
    }
    let traffic = Arc::clone(&site.counters.traffic);
    let patience = plan.config.timeouts.body;
    let (mut server_name, mut http2) = (None, None);
    let mut stream = if let Some(tls) = &plan.tls {
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
        let tls = acceptor.accept(tcp).await;
        let tls = tls.map_err(|error| (Some(Failure::Tls), error))?;
        server_name = tls.get_ref().1.server_name().map(Box::from);
        let stream = Stream::tls(tls.into(), traffic, patience);
        http2 = stream.alpn().map(|protocol| protocol == b"h2");
        stream
    } else {
        Stream::plain(tcp, traffic, patience)
    };
    if plan.config.protocol == Protocol::Http && http2.is_none() {
        http2 = Some(speaks_http2(&mut stream).await.map_err(plain)?);
    }
    let pulse = Pulse::new();
    let tls = plan.tls.is_some();
    let origin = Origin { client, local, tls, server_name, upgrade: false };
    let stream = stream.with_pulse(Rc::clone(&pulse));
    Ok(Opened { stream, pulse, origin, http2: http2.unwrap_or(false) })
}

/// Looks at a client's first bytes, which are put back.
async fn speaks_http2(stream: &mut Stream) -> io::Result<bool> {
    let mut first = BytesMut::with_capacity(4096);
    loop {
        let ended = stream.read_buf(&mut first).await? == 0;
        let length = first.len().min(PREFACE.len());
        let alike = first[..length] == PREFACE[..length];
        if ended || !alike || length == PREFACE.len() {
            stream.unread(first.freeze());
            return Ok(alike && length == PREFACE.len());
        }
    }
}
