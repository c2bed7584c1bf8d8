//! A tap as the body of a response.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::task::spawn_blocking;

use super::places::Place;
use super::stay::Stay;
use crate::engine::Tap;

/// How often it is looked for packets.
const LOOK: Duration = Duration::from_millis(20);

/// A tap that somebody reads. Ending it waits for workers, so that is not done on the API's
/// threads.
struct Open(Option<Box<dyn Tap>>);

impl Drop for Open {
    fn drop(&mut self) {
        let tap = self.0.take();
        if tap.is_some() && tokio::runtime::Handle::try_current().is_ok() {
            spawn_blocking(move || drop(tap));
        }
    }
}

/// What a tap takes, until it has ended, the client goes or may not have it any more, or the host
/// stops. While a client takes nothing, nothing is taken: then packets are lost, and counted.
pub(super) fn body(tap: Box<dyn Tap>, place: [Place; 2], stay: Stay) -> Body {
    let open = (Open(Some(tap)), place, stay);
    Body::from_stream(stream::unfold(open, async |(mut open, place, mut stay)| {
        loop {
            let mut tap = open.0.take()?;
            // Should nobody wait any more, it ends on that thread.
            let taken = spawn_blocking(move || {
                let bytes = tap.take();
                (tap, bytes)
            });
            let bytes;
            (open.0, bytes) = taken.await.ok().map(|(tap, bytes)| (Some(tap), bytes))?;
            let bytes = bytes?;
            if stay.is_over() {
                return None;
            }
            if !bytes.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(bytes)), (open, place, stay)));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stay.end() => return None,
            }
        }
    }))
}
