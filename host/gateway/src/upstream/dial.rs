//! A connection to an upstream: TCP, the PROXY protocol header, TLS.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{ListenerConfig, ProxyHeader, UpstreamConfig};
use crate::connection::stream::Stream;
use crate::error::GatewayError;
use crate::listen::proxy_protocol;
use crate::observe::counters::Traffic;
use crate::observe::statistics::Failure;
use crate::tls::{self, Towards};

/// How an upstream is reached; the same for all threads.
pub(crate) struct Route {
    pub(crate) config: UpstreamConfig,
    pub(crate) tls: Option<Towards>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unconnected {
    #[source]
    pub(crate) error: io::Error,
    /// What it counts as: [`Failure::Tls`] if there was one, but TLS, or HTTP by it, was not agreed
    /// on.
    pub(crate) failure: Failure,
}

impl Unconnected {
    /// TLS was not agreed on.
    pub(crate) fn by_tls(error: io::Error) -> Self {
        Self { error, failure: Failure::Tls }
    }

    /// Whether it was for the time.
    pub(crate) fn is_slow(&self) -> bool {
        self.error.kind() == io::ErrorKind::TimedOut
    }
}

/// For an upstream that wants to know: the client's address and the one it connected to; none if
/// the connection is the gateway's own.
pub(crate) type Told = Option<(ProxyHeader, Option<(SocketAddr, SocketAddr)>)>;

impl Route {
    /// How this upstream of this listener is reached.
    ///
    /// # Errors
    /// Its name is none, or a file is no good.
    pub(crate) fn new(
        listener: &ListenerConfig,
        upstream: &UpstreamConfig,
    ) -> Result<Self, GatewayError> {
        let towards = |of| tls::towards(listener, upstream, of);
        let tls = upstream.tls.as_ref().map(towards).transpose()?;
        Ok(Self { config: upstream.clone(), tls })
    }

    /// Connects.
    ///
    /// # Errors
    /// What the kernel or TLS said, or that it took too long.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        told: Told,
        traffic: &Arc<Traffic>,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Stream, Unconnected> {
        let tls = Cell::new(false);
        let connected = self.connect_any_time(address, told, traffic, patience, &tls);
        let connected = match tokio::time::timeout(timeout, connected).await {
            Ok(connected) => connected,
            Err(_) => {
                let what =
                    if tls.get() { "no TLS handshake in time" } else { "no connection in time" };
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        };
        let failure = if tls.get() { Failure::Tls } else { Failure::Connect };
        connected.map_err(|error| Unconnected { error, failure })
    }

    async fn connect_any_time(
        &self,
        address: SocketAddr,
        told: Told,
        traffic: &Arc<Traffic>,
        patience: Duration,
        in_tls: &Cell<bool>,
    ) -> io::Result<Stream> {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        if let Some((version, addresses)) = told {
            tcp.write_all(&proxy_protocol::header(version, addresses)).await?;
        }
        let traffic = Arc::clone(traffic);
        let Some(towards) = &self.tls else {
            return Ok(Stream::plain(tcp, traffic, patience));
        };
        in_tls.set(true);
        let connector = TlsConnector::from(Arc::clone(&towards.files.now().config));
        let tls = connector.connect(towards.name.clone(), tcp).await;
        let tls = tls.map_err(explained)?;
        let stream = Stream::tls(tls.into(), traffic, patience);
        if self.config.http2 && stream.alpn() != Some(b"h2") {
            let what = "the upstream does not agree to HTTP/2 (ALPN)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(stream)
    }
}

/// What rustls says, in words where it has only a name.
fn explained(error: io::Error) -> io::Error {
    if !error.to_string().contains("CaUsedAsEndEntity") {
        return error;
    }
    let what = "invalid peer certificate: it is an authority's (CA:TRUE), not a server's: make one without CA:TRUE \
                and name the authority that signed it";
    io::Error::new(error.kind(), what)
}
