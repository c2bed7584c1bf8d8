//! What a message function and a connection function are.

use serde::de::DeserializeOwned;

use super::{End, Exchange, Head, Outcome, Pending, Piece, Resumed, Wants};
use crate::Setup;

/// A function for requests and responses. One instance serves one thread of the gateway; nothing is
/// shared between instances. Export it with [`export_message!`](crate::export_message!).
pub trait MessageFunction: Sized + 'static {
    /// The table `[function.config]` of the chain. Derive it with `deny_unknown_fields`, so that a
    /// misspelt key is an error and not a surprise.
    type Config: DeserializeOwned;
    /// What the function remembers of an exchange, from its first event to its end, or until it is
    /// [`Outcome::Done`] if it does not want to hear of the end; `()` for nothing.
    type State: Default + 'static;

    /// Prepares an instance. [`Setup::ports`] names the upstreams.
    ///
    /// # Errors
    /// The text is shown to whoever deploys the chain, which stays as it was: say what was wrong,
    /// the value, and what is allowed.
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;

    /// The events that it wants to be called for; asked once, after `configure`. Each that is left
    /// out is time saved.
    fn wants(&self) -> Wants;

    /// A request's head came.
    fn request_head(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let _ = (exchange, head);
        Outcome::Continue
    }

    /// A piece of the request's body came.
    fn request_body(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        let _ = (exchange, piece);
        Outcome::Continue
    }

    /// A response's head came, from an upstream or from a later function of the chain.
    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let _ = (exchange, head);
        Outcome::Continue
    }

    /// A piece of the response's body came.
    fn response_body(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        let _ = (exchange, piece);
        Outcome::Continue
    }

    /// What was asked for under a token is there. If an event asked for it and waits, that is in
    /// `pending`, and the outcome is its; else the outcome does not matter. It may come when the
    /// exchange is over: with a state as at the beginning.
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        let _ = (exchange, resumed, pending);
        Outcome::Continue
    }

    /// The exchange is over. The SDK drops its state afterwards. It is not called behind
    /// [`Outcome::Done`], unless [`wants`](Self::wants) has [`Wants::ENDED`].
    fn ended(&mut self, exchange: &mut Exchange<'_, Self::State>, end: End) {
        let _ = (exchange, end);
    }

    /// Called once at or soon after the time given to [`host::set_timer`](crate::host::set_timer).
    fn tick(&mut self, now: u64) {
        let _ = now;
    }
}

/// A function for connections and their bytes. Export it with
/// [`export_connection!`](crate::export_connection!).
pub trait ConnectionFunction: Sized + 'static {
    /// As [`MessageFunction::Config`].
    type Config: DeserializeOwned;
    /// As [`MessageFunction::State`], of a connection.
    type State: Default + 'static;

    /// As [`MessageFunction::configure`].
    ///
    /// # Errors
    /// As [`MessageFunction::configure`].
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;

    /// As [`MessageFunction::wants`].
    fn wants(&self) -> Wants;

    /// A connection was accepted. The head has addresses, and what TLS said.
    fn opened(&mut self, exchange: &mut Exchange<'_, Self::State>, head: &mut Head<'_>) -> Outcome {
        let _ = (exchange, head);
        Outcome::Continue
    }

    /// Bytes came, from the client or from the upstream.
    fn data(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        from_upstream: bool,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        let _ = (exchange, from_upstream, piece);
        Outcome::Continue
    }

    /// As [`MessageFunction::resume`].
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        let _ = (exchange, resumed, pending);
        Outcome::Continue
    }

    /// As [`MessageFunction::ended`].
    fn ended(&mut self, exchange: &mut Exchange<'_, Self::State>, end: End) {
        let _ = (exchange, end);
    }

    /// As [`MessageFunction::tick`].
    fn tick(&mut self, now: u64) {
        let _ = now;
    }
}
