//! A stateless firewall: the function that every language's SDK has as an example. What it does is
//! specified in `guest-sdk/packet-filter/README.md`.

mod frame;
mod rules;

use weir_sdk::prelude::*;

use frame::{Addresses, Frame};
use rules::{Config, Rules};

struct PacketFilter {
    rules: Rules,
}

impl Function for PacketFilter {
    type Config = Config;

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        Ok(Self { rules: Rules::new(config)? })
    }

    fn process(&mut self, burst: &mut Burst) {
        for mut packet in burst.packets() {
            let allowed = match Frame::read(packet.data()) {
                Frame::NotIp => true,
                Frame::CutShort => false,
                Frame::Ip { addresses: Addresses::V4(addresses), rest } => {
                    self.rules.allow_v4(addresses, rest)
                }
                Frame::Ip { addresses: Addresses::V6(addresses), rest } => {
                    self.rules.allow_v6(addresses, rest)
                }
            };
            if !allowed {
                packet.set_verdict(Verdict::Drop(1));
            }
        }
    }
}

export!(PacketFilter);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_sdk::testing::Harness;

    use super::*;

    fn refused(config: &str) -> String {
        Harness::<PacketFilter>::new(config).expect_err("refused")
    }

    #[test]
    fn a_wrong_key_is_named() {
        for (config, key) in [
            (r#"{"default": "maybe"}"#, "default"),
            (r#"{"rules": [{}]}"#, "action"),
            (r#"{"rules": [{"action": "allow", "proto": 256}]}"#, "rules[0].proto"),
            (r#"{"rules": [{"action": "allow", "src": "10.0.0.0/33"}]}"#, "rules[0].src"),
            (r#"{"rules": [{"action": "allow", "dport": "20-10"}]}"#, "rules[0].dport"),
            (r#"{"rules": [{"action": "allow", "sport": 65536}]}"#, "rules[0].sport"),
            (r#"{"rules": [{"action": "allow", "x": 1}]}"#, "unknown field `x`"),
        ] {
            let reason = refused(config);
            assert!(reason.contains(key), "{config}: {reason}");
        }
        let many = format!(r#"{{"rules": [{}]}}"#, [r#"{"action": "deny"}"#; 65].join(","));
        assert!(refused(&many).contains("rules: 65 are too many"));
    }

    proptest! {
        #[test]
        fn no_frame_panics(kind in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8]), bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut frame = vec![0; 12];
            frame.extend(kind.to_be_bytes());
            frame.extend(bytes);
            let mut harness = Harness::<PacketFilter>::new("{}").unwrap();
            let verdict = harness.run(&frame).verdict;
            prop_assert!(matches!(verdict, Verdict::Next | Verdict::Drop(1)));
        }
    }
}
