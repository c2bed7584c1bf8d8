//! `weir trace`: looking at a chain that runs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guests::{self, pass};
use crate::host::Host;

fn host() -> Host {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    host
}

#[test]
fn packets_of_a_chain_are_shown_while_it_runs() {
    let host = host();
    let shown = host.ok(&["trace", "edge", "-n", "2"]);
    let first = shown.lines().next().unwrap();
    assert!(first.starts_with("packet 1: 10.0.0.") && first.contains(" → 198.1"), "{shown}");
    assert!(shown.contains("\n  gate  next\n"), "{shown}");
    assert!(shown.contains("\npacket 2: "), "{shown}");
    assert!(shown.contains("\n2 packets followed, "), "{shown}");

    // Those of one flow only.
    let flow = host.json(&["trace", "edge", "-n", "100"])["packets"][7]["bytes"].clone();
    let source = source_of(&flow);
    let port = source.1.to_string();
    let traced = host.json(&["trace", "edge", "-n", "5", "--src", &source.0, "--sport", &port]);
    let packets = traced["packets"].as_array().unwrap();
    assert_eq!(packets.len(), 5);
    assert!(packets.iter().all(|packet| source_of(&packet["bytes"]) == source), "{traced}");
    assert!(traced["seen"].as_u64() >= Some(5));
}

/// Address and port that a packet by UDP over IPv4 comes from.
fn source_of(bytes: &Value) -> (String, u16) {
    let packet: weir_spec::Base64 = serde_json::from_value(bytes.clone()).unwrap();
    let sliced = etherparse::SlicedPacket::from_ethernet(&packet.0).unwrap();
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("{sliced:?}")
    };
    (ip.header().source_addr().to_string(), udp.source_port())
}

#[test]
fn a_trace_waits_no_longer_than_it_is_told_and_one_at_a_time() {
    let host = host();
    let started = Instant::now();
    let nothing = host.json(&["trace", "edge", "--seconds", "2", "--dst", "192.0.2.77"]);
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert_eq!(nothing["packets"], serde_json::json!([]));
    assert!(nothing["seen"].as_u64() > Some(1000), "{nothing}");

    std::thread::scope(|scope| {
        let first =
            scope.spawn(|| host.json(&["trace", "edge", "--seconds", "5", "--dst", "192.0.2.77"]));
        std::thread::sleep(Duration::from_secs(1));
        let refused = host.fails(&["trace", "edge"]);
        assert!(refused.contains("is being traced"), "{refused}");
        // What is done to the chain does not wait for it.
        guests::push(&host, "2.0.0", &pass(2));
        host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
        assert!(!first.is_finished());
        assert_eq!(first.join().unwrap()["packets"], serde_json::json!([]));
    });
    assert_eq!(host.running(), "2.0.0");
}

#[test]
fn what_cannot_be_traced_is_said() {
    let host = host();
    let refused = host.fails(&["trace", "other"]);
    assert!(refused.contains("other"), "{refused}");
    let refused = host.fails(&["trace", "edge", "--port", "elsewhere"]);
    assert!(refused.contains("no port elsewhere; it has in, out"), "{refused}");
    let refused = host.fails(&["trace", "edge", "--proto", "icmp", "--dport", "53"]);
    assert!(refused.contains("have no ports"), "{refused}");
}
