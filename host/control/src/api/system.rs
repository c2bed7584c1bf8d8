//! `/v1/status`, `ports`, `steering`, `events`, `/metrics`, `/healthz`, `/readyz`, `/openapi.json`

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::{Extension, Json};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};
use weir_spec::Name;

use super::extract::InQuery;
use super::places::Place;
use super::problem::Problem;
use super::stay::Stay;
use super::{Api, List, OfTenant};
use crate::auth::Caller;
use crate::control::{Control, HostState, Status};
use crate::engine::PortStatus;
use crate::events::{Event, EventKind};
use crate::metrics::{Format, Process};

/// Shows how everything is: ports, chains, functions, counts, pools, trials.
#[utoipa::path(get, path = "/v1/status", tag = "host", operation_id = "status", params(OfTenant),
    responses((status = 200, description = "How it is now.", body = Status)))]
pub(super) async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Json<Status>, Problem> {
    let tenant = caller.filter(query.tenant)?;
    let status = api.run(move |control| Ok(control.status(tenant.as_ref()))).await?;
    Ok(Json(if caller.is_admin() { status } else { status.without_secrets() }))
}

/// Lists ports with their counts.
#[utoipa::path(get, path = "/v1/ports", tag = "host", operation_id = "list_ports", params(OfTenant),
    responses((status = 200, description = "The ports.", body = List<PortStatus>)))]
pub(super) async fn ports(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Json<List<PortStatus>>, Problem> {
    let tenant = caller.filter(query.tenant)?;
    let status = api.run(move |control| Ok(control.status(tenant.as_ref()))).await?;
    Ok(Json(List { items: status.engine.ports }))
}

/// One of the stream, as a client's parser of server-sent events gives it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "says in the OpenAPI document what `sent` makes")]
struct ServerSentEvent {
    /// The number of the event.
    id: String,
    /// Its kind.
    event: EventKind,
    /// All of it: JSON, as the schema `Event` says.
    data: String,
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only events about this tenant's things.
    tenant: Option<Name>,
    /// Only events after this number; the header `Last-Event-ID` goes before.
    after: Option<u64>,
    /// `false`: end after the events that are kept.
    follow: Option<bool>,
}

/// The header with which a client that was cut off goes on.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "says in the OpenAPI document what `after` reads")]
struct LastEventId {
    /// Only events after this number.
    #[param(rename = "last-event-id", nullable = false)]
    last_event_id: Option<u64>,
}

/// What happened, and what happens: server-sent events.
#[utoipa::path(get, path = "/v1/events", tag = "host", operation_id = "events",
    params(EventsQuery, LastEventId),
    responses((status = 200, description = "Events, until the client goes or the host stops.",
        body = ServerSentEvent, content_type = "text/event-stream")))]
pub(super) async fn events(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<EventsQuery>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let tenant = caller.filter(query.tenant)?;
    let last = after(&headers, query.after)?;
    let place = api.places.stream(&caller)?;
    let whole = caller.is_admin();
    let stay = Stay::new(&api, caller);
    let end = Extension(stay.clone());
    // First this: what happens from now on is not missed.
    let coming = api.control.events().coming();
    let now = *coming.borrow();
    let past = api.control.events().after(tenant.as_ref(), last);
    let listener = Listener {
        // Whoever waits for the first one is told of those that it misses from now on.
        last: if past.is_empty() { now } else { last },
        past: past.into(),
        control: api.control,
        tenant,
        coming: query.follow.unwrap_or(true).then_some(coming),
        whole,
        stay,
        _place: place,
    };
    let events = stream::unfold(listener, async |mut listener| {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(sent(&event)), listener))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok((end, events))
}

/// Somebody who is told events.
struct Listener {
    control: Arc<Control>,
    tenant: Option<Name>,
    past: VecDeque<Event>,
    /// The number of the last one that was told.
    last: u64,
    /// None: there is an end to it, behind those of the past.
    coming: Option<watch::Receiver<u64>>,
    /// Whether it is told all of an event.
    whole: bool,
    stay: Stay,
    _place: [Place; 2],
}

impl Listener {
    /// The next event; one that is too slow is told that some are lost.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.stay.is_over() {
                return None;
            }
            if let Some(event) = self.past.pop_front() {
                self.last = event.id;
                return Some(if self.whole { event } else { event.without_secrets() });
            }
            let coming = self.coming.as_mut()?;
            // What has happened is told even when the host stops.
            tokio::select! {
                biased;
                changed = coming.changed() => changed.ok()?,
                () = self.stay.end() => return None,
            }
            self.past = self.control.events().after(self.tenant.as_ref(), self.last).into();
        }
    }
}

/// The number that events have to come after: that of the header, else that of the query.
#[expect(clippy::result_large_err, reason = "at most once in a request, which then ends")]
fn after(headers: &HeaderMap, query: Option<u64>) -> Result<u64, Problem> {
    let number = match headers.get("last-event-id") {
        None => Some(query.unwrap_or(0)),
        Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()),
    };
    // As large as the document says.
    number.filter(|number| i64::try_from(*number).is_ok()).ok_or_else(|| {
        let detail = format!("an event's number is a whole number from 0 to {}", i64::MAX);
        Problem::new(StatusCode::BAD_REQUEST, "syntax", detail)
    })
}

fn sent(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.id.to_string()).event(event.kind.name()).data(data)
}

/// Counters and gauges for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "host", operation_id = "metrics",
    responses((status = 200, description = "OpenMetrics text, or the one of before if `Accept` asks for `text/plain` alone.",
        content((String = "application/openmetrics-text"), (String = "text/plain")))))]
pub(super) async fn metrics(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let tenant = caller.filter(None)?;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::of(accept.unwrap_or_default());
    let text = api.run(move |control| {
        let (status, reasons) = (control.status(tenant.as_ref()), control.engine.reasons());
        let process = tenant.is_none().then(Process::read);
        Ok(crate::metrics::encode(&status, reasons, process.as_ref(), format))
    });
    Ok(([(header::CONTENT_TYPE, format.media_type())], text.await?))
}

/// Whether the host is there: for whoever would start it anew. That it answers says it.
#[utoipa::path(get, path = "/healthz", tag = "host", operation_id = "healthz", security(()),
    responses((status = 200, description = "It is.", body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the host is ready: for whoever sends traffic to it. It is when the chains that it had
/// are deployed again, or are not waited for any longer, until it is told to stop.
#[utoipa::path(get, path = "/readyz", tag = "host", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "It is.", body = String, content_type = "text/plain"),
        (status = 503, description = "It starts, or stops.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    let (code, detail) = match api.control.state() {
        HostState::Ready => return Ok("ready\n"),
        HostState::Starting => {
            ("starting", "the host is starting: its chains are not all deployed")
        }
        HostState::Draining => ("stopping", "the host stops"),
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "host", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
pub(super) async fn openapi() -> impl IntoResponse {
    // Made once: anybody may ask for it.
    static TEXT: LazyLock<String> = LazyLock::new(|| super::document().to_string());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}
