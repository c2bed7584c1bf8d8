//! Orders to a chain from other threads: carried out on its own, between events.

use std::sync::mpsc::sync_channel;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::chain::Chain;

type Order = Box<dyn FnOnce(&Chain) + Send>;

/// A chain as other threads have it. The chain goes when the last clone does.
#[derive(Clone, Debug)]
pub struct Remote(UnboundedSender<Order>);

/// The chain's end.
#[derive(Debug)]
pub struct Orders(UnboundedReceiver<Order>);

/// The chain's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's thread that the chain was on has ended")]
pub struct ThreadGone;

/// Both ends, for a chain that is made later on another thread.
#[must_use]
pub fn orders() -> (Remote, Orders) {
    let (to, from) = unbounded_channel();
    (Remote(to), Orders(from))
}

impl Remote {
    /// Has the chain's thread do this, and waits for it.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn run<T: Send + 'static>(
        &self,
        order: impl FnOnce(&Chain) -> T + Send + 'static,
    ) -> Result<T, ThreadGone> {
        let (answer, answered) = sync_channel(1);
        let order = move |chain: &Chain| {
            // Who gave the order waits, or its thread has ended.
            let _ = answer.send(order(chain));
        };
        self.0.send(Box::new(order)).map_err(|_| ThreadGone)?;
        answered.recv().map_err(|_| ThreadGone)
    }
}

impl Orders {
    pub(crate) async fn next(&mut self) -> Option<Order> {
        self.0.recv().await
    }
}
