//! A place for one future after the other.
//!
//! hyper gives a connection's bytes back only if the service's futures can be moved. An HTTP/1 connection has one request at a time, so
//! its futures can all be made in the same place, which stays where it is: no allocation for each request.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The place.
pub(crate) struct Slot<F>(Rc<RefCell<Pin<Box<Option<F>>>>>);

impl<F: Future> Slot<F> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Box::pin(None))))
    }

    /// Puts a future there; the one before it is gone.
    pub(crate) fn put(&self, future: F) -> InSlot<F> {
        self.0.borrow_mut().set(Some(future));
        InSlot(Rc::clone(&self.0))
    }
}

/// The future that is there. Dropping it empties the place.
pub(crate) struct InSlot<F>(Rc<RefCell<Pin<Box<Option<F>>>>>);

impl<F: Future> Future for InSlot<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.borrow_mut().as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for InSlot<F> {
    fn drop(&mut self) {
        self.0.borrow_mut().set(None);
    }
}
