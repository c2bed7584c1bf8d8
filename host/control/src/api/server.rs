//! Listening: a Unix socket for the administrator, TCP for holders of tokens.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt as _;

use super::socket::{Identity, is_served};
use super::stall::{Impatient, Sent};
use super::strangers::{Stranger, Strangers};
use super::{Api, Peer};

/// Connections by TCP at the same time; others wait to be accepted. Those of [`Strangers`] are
/// among them.
const REMOTE_CONNECTIONS: usize = 512;
/// The same for the Unix socket: whatever comes by TCP, the administrator gets in.
const LOCAL_CONNECTIONS: usize = 128;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for which a client may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for what is under way when the host stops.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Wait after accepting failed, for want of file descriptors perhaps.
const RETRY: Duration = Duration::from_millis(100);
/// While it goes on failing, it is told so often.
const TELL: Duration = Duration::from_secs(10);

/// Bytes of a Unix socket's path (`sun_path`, with a zero behind it).
const SOCKET_PATH_MAX: usize = 107;

/// Why the API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A host listens there already.
    #[error("{} is in use by another host; stop that one, or give this one another `[api] socket`", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket; remove it, or name another `[api] socket`", .0.display())]
    NoSocket(PathBuf),
    /// The socket's path is too long for the system.
    #[error("the path {} has {} bytes, and a socket's may have {SOCKET_PATH_MAX}: name a shorter one, `/run/NAME.sock` perhaps", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.into();
    move |source| ServeError::Io { what, source }
}

/// Whether a Unix socket can have this path.
///
/// # Errors
/// When it is too long.
pub fn check_socket(path: &Path) -> Result<(), ServeError> {
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(ServeError::TooLong(path.into()));
    }
    Ok(())
}

/// Makes the Unix socket: for its owner alone from its first moment on (mode 0600), as is its
/// directory if there is none yet. A socket that a dead host left behind is replaced.
///
/// # Errors
/// When a living host or something else is there, or the system says no.
pub fn bind_unix(path: &Path) -> Result<StdUnixListener, ServeError> {
    let io = |what: &str| io_error(format!("{what} {}", path.display()));
    prepare(path)?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NoSocket(path.into()));
        }
        Ok(_) if is_served(path).map_err(io("connecting to"))? => {
            return Err(ServeError::InUse(path.into()));
        }
        Ok(_) => fs::remove_file(path).map_err(io("removing the old"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("looking at")(error)),
    }
    let listen = || -> rustix::io::Result<_> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Linux gives the file the mode of the socket that is bound to it.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket)
    };
    Ok(listen().map_err(|e| io("listening on")(e.into()))?.into())
}

/// Makes the directory of a socket that can be.
pub(super) fn prepare(socket: &Path) -> Result<(), ServeError> {
    check_socket(socket)?;
    let Some(directory) = directory_of(socket).filter(|directory| !directory.exists()) else {
        return Ok(());
    };
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(io_error(format!("making the directory of {}", socket.display())))?;
    tracing::info!(
        "made {} for the API's socket: mode 0700, for this user alone",
        directory.display()
    );
    Ok(())
}

/// The directory of a socket, if its path names one.
pub(super) fn directory_of(socket: &Path) -> Option<&Path> {
    socket.parent().filter(|directory| !directory.as_os_str().is_empty())
}

/// The API, listening.
pub struct Server {
    socket: PathBuf,
    /// The file that was made there.
    made: Identity,
    local: UnixListener,
    remote: Option<TcpListener>,
    router: Router,
}

impl Server {
    /// Listens on the Unix socket, and on TCP if there is an address.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn bind(
        api: &Api,
        socket: &Path,
        listen: Option<SocketAddr>,
    ) -> Result<Self, ServeError> {
        let remote = match listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.map_err(|source| ServeError::Listen { address, source })?)
            }
            None => None,
        };
        let local = UnixListener::from_std(bind_unix(socket)?).map_err(io_error("listening"))?;
        let made = Identity::of(socket);
        let made = made.map_err(io_error(format!("looking at {}", socket.display())))?;
        Ok(Self { socket: socket.to_owned(), made, local, remote, router: api.router() })
    }

    /// The TCP address, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.remote.as_ref()?.local_addr().ok()
    }

    /// Serves until `stopping` says true; then finishes what is under way and removes the socket.
    pub async fn serve(self, mut stopping: watch::Receiver<bool>) {
        let places = Places {
            local: Arc::new(Semaphore::new(LOCAL_CONNECTIONS)),
            remote: Arc::new(Semaphore::new(REMOTE_CONNECTIONS)),
        };
        let strangers = Strangers::default();
        let graceful = GracefulShutdown::new();
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = accept(&self.local, self.remote.as_ref(), &places) => accepted,
            };
            let Accepted { stream, peer, place } = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= TELL) {
                        told = Some(Instant::now());
                        tracing::warn!("connections to the API cannot be accepted: {error}");
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let stranger = (peer == Peer::Remote).then(|| strangers.enter());
            let router = self.router.clone();
            let connection = connection(stream, peer, stranger.clone(), router, PATIENCE);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    served = connection => if let Err(error) = served {
                        tracing::debug!("a client's connection ended: {error}");
                    },
                    () = has_to_go(stranger.as_ref()) => {
                        tracing::debug!("a client's connection ended: it has shown no token, and others came");
                    }
                }
                if let Some(stranger) = stranger {
                    stranger.leave();
                }
                drop(place);
            });
        }
        // Another one that somebody put there is his.
        let ours = Identity::of(&self.socket).is_ok_and(|found| found == self.made);
        if ours && let Err(error) = fs::remove_file(&self.socket) {
            tracing::warn!("cannot remove {}: {error}", self.socket.display());
        }
        if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests that were still under way are cut off");
        }
    }
}

/// Waits until a client has to make room for others, if it ever has to.
async fn has_to_go(stranger: Option<&Stranger>) {
    match stranger {
        Some(stranger) => stranger.has_to_go().await,
        None => std::future::pending().await,
    }
}

/// Serves a client, which may take nothing of an answer for so long.
fn connection(
    stream: impl Stream + 'static,
    peer: Peer,
    stranger: Option<Stranger>,
    router: Router,
    patience: Duration,
) -> impl GracefulConnection<Error = hyper::Error> {
    let sent = Sent::default();
    let stream = Impatient::new(stream, sent.clone(), patience);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (router, sent, stranger) = (router.clone(), sent.clone(), stranger.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            if let Some(stranger) = stranger {
                request.extensions_mut().insert(stranger);
            }
            let mut response = router.oneshot(request).await?;
            sent.begin(&mut response);
            Ok::<_, Infallible>(response)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Accepted {
    stream: Box<dyn Stream>,
    peer: Peer,
    place: OwnedSemaphorePermit,
}

/// Places for connections.
struct Places {
    local: Arc<Semaphore>,
    remote: Arc<Semaphore>,
}

/// The next connection.
async fn accept(
    local: &UnixListener,
    remote: Option<&TcpListener>,
    places: &Places,
) -> io::Result<Accepted> {
    let place = async |places: &Arc<Semaphore>| {
        Arc::clone(places).acquire_owned().await.map_err(io::Error::other)
    };
    let local = async {
        let place = place(&places.local).await?;
        let (stream, _) = local.accept().await?;
        Ok(Accepted { stream: Box::new(stream), peer: Peer::Local, place })
    };
    let remote = async {
        let Some(listener) = remote else { return std::future::pending().await };
        let place = place(&places.remote).await?;
        let (stream, _) = listener.accept().await?;
        Ok(Accepted { stream: Box::new(stream), peer: Peer::Remote, place })
    };
    tokio::select! {
        accepted = local => accepted,
        accepted = remote => accepted,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::api::pieces::Pieces;

    /// A place that nobody gives back would be one less for all others of its tenant, and a
    /// connection one less for everybody.
    #[tokio::test]
    async fn who_takes_nothing_of_an_answer_loses_its_place_and_its_connection() {
        let serve = async |place, limit| {
            let answer = Arc::new(Mutex::new(Some(Pieces::new(vec![b' '; 1 << 20], place))));
            let handler = async move || answer.lock().unwrap().take().unwrap();
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(b"GET / HTTP/1.1\r\nHost: weir\r\n\r\n").await.unwrap();
            let router = Router::new().fallback(handler);
            let served = connection(server, Peer::Remote, None, router, Duration::from_millis(20));
            let ended = tokio::time::timeout(limit, served).await;
            drop(client);
            ended
        };
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let ended = serve(Some(place), Duration::from_secs(60)).await;
        assert!(ended.is_ok_and(|served| served.is_err()));
        assert_eq!(places.available_permits(), 1);
        let ended = serve(None, Duration::from_secs(60)).await;
        assert!(ended.is_ok_and(|served| served.is_err()));
    }

    /// Of an answer that ends the connection, as those to whoever has no token do, a little now and
    /// then is not enough.
    #[tokio::test]
    async fn the_last_answer_has_a_time_in_all() {
        let close = [(hyper::header::CONNECTION, "close")];
        let router = Router::new().fallback(async move || (close, vec![b' '; 1 << 20]));
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: weir\r\n\r\n").await.unwrap();
        let served = connection(server, Peer::Remote, None, router, Duration::from_millis(200));
        let drip = async {
            let mut bytes = [0; 16];
            while client.read(&mut bytes).await.is_ok_and(|bytes| bytes > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = served => assert!(served.is_err()),
            () = drip => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("it goes on"),
        }
    }
}
