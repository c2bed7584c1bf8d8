//! A tap as the body of a response.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::places::Place;
use crate::engine::Tap;

/// How often it is looked for packets.
const LOOK: Duration = Duration::from_millis(20);

/// A tap that somebody reads. Ending it waits for workers, so that is not done on the API's threads.
struct Open(Option<Box<dyn Tap>>);

impl Drop for Open {
    fn drop(&mut self) {
        let tap = self.0.take();
        if tap.is_some() && tokio::runtime::Handle::try_current().is_ok() {
            spawn_blocking(move || drop(tap));
        }
    }
}

/// What a tap takes, until it has ended, the client goes, or the host stops. While a client takes nothing, nothing is taken: then packets
/// are lost, and counted.
pub(super) fn body(tap: Box<dyn Tap>, place: [Place; 2], stopping: watch::Receiver<bool>) -> Body {
    let open = (Open(Some(tap)), place, stopping);
    Body::from_stream(stream::unfold(open, async |(mut open, place, mut stopping)| {
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
            if !bytes.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(bytes)), (open, place, stopping)));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return None,
            }
        }
    }))
}
