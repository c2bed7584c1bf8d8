//! A shared cache (RFC 9111), with stale responses where RFC 5861 allows them.
//!
//! Owns: which requests are answered from the store, and which responses come into it. Must not
//! know: how the store keeps them. What a function before it in the chain changes on a request
//! counts; so it belongs behind those that check who may see something.

mod answer;
mod config;
mod control;
mod date;
mod keeping;
mod store;
mod usable;
mod variant;

use std::rc::Rc;

use weir_sdk::hash;
use weir_sdk::message::prelude::*;

use answer::{Conditions, answer};
pub use config::Config;
use control::Control;
use keeping::Removals;
use store::{Field, Place, Store, Stored};
use usable::{Wanted, hides_errors, is_usable};
use variant::{is_variant, write_key};

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Cache);

const SECOND: u64 = 1_000_000_000;
/// As a part of the store's size, the bodies that validations hold.
const HELD_PART: usize = 4;
/// Bytes of a request's fields that are remembered for `vary`.
const REQUEST_MAX: usize = 16 * 1024;
/// The function.
#[derive(Debug)]
pub struct Cache {
    config: Config,
    store: Store,
    seed: u64,
    removals: Removals,
    /// Bytes of bodies that are coming in.
    filling: usize,
    /// Bytes of bodies that validations hold, whether they are still stored or not.
    held: usize,
    key: Vec<u8>,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    hits: Counter,
    misses: Counter,
    stale: Counter,
    revalidated: Counter,
    stored: Counter,
    invalidated: Counter,
    bytes: Gauge,
    responses: Gauge,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct State {
    kind: Kind,
    hash: u64,
    key: Vec<u8>,
    /// When the request left, in seconds.
    asked: u64,
    /// How many removals there had been by then.
    removals: u64,
    fields: Vec<Field>,
    authorized: bool,
    /// The stored response that is asked about, until it is known whether it still holds.
    asks: Option<Place>,
    /// What a 304 will be about, though it may leave the store before that comes.
    validated: Option<Box<Stored>>,
    /// A response that comes in.
    filling: Option<Box<Stored>>,
    expected: Option<u32>,
}

/// What is done with the response.
#[derive(Debug, Default)]
enum Kind {
    /// Nothing: the request is none for a cache.
    #[default]
    Pass,
    /// It may be stored. Why the store did not have it.
    Store(Forward),
    /// The store had this one, which has to be validated. What the client's own condition was.
    Validate(Place, Conditions, Forward),
    /// If it is no error, what is stored of the target is not true any more.
    Invalidate,
}

/// Why a request goes on (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forward {
    UriMiss,
    VaryMiss,
    Request,
    Stale,
}

impl Forward {
    fn text(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

impl MessageFunction for Cache {
    type Config = Config;
    type State = State;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        config.check()?;
        Ok(Self {
            store: Store::new(config.size),
            config,
            seed: setup.seed,
            removals: Removals::new(),
            filling: 0,
            held: 0,
            key: Vec::new(),
            counters: Counters {
                hits: host::counter("hits"),
                misses: host::counter("misses"),
                stale: host::counter("stale"),
                revalidated: host::counter("revalidated"),
                stored: host::counter("stored"),
                invalidated: host::counter("invalidated"),
                bytes: host::gauge("bytes"),
                responses: host::gauge("responses"),
            },
        })
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_HEAD.and(Wants::RESPONSE_HEAD).and(Wants::RESPONSE_BODY).and(Wants::ENDED)
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        let now = exchange.wall() / SECOND;
        if now == 0 {
            return Outcome::Done;
        }
        write_key(&mut self.key, head);
        let hash = hash::bytes(&self.key, self.seed);
        exchange.state.hash = hash;
        let head_only = match head.method() {
            b"GET" => false,
            b"HEAD" => true,
            // Safe methods change nothing (RFC 9111, section 4).
            b"OPTIONS" | b"TRACE" => return Outcome::Done,
            _ => {
                exchange.state.key.clone_from(&self.key);
                exchange.state.kind = Kind::Invalidate;
                return Outcome::Continue;
            }
        };
        let control = Control::read(head.all("cache-control"));
        let unusual = ["range", "if-match", "if-unmodified-since", "if-range"];
        if control.no_store
            || head.upgrade()
            || unusual.iter().any(|name| head.field(name).is_some())
            || !head.no_body()
        {
            return Outcome::Done;
        }
        let (found, other) = self.store.find(hash, &self.key, |stored| is_variant(stored, head));
        let control = Wanted::of(control, head, self.config.client_control);
        let Some(place) = found else {
            let why = if other { Forward::VaryMiss } else { Forward::UriMiss };
            return self.forward(exchange, head, why, control.only_if_cached, now);
        };
        let Some(stored) = self.store.get(place) else { return Outcome::Done };
        let age = stored.freshness.age(now);
        let stale = stored.freshness.lifetime.saturating_sub(age) == 0;
        if is_usable(stored, &control, age, now) {
            self.counters.hits.add(1);
            if stale {
                self.counters.stale.add(1);
            }
            let conditions = Conditions::of(head, head_only);
            // Without rooms for it, the upstream has to have some.
            return answer(exchange, stored, &conditions, &self.config.name, now, "")
                .unwrap_or(Outcome::Done);
        }
        if control.only_if_cached {
            return only_if_cached(exchange);
        }
        self.validate(exchange, head, place, head_only, now)
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let now = exchange.wall() / SECOND;
        let status = head.status();
        let validated = self.release(exchange.state);
        match std::mem::take(&mut exchange.state.kind) {
            Kind::Pass => Outcome::Done,
            Kind::Invalidate => {
                if (200..400).contains(&status) {
                    self.invalidate(exchange.state, head);
                }
                Outcome::Done
            }
            Kind::Store(why) => self.take_in(exchange, head, why, now),
            Kind::Validate(place, conditions, why) => {
                let of = (place, conditions, why);
                let outcome = self.validated(exchange, head, of, validated.as_deref(), now);
                if exchange.state.filling.is_none() {
                    self.ask_no_more(exchange.state);
                }
                outcome
            }
        }
    }

    fn response_body(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        let state = &mut *exchange.state;
        let Some(filling) = &mut state.filling else { return Outcome::Done };
        if filling.body.len() + piece.len() > self.config.max_body
            || self.filling + piece.len() > self.config.size
        {
            self.let_go(state);
            if let Some(place) = state.asks {
                self.remove(place);
            }
            return Outcome::Done;
        }
        Rc::make_mut(&mut filling.body).extend_from_slice(piece.bytes());
        self.filling += piece.len();
        if piece.is_last() {
            self.complete(state);
            return Outcome::Done;
        }
        Outcome::Continue
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, State>, _: End) {
        // A body that did not come to its end is not stored.
        self.let_go(exchange.state);
        self.release(exchange.state);
        self.ask_no_more(exchange.state);
    }
}

impl Cache {
    /// The store does not have it.
    fn forward(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &Head<'_>,
        why: Forward,
        only_if_cached: bool,
        now: u64,
    ) -> Outcome {
        if only_if_cached {
            return self::only_if_cached(exchange);
        }
        self.counters.misses.add(1);
        // What HEAD brings has no body to be stored.
        if head.method() == b"GET" && self.remember(exchange.state, head, now) {
            exchange.state.kind = Kind::Store(why);
            return Outcome::Continue;
        }
        Outcome::Done
    }

    /// Remembers of a request what counts for its response. False when that is too much.
    fn remember(&self, state: &mut State, head: &Head<'_>, now: u64) -> bool {
        state.key.clone_from(&self.key);
        state.asked = now;
        state.removals = self.removals.count();
        state.authorized = head.field("authorization").is_some();
        let mut size = 0;
        for (name, value) in head.fields() {
            size += name.len() + value.len();
            if size > REQUEST_MAX {
                return false;
            }
            state.fields.push((name.to_vec(), value.to_vec()));
        }
        true
    }

    /// Asks whether a stored response still holds, before the client gets anything (RFC 9111,
    /// section 4.3.1).
    fn validate(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
        place: Place,
        head_only: bool,
        now: u64,
    ) -> Outcome {
        self.counters.misses.add(1);
        let conditions = Conditions::of(head, head_only);
        let remembered = self.remember(exchange.state, head, now);
        let Some(stored) = self.store.get_mut(place).filter(|_| remembered) else {
            return Outcome::Done;
        };
        let fresh = stored.freshness.lifetime > stored.freshness.age(now);
        if self.held + stored.body.len() <= self.config.size / HELD_PART {
            self.held += stored.body.len();
            exchange.state.validated = Some(Box::new(stored.clone()));
        }
        let validators = [("if-none-match", "etag"), ("if-modified-since", "last-modified")];
        let mut edited = Ok(());
        for (condition, validator) in validators {
            match stored.field(validator) {
                Some(value) => edited = edited.and_then(|()| head.set(condition, value)),
                None => {
                    head.remove(condition);
                }
            }
        }
        if let Err(full) = edited {
            return exchange.fail(&full);
        }
        if !stored.is_asked_about(now) {
            stored.asking_since = now;
        }
        let why = if fresh { Forward::Request } else { Forward::Stale };
        exchange.state.asks = Some(place);
        exchange.state.kind = Kind::Validate(place, conditions, why);
        Outcome::Continue
    }

    /// What came of a validation; `held` is what it was about.
    fn validated(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
        (place, conditions, why): (Place, Conditions, Forward),
        held: Option<&Stored>,
        now: u64,
    ) -> Outcome {
        let status = head.status();
        if status == 304 {
            // It confirms what it was asked about, also when it says too little, or too much, to
            // freshen that.
            if self.freshen(place, head, exchange.state.asked, now) {
                self.counters.revalidated.add(1);
            }
            let detail = ["; fwd=", why.text(), "; fwd-status=304"].concat();
            let name = &self.config.name;
            let stored = self.store.get(place).or(held);
            let answered =
                stored.and_then(|stored| answer(exchange, stored, &conditions, name, now, &detail));
            self.forget_private(place);
            return answered.unwrap_or_else(|| exchange.answer(&Response::new(503)));
        }
        if matches!(status, 500 | 502 | 503 | 504)
            && let Some(stored) = self.store.get(place)
            && let Some(directive) = hides_errors(stored, now)
        {
            self.counters.stale.add(1);
            let detail = ["; fwd=stale; detail=", directive].concat();
            return answer(exchange, stored, &conditions, &self.config.name, now, &detail)
                .unwrap_or(Outcome::Done);
        }
        if conditions.head_only {
            // No body that could be stored.
            return self.tell(head, why, false);
        }
        let told = self.take_in(exchange, head, why, now);
        let state = &*exchange.state;
        // Others are not to get what is not true any more. What somebody's own is says nothing
        // about theirs.
        let is_another = matches!(status, 200..400 | 404 | 410) && !head.made();
        if is_another && why == Forward::Stale && state.filling.is_none() && !state.authorized {
            self.remove(place);
        }
        told
    }

    /// Whether what is stored still holds is not asked any more by this request.
    fn ask_no_more(&mut self, state: &mut State) {
        if let Some(place) = state.asks.take()
            && let Some(stored) = self.store.get_mut(place)
            && stored.asking_since == state.asked
        {
            stored.asking_since = 0;
        }
    }

    /// Takes what a validation held.
    fn release(&mut self, state: &mut State) -> Option<Box<Stored>> {
        let validated = state.validated.take()?;
        self.held -= validated.body.len();
        Some(validated)
    }

    /// Says in `cache-status` why the request went on (RFC 9211).
    fn tell(&self, head: &mut Head<'_>, why: Forward, stored: bool) -> Outcome {
        let mut text = self.config.name.clone();
        text.push_str("; fwd=");
        text.push_str(why.text());
        if stored {
            text.push_str("; stored");
        }
        if head.add("cache-status", text.as_bytes()).is_err() {
            debug!("no room to tell the cache's status");
        }
        Outcome::Done
    }
}

fn only_if_cached(exchange: &mut Exchange<'_, State>) -> Outcome {
    exchange.answer(&Response::new(504).text("This is not stored.\n"))
}
