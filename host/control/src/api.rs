//! The HTTP API under `/v1`, `/metrics`, `/healthz`, `/readyz` and `/openapi.json`.
//!
//! Owns: paths, bodies, status codes, who may call what, the OpenAPI document (made from the
//! handlers themselves, so that it cannot say something else), limits of sizes and times. Handlers
//! are thin: what they do is done by [`crate::Control`], on threads where it may block.

mod asked;
mod chains;
mod document;
mod extract;
mod functions;
mod guard;
mod pieces;
mod places;
mod problem;
mod server;
mod socket;
mod stall;
mod stay;
mod steering;
mod strangers;
mod system;
mod tap;
mod tenants;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use weir_spec::Name;

use crate::auth::Caller;
use crate::control::Control;
use crate::engine::EngineError;
use crate::error::ControlError;
use asked::Asked;
pub use document::document;
pub use extract::{CHAIN_MAX, TOML_MAX};
pub use functions::SwapRequest;
pub use guard::Peer;
use pieces::Pieces;
use places::Places;
pub use problem::Problem;
pub use server::{ServeError, Server, bind_unix, check_socket};
pub use socket::SocketLock;
pub use tenants::{TenantRequest, TokenRequest};

/// What may be changed while the API runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of an upload.
    pub upload: usize,
    /// Time for a request.
    pub timeout: Duration,
}

/// What handlers have.
#[derive(Clone)]
pub struct Api {
    control: Arc<Control>,
    limits: Arc<RwLock<Limits>>,
    places: Places,
    asked: Asked,
    /// True when the host stops; streams end then.
    stopping: watch::Receiver<bool>,
}

impl Api {
    /// An API of this control plane, until `stopping` says true.
    #[must_use]
    pub fn new(control: Arc<Control>, limits: Limits, stopping: watch::Receiver<bool>) -> Self {
        let limits = Arc::new(RwLock::new(limits));
        let (places, asked) = (Places::default(), Asked::default());
        Self { control, limits, places, asked, stopping }
    }

    /// Takes other limits.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something for this caller. What blocks goes on when its client has gone, and has its
    /// place until it is done.
    async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        act: impl FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.places.change(caller).await;
        self.begin(caller, move |control| {
            let _place = place;
            Ok(act(control)?)
        })
        .await
    }

    /// Does something that blocks for a caller that has sent a body or waited for its place: it may
    /// have lost its token meanwhile.
    async fn begin<T: Send + 'static>(
        &self,
        caller: &Caller,
        act: impl FnOnce(&Control) -> Result<T, Box<Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let caller = caller.clone();
        self.work(move |control| {
            let _begun = control.begin(&caller)?;
            act(control)
        })
        .await
    }

    /// Shows this caller something that may be large: it is made where it may block, and sent as it
    /// is taken.
    async fn show<T: Serialize>(
        &self,
        caller: &Caller,
        what: impl FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<Response, Problem> {
        self.show_tagged(caller, |control| Ok((what(control)?, None))).await
    }

    /// The same with the tag of what is shown, if it has one.
    async fn show_tagged<T: Serialize>(
        &self,
        caller: &Caller,
        what: impl FnOnce(&Control) -> Result<(T, Option<String>), ControlError> + Send + 'static,
    ) -> Result<Response, Problem> {
        let place = self.places.answer(caller).await;
        let shown = self.run(move |control| {
            let (shown, tag) = what(control)?;
            let text = serde_json::to_vec(&shown);
            let text = text.map_err(|error| EngineError::Internal(error.to_string()))?;
            Ok((text, tag, place))
        });
        let (text, tag, place) = shown.await?;
        let kind = [(header::CONTENT_TYPE, "application/json")];
        Ok((kind, extract::etag(tag.as_deref()), Pieces::new(text, place)).into_response())
    }

    /// Does something that blocks. What can make a tenant wait for long has a place first, as in
    /// [`Self::change`].
    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, Problem> {
        self.work(move |control| Ok(act(control)?)).await
    }

    /// The same with what has problems of its own.
    async fn work<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Control) -> Result<T, Box<Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let control = Arc::clone(&self.control);
        match tokio::task::spawn_blocking(move || act(&control)).await {
            Ok(done) => done.map_err(|problem| *problem),
            Err(error) => {
                let detail = format!("internal error: {error}; please report it");
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
            }
        }
    }

    /// All of it as a service. Requests carry a [`Peer`] that says how they came.
    pub fn router(&self) -> Router {
        let (router, _) = routes().split_for_parts();
        guard::guard(router, self).with_state(self.clone())
    }
}

fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(functions::list))
        .routes(routes!(functions::show, functions::remove))
        .routes(routes!(functions::versions, functions::push))
        .routes(routes!(functions::version, functions::remove_version))
        .routes(routes!(functions::swap))
        .routes(routes!(functions::rollback))
        .routes(routes!(functions::log))
        .routes(routes!(chains::list))
        .routes(routes!(chains::show, chains::apply, chains::remove))
        .routes(routes!(chains::trace))
        .routes(routes!(chains::tap))
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::show, tenants::put, tenants::remove))
        .routes(routes!(tenants::tokens, tenants::make_token))
        .routes(routes!(tenants::remove_token))
        .routes(routes!(system::status))
        .routes(routes!(system::ports))
        .routes(routes!(steering::list, steering::apply))
        .routes(routes!(system::events))
        .routes(routes!(system::metrics))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::openapi))
}

/// `?tenant=`
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OfTenant {
    /// Whose things are meant. Without it: the token's tenant; for who has none all of them in a
    /// list, and `default` elsewhere.
    tenant: Option<Name>,
}

/// A list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// What is in it.
    pub items: Vec<T>,
}
