//! Rewrites requests and responses by rules.
//!
//! Owns: the order in which rules are applied, and what they do to messages. Must not know: where
//! messages go. What a rule says of the response is remembered until the response comes.

mod rules;
mod stream;
mod target;
mod template;

use regex::bytes::CaptureLocations;
use serde::Deserialize;
use smallvec::SmallVec;
use weir_sdk::config::is_authority;
use weir_sdk::message::PieceFull;
use weir_sdk::message::prelude::*;

use rules::{Edit, PathMatch, RULES_MAX, Rule, RuleConfig};
use stream::{Buffers, Stream};
use target::is_target;
use template::{Captured, split_query};

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Rewrite);

/// `[function.config]` of `rewrite`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    rules: Vec<RuleConfig>,
}

/// The function.
#[derive(Debug)]
pub struct Rewrite {
    rules: Vec<Rule>,
    wants: Wants,
    /// Groups of each rule's expression, filled when it matches.
    groups: Vec<Option<CaptureLocations>>,
    path: Vec<u8>,
    text: Vec<u8>,
    buffers: Buffers,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    matched: Counter,
    redirected: Counter,
    refused: Counter,
    replaced: Counter,
    left: Counter,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct Matched {
    /// Rules that have something to do with the response.
    response: SmallVec<[u16; 4]>,
    /// The rule that searches the request's body, and what is left over. Few have one, and small
    /// states stay in the cache.
    request_body: Option<Box<(u16, Stream)>>,
    response_body: Option<Box<(u16, Stream)>>,
}

impl MessageFunction for Rewrite {
    type Config = Config;
    type State = Matched;

    fn configure(_: Setup, config: Config) -> Result<Self, String> {
        if config.rules.len() > RULES_MAX {
            return Err(format!("rules: {} are too many, {RULES_MAX} at most", config.rules.len()));
        }
        let rules: Vec<Rule> = config
            .rules
            .into_iter()
            .enumerate()
            .map(|(n, rule)| Rule::read(rule).map_err(|error| format!("rules[{n}]: {error}")))
            .collect::<Result<_, _>>()?;
        let mut wants = Wants::REQUEST_HEAD;
        for rule in &rules {
            if rule.request.body.is_some() {
                wants = wants.and(Wants::REQUEST_BODY);
            }
            if rule.response.body.is_some() {
                wants = wants.and(Wants::RESPONSE_BODY);
            }
            if rule.response.body.is_some() || !rule.response.leaves_heads() {
                wants = wants.and(Wants::RESPONSE_HEAD);
            }
        }
        let groups = rules.iter().map(|rule| match &rule.path {
            PathMatch::Regex(regex) => Some(regex.capture_locations()),
            _ => None,
        });
        Ok(Self {
            groups: groups.collect(),
            rules,
            wants,
            path: Vec::new(),
            text: Vec::new(),
            buffers: Buffers::default(),
            counters: Counters {
                matched: host::counter("matched"),
                redirected: host::counter("redirected"),
                refused: host::counter("refused"),
                replaced: host::counter("replaced"),
                left: host::counter("left"),
            },
        })
    }

    fn wants(&self) -> Wants {
        self.wants
    }

    fn request_head(
        &mut self,
        exchange: &mut Exchange<'_, Matched>,
        head: &mut Head<'_>,
    ) -> Outcome {
        let Self { rules, groups, path, text, counters, .. } = self;
        for (number, (rule, groups)) in (0..).zip(rules.iter().zip(groups)) {
            let (target, _) = split_query(head.path());
            let Some(matched) = path_matches(&rule.path, target, groups.as_mut()) else { continue };
            if !rule.matches_but_path(head) {
                continue;
            }
            counters.matched.add(1);
            path.clear();
            if rule.quotes {
                path.extend_from_slice(target);
            }
            let captured = Captured { path, matched, groups: groups.as_ref() };
            if let Some((to, status)) = &rule.redirect {
                counters.redirected.add(1);
                text.clear();
                to.fill(text, head, &captured);
                let redirect = Response::new(*status).field_bytes(&b"location"[..], &text[..]);
                return exchange.answer(&redirect);
            }
            match edit_request(rule, head, &captured, text) {
                Ok(()) => {}
                Err(Unedited::Full(full)) => return exchange.fail(&full),
                Err(Unedited::Target) => {
                    debug!("rules[{number}] would make a target of a request that is none");
                    counters.refused.add(1);
                    return exchange.answer(&Response::new(400));
                }
            }
            if rule.request.searches(head)
                && !head.no_body()
                && exchange.state.request_body.is_none()
            {
                exchange.state.request_body = Some(Box::new((number, Stream::default())));
                for name in DIGESTS {
                    head.remove(name);
                }
            }
            if rule.response.body.is_some() || !rule.response.leaves_heads() {
                exchange.state.response.push(number);
            }
            if rule.last {
                break;
            }
        }
        let state = &exchange.state;
        if state.response.is_empty() && state.request_body.is_none() {
            return Outcome::Done;
        }
        Outcome::Continue
    }

    fn request_body(
        &mut self,
        exchange: &mut Exchange<'_, Matched>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        match exchange.state.request_body.as_deref_mut() {
            Some((rule, stream)) => {
                let edit = &self.rules[usize::from(*rule)].request;
                search(edit, stream, piece, &mut self.buffers, &self.counters)
            }
            None => Outcome::Continue,
        }
    }

    fn response_head(
        &mut self,
        exchange: &mut Exchange<'_, Matched>,
        head: &mut Head<'_>,
    ) -> Outcome {
        for number in std::mem::take(&mut exchange.state.response) {
            let rule = &self.rules[usize::from(number)];
            if rule.response.searches(head) && exchange.state.response_body.is_none() {
                exchange.state.response_body = Some(Box::new((number, Stream::default())));
                if let Err(full) = describes_no_more(head) {
                    return exchange.fail(&full);
                }
            }
            let nothing = Captured { path: &[], matched: (0, 0), groups: None };
            if let Err(full) = edit(&rule.response, head, &nothing, &mut self.text) {
                return exchange.fail(&full);
            }
        }
        if exchange.state.response_body.is_some() { Outcome::Continue } else { Outcome::Done }
    }

    fn response_body(
        &mut self,
        exchange: &mut Exchange<'_, Matched>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        match exchange.state.response_body.as_deref_mut() {
            Some((rule, stream)) => {
                let edit = &self.rules[usize::from(*rule)].response;
                search(edit, stream, piece, &mut self.buffers, &self.counters)
            }
            None => Outcome::Done,
        }
    }
}

/// The part of the path that matches a rule's condition on it.
fn path_matches(
    condition: &PathMatch,
    path: &[u8],
    groups: Option<&mut CaptureLocations>,
) -> Option<(usize, usize)> {
    match condition {
        PathMatch::Any => Some((0, path.len())),
        PathMatch::Exact(exact) => (path == &exact[..]).then_some((0, path.len())),
        PathMatch::Prefix(prefix) => path.starts_with(prefix).then_some((0, prefix.len())),
        PathMatch::Regex(regex) => {
            let found = regex.captures_read(groups?, path)?;
            Some((found.start(), found.end()))
        }
    }
}

/// Why a request's head is not what a rule says.
enum Unedited {
    /// There is no room.
    Full(HeadFull),
    /// With what its client sent, path or authority would be none.
    Target,
}

impl From<HeadFull> for Unedited {
    fn from(full: HeadFull) -> Self {
        Self::Full(full)
    }
}

/// Does to a request's head what a rule says.
fn edit_request(
    rule: &Rule,
    head: &mut Head<'_>,
    captured: &Captured<'_>,
    text: &mut Vec<u8>,
) -> Result<(), Unedited> {
    edit(&rule.request, head, captured, text)?;
    // The target before the authority: templates see the request as it came.
    if let Some(rewrite) = &rule.rewrite {
        let (start, end) = captured.matched;
        text.clear();
        text.extend_from_slice(&captured.path[..start]);
        rewrite.fill(text, head, captured);
        text.extend_from_slice(&captured.path[end..]);
        // A target begins with a slash, whatever was captured.
        if text.first() != Some(&b'/') {
            text.insert(0, b'/');
        }
        let (_, query) = split_query(head.path());
        if split_query(text).1.is_empty() {
            text.extend_from_slice(query);
        }
    }
    let rewritten = rule.rewrite.is_some().then_some(text.len());
    if let Some(authority) = &rule.authority {
        authority.fill(text, head, captured);
    }
    let (target, authority) = text.split_at(rewritten.unwrap_or(0));
    if rewritten.is_some() {
        if !is_target(target) {
            return Err(Unedited::Target);
        }
        head.set_path(target)?;
    }
    if rule.authority.is_some() {
        if !is_authority(authority) {
            return Err(Unedited::Target);
        }
        head.set_authority(authority)?;
    }
    if rule.response.body.is_some() {
        if head.field("accept-encoding").is_some() {
            head.set("accept-encoding", b"identity")?;
        }
        // Parts are not searched. A range may be ignored (RFC 9110 section 14.2).
        head.remove("range");
        head.remove("if-range");
    }
    Ok(())
}

/// Does to fields what an edit says.
fn edit(
    edit: &Edit,
    head: &mut Head<'_>,
    captured: &Captured<'_>,
    text: &mut Vec<u8>,
) -> Result<(), HeadFull> {
    for name in &edit.remove {
        head.remove(name);
    }
    for (name, value) in &edit.set {
        let value = value.filled(text, head, captured);
        head.set(name, value)?;
    }
    for (name, value) in &edit.add {
        let value = value.filled(text, head, captured);
        head.add(name, value)?;
    }
    text.clear();
    Ok(())
}

/// Fields with a hash of the body (RFC 9530; RFC 3230 and RFC 2616 before it).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// Takes back what a response says about exactly the bytes of its body (RFC 9110, sections 8.8.1
/// and 14.3; RFC 9530).
fn describes_no_more(head: &mut Head<'_>) -> Result<(), HeadFull> {
    for name in ["content-length", "accept-ranges"].into_iter().chain(DIGESTS) {
        head.remove(name);
    }
    match head.field("etag") {
        Some(strong) if !strong.starts_with(b"W/") => {
            let weak = [&b"W/"[..], strong].concat();
            head.set("etag", &weak)
        }
        _ => Ok(()),
    }
}

/// Searches a piece.
fn search(
    edit: &Edit,
    stream: &mut Stream,
    piece: &mut Piece<'_>,
    buffers: &mut Buffers,
    counters: &Counters,
) -> Outcome {
    let Some(replacements) = &edit.body else { return Outcome::Continue };
    match replacements.apply(stream, piece, buffers) {
        Ok(found) => {
            counters.replaced.add(found.replaced);
            counters.left.add(found.left);
            Outcome::Continue
        }
        Err(PieceFull) => {
            warn!("a body's end does not fit into its room, so the exchange is reset");
            Outcome::Reset
        }
    }
}
