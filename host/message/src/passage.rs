//! A chain as the gateway sees it; what it sees of exchanges is in [`crate::exchange`].

use std::rc::Rc;

use weir_exchange::{Interests, Kind, Middleware, Origin, Passage};

use crate::chain::Chain;

impl Middleware for Chain {
    fn interests(&self) -> Interests {
        Self::interests(self)
    }

    fn piece_max(&self) -> usize {
        Self::piece_max(self)
    }

    fn open(&self, origin: &Origin, kind: Kind) -> Rc<dyn Passage> {
        Self::open(self, origin, kind).0
    }
}
