//! Upstreams that the same requests may go to, of which one is chosen.
//!
//! Owns: the policies, and who is left out. Must not know: which requests come here.

use serde::Deserialize;
use weir_sdk::hash;
use weir_sdk::message::prelude::*;
use weir_sdk::message::{active, healthy};

use crate::hashing::Table;
use crate::outlier::Outliers;
use crate::settings::{HashOn, Policy, Settings, Sticky};

/// Most upstreams.
const UPSTREAMS_MAX: usize = 128;
/// With so many upstreams or fewer, all are asked for the least requests; with more, two.
const ASK_ALL: usize = 4;

/// An upstream that takes part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamConfig {
    name: String,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Debug)]
pub(crate) struct Upstream {
    /// Its place in `Setup::ports`.
    pub(crate) place: usize,
    pub(crate) name: String,
    weight: u32,
    /// For round robin: grows by the weight each time, and falls by all weights when it is chosen
    /// (nginx's smooth weighted round robin). For the least requests: less, the later it was
    /// chosen.
    credit: i64,
    /// Its cookie's value.
    pub(crate) mark: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    policy: Policy,
    pub(crate) upstreams: Vec<Upstream>,
    weights: i64,
    hash: HashOn,
    table: Option<Table>,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) outliers: Option<Outliers>,
    /// Choices made.
    turn: i64,
    /// For choosing two of many.
    random: u64,
    tried: Vec<bool>,
    nobody: Counter,
}

impl Group {
    /// These upstreams, or all of the listener with the same weight if there are none.
    ///
    /// # Errors
    /// When an upstream is not the listener's, or cannot take part like this.
    pub(crate) fn new(
        setup: &Setup,
        upstreams: Vec<UpstreamConfig>,
        settings: Settings,
        nobody: Counter,
    ) -> Result<Self, String> {
        let upstreams = read(setup, upstreams)?;
        let Settings { policy, hash, sticky, outlier } = settings;
        let names: Vec<_> = upstreams.iter().map(|u| (u.name.as_str(), u.weight)).collect();
        Ok(Self {
            policy,
            table: (policy == Policy::Hash).then(|| Table::new(&names)),
            weights: upstreams.iter().map(|upstream| i64::from(upstream.weight)).sum(),
            tried: vec![false; upstreams.len()],
            outliers: outlier.map(|config| Outliers::new(config, upstreams.len())),
            upstreams,
            hash: hash.unwrap_or_default(),
            sticky,
            turn: 0,
            random: setup.seed | 1,
            nobody,
        })
    }

    /// Whether it has to see how requests are answered.
    pub(crate) fn sees_responses(&self) -> bool {
        self.sticky.is_some() || self.outliers.is_some()
    }

    /// The upstream that has this place in `Setup::ports`, if it takes part.
    pub(crate) fn at(&self, place: usize) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.place == place)
    }

    /// The upstream that the client's cookie names, if that is well.
    pub(crate) fn kept(&mut self, head: &Head<'_>, now: u64) -> Option<usize> {
        let mark = head.cookie(&self.sticky.as_ref()?.cookie)?;
        let upstream = self.upstreams.iter().position(|u| u.mark.as_bytes() == mark)?;
        self.is_well(upstream, now).then_some(upstream)
    }

    fn is_well(&mut self, upstream: usize, now: u64) -> bool {
        let ejected = self.outliers.as_mut().is_some_and(|o| o.is_ejected(upstream, now));
        !ejected && healthy(self.upstreams[upstream].place)
    }

    /// The policy's choice of those who are well; if nobody is, of those who are not down; if all
    /// are down, of all.
    pub(crate) fn choose(&mut self, head: &Head<'_>, now: u64) -> usize {
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
            // Less than that, it only becomes while others are not well, who then are not owed
            // anything.
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

fn read(setup: &Setup, wanted: Vec<UpstreamConfig>) -> Result<Vec<Upstream>, String> {
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
                "upstreams: {many} are too many: 1 to {UPSTREAMS_MAX} are possible; name them"
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
