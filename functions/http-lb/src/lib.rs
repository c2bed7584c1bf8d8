//! Chooses an upstream for each request.
//!
//! Owns: the policies, stickiness, and who is left out. Must not know: connections, retries, health checks: those are the
//! gateway's, which is asked for what it knows.

mod hashing;
mod outlier;

use serde::Deserialize;
use weir_sdk::config::{is_token, not_empty};
use weir_sdk::hash;
use weir_sdk::message::prelude::*;
use weir_sdk::message::{active, healthy};

use hashing::Table;
use outlier::Outliers;

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Balancer);

/// Most upstreams.
const UPSTREAMS_MAX: usize = 128;
/// With so many upstreams or fewer, all are asked for the least requests; with more, two.
const ASK_ALL: usize = 4;

/// `[function.config]` of `http-lb`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    #[serde(default)]
    policy: Policy,
    /// Names and weights; all upstreams with the same weight if there are none.
    #[serde(default, deserialize_with = "not_empty")]
    upstreams: Vec<UpstreamConfig>,
    /// What is hashed.
    hash: Option<String>,
    sticky: Option<Sticky>,
    outlier: Option<outlier::Config>,
}

/// An upstream that takes part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamConfig {
    name: String,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

/// How an upstream is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests for its weight.
    LeastRequests,
    /// By what `hash` says.
    Hash,
}

/// A cookie that brings a client back to its upstream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sticky {
    cookie: String,
    /// Seconds; without it the cookie goes with the browser's session.
    max_age: Option<u64>,
    #[serde(default)]
    secure: bool,
}

/// What a request's hash is of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HashOn {
    Client,
    Path,
    Field(String),
    Cookie(String),
}

impl HashOn {
    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "client" => Ok(Self::Client),
            None if text == "path" => Ok(Self::Path),
            Some(("field", name)) if is_token(name) => Ok(Self::Field(name.to_ascii_lowercase())),
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.into())),
            _ => Err(format!(
                "hash: \"{text}\" is none of \"client\", \"path\", \"field:NAME\", \"cookie:NAME\""
            )),
        }
    }

    /// A request without the field or cookie counts as its client.
    fn hash(&self, head: &Head<'_>) -> u64 {
        let value = match self {
            Self::Client => None,
            Self::Path => Some(head.path_and_query().0),
            Self::Field(name) => head.field(name),
            Self::Cookie(name) => head.cookie(name),
        };
        value.map_or_else(|| hash::bytes(&head.client_bytes(), 0), |v| hash::bytes(v, 0))
    }
}

#[derive(Debug)]
struct Upstream {
    /// Its place in `Setup::ports`.
    place: usize,
    name: String,
    weight: u32,
    /// For round robin: grows by the weight each time, and falls by all weights when it is chosen (nginx's smooth
    /// weighted round robin). For the least requests: less, the later it was chosen.
    credit: i64,
    /// Its cookie's value.
    mark: String,
}

/// The function.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    upstreams: Vec<Upstream>,
    weights: i64,
    hash: HashOn,
    table: Option<Table>,
    sticky: Option<Sticky>,
    outliers: Option<Outliers>,
    /// Choices made.
    turn: i64,
    /// For choosing two of many.
    random: u64,
    tried: Vec<bool>,
    ejections: Counter,
    nobody: Counter,
    ejected: Gauge,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct Chosen {
    upstream: usize,
    /// The response gets a cookie.
    mark: bool,
    status: u16,
}

impl MessageFunction for Balancer {
    type Config = Config;
    type State = Chosen;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        let upstreams = upstreams(&setup, config.upstreams)?;
        let hash = match (config.policy, &config.hash) {
            (Policy::Hash, None) => {
                return Err(
                    "hash: policy \"hash\" needs to know what, for example \"client\"".into()
                );
            }
            (Policy::Hash, Some(text)) => HashOn::read(text)?,
            (_, Some(_)) => return Err("hash: only policy \"hash\" has it".into()),
            (_, None) => HashOn::Client,
        };
        let names: Vec<_> = upstreams.iter().map(|u| (u.name.as_str(), u.weight)).collect();
        let table = (config.policy == Policy::Hash).then(|| Table::new(&names));
        if let Some(sticky) = &config.sticky
            && !is_token(&sticky.cookie)
        {
            return Err(format!("sticky.cookie: \"{}\" is no cookie's name", sticky.cookie));
        }
        let outliers = config.outlier.map(|config| Outliers::new(config, upstreams.len()));
        Ok(Self {
            policy: config.policy,
            weights: upstreams.iter().map(|upstream| i64::from(upstream.weight)).sum(),
            tried: vec![false; upstreams.len()],
            upstreams,
            hash,
            table,
            sticky: config.sticky,
            outliers: outliers.transpose()?,
            turn: 0,
            random: setup.seed | 1,
            ejections: host::counter("ejections"),
            nobody: host::counter("nobody_healthy"),
            ejected: host::gauge("ejected"),
        })
    }

    fn wants(&self) -> Wants {
        let mut wants = Wants::REQUEST_HEAD;
        if self.sticky.is_some() || self.outliers.is_some() {
            wants = wants.and(Wants::RESPONSE_HEAD);
        }
        if self.outliers.is_some() {
            wants = wants.and(Wants::ENDED);
        }
        wants
    }

    fn request_head(
        &mut self,
        exchange: &mut Exchange<'_, Chosen>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let now = exchange.now();
        let kept = self.kept(head, now);
        let chosen = kept.unwrap_or_else(|| self.choose(head, now));
        exchange.state.upstream = chosen;
        exchange.state.mark = self.sticky.is_some() && kept.is_none();
        match exchange.route(self.upstreams[chosen].place) {
            Ok(()) if self.sticky.is_some() || self.outliers.is_some() => Outcome::Continue,
            Ok(()) => Outcome::Done,
            Err(refusal) => exchange.fail(&refusal),
        }
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, Chosen>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let Chosen { upstream, mark, .. } = *exchange.state;
        if !head.made() {
            exchange.state.status = head.status();
        }
        // A second attempt may have come to another one: what the client has to come back to is there.
        let sender = match head.upstream() {
            Some(place) => self.at(place),
            None => Some(upstream),
        };
        let moved = |sender: &usize| (mark || *sender != upstream) && !head.made();
        if let Some((sticky, sender)) = self.sticky.as_ref().zip(sender.filter(moved)) {
            let cookie = set_cookie(sticky, &self.upstreams[sender].mark);
            if head.add("set-cookie", cookie.as_bytes()).is_err() {
                warn!("no room for the cookie that keeps a client at its upstream");
            }
        }
        Outcome::Done
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, Chosen>, end: End) {
        // The gateway may have tried another one than was chosen.
        let Some(upstream) = end.upstream.and_then(|place| self.at(place)) else { return };
        let Some(outliers) = &mut self.outliers else { return };
        let result = match (end.how, exchange.state.status) {
            (How::UpstreamFailed, _) => outlier::Result::Failure,
            (_, 500..) => outlier::Result::ServerError,
            (_, 100..) => outlier::Result::Good,
            _ => return,
        };
        if let Some(seconds) = outliers.count(upstream, result, exchange.now()) {
            let name = &self.upstreams[upstream].name;
            info!("upstream {name} is left out for {seconds} s: it failed again and again");
            self.ejections.add(1);
        }
        self.ejected.set(outliers.ejected() as f64);
    }
}

impl Balancer {
    /// The upstream that has this place in `Setup::ports`, if it takes part.
    fn at(&self, place: usize) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.place == place)
    }

    /// The upstream that the client's cookie names, if that is well.
    fn kept(&mut self, head: &Head<'_>, now: u64) -> Option<usize> {
        let mark = head.cookie(&self.sticky.as_ref()?.cookie)?;
        let upstream = self.upstreams.iter().position(|u| u.mark.as_bytes() == mark)?;
        self.is_well(upstream, now).then_some(upstream)
    }

    fn is_well(&mut self, upstream: usize, now: u64) -> bool {
        let ejected = self.outliers.as_mut().is_some_and(|o| o.is_ejected(upstream, now));
        !ejected && healthy(self.upstreams[upstream].place)
    }

    /// The policy's choice of those who are well; if nobody is, of those who are not down; if all are down, of all.
    fn choose(&mut self, head: &Head<'_>, now: u64) -> usize {
        let first = self.propose(head);
        if self.is_well(first, now) {
            return self.chosen(first);
        }
        self.tried.fill(false);
        let (mut well, mut up) = (None, None);
        let mut next = Some(first);
        while let Some(at) = next {
            if self.is_well(at, now) {
                well = Some(at);
                break;
            }
            if up.is_none() && healthy(self.upstreams[at].place) {
                up = Some(at);
            }
            self.tried[at] = true;
            next = self.propose_next(head);
        }
        if self.policy == Policy::RoundRobin {
            // Who gets nothing saves up no turns for later.
            for (upstream, tried) in self.upstreams.iter_mut().zip(&self.tried) {
                if *tried && (well.is_some() || (up.is_some() && !healthy(upstream.place))) {
                    upstream.credit = 0;
                }
            }
        }
        if well.or(up).is_none() {
            self.nobody.add(1);
        }
        self.chosen(well.or(up).unwrap_or(first))
    }

    /// What the policy would choose.
    fn propose(&mut self, head: &Head<'_>) -> usize {
        match (self.policy, &self.table) {
            (Policy::Hash, Some(table)) => {
                table.choices(self.hash.hash(head)).next().unwrap_or_default()
            }
            (Policy::LeastRequests, _) if self.upstreams.len() > ASK_ALL => {
                let (a, b) = (self.random_place(), self.random_place());
                if self.load(b) < self.load(a) { b } else { a }
            }
            (Policy::LeastRequests, _) => self.least(|_| true).unwrap_or_default(),
            _ => {
                for upstream in &mut self.upstreams {
                    upstream.credit += i64::from(upstream.weight);
                }
                self.richest(|_| true).unwrap_or_default()
            }
        }
    }

    /// What the policy would choose of those who were not tried.
    fn propose_next(&mut self, head: &Head<'_>) -> Option<usize> {
        match (self.policy, &self.table) {
            (Policy::Hash, Some(table)) => {
                let mut choices = table.choices(self.hash.hash(head)).take(256);
                choices
                    .find(|choice| !self.tried[*choice])
                    .or_else(|| self.tried.iter().position(|tried| !tried))
            }
            (Policy::LeastRequests, _) => self.least(|at| !self.tried[at]),
            _ => self.richest(|at| !self.tried[at]),
        }
    }

    fn richest(&self, among: impl Fn(usize) -> bool) -> Option<usize> {
        let places = (0..self.upstreams.len()).filter(|at| among(*at));
        // The first of equals.
        places.min_by_key(|at| -self.upstreams[*at].credit)
    }

    /// The least loaded; of equals, the one that was chosen longest ago.
    fn least(&self, among: impl Fn(usize) -> bool) -> Option<usize> {
        let places = (0..self.upstreams.len()).filter(|at| among(*at));
        places.min_by_key(|at| (self.load(*at), -self.upstreams[*at].credit))
    }

    /// Requests for its weight, as a fraction of 2^16.
    fn load(&self, at: usize) -> u64 {
        let upstream = &self.upstreams[at];
        (u64::from(active(upstream.place)) << 16) / u64::from(upstream.weight)
    }

    fn chosen(&mut self, at: usize) -> usize {
        match self.policy {
            // Less than that, it only becomes while others are not well, who then are not owed anything.
            Policy::RoundRobin => {
                let credit = &mut self.upstreams[at].credit;
                *credit = (*credit - self.weights).max(-self.weights);
            }
            // Of equals, the one that was chosen longest ago.
            Policy::LeastRequests => {
                self.turn += 1;
                self.upstreams[at].credit = -self.turn;
            }
            Policy::Hash => {}
        }
        at
    }

    /// Xorshift64 (Marsaglia, 2003).
    fn random_place(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.upstreams.len() as u64) as usize
    }
}

fn upstreams(setup: &Setup, wanted: Vec<UpstreamConfig>) -> Result<Vec<Upstream>, String> {
    let wanted = if wanted.is_empty() {
        let all = setup.ports.iter();
        all.map(|name| UpstreamConfig { name: name.clone(), weight: 1 }).collect()
    } else {
        wanted
    };
    match wanted.len() {
        0 => return Err("there is no upstream to choose: the listener has none".into()),
        1..=UPSTREAMS_MAX => (),
        many => {
            return Err(format!(
                "{many} upstreams: 1 to {UPSTREAMS_MAX} are possible; name them in `upstreams`"
            ));
        }
    }
    let mut upstreams: Vec<Upstream> = Vec::new();
    for (n, UpstreamConfig { name, weight }) in wanted.into_iter().enumerate() {
        let place = setup.ports.iter().position(|port| *port == name).ok_or_else(|| {
            let all = setup.ports.join(", ");
            format!("upstreams[{n}]: no upstream is named \"{name}\"; there are {all}")
        })?;
        if weight == 0 {
            return Err(format!(
                "upstreams[{n}]: weight 0 is not from 1 to 1000; leave \"{name}\" out, and it gets nothing from here"
            ));
        }
        if weight > 1000 {
            return Err(format!("upstreams[{n}]: weight {weight} is not from 1 to 1000"));
        }
        if upstreams.iter().any(|other| other.place == place) {
            return Err(format!("upstreams[{n}]: \"{name}\" is there twice"));
        }
        let mark = format!("{:016x}", hash::bytes(name.as_bytes(), 1));
        upstreams.push(Upstream { place, name, weight, credit: 0, mark });
    }
    Ok(upstreams)
}

/// RFC 6265, section 4.1.
fn set_cookie(sticky: &Sticky, mark: &str) -> String {
    let mut cookie = [&sticky.cookie, "=", mark, "; Path=/; HttpOnly; SameSite=Lax"].concat();
    if let Some(seconds) = sticky.max_age {
        cookie.push_str("; Max-Age=");
        cookie.push_str(&seconds.to_string());
    }
    if sticky.secure {
        cookie.push_str("; Secure");
    }
    cookie
}
