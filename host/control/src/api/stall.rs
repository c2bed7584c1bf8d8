//! How long a client may take nothing of an answer: its connection is one of those that there are
//! for all. Streams may stand still for as long as they may go on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::stay::Stay;

/// Time for what a stream has sent when it ends.
const LAST_BYTES: Duration = Duration::from_secs(1);

const UNREAD: &str = "a stream has ended that its client does not read";

/// What a connection sends.
#[derive(Default)]
enum Sending {
    /// An answer, of which something has to be taken now and then.
    #[default]
    Answer,
    /// The connection's last one, all of which has to be taken in that time: it may be one of
    /// somebody without a token.
    Last,
    /// A stream, until this ends.
    Stream(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// A stream that has ended.
    Ended,
}

/// What a connection sends now.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Sending>>);

impl Sent {
    /// It sends this response.
    pub(super) fn begin(&self, response: &mut Response) {
        let is_last = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        let sending = match response.extensions_mut().remove::<Stay>() {
            Some(mut stay) => Sending::Stream(Box::pin(async move {
                stay.end().await;
                tokio::time::sleep(LAST_BYTES).await;
            })),
            None if response.headers().get(header::CONNECTION).is_some_and(is_last) => {
                Sending::Last
            }
            None => Sending::Answer,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sending;
    }
}

/// A connection that breaks when nothing of an answer is taken for so long, or of a stream when
/// that has ended.
pub(super) struct Impatient<S> {
    stream: S,
    sent: Sent,
    patience: Duration,
    /// Runs while nothing is taken; for the last answer from the first such moment on.
    over: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(super) fn new(stream: S, sent: Sent, patience: Duration) -> Self {
        Self { stream, sent, patience, over: None }
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut sending = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_ready() {
            if !matches!(*sending, Sending::Last) {
                self.over = None;
            }
            return written;
        }
        let why = match &mut *sending {
            Sending::Answer | Sending::Last => {
                let patience = self.patience;
                let over = self.over.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                ready!(over.as_mut().poll(cx));
                format!("its client has not taken an answer for {patience:?}")
            }
            Sending::Stream(end) => {
                ready!(end.as_mut().poll(cx));
                *sending = Sending::Ended;
                UNREAD.to_owned()
            }
            Sending::Ended => UNREAD.to_owned(),
        };
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
