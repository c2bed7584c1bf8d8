//! `/v1/steering`

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use weir_spec::Steering;

use super::extract::{Conditions, File, InQuery, condition, etag};
use super::places::Length;
use super::problem::Problem;
use super::{Api, List, OfTenant};
use crate::auth::Caller;
use crate::control::Control;
use crate::steering::{Steered, SteeringEntry};

/// Bytes of a body: as many rules as there can be, with everything in them that a rule can have.
const BODY_MAX: usize = 64 << 20;

/// Lists which packets go where: the rules, in the order in which they are compared, and then what
/// follows from chains' `from`, `to` and `symmetric` for packets that no rule means.
#[utoipa::path(get, path = "/v1/steering", tag = "steering", operation_id = "list_steering", params(OfTenant),
    responses((status = 200, description = "The rules.", body = List<SteeringEntry>,
        headers(("etag" = String, description = "Names the tenant's rules, for `If-Match`; of no rules, and of those of all tenants, there is none.")))))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let tenant = caller.filter(query.tenant)?;
    let shown = move |control: &Control| {
        let tag = tenant.as_ref().and_then(|tenant| control.steering_tag(tenant));
        Ok((List { items: control.steering(tenant.as_ref()) }, tag))
    };
    api.show_tagged(&caller, shown).await
}

/// Replaces all rules of a tenant, while traffic flows: a packet sees those before or these, never
/// some of each. When it is refused, those before are still in force. TOML, as files have it, may
/// be up to a mebibyte.
#[utoipa::path(put, path = "/v1/steering", tag = "steering", operation_id = "apply_steering", params(OfTenant, Conditions),
    request_body(content((Steering = "application/json"), (String = "application/toml"))),
    responses((status = 200, description = "They are in force.", body = Steered,
        headers(("etag" = String, description = "Names them, for `If-Match`; of no rules there is none.")))))]
pub(super) async fn apply(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<(HeaderMap, Json<Steered>), Problem> {
    let tenant = caller.tenant(query.tenant)?;
    let condition = condition(&headers)?;
    // First the places: what waits for one takes no memory.
    let large = api.places.large(&caller, Length::of(&body, BODY_MAX)).await;
    let place = api.places.change(&caller).await;
    let file = File::any(&headers, body, BODY_MAX).await?;
    let steered = api.begin(&caller, move |control| {
        let _places = (large, place);
        Ok(control.steer(&tenant, file.parse()?, &condition)?)
    });
    let steered: Steered = steered.await?;
    Ok((etag(steered.tag.as_deref()), Json(steered)))
}
