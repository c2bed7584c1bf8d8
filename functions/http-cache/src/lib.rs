//! A shared cache (RFC 9111), with stale responses where RFC 5861 allows them.
//!
//! Owns: which requests are answered from the store, and which responses come into it. Must not know: how the store keeps them.
//! What a function before it in the chain changes on a request counts; so it belongs behind those that check who may see
//! something.

mod answer;
mod control;
mod date;
mod store;
mod variant;

use std::time::Duration;

use serde::Deserialize;
use weir_sdk::hash;
use weir_sdk::message::healthy;
use weir_sdk::message::prelude::*;

use answer::{Conditions, answer, weak};
use control::{Control, Freshness, is_heuristic};
use store::{Field, Place, Store, Stored};
use variant::{is_variant, vary, write_key};

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Cache);

const SECOND: u64 = 1_000_000_000;
/// How long asking beside may take.
const BESIDE: Duration = Duration::from_secs(10);
/// Bytes of a request's fields that are remembered for `vary`.
const REQUEST_MAX: usize = 16 * 1024;
/// Fields that belong to one message, not to what is stored (RFC 9111, section 3.1).
const NOT_STORED: [&[u8]; 8] = [
    b"age",
    b"content-length",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-authorization",
    b"trailer",
    b"connection",
    b"keep-alive",
];
/// Fields of a 304 that say nothing of what is stored (RFC 9111, section 3.2), or are for one client.
const NOT_UPDATED: [&[u8]; 5] =
    [b"content-encoding", b"content-length", b"content-range", b"content-type", b"set-cookie"];

/// `[function.config]` of `http-cache`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The cache's name in `cache-status`.
    name: String,
    /// Bytes of all stored responses.
    size: usize,
    /// Bytes of the largest body that is stored.
    max_body: usize,
    /// Of the time since a response was changed, so much is it taken for fresh without being told: percent.
    heuristic_percent: u64,
    /// And at most so long: seconds.
    heuristic_max: u64,
    /// Clients may ask for newer responses.
    client_control: bool,
    /// Responses that set cookies are stored, if they say how long.
    store_set_cookie: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "weir".into(),
            size: 32 << 20,
            max_body: 256 << 10,
            heuristic_percent: 10,
            heuristic_max: 86_400,
            client_control: true,
            store_set_cookie: false,
        }
    }
}

/// The function.
#[derive(Debug)]
pub struct Cache {
    config: Config,
    store: Store,
    seed: u64,
    upstreams: usize,
    /// The upstream that is asked beside next.
    next: usize,
    /// Bytes of bodies that are coming in.
    filling: usize,
    key: Vec<u8>,
    /// Responses that are asked for beside, by token: none is waited for.
    beside: Vec<(Token, Beside)>,
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

/// A request of the cache's own.
#[derive(Debug)]
struct Beside {
    place: Place,
    asked: u64,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct State {
    kind: Kind,
    hash: u64,
    key: Vec<u8>,
    /// When the request left, in seconds.
    asked: u64,
    fields: Vec<Field>,
    authorized: bool,
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
        let token = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        if !config.name.starts_with(|c: char| c.is_ascii_alphabetic())
            || config.name.len() > 64
            || !config.name.bytes().all(token)
        {
            return Err(format!(
                "name: \"{}\" is not letters, digits, `-`, `.` and `_`",
                config.name
            ));
        }
        if config.max_body > config.size {
            return Err(format!(
                "max-body: {} is more than size, {}",
                config.max_body, config.size
            ));
        }
        if config.heuristic_percent > 100 {
            return Err(format!(
                "heuristic-percent: {} is more than 100",
                config.heuristic_percent
            ));
        }
        Ok(Self {
            store: Store::new(config.size),
            config,
            seed: setup.seed,
            upstreams: setup.ports.len(),
            next: 0,
            filling: 0,
            key: Vec::new(),
            beside: Vec::new(),
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
        if now == 0 || head.upgrade() {
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
        match use_of(stored, &control, age, now) {
            Use::Fresh => {
                self.counters.hits.add(1);
                if stale {
                    self.counters.stale.add(1);
                }
                let conditions = Conditions::of(head, head_only);
                // Without rooms for it, the upstream has to have some.
                answer(exchange, stored, &conditions, &self.config.name, now, "")
                    .unwrap_or(Outcome::Done)
            }
            Use::AskBeside => {
                self.counters.hits.add(1);
                self.counters.stale.add(1);
                self.ask_beside(exchange, head, place, now);
                let Some(stored) = self.store.get(place) else { return Outcome::Reset };
                let conditions = Conditions::of(head, head_only);
                // Without rooms for it, the upstream has to have some.
                answer(exchange, stored, &conditions, &self.config.name, now, "")
                    .unwrap_or(Outcome::Done)
            }
            Use::Not if control.only_if_cached => only_if_cached(exchange),
            Use::Not => self.validate(exchange, head, place, head_only, now),
        }
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let now = exchange.wall() / SECOND;
        let status = head.status();
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
                if let Some(stored) = self.store.get_mut(place) {
                    stored.asking_since = 0;
                }
                if status == 304 && self.freshen(place, head, exchange.state.asked, now) {
                    self.counters.revalidated.add(1);
                    let Some(stored) = self.store.get(place) else { return Outcome::Done };
                    let detail = ["; fwd=", why.text(), "; fwd-status=304"].concat();
                    return answer(exchange, stored, &conditions, &self.config.name, now, &detail)
                        .unwrap_or_else(|| exchange.answer(&Response::new(503)));
                }
                let failed = matches!(status, 500 | 502 | 503 | 504);
                if failed
                    && let Some(stored) = self.store.get(place)
                    && may_hide_errors(stored, now)
                {
                    self.counters.stale.add(1);
                    let detail = "; fwd=stale; detail=stale-if-error";
                    return answer(exchange, stored, &conditions, &self.config.name, now, detail)
                        .unwrap_or(Outcome::Done);
                }
                if status == 304 || conditions.head_only {
                    // Nothing that could be stored: a 304 about something else, or no body.
                    return self.tell(head, why, false);
                }
                self.take_in(exchange, head, why, now)
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
            return Outcome::Done;
        }
        filling.body.extend_from_slice(piece.bytes());
        self.filling += piece.len();
        if piece.is_last() {
            self.complete(state);
            return Outcome::Done;
        }
        Outcome::Continue
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        resumed: &mut Resumed<'_>,
        _: &mut Pending<'_>,
    ) -> Outcome {
        let Some(at) = self.beside.iter().position(|(token, _)| *token == resumed.token()) else {
            return Outcome::Continue;
        };
        let (_, Beside { place, asked }) = self.beside.swap_remove(at);
        let now = exchange.wall() / SECOND;
        if let Some(stored) = self.store.get_mut(place) {
            stored.asking_since = 0;
        }
        match (resumed.status(), resumed.head()) {
            (Some(304), Some(head)) => {
                if self.freshen(place, head, asked, now) {
                    self.counters.revalidated.add(1);
                }
            }
            (Some(status), Some(head)) if status < 500 => {
                self.replace(place, head, resumed.body(), asked, now);
            }
            _ => debug!("asking beside failed: {:?}", resumed.failure()),
        }
        Outcome::Continue
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, State>, _: End) {
        // A body that did not come to its end is not stored.
        self.let_go(exchange.state);
        if let Kind::Validate(place, ..) = exchange.state.kind
            && let Some(stored) = self.store.get_mut(place)
        {
            stored.asking_since = 0;
        }
    }
}

/// What a request asks of a stored response.
struct Wanted {
    no_cache: bool,
    max_age: u64,
    min_fresh: u64,
    max_stale: u64,
    only_if_cached: bool,
}

impl Wanted {
    fn of(control: Control, head: &Head<'_>, heed: bool) -> Self {
        let Control { only_if_cached, .. } = control;
        if !heed {
            return Self {
                no_cache: false,
                max_age: u64::MAX,
                min_fresh: 0,
                max_stale: 0,
                only_if_cached,
            };
        }
        // RFC 9111, section 5.4.
        let pragma = head.field("cache-control").is_none()
            && head.all("pragma").any(|value| value.eq_ignore_ascii_case(b"no-cache"));
        Self {
            no_cache: control.no_cache || pragma,
            max_age: control.max_age.unwrap_or(u64::MAX),
            min_fresh: control.min_fresh.unwrap_or(0),
            max_stale: control.max_stale.unwrap_or(0),
            only_if_cached,
        }
    }
}

/// Whether a stored response can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// As it is.
    Fresh,
    /// As it is, and it has to be asked whether it still holds.
    AskBeside,
    /// Not without asking.
    Not,
}

fn use_of(stored: &Stored, wanted: &Wanted, age: u64, now: u64) -> Use {
    let Freshness { control, lifetime, .. } = stored.freshness;
    if wanted.no_cache || control.no_cache || age > wanted.max_age {
        return Use::Not;
    }
    let left = lifetime.saturating_sub(age);
    if left > 0 {
        return if left >= wanted.min_fresh { Use::Fresh } else { Use::Not };
    }
    // RFC 9111, section 4.2.4. What is `s-maxage` is for shared caches, and to be revalidated by them, too.
    if control.must_revalidate
        || control.shared_max_age.is_some_and(|_| control.stale_while_revalidate.is_none())
    {
        return Use::Not;
    }
    let stale = age - lifetime;
    if wanted.min_fresh == 0 && stale < control.stale_while_revalidate.unwrap_or(0) {
        // One asks, the others need not.
        let asks = stored.asking_since != 0 && now < stored.asking_since + 2 * BESIDE.as_secs();
        return if asks { Use::Fresh } else { Use::AskBeside };
    }
    if stale <= wanted.max_stale && wanted.max_stale > 0 { Use::Fresh } else { Use::Not }
}

/// RFC 5861, section 4.
fn may_hide_errors(stored: &Stored, now: u64) -> bool {
    let Freshness { control, lifetime, .. } = stored.freshness;
    let stale = stored.freshness.age(now).saturating_sub(lifetime);
    !control.must_revalidate
        && !control.no_cache
        && stale <= control.stale_if_error.unwrap_or(0)
        && control.stale_if_error.is_some()
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

    /// Asks whether a stored response still holds, before the client gets anything (RFC 9111, section 4.3.1).
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
        let Some(stored) = self.store.get(place).filter(|_| remembered) else {
            return Outcome::Done;
        };
        let fresh = stored.freshness.lifetime > stored.freshness.age(now);
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
        let why = if fresh { Forward::Request } else { Forward::Stale };
        exchange.state.kind = Kind::Validate(place, conditions, why);
        Outcome::Continue
    }

    /// Asks beside whether a stored response still holds; the client has it already (RFC 5861, section 3).
    fn ask_beside(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &Head<'_>,
        place: Place,
        now: u64,
    ) {
        let Some(stored) = self.store.get_mut(place) else { return };
        let conditions = [&b"if-none-match"[..], b"if-modified-since", b"cache-control", b"pragma"];
        let mut request = Request::of_bytes(&b"GET"[..], head.authority(), head.path());
        for (name, value) in head.fields().filter(|(name, _)| !conditions.contains(name)) {
            request = request.field_bytes(name, value);
        }
        for (condition, validator) in
            [("if-none-match", "etag"), ("if-modified-since", "last-modified")]
        {
            if let Some(value) = stored.field(validator) {
                request = request.field_bytes(condition.as_bytes(), value.to_vec());
            }
        }
        let after = (self.next..self.upstreams).chain(0..self.next);
        let Some(upstream) = after.into_iter().find(|upstream| healthy(*upstream)) else { return };
        self.next = (upstream + 1) % self.upstreams;
        match exchange.call(upstream, &request, BESIDE) {
            Ok(token) => {
                stored.asking_since = now;
                self.beside.retain(|(_, other)| now < other.asked + 4 * BESIDE.as_secs());
                self.beside.push((token, Beside { place, asked: now }));
            }
            Err(refusal) => debug!("nobody can be asked beside: {refusal}"),
        }
    }

    /// A response that may be stored came.
    fn take_in(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        head: &mut Head<'_>,
        why: Forward,
        now: u64,
    ) -> Outcome {
        let state = &mut *exchange.state;
        let stored = self.storable(state, head, now);
        let told = self.tell(head, why, stored.is_some());
        let Some(stored) = stored else { return told };
        state.filling = Some(Box::new(stored));
        state.expected = head.body_length();
        if head.no_body() {
            self.complete(state);
            return Outcome::Done;
        }
        Outcome::Continue
    }

    /// What is to be stored of a response, without its body; none if it must not be, or need not (RFC 9111, section 3).
    fn storable(&self, state: &State, head: &Head<'_>, now: u64) -> Option<Stored> {
        let status = head.status();
        let cookie = state.fields.iter().any(|(name, _)| name == b"cookie");
        // Without being told, nothing is kept that may be about somebody.
        let percent = if cookie { 0 } else { self.config.heuristic_percent };
        let most = self.config.heuristic_max;
        let percent = if is_heuristic(status) { percent } else { 0 };
        let freshness = Freshness::of(head, state.asked, now, percent, most);
        let control = freshness.control;
        let explicit = control.max_age.is_some()
            || control.shared_max_age.is_some()
            || head.field("expires").is_some();
        let for_all = control.public || control.shared_max_age.is_some() || control.must_revalidate;
        let too_long = head.body_length().is_some_and(|n| n as usize > self.config.max_body);
        if head.made()
            || matches!(status, 206 | 304)
            || control.no_store
            || control.private
            || state.authorized && !for_all
            || !(explicit || control.public || is_heuristic(status))
            || head.field("set-cookie").is_some() && !(self.config.store_set_cookie && explicit)
            || head.field("content-range").is_some()
            || too_long
        {
            return None;
        }
        let validator = head.field("etag").is_some() || head.field("last-modified").is_some();
        let fresh = freshness.lifetime > freshness.initial_age && !control.no_cache;
        let later = control.stale_while_revalidate.is_some() || control.stale_if_error.is_some();
        if !(fresh || validator && (explicit || control.no_cache || later)) {
            return None;
        }
        let vary = vary(&state.fields, head)?;
        let fields = head.fields().filter(|(name, _)| !NOT_STORED.contains(name));
        Some(Stored {
            key: state.key.clone(),
            vary,
            status,
            fields: fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: Vec::new(),
            freshness,
            asking_since: 0,
        })
    }

    /// A response is complete.
    fn complete(&mut self, state: &mut State) {
        let Some(stored) = state.filling.take() else { return };
        self.filling -= stored.body.len();
        if state.expected.is_some_and(|expected| expected as usize != stored.body.len()) {
            return;
        }
        if self.store.insert(state.hash, *stored) {
            self.counters.stored.add(1);
        }
        self.count();
    }

    fn let_go(&mut self, state: &mut State) {
        if let Some(filling) = state.filling.take() {
            self.filling -= filling.body.len();
        }
    }

    fn count(&self) {
        self.counters.bytes.set(self.store.bytes() as f64);
        self.counters.responses.set(self.store.len() as f64);
    }

    /// A 304 is about a stored response, which is fresh again (RFC 9111, section 4.3.4). False if it is about another.
    fn freshen(&mut self, place: Place, head: &Head<'_>, asked: u64, now: u64) -> bool {
        let Some(stored) = self.store.get_mut(place) else { return false };
        if let (Some(told), Some(have)) = (head.field("etag"), stored.field("etag"))
            && weak(told) != weak(have)
        {
            return false;
        }
        for (name, _) in head.fields() {
            if !NOT_STORED.contains(&name) && !NOT_UPDATED.contains(&name) {
                stored.fields.retain(|(other, _)| other != name);
            }
        }
        for (name, value) in head.fields() {
            if !NOT_STORED.contains(&name) && !NOT_UPDATED.contains(&name) {
                stored.fields.push((name.to_vec(), value.to_vec()));
            }
        }
        // A 304 need not repeat what it does not change.
        let told = Freshness::of(head, asked, now, 0, 0);
        let explicit = ["cache-control", "expires"].iter().any(|name| head.field(name).is_some());
        let Freshness { initial_age, received, .. } = told;
        stored.freshness =
            if explicit { told } else { Freshness { initial_age, received, ..stored.freshness } };
        if stored.freshness.control.no_store || stored.freshness.control.private {
            let key = stored.key.clone();
            let hash = hash::bytes(&key, self.seed);
            self.store.invalidate(hash, &key);
            self.count();
            return false;
        }
        self.store.changed(place);
        true
    }

    /// What was asked for beside is another response.
    fn replace(&mut self, place: Place, head: &Head<'_>, body: &[u8], asked: u64, now: u64) {
        let Some(old) = self.store.get(place) else { return };
        let vary = old.vary.iter();
        let state = State {
            hash: hash::bytes(&old.key, self.seed),
            key: old.key.clone(),
            asked,
            fields: vary
                .filter_map(|(name, value)| Some((name.clone().into_bytes(), value.clone()?)))
                .collect(),
            ..State::default()
        };
        match self.storable(&state, head, now) {
            Some(new) if body.len() <= self.config.max_body => {
                self.store.insert(state.hash, Stored { body: body.to_vec(), ..new });
                self.counters.stored.add(1);
            }
            _ => {
                self.store.invalidate(state.hash, &state.key);
            }
        }
        self.count();
    }

    /// RFC 9111, section 4.4.
    fn invalidate(&mut self, state: &State, head: &Head<'_>) {
        let mut removed = self.store.invalidate(state.hash, &state.key);
        let scheme_and_host = state.key.iter().position(|c| *c == b'/').unwrap_or(0);
        let ours = &state.key[..scheme_and_host];
        for name in ["location", "content-location"] {
            // Of the same origin: absolute paths, or URIs that begin as the target's does.
            let Some(value) = head.field(name) else { continue };
            let host = &ours[1..];
            let path = match value.strip_prefix(b"https://").or(value.strip_prefix(b"http://")) {
                Some(rest) => rest.strip_prefix(host).filter(|path| path.starts_with(b"/")),
                None => Some(value).filter(|v| v.starts_with(b"/") && !v.starts_with(b"//")),
            };
            if let Some(path) = path {
                let key = [ours, path].concat();
                removed += self.store.invalidate(hash::bytes(&key, self.seed), &key);
            }
        }
        self.counters.invalidated.add(removed as u64);
        self.count();
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
