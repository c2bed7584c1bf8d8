//! The API: what it answers to good requests, and to every kind of bad one.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use weir_control::api::Peer;
use weir_control::engine::EngineError;
use weir_spec::Manifest;

use crate::common::{CONFIG, FOR_MESSAGES, Host, MAGIC, config};

fn edge() -> Value {
    json!({
        "name": "edge", "from": "in", "to": "out",
        "function": [{"use": "f", "memory": "8MiB", "config": {"default": "deny"}}]
    })
}

#[tokio::test]
async fn a_function_is_pushed_listed_shown_and_removed() {
    let host = Host::new();
    let answer = host.push("/v1/functions/f/versions", "one").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(answer.headers[header::LOCATION], "/v1/functions/f/versions/0.1.0");
    let pushed = answer.json();
    assert_eq!(pushed["version"], "0.1.0");
    assert_eq!(pushed["compile_ms"], 7.0);
    assert_eq!(pushed["bytes"], 11);
    assert_eq!(pushed["report"]["world"], "packet-function");
    // The same again is the same; something else is the next.
    assert_eq!(host.push("/v1/functions/f/versions", "one").await.status, StatusCode::OK);
    let answer = host.push("/v1/functions/f/versions", "two").await;
    assert_eq!(answer.json()["version"], "0.1.1");
    let (code, detail) =
        host.push("/v1/functions/f/versions?version=0.1.0", "three").await.problem(409);
    assert_eq!(code, "conflict");
    assert!(detail.contains("versions do not change"), "{detail}");
    let list = host.ask("GET", "/v1/functions", None).await.json();
    assert_eq!(list["items"][0]["name"], "f");
    assert_eq!(list["items"][0]["newest"], "0.1.1");
    let versions = host.ask("GET", "/v1/functions/f/versions", None).await.json();
    assert_eq!(versions["items"].as_array().unwrap().len(), 2);
    let version = host.ask("GET", "/v1/functions/f/versions/0.1.0", None).await.json();
    assert_eq!(version["digest"], pushed["digest"]);
    // All of it survives a restart.
    let host = host.restart();
    assert_eq!(host.ask("GET", "/v1/functions/f/versions", None).await.json(), versions);
    let answer = host.ask("DELETE", "/v1/functions/f/versions/0.1.0", None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(host.ask("DELETE", "/v1/functions/f", None).await.status, StatusCode::NO_CONTENT);
    let (code, detail) = host.ask("GET", "/v1/functions/f", None).await.problem(404);
    assert_eq!((code.as_str(), detail.as_str()), ("not-found", "there is no function f"));
}

#[tokio::test]
async fn a_manifest_counts() {
    let host = Host::new();
    let push = |toml: &'static str| {
        host.push_bytes("/v1/functions/f/versions", Manifest::embed(MAGIC, toml))
    };
    let answer = push("version = \"3.1.4\"\nmemory = \"2MiB\"\n").await;
    assert_eq!(answer.json()["version"], "3.1.4", "{}", answer.text);
    let (code, _) = push("memory = 5\n").await.problem(422);
    assert_eq!(code, "upload-refused");
    let answer = push("memory = 5\n").await.json();
    let reason = answer["reasons"][0].as_str().unwrap();
    assert!(reason.contains("--> function.toml:1:10"), "{reason}");
    let answer = push("state = \"save\"\ntenant = \"acme\"\n").await.json();
    assert_eq!(answer["reasons"].as_array().unwrap().len(), 2, "{answer}");
    let long = format!("description = \"{}\"\n", "x".repeat(60_000));
    let answer = push(long.leak()).await;
    answer.problem(422);
    assert!(answer.text.len() < 2000, "{} bytes", answer.text.len());
    let answer = push("#".repeat(Manifest::MAX + 1).leak()).await.json();
    assert_eq!(answer["reasons"][0], "its manifest has 65537 bytes; allowed are 65536");
}

#[tokio::test]
async fn a_tenant_keeps_no_more_than_its_quota() {
    let quota = "[quota]\nfunctions = 2\nversions = 2\nwasm = \"100B\"\nchains = 1\nconfiguration = \"50B\"\n[rollout]";
    let quota = crate::common::CONFIG.replace("[rollout]", quota);
    let host = Host::on(tempfile::tempdir().unwrap(), &quota);
    let forbidden = async |path: &str, content: &str| {
        let (code, detail) = host.push(path, content).await.problem(403);
        assert_eq!(code, "forbidden");
        detail
    };
    for (path, content) in [("f", "one"), ("f", "two"), ("g", "one")] {
        let path = format!("/v1/functions/{path}/versions");
        assert_eq!(host.push(&path, content).await.status, StatusCode::CREATED);
    }
    let detail = forbidden("/v1/functions/f/versions", "three").await;
    assert!(detail.contains("has 2 versions") && detail.contains("`versions`"), "{detail}");
    let detail = forbidden("/v1/functions/h/versions", "one").await;
    assert!(detail.contains("has 2 functions") && detail.contains("`functions`"), "{detail}");
    let detail = forbidden("/v1/functions/g/versions", &"x".repeat(60)).await;
    assert!(detail.contains("have 33 bytes, this one 68"), "{detail}");
    assert_eq!(host.engine.asked("compile 68"), 0, "for nothing");
    // What is there is no push of something new.
    assert_eq!(host.push("/v1/functions/f/versions", "one").await.status, StatusCode::OK);
    let put = async |name: &str| {
        let chain = json!({"name": name, "function": [{"use": "f"}]});
        host.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await
    };
    assert_eq!(put("one").await.status, StatusCode::CREATED);
    assert_eq!(put("one").await.status, StatusCode::OK);
    let (_, detail) = put("two").await.problem(403);
    assert!(detail.contains("has 1 chains") && detail.contains("`chains`"), "{detail}");
    // What the host keeps in memory counts, also that of a chain that is there.
    let configure = async |bytes: usize| {
        let config = json!({ "a": "x".repeat(bytes) });
        let chain = json!({"name": "one", "function": [{"use": "f", "config": config}]});
        host.ask("PUT", "/v1/chains/one", Some(chain)).await
    };
    assert_eq!(configure(20).await.status, StatusCode::OK);
    assert_eq!(configure(30).await.status, StatusCode::OK);
    let (_, detail) = configure(50).await.problem(403);
    assert!(detail.contains("have 38 bytes, this is 20 more, allowed are 50B"), "{detail}");
    assert!(detail.contains("`configuration`"), "{detail}");
    let manifest = Manifest::embed(MAGIC, "# a comment");
    let answer = host.push_bytes("/v1/functions/g/versions", manifest.clone()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(configure(30).await.status, StatusCode::OK);
    configure(40).await.problem(403);
    assert_eq!(put("one").await.status, StatusCode::OK);
    host.ask("DELETE", "/v1/functions/g/versions/0.1.1", None).await;
    // Others are not concerned.
    let answer = host.push("/v1/functions/h/versions?tenant=acme", "one").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    // With one version less there is room for another.
    let path = "/v1/functions/f/versions/0.1.0";
    assert_eq!(host.ask("DELETE", path, None).await.status, StatusCode::NO_CONTENT);
    let answer = host.push("/v1/functions/f/versions", "three").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
}

#[tokio::test]
async fn a_tenants_functions_have_so_many_memories_and_no_more() {
    let quota = crate::common::CONFIG.replace("[rollout]", "[quota]\nmemories = 5\n[rollout]");
    let host = Host::on(tempfile::tempdir().unwrap(), &quota);
    host.with_chains(&["one", "two"]).await;
    // Each has one for its function, and one for what calls it.
    let chain = json!({"name": "three", "function": [{"use": "f"}]});
    let answer = host.ask("PUT", "/v1/chains/three", Some(chain)).await;
    let (code, detail) = answer.problem(403);
    assert_eq!(code, "forbidden");
    assert!(detail.contains("have 4 linear memories, with this they would have 6"), "{detail}");
    // What is tried has all of them once more; what is swapped has not.
    let swap = |canary| json!({"to": "2.0.0", "canary": canary});
    let answer = host.ask("POST", "/v1/functions/f/swap", Some(swap(json!(5)))).await;
    assert!(answer.problem(403).1.contains("would have 8"), "{}", answer.text);
    let answer = host.ask("POST", "/v1/functions/f/swap", Some(swap(Value::Null))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

#[tokio::test]
async fn no_function_keeps_a_worker_longer_than_the_host_lets_it() {
    let quota = |most: &str| {
        let quota = format!("[quota]\ndeadline = \"{most}\"\n[rollout]");
        crate::common::CONFIG.replace("[rollout]", &quota)
    };
    let host = Host::on(tempfile::tempdir().unwrap(), &quota("1s"));
    host.with_chains(&["a"]).await;
    let put = async |host: &Host, keys: Value| {
        let mut function = json!({"use": "f", "version": "1.0.0"});
        function.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let chain = json!({"name": "a", "function": [function]});
        host.ask("PUT", "/v1/chains/a", Some(chain)).await
    };
    let answer = put(&host, json!({"deadline": "2s"})).await;
    assert_eq!(answer.problem(422).0, "invalid");
    assert_eq!(answer.json()["key"], "function[0].deadline");
    assert_eq!(put(&host, json!({"deadline": "1s"})).await.status, StatusCode::OK);
    // It was applied when the host gave more: it runs all the same, with what there is now.
    let host = host.restart_on(&quota("50ms")).restored();
    assert_eq!(host.engine.deadlines(), ["50ms"]);
    let note = host.wait_for("note", 0);
    assert!(
        note.contains("has 50ms: deadline: 1s is longer than")
            && note.contains("`deadline` in [quota]"),
        "{note}"
    );
    // A manifest says no more, either, unless the chain says less.
    let slow = Manifest::embed(MAGIC, "version = \"3.0.0\"\ndeadline = \"60ms\"");
    host.push_bytes("/v1/functions/f/versions", slow).await;
    assert_eq!(put(&host, json!({})).await.status, StatusCode::OK);
    let swap = json!({"to": "3.0.0"});
    let answer = host.ask("POST", "/v1/functions/f/swap", Some(swap)).await;
    assert!(answer.problem(422).1.contains("says `deadline = \"60ms\"`"), "{}", answer.text);
    let answer = put(&host, json!({"version": "3.0.0"})).await;
    assert_eq!(answer.json()["key"], "function[0].use", "{}", answer.text);
    let answer = put(&host, json!({"version": "3.0.0", "deadline": "20ms"})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(host.engine.deadlines(), ["20ms"]);
}

#[tokio::test]
async fn uploads_are_refused_with_reasons() {
    let host = Host::new();
    let long = format!("/v1/functions/f/versions?version=1.0.0-{}", "a".repeat(128));
    let answer = host.push(&long, "x").await;
    assert_eq!(answer.problem(422).0, "upload-refused");
    assert_eq!(host.engine.asked("compile"), 0);
    let answer = host.push_bytes("/v1/functions/f/versions", b"\x7fELF".to_vec()).await;
    assert_eq!(answer.problem(422).0, "upload-refused");
    assert_eq!(answer.json()["reasons"], json!(["it is not WebAssembly"]));
    host.engine
        .fail("compile", EngineError::Refused("it takes longer than 10 s to compile".into()));
    let answer = host.push("/v1/functions/f/versions", "slow").await;
    assert_eq!(answer.problem(422).0, "upload-refused");
    let answer = host.push_bytes("/v1/functions/f/versions", vec![0; 100_001]).await;
    assert_eq!(answer.problem(413).0, "too-large");
    let request = Request::post("/v1/functions/f/versions")
        .extension(Peer::Local)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::empty());
    let (code, detail) = host.raw(request.unwrap()).await.problem(415);
    assert_eq!(code, "media-type");
    assert!(detail.contains("allowed: application/wasm"), "{detail}");
    host.push("/v1/functions/f/versions?version=1", "x").await.problem(400);
    host.push("/v1/functions/f/versions?vresion=1.0.0", "x").await.problem(400);
    host.push("/v1/functions/F/versions", "x").await.problem(404);
    assert_eq!(host.ask("GET", "/v1/functions", None).await.json(), json!({"items": []}));
}

#[tokio::test]
async fn a_chain_is_deployed_changed_shown_and_removed() {
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    host.engine.calls();
    let answer = host.ask("PUT", "/v1/chains/edge", Some(edge())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(answer.json()["pause_us"], 3.0);
    assert_eq!(host.engine.calls(), ["deploy default/edge f@1.0.0"]);
    let view = host.ask("GET", "/v1/chains/edge", None).await.json();
    assert_eq!(view["chain"]["function"][0]["config"]["default"], "deny");
    assert_eq!(view["running"], json!([{"function": "f", "version": "1.0.0"}]));
    let answer = host.ask("PUT", "/v1/chains/edge", Some(edge())).await;
    assert_eq!(answer.status, StatusCode::OK);
    let (_, detail) = host.ask("DELETE", "/v1/functions/f", None).await.problem(409);
    assert_eq!(detail, "function f is used by chain edge: remove or change that first");
    let (_, detail) = host.ask("DELETE", "/v1/functions/f/versions/1.0.0", None).await.problem(409);
    assert!(detail.contains("runs in chain edge"), "{detail}");
    let steering = host.ask("GET", "/v1/steering", None).await.json();
    let rule = |port: &str, reverse: bool| json!({"port": port, "plane": "packet", "chain": "edge", "tenant": "default", "reverse": reverse});
    assert_eq!(steering, json!({"items": [rule("in", false), rule("out", true)]}));
    host.engine.calls();
    assert_eq!(host.ask("DELETE", "/v1/chains/edge", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(host.engine.calls(), ["undeploy default/edge"]);
    host.ask("GET", "/v1/chains/edge", None).await.problem(404);
    host.ask("DELETE", "/v1/chains/edge", None).await.problem(404);
}

#[tokio::test]
async fn a_chain_that_only_echoes_is_told_of() {
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    let now = host.last_event();
    let apply = async |name: &str, ports: Value, access: &str| {
        let mut chain = ports;
        chain["name"] = json!(name);
        chain["function"] = json!([{"use": "f", "access": access}]);
        let answer = host.ask("PUT", &format!("/v1/chains/{name}"), Some(chain)).await;
        let notes = answer.json()["notes"].as_array().expect("notes").clone();
        host.ask("DELETE", &format!("/v1/chains/{name}"), None).await;
        notes
    };
    // One that answers may write; one with `to` passes on; an idle one has no packets.
    assert!(apply("answers", json!({"from": "in"}), "read-write").await.is_empty());
    assert!(apply("passes", json!({"from": "in", "to": "out"}), "read-only").await.is_empty());
    assert!(apply("idle", json!({}), "read-only").await.is_empty());
    let notes = apply("looks", json!({"from": "in"}), "read-only").await;
    assert_eq!(notes, [json!(host.wait_for("note", now))]);
    let expected = "chain looks has no `to`, and all its functions are read-only";
    assert!(notes[0].as_str().unwrap().starts_with(expected), "{notes:?}");
}

#[tokio::test]
async fn a_chain_for_messages_that_no_listener_has_is_told_of() {
    let listener = |name: &str, tenant: &str, chain: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\ntenant = \"{tenant}\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"{chain}\"\nupstream = [\"127.0.0.1:9\"]\n"
        )
    };
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", FOR_MESSAGES).await;
    let notes = async |listeners: &str| {
        host.control.reload_listeners(&config(&format!("{CONFIG}{listeners}"))).unwrap();
        let chain = json!({"name": "web", "function": [{"use": "f"}]});
        let answer = host.ask("PUT", "/v1/chains/web", Some(chain)).await;
        answer.json()["notes"].clone()
    };
    let told = "no listener has chain web, so nothing comes to it: ";
    let none = json!([format!("{told}no listener with `chain` is tenant default's")]);
    assert_eq!(notes("").await, none);
    let typo = listener("a", "default", "wbe");
    assert_eq!(notes(&typo).await, json!([format!("{told}those of tenant default have wbe")]));
    assert_eq!(notes(&listener("a", "acme", "web")).await, none);
    assert_eq!(notes(&listener("a", "default", "web")).await, json!([]));
}

#[tokio::test]
async fn a_chain_is_traced() {
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    let chain = json!({"name": "edge", "from": "in", "to": "out", "function": [{"use": "f"}]});
    host.ask("PUT", "/v1/chains/edge", Some(chain)).await;
    host.engine.calls();
    let which = json!({"packets": 3, "proto": "udp", "dport": "53", "port": "in"});
    let answer = host.ask("POST", "/v1/chains/edge/trace", Some(which)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(host.engine.calls(), ["trace default/edge 3 port=in proto=udp dport=53"]);
    let step = json!({"function": "filter", "verdict": null});
    let packet = json!({"reverse": false, "bytes": "", "steps": [step]});
    assert_eq!(answer.json(), json!({"packets": [packet], "seen": 2}));

    host.ask("POST", "/v1/chains/none/trace", Some(json!({}))).await.problem(404);
    for (wrong, part) in [
        (json!({"packets": 0}), "0 packets"),
        (json!({"seconds": 61}), "61 seconds"),
        (json!({"proto": "icmp", "dport": 53}), "have no ports"),
        (json!({"dst": "nowhere"}), "nowhere"),
    ] {
        let (_, problem) =
            host.ask("POST", "/v1/chains/edge/trace", Some(wrong)).await.problem(422);
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(host.engine.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_chain_is_tapped() {
    let host = Host::new();
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    let chain = json!({"name": "edge", "from": "in", "to": "out", "function": [{"use": "f"}]});
    host.ask("PUT", "/v1/chains/edge", Some(chain)).await;
    host.engine.calls();
    let which = json!({"function": "f", "only": {"proto": "udp", "dport": "53"}});
    let answer = host.ask("POST", "/v1/chains/edge/tap", Some(which)).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "onetwo"));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/x-pcapng");
    assert_eq!(host.engine.calls(), ["tap default/edge:f Pcapng proto=udp dport=53"]);
    let answer = host.ask("POST", "/v1/chains/edge/tap", Some(json!({"format": "json"}))).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/x-ndjson");
    host.engine.calls();

    host.ask("POST", "/v1/chains/none/tap", Some(json!({}))).await.problem(404);
    for (wrong, part) in [
        (json!({"packets": 0}), "packets"),
        (json!({"snap-length": 70000}), "snap-length"),
        (json!({"only": {"proto": "icmp", "dport": 53}}), "only.dport"),
        (json!({"proto": "udp"}), "proto"),
    ] {
        let (_, problem) = host.ask("POST", "/v1/chains/edge/tap", Some(wrong)).await.problem(422);
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(host.engine.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_wrong_with_a_chain_is_said() {
    let host = Host::new();
    let put = |body: Value| host.ask("PUT", "/v1/chains/edge", Some(body));
    let (_, detail) = put(edge()).await.problem(409);
    assert_eq!(
        detail,
        "function[0].use: there is no function f: tenant default has none (push a function first (`weir function push`))"
    );
    host.push("/v1/functions/ff/versions?version=1.0.0", "other").await;
    let answer = put(edge()).await;
    assert_eq!(answer.json()["key"], "function[0].use");
    assert_eq!(
        answer.json()["help"].as_str().unwrap().split('?').next(),
        Some("did you mean `ff`")
    );
    host.push("/v1/functions/f/versions?version=1.0.0", "one").await;
    let mut chain = edge();
    chain["function"][0]["version"] = json!("2.0.0");
    let (_, detail) = put(chain).await.problem(409);
    assert_eq!(
        detail,
        "function[0].version: there is no version 2.0.0 of function f: it has 1.0.0 (push it first)"
    );
    let mut chain = edge();
    chain["to"] = json!("wan");
    let (_, detail) = put(chain).await.problem(409);
    assert_eq!(
        detail,
        "to: there is no port wan: tenant default has in, out (ports are in the host's configuration file)"
    );
    let mut chain = edge();
    chain["from"] = json!("acme-in");
    assert!(put(chain).await.problem(409).1.contains("there is no port acme-in"));
    let mut chain = edge();
    chain["function"][0]["memry"] = json!("1MiB");
    let answer = put(chain).await;
    assert_eq!(answer.problem(422).0, "invalid");
    assert_eq!(answer.json()["key"], "function[0].memry");
    assert!(answer.json()["help"].as_str().unwrap().starts_with("did you mean `memory`?"));
    let mut chain = edge();
    chain["function"][0]["memory"] = json!(16);
    let answer = put(chain).await;
    assert_eq!(
        answer.problem(422).1,
        "function[0].memory: wrong type: integer `16`, expected a size such as \"16MiB\""
    );
    let mut chain = edge();
    chain["function"][0] = json!({"path": "/etc/passwd"});
    let answer = put(chain).await;
    assert_eq!(answer.problem(422).0, "invalid");
    assert_eq!(answer.json()["key"], "function[0].path");
    // Before configurations are put together, one for each table.
    let tables = vec![json!({}); 1000];
    for (workers, key) in [(json!("all"), "function[0].per-worker"), (json!(1000), "workers")] {
        let function = json!({"use": "f", "config": {"a": "x"}, "per-worker": tables});
        let chain = json!({"name": "edge", "workers": workers, "function": [function]});
        let answer = put(chain).await;
        assert_eq!(answer.problem(422).0, "refused");
        assert_eq!(answer.json()["key"], key, "{}", answer.text);
    }
    assert_eq!(host.engine.asked("deploy"), 0);
    let mut chain = edge();
    chain["function"][0]["instances"] = json!(64.5);
    assert_eq!(put(chain).await.json()["key"], "function[0].instances");
    let answer = host.ask("PUT", "/v1/chains/other", Some(edge())).await;
    assert!(answer.problem(409).1.contains("use the same name in both"));
    // A refusal of the data plane leaves nothing.
    host.engine
        .fail("deploy", EngineError::Refused("function f refused its configuration: no".into()));
    assert_eq!(put(edge()).await.problem(422).0, "refused");
    host.ask("GET", "/v1/chains/edge", None).await.problem(404);
    // What a function says of its configuration is told with its place.
    let message = "default: unknown variant `deny`, expected `block`".to_owned();
    host.engine.fail("deploy", EngineError::Configuration { function: "f".into(), message });
    let answer = put(edge()).await;
    assert_eq!(answer.problem(422).0, "invalid");
    assert_eq!(answer.json()["key"], "function[0].config.default");
    assert_eq!(answer.json()["help"], "allowed: block");
    host.ask("GET", "/v1/chains/edge", None).await.problem(404);
    // A port has one chain.
    assert_eq!(put(edge()).await.status, StatusCode::CREATED);
    let second = json!({"name": "second", "from": "out", "function": [{"use": "f"}]});
    let (_, detail) = host.ask("PUT", "/v1/chains/second", Some(second)).await.problem(409);
    assert_eq!(detail, "from: port out belongs to chain edge (remove or change that first)");
    // Between the same two, several can be, if only one takes what is not steered elsewhere.
    let mut beside = edge();
    beside["name"] = json!("beside");
    let (_, detail) = host.ask("PUT", "/v1/chains/beside", Some(beside.clone())).await.problem(409);
    let refused = "from: port in belongs to chain edge (set `steered = true`";
    assert!(detail.starts_with(refused), "{detail}");
    beside["steered"] = json!(true);
    let answer = host.ask("PUT", "/v1/chains/beside", Some(beside)).await;
    assert_eq!(answer.status, StatusCode::CREATED);
}

/// Where it lies, and what its disk says, is for who runs the host.
#[tokio::test]
async fn a_tenant_is_told_that_the_store_failed_and_not_where_it_is() {
    const ACME: &str = "acme-operator-token";
    let host = Host::new();
    let pushed = host.push("/v1/functions/f/versions?tenant=acme&version=1.0.0", "1.0.0").await;
    let digest = pushed.json()["digest"].as_str().unwrap().to_owned();
    let chain = || Some(json!({"name": "c", "function": [{"use": "f"}]}));
    let apply = async || host.ask_with(ACME, "PUT", "/v1/chains/c", chain()).await;
    assert_eq!(apply().await.status, StatusCode::CREATED);
    let blob = host.path("store/blobs").join(format!("{digest}.wasm"));
    std::fs::remove_file(&blob).unwrap();
    std::fs::create_dir(&blob).unwrap();
    let store = host.path("store").to_str().unwrap().to_owned();
    let told = "the host's store failed; the host's log says how";
    assert_eq!(apply().await.problem(500), ("internal".into(), told.into()));
    let (_, detail) = host.ask("PUT", "/v1/chains/c?tenant=acme", chain()).await.problem(500);
    assert!(detail.contains(&store), "{detail}");
    let host = host.restart();
    for path in ["/v1/status", "/v1/chains/c", "/v1/events?follow=false"] {
        let text = host.ask_with(ACME, "GET", path, None).await.text;
        assert!(text.contains(told) && !text.contains(&store), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_chain_that_cannot_come_back_is_reported_and_holds_up_nothing() {
    let host = Host::new();
    host.with_chains(&["a", "b"]).await;
    let store = host.path("store/blobs");
    let function = host.ask("GET", "/v1/functions/f", None).await.json();
    let digest = function["versions"][0]["digest"].as_str().unwrap().to_owned();
    std::fs::remove_file(store.join(format!("{digest}.wasm"))).unwrap();
    host.ask("POST", "/v1/functions/f/swap", Some(json!({"to": "2.0.0"}))).await;
    let chain = json!({"name": "c", "function": [{"use": "f", "version": "1.0.0"}]});
    let (code, detail) = host.ask("PUT", "/v1/chains/c", Some(chain)).await.problem(500);
    assert_eq!(code, "internal");
    assert!(detail.contains("is missing"), "{detail}");
    host.ask("POST", "/v1/functions/f/rollback", None).await.problem(500);
    let blob = function["versions"][1]["digest"].as_str().unwrap();
    std::fs::write(store.join(format!("{blob}.wasm")), b"damaged").unwrap();
    let host = host.restart();
    let status = host.ask("GET", "/v1/status", None).await.json();
    let failed = status["failed"]["default/a"].as_str().unwrap();
    assert!(failed.contains("is not what was stored"), "{failed}");
    let view = host.ask("GET", "/v1/chains/a", None).await.json();
    assert_eq!(view["failed"], failed);
    // What it says is enough: other Wasm is not, and what is whole is not deployed again.
    let failed = async || host.ask("GET", "/v1/status", None).await.json()["failed"].take();
    host.push("/v1/functions/f/versions?version=1.0.0", "1.0.0").await;
    assert_eq!(failed().await.as_object().unwrap().len(), 2);
    host.engine.calls();
    let pushed = host.push("/v1/functions/f/versions?version=2.0.0", "2.0.0").await;
    assert_eq!(pushed.status, StatusCode::OK, "{}", pushed.text);
    assert_eq!(failed().await, json!({}));
    let calls = host.engine.calls();
    assert_eq!(calls[1..], ["deploy default/a f@2.0.0", "deploy default/b f@2.0.0"]);
    host.push("/v1/functions/f/versions?version=2.0.0", "2.0.0").await;
    assert_eq!(host.engine.asked("deploy"), 0);
}

#[tokio::test]
async fn malformed_requests_end_as_problems() {
    let host = Host::new();
    assert_eq!(host.ask("GET", "/v2/functions", None).await.problem(404).0, "not-found");
    let answer = host.ask("PATCH", "/v1/functions", None).await;
    assert_eq!(answer.problem(405).0, "method");
    assert!(answer.headers[header::ALLOW].to_str().unwrap().contains("GET"));
    host.ask("GET", "/v1/functions?tenant=A%20B", None).await.problem(400);
    host.ask("GET", "/v1/functions?tennant=a", None).await.problem(400);
    // A tenant that is not there has no list that is empty.
    for path in ["status", "ports", "chains", "functions", "steering", "events", "chains/edge"] {
        let (code, detail) =
            host.ask("GET", &format!("/v1/{path}?tenant=acmee"), None).await.problem(404);
        assert_eq!(code, "not-found");
        assert!(detail.starts_with("there is no tenant acmee (did you mean `acme`? "), "{detail}");
    }
    host.ask("GET", "/v1/functions/f/versions/one", None).await.problem(404);
    let send = |body: &'static str, kind: &'static str| {
        let request = Request::put("/v1/chains/edge")
            .extension(Peer::Local)
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(body));
        host.raw(request.unwrap())
    };
    assert_eq!(send("{", "application/json").await.problem(400).0, "syntax");
    assert_eq!(send("{} {}", "application/json").await.problem(422).0, "invalid");
    assert_eq!(send("[]", "application/json").await.problem(422).0, "invalid");
    // Its values without their keys are no object: of no rules it would say that there are none.
    for (method, path, body) in [
        (
            "PUT",
            "/v1/chains/c",
            json!(["c", null, null, null, null, true, false, 1, [{"use": "f"}]]),
        ),
        ("PUT", "/v1/chains/c", json!({"name": "c", "function": [["f"]]})),
        ("PUT", "/v1/steering", json!([])),
        ("PUT", "/v1/steering", json!([[]])),
        ("POST", "/v1/functions/f/swap", json!(["1.0.0"])),
        ("PUT", "/v1/tenants/new", json!(["new"])),
        ("POST", "/v1/tenants/acme/tokens", json!(["viewer", "x"])),
    ] {
        let (code, detail) = host.ask(method, path, Some(body)).await.problem(422);
        assert_eq!(code, "invalid");
        assert!(detail.contains("expected a table"), "{path}: {detail}");
    }
    assert_eq!(send("\u{0}", "application/json").await.problem(400).0, "syntax");
    assert_eq!(send("name = \"edge\"", "application/toml").await.problem(415).0, "media-type");
    let deep = "[".repeat(100_000).leak();
    assert_eq!(send(deep, "application/json").await.status.as_u16() / 100, 4);
}

#[tokio::test]
async fn tokens_open_what_is_theirs() {
    let host = Host::new();
    let answer = host.ask_with("wrong", "GET", "/v1/status", None).await;
    assert_eq!(answer.problem(401).0, "unauthorized");
    assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"weir\"");
    let open = Request::get("/openapi.json").extension(Peer::Remote).body(Body::empty()).unwrap();
    assert_eq!(host.raw(open).await.status, StatusCode::OK);
    // Even what is not there is not told without a token.
    let nowhere = Request::get("/v1/secret").extension(Peer::Remote).body(Body::empty()).unwrap();
    assert_eq!(host.raw(nowhere).await.status, StatusCode::UNAUTHORIZED);

    host.with_chains(&["a"]).await;
    let acme = |method: &'static str, path: &'static str, body| {
        host.ask_with("acme-operator-token", method, path, body)
    };
    assert_eq!(acme("GET", "/v1/functions", None).await.json(), json!({"items": []}));
    assert_eq!(acme("GET", "/v1/chains", None).await.json(), json!({"items": []}));
    acme("GET", "/v1/functions/f", None).await.problem(404);
    acme("GET", "/v1/functions?tenant=default", None).await.problem(403);
    acme("GET", "/v1/tenants/default", None).await.problem(403);
    acme("PUT", "/v1/tenants/other", Some(json!({}))).await.problem(403);
    acme("GET", "/v1/tenants/acme/tokens", None).await.problem(403);
    let ports = acme("GET", "/v1/ports", None).await.json();
    assert_eq!(ports["items"][0]["name"], "acme-in");
    assert_eq!(ports["items"].as_array().unwrap().len(), 1);
    assert_eq!(acme("GET", "/v1/status", None).await.json()["chains"], json!([]));
    let metrics = acme("GET", "/metrics", None).await.text;
    assert!(!metrics.contains("tenant=\"default\""), "{metrics}");
    assert!(!metrics.contains("carrier="), "{metrics}");
    for line in [
        "weir_listener_seconds_bucket{le=\"0.000001024\",listener=\"acme-web\"} 0",
        "weir_listener_seconds_bucket{le=\"0.000002048\",listener=\"acme-web\"} 1",
        "weir_listener_seconds_bucket{le=\"0.001048576\",listener=\"acme-web\"} 4",
        "weir_listener_seconds_bucket{le=\"137.438953472\",listener=\"acme-web\"} 4",
        "weir_listener_seconds_bucket{le=\"+Inf\",listener=\"acme-web\"} 6",
        "weir_listener_seconds_sum{listener=\"acme-web\"} 0.002",
        "weir_upstream_healthy{listener=\"acme-web\",upstream=\"api.example:9000\"} 1.0",
        "weir_upstream_members{listener=\"acme-web\",upstream=\"api.example:9000\",state=\"healthy\"} 1.0",
        "weir_upstream_lookup_failures_total{listener=\"acme-web\",upstream=\"api.example:9000\"} 1",
        "weir_listener_certificate_expiry_timestamp_seconds{listener=\"acme-web\",server_name=\"a.example\"} 2000000000.0",
        "weir_listener_certificate_expiry_timestamp_seconds{listener=\"acme-web\",server_name=\"b.example\"} 1900000000.0",
        "weir_listener_file_expiry_timestamp_seconds{listener=\"acme-web\",upstream=\"\",key=\"revoked\"} 1950000000.0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let events = acme("GET", "/v1/events?follow=false", None).await.text;
    assert!(!events.contains("function f"), "{events}");
    let tenants = acme("GET", "/v1/tenants", None).await.json();
    assert_eq!(tenants["items"].as_array().unwrap().len(), 1);

    // The same names are others for another tenant.
    let request = Request::post("/v1/functions/f/versions")
        .extension(Peer::Remote)
        .header(header::AUTHORIZATION, "bearer acme-operator-token")
        .header(header::CONTENT_TYPE, "application/wasm")
        .body(Body::from([MAGIC, b"acme"].concat()));
    assert_eq!(host.raw(request.unwrap()).await.status, StatusCode::CREATED);
    let own = acme("GET", "/v1/functions/f", None).await.json();
    assert_eq!((&own["tenant"], &own["newest"]), (&json!("acme"), &json!("0.1.0")));
    let all = host.ask_with("everybodys-admin-token", "GET", "/v1/functions", None).await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 2);

    let viewer = |method: &'static str, path: &'static str| {
        host.ask_with("acme-viewer-token", method, path, None)
    };
    assert_eq!(viewer("GET", "/v1/functions/f").await.status, StatusCode::OK);
    viewer("DELETE", "/v1/functions/f").await.problem(403);
    viewer("POST", "/v1/functions/f/rollback").await.problem(403);
}

#[tokio::test]
async fn tenants_and_their_tokens_come_and_go() {
    let host = Host::new();
    let described = Some(json!({"description": "A customer"}));
    let answer = host.ask("PUT", "/v1/tenants/beta", described.clone()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(host.ask("PUT", "/v1/tenants/beta", described).await.status, StatusCode::OK);
    let make =
        |role: &str| host.ask("POST", "/v1/tenants/beta/tokens", Some(json!({ "role": role })));
    make("admin").await.problem(409);
    make("root").await.problem(422);
    let answer = make("operator").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let made = answer.json();
    let token = made["token"].as_str().unwrap().to_owned();
    let listed = host.ask("GET", "/v1/tenants/beta/tokens", None).await;
    assert!(!listed.text.contains(&token));
    // It works, also after a restart, until it is removed.
    let host = host.restart();
    let own = host.ask_with(&token, "GET", "/v1/tenants", None).await.json();
    assert_eq!(own["items"][0]["description"], "A customer");
    let path = format!("/v1/tenants/beta/tokens/{}", made["id"].as_str().unwrap());
    host.ask("DELETE", &path.replace("beta", "acme"), None).await.problem(404);
    assert_eq!(host.ask("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    host.ask_with(&token, "GET", "/v1/tenants", None).await.problem(401);

    host.push("/v1/functions/f/versions?tenant=beta", "x").await;
    let (_, detail) = host.ask("DELETE", "/v1/tenants/beta", None).await.problem(409);
    assert_eq!(detail, "tenant beta has 1 functions and 0 chains: remove those first");
    host.ask("DELETE", "/v1/functions/f?tenant=beta", None).await;
    assert_eq!(host.ask("DELETE", "/v1/tenants/beta", None).await.status, StatusCode::NO_CONTENT);
    host.ask("DELETE", "/v1/tenants/default", None).await.problem(409);
    // What the configuration has would be there again, for whoever has the name next.
    let (_, detail) = host.ask("DELETE", "/v1/tenants/acme", None).await.problem(409);
    let named = "[[port]] acme-in, [[api.token]] acme, [[api.token]] acme-viewer";
    assert!(detail.contains(named), "{detail}");
    let events = host.control.events().after(None, 0);
    let told: Vec<&str> = events
        .iter()
        .filter(|event| event.subject == "beta" && event.tenant.is_none())
        .map(|event| event.kind.name())
        .collect();
    // Some came before the restart.
    assert_eq!(told, ["token-removed", "tenant-removed"]);
    host.push("/v1/functions/f/versions?tenant=nobody", "x").await.problem(404);
}

#[tokio::test]
async fn status_metrics_and_log_show_what_the_data_plane_says() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let status = host.ask("GET", "/v1/status", None).await.json();
    assert_eq!(status["chains"][0]["functions"][0]["verdicts"]["next"], 5);
    assert_eq!(status["workers"], 1);
    assert_eq!(status["functions"], 1);
    let answer = host.ask("GET", "/metrics", None).await;
    let kind = answer.headers[header::CONTENT_TYPE].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    for line in [
        "weir_chain_packets_total{tenant=\"default\",chain=\"a\",direction=\"in\"} 5",
        "weir_chain_packets_total{tenant=\"default\",chain=\"a\",direction=\"kernel\"} 2",
        "weir_chain_packets_total{tenant=\"default\",chain=\"a\",direction=\"made\"} 3",
        "weir_chain_dropped_packets_total{tenant=\"default\",chain=\"a\",reason=\"fault\"} 1",
        "weir_chain_dropped_packets_total{tenant=\"default\",chain=\"a\",reason=\"no-buffer\"} 0",
        "weir_listener_failures_total{listener=\"web\",reason=\"idle\"} 0",
        "weir_function_verdicts_total{tenant=\"default\",chain=\"a\",function=\"f\",verdict=\"next\"} 5",
        "weir_function_quarantined{tenant=\"default\",chain=\"a\",function=\"f\",version=\"1.0.0\"} 0",
        "weir_function_sampled_calls_total{tenant=\"default\",chain=\"a\",function=\"f\"} 2",
        "weir_function_sampled_packets_total{tenant=\"default\",chain=\"a\",function=\"f\"} 64",
        "weir_function_sampled_seconds_total{tenant=\"default\",chain=\"a\",function=\"f\"} 0.0000064",
        "weir_function_counter_total{tenant=\"default\",chain=\"a\",function=\"f\",name=\"flows\"} 2",
        "weir_function_gauge{tenant=\"default\",chain=\"a\",function=\"f\",name=\"load\"} 0.5",
        "weir_port_packets_total{port=\"in\",direction=\"rx\"} 1",
        "weir_pool_buffers{tenant=\"default\",chain=\"a\",state=\"out\"} 1",
        "weir_trial_packets_total{tenant=\"default\",chain=\"a\",function=\"f\",version=\"2.0.0\",kind=\"shadow\"} 3",
        "weir_trial_different_packets_total{tenant=\"default\",chain=\"a\",function=\"f\",version=\"2.0.0\",what=\"verdict\"} 2",
        "weir_port_ring_buffers{port=\"in\"} 64",
        "weir_port_kernel_packets_total{port=\"in\",direction=\"to\"} 7",
        "weir_port_kernel_packets_total{port=\"in\",direction=\"from\"} 3",
        "weir_port_rx_notes_total{port=\"in\",note=\"truncated\"} 2",
        "weir_upstream_connections_total{listener=\"web\",upstream=\"api.example:9000\"} 2",
        "weir_upstream_responses_total{listener=\"web\",upstream=\"api.example:9000\",class=\"5xx\"} 1",
        "weir_upstream_bytes_total{listener=\"web\",upstream=\"api.example:9000\",direction=\"in\"} 300",
        "weir_upstream_failures_total{listener=\"web\",upstream=\"api.example:9000\",reason=\"connect\"} 2",
        "weir_config_last_reload_successful 1.0",
        "weir_gateway_carrier{carrier=\"sk_msg\"} 0",
        "weir_gateway_carrier{carrier=\"unix\"} 1",
        "weir_functions 1",
    ] {
        assert!(
            answer.text.lines().any(|found| found.starts_with(line)),
            "{line}\n{}",
            answer.text
        );
    }
    assert!(answer.text.ends_with("# EOF\n"));
    let lines = |query: &'static str| {
        let asked = host.ask("GET", query, None);
        async { asked.await.json()["lines"].as_array().unwrap().len() }
    };
    assert_eq!(lines("/v1/functions/f/log?limit=0").await, 0);
    assert_eq!(lines("/v1/functions/f/log?since=2026-01-01T00:00:00Z&limit=5").await, 1);
    assert_eq!(lines("/v1/functions/f/log?since=2026-01-01T00:00:00.001Z").await, 0);
    let (_, detail) =
        host.ask("GET", "/v1/functions/f/log?since=yesterday", None).await.problem(400);
    assert!(detail.contains("2026-11-25T22:13:50.969Z"), "{detail}");
    let log = host.ask("GET", "/v1/functions/f/log", None).await.json();
    assert_eq!(log["lines"][0]["source"], "a:f");
    assert_eq!(log["lost"], 1);
    host.ask("GET", "/v1/functions/g/log", None).await.problem(404);
}

#[tokio::test]
async fn metrics_are_written_as_who_asks_takes_them() {
    let host = Host::new();
    let asked = async |accept: &str| {
        let request = Request::get("/metrics").extension(Peer::Local).header("accept", accept);
        host.raw(request.body(Body::empty()).unwrap()).await
    };
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, kind) in [
        ("*/*", "application/openmetrics-text"),
        (prometheus, "application/openmetrics-text"),
        ("text/plain; version=0.0.4", "text/plain; version=0.0.4"),
    ] {
        let answer = asked(accept).await;
        assert!(answer.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with(kind));
        assert_eq!(answer.text.ends_with("# EOF\n"), kind.starts_with("application"), "{accept}");
        assert!(answer.text.contains("\nweir_port_packets_total{"), "{}", answer.text);
    }
    // Of the process everybody has these names, and only the administrator is told.
    let of = |text: &str, name: &str| -> f64 {
        let line = format!("process_{name} ");
        let value = text.lines().find_map(|said| said.strip_prefix(&line)).expect(name);
        value.parse().unwrap()
    };
    let mut text = asked("*/*").await.text;
    assert!(of(&text, "resident_memory_bytes") > 0.0 && of(&text, "open_fds") > 0.0, "{text}");
    // The kernel counts in hundredths, and to ask takes some of it.
    while of(&text, "cpu_seconds_total") == 0.0 {
        text = asked("*/*").await.text;
    }
    let text = host.ask_with("acme-viewer-token", "GET", "/metrics", None).await.text;
    assert!(!text.contains("process_"), "{text}");
}

#[tokio::test]
async fn what_the_api_refuses_is_counted() {
    let host = Host::new();
    for (token, path) in [
        ("nobody", "/v1/status"),
        ("nobody", "/metrics"),
        ("acme-viewer-token", "/v1/status?tenant=default"),
    ] {
        host.ask_with(token, "GET", path, None).await;
    }
    host.ask_with("acme-viewer-token", "GET", "/v1/status", None).await;
    let status = host.ask("GET", "/v1/status", None).await.json();
    assert_eq!(status["api_refused"], json!({"401": 2, "403": 1}));
    let metrics = host.ask("GET", "/metrics", None).await.text;
    assert!(metrics.contains("\nweir_api_refused_total{status=\"401\"} 2\n"), "{metrics}");
    let own = host.ask_with("acme-viewer-token", "GET", "/v1/status", None).await.json();
    assert!(own.get("api_refused").is_none(), "{own}");
}

#[tokio::test]
async fn who_asks_is_told_whether_the_host_is_ready() {
    let host = Host::new();
    let asked = async |path: &str| {
        let request = Request::get(path).extension(Peer::Remote).body(Body::empty());
        host.raw(request.unwrap()).await
    };
    let ready = async || {
        let status = host.ask("GET", "/v1/status", None).await.json();
        let metrics = host.ask("GET", "/metrics", None).await.text;
        assert_eq!(asked("/healthz").await.status, StatusCode::OK);
        let gauge = metrics.lines().find_map(|line| line.strip_prefix("weir_ready ")).unwrap();
        (status["state"].as_str().unwrap().to_owned(), gauge.to_owned(), asked("/readyz").await)
    };
    let (state, gauge, answer) = ready().await;
    assert_eq!((state.as_str(), gauge.as_str()), ("starting", "0.0"));
    assert_eq!(answer.problem(503).0, "starting");
    let now = host.last_event();
    host.control.ready();
    assert_eq!(host.wait_for("ready", now), "the host is ready; chains that run: 0");
    let (state, gauge, answer) = ready().await;
    assert_eq!((state.as_str(), gauge.as_str()), ("ready", "1.0"));
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "ready\n"));
    let _ = host.control.drain(std::time::Duration::ZERO);
    // It does not become so again.
    host.control.ready();
    let (state, gauge, answer) = ready().await;
    assert_eq!((state.as_str(), gauge.as_str()), ("draining", "0.0"));
    assert_eq!(answer.problem(503).0, "stopping");
}

#[tokio::test]
async fn events_are_kept_and_can_be_taken_up_again() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let answer = host.ask("GET", "/v1/events?follow=false", None).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream");
    let first = answer.text.split("\n\n").next().unwrap();
    let id = first.strip_prefix("id: ").and_then(|rest| rest.split_once('\n'));
    let (id, rest) = id.unwrap();
    assert!(id.parse::<u64>().unwrap() > 1_700_000_000_000, "{first}");
    assert!(rest.starts_with("event: started\ndata: {"), "{first}");
    assert!(
        answer.text.contains("\nevent: pushed\n")
            && answer.text.contains("\nevent: chain-applied\n")
    );
    let request = Request::get("/v1/events?follow=false")
        .extension(Peer::Local)
        .header("last-event-id", host.last_event().to_string())
        .body(Body::empty());
    assert_eq!(host.raw(request.unwrap()).await.text, "");
    for (header, query) in [("x", "0"), ("-1", "0"), ("9223372036854775808", "0")] {
        let request = Request::get(format!("/v1/events?follow=false&after={query}"))
            .extension(Peer::Local)
            .header("last-event-id", header)
            .body(Body::empty());
        host.raw(request.unwrap()).await.problem(400);
    }
}

/// The document names every path that is answered, and every answer that tests above got.
#[tokio::test]
async fn the_openapi_document_is_whole() {
    let host = Host::new();
    let document = host.ask("GET", "/openapi.json", None).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/v1/functions",
        "/v1/functions/{name}/versions",
        "/v1/chains",
        "/v1/steering",
        "/v1/ports",
        "/v1/tenants",
        "/v1/status",
        "/v1/events",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut ids = std::collections::BTreeSet::new();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{method} {path}: the operation's id is not unique");
            for name in path.split('{').skip(1).map(|part| part.split('}').next().unwrap()) {
                let parameters = operation["parameters"].as_array().unwrap();
                let has = parameters.iter().any(|p| p["name"] == name && p["in"] == "path");
                assert!(has, "{method} {path}: {name} is not described");
            }
            if !["/openapi.json", "/healthz", "/readyz"].contains(&path.as_str()) {
                assert!(operation["responses"].get("429").is_some(), "{method} {path}");
                assert!(operation["responses"].get("401").is_some(), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn all_series_of_a_histogram_have_the_same_bounds() {
    let metrics = Host::new().ask("GET", "/metrics", None).await.text;
    let bounds = |listener: &str| -> Vec<String> {
        let end = format!("\",listener=\"{listener}\"}}");
        let of = |line: &str| {
            let (bound, _) =
                line.strip_prefix("weir_listener_seconds_bucket{le=\"")?.split_once(&end)?;
            Some(bound.to_owned())
        };
        metrics.lines().filter_map(of).collect()
    };
    // One of them has had no request.
    assert_eq!(bounds("web").len(), 29, "{metrics}");
    assert_eq!(bounds("web"), bounds("acme-web"));
}

#[test]
fn the_guide_says_what_each_metric_means() {
    let page = include_str!("../../../../docs/reference/metrics.md");
    // Only what has a value is written, so names are taken from where they are given.
    let source = include_str!("../../src/metrics.rs");
    let mut all = 0;
    for (made, total) in [
        ("Counters::new(registry, \"", "_total"),
        ("Seconds::new(registry, \"", "_total"),
        ("Gauges::new(registry, \"", ""),
        ("Times::new(\"", ""),
    ] {
        for rest in source.split(made).skip(1) {
            let name = rest.split('"').next().unwrap();
            // Everybody's names of a process have no other one before them.
            let prefix = if name.starts_with("process_") { "" } else { "weir_" };
            assert!(page.contains(&format!("`{prefix}{name}{total}`")), "{prefix}{name}{total}");
            all += 1;
        }
    }
    assert!(all > 40, "names are given otherwise: {all}");
}

#[tokio::test]
async fn the_guide_says_what_each_kind_of_event_means() {
    let document = Host::new().ask("GET", "/openapi.json", None).await.json();
    let kinds = document["components"]["schemas"]["EventKind"]["enum"].as_array().unwrap();
    assert!(kinds.len() > 10, "{kinds:?}");
    let page = include_str!("../../../../docs/reference/events.md");
    let (_, table) = page.split_once("| kind | what happened |").unwrap();
    for kind in kinds {
        assert!(table.contains(&format!("`{}`", kind.as_str().unwrap())), "{kind}");
    }
}

#[tokio::test]
async fn the_guide_lists_each_path() {
    let document = Host::new().ask("GET", "/openapi.json", None).await.json();
    let page = include_str!("../../../../docs/reference/api.md");
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{path}`")), "{path}");
    }
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(table) => {
            if let Some(Value::String(reference)) = table.get("$ref") {
                into.push(reference.clone());
            }
            table.values().for_each(|value| collect_references(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, into)),
        _ => {}
    }
}
