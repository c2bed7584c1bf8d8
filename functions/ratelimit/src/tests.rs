use etherparse::PacketBuilder;
use proptest::prelude::*;
use weir_sdk::testing::frames::{datagram, tagged};
use weir_sdk::testing::{Frame, Harness, Options};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limiter(config: &str) -> Harness<RateLimit> {
    Harness::with(Options { state_bytes: 8 << 20, ..Options::default() }, config).unwrap()
}

fn udp(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let frame = datagram((from, 1), (to, 2), &[0; 72]);
    assert_eq!(frame.len(), 14 + 100);
    frame
}

/// How many of `n` packets pass.
fn passed(limiter: &mut Harness<RateLimit>, n: usize, frame: &[u8]) -> usize {
    (0..n).filter(|_| limiter.run(frame).verdict == Verdict::Next).count()
}

#[test]
fn each_address_has_its_bucket_and_it_fills_again() {
    let mut limiter =
        limiter(r#"{"rules": [{"prefix": "10.0.0.0/8", "rate": "10pps", "burst": "5 packets"}]}"#);
    let (a, b) = (udp([10, 0, 0, 1], [9; 4]), udp([10, 0, 0, 2], [9; 4]));
    assert_eq!(passed(&mut limiter, 20, &a), 5);
    assert_eq!(passed(&mut limiter, 20, &b), 5);
    limiter.advance(SECOND / 5);
    assert_eq!(passed(&mut limiter, 20, &a), 2);
    limiter.advance(60 * SECOND);
    assert_eq!(passed(&mut limiter, 20, &a), 5, "no more than the burst");
    assert_eq!(passed(&mut limiter, 20, &udp([11, 0, 0, 1], [9; 4])), 20, "no rule");
    assert_eq!(limiter.counter("limited"), 15 + 15 + 18 + 15);
}

#[test]
fn a_rule_may_tell_vlans_apart() {
    let limiter_per = |per: &str| {
        limiter(&format!(
            r#"{{"rules": [{{"prefix": "10.0.0.0/8", "rate": "1pps", "burst": "5 packets", "per": {per}}},
                          {{"prefix": "::/0", "rate": "1pps", "burst": "5 packets", "per": {per}}}]}}"#
        ))
    };
    let (a, b) = (udp([10, 0, 0, 1], [9; 4]), udp([10, 0, 0, 2], [9; 4]));
    let six = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59, 64], &[1; 32]].concat();
    let mut each = limiter_per(r#"{"vlan": true}"#);
    for frame in [&a, &b, &six] {
        for vlans in [&[][..], &[10], &[11], &[100, 10]] {
            assert_eq!(passed(&mut each, 20, &tagged(frame, vlans)), 5, "{vlans:?}");
        }
    }
    let mut subscribers = limiter_per(r#"{"v4": 8, "v6": 0, "vlan": true}"#);
    assert_eq!(passed(&mut subscribers, 3, &tagged(&a, &[10])), 3);
    assert_eq!(passed(&mut subscribers, 20, &tagged(&b, &[10])), 2, "all of a VLAN share one");
    assert_eq!(passed(&mut subscribers, 20, &tagged(&b, &[11])), 5);
    // Without that, who chooses tags gets no more.
    let mut addresses = limiter_per(r#""address""#);
    assert_eq!(passed(&mut addresses, 3, &tagged(&a, &[10])), 3);
    assert_eq!(passed(&mut addresses, 20, &tagged(&a, &[11])), 2);
}

#[test]
fn bytes_are_counted_as_in_the_ip_header() {
    let mut limiter =
        limiter(r#"{"default": {"rate": "8kbit", "burst": "1000 bytes", "per": "prefix"}}"#);
    assert_eq!(passed(&mut limiter, 50, &udp([1; 4], [2; 4])), 10);
    limiter.advance(SECOND / 2);
    assert_eq!(passed(&mut limiter, 50, &udp([3; 4], [2; 4])), 5, "all share one bucket");
}

#[test]
fn a_packet_takes_from_both_buckets_or_from_none() {
    let mut limiter = limiter(
        r#"{"rules": [{"prefix": "10.0.0.0/8", "rate": "1pps", "burst": "100 packets"},
                      {"prefix": "20.0.0.0/8", "key": "dst", "rate": "1pps", "burst": "3 packets"}]}"#,
    );
    assert_eq!(passed(&mut limiter, 50, &udp([10, 0, 0, 1], [20, 0, 0, 1])), 3);
    assert_eq!(passed(&mut limiter, 200, &udp([10, 0, 0, 1], [30, 0, 0, 1])), 97);
}

#[test]
fn nobody_is_free_whose_transport_header_is_broken() {
    let mut limiter = limiter(r#"{"default": {"rate": "8kbit", "burst": "1000 bytes"}}"#);
    let mut no_length = udp([1; 4], [2; 4]);
    no_length[38..40].fill(0);
    assert_eq!(passed(&mut limiter, 50, &no_length), 10, "100 bytes each");
    let mut few_words = udp([1, 1, 1, 2], [2; 4]);
    few_words[23] = 6;
    few_words[46] = 0;
    assert_eq!(passed(&mut limiter, 50, &few_words), 10);
    let mut v6 = Vec::new();
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
    step.udp(1, 2).write(&mut v6, &[0; 52]).unwrap();
    v6[58..60].fill(0);
    assert_eq!(passed(&mut limiter, 50, &v6), 10);
    // What no router takes for IP.
    assert_eq!(passed(&mut limiter, 50, &no_length[..30]), 50);
    no_length[14] = 0x65;
    assert_eq!(passed(&mut limiter, 50, &no_length), 50);
}

fn source(n: u16) -> Vec<u8> {
    let [high, low] = n.to_be_bytes();
    udp([11, 0, high, low], [9; 4])
}

#[test]
fn when_the_table_is_full_the_bucket_that_is_full_the_soonest_makes_room() {
    let mut limiter =
        limiter(r#"{"default": {"rate": "1pps", "burst": "10 packets"}, "max-buckets": 64}"#);
    let heavy = udp([10, 0, 0, 1], [9; 4]);
    assert_eq!(passed(&mut limiter, 20, &heavy), 10);
    for n in 0..300 {
        assert_eq!(passed(&mut limiter, 1, &source(n)), 1);
    }
    assert!(limiter.counter("evicted") > 150, "{}", limiter.counter("evicted"));
    assert_eq!(passed(&mut limiter, 20, &heavy), 0, "a flood of others does not help it");
    assert_eq!(passed(&mut limiter, 50, &udp([10, 0, 0, 2], [9; 4])), 10, "those that come new");
}

#[test]
fn packets_that_find_no_room_take_nothing_and_are_not_limited() {
    let mut limiter = limiter(
        r#"{"rules": [{"prefix": "0.0.0.0/0", "rate": "1pps", "burst": "100 packets"},
                      {"prefix": "20.0.0.0/8", "key": "dst", "rate": "1pps", "burst": "100 packets"}],
            "max-buckets": 64, "when-full": "drop"}"#,
    );
    let (first, beyond) = (udp([10, 0, 0, 1], [9; 4]), udp([10, 0, 0, 1], [20, 1, 1, 1]));
    assert_eq!(passed(&mut limiter, 1, &first), 1);
    for n in 0..200_u16 {
        let [high, low] = n.to_be_bytes();
        let before = limiter.gauge("buckets");
        limiter.advance(SWEEP_EVERY);
        let full = passed(&mut limiter, 1, &udp([11, 0, high, low], [20, 0, high, low])) == 0;
        assert!(
            !full || limiter.gauge("buckets") == before,
            "a bucket of a packet that was dropped"
        );
    }
    // And singly, so that no place is left.
    for n in 0..200 {
        limiter.run(source(n + 1000));
    }
    assert_eq!(limiter.run(beyond.clone()).verdict, Verdict::Drop(reason::TABLE_FULL));
    assert_eq!(passed(&mut limiter, 200, &beyond), 0);
    assert_eq!(passed(&mut limiter, 200, &first), 99);
    assert_eq!(limiter.counter("limited"), 101, "of the last ones");
}

#[test]
fn buckets_of_rules_that_are_gone_make_room_at_once() {
    let mut limiter =
        limiter(r#"{"default": {"rate": "1pps", "burst": "1000 packets"}, "max-buckets": 64}"#);
    for n in 0..20 {
        assert_eq!(passed(&mut limiter, 900, &source(n)), 900);
    }
    let settle = |limiter: &mut Harness<RateLimit>| {
        for _ in 0..10 {
            limiter.advance(SWEEP_EVERY);
            limiter.run(vec![0; 60]);
        }
        limiter.gauge("buckets")
    };
    assert_eq!(settle(&mut limiter), Some(20.0));
    let faster = r#"{"default": {"rate": "1kpps", "burst": "1000 packets"}, "max-buckets": 64}"#;
    assert!(limiter.swap(faster).unwrap());
    assert_eq!(settle(&mut limiter), Some(0.0), "further ahead than a burst of now");
    assert_eq!(passed(&mut limiter, 900, &source(0)), 900);
    assert_eq!(settle(&mut limiter), Some(1.0));
    assert!(limiter.swap(r#"{"max-buckets": 64}"#).unwrap());
    assert_eq!(settle(&mut limiter), Some(0.0));
}

#[test]
fn buckets_outlive_the_instance() {
    let config = r#"{"default": {"rate": "1pps", "burst": "4 packets"}}"#;
    let mut limiter = limiter(config);
    let frame = udp([1; 4], [2; 4]);
    assert_eq!(passed(&mut limiter, 3, &frame), 3);
    assert!(limiter.swap(config).unwrap());
    assert_eq!(passed(&mut limiter, 3, &frame), 1);
}

#[test]
fn mistakes_name_rule_and_key() {
    let refused = |config: &str| Harness::<RateLimit>::new(config).unwrap_err();
    assert!(
        refused(r#"{"rules": [{"prefix": "10.0.0.0/8", "rate": "fast"}]}"#)
            .contains("rules[0]: rate: \"fast\"")
    );
    assert!(refused(r#"{"rules": [{"rate": "1pps"}]}"#).contains("rules[0]: prefix"));
    assert!(refused(r#"{"ruls": []}"#).contains("ruls"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 1..100)) {
        let mut limiter = limiter(r#"{"default": {"rate": "1mbit"}}"#);
        let mut frame = udp([1; 4], [2; 4]);
        for (byte, x) in frame[14..].iter_mut().zip(&bytes) {
            *byte ^= x & bytes[0];
        }
        limiter.run(Frame::new(frame));
        limiter.run(Frame::new(bytes));
    }
}
