//! Deadlines that cost nothing while they are met.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::time::{Instant, Sleep};

/// A timer for one deadline after the other. It is not touched when the deadline moves on: it goes
/// off at an old one, sees that there is a newer one, and is set again. So a connection with
/// thousands of requests a second sets it once in a period.
#[derive(Default)]
pub(crate) struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken by it.
    task: Option<Waker>,
}

impl Deadline {
    /// Whether the time has come. If not, the task is woken then, or before.
    pub(crate) fn expired(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        } else if !sleep.is_elapsed()
            && self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker()))
        {
            return false;
        }
        self.task = Some(cx.waker().clone());
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}
