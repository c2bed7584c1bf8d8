//! As `macswap`, but without a window: what copying costs, and that it does the same.

use weir_sdk::copy::{CopyFunction, Outcome};
use weir_sdk::prelude::*;

/// Reason for dropping a frame that is shorter than two addresses.
pub const SHORT: u32 = 1;

/// The function.
#[derive(Debug)]
pub struct CopySwap {
    swapped: Counter,
}

impl CopyFunction for CopySwap {
    type Config = NoConfig;

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self { swapped: host::counter("swapped") })
    }

    fn process(&mut self, mut packet: Vec<u8>, _: u16, _: u64) -> Outcome {
        let Some((destination, source)) =
            packet.first_chunk_mut::<12>().map(|addresses| addresses.split_at_mut(6))
        else {
            return Outcome { verdict: Verdict::Drop(SHORT), packet: None };
        };
        destination.swap_with_slice(source);
        self.swapped.add(1);
        Outcome { verdict: Verdict::Next, packet: Some(packet) }
    }
}

export_copy!(CopySwap);

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
