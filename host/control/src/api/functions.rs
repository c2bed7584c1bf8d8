//! `/v1/functions`

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Json};
use semver::Version;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use weir_spec::{Invalid, Name, SwapReport, VersionSchema};

use super::extract::{self, InPath, InQuery};
use super::places::Length;
use super::problem::Problem;
use super::{Api, List, OfTenant};
use crate::auth::Caller;
use crate::control::Control;
use crate::engine::{FunctionLog, TrialKind};
use crate::functions::{Function, FunctionVersion, Pushed};
use crate::rollout::SwapMode;
use crate::store::FunctionId;

/// Media types of an upload.
const WASM: [&str; 2] = ["application/wasm", "application/octet-stream"];

/// Lists functions.
#[utoipa::path(get, path = "/v1/functions", tag = "functions", operation_id = "list_functions",
    params(OfTenant),
    responses((status = 200, description = "The functions.", body = List<Function>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let tenant = caller.filter(query.tenant)?;
    api.show(&caller, move |control| Ok(List { items: control.functions(tenant.as_ref()) })).await
}

/// Shows a function: its versions, and where it runs.
#[utoipa::path(get, path = "/v1/functions/{name}", tag = "functions", operation_id = "show_function",
    params(("name" = Name, Path, description = "The function."), OfTenant),
    responses((status = 200, description = "The function.", body = Function)))]
pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    api.show(&caller, move |control| control.function(&id)).await
}

/// Removes a function with all its versions, unless a chain uses it.
#[utoipa::path(delete, path = "/v1/functions/{name}", tag = "functions", operation_id = "remove_function",
    params(("name" = Name, Path, description = "The function."), OfTenant),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<StatusCode, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    api.change(&caller, move |control| control.remove_function(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a function's versions, oldest first.
#[utoipa::path(get, path = "/v1/functions/{name}/versions", tag = "functions", operation_id = "list_versions",
    params(("name" = Name, Path, description = "The function."), OfTenant),
    responses((status = 200, description = "The versions.", body = List<FunctionVersion>)))]
pub(super) async fn versions(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Response, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    let versions = move |control: &Control| Ok(List { items: control.function(&id)?.versions });
    api.show(&caller, versions).await
}

/// Shows one version.
#[utoipa::path(get, path = "/v1/functions/{name}/versions/{version}", tag = "functions", operation_id = "show_version",
    params(("name" = Name, Path, description = "The function."),
        ("version" = VersionSchema, Path, description = "The version."), OfTenant),
    responses((status = 200, description = "The version.", body = FunctionVersion)))]
pub(super) async fn version(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath((name, version)): InPath<(Name, Version)>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<Json<FunctionVersion>, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    let mut found = api.run(move |control| control.function(&id)).await?.versions.into_iter();
    found.find(|v| v.version == version).map(Json).ok_or_else(|| {
        let detail = format!("function {name} has no version {version}");
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    })
}

/// Removes one version, unless a chain runs it.
#[utoipa::path(delete, path = "/v1/functions/{name}/versions/{version}", tag = "functions", operation_id = "remove_version",
    params(("name" = Name, Path, description = "The function."),
        ("version" = VersionSchema, Path, description = "The version."), OfTenant),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove_version(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath((name, version)): InPath<(Name, Version)>,
    InQuery(query): InQuery<OfTenant>,
) -> Result<StatusCode, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    api.change(&caller, move |control| control.remove_version(&id, &version)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Bytes, in the OpenAPI document.
struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Binary {}

/// The query of an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PushQuery {
    /// Whose function it is.
    tenant: Option<Name>,
    /// Its version; without it that of its manifest, or the patch after the newest.
    #[param(value_type = Option<VersionSchema>)]
    version: Option<Version>,
}

/// Uploads a version: a component, or a core module that carries its component type. Its manifest
/// (`function.toml`) is the custom section `weir:manifest`; the last one counts. The same content
/// again is the same version again; chains that do not run because it was damaged on the disk are
/// deployed.
#[utoipa::path(post, path = "/v1/functions/{name}/versions", tag = "functions", operation_id = "push_version",
    params(("name" = Name, Path, description = "The function; it is made if it is new."), PushQuery),
    request_body(description = "The Wasm.", content(
        (Binary = "application/wasm"), (Binary = "application/octet-stream"))),
    responses(
        (status = 201, description = "It was taken.", body = Pushed,
            headers(("location" = String, description = "Where the version is."))),
        (status = 200, description = "It was there before.", body = Pushed)))]
pub(super) async fn push(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<PushQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, [(header::HeaderName, String); 1], Json<Pushed>), Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    extract::require_type(&headers, &WASM)?;
    let most = api.limits().upload;
    let places = api.places.upload(&id.tenant, Length::of(&body, most)).await;
    let wasm = extract::read(body, most).await?;
    let pushed = api.change(&caller, move |control| {
        let _places = places;
        control.push(&id, query.version, &wasm)
    });
    let pushed = pushed.await?;
    let status = if pushed.new { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/v1/functions/{name}/versions/{}", pushed.version.version);
    Ok((status, [(header::LOCATION, location)], Json(pushed)))
}

/// What to swap to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapRequest {
    /// The version that shall run.
    #[schema(value_type = VersionSchema)]
    pub to: Version,
    /// Give it only this share of the flows, in percent, until the swap is asked for again without
    /// this.
    #[serde(default, deserialize_with = "percent")]
    #[schema(minimum = 1, maximum = 99)]
    pub canary: Option<u8>,
    /// Show it copies only, and report where its verdicts differ.
    #[serde(default)]
    pub shadow: bool,
}

/// A percentage; as in JSON Schema, `5.0` is a whole number too.
fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    let Some(given) = Option::<serde_json::Value>::deserialize(from)? else { return Ok(None) };
    match (1..=99).find(|percent| given.as_f64() == Some(f64::from(*percent))) {
        Some(percent) => Ok(Some(percent)),
        None => Err(serde::de::Error::custom(format!(
            "{given} percent of the flows; allowed are whole numbers from 1 to 99"
        ))),
    }
}

impl SwapRequest {
    fn mode(&self) -> Result<SwapMode, Invalid> {
        match (self.canary, self.shadow) {
            (None, false) => Ok(SwapMode::Full),
            (Some(percent), false) => Ok(SwapMode::Try(TrialKind::Canary(percent))),
            (None, true) => Ok(SwapMode::Try(TrialKind::Shadow)),
            (Some(_), true) => {
                Err(Invalid::at("canary", "`canary` and `shadow` exclude each other")
                    .help("leave one of them out"))
            }
        }
    }
}

/// Replaces the running version in all chains that use the function, with no packet lost.
#[utoipa::path(post, path = "/v1/functions/{name}/swap", tag = "functions", operation_id = "swap_function",
    params(("name" = Name, Path, description = "The function."), OfTenant),
    request_body(content = SwapRequest),
    responses((status = 200, description = "It runs, or is being tried.", body = SwapReport)))]
pub(super) async fn swap(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<OfTenant>,
    extract::Json(request): extract::Json<SwapRequest>,
) -> Result<Json<SwapReport>, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    let mode = request.mode().map_err(|invalid| Problem::invalid(&invalid))?;
    Ok(Json(api.change(&caller, move |control| control.swap(&id, &request.to, mode)).await?))
}

/// The query of a rollback.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RollbackQuery {
    /// Whose function it is.
    tenant: Option<Name>,
    /// The version to go back from. When neither it is being tried, nor runs while none is, nothing
    /// changes (409): so a rollback that is asked for twice, or too late, does not go back from
    /// another version.
    #[param(value_type = Option<VersionSchema>)]
    from: Option<Version>,
}

/// Ends a trial, or brings back the version that ran before.
#[utoipa::path(post, path = "/v1/functions/{name}/rollback", tag = "functions", operation_id = "rollback_function",
    params(("name" = Name, Path, description = "The function."), RollbackQuery),
    responses((status = 200, description = "It is as it was.", body = SwapReport)))]
pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<RollbackQuery>,
) -> Result<Json<SwapReport>, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    let back = move |control: &Control| control.rollback(&id, query.from.as_ref());
    Ok(Json(api.change(&caller, back).await?))
}

/// Which lines of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Whose function is meant. Without it: the token's tenant; for others `default`.
    tenant: Option<Name>,
    /// Only lines of this time, RFC 3339 in UTC, and later.
    #[serde(default, deserialize_with = "time")]
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only so many, the newest.
    limit: Option<usize>,
}

/// A time as lines have it, which sorts as text.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    match crate::time::before(&text, Duration::ZERO) {
        Some(time) => Ok(Some(time)),
        None => Err(serde::de::Error::custom(format!(
            "since = {text:?}: allowed is a time such as 2026-11-25T22:13:50.969Z"
        ))),
    }
}

/// What the function wrote to its log, in all chains.
#[utoipa::path(get, path = "/v1/functions/{name}/log", tag = "functions", operation_id = "function_log",
    params(("name" = Name, Path, description = "The function."), LogQuery),
    responses((status = 200, description = "The lines that are kept, oldest first.", body = FunctionLog)))]
pub(super) async fn log(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<LogQuery>,
) -> Result<Response, Problem> {
    let id = FunctionId::new(&caller.tenant(query.tenant)?, &name);
    let place = api.places.log(&caller).await;
    let log = move |control: &Control| {
        let _place = place;
        let mut log = control.function_log(&id)?;
        if let Some(since) = query.since {
            log.lines.retain(|line| line.time >= since);
        }
        if let Some(limit) = query.limit {
            let others = log.lines.len().saturating_sub(limit);
            log.lines.drain(..others);
        }
        Ok(log)
    };
    api.show(&caller, log).await
}
