//! Drops TCP and UDP packets to blocked ports.

use serde::Deserialize;
use weir_sdk::parse::{Unreadable, parse, protocol};
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
            let headers = match parse(packet.data()) {
                Ok(headers) => headers,
                // What is no IP goes on: all verdicts are `Next` before.
                Err(Unreadable::NotIp) => continue,
                // A port could be hidden in what cannot be read, such as a tiny first fragment (RFC
                // 1858).
                Err(Unreadable::Malformed) => {
                    packet.set_verdict(Verdict::Drop(2));
                    continue;
                }
            };
            // What is neither TCP nor UDP has no port, and goes on, too.
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
    fn what_is_no_packet_goes_on_and_what_cannot_be_read_does_not() {
        let mut harness = Harness::<PortBlock>::new(r#"{"blocked": [23]}"#).unwrap();
        assert_eq!(harness.run([0; 20]).verdict, Verdict::Next);
        let mut cut_off = [0; 20];
        cut_off[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(harness.run(cut_off).verdict, Verdict::Drop(2));
    }
}
