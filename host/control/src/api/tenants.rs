//! `/v1/tenants`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{Name, Role};

use super::extract::{self, InPath};
use super::problem::Problem;
use super::{Api, List};
use crate::auth::Caller;
use crate::tenants::{NewToken, Tenant, TokenView};

/// Lists tenants; a tenant's token sees that tenant.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", operation_id = "list_tenants",
    responses((status = 200, description = "The tenants, by name.", body = List<Tenant>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<List<Tenant>>, Problem> {
    let only = caller.filter(None)?;
    Ok(Json(List { items: api.control.tenants(only.as_ref()) }))
}

/// Shows a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "show_tenant",
    params(("tenant" = Name, Path, description = "The tenant.")),
    responses((status = 200, description = "The tenant.", body = Tenant)))]
pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(tenant): InPath<Name>,
) -> Result<Json<Tenant>, Problem> {
    let tenant = caller.tenant(Some(tenant))?;
    api.run(move |control| control.tenant(&tenant)).await.map(Json)
}

/// What is said of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantRequest {
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
}

/// Makes a tenant, or changes what is said of it. For the administrator.
#[utoipa::path(put, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "put_tenant",
    params(("tenant" = Name, Path, description = "The tenant.")), request_body = TenantRequest,
    responses(
        (status = 201, description = "It was made.", body = Tenant),
        (status = 200, description = "It was changed.", body = Tenant)))]
pub(super) async fn put(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(tenant): InPath<Name>,
    extract::Json(request): extract::Json<TenantRequest>,
) -> Result<Response, Problem> {
    caller.must_be_admin()?;
    let put = api.change(&caller, move |control| {
        let new = control.put_tenant(&tenant, request.description)?;
        Ok((new, control.tenant(&tenant)?))
    });
    let (new, tenant) = put.await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(tenant)).into_response())
}

/// Removes a tenant that has no functions and chains any more, and its tokens. For the
/// administrator.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}", tag = "tenants", operation_id = "remove_tenant",
    params(("tenant" = Name, Path, description = "The tenant.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(tenant): InPath<Name>,
) -> Result<StatusCode, Problem> {
    caller.must_be_admin()?;
    api.change(&caller, move |control| control.remove_tenant(&tenant)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a tenant's tokens that were made here. For the administrator, and for viewers of all
/// tenants.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/tokens", tag = "tenants", operation_id = "list_tokens",
    params(("tenant" = Name, Path, description = "The tenant.")),
    responses((status = 200, description = "The tokens, without their text.", body = List<TokenView>)))]
pub(super) async fn tokens(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(tenant): InPath<Name>,
) -> Result<Json<List<TokenView>>, Problem> {
    caller.must_see_all()?;
    Ok(Json(List { items: api.control.tokens(&tenant)? }))
}

/// What a new token is to be good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What its holder may do: `operator` or `viewer`.
    pub role: Role,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// Makes a token for a tenant. Its text is shown this once. For the administrator.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/tokens", tag = "tenants", operation_id = "make_token",
    params(("tenant" = Name, Path, description = "The tenant.")), request_body = TokenRequest,
    responses((status = 201, description = "The token.", body = NewToken)))]
pub(super) async fn make_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath(tenant): InPath<Name>,
    extract::Json(request): extract::Json<TokenRequest>,
) -> Result<Response, Problem> {
    caller.must_be_admin()?;
    let TokenRequest { role, description } = request;
    let made = api.change(&caller, move |control| control.make_token(&tenant, role, description));
    Ok((StatusCode::CREATED, Json(made.await?)).into_response())
}

/// Makes a token worthless. For the administrator.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/tokens/{id}", tag = "tenants", operation_id = "remove_token",
    params(("tenant" = Name, Path, description = "The tenant."),
        ("id" = Name, Path, description = "The token's id.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    InPath((tenant, id)): InPath<(Name, Name)>,
) -> Result<StatusCode, Problem> {
    caller.must_be_admin()?;
    api.change(&caller, move |control| control.remove_token(&tenant, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
