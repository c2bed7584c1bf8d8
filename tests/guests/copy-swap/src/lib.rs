//! As `macswap`, but without a window: what copying costs, and that it does the same.

use weir_sdk::copy::{CopyFunction, Outcome};
use weir_sdk::prelude::*;

/// Reason for dropping a frame that is shorter than two addresses.
pub const SHORT: u32 = 1;

/// The function.
#[derive(Debug)]
pub struct CopySwap {
    swapped: Counter,
    /// The same in all, also by those before it.
    in_all: u64,
}

impl CopyFunction for CopySwap {
    type Config = NoConfig;

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self { swapped: host::counter("swapped"), in_all: 0 })
    }

    fn process(&mut self, mut packet: Vec<u8>, _: u16, _: u64) -> Outcome {
        let Some((destination, source)) =
            packet.first_chunk_mut::<12>().map(|addresses| addresses.split_at_mut(6))
        else {
            return Outcome { verdict: Verdict::Drop(SHORT), packet: None };
        };
        destination.swap_with_slice(source);
        self.swapped.add(1);
        self.in_all += 1;
        Outcome { verdict: Verdict::Next, packet: Some(packet) }
    }
}

impl Snapshot for CopySwap {
    fn save(&self) -> Vec<u8> {
        self.in_all.to_le_bytes().to_vec()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        let saved = saved.try_into().map_err(|_| "no number was saved")?;
        self.in_all = u64::from_le_bytes(saved);
        info!("{} were swapped before", self.in_all);
        Ok(())
    }
}

export_copy!(CopySwap, snapshot);

#[cfg(test)]
mod tests {
    use weir_sdk::testing::{Copied, Harness};

    use super::*;

    #[test]
    fn addresses_are_exchanged() {
        let mut harness = Harness::<Copied<CopySwap>>::new("{}").unwrap();
        let outcome = harness.run(b"destinsource...");
        assert_eq!((outcome.verdict, &outcome.bytes[..]), (Verdict::Next, &b"sourcedestin..."[..]));
        assert_eq!(harness.run(b"11 bytes...").verdict, Verdict::Drop(SHORT));
        assert_eq!(harness.counter("swapped"), 1);
    }
}
