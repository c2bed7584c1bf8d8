use etherparse::PacketBuilder;
use proptest::prelude::*;
use weir_sdk::testing::{Frame, Harness, Options};

use super::*;

fn monitor(config: &str) -> Harness<Monitor> {
    Harness::with(Options { state_bytes: 16 << 20, ..Options::default() }, config).unwrap()
}

fn udp(from: u16, to: u16, payload: usize) -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut frame = Vec::new();
    step.udp(from, to).write(&mut frame, &vec![7; payload]).unwrap();
    frame
}

fn tcp6() -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
    let mut frame = Vec::new();
    step.tcp(80, 443, 1, 1).syn().write(&mut frame, &[]).unwrap();
    frame
}

#[test]
fn it_counts_by_kind_and_size_and_decides_nothing() {
    let mut monitor = monitor("{}");
    let mut answer = udp(2, 1, 1000);
    answer[26..34].rotate_left(4);
    let frames = [udp(1, 2, 18), answer, tcp6(), vec![0; 60], vec![8; 20]];
    for outcome in monitor.run_burst(&frames) {
        assert_eq!(outcome.verdict, Verdict::Next);
    }
    for (name, n) in [
        ("packets", 5),
        ("udp", 2),
        ("tcp", 1),
        ("ipv6", 1),
        ("not_ip", 2),
        ("malformed", 0),
        ("size_64", 3),
        ("size_65_127", 1),
        ("size_1024_1518", 1),
        ("bytes", 60 + 1042 + 74 + 60 + 20),
    ] {
        assert_eq!(monitor.counter(name), n, "{name}");
    }
    assert_eq!(monitor.gauge("flows"), Some(2.0), "both directions are one flow");
}

#[test]
fn the_report_names_the_heaviest_first() {
    let mut monitor = monitor(r#"{"report-every": 1, "top": 2}"#);
    for (port, times) in [(100, 3), (200, 9), (300, 5)] {
        for _ in 0..times {
            monitor.run(udp(port, 53, 100));
        }
    }
    monitor.advance(1_000_000_000);
    let lines: Vec<String> = monitor.log().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("200") && lines[0].contains("9 packets"), "{lines:?}");
    assert!(lines[1].contains("300") && lines[1].contains("5 packets"), "{lines:?}");
    monitor.advance(1_000_000_000);
    assert_eq!(monitor.log().len(), 2, "again a second later");
}

#[test]
fn a_heavy_flow_stays_when_thousands_of_small_ones_come() {
    let mut monitor = monitor(r#"{"max-flows": 256, "report-every": 1, "top": 1}"#);
    for port in 0..20_000u16 {
        monitor.run(udp(port, 7, 20));
        monitor.run(udp(60_000, 443, 20));
    }
    assert!(monitor.gauge("flows_evicted").unwrap() > 10_000.0);
    monitor.advance(1_000_000_000);
    let log = monitor.log();
    assert!(log[0].1.contains("60000"), "{log:?}");
    assert!(log[0].1.contains("20000 packets"), "{log:?}");
}

#[test]
fn counts_go_on_in_the_next_instance() {
    let mut monitor = monitor("{}");
    monitor.run(udp(1, 2, 20));
    assert!(monitor.swap("{}").unwrap());
    monitor.run(udp(1, 2, 20));
    assert_eq!(monitor.gauge("flows"), Some(1.0));
}

#[test]
fn impossible_values_are_explained() {
    let options = Options::default();
    let error = Harness::<Monitor>::with(options, r#"{"max-flows": 1}"#).unwrap_err();
    assert_eq!(error, "config: max-flows: 1; allowed are 64 to 4194304");
    let error = Harness::<Monitor>::new(r#"{"tops": 1}"#).unwrap_err();
    assert!(error.contains("tops"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..30)) {
        let mut monitor = monitor("{}");
        for bytes in frames {
            let mut ip = udp(1, 2, 40);
            let n = bytes.len().min(ip.len() - 14);
            ip[14..14 + n].copy_from_slice(&bytes[..n]);
            monitor.run(Frame::new(ip));
            monitor.run(Frame::new(bytes));
        }
    }
}
