//! Room for connections at one address, which all threads of the gateway share.
//!
//! Owns: how many are open, and who waits for one to end. Idle ones of other threads are in the way
//! of who needs a connection here, so these are told, and give some up. Must not know: what a
//! connection carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Default)]
pub(crate) struct Room {
    open: AtomicUsize,
    waiting: AtomicUsize,
    /// Told when one has ended.
    ended: Notify,
    /// Changes when somebody begins to wait.
    wanted: watch::Sender<()>,
}

impl Room {
    /// A connection, if there are fewer than this.
    pub(crate) fn enter(self: &Arc<Self>, limit: usize) -> Option<Entered> {
        let more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(Entered(Arc::clone(self)))
    }

    /// From now on somebody waits, and whoever has idle ones gives some up.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, SeqCst);
        self.wanted.send_replace(());
        Waiting(self)
    }

    /// Whether somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Hears of it when somebody begins to wait.
    pub(crate) fn wanted(&self) -> watch::Receiver<()> {
        self.wanted.subscribe()
    }
}

/// A connection, which counts as open until this is dropped.
pub(crate) struct Entered(Arc<Room>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        if self.0.is_wanted() {
            self.0.ended.notify_one();
        }
    }
}

/// Somebody who waits for a connection to end.
pub(crate) struct Waiting<'a>(&'a Room);

impl Waiting<'_> {
    /// Ready when one has ended since it was asked for the last time.
    pub(crate) async fn ended(&self) {
        self.0.ended.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
        // What it was told, and did not use, is another one's.
        if self.0.is_wanted() {
            self.0.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn who_waits_hears_of_one_that_ends() {
        let room = Arc::<Room>::default();
        let (one, two) = (room.enter(2).unwrap(), room.enter(2).unwrap());
        assert!(room.enter(2).is_none());
        let mut wanted = room.wanted();
        let waiting = room.wait();
        assert!(wanted.has_changed().unwrap() && room.is_wanted());
        wanted.mark_unchanged();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(pin!(waiting.ended()).poll(cx).is_pending());
        drop(one);
        assert!(pin!(waiting.ended()).poll(cx).is_ready());
        assert!(room.enter(2).is_some());
        drop((waiting, two));
        assert!(!room.is_wanted());
        // A limit that became smaller holds for those that come.
        let _three = [(); 3].map(|()| room.enter(3).unwrap());
        assert!(room.enter(2).is_none());
    }
}
