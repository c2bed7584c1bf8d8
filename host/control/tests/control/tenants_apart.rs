//! What one tenant does keeps no other from anything: requests that block, uploads, streams, chains
//! that are slow to come back, faults.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use weir_control::api::Peer;
use weir_control::engine::{ChainId, EngineEvent};

use crate::common::{Answer, CONFIG, Host, MAGIC, config};

const OPERATOR: &str = "acme-operator-token";
const VIEWER: &str = "acme-viewer-token";
/// Longer than anything takes that is not held up.
const PATIENCE: Duration = Duration::from_secs(30);

fn chain(name: &str) -> Value {
    json!({"name": name, "function": [{"use": "f"}]})
}

/// A host where the tenants acme and default have a function `f`, and chains `a` and `b` of it.
async fn host() -> Arc<Host> {
    let host = Host::new();
    for tenant in ["acme", "default"] {
        for version in ["1.0.0", "2.0.0"] {
            let path = format!("/v1/functions/f/versions?tenant={tenant}&version={version}");
            assert_eq!(host.push(&path, version).await.status, StatusCode::CREATED);
        }
        for name in ["a", "b"] {
            let path = format!("/v1/chains/{name}?tenant={tenant}");
            let answer = host.ask("PUT", &path, Some(chain(name))).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        }
    }
    host.engine.calls();
    Arc::new(host)
}

/// Sends a request for acme, and does not wait for the answer.
fn begin(
    host: &Arc<Host>,
    method: &'static str,
    path: &'static str,
    body: Value,
) -> JoinHandle<Answer> {
    let host = Arc::clone(host);
    tokio::spawn(async move { host.ask_with(OPERATOR, method, path, Some(body)).await })
}

/// Pushes for acme, and does not wait for the answer.
fn begin_push(host: &Arc<Host>, path: &'static str, content: &str) -> JoinHandle<Answer> {
    let (host, wasm) = (Arc::clone(host), [MAGIC, content.as_bytes()].concat());
    tokio::spawn(async move {
        let request = Request::post(path)
            .extension(Peer::Remote)
            .header(header::AUTHORIZATION, format!("Bearer {OPERATOR}"))
            .header(header::CONTENT_TYPE, "application/wasm")
            .body(Body::from(wasm));
        host.raw(request.unwrap()).await
    })
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it is held up")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_leave_threads_for_others() {
    let host = host().await;
    let requests = [
        ("deploy acme/a", "PUT", "/v1/chains/a", chain("a")),
        ("trace acme/a", "POST", "/v1/chains/a/trace", json!({"packets": 1, "seconds": 60})),
        ("log acme/a", "GET", "/v1/functions/f/log", Value::Null),
    ];
    for (held, method, path, body) in requests {
        let waiting = host.engine.hold(held);
        // More than the runtime has threads for what blocks.
        let all: Vec<_> = (0..600).map(|_| begin(&host, method, path, body.clone())).collect();
        host.engine.wait_for(held, if method == "POST" { 2 } else { 1 });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = in_time(host.ask("GET", "/v1/status", None)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let answer = in_time(host.ask("PUT", "/v1/chains/a", Some(chain("a")))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        all.iter().for_each(JoinHandle::abort);
        drop(waiting);
    }
}

/// Each has one of the connections that there are for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_requests_under_way_and_no_more_of_them_wait() {
    let host = host().await;
    let held = host.engine.hold("deploy acme/a");
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..65 {
        let waiting = begin(&host, "PUT", "/v1/chains/a", chain("a"));
        all.spawn(async move { waiting.await.unwrap() });
    }
    let refused = in_time(all.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.headers[header::CONNECTION], "close");
    let (code, detail) = refused.problem(429);
    assert_eq!(code, "too-many");
    assert!(detail.contains("tenant acme has 64 requests"), "{detail}");
    // Nobody else is concerned.
    let admin = host.ask_with("everybodys-admin-token", "GET", "/v1/status", None);
    assert_eq!(in_time(admin).await.status, StatusCode::OK);
    drop(held);
    while let Some(answer) = in_time(all.join_next()).await {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    assert_eq!(host.ask_with(VIEWER, "GET", "/v1/status", None).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_has_its_place_until_it_is_compiled_whether_its_client_waits_or_not() {
    let host = host().await;
    let path = "/v1/functions/g/versions";
    let compiling = host.engine.hold("compile 13");
    let gone = ["aaaaa", "bbbbb"].map(|content| begin_push(&host, path, content));
    host.engine.wait_for("compile 13", 2);
    for client in gone {
        client.abort();
        assert!(client.await.is_err_and(|error| error.is_cancelled()));
    }
    let third = begin_push(&host, path, "ccccc");
    // Others' are compiled meanwhile, one after the other.
    for content in ["1", "2", "3"] {
        let answer = in_time(host.push("/v1/functions/h/versions", content)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    }
    assert_eq!(host.engine.asked("compile 13"), 2);
    drop(compiling);
    assert_eq!(in_time(third).await.unwrap().status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_tenant_has_a_few_streams_and_others_have_theirs() {
    let host = Host::new();
    let mut open = Vec::new();
    let refused = loop {
        let response = host.open(VIEWER, "/v1/events").await;
        if response.status() != StatusCode::OK {
            break response.status();
        }
        open.push(response);
        assert!(open.len() < 100, "there is no end to it");
    };
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    let (code, detail) =
        host.ask_with(VIEWER, "GET", "/v1/events?follow=false", None).await.problem(429);
    assert_eq!(code, "too-many");
    assert!(detail.contains("tenant acme has 16 streams"), "{detail}");
    // Nobody else is concerned, nor are other requests.
    let other = host.open("everybodys-admin-token", "/v1/events").await;
    assert_eq!(other.status(), StatusCode::OK);
    assert_eq!(host.ask_with(VIEWER, "GET", "/v1/status", None).await.status, StatusCode::OK);
    // With one less there is room for another.
    open.pop();
    assert_eq!(host.open(VIEWER, "/v1/events").await.status(), StatusCode::OK);
}

/// Whoever has no token any more has no streams: neither of events, nor of packets.
#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_token() {
    use http_body_util::BodyExt as _;
    let host = host().await;
    let own = async |tenant: &str| {
        let role = Some(json!({"role": "operator"}));
        let made = host.ask("POST", &format!("/v1/tenants/{tenant}/tokens"), role).await.json();
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    };
    let (id, token) = own("acme").await;
    let tap = host
        .open_with(&token, "POST", "/v1/chains/a/tap", Body::from(r#"{"seconds": 3600}"#))
        .await;
    assert_eq!(tap.status(), StatusCode::OK);
    let mut tap = tap.into_body();
    assert!(in_time(tap.frame()).await.unwrap().unwrap().is_data());
    let mut events = host.open(&token, "/v1/events").await.into_body();
    let quiet = host.open(&token, "/v1/events").await.into_body();
    let mut stays = host.open(OPERATOR, "/v1/events").await.into_body();
    for stream in [&mut events, &mut stays] {
        assert!(in_time(stream.frame()).await.unwrap().unwrap().is_data());
    }
    let path = format!("/v1/tenants/acme/tokens/{id}");
    assert_eq!(host.ask("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    // Also when nothing happens any more.
    in_time(quiet.collect()).await.unwrap();
    assert_eq!(host.push("/v1/functions/secret/versions?tenant=acme", "1").await.status, 201);
    for stream in [tap, events] {
        let rest = in_time(stream.collect()).await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&rest).contains("secret"));
    }
    let mut seen = String::new();
    while !seen.contains("secret") {
        let frame = in_time(stays.frame()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    // Nor does the last tenant of a name hear of the next.
    host.ask("PUT", "/v1/tenants/beta", Some(json!({}))).await;
    host.push("/v1/functions/bygone/versions?tenant=beta", "1").await;
    host.ask("DELETE", "/v1/functions/bygone?tenant=beta", None).await;
    let (_, token) = own("beta").await;
    let events = host.open(&token, "/v1/events").await;
    for method in ["DELETE", "PUT"] {
        let body = (method == "PUT").then(|| json!({}));
        assert!(host.ask(method, "/v1/tenants/beta", body).await.status.is_success());
    }
    host.push("/v1/functions/secret/versions?tenant=beta", "1").await;
    let rest = in_time(events.into_body().collect()).await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&rest).contains("secret"));
    // And the next of the last.
    let (_, token) = own("beta").await;
    let seen = host.ask_with(&token, "GET", "/v1/events?follow=false", None).await.text;
    assert!(seen.contains("secret") && !seen.contains("bygone"), "{seen}");
}

/// Each tenant has one that is large, and all together no more memory than the host can spare.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_all_tenants_are_bounded_together() {
    let host = host().await;
    let (reads, mut is_read) = tokio::sync::mpsc::unbounded_channel();
    let new = async |tenant: &str| {
        host.ask("PUT", &format!("/v1/tenants/{tenant}"), Some(json!({}))).await;
        let role = Some(json!({"role": "operator"}));
        let made = host.ask("POST", &format!("/v1/tenants/{tenant}/tokens"), role).await.json();
        made["token"].as_str().unwrap().to_owned()
    };
    // How long it is is not said, so it may have the 64 MiB that rules may have.
    let send = |token: String| {
        let (reads, host) = (reads.clone(), Arc::clone(&host));
        let body = futures_util::stream::once(async move {
            reads.send(()).unwrap();
            std::future::pending::<Result<&str, std::convert::Infallible>>().await
        });
        tokio::spawn(async move {
            host.open_with(&token, "PUT", "/v1/steering", Body::from_stream(body)).await
        })
    };
    let first = send(new("t0").await);
    let second = send(new("t1").await);
    for _ in 0..2 {
        in_time(is_read.recv()).await.unwrap();
    }
    let _third = send(new("t2").await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_read.try_recv().is_err(), "it is read beside the others");
    let answer = host.ask_with(OPERATOR, "PUT", "/v1/chains/a", Some(chain("a"))).await;
    assert_eq!(answer.status, StatusCode::OK, "small ones wait for nobody: {}", answer.text);
    first.abort();
    in_time(is_read.recv()).await.unwrap();
    second.abort();
}

/// What waits for its place is not in memory, and large answers that nobody takes are not either.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_and_answers_made_for_those_who_have_a_place() {
    let host = host().await;
    let applying = host.engine.hold("deploy acme/a");
    let waiting: Vec<_> = (0..4).map(|_| begin(&host, "PUT", "/v1/chains/a", chain("a"))).collect();
    host.engine.wait_for("deploy acme/a", 1);
    // The others have a thread and no turn.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (reads, mut is_read) = tokio::sync::mpsc::unbounded_channel();
    let body = Body::from_stream(futures_util::stream::once(async move {
        reads.send(()).unwrap();
        Ok::<_, std::convert::Infallible>("{")
    }));
    let other = Arc::clone(&host);
    let fifth = tokio::spawn(async move {
        other.open_with(OPERATOR, "PUT", "/v1/chains/b", body).await.status()
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_read.try_recv().is_err(), "it is read before it has a place");
    drop(applying);
    assert_eq!(in_time(fifth).await.unwrap(), StatusCode::BAD_REQUEST);
    for client in waiting {
        assert_eq!(in_time(client).await.unwrap().status, StatusCode::OK);
    }

    let config =
        json!({"name": "a", "function": [{"use": "f", "config": {"a": "x".repeat(100_000)}}]});
    let answer = host.ask("PUT", "/v1/chains/a?tenant=acme", Some(config)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(host.open(VIEWER, "/v1/chains").await);
    }
    let other = Arc::clone(&host);
    let next = tokio::spawn(async move { other.ask_with(VIEWER, "GET", "/v1/chains", None).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!next.is_finished());
    assert_eq!(host.ask("GET", "/v1/chains", None).await.status, StatusCode::OK);
    open.pop();
    let answer = in_time(next).await.unwrap();
    assert_eq!(answer.json()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_that_are_slow_to_come_back_hold_up_no_other_tenants() {
    let host = Arc::into_inner(host().await).unwrap().restart_only();
    // The API is there before any chain is, and what it changes is not changed back.
    let failed = async |path: &str| {
        host.ask("GET", path, None).await.json()["failed"].as_str().map(str::to_owned)
    };
    assert_eq!(
        failed("/v1/chains/b").await.as_deref(),
        Some("it is not deployed yet: the host is starting")
    );
    let removed = host.ask("DELETE", "/v1/chains/b?tenant=acme", None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
    let applied = host.ask("PUT", "/v1/chains/b", Some(chain("b"))).await;
    assert_eq!(applied.status, StatusCode::OK, "{}", applied.text);
    host.engine.calls();
    let slow = host.engine.hold("deploy acme/a");
    let control = Arc::clone(&host.control);
    let restoring = std::thread::spawn(move || control.restore());
    host.engine.wait_for("deploy acme/a", 1);
    host.engine.wait_for("deploy default/a", 1);
    while failed("/v1/chains/a").await.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(failed("/v1/chains/a?tenant=acme").await.unwrap().contains("not deployed yet"));
    assert!(!restoring.is_finished());
    drop(slow);
    in_time(tokio::task::spawn_blocking(move || restoring.join().unwrap())).await.unwrap();
    assert_eq!(failed("/v1/chains/a?tenant=acme").await, None);
    let mut calls = host.engine.calls();
    calls.sort();
    assert_eq!(calls, ["deploy acme/a f@2.0.0", "deploy default/a f@2.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_acted_on_while_another_tenants_change_takes_long() {
    let host = host().await;
    let fault = |tenant: &str| EngineEvent::Fault {
        chain: ChainId::new(&tenant.parse().unwrap(), &"a".parse().unwrap()),
        function: "f".parse().unwrap(),
        version: Some("2.0.0".parse().unwrap()),
        kind: "trap".into(),
        message: "unreachable".into(),
        quarantined: false,
    };
    for to in ["1.0.0", "2.0.0"] {
        let swapped = host.ask("POST", "/v1/functions/f/swap", Some(json!({ "to": to }))).await;
        assert_eq!(swapped.status, StatusCode::OK, "{}", swapped.text);
    }
    host.engine.calls();
    let applying = host.engine.hold("deploy acme/b");
    let slow = begin(&host, "PUT", "/v1/chains/b", chain("b"));
    host.engine.wait_for("deploy acme/b", 1);
    let now = host.last_event();
    host.engine.emit(fault("acme"));
    host.engine.emit(fault("default"));
    let message = host.wait_for("rolled-back", now);
    assert!(message.contains("from version 2.0.0 to 1.0.0"), "{message}");
    assert!(!slow.is_finished());
    drop(applying);
    assert_eq!(in_time(slow).await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_read_again_while_a_tenant_whose_listeners_stay_changes_something() {
    const ACME: &str = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\ntenant = \"acme\"\nprotocol = \"http\"\nupstream = [\"127.0.0.1:2\"]\n";
    const TOKEN: &str = "[[api.token]]\nname = \"new\"\ntoken = \"another-viewer-token\"\nrole = \"viewer\"\ntenant = \"acme\"\n";
    let host = host().await;
    let read_again = |listeners: String| {
        let (host, config) = (Arc::clone(&host), config(&format!("{CONFIG}{listeners}")));
        tokio::task::spawn_blocking(move || {
            host.control.reload(&config)?;
            host.control.reload_listeners(&config)
        })
    };
    assert!(in_time(read_again(ACME.to_owned())).await.unwrap().is_ok());
    let applying = host.engine.hold("deploy acme/b");
    let slow = begin(&host, "PUT", "/v1/chains/b", chain("b"));
    host.engine.wait_for("deploy acme/b", 1);
    let others = ACME.replace("\"a\"", "\"d\"").replace("acme", "default").replace(":1", ":3");
    for listeners in [ACME.to_owned(), format!("{others}{ACME}")] {
        assert!(in_time(read_again(listeners)).await.unwrap().is_ok());
    }
    assert!(!slow.is_finished());
    // Those of the chain that is being changed wait; and when the host stops meanwhile they stay.
    let changed = read_again(
        ACME.replace(":1", ":4").replace("[[listener]]", &format!("{TOKEN}[[listener]]")),
    );
    let stopped = host.control.drain(Duration::ZERO);
    assert!(stopped.problems.is_empty() && !changed.is_finished());
    drop(applying);
    assert!(in_time(changed).await.unwrap().is_err());
    in_time(slow).await.unwrap();
    // Tokens do not depend on listeners.
    let answer = host.ask_with("another-viewer-token", "GET", "/v1/status", None).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_removed_gets_nothing_that_was_still_compiled() {
    let host = Arc::new(Host::new());
    host.ask("PUT", "/v1/tenants/beta", Some(json!({}))).await;
    let compiling = host.engine.hold("compile");
    let other = Arc::clone(&host);
    let push =
        tokio::spawn(
            async move { other.push("/v1/functions/f/versions?tenant=beta", "late").await },
        );
    host.engine.wait_for("compile", 1);
    let removed = host.ask("DELETE", "/v1/tenants/beta", None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
    drop(compiling);
    let (_, detail) = in_time(push).await.unwrap().problem(404);
    assert_eq!(detail, "there is no tenant beta");
    assert_eq!(host.ask("GET", "/v1/functions", None).await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_host_that_stops_takes_no_changes_and_deploys_nothing_more() {
    let host = Arc::into_inner(host().await).unwrap().restart_only();
    assert!(host.control.drain(Duration::ZERO).problems.is_empty());
    let (code, _) = host.ask("PUT", "/v1/chains/a", Some(chain("a"))).await.problem(503);
    assert_eq!(code, "stopping");
    assert_eq!(host.ask("GET", "/v1/status", None).await.status, StatusCode::OK);
    std::thread::scope(|scope| scope.spawn(|| host.control.restore()).join()).unwrap();
    assert_eq!(host.engine.calls(), Vec::<String>::new());
}

/// Listeners of both tenants change: while the host waits for one, what the other changes does not
/// wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_wait_for_one_tenant_hold_up_no_other() {
    let host = host().await;
    let listeners = ["acme", "default"].map(|tenant| {
        format!(
            "[[listener]]\nname = \"of-{tenant}\"\ntenant = \"{tenant}\"\naddress = \"127.0.0.1:0\"\n\
             protocol = \"http\"\nupstream = [\"127.0.0.1:9\"]\n"
        )
    });
    let changed = config(&format!("{CONFIG}{}", listeners.concat()));
    let waiting = host.engine.hold("deploy default/a");
    let apply = {
        let host = Arc::clone(&host);
        tokio::spawn(async move { host.ask("PUT", "/v1/chains/a", Some(chain("a"))).await })
    };
    tokio::task::block_in_place(|| host.engine.wait_for("deploy default/a", 1));
    let reload = {
        let host = Arc::clone(&host);
        std::thread::spawn(move || host.control.reload_listeners(&changed))
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = in_time(host.ask_with(OPERATOR, "PUT", "/v1/chains/a", Some(chain("a")))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert!(!reload.is_finished(), "it waits for default");
    drop(waiting);
    assert_eq!(in_time(apply).await.unwrap().status, StatusCode::OK);
    tokio::task::block_in_place(|| reload.join().unwrap()).unwrap();
}
