//! Tenants, and the tokens with which they come.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_spec::{Name, Role};

use crate::auth::{self, Caller};
use crate::control::{Control, Turn};
use crate::error::ControlError;
use crate::events::EventKind;
use crate::store::{TenantRecord, TokenRecord};
use crate::time;

/// A tenant, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its name.
    pub name: Name,
    /// One sentence for people.
    pub description: String,
    /// Functions it has.
    pub functions: usize,
    /// Chains it has.
    pub chains: usize,
}

/// A token, as the API shows it: without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// To remove it.
    pub id: Name,
    /// What its holder may do.
    pub role: Role,
    /// For people.
    pub description: String,
    /// When it was made, RFC 3339.
    #[schema(format = DateTime)]
    pub created: String,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// What is shown of it later.
    #[serde(flatten)]
    pub view: TokenView,
    /// The token itself. It is not kept, and cannot be shown again.
    pub token: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("view", &self.view).finish_non_exhaustive()
    }
}

pub(crate) fn no_tenant(name: &Name) -> ControlError {
    ControlError::NotFound { what: "tenant", name: name.to_string() }
}

fn show(id: &Name, record: &TokenRecord) -> TokenView {
    TokenView {
        id: id.clone(),
        role: record.role,
        description: record.description.clone(),
        created: time::text(record.created),
    }
}

impl Control {
    /// All tenants, or one.
    #[must_use]
    pub fn tenants(&self, only: Option<&Name>) -> Vec<Tenant> {
        let state = self.store.state();
        let wanted = state.tenants.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        wanted
            .map(|(name, record)| Tenant {
                name: name.clone(),
                description: record.description.clone(),
                functions: state.functions.keys().filter(|id| id.tenant == *name).count(),
                chains: state.chains.keys().filter(|id| id.tenant == *name).count(),
            })
            .collect()
    }

    /// One tenant.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn tenant(&self, name: &Name) -> Result<Tenant, ControlError> {
        self.tenants(Some(name)).pop().ok_or_else(|| no_tenant(name))
    }

    /// Makes a tenant, or changes its description. The answer tells whether it is new.
    ///
    /// # Errors
    /// When the store is full, or one of that name was removed and what it had begun has not ended:
    /// it would end in this one.
    pub(crate) fn put_tenant(
        &self,
        name: &Name,
        description: String,
    ) -> Result<bool, ControlError> {
        let new = self.store.change(|state| {
            if !state.tenants.contains_key(name) && self.turn(name).is_shared() {
                return Err(ControlError::Conflict(format!(
                    "the tenant {name} that was removed has something under way: try again when that has ended"
                )));
            }
            let record = Arc::new(TenantRecord { description });
            Ok::<_, ControlError>(state.tenants.insert(name.clone(), record).is_none())
        })?;
        if new {
            self.note_tenant(EventKind::TenantAdded, name, format!("tenant {name} was added"));
        }
        Ok(new)
    }

    /// Lets a caller begin a change. As long as its turn is there its tenant's name is nobody
    /// else's.
    ///
    /// # Errors
    /// When its token was taken away since it asked.
    pub(crate) fn begin(&self, caller: &Caller) -> Result<Option<Turn>, ControlError> {
        // In this order: who is found to have a token is counted when that is gone with its tenant.
        let turn = caller.own_tenant().map(|tenant| self.turn(tenant));
        if !self.knows(caller) {
            return Err(ControlError::TokenGone);
        }
        Ok(turn)
    }

    /// Who there is, and who may come, is for administrators: it is told as the host's own.
    fn note_tenant(&self, kind: EventKind, tenant: &Name, message: String) {
        self.events.emit(kind, None, tenant.as_str(), message);
    }

    /// Removes a tenant that has nothing any more, and its tokens.
    ///
    /// # Errors
    /// When there is none, it is `default`, it still has functions, chains or steering rules, or
    /// the configuration names it.
    pub(crate) fn remove_tenant(&self, name: &Name) -> Result<(), ControlError> {
        let turn = self.turn(name);
        let _turn = turn.take();
        self.store.change(|state| {
            if !state.tenants.contains_key(name) {
                return Err(no_tenant(name));
            }
            if *name == Name::default_tenant() {
                return Err(ControlError::Conflict("the tenant `default` always is".into()));
            }
            let functions: Vec<_> =
                state.functions.keys().filter(|id| id.tenant == *name).collect();
            let chains: Vec<_> = state.chains.keys().filter(|id| id.tenant == *name).collect();
            if !functions.is_empty() || !chains.is_empty() {
                return Err(ControlError::Conflict(format!(
                    "tenant {name} has {} functions and {} chains: remove those first",
                    functions.len(),
                    chains.len()
                )));
            }
            if state.steering.contains_key(name) {
                return Err(ControlError::Conflict(format!(
                    "tenant {name} has steering rules: remove those first (`weir --tenant {name} steer apply` with an empty file)"
                )));
            }
            let named = self.named_by_configuration(name);
            if !named.is_empty() {
                return Err(ControlError::Conflict(format!(
                    "the host's configuration names tenant {name}: {}; take that out of it first",
                    named.join(", ")
                )));
            }
            state.tenants.remove(name);
            state.tokens.retain(|_, token| token.tenant != *name);
            Ok(())
        })?;
        // Whoever has the name next finds nothing of this one's, and nobody who had it goes on
        // listening.
        self.tokens_changed.send_replace(());
        self.engine.forget(name);
        self.events.forget(name);
        self.steered.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let message = format!("tenant {name} was removed, with its tokens");
        self.note_tenant(EventKind::TenantRemoved, name, message);
        Ok(())
    }

    /// What the configuration has of a tenant's, which is there again when it is read again.
    fn named_by_configuration(&self, tenant: &Name) -> Vec<String> {
        let ports = self.ports.iter().filter(|port| port.tenant == *tenant);
        let ports = ports.map(|port| format!("[[port]] {}", port.name));
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        let listeners = listeners.iter().filter(|listener| listener.tenant == *tenant);
        let listeners = listeners.map(|listener| format!("[[listener]] {}", listener.name));
        let tokens = self.tokens.of_tenant(tenant).into_iter();
        let tokens = tokens.map(|token| format!("[[api.token]] {token}"));
        ports.chain(listeners).chain(tokens).collect()
    }

    /// A tenant's tokens.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn tokens(&self, tenant: &Name) -> Result<Vec<TokenView>, ControlError> {
        self.tenant_exists(tenant)?;
        let state = self.store.state();
        let own = state.tokens.iter().filter(|(_, token)| token.tenant == *tenant);
        Ok(own.map(|(id, record)| show(id, record)).collect())
    }

    /// Makes a token for a tenant.
    ///
    /// # Errors
    /// When there is no such tenant, or the role is for all of them.
    pub(crate) fn make_token(
        &self,
        tenant: &Name,
        role: Role,
        description: String,
    ) -> Result<NewToken, ControlError> {
        if role == Role::Admin {
            return Err(ControlError::Conflict(
                "a tenant's token has the role `operator` or `viewer`; tokens for the role `admin` are in the host's configuration file".into(),
            ));
        }
        let (id, token) = auth::random_token()?;
        let record = TokenRecord {
            tenant: tenant.clone(),
            role,
            description,
            digest: auth::digest_text(&token),
            created: time::milliseconds(),
        };
        let view = show(&id, &record);
        self.store.change(|state| {
            if !state.tenants.contains_key(tenant) {
                return Err(no_tenant(tenant));
            }
            state.tokens.insert(id, Arc::new(record));
            Ok(())
        })?;
        let may = if role == Role::Viewer { "viewer" } else { "operator" };
        let message = format!("token {} of tenant {tenant} was made, with the role {may}", view.id);
        self.note_tenant(EventKind::TokenMade, tenant, message);
        Ok(NewToken { view, token })
    }

    /// Makes a token worthless.
    ///
    /// # Errors
    /// When the tenant has no such token.
    pub(crate) fn remove_token(&self, tenant: &Name, id: &Name) -> Result<(), ControlError> {
        self.store.change(|state| {
            if state.tokens.get(id).is_none_or(|token| token.tenant != *tenant) {
                return Err(ControlError::NotFound { what: "token", name: id.to_string() });
            }
            state.tokens.remove(id);
            Ok(())
        })?;
        self.tokens_changed.send_replace(());
        let message = format!("token {id} of tenant {tenant} was removed");
        self.note_tenant(EventKind::TokenRemoved, tenant, message);
        Ok(())
    }
}
