//! Steering rules: applied as a whole, kept, and told where they are wrong.

use std::time::Instant;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use weir_control::api::{Peer, TOML_MAX};
use weir_control::engine::EngineError;

use crate::common::Host;

/// A host with the chain `edge` from `in` to `out`, and an idle one.
async fn host() -> Host {
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    for chain in [
        json!({"name": "edge", "from": "in", "to": "out", "function": [{"use": "f"}]}),
        json!({"name": "idle", "function": [{"use": "f"}]}),
    ] {
        let path = format!("/v1/chains/{}", chain["name"].as_str().unwrap());
        assert_eq!(host.ask("PUT", &path, Some(chain)).await.status, StatusCode::CREATED);
    }
    host.engine.calls();
    host
}

fn rules() -> Value {
    json!({"rule": [
        {"name": "voip", "port": "in", "src": "10.0.0.0/8", "proto": "udp", "chain": "edge"},
        {"dport": 22, "to": "kernel"},
    ]})
}

#[tokio::test]
async fn rules_are_applied_listed_and_kept() {
    let host = host().await;
    let before = host.last_event();
    let answer = host.ask("PUT", "/v1/steering", Some(rules())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    // Whose ports no chain has, the data plane says here.
    let dropping = json!([{"number": 1, "port": "in", "why": "nobody takes it"}]);
    let expected = json!({"tenant": "default", "rules": 2, "pause_us": 4.0, "dropping": dropping,
        "idle_ports": ["in"]});
    assert_eq!(answer.json(), expected);
    let told = ["steer default port=in src=10.0.0.0/8 proto=udp, dport=22"];
    assert_eq!(host.engine.calls(), told);
    assert_eq!(
        host.wait_for("steering-applied", before),
        "2 steering rules of tenant default are in force"
    );
    let expected = json!({"items": [
        {"port": "in", "plane": "packet", "chain": "edge", "tenant": "default", "reverse": false,
         "rule": {"name": "voip", "port": "in", "src": "10.0.0.0/8", "proto": "udp", "chain": "edge"},
         "number": 1, "flows": 7,
         "places": [{"port": "in", "at": "software", "reason": "the device is full",
                     "dropped": "nobody takes it"}]},
        {"port": null, "plane": "packet", "chain": null, "tenant": "default", "reverse": false,
         "rule": {"dport": "22", "to": "kernel"}, "number": 2},
        {"port": "in", "plane": "packet", "chain": "edge", "tenant": "default", "reverse": false},
        {"port": "out", "plane": "packet", "chain": "edge", "tenant": "default", "reverse": true},
    ]});
    assert_eq!(host.ask("GET", "/v1/steering", None).await.json(), expected);
    let status = host.ask("GET", "/v1/status", None).await.json();
    assert_eq!(status["steering"], json!({"default": {"rules": 2, "applied": 1}}));
    let metrics = host.ask("GET", "/metrics", None).await.text;
    assert!(metrics.contains("weir_steering_rules{tenant=\"default\"} 2"), "{metrics}");
    assert!(metrics.contains("weir_steering_applied_total{tenant=\"default\"} 1"), "{metrics}");
    // Killed and started again: the rules are there before the chains are.
    let host = host.restart();
    let chains = ["default/edge", "default/idle"].map(str::to_owned).to_vec();
    assert_eq!(host.engine.expected(), Some((chains, 0)));
    let calls = host.engine.calls();
    assert_eq!(calls[0], told[0], "{calls:?}");
    assert!(calls[1].starts_with("deploy default/edge"), "{calls:?}");
    assert_eq!(host.ask("GET", "/v1/steering", None).await.json(), expected);
    // An empty table is none.
    let answer = host.ask("PUT", "/v1/steering", Some(json!({}))).await;
    assert_eq!(answer.json()["rules"], 0);
    let host = host.restart();
    assert!(!host.engine.calls().iter().any(|call| call.starts_with("steer")));
}

/// As a file has them; what is wrong is said as for JSON.
#[tokio::test]
async fn rules_may_come_as_toml() {
    let host = host().await;
    let put = |kind: &str, text: &str| {
        let request = Request::put("/v1/steering").extension(Peer::Local);
        let request = request.header(header::CONTENT_TYPE, kind).body(Body::from(text.to_owned()));
        host.raw(request.unwrap())
    };
    let apply = |text: &str| put("application/toml", text);
    let too_long = "#".repeat(TOML_MAX + 1);
    let answer = apply("[[rule]]\nname = \"voip\"\nsrc = \"10.0.0.0/8\"\nchain = \"edge\"\n").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(host.engine.calls(), ["steer default src=10.0.0.0/8"]);
    for (text, status, key, message) in [
        ("[[rule]]\nto = \"drop\"\nprot = 1\n", 422, Some("rule[0].prot"), "unknown key `prot`"),
        (
            "[[rule]]\nto = \"drop\"\nvlan = 4095\n",
            422,
            Some("rule[0].vlan"),
            "there is no VLAN 4095",
        ),
        ("[[rule]]\nchain = \"nope\"\n", 422, Some("rule[0].chain"), "there is no chain nope"),
        ("[[rule]\n", 400, None, "line 1"),
        (&too_long, 413, None, "allowed are 1048576 bytes"),
    ] {
        let answer = apply(text).await;
        let (_, detail) = answer.problem(status);
        assert!(detail.contains(message), "{detail}");
        assert_eq!(answer.json()["key"].as_str(), key, "{}", answer.text);
    }
    let answer = put("text/plain", "").await;
    assert!(
        answer.problem(415).1.contains("application/json, application/toml"),
        "{}",
        answer.text
    );
    assert!(!host.engine.calls().iter().any(|call| call.starts_with("steer")));
}

/// Rules that decide nothing are no mistake that is refused: they are told, and listed.
#[tokio::test]
async fn a_rule_behind_one_that_means_more_is_told() {
    let host = host().await;
    let late = |to| json!({"name": "late", "src": "10.1.0.0/16", "to": to});
    let body = json!({"rule": [{"src": "10.0.0.0/8", "to": "drop"}, late("drop"), late("kernel")]});
    let answer = host.ask("PUT", "/v1/steering", Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let covered = json!([
        {"number": 2, "by": 1, "contradicts": false},
        {"number": 3, "by": 1, "contradicts": true},
    ]);
    assert_eq!(answer.json()["covered"], covered, "{}", answer.text);
    let list = host.ask("GET", "/v1/steering", None).await.json();
    let covered = [0, 1, 2].map(|place| list["items"][place]["covered_by"].as_u64());
    assert_eq!(covered, [None, Some(1), Some(1)], "{list}");
}

#[tokio::test]
async fn a_steered_chain_takes_nothing_by_itself() {
    let host = host().await;
    let chain = json!({"name": "edge", "from": "in", "to": "out", "steered": true, "function": [{"use": "f"}]});
    let answer = host.ask("PUT", "/v1/chains/edge", Some(chain)).await;
    assert_eq!(answer.json()["chain"]["steered"], true, "{}", answer.text);
    assert_eq!(host.ask("GET", "/v1/steering", None).await.json(), json!({"items": []}));
}

#[tokio::test]
async fn what_is_wrong_with_a_rule_is_said_with_its_place() {
    let host = host().await;
    assert_eq!(host.ask("PUT", "/v1/steering", Some(rules())).await.status, StatusCode::OK);
    host.engine.calls();
    for (rule, key, message) in [
        (
            json!({"chain": "nope"}),
            "rule[1].chain",
            "there is no chain nope: tenant default has edge, idle",
        ),
        (json!({"chain": "idle"}), "rule[1].chain", "chain idle has no `from`"),
        (
            json!({"port": "wan", "to": "drop"}),
            "rule[1].port",
            "there is no port wan: tenant default has in, out",
        ),
        // Another tenant's.
        (json!({"port": "acme-in", "to": "drop"}), "rule[1].port", "there is no port acme-in"),
        (json!({"to": "drop", "vlan": 4095}), "rule[1].vlan", "there is no VLAN 4095"),
        (json!({"to": "drop", "dport": "x"}), "rule[1].dport", "\"x\" is not a port"),
        (json!({"to": "drop", "prot": "x"}), "rule[1].prot", "unknown key `prot`"),
    ] {
        let body = json!({"rule": [{"to": "kernel"}, rule]});
        let answer = host.ask("PUT", "/v1/steering", Some(body)).await;
        let (code, detail) = answer.problem(422);
        assert_eq!((code.as_str(), answer.json()["key"].as_str()), ("invalid", Some(key)));
        assert!(detail.contains(message), "{detail}");
    }
    // One direction only.
    let chain = json!({"name": "edge", "from": "in", "to": "out", "symmetric": false, "function": [{"use": "f"}]});
    assert_eq!(host.ask("PUT", "/v1/chains/edge", Some(chain)).await.status, StatusCode::OK);
    let body = json!({"rule": [{"port": "out", "chain": "edge"}]});
    let answer = host.ask("PUT", "/v1/steering", Some(body)).await;
    assert!(answer.problem(422).1.contains("its packets come from in"), "{}", answer.text);
    // Nothing of it was done.
    assert!(!host.engine.calls().iter().any(|call| call.starts_with("steer")));
    let held = host.ask("GET", "/v1/steering", None).await.json();
    assert_eq!(held["items"][0]["rule"]["name"], "voip");
    // What the data plane refuses is not kept.
    host.engine.fail("steer", EngineError::Exhausted("no memory".into()));
    let answer = host.ask("PUT", "/v1/steering", Some(json!({"rule": [{"to": "drop"}]}))).await;
    assert_eq!(answer.problem(503).0, "exhausted");
    let held = host.ask("GET", "/v1/steering", None).await.json();
    assert_eq!(held["items"][0]["rule"]["name"], "voip");
}

#[tokio::test]
async fn a_chain_that_rules_name_stays() {
    let host = host().await;
    assert_eq!(host.ask("PUT", "/v1/steering", Some(rules())).await.status, StatusCode::OK);
    host.engine.calls();
    let (code, detail) = host.ask("DELETE", "/v1/chains/edge", None).await.problem(409);
    assert_eq!(code, "conflict");
    assert_eq!(
        detail,
        "chain edge is named by steering rules: rule 1 (voip) sends packets to it; apply rules without it first (`weir steer apply`)"
    );
    let chain = json!({"name": "edge", "function": [{"use": "f"}]});
    let (_, detail) = host.ask("PUT", "/v1/chains/edge", Some(chain)).await.problem(409);
    assert!(detail.contains("rule 1 (voip) does not fit with that: chain edge has no"), "{detail}");
    let chain = json!({"name": "edge", "from": "out", "function": [{"use": "f"}]});
    let (_, detail) = host.ask("PUT", "/v1/chains/edge", Some(chain)).await.problem(409);
    assert!(detail.contains("packets of port in do not come to chain edge"), "{detail}");
    assert_eq!(host.engine.calls(), Vec::<String>::new());
    host.ask("PUT", "/v1/steering", Some(json!({"rule": []}))).await;
    assert_eq!(host.ask("DELETE", "/v1/chains/edge", None).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn tenants_have_their_own_rules() {
    let host = host().await;
    let acme = |method, body| host.ask_with("acme-operator-token", method, "/v1/steering", body);
    let answer = acme("PUT", Some(json!({"rule": [{"to": "drop"}]}))).await;
    assert_eq!(answer.json()["tenant"], "acme", "{}", answer.text);
    assert_eq!(acme("PUT", Some(rules())).await.json()["key"], "rule[0].port");
    assert_eq!(host.ask("PUT", "/v1/steering", Some(rules())).await.json()["rules"], 2);
    assert_eq!(acme("GET", None).await.json()["items"].as_array().unwrap().len(), 1);
    let (code, _) = host
        .ask_with("acme-operator-token", "PUT", "/v1/steering?tenant=default", Some(json!({})))
        .await
        .problem(403);
    assert_eq!(code, "forbidden");
    let (_, detail) = host.ask("DELETE", "/v1/tenants/acme", None).await.problem(409);
    assert!(detail.contains("tenant acme has steering rules"), "{detail}");
    acme("PUT", Some(json!({}))).await;
    let (_, detail) = host.ask("DELETE", "/v1/tenants/acme", None).await.problem(409);
    assert!(detail.starts_with("the host's configuration names tenant acme"), "{detail}");
}

/// As many as operators can be expected to have, with all that a rule can have.
#[tokio::test]
async fn a_hundred_thousand_rules_are_taken_and_kept() {
    let host = host().await;
    let rule = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        json!({
            "name": format!("rule-number-{n}"), "port": "in", "src": format!("10.{a}.{b}.{c}"),
            "dst": "192.0.2.0/24", "proto": "tcp", "sport": "1024-65535", "dport": "8000-9000",
            "vlan": 100, "dscp": 46, "ethertype": "ipv4", "src-mac": "02:00:00:00:00:01",
            "dst-mac": "02:00:00:00:00:02", "chain": "edge"
        })
    };
    let rules: Vec<_> = (0..100_000).map(rule).collect();
    let body = json!({ "rule": rules });
    let started = Instant::now();
    let answer = host.ask("PUT", "/v1/steering", Some(body)).await;
    println!("applied in {:?}", started.elapsed());
    assert_eq!(answer.json()["rules"], 100_000, "{}", answer.text);
    let started = Instant::now();
    let host = host.restart();
    println!("started with them in {:?}", started.elapsed());
    let started = Instant::now();
    let list = host.ask("GET", "/v1/steering", None).await;
    println!("{} bytes listed in {:?}", list.text.len(), started.elapsed());
    let list = list.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 100_002);
    assert_eq!(list["items"][99_999]["rule"]["name"], "rule-number-99999");
}

/// Of two who change the same, the second one is told that it is not what he has seen.
#[tokio::test]
async fn what_has_changed_meanwhile_is_not_overwritten() {
    let host = host().await;
    let chain = host.ask("GET", "/v1/chains/edge", None).await;
    let ways = [
        ("/v1/steering", None, rules()),
        ("/v1/chains/edge", chain.headers.get("etag").cloned(), chain.json()["chain"].clone()),
    ];
    for (path, first, body) in ways {
        let ask = async |method: &str, name: &str, value: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .extension(Peer::Local)
                .header(header::CONTENT_TYPE, "application/json")
                .header(name, value)
                .body(body.to_string().into());
            host.raw(request.unwrap()).await
        };
        let put = async |name: &str, value: &str| ask("PUT", name, value).await;
        let tag = match first {
            Some(tag) => tag.to_str().unwrap().to_owned(),
            None => {
                put("if-match", "*").await.problem(412);
                let answer = put("if-none-match", "*").await;
                answer.headers["etag"].to_str().unwrap().to_owned()
            }
        };
        assert_eq!(put("if-none-match", "*").await.problem(412).0, "precondition");
        // Times are in milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let answer = put("if-match", &format!("\"o,ther\", W/\"weak\",{tag}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let now = answer.headers["etag"].to_str().unwrap();
        assert_ne!(now, tag);
        let (code, detail) = put("if-match", &tag).await.problem(412);
        assert_eq!(code, "precondition");
        assert!(detail.contains(&format!("its tag is {now}")), "{detail}");
        let shown = host.ask("GET", &format!("{path}?tenant=default"), None).await;
        assert_eq!(shown.headers["etag"], now);
        // Weak tags match nothing (RFC 9110 section 13.1.1), nor is a star in quotes any tag.
        for other in [&format!("W/{now}"), "\"*\""] {
            assert_eq!(put("if-match", other).await.problem(412).0, "precondition");
        }
        for wrong in ["nope", "W/nope", "\"a\" \"b\"", "\"a"] {
            put("if-match", wrong).await.problem(400);
        }
        if path != "/v1/steering" {
            assert_eq!(ask("DELETE", "if-match", &tag).await.problem(412).0, "precondition");
        }
    }
}
