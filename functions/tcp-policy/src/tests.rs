use proptest::prelude::*;
use serde_json::{Value, json};
use weir_sdk::testing::{ConnectionHarness, Message, PieceStep, Step};

use super::*;
use crate::first::client_hello;

fn policy(config: Value) -> ConnectionHarness<Policy> {
    ConnectionHarness::new(config).unwrap()
}

fn opens(harness: &mut ConnectionHarness<Policy>, connection: &Message) -> (u32, bool) {
    let exchange = harness.open();
    let opened = matches!(harness.opened(exchange, connection), Step::Continue(_));
    if !opened {
        harness.end(exchange, How::Reset, None);
    }
    (exchange, opened)
}

fn from(client: &str) -> Message {
    Message::connection().from(client)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let mut harness = policy(json!({
        "default": "deny",
        "rules": [
            {"action": "deny", "client": ["10.66.0.0/16"], "log": true},
            {"action": "allow", "client": ["10.0.0.0/8", "2001:db8::/32"], "port": [22, 80]},
            {"action": "allow", "port": [443]},
        ],
    }));
    for (client, port, opened) in [
        ("10.1.2.3", 22, true),
        ("10.66.1.1", 22, false),
        ("10.66.1.1", 443, false),
        ("2001:db8::1", 80, true),
        ("192.0.2.1", 22, false),
        ("192.0.2.1", 443, true),
        ("10.1.2.3", 25, false),
    ] {
        assert_eq!(opens(&mut harness, &from(client).to_port(port)).1, opened, "{client} {port}");
    }
    assert_eq!((harness.counter("allowed"), harness.counter("denied")), (3, 4));
    assert!(harness.log()[0].1.contains("denied by rule 0: 10.66.1.1 to port 22"));
}

#[test]
fn connections_are_routed_by_the_name_in_their_tls() {
    let mut harness = policy(json!({"default": "deny", "rules": [
        {"action": "allow", "server-name": ["a.example"], "upstream": "a"},
        {"action": "allow", "server-name": ["*.b.example"], "upstream": "b"},
    ]}));
    for (name, upstream) in [
        ("A.example", Some(0)),
        ("x.b.example", Some(1)),
        ("b.example", None),
        ("a.example.org", None),
    ] {
        let (exchange, opened) = opens(&mut harness, &from("192.0.2.1").tls(name));
        assert_eq!(
            (opened, opened.then(|| harness.upstream(exchange)).flatten()),
            (upstream.is_some(), upstream),
            "{name}"
        );
    }
    // Encrypted past the gateway, the name comes too late to route by.
    let (exchange, opened) = opens(&mut harness, &from("192.0.2.1"));
    assert!(opened);
    assert_eq!(
        harness.data(exchange, false, &client_hello(Some("a.example")), false),
        PieceStep::Reset
    );
}

#[test]
fn first_bytes_tell_the_protocol() {
    let mut harness = policy(json!({"default": "deny", "rules": [
        {"action": "allow", "port": [22], "protocol": ["ssh"]},
        {"action": "allow", "port": [443], "protocol": ["tls"], "server-name": ["*.example"]},
        {"action": "deny", "port": [25], "protocol": ["http", "tls"]},
        {"action": "allow", "port": [25]},
    ]}));
    let hello = client_hello(Some("www.example"));
    let other = client_hello(Some("www.example.org"));
    for (port, bytes, passes) in [
        (22, &b"SSH-2.0-x\r\n"[..], true),
        (22, b"GET / HTTP/1.1\r\n\r\n", false),
        (22, b"\x16", false),
        (443, &hello, true),
        (443, &other, false),
        (443, &client_hello(None), false),
        (443, b"SSH-2.0-x", false),
        (25, b"EHLO x\r\n", true),
        (25, b"POST / HTTP/1.1\r\n\r\n", false),
    ] {
        for cut in [3, 7, bytes.len()] {
            let (exchange, opened) = opens(&mut harness, &from("192.0.2.1").to_port(port));
            assert!(opened);
            assert_eq!(
                harness.data(exchange, true, b"hello", false),
                PieceStep::Pass(b"hello".to_vec())
            );
            let mut passed = Some(Vec::new());
            let count = bytes.chunks(cut).count();
            for (n, piece) in bytes.chunks(cut).enumerate() {
                match harness.data(exchange, false, piece, n + 1 == count) {
                    PieceStep::Pass(more) => passed.iter_mut().for_each(|all| all.extend(&more)),
                    PieceStep::Held => {}
                    _ => {
                        passed = None;
                        break;
                    }
                }
            }
            harness.end(exchange, How::Delivered, None);
            assert_eq!(passed, passes.then(|| bytes.to_vec()), "{port} {bytes:?}");
        }
    }
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn what_never_says_what_it_is_is_not_held_for_ever() {
    let mut harness =
        policy(json!({"default": "deny", "rules": [{"action": "allow", "protocol": ["tls"]}]}));
    let (exchange, _) = opens(&mut harness, &from("192.0.2.1"));
    // A record that announces as much as it may and is never complete.
    let mut step = harness.data(exchange, false, &[22, 3, 1, 0x40, 0, 1], false);
    let mut count = 0;
    while step == PieceStep::Held {
        step = harness.data(exchange, false, &[0; 1000], false);
        count += 1;
    }
    assert_eq!((step, count), (PieceStep::Reset, 17));
    harness.end(exchange, How::Reset, None);
    // One that comes byte by byte takes a room for each.
    let (exchange, _) = opens(&mut harness, &from("192.0.2.1"));
    let hello = client_hello(Some("a.example"));
    let held = hello
        .chunks(1)
        .take_while(|piece| harness.data(exchange, false, piece, false) == PieceStep::Held);
    assert_eq!(held.count(), 31);
}

#[test]
fn connections_of_a_network_are_limited() {
    let mut harness =
        policy(json!({"limits": {"network": [24, 56], "concurrent": 2, "exempt": ["10.0.0.0/8"]}}));
    let (first, _) = opens(&mut harness, &from("192.0.2.1"));
    assert!(opens(&mut harness, &from("192.0.2.2")).1);
    assert!(!opens(&mut harness, &from("192.0.2.3")).1);
    assert!(opens(&mut harness, &from("192.0.3.3")).1);
    for _ in 0..5 {
        assert!(opens(&mut harness, &from("10.0.0.1")).1);
    }
    harness.end(first, How::Delivered, Some(0));
    assert!(opens(&mut harness, &from("192.0.2.3")).1);
    assert!(!opens(&mut harness, &from("192.0.2.4")).1);
    assert_eq!(harness.counter("limited"), 2);
}

#[test]
fn new_connections_of_a_network_are_limited_over_time() {
    let mut harness = policy(json!({"limits": {"per-second": 10, "burst": 3}}));
    let mut count = |n: usize| (0..n).filter(|_| opens(&mut harness, &from("192.0.2.1")).1).count();
    assert_eq!(count(5), 3);
    harness.advance(SECOND / 10);
    let mut count = |n: usize| (0..n).filter(|_| opens(&mut harness, &from("192.0.2.1")).1).count();
    assert_eq!(count(5), 1);
    assert!(opens(&mut harness, &from("192.0.2.2")).1);
}

#[test]
fn who_is_denied_does_not_count() {
    let mut harness = policy(json!({
        "rules": [{"action": "deny", "port": [25]}], "limits": {"per-second": 1, "burst": 1},
    }));
    for _ in 0..3 {
        assert!(!opens(&mut harness, &from("192.0.2.1").to_port(25)).1);
    }
    assert!(opens(&mut harness, &from("192.0.2.1")).1);
}

#[test]
fn mistakes_are_named() {
    let refused = |config: Value| ConnectionHarness::<Policy>::new(config).unwrap_err();
    for (config, part) in [
        (
            json!({"rules": [{"action": "allow", "upstream": "c"}]}),
            "rules[0]: no upstream is named \"c\"; there are a, b",
        ),
        (json!({"rules": [{"action": "deny", "upstream": "a"}]}), "must allow"),
        (
            json!({"rules": [{"action": "allow", "upstream": "a", "protocol": ["tls"]}]}),
            "cannot have `protocol`",
        ),
        (json!({"rules": [{"action": "allow", "client": ["10.0.0.1/8"]}]}), "behind its length"),
        (json!({"rules": [{"action": "allow", "protocol": ["smtp"]}]}), "smtp"),
        (
            json!({"rules": [{"action": "allow", "client": []}]}),
            "rules[0].client: the list is empty",
        ),
        (json!({"rules": [{"action": "allow", "port": []}]}), "rules[0].port: the list is empty"),
        (json!({"rules": [{"action": "allow", "server-name": []}]}), "rules[0].server-name: the"),
        (json!({"rules": [{"action": "allow", "server-name": [""]}]}), "no name of a server"),
        (json!({"rules": [{"action": "allow", "protocol": []}]}), "rules[0].protocol: the list"),
        (json!({"limits": {"concurrent": 0}}), "limits.concurrent: 0"),
        (json!({"limits": {"burst": 1}}), "per-second"),
        (json!({"limits": {"network": [33, 64]}}), "[33, 64]"),
    ] {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #[test]
    fn no_more_are_open_than_allowed(steps in prop::collection::vec((any::<bool>(), 0u8..3), 1..100)) {
        let mut harness = policy(json!({"limits": {"concurrent": 3}}));
        let mut open: [Vec<u32>; 3] = Default::default();
        for (opening, client) in steps {
            let all = &mut open[usize::from(client)];
            if opening {
                let (exchange, opened) = opens(&mut harness, &from(&format!("192.0.2.{client}")));
                prop_assert_eq!(opened, all.len() < 3);
                if opened {
                    all.push(exchange);
                }
            } else if let Some(exchange) = all.pop() {
                harness.end(exchange, How::Delivered, None);
            }
        }
    }
}
