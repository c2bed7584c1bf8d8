//! Lets only requests with a valid token through.
//!
//! Owns: where tokens come from, what becomes of requests without a valid one, and fetching keys.
//! Must not know: cryptography and claims. Fields that carry claims to the upstream are always
//! taken off the client's request first.

mod cache;
mod config;
mod keys;
mod token;

use std::time::Duration;

use serde_json::Value;
use weir_sdk::message::prelude::*;

use cache::Cache;
pub use config::Config;
use config::JwksConfig;
use keys::Key;
use token::{Checks, Invalid};

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Auth);

const SECOND: u64 = 1_000_000_000;
/// How long an answer with keys may take.
const FETCH: Duration = Duration::from_secs(5);
/// How long a request waits before it looks again whether another one has fetched the keys.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Shortest time between two fetches because of unknown keys or failures, in nanoseconds.
const FETCH_EVERY: u64 = 10 * SECOND;

/// The function.
#[derive(Debug)]
pub struct Auth {
    keys: Vec<Key>,
    set: Option<KeySet>,
    checks: Checks,
    cookie: Option<String>,
    claims: Vec<(String, String)>,
    forward: bool,
    optional: bool,
    public: Vec<String>,
    bypass_cors_preflight: bool,
    challenge: String,
    cache: Cache,
    valid: Counter,
    remembered: Counter,
    invalid: Counter,
    missing: Counter,
    fetches: Counter,
    failures: Counter,
}

/// Keys that are fetched.
#[derive(Debug)]
struct KeySet {
    config: JwksConfig,
    upstream: usize,
    keys: Vec<Key>,
    text: Vec<u8>,
    /// When the next fetch may be made, and when one has to; nanoseconds.
    not_before: u64,
    stale_at: u64,
    /// A fetch under way, and since when.
    fetching: Option<(Token, u64)>,
}

impl KeySet {
    /// Without keys so far. `upstreams` are all that there are.
    fn new(config: JwksConfig, upstreams: &[String]) -> Result<Self, String> {
        let upstream = upstreams.iter().position(|name| *name == config.upstream);
        let upstream = upstream.ok_or_else(|| {
            let all = upstreams.join(", ");
            format!("jwks: no upstream is named \"{}\"; there are {all}", config.upstream)
        })?;
        let (keys, text) = (Vec::new(), Vec::new());
        Ok(Self { config, upstream, keys, text, not_before: 0, stale_at: 0, fetching: None })
    }
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct State {
    /// The fetch that the request waits for.
    fetch: Option<Token>,
    /// How often it looked whether another one's fetch is over.
    looked: u32,
}

/// Whether a browser asks for a page of another origin what that may do (Fetch standard, section
/// 4.8).
fn is_preflight(head: &Head<'_>) -> bool {
    head.method() == b"OPTIONS"
        && ["origin", "access-control-request-method"].iter().all(|name| head.field(name).is_some())
}

/// What to do with a request.
enum Verdict {
    Pass,
    Refuse(Option<Invalid>),
    /// Another set of keys may help.
    Fetch,
    /// More than one token, or something that is no token at all.
    Nonsense,
}

impl MessageFunction for Auth {
    type Config = Config;
    type State = State;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        config.check()?;
        let keys = config.keys.into_iter().enumerate();
        let keys =
            keys.map(|(n, key)| Key::read(key).map_err(|error| format!("keys[{n}]: {error}")));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            set: config.jwks.map(|jwks| KeySet::new(jwks, &setup.ports)).transpose()?,
            checks: Checks {
                issuers: config.issuers,
                audiences: config.audiences,
                required: config.required,
                scopes: config.scopes,
                leeway: config.leeway,
            },
            cookie: config.cookie,
            claims: config.claims.into_iter().collect(),
            forward: config.forward,
            optional: config.optional,
            public: config.public,
            bypass_cors_preflight: config.bypass_cors_preflight,
            challenge: format!("Bearer realm=\"{}\"", config.realm),
            cache: Cache::new(config.cache, setup.seed),
            valid: host::counter("valid"),
            remembered: host::counter("remembered"),
            invalid: host::counter("invalid"),
            missing: host::counter("missing"),
            fetches: host::counter("key_fetches"),
            failures: host::counter("key_failures"),
        })
    }

    fn wants(&self) -> Wants {
        Wants::REQUEST_HEAD
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        self.take_off(head);
        self.decide(exchange, head)
    }

    fn resume(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        resumed: &mut Resumed<'_>,
        pending: &mut Pending<'_>,
    ) -> Outcome {
        exchange.state.fetch.take_if(|token| *token == resumed.token());
        let fetching = self.set.as_ref().and_then(|set| set.fetching);
        if fetching.is_some_and(|(token, _)| token == resumed.token()) {
            self.fetched(resumed, exchange.now());
        }
        match pending {
            Pending::RequestHead(head) => self.decide(exchange, head),
            _ => Outcome::Continue,
        }
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, State>, _: End) {
        // What a request waited for does not come when it is gone.
        if let (Some(set), Some(waited_for)) = (&mut self.set, exchange.state.fetch) {
            set.fetching.take_if(|(token, _)| *token == waited_for);
        }
    }
}

impl Auth {
    /// Takes off what a client says in the fields that carry claims, also under names that
    /// applications cannot tell from them: CGI, WSGI, Rack and PHP make `HTTP_X_USER` of `x_user`,
    /// too (RFC 3875, section 4.1.18).
    fn take_off(&self, head: &mut Head<'_>) {
        let carries_claim =
            |name: &[u8]| self.claims.iter().any(|(_, field)| is_alike(name, field.as_bytes()));
        loop {
            let found = head.fields().find(|(name, _)| carries_claim(name));
            let name = found.and_then(|(name, _)| String::from_utf8(name.to_vec()).ok());
            let Some(name) = name else { break };
            head.remove(&name);
        }
    }

    fn decide(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        let wall = exchange.wall();
        if wall == 0 {
            error!("the host does not know what time it is, so no token can be checked");
            return exchange.answer(&Response::new(503));
        }
        match self.verdict(head, wall / SECOND, exchange.now()) {
            Ok(Verdict::Pass) => self.pass(exchange, head),
            Ok(Verdict::Refuse(why)) => self.refuse(exchange, why),
            Ok(Verdict::Fetch) => self.fetch(exchange),
            Ok(Verdict::Nonsense) => {
                self.invalid.add(1);
                let challenge = [&self.challenge, ", error=\"invalid_request\""].concat();
                exchange.answer(&Response::new(400).field("www-authenticate", challenge))
            }
            Err(full) => exchange.fail(&full),
        }
    }

    fn pass(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        if !self.forward {
            head.remove("authorization");
        }
        // Long before the keys are too old, another set is fetched beside.
        let now = exchange.now();
        if let Some(set) = &self.set
            && now >= set.stale_at
            && self.may_fetch(now)
        {
            self.ask(exchange);
        }
        Outcome::Done
    }

    /// Looks at a request's token; if it is valid, the claims become fields.
    fn verdict(&mut self, head: &mut Head<'_>, second: u64, now: u64) -> Result<Verdict, HeadFull> {
        let (path, _) = head.path_and_query();
        if self.public.iter().any(|public| is_below(path, public.as_bytes())) {
            return Ok(Verdict::Pass);
        }
        if self.bypass_cors_preflight && is_preflight(head) {
            return Ok(Verdict::Pass);
        }
        let mut all = head.all("authorization");
        let found = match (all.next(), all.next()) {
            (Some(_), Some(_)) => return Ok(Verdict::Nonsense),
            (Some(value), None) => match bearer(value) {
                Some(token) => Some(token),
                // Another scheme is somebody else's.
                None if self.optional => None,
                None => return Ok(Verdict::Refuse(None)),
            },
            (None, _) => self.cookie.as_ref().and_then(|cookie| head.cookie(cookie)),
        };
        drop(all);
        let Some(token) = found else {
            return Ok(if self.optional { Verdict::Pass } else { Verdict::Refuse(None) });
        };
        if let Some(known) = self.cache.find(token, second) {
            self.remembered.add(1);
            for (claim, value) in &known.fields {
                head.set(&self.claims[*claim].1, value)?;
            }
            return Ok(Verdict::Pass);
        }
        let fetched = self.set.iter().flat_map(|set| &set.keys);
        let payload = match token::verified(token, self.keys.iter().chain(fetched)) {
            Ok(payload) => payload,
            // A key may have been replaced by another of the same name, or of none.
            Err(Invalid::UnknownKey | Invalid::Signature) if self.may_fetch(now) => {
                return Ok(Verdict::Fetch);
            }
            Err(why) => return Ok(Verdict::Refuse(Some(why))),
        };
        let checked = token::claims(&payload, &self.checks, second);
        let fields = checked.and_then(|(claims, expires)| Ok((self.fields(&claims)?, expires)));
        match fields {
            Ok((fields, expires)) => {
                self.valid.add(1);
                self.cache.insert(token, expires, fields.clone(), second);
                for (claim, value) in fields {
                    head.set(&self.claims[claim].1, &value)?;
                }
                Ok(Verdict::Pass)
            }
            Err(why) => Ok(Verdict::Refuse(Some(why))),
        }
    }

    /// Values of the fields that carry claims.
    fn fields(
        &self,
        claims: &serde_json::Map<String, Value>,
    ) -> Result<Vec<(usize, Vec<u8>)>, Invalid> {
        let mut fields = Vec::new();
        for (number, (claim, _)) in self.claims.iter().enumerate() {
            let text = match claims.get(claim) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
                    let all: Vec<_> = all.iter().filter_map(Value::as_str).collect();
                    // It would be two for whoever reads the list.
                    if all.iter().any(|one| one.contains(',')) {
                        return Err(Invalid::Malformed);
                    }
                    all.join(",")
                }
                Some(other) => other.to_string(),
            };
            // A field cannot say that (RFC 9110, section 5.5), and something else must not be said.
            if text.trim() != text || text.bytes().any(|c| c < b' ' || c == 0x7f) {
                return Err(Invalid::Malformed);
            }
            fields.push((number, text.into_bytes()));
        }
        Ok(fields)
    }

    /// RFC 6750, section 3.
    fn refuse(&mut self, exchange: &mut Exchange<'_, State>, why: Option<Invalid>) -> Outcome {
        let counter = if why.is_some() { self.invalid } else { self.missing };
        counter.add(1);
        let mut challenge = self.challenge.clone();
        let mut status = 401;
        if let Some(why) = why {
            challenge.push_str(", error=\"");
            challenge.push_str(if why == Invalid::Scope {
                "insufficient_scope"
            } else {
                "invalid_token"
            });
            challenge.push_str("\", error_description=\"");
            challenge.push_str(why.text());
            challenge.push('"');
            if why == Invalid::Scope {
                status = 403;
                challenge.push_str(", scope=\"");
                challenge.push_str(&self.checks.scopes.join(" "));
                challenge.push('"');
            }
        }
        let response = Response::new(status)
            .field("www-authenticate", challenge)
            .field("cache-control", "no-store");
        exchange.answer(&response)
    }

    /// Whether another set of keys can be had: one is being fetched, or may be fetched again.
    fn may_fetch(&self, now: u64) -> bool {
        self.set.as_ref().is_some_and(|set| set.fetching.is_some() || now >= set.not_before)
    }

    /// Asks for the set of keys, unless somebody else has.
    fn ask(&mut self, exchange: &mut Exchange<'_, State>) -> Option<Token> {
        let set = self.set.as_mut()?;
        let now = exchange.now();
        let under_way = |(_, since): (Token, u64)| now < since + 2 * FETCH.as_nanos() as u64;
        if set.fetching.is_some_and(under_way) {
            return None;
        }
        let JwksConfig { authority, path, .. } = &set.config;
        let request = Request::new("GET", authority, path).field("accept", "application/json");
        match exchange.call(set.upstream, &request, FETCH) {
            Ok(token) => {
                self.fetches.add(1);
                set.fetching = Some((token, now));
                set.not_before = now + FETCH_EVERY;
                Some(token)
            }
            Err(refusal) => {
                warn!("keys cannot be fetched: {refusal}");
                set.not_before = now + FETCH_EVERY;
                None
            }
        }
    }

    /// Waits for the set of keys, which this request or another one fetches.
    fn fetch(&mut self, exchange: &mut Exchange<'_, State>) -> Outcome {
        if exchange.state.fetch.is_none() {
            exchange.state.fetch = self.ask(exchange);
        }
        if exchange.state.fetch.is_some() {
            return Outcome::Wait;
        }
        let most = FETCH.as_millis() / LOOK_AGAIN.as_millis();
        exchange.state.looked += 1;
        let waiting = self.set.as_ref().is_some_and(|set| set.fetching.is_some());
        if waiting
            && u128::from(exchange.state.looked) <= most
            && exchange.sleep(LOOK_AGAIN).is_ok()
        {
            return Outcome::Wait;
        }
        self.refuse(exchange, Some(Invalid::UnknownKey))
    }

    /// The set of keys came, or it did not.
    fn fetched(&mut self, resumed: &Resumed<'_>, now: u64) {
        let Some(set) = &mut self.set else { return };
        set.fetching = None;
        let keys = match resumed.status() {
            Some(200) => serde_json::from_slice(resumed.body())
                .map_err(|error| error.to_string())
                .and_then(|value| Key::jwks(&value, set.config.issuer.as_ref())),
            Some(status) => Err(format!("the answer has status {status}")),
            None => Err(format!("{:?}", resumed.failure())),
        };
        match keys {
            Ok(keys) => {
                set.stale_at = now + set.config.refresh * SECOND;
                if set.text != resumed.body() {
                    info!("{} keys were fetched from {}", keys.len(), set.config.authority);
                    set.keys = keys;
                    set.text = resumed.body().to_vec();
                    // A key that is gone is not to be trusted any more.
                    self.cache.clear();
                }
            }
            Err(why) => {
                self.failures.add(1);
                warn!("no keys from {}: {why}", set.config.authority);
            }
        }
    }
}

/// Whether a name of a field is this one, to those who tell letters and digits only.
fn is_alike(name: &[u8], field: &[u8]) -> bool {
    let alike =
        |(a, b): (&u8, &u8)| a == b || !a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric();
    name.len() == field.len() && name.iter().zip(field).all(alike)
}

/// The token of an `authorization` field (RFC 6750, section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii_start())
}

/// Whether a path is this one, or below it. One that could mean another path is below nothing.
fn is_below(path: &[u8], public: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(public) else { return false };
    let whole = rest.is_empty() || public.ends_with(b"/") || rest.starts_with(b"/");
    whole && !path.contains(&b'%') && !path.contains(&b'\\') && !path.windows(2).any(|w| w == b"..")
}
