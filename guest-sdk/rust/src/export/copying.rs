//! The one instance of a module that exports a function without a window.

use std::cell::UnsafeCell;

use super::bindings::copying::exports::weir::net::packet_copy::Outcome as HostOutcome;
use super::start::{self, HostSetup};
use crate::copy::{CopyFunction, Outcome};
use crate::function::{Snapshot, read_config};
use crate::host;

/// Where the function lives.
#[derive(Debug)]
pub struct CopyInstance<F>(UnsafeCell<Option<F>>);

// SAFETY: a module has one thread.
unsafe impl<F> Sync for CopyInstance<F> {}

impl<F: CopyFunction> CopyInstance<F> {
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    #[inline]
    fn function(&self) -> &mut F {
        // SAFETY: only the exports reach this, each once, and the host makes no call while another
        // is under way.
        unsafe { (*self.0.get()).as_mut() }.expect("configured")
    }

    /// # Errors
    /// What the operator is to read.
    pub fn configure(&self, setup: HostSetup) -> Result<(), String> {
        start::log_panics();
        let state = start::attach_state(&setup)?;
        let config = read_config::<F::Config>(&setup.config)?;
        let function = F::configure(start::told(setup, state), config)?;
        // SAFETY: as in `function`.
        unsafe { *self.0.get() = Some(function) };
        host::after_configure();
        Ok(())
    }

    pub fn process(&self, packet: Vec<u8>, port: u32, now: u64) -> HostOutcome {
        let port = u16::try_from(port).expect("ports are numbered with 16 bits");
        let Outcome { verdict, packet } = self.function().process(packet, port, now);
        host::after_burst(now);
        HostOutcome { verdict: verdict.encode(), packet }
    }

    pub fn tick(&self, now: u64) {
        if host::before_tick(now) {
            self.function().tick(now);
        }
        host::after_tick(now);
    }
}

impl<F: CopyFunction + Snapshot> CopyInstance<F> {
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        self.function().save()
    }

    /// # Errors
    /// What the operator is to read.
    pub fn restore(&self, saved: &[u8]) -> Result<(), String> {
        self.function().restore(saved)
    }
}
