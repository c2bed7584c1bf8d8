//! Rolling out versions: what the data plane is asked, in which order, and what is remembered, when
//! all goes well and when something fails at any point.

use axum::http::StatusCode;
use serde_json::json;
use weir_control::engine::{ChainId, EngineError, EngineEvent};
use weir_spec::{Document, HostConfig, Name, Period};

use crate::common::Host;

fn chain(name: &str) -> ChainId {
    ChainId::new(&Name::default_tenant(), &name.parse().unwrap())
}

fn fault(in_chain: &str, version: &str) -> EngineEvent {
    EngineEvent::Fault {
        chain: chain(in_chain),
        function: "f".parse().unwrap(),
        version: Some(version.parse().unwrap()),
        kind: "trap".into(),
        message: "unreachable".into(),
        quarantined: false,
    }
}

/// Version 2.0.0 went back by itself.
fn went_back(in_chain: &str, function: &str, message: &str) -> EngineEvent {
    EngineEvent::RolledBack {
        chain: chain(in_chain),
        function: function.parse().unwrap(),
        version: Some("2.0.0".parse().unwrap()),
        message: message.into(),
    }
}

const SWAP: &str = "/v1/functions/f/swap";
const ROLLBACK: &str = "/v1/functions/f/rollback";

#[tokio::test]
async fn a_swap_reaches_all_chains_and_reports_the_largest_pause() {
    let host = Host::new();
    host.with_chains(&["a", "longer"]).await;
    let answer = host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected = json!({
        "from": "1.0.0", "to": "2.0.0", "pause_us": 16.0, "compile_ms": 0.0, "packets_lost": 0,
        "chains": ["a", "longer"], "fresh": [], "trial_ended": false
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(host.engine.calls(), ["swap default/a f@2.0.0", "swap default/longer f@2.0.0"]);
    // The stored chain had asked for 1.0.0; now it says what runs, and so it comes back.
    let host = host.restart();
    assert_eq!(host.engine.calls(), ["deploy default/a f@2.0.0", "deploy default/longer f@2.0.0"]);
    assert_eq!(host.running().await, ["a=2.0.0", "longer=2.0.0"]);
    // And goes back.
    let answer = host.ask("POST", ROLLBACK, None).await.json();
    assert_eq!((&answer["from"], &answer["to"]), (&json!("2.0.0"), &json!("1.0.0")));
    assert_eq!(
        host.engine.calls(),
        ["swap_back default/a f@1.0.0", "swap_back default/longer f@1.0.0"]
    );
    let (_, detail) = host.ask("POST", ROLLBACK, None).await.problem(409);
    assert_eq!(detail, "function f has no version before 1.0.0 to go back to");
}

#[tokio::test]
async fn a_swap_to_what_runs_does_nothing_and_watches_nothing() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.ask("POST", ROLLBACK, None).await;
    host.engine.calls();
    let report = host.ask("POST", SWAP, Some(json!({"to": "1.0.0"}))).await.json();
    assert_eq!((&report["from"], &report["chains"]), (&json!("1.0.0"), &json!([])));
    let now = host.last_event();
    host.engine.emit(fault("a", "1.0.0"));
    host.wait_for("fault", now);
    host.engine.emit(EngineEvent::Note { chain: chain("a"), message: "after".into() });
    host.wait_for("note", now);
    assert!(host.engine.calls().is_empty());
}

#[tokio::test]
async fn only_the_version_that_is_rolled_back_from_goes() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.push("/v1/functions/f/versions?version=3.0.0", "3").await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    let newer = json!({"name": "b", "function": [{"use": "f", "version": "3.0.0"}]});
    host.ask("PUT", "/v1/chains/b", Some(newer)).await;
    assert_eq!(host.running().await, ["a=2.0.0", "b=3.0.0"]);
    host.ask("POST", ROLLBACK, None).await;
    assert_eq!(host.running().await, ["a=2.0.0", "b=2.0.0"]);
    host.ask("POST", ROLLBACK, None).await;
    assert_eq!(host.running().await, ["a=1.0.0", "b=2.0.0"]);
}

/// Whoever asks twice, or when the canary has just ended by itself, has said what to go back from.
#[tokio::test]
async fn a_rollback_from_a_version_goes_back_from_no_other() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.push("/v1/functions/f/versions?version=3.0.0", "3").await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.ask("POST", SWAP, Some(json!({"to": "3.0.0", "canary": 5}))).await;
    let from =
        async |version: &str| host.ask("POST", &format!("{ROLLBACK}?from={version}"), None).await;
    let (_, detail) = from("2.0.0").await.problem(409);
    assert_eq!(detail, "function f did not go back: version 3.0.0 is being tried, not 2.0.0");
    let report = from("3.0.0").await.json();
    assert_eq!((&report["from"], &report["trial_ended"]), (&json!("3.0.0"), &json!(true)));
    let (_, detail) = from("3.0.0").await.problem(409);
    assert_eq!(detail, "function f did not go back: version 3.0.0 neither runs nor is being tried");
    assert_eq!(host.running().await, ["a=2.0.0", "b=2.0.0"]);
    // Not the newest that can, but this one; and when one chain refuses, none goes.
    let newer = json!({"name": "b", "function": [{"use": "f", "version": "3.0.0"}]});
    host.ask("PUT", "/v1/chains/b", Some(newer)).await;
    host.engine.fail("swap_back default/a", EngineError::Refused("no".into()));
    from("2.0.0").await.problem(422);
    assert_eq!(host.running().await, ["a=2.0.0", "b=3.0.0"]);
    assert_eq!(from("2.0.0").await.json()["to"], "1.0.0");
    assert_eq!(host.running().await, ["a=1.0.0", "b=3.0.0"]);
    let (_, detail) = from("1.0.0").await.problem(409);
    assert_eq!(detail, "function f has no version before 1.0.0 to go back to");
    from("nonsense").await.problem(400);
}

#[tokio::test]
async fn when_one_chain_refuses_all_stay_as_they_were() {
    let host = Host::new();
    host.with_chains(&["a", "b", "c"]).await;
    let refused = EngineError::Refused("function f refused its configuration: no".into());
    host.engine.fail("swap default/c", refused);
    let (code, detail) = host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.problem(422);
    assert_eq!(code, "refused");
    assert_eq!(detail, "chain c: function f refused its configuration: no");
    let expected = [
        "swap default/a f@2.0.0",
        "swap default/b f@2.0.0",
        "swap default/c f@2.0.0",
        "swap_back default/a f@1.0.0",
        "swap_back default/b f@1.0.0",
    ];
    assert_eq!(host.engine.calls(), expected);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0", "c=1.0.0"]);
}

#[tokio::test]
async fn a_fault_in_the_first_seconds_brings_the_old_version_back_everywhere() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.engine.calls();
    let now = host.last_event();
    host.engine.emit(fault("b", "2.0.0"));
    let message = host.wait_for("rolled-back", now);
    assert_eq!(message, "function f went back from version 2.0.0 to 1.0.0: it faulted (trap)");
    assert_eq!(host.engine.calls(), ["swap_back default/a f@1.0.0", "swap_back default/b f@1.0.0"]);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["versions"][1]["withdrawn"], "it faulted (trap)");
    assert_eq!(function["newest"], "1.0.0");
    // A chain that asks for the newest does not get the version that failed, until it is asked for
    // by name.
    let newest = json!({"name": "d", "function": [{"use": "f"}]});
    host.ask("PUT", "/v1/chains/d", Some(newest)).await;
    assert_eq!(host.engine.calls(), ["deploy default/d f@1.0.0"]);
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["newest"], "2.0.0");
}

/// The data plane would go back to it by itself, and the store would not know it any more.
#[tokio::test]
async fn the_version_before_one_that_is_watched_stays() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    let remove = || host.ask("DELETE", "/v1/functions/f/versions/1.0.0", None);
    let (_, detail) = remove().await.problem(409);
    assert!(
        detail.starts_with("version 1.0.0 of function f comes back if version 2.0.0"),
        "{detail}"
    );
    let now = host.last_event();
    host.engine.emit(went_back("a", "f", "trap: unreachable"));
    host.wait_for("rolled-back", now);
    let removed = host.ask("DELETE", "/v1/functions/f/versions/2.0.0", None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
    // Nobody watches any more.
    host.push("/v1/functions/f/versions?version=3.0.0", "3").await;
    host.ask("POST", SWAP, Some(json!({"to": "3.0.0"}))).await;
    remove().await.problem(409);
    let mut config = crate::common::config(crate::common::CONFIG);
    config.rollout.watch = Period::milliseconds(0);
    host.control.reload(&config).unwrap();
    let other = json!({"name": "a", "function": [{"use": "f", "version": "1.0.0"}]});
    host.ask("PUT", "/v1/chains/a", Some(other)).await;
    host.ask("POST", SWAP, Some(json!({"to": "3.0.0"}))).await;
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_chain_that_went_back_by_itself_is_not_swapped_again() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.engine.calls();
    let now = host.last_event();
    host.engine.emit(went_back("a", "f", "trap: unreachable"));
    let message = host.wait_for("rolled-back", now);
    let expected =
        "function f went back from version 2.0.0 to 1.0.0: it faulted: trap: unreachable";
    assert_eq!(message, expected);
    assert_eq!(host.engine.calls(), ["swap_back default/b f@1.0.0"]);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
}

#[tokio::test]
async fn faults_of_old_versions_and_after_the_watch_change_nothing() {
    let mut config =
        Document::<HostConfig>::parse("weir.toml", crate::common::CONFIG).unwrap().value;
    // Shorter than a file may say.
    config.rollout.watch = Period::milliseconds(1);
    let host = Host::with(tempfile::tempdir().unwrap(), &config);
    host.with_chains(&["a"]).await;
    host.engine.emit(fault("a", "1.0.0"));
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    std::thread::sleep(std::time::Duration::from_millis(5));
    host.engine.calls();
    let now = host.last_event();
    host.engine.emit(fault("a", "2.0.0"));
    host.wait_for("fault", now);
    host.engine.emit(EngineEvent::Note { chain: chain("a"), message: "after".into() });
    host.wait_for("note", now);
    assert!(host.engine.calls().is_empty());
    assert_eq!(host.running().await, ["a=2.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_waits_for_its_turn_counts_as_of_when_it_was_told() {
    let mut config = crate::common::config(crate::common::CONFIG);
    // Shorter than a file may say: it is over when it has begun.
    config.rollout.watch = Period::milliseconds(0);
    let host = Host::with(tempfile::tempdir().unwrap(), &config);
    host.with_chains(&["a"]).await;
    host.engine.calls();
    let now = host.last_event();
    let held = host.engine.hold("swap default/a");
    let faulted = async {
        tokio::task::block_in_place(|| {
            host.engine.wait_for("swap default/a", 1);
            host.engine.emit(fault("a", "2.0.0"));
            host.engine.emit(EngineEvent::Note { chain: chain("a"), message: "after".into() });
            host.wait_for("note", now);
        });
        drop(held);
    };
    let (swapped, ()) = tokio::join!(host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))), faulted);
    assert_eq!(swapped.status, StatusCode::OK, "{}", swapped.text);
    tokio::task::block_in_place(|| host.wait_for("rolled-back", now));
    assert_eq!(host.running().await, ["a=1.0.0"]);
}

#[tokio::test]
async fn a_canary_is_promoted_by_swapping_again() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    let canary = json!({"to": "2.0.0", "canary": 5});
    let answer = host.ask("POST", SWAP, Some(canary.clone())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected =
        ["begin_trial default/a f@2.0.0 Canary(5)", "begin_trial default/b f@2.0.0 Canary(5)"];
    assert_eq!(host.engine.calls(), expected);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"]["canary"], 5);
    let (_, detail) = host.ask("POST", SWAP, Some(json!({"to": "1.0.0"}))).await.problem(409);
    assert!(detail.contains("is being tried"), "{detail}");
    host.ask("DELETE", "/v1/functions/f/versions/2.0.0", None).await.problem(409);
    host.ask("DELETE", "/v1/chains/a", None).await.problem(409);
    // It survives a restart.
    let host = host.restart();
    let calls = host.engine.calls();
    assert!(calls.contains(&"begin_trial default/a f@2.0.0 Canary(5)".to_owned()), "{calls:?}");
    let now = host.last_event();
    let answer = host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.json();
    assert_eq!(answer["pause_us"], 2.0);
    let message = host.wait_for("trial-ended", now);
    let expected =
        "the trial of version 2.0.0 of function f is over: it becomes the running version";
    assert_eq!(message, expected);
    assert_eq!(host.engine.calls(), ["promote default/a f", "promote default/b f"]);
    assert_eq!(host.running().await, ["a=2.0.0", "b=2.0.0"]);
}

#[tokio::test]
async fn a_trial_goes_from_copies_to_a_share_of_the_flows_to_a_larger_one() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    let swap = |how: serde_json::Value| host.ask("POST", SWAP, Some(how));
    let trial = async || host.ask("GET", "/v1/functions/f", None).await.json()["trial"].take();
    swap(json!({"to": "2.0.0", "shadow": true})).await;
    host.engine.calls();
    let answer = swap(json!({"to": "2.0.0", "canary": 5})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let expected = [
        "end_trial default/a f",
        "end_trial default/b f",
        "begin_trial default/a f@2.0.0 Canary(5)",
        "begin_trial default/b f@2.0.0 Canary(5)",
    ];
    assert_eq!(host.engine.calls(), expected);
    let answer = swap(json!({"to": "2.0.0", "canary": 50})).await;
    assert_eq!(answer.json()["chains"], json!(["a", "b"]));
    let expected = ["change_canary default/a f 50", "change_canary default/b f 50"];
    assert_eq!(host.engine.calls(), expected);
    assert_eq!(trial().await["canary"], 50);
    // What cannot be had everywhere is had nowhere.
    host.engine.fail("change_canary default/b", EngineError::Conflict("no canary".into()));
    let (_, detail) = swap(json!({"to": "2.0.0", "canary": 60})).await.problem(409);
    assert_eq!(detail, "chain b: no canary");
    let expected = [
        "change_canary default/a f 60",
        "change_canary default/b f 60",
        "change_canary default/a f 50",
        "change_canary default/b f 50",
    ];
    assert_eq!(host.engine.calls(), expected);
    assert_eq!(trial().await["canary"], 50);
    // A trial that does not start again is over.
    host.engine.fail("begin_trial default/a", EngineError::Refused("no".into()));
    swap(json!({"to": "2.0.0", "shadow": true})).await.problem(422);
    assert_eq!(trial().await, json!(null));
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
}

#[tokio::test]
async fn a_canary_that_faults_is_over_at_once() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 50}))).await;
    host.engine.calls();
    let now = host.last_event();
    // The old version's faults are its own.
    host.engine.emit(fault("a", "1.0.0"));
    host.engine.emit(fault("a", "2.0.0"));
    let message = host.wait_for("trial-ended", now);
    assert_eq!(message, "the trial of version 2.0.0 of function f is over: it faulted (trap)");
    assert_eq!(host.engine.calls(), ["end_trial default/a f"]);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"], json!(null));
    assert_eq!(function["newest"], "1.0.0");
    assert_eq!(host.running().await, ["a=1.0.0"]);
}

#[tokio::test]
async fn a_trial_that_ends_in_one_chain_is_over_in_all_of_them() {
    for how in [json!({"to": "2.0.0", "canary": 50}), json!({"to": "2.0.0", "shadow": true})] {
        over_in_all(how).await;
    }
}

async fn over_in_all(how: serde_json::Value) {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.ask("POST", SWAP, Some(how)).await;
    host.engine.calls();
    let now = host.last_event();
    let ended = |version: &str| EngineEvent::TrialEnded {
        chain: chain("b"),
        function: "f".parse().unwrap(),
        version: Some(version.parse().unwrap()),
        message: "other functions of the chain are replaced".into(),
    };
    // One of another version was over before.
    host.engine.emit(ended("3.0.0"));
    host.engine.emit(ended("2.0.0"));
    let message = host.wait_for("trial-ended", now);
    let expected = "the trial of version 2.0.0 of function f is over: other functions of the chain are replaced";
    assert_eq!(message, expected);
    assert_eq!(host.engine.calls(), ["end_trial default/a f", "end_trial default/b f"]);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"], json!(null));
    assert_eq!(function["newest"], "2.0.0", "it is as good as before");
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
}

#[tokio::test]
async fn a_shadow_stays_when_it_faults_and_can_be_ended_or_made_real() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "shadow": true}))).await;
    assert_eq!(host.engine.calls(), ["begin_trial default/a f@2.0.0 Shadow"]);
    let now = host.last_event();
    host.engine.emit(fault("a", "2.0.0"));
    host.wait_for("fault", now);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"]["canary"], json!(null));
    let answer = host.ask("POST", ROLLBACK, None).await.json();
    assert_eq!((&answer["from"], &answer["to"]), (&json!("2.0.0"), &json!("1.0.0")));
    assert_eq!(host.engine.calls(), ["end_trial default/a f"]);
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "shadow": true}))).await;
    host.engine.calls();
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    assert_eq!(host.engine.calls(), ["end_trial default/a f", "swap default/a f@2.0.0"]);
}

#[tokio::test]
async fn a_shadow_that_cannot_be_made_real_goes_on() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "shadow": true}))).await;
    host.engine.calls();
    host.engine.fail("swap default/b", EngineError::Refused("no".into()));
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.problem(422);
    let calls = host.engine.calls();
    let begun = ["a", "b"].map(|chain| format!("begin_trial default/{chain} f@2.0.0 Shadow"));
    assert_eq!(calls[calls.len() - 2..], begun);
    let trial = async || host.ask("GET", "/v1/functions/f", None).await.json()["trial"].take();
    assert_eq!(trial().await["version"], "2.0.0");
    // A canary that is refused is over, and that is told.
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    let now = host.last_event();
    host.engine.fail("promote default/b", EngineError::Refused("no".into()));
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.problem(422);
    assert_eq!(trial().await, json!(null));
    let message = host.wait_for("trial-ended", now);
    assert_eq!(message, "the trial of version 2.0.0 of function f is over: chain b: no");
}

#[tokio::test]
async fn a_trial_is_one_of_all_chains_that_have_the_function() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.push("/v1/functions/g/versions?version=1.0.0", "g").await;
    let of = |name: &str, function: &str| json!({"name": name, "function": [{"use": function}]});
    host.ask("PUT", "/v1/chains/c", Some(of("c", "g"))).await;
    // One that runs the version on trial has no trial.
    let pinned = json!({"name": "b", "function": [{"use": "f", "version": "1.0.0"}]});
    host.ask("PUT", "/v1/chains/b", Some(pinned)).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    let shown = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(shown["newest"], "1.0.0");
    host.engine.calls();
    for (name, function) in [("new", "f"), ("c", "f"), ("a", "g")] {
        let path = format!("/v1/chains/{name}");
        let (_, detail) = host.ask("PUT", &path, Some(of(name, function))).await.problem(409);
        assert!(detail.starts_with("version 2.0.0 of function f is being tried"), "{detail}");
    }
    assert!(host.engine.calls().is_empty());
    assert_eq!(host.ask("PUT", "/v1/chains/c", Some(of("c", "g"))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_rollback_of_a_trial_reports_where_it_was() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    lose_b(&host).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    let now = host.last_event();
    let report = host.ask("POST", ROLLBACK, None).await.json();
    assert_eq!((&report["chains"], &report["trial_ended"]), (&json!(["a"]), &json!(true)));
    let message = host.wait_for("trial-ended", now);
    assert_eq!(message, "the trial of version 2.0.0 of function f is over: it was rolled back");
}

/// A trial that the store has, and the data plane does not: nothing could be done with it but to
/// end it, after each start anew.
#[tokio::test]
async fn a_trial_that_cannot_go_on_is_over() {
    let host = Host::new();
    host.with_chains(&["a", "b", "c"]).await;
    let trial =
        async |host: &Host| host.ask("GET", "/v1/functions/f", None).await.json()["trial"].take();
    let no_memory = || EngineError::Exhausted("no memory".into());
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    let host = host.restart_only();
    host.engine.fail("begin_trial default/b", no_memory());
    let host = host.restored();
    let message = host.wait_for("trial-ended", 0);
    let expected =
        "the trial of version 2.0.0 of function f is over: it cannot go on: chain b: no memory";
    assert_eq!(message, expected);
    assert_eq!(trial(&host).await, json!(null));
    let calls = host.engine.calls();
    let ended = ["a", "b"].map(|chain| format!("end_trial default/{chain} f"));
    let last = "deploy default/c f@1.0.0".to_owned();
    assert_eq!(calls[calls.len() - 3..], [&ended[..], &[last]].concat());
    let host = host.restart();
    assert!(!host.engine.calls().iter().any(|call| call.starts_with("begin_trial")));
    // Nor does a shadow go on that could not be made real, and then not be had again.
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "shadow": true}))).await;
    host.engine.calls();
    host.engine.fail("swap default/a", EngineError::Refused("no".into()));
    host.engine.fail("begin_trial default/b", no_memory());
    let (_, detail) = host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await.problem(422);
    assert_eq!(detail, "chain a: no");
    assert_eq!(trial(&host).await, json!(null));
    assert_eq!(host.engine.asked("begin_trial"), 2, "none behind the one that failed");
    let answer = host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

/// The data plane went back while the chain was applied, and then was put back to what the store
/// says, which is what it went back from.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_went_back_while_it_was_applied_goes_back_again() {
    for lost in [true, false] {
        let host = Host::new();
        host.with_chains(&["a"]).await;
        host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
        let (now, _) = (host.last_event(), host.engine.calls());
        if lost {
            let changed = EngineError::Conflict("the chain has changed meanwhile".into());
            host.engine.fail("deploy default/a", EngineError::Lost(Box::new(changed)));
        }
        let same = json!({"name": "a", "function": [{"use": "f", "version": "2.0.0"}]});
        let applying = host.engine.hold("deploy default/a");
        let applied = async { host.ask("PUT", "/v1/chains/a", Some(same)).await };
        let meanwhile = async {
            tokio::task::block_in_place(|| {
                host.engine.wait_for("deploy default/a", 1);
                host.engine.emit(went_back("a", "f", "it faulted"));
                drop(applying);
            });
        };
        let (answer, ()) = tokio::join!(applied, meanwhile);
        assert_eq!(answer.status.as_u16(), if lost { 409 } else { 200 }, "{}", answer.text);
        host.wait_for("rolled-back", now);
        assert_eq!(host.engine.calls().last().unwrap(), "swap_back default/a f@1.0.0");
        assert_eq!(host.running().await, ["a=1.0.0"]);
    }
}

#[tokio::test]
async fn a_trial_that_cannot_start_in_one_chain_starts_in_none() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    host.engine.fail("begin_trial default/b", EngineError::Conflict("another trial is on".into()));
    let canary = json!({"to": "2.0.0", "canary": 1});
    let (_, detail) = host.ask("POST", SWAP, Some(canary)).await.problem(409);
    assert_eq!(detail, "chain b: another trial is on");
    assert_eq!(host.engine.calls().last().unwrap(), "end_trial default/a f");
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"], json!(null));
}

#[tokio::test]
async fn what_cannot_be_swapped_is_said() {
    let host = Host::new();
    let swap = |to: &str| Some(json!({ "to": to }));
    let (code, detail) = host.ask("POST", SWAP, swap("1.0.0")).await.problem(404);
    assert_eq!((code.as_str(), detail.as_str()), ("not-found", "there is no function f"));
    host.with_chains(&[]).await;
    let (_, detail) = host.ask("POST", SWAP, swap("9.0.0")).await.problem(404);
    assert_eq!(detail, "there is no function version f@9.0.0 (there are 1.0.0, 2.0.0)");
    let (_, detail) = host.ask("POST", SWAP, swap("1.0.0")).await.problem(409);
    assert_eq!(detail, "no chain uses function f: there is nothing to swap");
    for (canary, shadow) in [(0.0, false), (100.0, false), (5.5, false), (5.0, true)] {
        let body = json!({"to": "1.0.0", "canary": canary, "shadow": shadow});
        let answer = host.ask("POST", SWAP, Some(body)).await;
        assert_eq!(answer.problem(422).0, "invalid");
        assert_eq!(answer.json()["key"], "canary");
    }
}

#[tokio::test]
async fn one_chain_that_refuses_does_not_have_the_others_keep_what_faults() {
    let host = Host::new();
    host.with_chains(&["a", "b", "c"]).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.engine.calls();
    host.engine.fail("swap_back default/b", EngineError::Exhausted("no memory".into()));
    let now = host.last_event();
    host.engine.emit(fault("c", "2.0.0"));
    host.wait_for("rolled-back", now);
    let expected = [
        "swap_back default/a f@1.0.0",
        "swap_back default/b f@1.0.0",
        "swap_back default/c f@1.0.0",
    ];
    assert_eq!(host.engine.calls(), expected);
    assert_eq!(host.running().await, ["a=1.0.0", "b=2.0.0", "c=1.0.0"]);
    let note = host.wait_for("note", now);
    assert_eq!(note, "function f could not be rolled back: chain b: no memory");
    // Which is done when it can be.
    host.ask("POST", ROLLBACK, None).await;
    assert_eq!(host.engine.calls(), ["swap_back default/b f@1.0.0"]);
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0", "c=1.0.0"]);
}

#[tokio::test]
async fn of_a_chain_that_uses_a_function_twice_only_one_place_went_back_by_itself() {
    let host = Host::new();
    host.with_chains(&[]).await;
    let uses = |label: &str| json!({"use": "f", "version": "1.0.0", "name": label});
    let twice = json!({"name": "twice", "function": [uses("first"), uses("second")]});
    let answer = host.ask("PUT", "/v1/chains/twice", Some(twice)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0"}))).await;
    host.engine.calls();
    let now = host.last_event();
    host.engine.emit(went_back("twice", "second", "it faulted"));
    host.wait_for("rolled-back", now);
    assert_eq!(host.engine.calls(), ["swap_back default/twice first@1.0.0"]);
    let view = host.ask("GET", "/v1/chains/twice", None).await.json();
    let versions = [&view["running"][0]["version"], &view["running"][1]["version"]];
    assert_eq!(versions, ["1.0.0", "1.0.0"]);
}

/// Chain `b` is there, and does not run.
async fn lose_b(host: &Host) {
    let lost = || EngineError::Lost(Box::new(EngineError::Refused("port out is gone".into())));
    host.engine.fail("deploy default/b", lost());
    host.engine.fail("deploy default/b", EngineError::Refused("port out is gone".into()));
    let b =
        json!({"name": "b", "function": [{"use": "f", "version": "1.0.0"}], "symmetric": false});
    let (_, detail) = host.ask("PUT", "/v1/chains/b", Some(b)).await.problem(422);
    assert_eq!(detail, "port out is gone");
    assert_eq!(host.engine.calls(), ["deploy default/b f@1.0.0", "deploy default/b f@1.0.0"]);
    let view = host.ask("GET", "/v1/chains/b", None).await.json();
    assert_eq!(
        (&view["failed"], &view["chain"]["symmetric"]),
        (&json!("port out is gone"), &json!(true))
    );
}

#[tokio::test]
async fn a_chain_that_does_not_run_keeps_nobody_from_another_version() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    lose_b(&host).await;
    let swap = |how: serde_json::Value| host.ask("POST", SWAP, Some(how));
    assert_eq!(swap(json!({"to": "2.0.0"})).await.json()["chains"], json!(["a"]));
    host.ask("POST", ROLLBACK, None).await;
    assert_eq!(host.engine.calls(), ["swap default/a f@2.0.0", "swap_back default/a f@1.0.0"]);
    for canary in [5, 50] {
        swap(json!({"to": "2.0.0", "canary": canary})).await;
    }
    swap(json!({"to": "2.0.0"})).await;
    let expected = [
        "begin_trial default/a f@2.0.0 Canary(5)",
        "change_canary default/a f 50",
        "promote default/a f",
    ];
    assert_eq!(host.engine.calls(), expected);
    let now = host.last_event();
    host.engine.emit(fault("a", "2.0.0"));
    host.wait_for("rolled-back", now);
    assert_eq!(host.engine.calls(), ["swap_back default/a f@1.0.0"]);
    // It comes back with the version that the others have.
    assert_eq!(host.running().await, ["a=1.0.0", "b=1.0.0"]);
    swap(json!({"to": "2.0.0"})).await;
    let host = host.restart();
    assert_eq!(host.engine.calls(), ["deploy default/a f@2.0.0", "deploy default/b f@2.0.0"]);
}

#[tokio::test]
async fn where_nothing_runs_nothing_can_be_tried() {
    let host = Host::new();
    host.with_chains(&["b"]).await;
    lose_b(&host).await;
    let canary = json!({"to": "2.0.0", "canary": 5});
    let (_, detail) = host.ask("POST", SWAP, Some(canary)).await.problem(409);
    assert!(detail.starts_with("no chain that uses function f runs"), "{detail}");
    assert_eq!(host.engine.calls(), [""; 0]);
}

#[tokio::test]
async fn an_apply_that_took_the_chain_down_puts_it_back() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let lost = EngineError::Lost(Box::new(EngineError::Refused("port out is gone".into())));
    host.engine.fail("deploy default/a", lost);
    let newer = json!({"name": "a", "function": [{"use": "f", "version": "2.0.0"}]});
    let apply = || host.ask("PUT", "/v1/chains/a", Some(newer.clone()));
    let (code, detail) = apply().await.problem(422);
    assert_eq!((code.as_str(), detail.as_str()), ("refused", "port out is gone"));
    assert_eq!(host.engine.calls(), ["deploy default/a f@2.0.0", "deploy default/a f@1.0.0"]);
    assert_eq!(host.running().await, ["a=1.0.0"]);
    let failed = async || host.ask("GET", "/v1/chains/a", None).await.json()["failed"].take();
    assert_eq!(failed().await, json!(null));
    // A chain that could not be put back, or was taken down without a word, is not said to run;
    // until it does.
    let down = EngineError::Exhausted("writing the capture failed".into());
    host.engine.fail("undeploy default/a", down);
    host.ask("DELETE", "/v1/chains/a", None).await.problem(503);
    assert_eq!(failed().await, "it was taken down: writing the capture failed");
    assert_eq!(apply().await.status, StatusCode::OK);
    assert_eq!(failed().await, json!(null));
}

#[tokio::test]
async fn a_canary_is_for_the_chain_as_it_was_when_it_began() {
    let host = Host::new();
    host.with_chains(&[]).await;
    for version in ["1.0.0", "2.0.0"] {
        host.push(&format!("/v1/functions/g/versions?version={version}"), version).await;
    }
    let both = [("f", "1.0.0"), ("g", "1.0.0")];
    let both = both.map(|(name, version)| json!({"use": name, "version": version}));
    host.ask("PUT", "/v1/chains/a", Some(json!({"name": "a", "function": both}))).await;
    let swap_g = "/v1/functions/g/swap";
    host.ask("POST", swap_g, Some(json!({"to": "2.0.0"}))).await;
    host.ask("POST", SWAP, Some(json!({"to": "2.0.0", "canary": 5}))).await;
    // Where g has no version before is a canary, too.
    for version in ["1.0.0", "2.0.0"] {
        host.push(&format!("/v1/functions/h/versions?version={version}"), version).await;
    }
    let other = json!([{"use": "g", "version": "1.0.0"}, {"use": "h", "version": "1.0.0"}]);
    host.ask("PUT", "/v1/chains/z", Some(json!({"name": "z", "function": other}))).await;
    let canary = json!({"to": "2.0.0", "canary": 7});
    host.ask("POST", "/v1/functions/h/swap", Some(canary)).await;
    host.engine.calls();
    // Nobody replaces another function beside it; it can still be made the running version, or be
    // ended.
    let (_, detail) = host.ask("POST", swap_g, Some(json!({"to": "1.0.0"}))).await.problem(409);
    assert!(detail.starts_with("version 2.0.0 of function f is a canary in a chain"), "{detail}");
    assert!(host.engine.calls().is_empty());
    // What goes back does so nevertheless, and the canary is over; its version is as good as
    // before. When nothing goes back after all, the canary goes on; and one beside which nothing
    // does is not touched.
    let rollback_g = "/v1/functions/g/rollback";
    host.engine.fail("swap_back default/a", EngineError::Refused("no".into()));
    host.ask("POST", rollback_g, None).await.problem(422);
    let expected = [
        "end_trial default/a f",
        "swap_back default/a g@1.0.0",
        "begin_trial default/a f@2.0.0 Canary(5)",
    ];
    assert_eq!(host.engine.calls(), expected);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!(function["trial"]["canary"], 5);
    let now = host.last_event();
    host.engine.emit(EngineEvent::Fault {
        chain: chain("a"),
        function: "g".parse().unwrap(),
        version: Some("2.0.0".parse().unwrap()),
        kind: "trap".into(),
        message: "unreachable".into(),
        quarantined: false,
    });
    let message = host.wait_for("trial-ended", now);
    assert_eq!(message, "the trial of version 2.0.0 of function f is over: function g goes back");
    host.wait_for("rolled-back", now);
    assert_eq!(host.engine.calls(), ["end_trial default/a f", "swap_back default/a g@1.0.0"]);
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    assert_eq!((&function["trial"], &function["newest"]), (&json!(null), &json!("2.0.0")));
    let other = host.ask("GET", "/v1/functions/h", None).await.json();
    assert_eq!(other["trial"]["canary"], 7);
}
