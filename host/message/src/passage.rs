//! A chain and its exchanges as the gateway sees them.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{request, response};
use weir_exchange::{
    BodyStep, Direction, Ended, Interests, Legs, Middleware, Origin, Passage, Step,
};

use crate::chain::Chain;
use crate::exchange::Exchange;

impl Middleware for Chain {
    fn interests(&self) -> Interests {
        Self::interests(self)
    }

    fn piece_max(&self) -> usize {
        Self::piece_max(self)
    }

    fn open(&self, origin: &Origin) -> Rc<dyn Passage> {
        Rc::new(Self::open(self, origin))
    }
}

impl Passage for Exchange {
    fn request_head<'a>(
        &'a self,
        parts: &'a mut request::Parts,
        body: Option<u64>,
    ) -> LocalBoxFuture<'a, Step> {
        Box::pin(Self::request_head(self, parts, body))
    }

    fn request_body(&self, piece: Bytes, last: bool) -> LocalBoxFuture<'_, BodyStep> {
        Box::pin(Self::request_body(self, piece, last))
    }

    fn response_head<'a>(
        &'a self,
        parts: &'a mut response::Parts,
        body: Option<u64>,
    ) -> LocalBoxFuture<'a, Step> {
        Box::pin(Self::response_head(self, parts, body))
    }

    fn response_body(&self, piece: Bytes, last: bool) -> LocalBoxFuture<'_, BodyStep> {
        Box::pin(Self::response_body(self, piece, last))
    }

    fn opened(&self) -> LocalBoxFuture<'_, Step> {
        Box::pin(Self::opened(self))
    }

    fn data(&self, from_upstream: bool, piece: Bytes, last: bool) -> LocalBoxFuture<'_, BodyStep> {
        Box::pin(Self::data(self, from_upstream, piece, last))
    }

    fn legs(&self) -> Option<Rc<dyn Legs>> {
        Self::legs(self)
    }

    fn upstream(&self) -> Option<usize> {
        Self::upstream(self)
    }

    fn done(&self, from: Direction) -> bool {
        Self::done(self, from)
    }

    fn end(&self, how: Ended, upstream: Option<usize>, time: Duration) {
        Self::end(self, how, upstream, time);
    }
}
