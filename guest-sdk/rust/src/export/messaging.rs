//! The one instance of a module that exports a message function or a connection function.

use std::cell::UnsafeCell;

use super::instance::attach_window;
use super::start::{self, HostSetup};
use crate::function::{Snapshot, read_config};
use crate::message::dispatch::Dispatch;
use crate::message::handler::{Event, Handler};
use crate::{host, sys, window::Window};

/// Where the function lives.
#[derive(Debug)]
pub struct MessageInstance<H: Handler>(UnsafeCell<Option<Dispatch<H>>>);

// SAFETY: a module has one thread.
unsafe impl<H: Handler> Sync for MessageInstance<H> {}

impl<H: Handler> MessageInstance<H> {
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    #[inline]
    fn live(&self) -> &mut Dispatch<H> {
        // SAFETY: only the exports reach this, each once, and the host makes no call while another
        // is under way.
        unsafe { (*self.0.get()).as_mut() }.expect("configured")
    }

    /// # Errors
    /// What the operator is to read.
    pub fn configure(&self, setup: HostSetup) -> Result<u32, String> {
        start::log_panics();
        let window = attach_window(&setup)?;
        let state = start::attach_state(&setup)?;
        // SAFETY: the host lays the window out, and events name what lies in it.
        let window = unsafe { Window::new(window, setup.room_bytes) };
        sys::set_window(window.clone());
        let config = read_config::<H::Config>(&setup.config)?;
        let handler = H::configure(start::told(setup, state), config)?;
        // SAFETY: the host names heads and pieces in the window, which are the function's
        // meanwhile.
        let dispatch = unsafe { Dispatch::new(handler, window) };
        let wants = dispatch.wants().0;
        // SAFETY: as in `live`.
        unsafe { *self.0.get() = Some(dispatch) };
        host::after_configure();
        Ok(wants)
    }

    #[inline]
    pub fn head(&self, event: Event, exchange: u32, head: u32) -> u64 {
        self.live().event(event, exchange, head, 0, false)
    }

    #[inline]
    pub fn piece(&self, event: Event, exchange: u32, offset: u32, length: u32, last: bool) -> u64 {
        self.live().event(event, exchange, offset, length, last)
    }

    pub fn resume(
        &self,
        exchange: u32,
        token: u32,
        status: u32,
        head: u32,
        body: u32,
        length: u32,
    ) -> u64 {
        self.live().resume(exchange, token, status, head, body, length)
    }

    pub fn ended(&self, exchange: u32, how: u32, upstream: u32, nanoseconds: u64) {
        self.live().ended(exchange, how, upstream, nanoseconds);
    }

    pub fn tick(&self, now: u64) {
        self.live().tick(now);
    }
}

impl<H: Handler + Snapshot> MessageInstance<H> {
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.live().handler().save()
    }

    /// # Errors
    /// What the operator is to read.
    pub fn restore(&self, saved: &[u8]) -> Result<(), String> {
        self.live().handler().restore(saved)
    }
}
