//! What may wait for somebody outside of this process, and must not hold up its end.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Does this on a thread of its own, and waits for it no longer than that. Without a thread it is
/// not done.
pub(crate) fn within(patience: Duration, work: impl FnOnce() + Send + 'static) {
    let (ended, last) = mpsc::channel::<()>();
    let work = move || {
        work();
        drop(ended);
    };
    if thread::Builder::new().spawn(work).is_ok() {
        let _ = last.recv_timeout(patience);
    }
}
