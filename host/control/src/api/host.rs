//! What is of the host: status, ports, metrics, events.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response, sse};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::{broadcast, watch};
use utoipa::IntoParams;
use weir_spec::Name;

use super::extract::{Asked, ForTenant};
use super::{Api, Problem};
use crate::auth::Caller;
use crate::control::Status;
use crate::engine::PortStatus;
use crate::events::Event;
use crate::metrics;

/// Shows how everything is.
#[utoipa::path(get, path = "/v1/status", tag = "host", params(ForTenant),
    responses((status = 200, description = "How it is.", body = Status)))]
pub(super) async fn status(
    State(api): State<Api>,
    caller: Caller,
    Asked(asked): Asked<ForTenant>,
) -> Result<Json<Status>, Problem> {
    let tenant = caller.filter(asked.tenant)?;
    api.act(move |control| Ok(control.status(tenant.as_ref()))).await.map(Json)
}

/// Lists the host's ports.
#[utoipa::path(get, path = "/v1/ports", tag = "host", params(ForTenant),
    responses((status = 200, description = "The ports, in the configuration's order.", body = Vec<PortStatus>)))]
pub(super) async fn list_ports(
    State(api): State<Api>,
    caller: Caller,
    Asked(asked): Asked<ForTenant>,
) -> Result<Json<Vec<PortStatus>>, Problem> {
    let tenant = caller.filter(asked.tenant)?;
    let status = api.act(move |control| Ok(control.status(tenant.as_ref()))).await?;
    Ok(Json(status.engine.ports))
}

/// Metrics for Prometheus. A tenant's token sees that tenant's.
#[utoipa::path(get, path = "/metrics", tag = "host",
    responses((status = 200, description = "OpenMetrics text.", body = String,
        content_type = "application/openmetrics-text")))]
pub(super) async fn show_metrics(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Response, Problem> {
    let tenant = caller.filter(None)?;
    let status = api.act(move |control| Ok(control.status(tenant.as_ref()))).await?;
    let text = metrics::text(status).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("writing metrics: {error}"))
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// From where on events are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventParams {
    /// Events with greater numbers only. The header `Last-Event-ID`, which browsers send when they come
    /// again, goes before it.
    #[param(nullable = false)]
    after: Option<u64>,
    /// Whose events; without it those of the token's tenant, everybody's for the administrator.
    #[param(value_type = Option<Name>, nullable = false)]
    tenant: Option<Name>,
}

/// Events as they happen, as server-sent events: first those that are kept, then those to come. `event` is the
/// kind, `id` the number, `data` the event as JSON. A listener that is too slow is cut off, and comes again with
/// `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/events", tag = "host", params(EventParams),
    responses((status = 200, description = "Events, without end.", body = Event,
        content_type = "text/event-stream")))]
pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Asked(asked): Asked<EventParams>,
) -> Result<Response, Problem> {
    let tenant = caller.filter(asked.tenant)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (past, coming) = api.control.events().after(last.or(asked.after).unwrap_or(0));
    let feed = Feed { past: past.into_iter(), coming, stopping: api.stopping.clone(), tenant };
    Ok(Sse::new(feed.stream()).keep_alive(KeepAlive::default()).into_response())
}

/// Events for one listener.
struct Feed {
    past: std::vec::IntoIter<Event>,
    coming: broadcast::Receiver<Event>,
    stopping: watch::Receiver<bool>,
    tenant: Option<Name>,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut feed| async move {
            loop {
                let event = feed.next().await?;
                if feed.tenant.is_some() && feed.tenant != event.tenant {
                    continue;
                }
                let message = sse::Event::default()
                    .id(event.id.to_string())
                    .event(event.kind.name())
                    .json_data(&event);
                // Events are plain text and numbers: they always become JSON.
                if let Ok(message) = message {
                    return Some((Ok(message), feed));
                }
            }
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.past.next() {
            return Some(event);
        }
        tokio::select! {
            event = self.coming.recv() => event.ok(),
            _ = self.stopping.wait_for(|stopping| *stopping) => None,
        }
    }
}
