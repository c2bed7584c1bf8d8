//! `/v1/chains`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use weir_spec::{Chain, ChainTrace, Name, TapFormat, TapRequest, TappedPacket, TraceRequest};

use super::extract::{self, InPath, InQuery};
use super::places::Length;
use super::problem::Problem;
use super::stay::Stay;
use super::{Api, List, OfTenant, tap};
use crate::auth::Caller;
use crate::chains::{Applied, ChainView};
use crate::control::Control;
use crate::store::ChainId;

/// Lists chains.
#[utoipa::path(get, path = "/v1/chains", tag = "chains", operation_id = "list_chains", params(OfTenant),
    responses((status = 200, description = "The chains, by name.", body = List<ChainView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let tenant = caller.filter(query.tenant)?;
    api.show(&caller, move |control| Ok(List { items: control.chains(tenant.as_ref()) })).await
}

/// Shows a chain.
#[utoipa::path(get, path = "/v1/chains/{name}", tag = "chains", operation_id = "show_chain",
    params(("name" = Name, Path, description = "The chain."), OfTenant),
    responses((status = 200, description = "The chain.", body = ChainView,
        headers(("etag" = String, description = "Names it as it is, for `If-Match`.")))))]
pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let id = ChainId::new(&caller.tenant(query.tenant)?, &name);
    let shown = move |control: &Control| {
        let (view, tag) = control.chain(&id)?;
        Ok((view, Some(tag)))
    };
    api.show_tagged(&caller, shown).await
}

/// Deploys a chain, or changes the one of that name while traffic flows. When it is refused, what
/// ran before runs on.
#[utoipa::path(put, path = "/v1/chains/{name}", tag = "chains", operation_id = "apply_chain",
    params(("name" = Name, Path, description = "The chain."), OfTenant, extract::Conditions), request_body = Chain,
    responses(
        (status = 201, description = "It was deployed.", body = Applied,
            headers(("etag" = String, description = "Names what is there now, for `If-Match`."))),
        (status = 200, description = "It was changed.", body = Applied,
            headers(("etag" = String, description = "Names what is there now, for `If-Match`.")))))]
pub(super) async fn apply(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let condition = extract::condition(&headers)?;
    // First the places: what waits for one takes no memory.
    let large = api.places.large(&caller, Length::of(&body, extract::CHAIN_MAX)).await;
    let place = api.places.change(&caller).await;
    let file = extract::File::json(&headers, body, extract::CHAIN_MAX).await?;
    let by = caller.clone();
    let applied = api.begin(&caller, move |control| {
        let _places = (large, place);
        let chain: Chain = file.parse()?;
        let tenant = by.tenant(query.tenant.or_else(|| chain.tenant.clone()))?;
        if chain.name != name {
            let detail = format!(
                "the body's chain is {}, the path's is {name}: use the same name in both",
                chain.name
            );
            return Err(Box::new(Problem::new(StatusCode::CONFLICT, "conflict", detail)));
        }
        Ok(control.apply(&tenant, chain, &condition)?)
    });
    let applied = applied.await?;
    let status = if applied.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, extract::etag(Some(&applied.tag)), Json(applied)).into_response())
}

/// Follows packets through a chain while it runs: which functions saw them, what each decided, and
/// what it changed.
#[utoipa::path(post, path = "/v1/chains/{name}/trace", tag = "chains", operation_id = "trace_chain",
    params(("name" = Name, Path, description = "The chain."), OfTenant), request_body = TraceRequest,
    responses((status = 200, description = "As many as came in time.", body = ChainTrace)))]
pub(super) async fn trace(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
    extract::Json(request): extract::Json<TraceRequest>,
) -> Result<Json<ChainTrace>, Problem> {
    let id = ChainId::new(&caller.tenant(query.tenant)?, &name);
    let place = api.places.trace(&caller).await;
    let trace = api.begin(&caller, move |control| {
        let _place = place;
        Ok(control.trace(&id, &request)?)
    });
    trace.await.map(Json)
}

/// Copies packets of a chain while it runs, until the client goes: those that come to it and leave
/// it, or to and from one of its functions.
#[utoipa::path(post, path = "/v1/chains/{name}/tap", tag = "chains", operation_id = "tap_chain",
    params(("name" = Name, Path, description = "The chain."), OfTenant), request_body = TapRequest,
    responses((status = 200, description = "The packets, as they come.", content(
        (String = "application/x-pcapng"), (TappedPacket = "application/x-ndjson")))))]
pub(super) async fn tap(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
    extract::Json(request): extract::Json<TapRequest>,
) -> Result<Response, Problem> {
    let id = ChainId::new(&caller.tenant(query.tenant)?, &name);
    let kind = match request.format {
        TapFormat::Pcapng => "application/x-pcapng",
        TapFormat::Json => "application/x-ndjson",
    };
    let place = api.places.stream(&caller)?;
    let stay = Stay::new(&api, caller);
    let tap = api.run(move |control| control.tap(&id, &request)).await?;
    let end = Extension(stay.clone());
    Ok((end, [(header::CONTENT_TYPE, kind)], tap::body(tap, place, stay)).into_response())
}

/// Takes a chain down and forgets it.
#[utoipa::path(delete, path = "/v1/chains/{name}", tag = "chains", operation_id = "remove_chain",
    params(("name" = Name, Path, description = "The chain."), OfTenant, extract::Conditions),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let condition = extract::condition(&headers)?;
    let id = ChainId::new(&caller.tenant(query.tenant)?, &name);
    api.change(&caller, move |control| control.remove_chain(&id, &condition)).await?;
    Ok(StatusCode::NO_CONTENT)
}
