//! Connections by TCP whose clients have shown no token yet. Whoever wants can have some, so they
//! have few places, and nobody is kept out by them: who comes when all are taken has the one of
//! whoever has been there longest. A client with a token shows it with its first request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How many there are at most.
const PLACES: usize = 128;

/// See the module. The one that has been there longest is first.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<VecDeque<Arc<Notify>>>>);

impl Strangers {
    /// Lets another one in.
    pub(super) fn enter(&self) -> Stranger {
        let has_to_go = Arc::new(Notify::new());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == PLACES
            && let Some(longest) = all.pop_front()
        {
            longest.notify_one();
        }
        all.push_back(Arc::clone(&has_to_go));
        Stranger { all: self.clone(), has_to_go }
    }
}

/// One of them; requests of its connection carry it.
#[derive(Clone)]
pub(super) struct Stranger {
    all: Strangers,
    has_to_go: Arc<Notify>,
}

impl Stranger {
    /// Waits until another one has its place. Never ends when that is not its own any more.
    pub(super) async fn has_to_go(&self) {
        self.has_to_go.notified().await;
    }

    /// It has shown a token, or its connection has ended.
    pub(super) fn leave(&self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !Arc::ptr_eq(other, &self.has_to_go));
    }
}
