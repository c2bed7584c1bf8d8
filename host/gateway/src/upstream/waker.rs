//! The waker of a connection that is driven from within a task.
//!
//! What a task does to the connection itself (sending it a request, asking for a piece of a body)
//! would wake that very task again, for nothing: it drives the connection anyway. One that is held
//! only notes that it was woken. All of it happens on one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

#[derive(Default)]
struct Shared {
    /// The task that has the connection now.
    task: AtomicWaker,
    held: AtomicBool,
    woken: AtomicBool,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.held.load(Relaxed) {
            self.woken.store(true, Relaxed);
        } else {
            self.task.wake();
        }
    }
}

/// See the module.
pub(crate) struct HeldWaker {
    shared: Arc<Shared>,
    waker: Waker,
}

impl HeldWaker {
    pub(crate) fn new() -> Self {
        let shared = Arc::<Shared>::default();
        let waker = Waker::from(Arc::clone(&shared));
        Self { shared, waker }
    }

    /// From now on it wakes this task, but not before it is let go.
    pub(crate) fn hold(&self, cx: &Context<'_>) {
        self.shared.task.register(cx.waker());
        self.mute();
    }

    /// Holds it, and forgets that it was woken.
    pub(crate) fn mute(&self) {
        self.shared.held.store(true, Relaxed);
        self.shared.woken.store(false, Relaxed);
    }

    /// Whether it was woken while it was held.
    pub(crate) fn woken(&self) -> bool {
        self.shared.woken.load(Relaxed)
    }

    /// Lets it go. The task is woken if it was woken.
    pub(crate) fn release(&self) {
        self.shared.held.store(false, Relaxed);
        if self.woken() {
            self.shared.task.wake();
        }
    }

    /// For what is polled on behalf of the task.
    pub(crate) fn as_waker(&self) -> &Waker {
        &self.waker
    }
}
