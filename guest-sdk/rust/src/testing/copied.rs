//! Functions that copy, in the harness for those with a window.

use crate::copy::{CopyFunction, Outcome};
use crate::{Burst, Function, Setup, Verdict};

/// Copies packets in and out of a function, as the host does: for `Harness<Copied<F>>`.
#[derive(Debug)]
pub struct Copied<F>(pub F);

impl<F: CopyFunction> Function for Copied<F> {
    type Config = F::Config;

    fn configure(setup: Setup, config: F::Config) -> Result<Self, String> {
        F::configure(setup, config).map(Self)
    }

    /// # Panics
    /// When the host would see a fault: the function holds a packet, or makes one too long for its
    /// room.
    fn process(&mut self, burst: &mut Burst) {
        let now = burst.now();
        for i in 0..burst.len() {
            let mut packet = burst.packet(i);
            let outcome = self.0.process(packet.data().to_vec(), packet.port(), now);
            let Outcome { verdict, packet: bytes } = outcome;
            assert!(verdict != Verdict::Hold, "packet {i}: a function that copies cannot hold");
            if let Some(bytes) = bytes {
                packet.set_len(bytes.len()).expect("a packet that fits into its room");
                packet.data_mut().copy_from_slice(&bytes);
            }
            packet.set_verdict(verdict);
        }
    }

    fn tick(&mut self, now: u64) {
        self.0.tick(now);
    }
}
