//! Bodies on their way to and from services, which run on other threads.
//!
//! Owns: handing a body's frames over one at a time. A frame is asked for when there is room for
//! it, and a connection that a body comes by is driven meanwhile: what goes the other way by it
//! must not wait. Must not know: who is on the other side.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{Receiver, channel};

use crate::chain::{Broken, Stream};
use crate::http::fault::Fault;
use crate::http::filter::Filtered;
use crate::http::request_body::Upload;
use crate::http::response_body::Download;

/// A body of the gateway's.
pub(crate) trait Flow: Body<Data = Bytes, Error = Fault> + Unpin {
    /// Reads and writes what can be by the connection that it comes by, if that is its own.
    fn drive(&mut self, _cx: &mut Context<'_>) {}
}

/// Any of them.
pub(crate) type BoxFlow = Box<dyn Flow>;

impl Flow for BoxFlow {
    fn drive(&mut self, cx: &mut Context<'_>) {
        (**self).drive(cx);
    }
}

impl Flow for Upload {}

impl Flow for Download {
    fn drive(&mut self, cx: &mut Context<'_>) {
        Self::drive(self, cx);
    }
}

impl<S: Flow> Flow for Filtered<S> {
    fn drive(&mut self, cx: &mut Context<'_>) {
        self.source_mut().drive(cx);
    }
}

/// No body.
pub(crate) struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

impl Flow for Nothing {}

/// A body that a service made.
pub(crate) struct Made(pub(crate) Stream);

impl Body for Made {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = self.get_mut().0.as_mut().poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Flow for Made {}

/// The same, with its frames handed over on this thread: a held waker is not to be woken by another
/// one.
pub(crate) fn from_afar(stream: Stream) -> BoxFlow {
    if stream.is_end_stream() {
        return Box::new(Nothing);
    }
    Box::new(Made(hand_over(Box::new(Made(stream)))))
}

/// A body of the gateway's for another thread.
pub(crate) fn hand_over(mut flow: BoxFlow) -> Stream {
    let left = flow.size_hint().exact();
    let (frames, taken) = channel(1);
    if flow.is_end_stream() {
        return Box::pin(HandedOver { frames: taken, left: Some(0) });
    }
    tokio::task::spawn_local(async move {
        loop {
            let mut room = pin!(frames.reserve());
            let room = poll_fn(|cx| {
                let room = room.as_mut().poll(cx);
                if room.is_pending() {
                    flow.drive(cx);
                }
                room
            });
            // Whoever took the frames has gone, or goes while there is none.
            let Ok(room) = room.await else { return };
            let mut gone = pin!(frames.closed());
            let frame = poll_fn(|cx| {
                if gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                Pin::new(&mut flow).poll_frame(cx)
            });
            match frame.await {
                Some(Ok(frame)) => {
                    room.send(Ok(frame));
                    if flow.is_end_stream() {
                        return;
                    }
                }
                Some(Err(fault)) => return room.send(Err(broken(fault))),
                None => return,
            }
        }
    });
    Box::pin(HandedOver { frames: taken, left })
}

/// What is handed over, at the other end.
struct HandedOver {
    frames: Receiver<Result<Frame<Bytes>, Broken>>,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
}

impl Body for HandedOver {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let frame = this.frames.poll_recv(cx);
        if let (Some(left), Poll::Ready(Some(Ok(frame)))) = (&mut this.left, &frame) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) || self.frames.is_closed() && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

fn broken(fault: Fault) -> Broken {
    match fault {
        Fault::Client => Broken::Client,
        Fault::ClientSlow => Broken::ClientSlow,
        Fault::TooLarge => Broken::TooLarge,
        Fault::Upstream => Broken::Upstream,
        Fault::UpstreamSlow => Broken::UpstreamSlow,
        Fault::Answered | Fault::Reset => Broken::Function,
    }
}

/// What a client whose response breaks off so is told counts by who broke it.
fn fault(broken: Broken) -> Fault {
    match broken {
        Broken::Client => Fault::Client,
        Broken::ClientSlow => Fault::ClientSlow,
        Broken::TooLarge => Fault::TooLarge,
        Broken::Upstream => Fault::Upstream,
        Broken::UpstreamSlow => Fault::UpstreamSlow,
        Broken::Function => Fault::Reset,
    }
}
