//! Large answers, which have their tenant's place until the client has taken them. One that takes
//! nothing for a while loses it, and its connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::places::Place;

/// Bytes that a connection is given at a time; an answer of no more has no place.
const PIECE: usize = 64 << 10;

/// See the module.
pub(super) struct Pieces {
    rest: Bytes,
    _place: Place,
}

impl Pieces {
    pub(super) fn new(text: Vec<u8>, place: Place) -> Self {
        let place = place.filter(|_| text.len() > PIECE);
        Self { rest: text.into(), _place: place }
    }
}

impl IntoResponse for Pieces {
    fn into_response(self) -> Response {
        Body::new(self).into_response()
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
