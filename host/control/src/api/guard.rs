//! What every request passes: who calls, how long it may take, and that even a wrong path ends as a
//! problem document.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use hyper::body::{Frame, SizeHint};
use serde::Deserialize;
use weir_spec::Name;

use super::Api;
use super::asked::{PATH_MAX, shortened};
use super::problem::Problem;
use super::strangers::Stranger;
use crate::auth::Caller;
use crate::error::ControlError;

/// Longest time for which the rest of a refused body is read and thrown away.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of it at most.
const LINGER_BYTES: usize = 128 << 20;

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// By the Unix socket: whoever may open it is the administrator.
    Local,
    /// By TCP: needs a token.
    Remote,
}

pub(super) fn guard(router: Router<Api>, api: &Api) -> Router<Api> {
    router
        // Of requests that there are only: others are told so, whatever they ask.
        .route_layer(middleware::from_fn_with_state(api.clone(), of_a_known_tenant))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), in_time))
        .layer(middleware::from_fn_with_state(api.clone(), who))
        .layer(middleware::from_fn(linger))
}

async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!("there is no {}; /openapi.json says what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} knows no {method}; /openapi.json says what it knows", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
}

/// Finds out who calls and whether they may change anything, before anything else is looked at.
async fn who(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().clone());
    let (caller, response) = let_in(&api, request, next).await;
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        && let Some(left_out) = api.control.refusals.note(status.as_u16())
    {
        let caller = caller.as_ref().map_or("", Caller::name);
        let (path, status) = (&*shortened(path.path(), PATH_MAX), status.as_u16());
        tracing::warn!(caller, %method, path, status, left_out, "refused");
    }
    let Some(problem) = response.extensions().get::<Problem>() else { return response };
    if status.is_server_error() {
        tracing::error!(status = problem.status, code = problem.code, "{}", problem.detail);
    }
    match (problem.public, caller.as_ref().and_then(Caller::own_tenant)) {
        (Some(public), Some(_)) => {
            Problem { detail: public.to_owned(), ..problem.clone() }.into_response()
        }
        _ => response,
    }
}

/// The caller, if it is known, and the response.
async fn let_in(api: &Api, mut request: Request, next: Next) -> (Option<Caller>, Response) {
    let open = matches!(request.uri().path(), "/openapi.json" | "/healthz" | "/readyz");
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Local) => Some(Caller::local()),
        Some(Peer::Remote) | None => bearer(&request).and_then(|token| api.control.caller(token)),
    };
    let Some(caller) = caller else {
        if open {
            return (None, last(next.run(request).await));
        }
        let detail = "a token that this host knows is needed: `Authorization: Bearer TOKEN` (`weir --token`)";
        return (None, last(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)));
    };
    if let Some(stranger) = request.extensions().get::<Stranger>() {
        stranger.leave();
    }
    let _place = match api.places.request(&caller) {
        Ok(place) => place,
        Err(refused) => return (Some(caller), last(refused)),
    };
    let response = if request.method().is_safe() {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    } else {
        change(api, &caller, request, next).await
    };
    (Some(caller), response)
}

/// An answer that is the last one of its connection: others may have it.
fn last(answer: impl IntoResponse) -> Response {
    ([(header::CONNECTION, "close")], answer).into_response()
}

/// Lets a request through that changes something, if it may, and notes whose it was.
async fn change(api: &Api, caller: &Caller, mut request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match caller.may_change().and_then(|()| api.control.takes_changes()) {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(refused) => Problem::from(refused).into_response(),
    };
    let why = response.extensions().get::<Problem>();
    api.asked.tell(caller, &method, &uri, response.status(), why);
    response
}

async fn of_a_known_tenant(State(api): State<Api>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    match caller.map_or(Ok(()), |caller| known(&api, caller, request.uri())) {
        Ok(()) => next.run(request).await,
        Err(unknown) => Problem::from(unknown).into_response(),
    }
}

/// Whether there is the tenant that an administrator asks for. Whoever has one may not know which
/// others there are.
fn known(api: &Api, caller: &Caller, uri: &Uri) -> Result<(), ControlError> {
    #[derive(Deserialize)]
    struct Asked {
        tenant: Option<Name>,
    }
    match Query::<Asked>::try_from_uri(uri) {
        Ok(Query(Asked { tenant: Some(tenant) })) if caller.own_tenant().is_none() => {
            api.control.known_tenant(&tenant)
        }
        // What is wrong with the query is said by whoever takes it.
        _ => Ok(()),
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Ends what takes too long to answer. A stream has answered when it begins.
async fn in_time(State(api): State<Api>, request: Request, next: Next) -> Response {
    let limit = api.limits().timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("the request took longer than {limit:?}; a change may still take effect");
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail).into_response()
        }
    }
}

/// Takes in what a client still sends when its request is refused before it was read: otherwise the
/// connection is closed under it, and it sees that instead of our answer. Who asks first (`Expect:
/// 100-continue`) sends nothing.
async fn linger(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let mut rest = Lent(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(rest.clone()))).await;
    let drained = async {
        let mut bytes = 0;
        while bytes < LINGER_BYTES
            && let Some(Ok(frame)) =
                std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await
        {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Too late, or cut off: there is nobody left to be told.
    drop(tokio::time::timeout(LINGER, drained).await);
    response
}

/// A body that is read by a handler, and then to its end by whoever lent it.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}
