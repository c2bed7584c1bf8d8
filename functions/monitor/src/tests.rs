use etherparse::PacketBuilder;
use proptest::prelude::*;
use weir_sdk::testing::frames::{datagram, tagged};
use weir_sdk::testing::{Frame, Harness, Options};

use super::*;

fn monitor(config: &str) -> Harness<Monitor> {
    Harness::with(Options { state_bytes: 16 << 20, ..Options::default() }, config).unwrap()
}

fn udp(from: u16, to: u16, payload: usize) -> Vec<u8> {
    datagram(([10, 0, 0, 1], from), ([10, 0, 0, 2], to), &vec![7; payload])
}

fn tcp6() -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
    let mut frame = Vec::new();
    step.tcp(80, 443, 1, 1).syn().write(&mut frame, &[]).unwrap();
    frame
}

/// Lines of the next report of one that reports each second.
fn report(monitor: &mut Harness<Monitor>) -> Vec<String> {
    monitor.advance(SECOND + 20_000_000);
    monitor.log().into_iter().map(|(_, line)| line).collect()
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

/// Else two customers with the same addresses would be one flow.
#[test]
fn flows_are_told_apart_by_their_vlans() {
    let mut monitor = monitor(r#"{"report-every": 1}"#);
    let mut six = tagged(&tcp6(), &[100, 10]);
    for frame in [udp(1, 2, 18), tagged(&udp(1, 2, 18), &[10]), tagged(&udp(1, 2, 18), &[11])] {
        monitor.run(frame);
    }
    monitor.run(six.clone());
    six[19] = 20;
    monitor.run(six);
    assert_eq!(monitor.gauge("flows"), Some(5.0));
    let lines = report(&mut monitor).join("\n");
    let ends = ["2 protocol 17:", "2 protocol 17 vlan 10:", "2 protocol 17 vlan 11:"];
    for end in ends.into_iter().chain(["protocol 6 vlan 100.10:", "protocol 6 vlan 100.20:"]) {
        assert!(lines.contains(end), "{end}: {lines}");
    }
}

#[test]
fn the_report_names_the_heaviest_first() {
    let mut monitor = monitor(r#"{"report-every": 1, "top": 2}"#);
    for (port, times) in [(100, 3), (200, 9), (300, 5)] {
        for _ in 0..times {
            monitor.run(udp(port, 53, 100));
        }
    }
    let lines = report(&mut monitor);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains(" <-> ")), "{lines:?}");
    assert!(lines[0].contains("200") && lines[0].contains("9 packets"), "{lines:?}");
    assert!(lines[1].contains("300") && lines[1].contains("5 packets"), "{lines:?}");
    monitor.run(udp(300, 53, 100));
    let lines = report(&mut monitor);
    assert_eq!(lines.len(), 1, "who was silent since is left out: {lines:?}");
    assert!(lines[0].contains(": 142 bytes; in all 852 bytes, 6 packets"), "{lines:?}");
    assert!(report(&mut monitor).is_empty());
}

#[test]
fn a_report_is_made_in_parts_between_which_packets_are_counted() {
    // Bytes since the report before, of the one flow of IPv4.
    let bytes = |lines: &[String]| -> u64 {
        let line = lines.iter().find(|line| !line.contains("TCP")).unwrap();
        line.split_once(": ").unwrap().1.split_once(' ').unwrap().0.parse().unwrap()
    };
    let mut monitor = monitor(r#"{"report-every": 1, "max-flows": 65536}"#);
    monitor.run(tcp6());
    monitor.run(udp(1, 2, 100));
    monitor.advance(SECOND);
    let (mut sent, mut lines) = (1, Vec::new());
    while lines.is_empty() {
        monitor.run(udp(1, 2, 100));
        sent += 1;
        monitor.advance(REPORT_PAUSE);
        lines.extend(monitor.log().into_iter().map(|(_, line)| line));
    }
    assert!((20..30).contains(&sent), "{sent} packets in about as many parts");
    assert_eq!(lines.len(), 2, "both versions of IP: {lines:?}");
    monitor.advance(SECOND - sent * REPORT_PAUSE);
    assert!(monitor.log().is_empty(), "the next one is due a second after this one began");
    let first = bytes(&lines);
    let second: Vec<String> = report(&mut monitor);
    assert_eq!(first + bytes(&second), sent * 142, "{lines:?} {second:?}");
}

#[test]
fn what_the_last_tick_reports_is_not_lost_nor_told_twice() {
    let mut monitor = monitor(r#"{"report-every": 1, "max-flows": 2000}"#);
    let last = |monitor: &mut Harness<Monitor>| {
        monitor.enter(|function| function.tick(u64::MAX));
        monitor.log().into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    monitor.run(udp(1, 2, 100));
    monitor.run(tcp6());
    assert_eq!(last(&mut monitor).len(), 2, "both versions of IP");
    assert!(monitor.swap(r#"{"report-every": 1, "max-flows": 2000}"#).unwrap());
    monitor.run(udp(1, 2, 100));
    let lines = report(&mut monitor);
    assert!(lines.len() == 1 && lines[0].contains(": 142 bytes; in all 284 bytes"), "{lines:?}");
}

#[test]
fn tcp_flags_are_gathered() {
    let mut monitor = monitor(r#"{"report-every": "1s"}"#);
    let mut frame = tcp6();
    monitor.run(frame.clone());
    frame[67] = 0x11;
    monitor.run(frame);
    assert!(report(&mut monitor)[0].ends_with("2 packets in 0 s, TCP FSA"));
}

#[test]
fn flows_end() {
    let mut monitor = monitor(r#"{"idle": "5s", "max-flows": 64, "report-every": 0}"#);
    monitor.run(udp(1, 2, 20));
    for _ in 0..1000 {
        monitor.advance(10_000_000);
        monitor.run(udp(3, 4, 20));
    }
    assert_eq!((monitor.gauge("flows"), monitor.gauge("flows_expired")), (Some(1.0), Some(1.0)));
    for port in 0..200 {
        monitor.run(udp(port, 9, 20));
    }
    assert!(monitor.gauge("flows_evicted").unwrap() > 50.0);
    monitor.advance(6_000_000_000);
    let evicted = monitor.gauge("flows_evicted");
    monitor.run(udp(1000, 9, 20));
    assert_eq!(monitor.gauge("flows_evicted"), evicted, "those that ended go first");
}

#[test]
fn classes_are_those_of_rfc_2819() {
    for (class, first, last) in [
        (0, 0, 64),
        (1, 65, 127),
        (2, 128, 255),
        (3, 256, 511),
        (4, 512, 1023),
        (5, 1024, 1518),
        (6, 1519, 9000),
    ] {
        assert_eq!((size_class(first), size_class(last)), (class, class));
    }
}

#[test]
fn a_heavy_flow_stays_when_thousands_of_small_ones_come() {
    let mut monitor = monitor(r#"{"max-flows": 256, "report-every": 1, "top": 1}"#);
    for port in 0..20_000u16 {
        monitor.run(udp(port, 7, 20));
        monitor.run(udp(60_000, 443, 20));
    }
    assert!(monitor.gauge("flows_evicted").unwrap() > 10_000.0);
    let log = report(&mut monitor);
    assert!(log[0].contains("60000"), "{log:?}");
    assert!(log[0].contains("20000 packets"), "{log:?}");
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
    /// Space-Saving's promise: no flow with more bytes than its set's smallest entry is missing, no
    /// count is too low, and too high by its error at most. With one set, the whole table.
    #[test]
    fn heavy_flows_are_never_missing(ports in prop::collection::vec((0u16..200, 0usize..3), 1..1500)) {
        use weir_sdk::region::StateRegion;
        let mut flows = Flows::<FlowV4>::new(&mut StateRegion::heap(), "flows", 1, 60).unwrap();
        let hasher = Hasher::new(1);
        let mut truth = std::collections::BTreeMap::new();
        for (port, size) in ports {
            // Low numbers are frequent.
            let port = if size == 0 { port % 5 } else { port };
            let key = FlowV4::directed((1, port), (2, 2), 17);
            let length = [60, 590, 1514][size];
            *truth.entry(port).or_insert(0u64) += u64::from(length);
            flows.add(hasher.hash(&key).into(), &key, Tally { length, flags: 0, now: 1 });
        }
        let mut found = std::collections::BTreeMap::new();
        for (key, entry) in flows.entries() {
            let real = truth[&key.source().1];
            prop_assert!(entry.bytes >= real && entry.bytes - entry.error <= real);
            found.insert(key.source().1, entry.bytes);
        }
        let least = found.values().min().unwrap();
        for (port, bytes) in truth {
            prop_assert!(found.contains_key(&port) || bytes <= *least);
        }
    }

    #[test]
    fn no_bytes_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..30)) {
        thread_local!(static MONITOR: std::cell::RefCell<Harness<Monitor>> = std::cell::RefCell::new(monitor("{}")));
        for bytes in frames {
            let mut ip = udp(1, 2, 40);
            let n = bytes.len().min(ip.len() - 14);
            ip[14..14 + n].copy_from_slice(&bytes[..n]);
            for bytes in [ip, bytes] {
                let after = MONITOR.with_borrow_mut(|monitor| monitor.run(Frame::new(bytes.clone())));
                prop_assert_eq!((after.verdict, after.bytes), (Verdict::Next, bytes));
            }
        }
    }
}
