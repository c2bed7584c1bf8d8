//! HTTP exchanges through a function: a client, the gateway with the message plane's own engine,
//! and an upstream, all on the loopback interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weir_gateway::Protocol;
use weir_sandbox::Sandbox;
use weir_spec::ResolvedFunction;

use crate::function::Function;
use crate::listener::{LONG, Listener, Run, Started};
use crate::suite::{
    Exchange, Expect, ExpectExchange, ExpectRequest, ExpectUpstream, Field, Request,
};
use crate::upstream::{Got, Upstream};

/// Runs the exchanges, and waits for what is expected of counters and gauges.
pub(crate) fn run(
    sandbox: &Arc<Sandbox>,
    function: &Function,
    resolved: &ResolvedFunction,
    exchanges: &[Exchange],
    expect: &Expect,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream = runtime.block_on(Upstream::start())?;
    let started = Listener::start(sandbox, function, resolved, Protocol::Http, upstream.address)?;
    let listener = match started {
        Started::Refused(message, log) => return Ok(Run::Refused(message, log)),
        Started::Failed(message, log) => return Ok(Run::Failed(message, log)),
        Started::Listens(listener) => listener,
    };
    let mut problems = Vec::new();
    for (n, exchange) in exchanges.iter().enumerate() {
        let mut script = upstream.script();
        script.response = exchange.response.clone();
        script.got.clear();
        drop(script);
        let answered = runtime.block_on(async {
            let sent = tokio::time::timeout(LONG, send(listener.address, &exchange.request));
            sent.await.unwrap_or_else(|_| Err(anyhow!("there was no answer for {LONG:?}")))
        });
        let got = std::mem::take(&mut upstream.script().got);
        let found = match answered {
            Ok(answer) => compare(&exchange.expect, &answer, &got),
            Err(error) => vec![format!("{error:#}")],
        };
        let Request { method, path, .. } = &exchange.request;
        problems.extend(
            found.into_iter().map(|what| format!("exchange {} ({method} {path}): {what}", n + 1)),
        );
    }
    Ok(Run::Done(listener.finish(problems, expect)))
}

/// A response as it came.
struct Answer {
    status: u16,
    fields: hyper::HeaderMap,
    body: Vec<u8>,
}

/// Sends a request just as it is written: no client library makes the path another one.
async fn send(to: SocketAddr, request: &Request) -> Result<Answer> {
    let stream = TcpStream::connect(to).await.context("connecting to the gateway")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let mut built = hyper::Request::builder().method(request.method.as_str()).uri(&request.path);
    if !request.fields.keys().any(|name| name.eq_ignore_ascii_case("host")) {
        built = built.header("host", "test");
    }
    for (name, value) in &request.fields {
        built = built.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body.clone()));
    let built = built.body(body).context("the request is none")?;
    let response = sender.send_request(built).await.context("there was no answer")?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.context("the answer's body was cut off")?.to_bytes().to_vec();
    driving.abort();
    Ok(Answer { status: parts.status.as_u16(), fields: parts.headers, body })
}

fn compare(expect: &ExpectExchange, answer: &Answer, got: &[Got]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut said = |what: &str, expected: String, found: String| {
        if expected != found {
            problems.push(format!("{what}: expected {expected}, got {found}"));
        }
    };
    if let Some(status) = expect.status {
        said("status", status.to_string(), answer.status.to_string());
    }
    if let Some(body) = &expect.body {
        said("body", format!("{body:?}"), text(&answer.body));
    }
    fields("", &expect.fields, &answer.fields, &mut said);
    match (&expect.upstream, got.first()) {
        (Some(ExpectUpstream::Reached(reached)), _) => {
            let was = |reached| if reached { "a request" } else { "nothing" }.to_owned();
            said("upstream", was(*reached), was(!got.is_empty()));
        }
        (Some(ExpectUpstream::Request(_)), None) => {
            said("upstream", "a request".into(), "nothing".into());
        }
        (Some(ExpectUpstream::Request(expect)), Some(got)) => {
            let ExpectRequest { method, path, fields: wanted, body } = expect;
            if let Some(method) = method {
                said("upstream: method", method.clone(), got.method.clone());
            }
            if let Some(path) = path {
                said("upstream: path", path.clone(), got.path.clone());
            }
            if let Some(body) = body {
                said("upstream: body", format!("{body:?}"), text(&got.body));
            }
            fields("upstream: ", wanted, &got.fields, &mut said);
        }
        (None, _) => {}
    }
    problems
}

fn fields(
    whose: &str,
    expected: &BTreeMap<String, Field>,
    found: &hyper::HeaderMap,
    said: &mut impl FnMut(&str, String, String),
) {
    for (name, field) in expected {
        let values: Vec<_> =
            found.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
        let what = format!("{whose}field {name}");
        let there = |there| if there { "one" } else { "none" }.to_owned();
        match field {
            Field::There(expected) => said(&what, there(*expected), there(!values.is_empty())),
            Field::Value(value) => {
                let none = values.is_empty();
                said(
                    &what,
                    format!("{value:?}"),
                    if none { "none".into() } else { values.join(", ") },
                );
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
