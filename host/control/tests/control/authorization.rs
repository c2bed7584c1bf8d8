//! Every route, asked by everybody: nobody gets at what is not theirs, and what is refused has
//! changed nothing.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use weir_control::api::Peer;

use crate::common::{Answer, Host, MAGIC};

/// What a route takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// A token; the answer is about the tenant's own things.
    Token,
    /// A token, of the tenant whose things are named (`?tenant=`).
    Tenant,
    /// A token of the tenant that is named, with the role `operator`.
    Operator,
    /// A token that is for all tenants.
    All,
    /// The administrator.
    Admin,
}

/// All routes. One that is not here, or not there any more, fails the test.
const ROUTES: [(&str, &str, Needs); 32] = [
    ("get", "/openapi.json", Needs::Nothing),
    ("get", "/healthz", Needs::Nothing),
    ("get", "/readyz", Needs::Nothing),
    ("get", "/metrics", Needs::Token),
    ("get", "/v1/tenants", Needs::Token),
    ("get", "/v1/status", Needs::Tenant),
    ("get", "/v1/ports", Needs::Tenant),
    ("get", "/v1/steering", Needs::Tenant),
    ("get", "/v1/events", Needs::Tenant),
    ("get", "/v1/functions", Needs::Tenant),
    ("get", "/v1/functions/{name}", Needs::Tenant),
    ("get", "/v1/functions/{name}/versions", Needs::Tenant),
    ("get", "/v1/functions/{name}/versions/{version}", Needs::Tenant),
    ("get", "/v1/functions/{name}/log", Needs::Tenant),
    ("get", "/v1/chains", Needs::Tenant),
    ("get", "/v1/chains/{name}", Needs::Tenant),
    ("get", "/v1/tenants/{tenant}", Needs::Tenant),
    ("post", "/v1/functions/{name}/versions", Needs::Operator),
    ("post", "/v1/functions/{name}/swap", Needs::Operator),
    ("post", "/v1/functions/{name}/rollback", Needs::Operator),
    ("delete", "/v1/functions/{name}/versions/{version}", Needs::Operator),
    ("delete", "/v1/functions/{name}", Needs::Operator),
    ("put", "/v1/chains/{name}", Needs::Operator),
    // They show what packets carry.
    ("post", "/v1/chains/{name}/trace", Needs::Operator),
    ("post", "/v1/chains/{name}/tap", Needs::Operator),
    ("put", "/v1/steering", Needs::Operator),
    ("delete", "/v1/chains/{name}", Needs::Operator),
    ("put", "/v1/tenants/{tenant}", Needs::Admin),
    ("delete", "/v1/tenants/{tenant}", Needs::Admin),
    ("get", "/v1/tenants/{tenant}/tokens", Needs::All),
    ("post", "/v1/tenants/{tenant}/tokens", Needs::Admin),
    ("delete", "/v1/tenants/{tenant}/tokens/{id}", Needs::Admin),
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    WrongToken,
    /// Basic authentication with a good token.
    WrongScheme,
    Viewer,
    Operator,
    /// An operator of the tenant `beta`.
    Stranger,
    /// A viewer of all tenants.
    Watcher,
    Admin,
}

const EVERYBODY: [Who; 8] = [
    Who::Nobody,
    Who::WrongToken,
    Who::WrongScheme,
    Who::Viewer,
    Who::Operator,
    Who::Stranger,
    Who::Watcher,
    Who::Admin,
];

impl Who {
    fn authorization(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::WrongToken => Some("Bearer acme-operator-tokem"),
            Self::WrongScheme => Some("Basic acme-operator-token"),
            Self::Viewer => Some("Bearer acme-viewer-token"),
            Self::Operator => Some("Bearer acme-operator-token"),
            Self::Stranger => Some("Bearer beta-operator-token"),
            Self::Watcher => Some("Bearer everybodys-viewer-token"),
            Self::Admin => Some("Bearer everybodys-admin-token"),
        }
    }

    /// What must be the answer when the thing named is tenant acme's; none: the caller is let in.
    fn refusal(self, needs: Needs) -> Option<StatusCode> {
        let known = !matches!(self, Self::Nobody | Self::WrongToken | Self::WrongScheme);
        match needs {
            Needs::Nothing => None,
            _ if !known => Some(StatusCode::UNAUTHORIZED),
            Needs::Token => None,
            Needs::Tenant if self == Self::Stranger => Some(StatusCode::FORBIDDEN),
            Needs::Tenant => None,
            Needs::Operator if matches!(self, Self::Operator | Self::Admin) => None,
            Needs::All if matches!(self, Self::Watcher | Self::Admin) => None,
            Needs::Admin if self == Self::Admin => None,
            Needs::Operator | Needs::All | Needs::Admin => Some(StatusCode::FORBIDDEN),
        }
    }
}

/// A good request for acme's thing at this route.
fn request(method: &str, path: &str, who: Who) -> Request<Body> {
    let uri = path
        .replace("{name}", if path.starts_with("/v1/chains") { "edge" } else { "f" })
        .replace("{version}", "2.0.0")
        .replace("{tenant}", "acme")
        .replace("{id}", "0123456789abcdef");
    // Routes below a tenant name it in their path.
    let uri = match path {
        "/openapi.json" | "/metrics" | "/healthz" | "/readyz" => uri,
        "/v1/events" => format!("{uri}?tenant=acme&follow=false"),
        "/v1/functions/{name}/versions" if method == "post" => {
            format!("{uri}?tenant=acme&version=3.0.0")
        }
        path if path.starts_with("/v1/tenants") => uri,
        _ => format!("{uri}?tenant=acme"),
    };
    let mut request =
        Request::builder().method(method.to_uppercase().as_str()).uri(uri).extension(Peer::Remote);
    if let Some(value) = who.authorization() {
        request = request.header(header::AUTHORIZATION, value);
    }
    let json = match (method, path) {
        ("post", "/v1/functions/{name}/versions") => {
            let wasm = Body::from([MAGIC, b"new"].concat());
            return request.header(header::CONTENT_TYPE, "application/wasm").body(wasm).unwrap();
        }
        ("post", "/v1/functions/{name}/swap") => json!({"to": "2.0.0"}),
        ("put", "/v1/chains/{name}") => json!({"name": "edge", "function": [{"use": "f"}]}),
        ("post", "/v1/chains/{name}/trace" | "/v1/chains/{name}/tap") => json!({"packets": 1}),
        ("put", "/v1/steering") => json!({"rule": [{"to": "drop"}]}),
        ("put", "/v1/tenants/{tenant}") => json!({"description": "changed"}),
        ("post", "/v1/tenants/{tenant}/tokens") => json!({"role": "operator"}),
        _ => return request.body(Body::empty()).unwrap(),
    };
    let body = Body::from(json.to_string());
    request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

/// A host on which acme has a function with two versions and a chain.
async fn host() -> Host {
    let beta = "[[api.token]]\nname = \"watcher\"\ntoken = \"everybodys-viewer-token\"\nrole = \"viewer\"\n[[api.token]]\nname = \"beta\"\ntoken = \"beta-operator-token\"\nrole = \"operator\"\ntenant = \"beta\"\n[rollout]";
    let config = crate::common::CONFIG.replace("[rollout]", beta);
    let host = Host::on(tempfile::tempdir().unwrap(), &config);
    host.control.ready();
    for version in ["1.0.0", "2.0.0"] {
        let path = format!("/v1/functions/f/versions?tenant=acme&version={version}");
        assert_eq!(host.push(&path, version).await.status, StatusCode::CREATED);
    }
    let chain = json!({"name": "edge", "function": [{"use": "f", "version": "1.0.0"}]});
    let answer = host.ask("PUT", "/v1/chains/edge?tenant=acme", Some(chain)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    host.engine.calls();
    host
}

/// All that can be changed.
async fn everything(host: &Host) -> Vec<Value> {
    let mut all = Vec::new();
    for path in
        ["/v1/functions", "/v1/chains", "/v1/steering", "/v1/tenants", "/v1/tenants/acme/tokens"]
    {
        all.push(host.ask("GET", path, None).await.json());
    }
    all
}

fn is_problem(answer: &Answer) -> bool {
    answer.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json")
}

#[tokio::test]
async fn every_route_lets_in_whom_it_may_and_nobody_else() {
    let host = host().await;
    let before = everything(&host).await;
    for (method, path, needs) in ROUTES {
        for who in EVERYBODY {
            let Some(refusal) = who.refusal(needs) else { continue };
            let answer = host.raw(request(method, path, who)).await;
            assert_eq!(answer.status, refusal, "{method} {path} by {who:?}: {}", answer.text);
            assert!(is_problem(&answer), "{method} {path} by {who:?}: {}", answer.text);
        }
    }
    assert_eq!(everything(&host).await, before);
    assert_eq!(host.engine.calls(), Vec::<String>::new());
    // Who is let in gets an answer: each on a host of its own, because some take away what others
    // ask for.
    for (method, path, needs) in ROUTES {
        for who in EVERYBODY.into_iter().filter(|who| who.refusal(needs).is_none()) {
            let host = self::host().await;
            let answer = host.raw(request(method, path, who)).await;
            let served = answer.status.is_success()
                || [StatusCode::NOT_FOUND, StatusCode::CONFLICT].contains(&answer.status);
            assert!(served, "{method} {path} by {who:?}: {} {}", answer.status, answer.text);
        }
    }
}

/// It is what Prometheus and screens on walls have: whoever finds it there changes nothing, and
/// gets at nothing that lets in.
#[tokio::test]
async fn a_viewer_of_all_tenants_sees_what_the_administrator_sees_but_secrets() {
    let host = host().await;
    let ask = |path| host.ask_with("everybodys-viewer-token", "GET", path, None);
    for path in ["/v1/functions", "/v1/chains", "/v1/steering", "/v1/ports", "/v1/tenants"] {
        assert_eq!(ask(path).await.text, host.ask("GET", path, None).await.text, "{path}");
    }
    assert_eq!(ask("/v1/chains?tenant=acme").await.json()["items"][0]["chain"]["name"], "edge");
    ask("/v1/chains?tenant=no-such").await.problem(404);
    let metrics = ask("/metrics").await.text;
    for name in ["weir_ports_down", "weir_api_refused_total", "process_open_fds"] {
        assert!(metrics.contains(&format!("\n{name}")), "{name}: {metrics}");
    }
    let new = json!({"role": "viewer", "description": "a new one"});
    let new = host.ask("POST", "/v1/tenants/acme/tokens", Some(new)).await.json();
    let tokens = ask("/v1/tenants/acme/tokens").await.text;
    assert!(tokens.contains("a new one") && !tokens.contains(new["token"].as_str().unwrap()));
    // What is wrong with the file can be a line with a token.
    host.control.reloaded(Err("wrong here: token = \"0123456789abcdef"));
    for path in ["/v1/status", "/v1/events?follow=false"] {
        assert!(host.ask("GET", path, None).await.text.contains("0123456789abcdef"), "{path}");
        let text = ask(path).await.text;
        let told = ["it has a mistake", "the configuration was not taken\""];
        assert!(told.iter().any(|told| text.contains(told)), "{path}: {text}");
        assert!(!text.contains("0123456789abcdef"), "{path}: {text}");
    }
}

/// Many of them take no more of the host than a tenant's do.
#[tokio::test]
async fn viewers_of_all_tenants_have_so_many_streams() {
    let host = host().await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(host.open("everybodys-viewer-token", "/v1/events").await);
    }
    let path = "/v1/events?follow=false";
    let refused = host.ask_with("everybodys-viewer-token", "GET", path, None).await;
    assert!(refused.problem(429).1.starts_with("viewers of all tenants have 16 streams"));
    assert_eq!(host.open("acme-viewer-token", "/v1/events").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stranger_does_not_learn_what_others_have() {
    let host = host().await;
    let ask = |method, path| host.ask_with("beta-operator-token", method, path, None);
    for path in ["/v1/functions/f", "/v1/functions/f/log", "/v1/functions/f/versions/1.0.0"] {
        ask("GET", path).await.problem(404);
    }
    ask("GET", "/v1/chains/edge").await.problem(404);
    ask("DELETE", "/v1/chains/edge").await.problem(404);
    ask("DELETE", "/v1/functions/f").await.problem(404);
    for path in ["/v1/functions", "/v1/chains", "/v1/steering", "/v1/ports"] {
        assert_eq!(ask("GET", path).await.json(), json!({"items": []}), "{path}");
    }
    for path in ["/v1/status", "/metrics", "/v1/events?follow=false", "/v1/tenants"] {
        let text = ask("GET", path).await.text;
        assert!(!text.contains("acme") && !text.contains("edge"), "{path}: {text}");
    }
    // The same names are its own, and free.
    let chain = json!({"name": "edge", "function": [{"use": "f"}]});
    let answer = host.ask_with("beta-operator-token", "PUT", "/v1/chains/edge", Some(chain)).await;
    let (_, detail) = answer.problem(409);
    assert_eq!(
        detail,
        "function[0].use: there is no function f: tenant beta has none (push a function first (`weir function push`))"
    );
}

#[tokio::test]
async fn the_table_has_every_route() {
    let host = Host::new();
    let document = host.ask("GET", "/openapi.json", None).await.json();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    let tested: BTreeSet<(String, String)> =
        ROUTES.into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, tested);
}
