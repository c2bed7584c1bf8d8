//! `/v1/chains` and `/v1/steering`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{Chain, Invalid, Name, Plane};

use super::extract::{Asked, Document, ForTenant, Segments};
use super::{Api, Problem};
use crate::auth::Caller;
use crate::chains::{Applied, ChainView};
use crate::error::ControlError;
use crate::store::ChainId;

/// Lists chains.
#[utoipa::path(get, path = "/v1/chains", tag = "chains", params(ForTenant),
    responses((status = 200, description = "The chains, by name.", body = Vec<ChainView>)))]
pub(super) async fn list_chains(
    State(api): State<Api>,
    caller: Caller,
    Asked(asked): Asked<ForTenant>,
) -> Result<Json<Vec<ChainView>>, Problem> {
    let tenant = caller.filter(asked.tenant)?;
    api.act(move |control| Ok(control.chains(tenant.as_ref()))).await.map(Json)
}

/// Shows a chain.
#[utoipa::path(get, path = "/v1/chains/{name}", tag = "chains",
    params(("name" = Name, Path, description = "The chain."), ForTenant),
    responses((status = 200, description = "The chain.", body = ChainView)))]
pub(super) async fn show_chain(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<Name>,
    Asked(asked): Asked<ForTenant>,
) -> Result<Json<ChainView>, Problem> {
    let id = ChainId::new(&caller.tenant(asked.tenant)?, &name);
    api.act(move |control| control.chain(&id)).await.map(Json)
}

/// Deploys a chain, or changes the one of that name while traffic flows. When it is refused, what ran before runs
/// on.
#[utoipa::path(put, path = "/v1/chains/{name}", tag = "chains",
    params(("name" = Name, Path, description = "The chain."), ForTenant), request_body = Chain,
    responses(
        (status = 201, description = "It was deployed.", body = Applied),
        (status = 200, description = "It was changed.", body = Applied)))]
pub(super) async fn apply_chain(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<Name>,
    Asked(asked): Asked<ForTenant>,
    Document(chain): Document<Chain>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(asked.tenant.or_else(|| chain.tenant.clone()))?;
    if chain.name != name {
        let message = format!("the body's chain is {}, the path's is {name}", chain.name);
        return Err(ControlError::from(Invalid::at("name", message).help("name the same")).into());
    }
    let applied = api.act(move |control| control.apply(&tenant, chain)).await?;
    let status = if applied.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(applied)).into_response())
}

/// Takes a chain down and forgets it.
#[utoipa::path(delete, path = "/v1/chains/{name}", tag = "chains",
    params(("name" = Name, Path, description = "The chain."), ForTenant),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove_chain(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<Name>,
    Asked(asked): Asked<ForTenant>,
) -> Result<StatusCode, Problem> {
    let id = ChainId::new(&caller.tenant(asked.tenant)?, &name);
    api.act(move |control| control.remove_chain(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where the packets of a port go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SteeringRule {
    /// Whose rule it is.
    pub tenant: Name,
    /// Packets that come in by this port
    pub port: Name,
    /// go to this plane
    pub plane: Plane,
    /// and this chain,
    pub chain: Name,
    /// whose functions they pass in reverse order if this is true.
    pub reverse: bool,
}

/// The rules that a chain's ports come to.
fn rules(view: &ChainView) -> Vec<SteeringRule> {
    let chain = &view.chain;
    let reverse = chain.to.as_ref().filter(|_| chain.symmetric).map(|port| (port, true));
    let ports = chain.from.as_ref().map(|port| (port, false)).into_iter().chain(reverse);
    let rule = |(port, reverse): (&Name, bool)| SteeringRule {
        tenant: chain.tenant.clone().unwrap_or_else(Name::default_tenant),
        port: port.clone(),
        plane: chain.plane,
        chain: chain.name.clone(),
        reverse,
    };
    ports.map(rule).collect()
}

/// Lists the rules by which packets are given to chains. They follow from the chains' `from`, `to` and `symmetric`.
#[utoipa::path(get, path = "/v1/steering", tag = "chains", params(ForTenant),
    responses((status = 200, description = "The rules.", body = Vec<SteeringRule>)))]
pub(super) async fn list_steering(
    State(api): State<Api>,
    caller: Caller,
    Asked(asked): Asked<ForTenant>,
) -> Result<Json<Vec<SteeringRule>>, Problem> {
    let tenant = caller.filter(asked.tenant)?;
    let chains = api.act(move |control| Ok(control.chains(tenant.as_ref()))).await?;
    Ok(Json(chains.iter().filter(|view| view.failed.is_none()).flat_map(rules).collect()))
}
