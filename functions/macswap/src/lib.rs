//! Exchanges source and destination hardware address of every frame. With `verdict = "reply"` it
//! makes a chain an echo, which is how throughput and latency are measured; with `"next"` it
//! touches every packet and passes it on.

use serde::Deserialize;
use weir_sdk::prelude::*;

/// Reason for dropping a frame that is shorter than two addresses.
pub const SHORT: u32 = 1;

/// The configuration.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What happens with the frame then.
    #[serde(default)]
    verdict: Afterwards,
}

/// What happens with a frame.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Afterwards {
    /// It continues with the next function.
    #[default]
    Next,
    /// It leaves by the port it came in by.
    Reply,
}

/// The function.
#[derive(Debug)]
pub struct MacSwap {
    verdict: Verdict,
}

impl Function for MacSwap {
    type Config = Config;

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        let verdict = match config.verdict {
            Afterwards::Next => Verdict::Next,
            Afterwards::Reply => Verdict::Reply,
        };
        Ok(Self { verdict })
    }

    fn process(&mut self, burst: &mut Burst) {
        for mut packet in burst.packets() {
            let verdict = if let Some(addresses) = packet.data_mut().first_chunk_mut::<12>()
                && let [destination, source] = addresses.as_chunks_mut::<6>().0
            {
                std::mem::swap(destination, source);
                self.verdict
            } else {
                Verdict::Drop(SHORT)
            };
            // It is `next` already.
            if verdict != Verdict::Next {
                packet.set_verdict(verdict);
            }
        }
    }
}

export!(MacSwap);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use weir_sdk::testing::Harness;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_exchanged_and_nothing_else(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut harness = Harness::<MacSwap>::new(json!({"verdict": "reply"})).unwrap();
            let outcome = harness.run(&frame);
            if frame.len() < 12 {
                prop_assert_eq!((outcome.verdict, &outcome.bytes), (Verdict::Drop(SHORT), &frame));
            } else {
                let expected = [&frame[6..12], &frame[..6], &frame[12..]].concat();
                prop_assert_eq!((outcome.verdict, outcome.bytes), (Verdict::Reply, expected));
            }
        }
    }

    #[test]
    fn the_verdict_is_configured() {
        let verdict = |config| Harness::<MacSwap>::new(config).map(|mut h| h.run([0; 60]).verdict);
        assert_eq!(verdict(json!({})), Ok(Verdict::Next));
        assert_eq!(verdict(json!({"verdict": "next"})), Ok(Verdict::Next));
        let error = verdict(json!({"verdict": "drop"})).unwrap_err();
        assert!(error.contains("`drop`") && error.contains("`reply`"), "{error}");
    }
}
