//! `weir tenant`, `weir token`

use anyhow::Result;
use reqwest::Method;
use serde::Serialize;
use weir_control::api::{List, TenantRequest, TokenRequest};
use weir_control::{NewToken, Tenant, TokenView};
use weir_spec::{Name, Role};

use crate::cli::{TenantCommand, TokenCommand, TokenRole};
use crate::client::Client;
use crate::render::{self, Output};

pub(super) fn run(command: TenantCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        TenantCommand::List => {
            let tenants: List<Tenant> = client.get(&["tenants"])?;
            output.result(&tenants.items, |tenants| {
                let rows = tenants.iter().map(|tenant| {
                    [
                        tenant.name.to_string(),
                        tenant.functions.to_string(),
                        tenant.chains.to_string(),
                        tenant.description.clone(),
                    ]
                });
                render::table(["name", "#functions", "#chains", "description"], rows)
            })
        }
        TenantCommand::Add { name, description } => {
            let request = TenantRequest { description };
            let tenant: Tenant =
                client.send_json(Method::PUT, &["tenants", name.as_str()], &request)?;
            output.outcome(&tenant, |tenant| format!("tenant {} is there", tenant.name))
        }
        TenantCommand::Remove { name } => {
            client.delete(&["tenants", name.as_str()])?;
            output.done(&format!("tenant {name} was removed"))
        }
    }
}

pub(super) fn tokens(
    command: TokenCommand,
    tenant: Option<Name>,
    client: &Client,
    output: Output,
) -> Result<()> {
    let of = tenant.clone().unwrap_or_else(Name::default_tenant);
    let path = ["tenants", of.as_str(), "tokens"];
    match command {
        TokenCommand::List => list_tokens(tenant, client, output),
        TokenCommand::Add { role, description } => {
            let role = match role {
                TokenRole::Operator => Role::Operator,
                TokenRole::Viewer => Role::Viewer,
            };
            let request = TokenRequest { role, description };
            let token: NewToken = client.send_json(Method::POST, &path, &request)?;
            output.result(&token, |token| token.token.clone()).map_err(|error| {
                // Nobody will ever know its text.
                let id = &token.view.id;
                let path = ["tenants", of.as_str(), "tokens", id.as_str()];
                let left = match client.delete(&path) {
                    Ok(()) => "it was removed again".to_owned(),
                    Err(why) => format!("and it is there, with the id {id}: {why:#}"),
                };
                anyhow::anyhow!("the token cannot be written: {error:#}; {left}")
            })
        }
        TokenCommand::Remove { id } => {
            client.delete(&["tenants", of.as_str(), "tokens", id.as_str()])?;
            output.done(&format!("token {id} was removed"))
        }
    }
}

/// A token, and whose it is.
#[derive(Serialize)]
struct Token {
    tenant: Name,
    #[serde(flatten)]
    view: TokenView,
}

/// Those of one tenant, or of all.
fn list_tokens(tenant: Option<Name>, client: &Client, output: Output) -> Result<()> {
    let tenants = match tenant {
        Some(tenant) => vec![tenant],
        None => {
            let all: List<Tenant> = client.get(&["tenants"])?;
            all.items.into_iter().map(|tenant| tenant.name).collect()
        }
    };
    let mut tokens = Vec::new();
    for tenant in tenants {
        let own: List<TokenView> = client.get(&["tenants", tenant.as_str(), "tokens"])?;
        tokens.extend(own.items.into_iter().map(|view| Token { tenant: tenant.clone(), view }));
    }
    output.result(&tokens, |tokens| {
        let rows = tokens.iter().map(|Token { tenant, view }| {
            [
                view.id.to_string(),
                tenant.to_string(),
                role(view.role).to_owned(),
                view.created.clone(),
                view.description.clone(),
            ]
        });
        render::table(["id", "tenant", "role", "created", "description"], rows)
    })
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::Viewer => "viewer",
    }
}
