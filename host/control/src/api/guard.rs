//! What every request passes: who calls, how long it may take, and that even a wrong path ends as a
//! problem document.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::problem::Problem;
use crate::auth::Caller;

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
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), in_time))
        .layer(middleware::from_fn_with_state(api.clone(), who))
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
async fn who(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let open = request.uri().path() == "/openapi.json";
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Local) => Some(Caller::admin()),
        Some(Peer::Remote) | None => bearer(&request).and_then(|token| api.control.caller(token)),
    };
    match caller {
        Some(caller) => {
            if !request.method().is_safe()
                && let Err(forbidden) = caller.may_change()
            {
                return Problem::from(forbidden).into_response();
            }
            request.extensions_mut().insert(caller);
        }
        None if open => {}
        None => {
            let detail = "a token that this host knows is needed: `Authorization: Bearer TOKEN` (`weir --token`)";
            return Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
        }
    }
    next.run(request).await
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
