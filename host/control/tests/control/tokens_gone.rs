//! What a token that was taken away had begun: it is not done, and least of all in a tenant that
//! has the name next.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weir_control::api::Peer;

use crate::common::{Answer, Host, MAGIC};

/// A new tenant, and a token of it with its id.
async fn tenant(host: &Host) -> (String, String) {
    let made = host.ask("PUT", "/v1/tenants/gamma", Some(json!({}))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let role = Some(json!({"role": "operator"}));
    let token = host.ask("POST", "/v1/tenants/gamma/tokens", role).await.json();
    let text = |key: &str| token[key].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

/// Takes the token away, and the tenant.
async fn remove(host: &Host, id: &str) {
    for path in [format!("/v1/tenants/gamma/tokens/{id}"), "/v1/tenants/gamma".to_owned()] {
        let removed = host.ask("DELETE", &path, None).await;
        assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
    }
}

/// Sends a request with this body, and does not wait for the answer.
fn begin(host: &Arc<Host>, token: &str, what: [&str; 3], body: Body) -> JoinHandle<Answer> {
    let [method, path, kind] = what;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .extension(Peer::Remote)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind)
        .body(body)
        .unwrap();
    let host = Arc::clone(host);
    tokio::spawn(async move { host.raw(request).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_still_sent_is_in_vain() {
    let host = Arc::new(Host::new());
    let chain = json!({"name": "c", "function": [{"use": "f"}]}).to_string();
    let rules = json!({"rule": [{"to": "drop"}]}).to_string();
    let (json, wasm) = ("application/json", "application/wasm");
    for (what, body) in [
        (["POST", "/v1/functions/f/versions", wasm], MAGIC.to_vec()),
        (["PUT", "/v1/chains/c", json], chain.into()),
        (["PUT", "/v1/steering", json], rules.into()),
    ] {
        let (token, id) = tenant(&host).await;
        let (asked, is_asked) = oneshot::channel();
        let (go, goes) = oneshot::channel::<()>();
        let sent = stream::once(async move {
            asked.send(()).unwrap();
            goes.await.unwrap();
            Ok::<_, std::convert::Infallible>(Bytes::from(body))
        });
        let answer = begin(&host, &token, what, Body::from_stream(sent));
        is_asked.await.unwrap();
        remove(&host, &id).await;
        let (_, other) = tenant(&host).await;
        go.send(()).unwrap();
        let (code, detail) = answer.await.unwrap().problem(401);
        assert_eq!(code, "unauthorized", "{what:?}");
        assert!(detail.contains("taken away"), "{detail}");
        // The new one has nothing.
        remove(&host, &other).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_anew_when_nothing_of_the_old_tenant_is_under_way() {
    let host = Arc::new(Host::new());
    let (token, id) = tenant(&host).await;
    let compiling = host.engine.hold("compile");
    let what = ["POST", "/v1/functions/f/versions", "application/wasm"];
    let pushed = begin(&host, &token, what, Body::from(MAGIC));
    host.engine.wait_for("compile", 1);
    remove(&host, &id).await;
    let (code, detail) = host.ask("PUT", "/v1/tenants/gamma", Some(json!({}))).await.problem(409);
    assert_eq!(code, "conflict");
    assert!(detail.contains("something under way"), "{detail}");
    drop(compiling);
    assert_eq!(pushed.await.unwrap().problem(404).0, "not-found");
    let (_, id) = tenant(&host).await;
    let functions = host.ask("GET", "/v1/functions?tenant=gamma", None).await.json();
    assert_eq!(functions["items"], Value::Array(Vec::new()));
    remove(&host, &id).await;
}
