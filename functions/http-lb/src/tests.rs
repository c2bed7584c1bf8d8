use proptest::prelude::*;
use serde_json::{Value, json};
use weir_sdk::testing::{Message, MessageHarness, Options, Step};

use super::*;

mod routes;

fn balancer(upstreams: usize, config: Value) -> MessageHarness<Balancer> {
    let ports = (0..upstreams).map(|n| format!("u{n}")).collect();
    let options = Options { room_bytes: 16_384, rooms: 16, ports, ..Options::default() };
    MessageHarness::with(options, config).unwrap()
}

/// Where a request goes, and what came back.
fn send(
    harness: &mut MessageHarness<Balancer>,
    request: &Message,
    status: u16,
) -> (usize, Message) {
    let exchange = harness.open();
    let step = harness.request_head(exchange, request);
    assert!(matches!(step, Step::Continue(_)), "{step:?}");
    let upstream = harness.upstream(exchange).unwrap();
    if status == 0 {
        harness.end(exchange, How::UpstreamFailed, Some(upstream));
        return (upstream, Message::response(502));
    }
    let step = harness.response_head(exchange, &Message::response(status));
    let Step::Continue(response) = step else { panic!("{step:?}") };
    harness.end(exchange, How::Delivered, Some(upstream));
    (upstream, response)
}

fn route(harness: &mut MessageHarness<Balancer>, request: &Message) -> usize {
    send(harness, request, 200).0
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let mut harness = balancer(3, json!({}));
    let turns: Vec<_> = (0..6).map(|_| route(&mut harness, &Message::get("/"))).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    let weights =
        json!({"upstreams": [{"name": "u0", "weight": 5}, {"name": "u2"}, {"name": "u1"}]});
    let mut harness = balancer(3, weights);
    let turns: Vec<_> = (0..7).map(|_| route(&mut harness, &Message::get("/"))).collect();
    assert_eq!(turns, [0, 0, 2, 0, 1, 0, 0], "smoothly, as nginx does");
    assert_eq!(harness.remembered(), 0);
}

#[test]
fn who_is_not_healthy_is_left_out_unless_nobody_is() {
    for policy in ["round-robin", "least-requests", "hash"] {
        let config = if policy == "hash" {
            json!({"policy": policy, "hash": "client"})
        } else {
            json!({"policy": policy})
        };
        let mut harness = balancer(3, config);
        harness.set_healthy(1, false);
        let client = |n: u8| Message::get("/").from(&format!("192.0.2.{n}"));
        let turns: Vec<_> = (0..60).map(|n| route(&mut harness, &client(n))).collect();
        assert!(
            !turns.contains(&1) && turns.contains(&0) && turns.contains(&2),
            "{policy} {turns:?}"
        );
        harness.set_healthy(0, false);
        harness.set_healthy(2, false);
        route(&mut harness, &Message::get("/"));
        assert_eq!(harness.counter("nobody_healthy"), 1);
    }
}

#[test]
fn least_requests_goes_to_the_idle() {
    let mut harness = balancer(
        3,
        json!({"policy": "least-requests", "upstreams": [
        {"name": "u0", "weight": 1}, {"name": "u1", "weight": 4}, {"name": "u2", "weight": 1}]}),
    );
    for (upstream, active) in [(0, 2), (1, 4), (2, 3)] {
        harness.set_active(upstream, active);
    }
    assert_eq!(route(&mut harness, &Message::get("/")), 1, "one for each of its weight");
    harness.set_active(1, 40);
    assert_eq!(route(&mut harness, &Message::get("/")), 0);

    let mut many = balancer(20, json!({"policy": "least-requests"}));
    for upstream in 0..20 {
        many.set_active(upstream, if upstream < 10 { 100 } else { 0 });
    }
    let idle = (0..1000).filter(|_| route(&mut many, &Message::get("/")) >= 10).count();
    assert!(
        (700..800).contains(&idle),
        "{idle} of 1000: three quarters of all pairs have an idle one"
    );
}

#[test]
fn who_comes_back_is_not_flooded() {
    for policy in ["round-robin", "least-requests"] {
        let mut harness = balancer(2, json!({"policy": policy}));
        harness.set_healthy(1, false);
        for _ in 0..100 {
            route(&mut harness, &Message::get("/"));
        }
        harness.set_healthy(1, true);
        let turns: Vec<_> = (0..6).map(|_| route(&mut harness, &Message::get("/"))).collect();
        let back = turns.iter().filter(|upstream| **upstream == 1).count();
        assert!((2..=4).contains(&back), "{policy} {turns:?}");
    }
}

#[test]
fn equals_take_turns_at_least_requests() {
    let mut harness = balancer(3, json!({"policy": "least-requests"}));
    let mut counts = [0; 3];
    for _ in 0..30 {
        counts[route(&mut harness, &Message::get("/"))] += 1;
    }
    assert_eq!(counts, [10, 10, 10]);
}

#[test]
fn the_same_key_goes_to_the_same_upstream() {
    for (on, request) in [
        ("client", (|n| Message::get("/").from(&format!("192.0.2.{n}"))) as fn(u8) -> Message),
        ("path", |n| Message::get(format!("/{n}?x=1"))),
        ("field:X-User", |n| Message::get("/").field("x-user", n.to_string())),
        ("cookie:id", |n| Message::get("/").field("cookie", format!("a=b; id={n}"))),
    ] {
        let mut harness = balancer(4, json!({"policy": "hash", "hash": on}));
        let first: Vec<_> = (0..100).map(|n| route(&mut harness, &request(n))).collect();
        let again: Vec<_> = (0..100).map(|n| route(&mut harness, &request(n))).collect();
        assert_eq!(first, again, "{on}");
        for upstream in 0..4 {
            let count = first.iter().filter(|u| **u == upstream).count();
            assert!((8..50).contains(&count), "{on}: {count} of 100 went to {upstream}");
        }
        harness.set_healthy(first[0], false);
        let third: Vec<_> = (0..100).map(|n| route(&mut harness, &request(n))).collect();
        for (before, after) in first.iter().zip(&third) {
            assert!(before == after || *before == first[0], "only keys of the lost one move");
        }
    }
}

#[test]
fn a_cookie_brings_a_client_back_while_its_upstream_is_well() {
    let mut harness =
        balancer(3, json!({"sticky": {"cookie": "lb", "max-age": 60, "secure": true}}));
    let (upstream, response) = send(&mut harness, &Message::get("/"), 200);
    let cookie = response.get_field("set-cookie").unwrap();
    let (pair, rest) = cookie.split_once(';').unwrap();
    assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure");
    let returning = Message::get("/").field("cookie", format!("x=y; {pair}"));
    for _ in 0..5 {
        let (again, response) = send(&mut harness, &returning, 200);
        assert_eq!((again, response.get_field("set-cookie")), (upstream, None));
    }
    harness.set_healthy(upstream, false);
    let (other, response) = send(&mut harness, &returning, 200);
    assert!(other != upstream && response.get_field("set-cookie").is_some());
    let forged = Message::get("/").field("cookie", "lb=nonsense");
    assert!(send(&mut harness, &forged, 200).1.get_field("set-cookie").is_some());
}

#[test]
fn the_cookie_names_who_answered() {
    let upstreams = json!([{"name": "u0"}, {"name": "u1"}]);
    let mut harness = balancer(3, json!({"sticky": {"cookie": "lb"}, "upstreams": upstreams}));
    let mut cookie = |request: &Message, by| {
        let exchange = harness.open();
        harness.request_head(exchange, request);
        let chosen = harness.upstream(exchange).unwrap();
        let step = harness.response_head(exchange, &Message::response(200).sent_by(by));
        let Step::Continue(response) = step else { panic!("{step:?}") };
        harness.end(exchange, How::Delivered, Some(by));
        let cookie = response.get_field("set-cookie").and_then(|all| all.split_once(';'));
        (chosen, cookie.map(|(pair, _)| Message::get("/").field("cookie", pair)))
    };
    let (first, client) = cookie(&Message::get("/"), 1);
    let client = client.unwrap();
    assert_eq!((first, cookie(&client, 1)), (0, (1, None)));
    let (second, moved) = cookie(&client, 0);
    assert_eq!((second, cookie(&moved.unwrap(), 0)), (1, (0, None)));
    // One that takes no part has no cookie.
    assert_eq!(cookie(&client, 2), (1, None));
    assert_eq!(cookie(&Message::get("/"), 2).1, None);
    assert_eq!(harness.remembered(), 0);
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn who_fails_again_and_again_is_left_out_longer_each_time() {
    let config = json!({"outlier": {"consecutive-5xx": 3, "base-seconds": 10, "max-seconds": 15}});
    let mut harness = balancer(2, config);
    let round = |harness: &mut MessageHarness<Balancer>, status| {
        let mut seen = [0; 2];
        for _ in 0..6 {
            let exchange = harness.open();
            harness.request_head(exchange, &Message::get("/"));
            let upstream = harness.upstream(exchange).unwrap();
            seen[upstream] += 1;
            let status = if upstream == 0 { status } else { 200 };
            harness.response_head(exchange, &Message::response(status));
            harness.end(exchange, How::Delivered, Some(upstream));
        }
        seen
    };
    assert_eq!(round(&mut harness, 503), [3, 3]);
    assert_eq!(harness.counter("ejections"), 1);
    assert_eq!(round(&mut harness, 503), [0, 6]);
    assert_eq!(harness.gauge("ejected"), Some(1.0));
    harness.advance(10 * SECOND);
    let seen = round(&mut harness, 503);
    assert!(seen[0] >= 2, "it is tried again: {seen:?}");
    round(&mut harness, 503);
    assert_eq!(harness.counter("ejections"), 2);
    harness.advance(10 * SECOND);
    assert_eq!(round(&mut harness, 503)[0], 0, "the second time takes longer");
    harness.advance(5 * SECOND);
    assert!(round(&mut harness, 200)[0] >= 2);
    assert_eq!(harness.log().len(), 2);
}

#[test]
fn failures_to_connect_count_and_successes_between_them_reset() {
    let mut harness =
        balancer(2, json!({"outlier": {"consecutive-failures": 2, "max-percent": 100}}));
    let get = Message::get("/");
    assert_eq!(send(&mut harness, &get, 0).0, 0);
    assert_eq!(send(&mut harness, &get, 200).0, 1);
    assert_eq!(send(&mut harness, &get, 200).0, 0);
    assert_eq!(send(&mut harness, &get, 200).0, 1);
    assert_eq!(send(&mut harness, &get, 0).0, 0);
    assert_eq!(harness.counter("ejections"), 0);
    assert_eq!(send(&mut harness, &get, 200).0, 1);
    assert_eq!(send(&mut harness, &get, 0).0, 0);
    assert_eq!(harness.counter("ejections"), 1);
    for _ in 0..2 {
        assert_eq!(send(&mut harness, &get, 0).0, 1);
    }
    assert_eq!(harness.counter("ejections"), 2);
    send(&mut harness, &get, 200);
}

#[test]
fn no_more_than_a_share_is_ejected() {
    let mut harness =
        balancer(4, json!({"outlier": {"consecutive-failures": 1, "max-percent": 50}}));
    for _ in 0..20 {
        send(&mut harness, &Message::get("/"), 0);
    }
    assert_eq!(harness.counter("ejections"), 2);
}

#[test]
fn when_all_are_ejected_requests_spread_over_those_who_are_not_down() {
    let outlier = json!({"consecutive-failures": 1, "max-percent": 100});
    for (policy, evenly) in [("round-robin", 12), ("least-requests", 12), ("hash", 4)] {
        let mut config = json!({"policy": policy, "outlier": outlier});
        if policy == "hash" {
            config["hash"] = "client".into();
        }
        let mut harness = balancer(4, config);
        harness.set_healthy(1, false);
        let mut counts = [0; 4];
        let mut turn = 0;
        while turn < 36 {
            let client = Message::get("/").from(&format!("192.0.2.{turn}"));
            let (upstream, _) = send(&mut harness, &client, 0);
            if harness.counter("ejections") == 3 {
                counts[upstream] += 1;
                turn += 1;
            }
        }
        let spread = counts[1] == 0 && [0, 2, 3].iter().all(|at| counts[*at] >= evenly - 1);
        assert!(spread, "{policy} {counts:?}");
        assert_eq!(harness.counter("nobody_healthy"), 0);
    }
}

#[test]
fn when_all_are_down_the_policy_goes_round_all() {
    let mut harness = balancer(3, json!({}));
    (0..3).for_each(|at| harness.set_healthy(at, false));
    let mut counts = [0; 3];
    for _ in 0..12 {
        counts[send(&mut harness, &Message::get("/"), 0).0] += 1;
    }
    assert_eq!((counts, harness.counter("nobody_healthy")), ([4; 3], 12));
}

#[test]
fn mistakes_are_named() {
    let refused = |config: Value| MessageHarness::<Balancer>::new(config).unwrap_err();
    for (config, part) in [
        (json!({"upstreams": [{"name": "c"}]}), "no upstream is named \"c\"; there are a, b"),
        (json!({"upstreams": [{"name": "a"}, {"name": "a"}]}), "twice"),
        (json!({"upstreams": [{"name": "a", "weight": 0}]}), "leave \"a\" out"),
        (json!({"upstreams": []}), "upstreams: the list is empty"),
        (json!({"policy": "hash"}), "needs to know"),
        (json!({"policy": "hash", "hash": "moon"}), "\"moon\""),
        (json!({"policy": "hash", "hash": "field:a b"}), "\"field:a b\""),
        (json!({"policy": "hash", "hash": "cookie:a;b"}), "\"cookie:a;b\""),
        (json!({"hash": "client"}), "only policy"),
        (json!({"sticky": {"cookie": "a b"}}), "cookie's name"),
        (json!({"outlier": {"max-percent": 101}}), "101"),
        (json!({"outlier": {"base-seconds": 0}}), "base-seconds"),
        (json!({"policy": "random"}), "random"),
        (json!({"sticky": false}), "sticky: invalid type"),
    ] {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #[test]
    fn whatever_fails_a_healthy_upstream_is_found(
        down in prop::collection::vec(any::<bool>(), 1..8),
        steps in prop::collection::vec((0u64..40, prop::sample::select(vec![0u16, 200, 500])), 1..60),
        policy in 0usize..3,
    ) {
        let mut config = json!({"outlier": {"consecutive-5xx": 2, "consecutive-failures": 1}});
        config["policy"] = json!(["round-robin", "least-requests", "hash"][policy]);
        if policy == 2 {
            config["hash"] = "path".into();
        }
        let mut harness = balancer(down.len(), config);
        for (upstream, down) in down.iter().enumerate() {
            harness.set_healthy(upstream, !down);
        }
        for (seconds, status) in steps {
            harness.advance(seconds * SECOND);
            let (upstream, _) = send(&mut harness, &Message::get(format!("/{seconds}")), status);
            prop_assert!(!down[upstream] || down.iter().all(|down| *down));
        }
    }
}
