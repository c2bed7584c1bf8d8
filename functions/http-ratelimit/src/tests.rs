use proptest::prelude::*;
use serde_json::{Value, json};
use weir_sdk::testing::{Message, MessageHarness, Options};

use super::*;

fn limiter(rules: Value) -> MessageHarness<Limiter> {
    MessageHarness::new(json!({ "rules": rules })).unwrap()
}

fn send(harness: &mut MessageHarness<Limiter>, request: &Message) -> Message {
    harness.exchange(request, |_| Message::response(200))
}

/// How many of so many requests pass.
fn passed(harness: &mut MessageHarness<Limiter>, count: usize, request: &Message) -> usize {
    (0..count).filter(|_| send(harness, request).status == 200).count()
}

#[test]
fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
    let mut harness = limiter(json!([{"name": "all", "rate": "10/s", "burst": 5}]));
    let (a, b) = (Message::get("/").from("192.0.2.1"), Message::get("/").from("192.0.2.2"));
    assert_eq!(passed(&mut harness, 8, &a), 5);
    assert_eq!(passed(&mut harness, 8, &b), 5, "another client has its own");
    harness.advance(SECOND / 10);
    assert_eq!(passed(&mut harness, 3, &a), 1);
    harness.advance(SECOND / 10 - 1);
    assert_eq!(passed(&mut harness, 3, &a), 0);
    harness.advance(1);
    assert_eq!(passed(&mut harness, 3, &a), 1);
    harness.advance(100 * SECOND);
    assert_eq!(passed(&mut harness, 8, &a), 5, "no more than the burst");
    assert_eq!((harness.counter("allowed"), harness.counter("limited")), (17, 16));
    assert_eq!(harness.remembered(), 0);
}

#[test]
fn clients_are_told_what_is_left_and_when_to_come_back() {
    let mut harness = limiter(json!([
        {"name": "wide", "rate": "100/m"}, {"name": "login", "rate": "2/m", "path-prefix": "/login"}
    ]));
    let login = Message::request("POST", "/login");
    let response = send(&mut harness, &login);
    assert_eq!(response.get_field("ratelimit-policy"), Some("\"login\";q=2;w=60"));
    assert_eq!(response.get_field("ratelimit"), Some("\"login\";r=1;t=30"));
    send(&mut harness, &login);
    harness.advance(500_000_000);
    let response = send(&mut harness, &login);
    assert_eq!((response.status, response.get_field("retry-after")), (429, Some("30")));
    assert_eq!(response.get_field("ratelimit"), Some("\"login\";r=0;t=30"));
    let other = send(&mut harness, &Message::get("/"));
    assert_eq!(
        other.get_field("ratelimit"),
        Some("\"wide\";r=97;t=2"),
        "the refused one took nothing here"
    );
}

#[test]
fn rules_are_for_some_requests_and_keys_are_of_several_parts() {
    let mut harness = limiter(json!([
        {"name": "r", "rate": "1/h", "method": ["POST"], "host": "Example.com", "path-prefix": "/a",
         "key": ["field:X-Key", "path"], "exempt": ["10.0.0.0/8"]},
    ]));
    let post = Message::request("POST", "/a/1?x").field("x-key", "k").authority("example.com:443");
    assert_eq!(passed(&mut harness, 2, &post), 1);
    assert_eq!(
        passed(&mut harness, 2, &Message { path: b"/a/1?y".to_vec(), ..post.clone() }),
        0,
        "the query is not in it"
    );
    assert_eq!(passed(&mut harness, 2, &Message { path: b"/a/2".to_vec(), ..post.clone() }), 1);
    for free in [
        Message { method: "GET".into(), ..post.clone() },
        post.clone().authority("example.com.evil"),
        Message { path: b"/b".to_vec(), ..post.clone() },
        post.clone().from("10.9.9.9"),
    ] {
        assert_eq!(passed(&mut harness, 3, &free), 3, "{free:?}");
    }
    let without = Message { fields: Vec::new(), ..post };
    assert_eq!(passed(&mut harness, 2, &without), 1);
    assert_eq!(
        passed(&mut harness, 2, &without.clone().from("192.0.2.9")),
        1,
        "without the field it is the client's"
    );
}

#[test]
fn networks_share_a_bucket() {
    let mut harness = limiter(json!([{"name": "net", "rate": "2/h", "key": ["client/24,48"]}]));
    let from = |address: &str| Message::get("/").from(address);
    assert_eq!(passed(&mut harness, 1, &from("192.0.2.1")), 1);
    assert_eq!(passed(&mut harness, 2, &from("192.0.2.255")), 1);
    assert_eq!(passed(&mut harness, 1, &from("192.0.3.1")), 1);
    assert_eq!(passed(&mut harness, 2, &from("2001:db8:1::1")), 2);
    assert_eq!(passed(&mut harness, 1, &from("2001:db8:1:ffff::1")), 0);
}

#[test]
fn a_table_that_is_full_forgets_who_is_nearly_full_and_says_so() {
    let options = Options { room_bytes: 16_384, rooms: 16, ..Options::default() };
    let config = json!({"rules": [{"name": "x", "rate": "1/h"}], "max-keys": 8});
    let mut harness = MessageHarness::<Limiter>::with(options, config).unwrap();
    for n in 0..20 {
        let client = Message::get("/").from(&format!("192.0.2.{n}"));
        assert_eq!(
            send(&mut harness, &client).status,
            200,
            "nobody is refused for others' requests"
        );
    }
    assert_eq!(harness.counter("evicted"), 12);
}

#[test]
fn a_dry_run_counts_and_refuses_nobody() {
    let mut harness = limiter(json!([{"name": "x", "rate": "1/h", "dry-run": true}]));
    assert_eq!(passed(&mut harness, 5, &Message::get("/")), 5);
    assert_eq!(harness.counter("limited"), 4);
}

#[test]
fn what_is_shared_is_counted_in_the_store_over_a_sliding_window() {
    let mut harness = limiter(json!([{"name": "s", "rate": "10/m", "shared": true}]));
    harness.advance(60 * SECOND - harness.now() % (60 * SECOND));
    let get = Message::get("/");
    assert_eq!(passed(&mut harness, 15, &get), 10);
    let refused = send(&mut harness, &get);
    assert_eq!((refused.status, refused.get_field("retry-after")), (429, Some("60")));
    harness.advance(90 * SECOND);
    // Half of the ten of the last period still count; the refused ones do not.
    assert_eq!(passed(&mut harness, 15, &get), 5);
    harness.advance(120 * SECOND);
    assert_eq!(passed(&mut harness, 15, &get), 10);
    assert_eq!((harness.free_rooms(), harness.remembered()), (64, 0));
}

#[test]
fn shared_and_local_rules_go_together() {
    let mut harness = limiter(json!([
        {"name": "s", "rate": "3/h", "shared": true}, {"name": "l", "rate": "5/h", "key": ["all"]}
    ]));
    assert_eq!(passed(&mut harness, 5, &Message::get("/").from("192.0.2.1")), 3);
    assert_eq!(
        passed(&mut harness, 5, &Message::get("/").from("192.0.2.2")),
        0,
        "all five were taken"
    );
}

#[test]
fn mistakes_name_rule_and_key() {
    let refused = |config: Value| MessageHarness::<Limiter>::new(config).unwrap_err();
    for (rule, part) in [
        (json!({"name": "x", "rate": "fast"}), "rules[0]: rate: \"fast\""),
        (json!({"name": "x", "rate": "0/s"}), "0/s"),
        (json!({"name": "x y", "rate": "1/s"}), "x y"),
        (json!({"name": "x", "rate": "1/s", "burst": 0}), "burst: 0"),
        (json!({"name": "x", "rate": "1/s", "burst": 5, "shared": true}), "has no burst"),
        (json!({"name": "x", "rate": "1/s", "key": ["client/33"]}), "client/33"),
        (json!({"name": "x", "rate": "1/s", "key": ["moon"]}), "moon"),
        (json!({"name": "x", "rate": "1/s", "key": ["field:a b"]}), "field:a b"),
        (json!({"name": "x", "rate": "1/s", "key": []}), "key: the list is empty"),
        (json!({"name": "x", "rate": "1/s", "method": []}), "method: the list is empty"),
        (json!({"name": "x", "rate": "1/s", "method": ["post"]}), "write \"POST\""),
        (json!({"name": "x", "rate": "1/s", "path-prefix": "login"}), "path-prefix: \"login\""),
        (json!({"name": "x", "rate": "1/s", "host": ""}), "host: \"\""),
        (json!({"name": "x", "rate": "1/s", "exempt": ["10.0.0.1/8"]}), "behind its length"),
    ] {
        let error = refused(json!({ "rules": [rule] }));
        assert!(error.contains(part), "{error}");
    }
    let twice = json!({"name": "x", "rate": "1/s"});
    assert!(refused(json!({ "rules": [twice, twice] })).contains("another"));
    assert!(refused(json!({ "rules": [], "status": 200 })).contains("200"));
}

proptest! {
    #[test]
    fn no_window_lets_more_through_than_rate_and_burst(
        steps in prop::collection::vec(0u64..300_000_000, 1..200),
        rate in 1u64..20,
        burst in 1u64..10,
    ) {
        let mut harness = limiter(json!([{"name": "x", "rate": format!("{rate}/s"), "burst": burst}]));
        let mut times = Vec::new();
        for step in steps {
            harness.advance(step);
            if send(&mut harness, &Message::get("/")).status == 200 {
                times.push(harness.now());
            }
        }
        let interval = SECOND / rate;
        for from in 0..times.len() {
            for to in from..times.len() {
                let most = burst + (times[to] - times[from]) / interval;
                prop_assert!((to - from + 1) as u64 <= most + 1);
                prop_assert!((to - from) as u64 <= most);
            }
        }
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused(rate in 1u64..50, count in 1usize..100) {
        let mut harness = limiter(json!([{"name": "x", "rate": format!("{rate}/s"), "burst": 1}]));
        for _ in 0..count {
            prop_assert_eq!(send(&mut harness, &Message::get("/")).status, 200);
            harness.advance(SECOND.div_ceil(rate));
        }
    }
}
