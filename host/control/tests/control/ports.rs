//! Chains whose ports are down wait, and come with them; those that lack something else of the
//! machine are tried again.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use weir_control::engine::{EngineError, EngineEvent};

use crate::common::{CONFIG, Host};

/// Why a chain does not run, until it is this.
async fn fails_with(host: &Host, chain: &str, expected: Value) {
    let path = format!("/v1/chains/{chain}");
    let mut failed = Value::Null;
    for _ in 0..3000 {
        failed = host.ask("GET", &path, None).await.json()["failed"].take();
        if failed == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("chain {chain}: {failed}, not {expected}");
}

fn tell(
    host: &Host,
    event: fn(weir_spec::Name, weir_spec::Name, String) -> EngineEvent,
    port: &str,
    why: &str,
) {
    let message = format!("port {port} {why}");
    host.engine.emit(event("default".parse().unwrap(), port.parse().unwrap(), message));
}

fn back(host: &Host, port: &str) {
    let back = |tenant, port, message| EngineEvent::PortBack { tenant, port, message };
    tell(host, back, port, "is no longer down");
}

#[tokio::test]
async fn a_chain_waits_for_its_port_and_is_deployed_when_that_is_there() {
    let host = Host::new();
    host.with_chains(&["a", "b", "c"]).await;
    let host = host.restart_only();
    let no_port = || EngineError::NoPort {
        port: "out".parse().unwrap(),
        message: "port out is down: it has no link".into(),
    };
    host.engine.fail("deploy default/a", no_port());
    host.engine.fail("deploy default/b", EngineError::Refused("no".into()));
    std::thread::scope(|scope| scope.spawn(|| host.control.restore()).join()).unwrap();
    let waits = |why: &str| json!(format!("port out {why}, and the chain is deployed then"));
    fails_with(&host, "a", waits("is down: it has no link")).await;
    fails_with(&host, "b", json!("no")).await;
    let down = |tenant, port, message| EngineEvent::PortDown { tenant, port, message };
    tell(&host, down, "out", "is down: it is gone");
    fails_with(&host, "a", waits("is down: it is gone")).await;
    host.engine.calls();
    // It is down again before the chain's turn comes.
    host.engine.fail("deploy default/a", no_port());
    back(&host, "out");
    fails_with(&host, "a", waits("is down: it has no link")).await;
    // What goes wrong at the port only then does not keep the chain from coming with it the next
    // time.
    host.engine.fail("deploy default/a", EngineError::Refused("it went once more".into()));
    back(&host, "out");
    fails_with(&host, "a", json!("it went once more")).await;
    back(&host, "in");
    back(&host, "out");
    fails_with(&host, "a", json!(null)).await;
    fails_with(&host, "b", json!("no")).await;
    assert_eq!(host.engine.calls(), ["deploy default/a f@1.0.0"; 3]);
}

#[tokio::test]
async fn a_port_that_is_another_tenants_now_is_not_kept_by_a_chain_that_had_it() {
    let host = Host::new();
    host.with_chains(&[]).await;
    assert_eq!(host.push("/v1/functions/f/versions?tenant=acme", "1").await.status, 201);
    let chain =
        |name: &str| json!({"name": name, "from": "in", "to": "out", "function": [{"use": "f"}]});
    let answer = host.ask("PUT", "/v1/chains/old", Some(chain("old"))).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let of_acme = ["in", "out"].map(|port| format!("name = \"{port}\"\ntenant = \"acme\"\n"));
    let config =
        ["in", "out"].iter().zip(of_acme).fold(CONFIG.to_owned(), |config, (port, own)| {
            config.replace(&format!("name = \"{port}\"\n"), &own)
        });
    let host = host.restart_on(&config).restored();
    let why = host.ask("GET", "/v1/chains/old", None).await.json()["failed"].take();
    assert!(why.as_str().unwrap().contains("there is no port in: tenant default has"), "{why}");
    let answer = host.ask("PUT", "/v1/chains/new?tenant=acme", Some(chain("new"))).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    // Within a tenant it has one chain, or several that share it.
    let another = host.ask("PUT", "/v1/chains/another?tenant=acme", Some(chain("another"))).await;
    let (_, detail) = another.problem(409);
    assert!(detail.contains("port in belongs to chain new"), "{detail}");
}

#[tokio::test]
async fn chains_on_a_port_that_was_away_are_deployed_anew() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    for (name, steered) in [("d", false), ("e", true)] {
        let chain = json!({"name": name, "from": "in", "to": "out", "steered": steered, "function": [{"use": "f"}]});
        let answer = host.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    }
    host.engine.calls();
    host.engine.down.lock().unwrap().push("in");
    back(&host, "in");
    host.engine.wait_for("deploy default/e", 1);
    // All are gone before the first comes.
    let expected = [
        "undeploy default/d",
        "undeploy default/e",
        "deploy default/d f@2.0.0",
        "deploy default/e f@2.0.0",
    ];
    assert_eq!(host.engine.calls(), expected);
    fails_with(&host, "e", json!(null)).await;
    // Whoever was faster has done it already.
    host.engine.down.lock().unwrap().clear();
    let now = host.last_event();
    back(&host, "in");
    host.wait_for("port-up", now);
    let other = json!({"name": "d", "from": "in", "to": "out", "function": [{"use": "f"}]});
    assert_eq!(host.ask("PUT", "/v1/chains/d", Some(other)).await.status, StatusCode::OK);
    assert_eq!(host.engine.calls(), ["deploy default/d f@2.0.0"]);
}

#[tokio::test]
async fn what_the_machine_lacked_something_for_at_the_start_is_tried_again() {
    let host = Host::new();
    host.with_chains(&["a", "b", "c"]).await;
    let host = host.restart_only();
    let lacks = || EngineError::Exhausted("no process can be had".into());
    for _ in 0..3 {
        host.engine.fail("deploy default/a", lacks());
    }
    host.engine.fail("deploy default/b", EngineError::Lost(Box::new(lacks())));
    host.engine.fail("deploy default/c", EngineError::Refused("no".into()));
    let host = host.restored();
    for (chain, why) in
        [("a", "no process can be had"), ("b", "no process can be had"), ("c", "no")]
    {
        fails_with(&host, chain, json!(why)).await;
    }
    host.engine.calls();
    let begun = Instant::now();
    // It comes back although one stays down.
    std::thread::scope(|scope| scope.spawn(|| host.control.restore_again()).join()).unwrap();
    fails_with(&host, "a", json!(null)).await;
    fails_with(&host, "b", json!(null)).await;
    fails_with(&host, "c", json!("no")).await;
    let (a, b) = ("deploy default/a f@1.0.0", "deploy default/b f@1.0.0");
    assert_eq!(host.engine.calls(), [a, b, a, a]);
    let pauses = Duration::from_secs(1 + 2 + 4);
    assert!(begun.elapsed() >= pauses, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_host_that_stops_tries_nothing_again() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let host = host.restart_only();
    host.engine.fail("deploy default/a", EngineError::Exhausted("no process".into()));
    let host = host.restored();
    let _ = host.control.drain(Duration::ZERO);
    std::thread::scope(|scope| scope.spawn(|| host.control.restore_again()).join()).unwrap();
    assert_eq!(host.engine.asked("deploy default/a"), 1);
}
