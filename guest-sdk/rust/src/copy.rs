//! Functions without a window: each packet is copied in, and out if it was changed.
//!
//! Owns: the trait. Must not know: windows, bursts. It is for code that must have a packet as a
//! `Vec<u8>` of its own, and pays a call and an allocation for each; a
//! [`Function`](crate::Function) pays neither.

use serde::de::DeserializeOwned;

use crate::{Setup, Verdict};

/// A packet function that gets packets one by one, as copies. Export it with
/// [`export_copy!`](crate::export_copy!).
pub trait CopyFunction: Sized + 'static {
    /// As [`Function::Config`](crate::Function::Config).
    type Config: DeserializeOwned;

    /// As [`Function::configure`](crate::Function::configure).
    ///
    /// # Errors
    /// The text is shown to whoever deploys the chain, which stays as it was.
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;

    /// Decides about a packet that came in by this port at this time, in nanoseconds of
    /// [`host::now`](crate::host::now).
    fn process(&mut self, packet: Vec<u8>, port: u16, now: u64) -> Outcome;

    /// As [`Function::tick`](crate::Function::tick).
    fn tick(&mut self, now: u64) {
        let _ = now;
    }
}

/// The decision for one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it; [`Verdict::Hold`] is a fault.
    pub verdict: Verdict,
    /// Its new bytes; `None` leaves it as it was.
    pub packet: Option<Vec<u8>>,
}
