//! `/v1/steering`

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use weir_spec::Steering;

use super::extract::{self, InQuery};
use super::problem::Problem;
use super::{Api, List, OfTenant};
use crate::auth::Caller;
use crate::engine::EngineError;
use crate::steering::{Steered, SteeringEntry};

/// Bytes of a body: as many rules as there can be, with everything in them that a rule can have.
const BODY_MAX: usize = 64 << 20;

/// Lists which packets go where: the rules, in the order in which they are compared, and then what follows from chains'
/// `from`, `to` and `symmetric` for packets that no rule means.
#[utoipa::path(get, path = "/v1/steering", tag = "steering", operation_id = "list_steering", params(OfTenant),
    responses((status = 200, description = "The rules.", body = List<SteeringEntry>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = caller.filter(query.tenant)?;
    // Many rules take their time to write.
    let text = api.run(move |control| {
        let list = List { items: control.steering(tenant.as_ref()) };
        serde_json::to_vec(&list).map_err(|e| EngineError::Internal(e.to_string()).into())
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], text.await?))
}

/// Replaces all rules of a tenant, while traffic flows: a packet sees those before or these, never some of each. When
/// it is refused, those before are still in force. TOML, as files have it, may be up to a mebibyte.
#[utoipa::path(put, path = "/v1/steering", tag = "steering", operation_id = "apply_steering", params(OfTenant),
    request_body(content((Steering = "application/json"), (String = "application/toml"))),
    responses((status = 200, description = "They are in force.", body = Steered)))]
pub(super) async fn apply(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
    extract::FileBody(steering): extract::FileBody<Steering, BODY_MAX>,
) -> Result<Json<Steered>, Problem> {
    let tenant = caller.tenant(query.tenant)?;
    api.change(&caller, move |control| control.steer(&tenant, steering)).await.map(Json)
}
