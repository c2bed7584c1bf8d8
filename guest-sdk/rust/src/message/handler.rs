//! The two kinds of functions as one: what the dispatcher calls.

use serde::de::DeserializeOwned;

use super::{
    ConnectionFunction, End, Exchange, Head, MessageFunction, Outcome, Pending, Piece, Resumed,
    Wants,
};
use crate::{Setup, Snapshot};

/// What can happen in an exchange before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RequestHead,
    RequestBody,
    ResponseHead,
    ResponseBody,
    Opened,
    FromClient,
    FromUpstream,
}

impl Event {
    /// 0: from the client; 1: from the upstream.
    pub(super) fn direction(self) -> usize {
        usize::from(matches!(self, Self::ResponseHead | Self::ResponseBody | Self::FromUpstream))
    }
}

/// A function of either kind.
pub trait Handler: Sized + 'static {
    type Config: DeserializeOwned;
    type State: Default + 'static;
    /// # Errors
    /// What the operator is to read.
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;
    fn wants(&self) -> Wants;
    fn head(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, Self::State>,
        head: &mut Head<'_>,
    ) -> Outcome;
    fn piece(
        &mut self,
        event: Event,
        exchange: &mut Exchange<'_, Self::State>,
        piece: &mut Piece<'_>,
    ) -> Outcome;
    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, Self::State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome;
    fn ended(&mut self, exchange: &mut Exchange<'_, Self::State>, end: End);
    fn tick(&mut self, now: u64);
}

/// Makes a kind of functions a handler. The kinds differ in what heads and pieces are to them; the
/// rest they have in common.
macro_rules! handler {
    ($(#[$about:meta])* $handler:ident of $kind:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug)]
        pub struct $handler<F>(pub F);

        impl<F: $kind> Handler for $handler<F> {
            type Config = F::Config;
            type State = F::State;

            fn configure(setup: Setup, config: F::Config) -> Result<Self, String> {
                F::configure(setup, config).map(Self)
            }
            fn wants(&self) -> Wants {
                self.0.wants()
            }
            $($own)*
            fn resume(
                &mut self,
                exchange: &mut Exchange<'_, F::State>,
                resumed: &mut Resumed<'_>,
                pending: &mut Pending<'_>,
            ) -> Outcome {
                self.0.resume(exchange, resumed, pending)
            }
            fn ended(&mut self, exchange: &mut Exchange<'_, F::State>, end: End) {
                self.0.ended(exchange, end);
            }
            fn tick(&mut self, now: u64) {
                self.0.tick(now);
            }
        }

        impl<F: Snapshot> Snapshot for $handler<F> {
            fn save(&self) -> Vec<u8> {
                self.0.save()
            }
            fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
                self.0.restore(saved)
            }
        }
    };
}

handler! {
    /// A message function as a handler.
    OfMessages of MessageFunction {
        #[inline]
        fn head(
            &mut self,
            event: Event,
            exchange: &mut Exchange<'_, F::State>,
            head: &mut Head<'_>,
        ) -> Outcome {
            match event {
                Event::ResponseHead => self.0.response_head(exchange, head),
                _ => self.0.request_head(exchange, head),
            }
        }
        #[inline]
        fn piece(
            &mut self,
            event: Event,
            exchange: &mut Exchange<'_, F::State>,
            piece: &mut Piece<'_>,
        ) -> Outcome {
            match event {
                Event::ResponseBody => self.0.response_body(exchange, piece),
                _ => self.0.request_body(exchange, piece),
            }
        }
    }
}

handler! {
    /// A connection function as a handler.
    OfConnections of ConnectionFunction {
        fn head(
            &mut self,
            _: Event,
            exchange: &mut Exchange<'_, F::State>,
            head: &mut Head<'_>,
        ) -> Outcome {
            self.0.opened(exchange, head)
        }
        fn piece(
            &mut self,
            event: Event,
            exchange: &mut Exchange<'_, F::State>,
            piece: &mut Piece<'_>,
        ) -> Outcome {
            self.0.data(exchange, event == Event::FromUpstream, piece)
        }
    }
}
