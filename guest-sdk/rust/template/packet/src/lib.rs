//! Drops TCP and UDP packets to blocked ports.

use serde::Deserialize;
use weir_sdk::parse::{parse, protocol};
use weir_sdk::prelude::*;

/// `[function.config]` of the chain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Destination ports.
    blocked: Vec<u16>,
}

struct PortBlock {
    blocked: Vec<u16>,
    count: Counter,
}

impl Function for PortBlock {
    type Config = Config;

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        if config.blocked.contains(&0) {
            return Err("blocked: 0 is no port; allowed are 1 to 65535".into());
        }
        Ok(Self {
            blocked: config.blocked,
            count: host::counter("blocked"),
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        for mut packet in burst.packets() {
            // What cannot be read, and what is neither TCP nor UDP, goes on: all verdicts are `Next` before.
            let Ok(headers) = parse(packet.data()) else {
                continue;
            };
            if matches!(headers.protocol, protocol::TCP | protocol::UDP)
                && self.blocked.contains(&headers.destination_port)
            {
                packet.set_verdict(Verdict::Drop(1));
                self.count.add(1);
            }
        }
    }
}

export!(PortBlock);

#[cfg(test)]
mod tests {
    use weir_sdk::testing::Harness;

    use super::*;

    #[test]
    fn what_is_no_packet_goes_on() {
        let mut harness = Harness::<PortBlock>::new(r#"{"blocked": [23]}"#).unwrap();
        assert_eq!(harness.run([0; 20]).verdict, Verdict::Next);
    }
}
