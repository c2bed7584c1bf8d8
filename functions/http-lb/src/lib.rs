//! Chooses an upstream for each request.
//!
//! Owns: which upstreams a request may go to, stickiness, and what is learnt from how it ended.
//! Must not know: connections, retries, health checks: those are the gateway's, which is asked for
//! what it knows.

mod group;
mod hashing;
mod outlier;
mod route;
mod settings;

use std::collections::BTreeMap;

use serde::Deserialize;
use weir_sdk::config::not_empty;
use weir_sdk::message::prelude::*;

use group::{Group, UpstreamConfig};
use outlier::Outliers;
use route::{Asked, Conditions, OneOrMany};
use settings::{Own, Policy, Settings, Sticky};

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Balancer);

/// Most routes.
const ROUTES_MAX: usize = 128;

/// `[function.config]` of `http-lb`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    policy: Option<Policy>,
    /// Names and weights; all upstreams with the same weight if there are none.
    #[serde(default, deserialize_with = "not_empty")]
    upstreams: Vec<UpstreamConfig>,
    /// What is hashed.
    hash: Option<String>,
    sticky: Option<Sticky>,
    outlier: Option<outlier::Config>,
    /// The first that takes a request decides.
    #[serde(default, deserialize_with = "not_empty")]
    routes: Vec<RouteConfig>,
    otherwise: Option<Otherwise>,
}

/// Upstreams of some requests. What is left out is as at the top level.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RouteConfig {
    host: Option<OneOrMany>,
    path: Option<String>,
    path_prefix: Option<String>,
    method: Option<OneOrMany>,
    #[serde(default)]
    fields: BTreeMap<String, String>,

    #[serde(default, deserialize_with = "not_empty")]
    upstreams: Vec<UpstreamConfig>,
    policy: Option<Policy>,
    hash: Option<String>,
    sticky: Option<Own<Sticky>>,
    outlier: Option<Own<outlier::Config>>,
}

/// What becomes of requests that no route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Otherwise {
    /// 404.
    Refuse,
}

/// The function.
#[derive(Debug)]
pub struct Balancer {
    routes: Vec<Conditions>,
    /// Of each route, then of all other requests, if they are not refused.
    groups: Vec<Group>,
    wants: Wants,
    ejections: Counter,
    refused: Counter,
    ejected: Gauge,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct Chosen {
    group: usize,
    upstream: usize,
    /// The response gets a cookie.
    mark: bool,
    status: u16,
}

impl MessageFunction for Balancer {
    type Config = Config;
    type State = Chosen;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        let Config { policy, upstreams, hash, sticky, outlier, routes, otherwise } = config;
        let refuse = otherwise == Some(Otherwise::Refuse);
        match (routes.is_empty(), refuse, upstreams.is_empty()) {
            (true, true, _) => return Err("otherwise: it is for requests that no route takes, and there are no `routes`".into()),
            (false, true, false) => return Err("upstreams: nothing goes to them with `otherwise = \"refuse\"`: leave out one of the two".into()),
            (false, false, true) => return Err("upstreams: name those that get what no route takes, or leave that out with `otherwise = \"refuse\"`".into()),
            _ => (),
        }
        let top = Settings::default().with(
            policy,
            hash.as_deref(),
            sticky.map(Own::Table),
            outlier.map(Own::Table),
        )?;
        let nobody = host::counter("nobody_healthy");
        let (conditions, mut groups) = read_routes(&setup, routes, &top, nobody)?;
        if !refuse {
            groups.push(Group::new(&setup, upstreams, top, nobody)?);
        }
        check_cookies(&groups, conditions.len())?;
        let mut wants = Wants::REQUEST_HEAD;
        if groups.iter().any(Group::sees_responses) {
            wants = wants.and(Wants::RESPONSE_HEAD);
        }
        if groups.iter().any(|group| group.outliers.is_some()) {
            wants = wants.and(Wants::ENDED);
        }
        Ok(Self {
            routes: conditions,
            groups,
            wants,
            ejections: host::counter("ejections"),
            refused: host::counter("refused"),
            ejected: host::gauge("ejected"),
        })
    }

    fn wants(&self) -> Wants {
        self.wants
    }

    fn request_head(
        &mut self,
        exchange: &mut Exchange<'_, Chosen>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let now = exchange.now();
        let at = self.route(head);
        let Some(group) = self.groups.get_mut(at) else {
            self.refused.add(1);
            return exchange.answer(&Response::new(404));
        };
        let kept = group.kept(head, now);
        let chosen = kept.unwrap_or_else(|| group.choose(head, now));
        exchange.state.group = at;
        exchange.state.upstream = chosen;
        exchange.state.mark = group.sticky.is_some() && kept.is_none();
        match exchange.route(group.upstreams[chosen].place) {
            Ok(()) if group.sees_responses() => Outcome::Continue,
            Ok(()) => Outcome::Done,
            Err(refusal) => exchange.fail(&refusal),
        }
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, Chosen>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let Chosen { group, upstream, mark, .. } = *exchange.state;
        if !head.made() {
            exchange.state.status = head.status();
        }
        let Some(group) = self.groups.get(group) else { return Outcome::Done };
        // A second attempt may have come to another one: what the client has to come back to is
        // there.
        let sender = match head.upstream() {
            Some(place) => group.at(place),
            None => Some(upstream),
        };
        let moved = |sender: &usize| (mark || *sender != upstream) && !head.made();
        if let Some((sticky, sender)) = group.sticky.as_ref().zip(sender.filter(moved)) {
            let cookie = set_cookie(sticky, &group.upstreams[sender].mark);
            if head.add("set-cookie", cookie.as_bytes()).is_err() {
                warn!("no room for the cookie that keeps a client at its upstream");
            }
        }
        Outcome::Done
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, Chosen>, end: End) {
        let at = exchange.state.group;
        let Some(group) = self.groups.get_mut(at) else { return };
        // The gateway may have tried another one than was chosen.
        let Some(upstream) = end.upstream.and_then(|place| group.at(place)) else { return };
        let Some(outliers) = &mut group.outliers else { return };
        let result = match (end.how, exchange.state.status) {
            (How::UpstreamFailed, _) => outlier::Result::Failure,
            (_, 500..) => outlier::Result::ServerError,
            (_, 100..) => outlier::Result::Good,
            _ => return,
        };
        if let Some(seconds) = outliers.count(upstream, result, exchange.now()) {
            let name = &group.upstreams[upstream].name;
            if at < self.routes.len() {
                info!(
                    "upstream {name} is left out of routes[{at}] for {seconds} s: it failed again and again"
                );
            } else {
                info!("upstream {name} is left out for {seconds} s: it failed again and again");
            }
            self.ejections.add(1);
        }
        let ejected = self.groups.iter().filter_map(|group| group.outliers.as_ref());
        self.ejected.set(ejected.map(Outliers::ejected).sum::<usize>() as f64);
    }
}

impl Balancer {
    /// The place of the group that a request is for; there is none there if it is refused.
    fn route(&self, head: &Head<'_>) -> usize {
        if self.routes.is_empty() {
            return 0;
        }
        let asked = Asked::of(head);
        let taken = self.routes.iter().position(|route| route.matches(&asked, head));
        taken.unwrap_or(self.routes.len())
    }
}

fn read_routes(
    setup: &Setup,
    routes: Vec<RouteConfig>,
    top: &Settings,
    nobody: Counter,
) -> Result<(Vec<Conditions>, Vec<Group>), String> {
    if routes.len() > ROUTES_MAX {
        return Err(format!("routes: {} are too many, {ROUTES_MAX} at most", routes.len()));
    }
    let (mut before, mut groups) = (Vec::<Conditions>::new(), Vec::<Group>::new());
    for (n, route) in routes.into_iter().enumerate() {
        let (conditions, group) =
            read_route(setup, route, top, nobody).map_err(|e| format!("routes[{n}]: {e}"))?;
        if let Some(first) = before.iter().position(|earlier| earlier.cover(&conditions)) {
            return Err(format!(
                "routes[{n}]: no request comes to it, as routes[{first}] takes all that it would: put it before that \
                 one, or leave it out"
            ));
        }
        before.push(conditions);
        groups.push(group);
    }
    Ok((before, groups))
}

/// Who goes from the one group to the other would lose its upstream each time if both had the same
/// cookie.
fn check_cookies(groups: &[Group], routes: usize) -> Result<(), String> {
    let cookie = |group: &Group| group.sticky.as_ref().map(|sticky| sticky.cookie.clone());
    for (n, group) in groups.iter().enumerate().take(routes) {
        let Some(name) = cookie(group) else { continue };
        let same = |other: &usize| cookie(&groups[*other]).as_ref() == Some(&name);
        if let Some(other) = (0..groups.len()).filter(|other| *other != n).find(same) {
            let whose =
                if other < routes { format!("routes[{other}]") } else { "the top level".into() };
            return Err(format!(
                "routes[{n}].sticky.cookie: \"{name}\" is that of {whose}, too, and each would replace the other's: \
                 take another name"
            ));
        }
    }
    Ok(())
}

fn read_route(
    setup: &Setup,
    route: RouteConfig,
    top: &Settings,
    nobody: Counter,
) -> Result<(Conditions, Group), String> {
    let RouteConfig {
        host,
        path,
        path_prefix,
        method,
        fields,
        upstreams,
        policy,
        hash,
        sticky,
        outlier,
    } = route;
    let conditions = Conditions::read(host, (path, path_prefix), method, fields)?;
    if conditions.is_empty() {
        return Err("it has no condition, and would take everything: what no route takes is for the `upstreams` beside \
                    `routes`".into());
    }
    if upstreams.is_empty() {
        return Err("it has no upstreams: name those that get what it takes".into());
    }
    let inherits_cookie = sticky.is_none();
    let mut settings = top.with(policy, hash.as_deref(), sticky, outlier)?;
    if let Some(sticky) = settings.sticky.as_mut().filter(|_| inherits_cookie) {
        // One cookie for all would forget a route's upstream at another route.
        sticky.cookie = format!("{}-{:08x}", sticky.cookie, conditions.number() as u32);
    }
    Ok((conditions, Group::new(setup, upstreams, settings, nobody)?))
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
