//! Looks at requests for attacks.
//!
//! Owns: which texts of a request are looked at, and what its score comes to. Must not know: what
//! the application does with them. After the OWASP Core Rule Set: rules add to a score, and from a
//! threshold on the request is taken for an attack; so one weak sign alone does no harm.

mod body;
mod builtin;
mod config;
mod engine;
mod protocol;
mod text;

use weir_sdk::message::prelude::*;

use body::{Kind, Part};
use builtin::on;
use config::{Exclude, Mode, OnLong};
use engine::{Action, Engine, Set, Text};
use protocol::Violation;

pub use config::Config;

#[cfg(test)]
mod tests;

weir_sdk::export_message!(Waf);

/// Deepest nesting of JSON.
const DEPTH_MAX: usize = 64;
/// Most pieces of a body that are held: each takes a room, however short it is.
const PIECES_MAX: u32 = 128;
/// Bytes of a text that are logged.
const LOGGED: usize = 80;

/// Whether a field is one that browsers send with much punctuation in it and applications do not
/// work with. Of these, only texts with a dollar sign, a backquote or an angle bracket are looked
/// at.
fn is_dull(name: &[u8]) -> bool {
    matches!(
        name,
        b"accept"
            | b"accept-encoding"
            | b"accept-language"
            | b"authorization"
            | b"cache-control"
            | b"content-length"
            | b"content-type"
            | b"date"
            | b"dnt"
            | b"if-match"
            | b"if-modified-since"
            | b"if-none-match"
            | b"if-range"
            | b"if-unmodified-since"
            | b"origin"
            | b"pragma"
            | b"priority"
            | b"range"
            | b"traceparent"
            | b"upgrade-insecure-requests"
            | b"x-requested-with"
    ) || name.starts_with(b"sec-")
}

/// The function.
#[derive(Debug)]
pub struct Waf {
    engine: Engine,
    config: Config,
    excludes: Vec<Exclude>,
    /// Rules that each exclusion switches off.
    excluded: Vec<Set>,
    /// Bytes of bodies that are held.
    held: usize,
    buffer: Vec<u8>,
    requests: Counter,
    attacks: Counter,
    suspicious: Counter,
    long: Counter,
    no_room: Counter,
    unseen: Counter,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct State {
    score: u32,
    /// Rules that matched.
    matched: Set,
    violations: u32,
    /// For the log: numbers of what matched, and the first text.
    found: Option<String>,
    allowed: bool,
    /// Exclusions that hold for the path.
    excludes: Vec<u16>,
    body: Option<(Kind, Vec<u8>)>,
    /// The body has a `content-encoding`, as its client says.
    encoded: bool,
    pieces: u32,
}

impl MessageFunction for Waf {
    type Config = Config;
    type State = State;

    fn configure(_: Setup, mut config: Config) -> Result<Self, String> {
        config.check()?;
        let mut custom = Vec::new();
        for (n, rule) in std::mem::take(&mut config.rules).into_iter().enumerate() {
            custom.push(rule.read().map_err(|error| format!("rules[{n}]: {error}"))?);
        }
        let built_in = |id: &u32| builtin::RULES.iter().any(|rule| rule.id == *id);
        let of_request = |id: &u32| protocol::ALL.iter().any(|violation| violation.id == *id);
        if let Some(id) = config.disable.iter().find(|id| !built_in(id) && !of_request(id)) {
            return Err(format!("disable: no built-in rule has the number {id}"));
        }
        let engine = Engine::new(config.paranoia, &config.disable, custom)?;
        let mut excludes = Vec::new();
        for (n, exclude) in std::mem::take(&mut config.exclude).into_iter().enumerate() {
            let exclude =
                Exclude::read(exclude).map_err(|error| format!("exclude[{n}]: {error}"))?;
            for id in &exclude.rules {
                if of_request(id) {
                    return Err(format!(
                        "exclude[{n}].rules: {id} is about the whole request: use `disable`"
                    ));
                }
                if !built_in(id) && !engine.rules.iter().any(|rule| rule.id == *id) {
                    return Err(format!("exclude[{n}].rules: no rule has the number {id}"));
                }
            }
            excludes.push(exclude);
        }
        let excluded = excludes.iter().map(|exclude| {
            let mut set = Set::default();
            for (number, rule) in engine.rules.iter().enumerate() {
                if exclude.rules.is_empty() || exclude.rules.contains(&rule.id) {
                    set[number / 64] |= 1 << (number % 64);
                }
            }
            set
        });
        Ok(Self {
            excluded: excluded.collect(),
            excludes,
            engine,
            config,
            held: 0,
            buffer: Vec::new(),
            requests: host::counter("requests"),
            attacks: host::counter("attacks"),
            suspicious: host::counter("suspicious"),
            long: host::counter("long_bodies"),
            no_room: host::counter("no_room"),
            unseen: host::counter("bodies_not_looked_at"),
        })
    }

    fn wants(&self) -> Wants {
        let wants = Wants::REQUEST_HEAD.and(Wants::ENDED);
        if self.config.body_limit > 0 { wants.and(Wants::REQUEST_BODY) } else { wants }
    }

    fn request_head(&mut self, exchange: &mut Exchange<'_, State>, head: &mut Head<'_>) -> Outcome {
        self.requests.add(1);
        let state = &mut *exchange.state;
        let (path, _) = head.path_and_query();
        let climbs = !self.excludes.is_empty() && text::climbs(path);
        for (number, exclude) in (0..).zip(&self.excludes) {
            if exclude.is_for_path(path, climbs) {
                state.excludes.push(number);
            }
        }
        protocol::check(head, &self.config.methods, |v| violated(&self.config, state, v));
        self.look_at_head(state, head);
        if self.is_attack(state) {
            return self.attack(exchange);
        }
        if head.no_body() || self.config.body_limit == 0 {
            return self.passed(exchange);
        }
        // A body is looked at as it came: many applications know nothing of codings of requests.
        let identity = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
        let encoded = head.all("content-encoding").any(|coding| !identity(coding));
        exchange.state.encoded = encoded;
        if encoded {
            violated(&self.config, exchange.state, protocol::ENCODED_BODY);
        }
        let (kind, sound) = Kind::of(head.field("content-type").unwrap_or_default());
        if !sound {
            violated(&self.config, exchange.state, protocol::ODD_TYPE);
        }
        if self.is_attack(exchange.state) {
            return self.attack(exchange);
        }
        self.unseen.add((encoded || kind.is_none()).into());
        match kind {
            Some(kind) => {
                let known = head.body_length().is_some_and(|n| n as usize > self.config.body_limit);
                if known && self.config.on_long_body == OnLong::Reject {
                    return self.too_long(exchange);
                }
                exchange.state.body = Some((kind, Vec::new()));
                Outcome::Continue
            }
            None => self.passed(exchange),
        }
    }

    fn request_body(
        &mut self,
        exchange: &mut Exchange<'_, State>,
        piece: &mut Piece<'_>,
    ) -> Outcome {
        let Some((_, body)) = &mut exchange.state.body else { return Outcome::Done };
        let wanted = piece.len().min(self.config.body_limit.min(self.config.max_held) - body.len());
        let taken = wanted.min(self.config.max_held.saturating_sub(self.held));
        if taken < wanted && self.config.mode == Mode::Block {
            // Others' bodies must not have this one pass unseen.
            return self.no_room(exchange);
        }
        body.extend_from_slice(&piece.bytes()[..taken]);
        self.held += taken;
        exchange.state.pieces += 1;
        let long = taken < piece.len() || exchange.state.pieces > PIECES_MAX && !piece.is_last();
        if !long && !piece.is_last() {
            return Outcome::Hold;
        }
        if long && self.config.on_long_body == OnLong::Reject {
            return self.too_long(exchange);
        }
        self.long.add(long.into());
        self.look_at_body(exchange.state, !long);
        if self.is_attack(exchange.state) {
            return self.attack(exchange);
        }
        self.passed(exchange)
    }

    fn ended(&mut self, exchange: &mut Exchange<'_, State>, _: End) {
        self.let_go(exchange.state);
    }
}

impl Waf {
    fn look_at_head(&mut self, state: &mut State, head: &Head<'_>) {
        let (path, query) = head.path_and_query();
        self.look(state, Text { on: on::PATH, name: b"", value: path, plus: false });
        let count = body::pairs(query, |part| self.look_at_part(state, part, true));
        if count > self.config.max_args {
            violated(&self.config, state, protocol::MANY_ARGS);
        }
        for (name, value) in head.fields() {
            let on = match name {
                b"cookie" => {
                    for pair in value.split(|c| *c == b';') {
                        let pair = pair.trim_ascii();
                        let equals = pair.iter().position(|c| *c == b'=');
                        let (name, value) =
                            equals.map_or((&b""[..], pair), |at| (&pair[..at], &pair[at + 1..]));
                        self.look(state, Text { on: on::COOKIE, name, value, plus: false });
                    }
                    continue;
                }
                b"user-agent" => on::AGENT,
                b"referer" => on::REFERER,
                name if is_dull(name) => {
                    if !value.iter().any(|c| matches!(c, b'$' | b'`' | b'<')) {
                        continue;
                    }
                    on::FIELD
                }
                _ => on::FIELD,
            };
            self.look(state, Text { on, name, value, plus: false });
        }
    }

    fn look_at_part(&mut self, state: &mut State, part: Part<'_>, encoded: bool) {
        let (on, name, value) = match part {
            Part::Name(name) => (on::ARG_NAME, &b""[..], name),
            Part::Value(value, name) => (on::ARG, name, value),
            Part::File(name) => (on::FILE, &b""[..], name),
        };
        if self.config.paranoia >= protocol::UTF8.level && std::str::from_utf8(value).is_err() {
            violated(&self.config, state, protocol::UTF8);
        }
        self.look(state, Text { on, name, value, plus: encoded });
    }

    /// `whole`: this is all of it.
    fn look_at_body(&mut self, state: &mut State, whole: bool) {
        let Some((kind, body)) = state.body.take() else { return };
        let mut count = 0;
        // Then what it is made of says nothing: a bracket is a byte as any other.
        let compressed = state.encoded && std::str::from_utf8(&body).is_err();
        match &kind {
            Kind::Form => {
                protocol::check_encoding(&body, &mut |v| violated(&self.config, state, v));
                count = body::pairs(&body, |part| self.look_at_part(state, part, true));
            }
            Kind::Json => {
                let depth = self.look_at_json(state, &body);
                if depth > DEPTH_MAX && !compressed {
                    violated(&self.config, state, protocol::DEEP_JSON);
                }
            }
            Kind::Multipart(boundary) => {
                let each = |part: Part<'_>| self.look_at_part(state, part, false);
                let (parts, sound) = body::multipart(&body, boundary, whole, each);
                count = parts;
                // Where there is no part, nobody finds one.
                if !sound && (parts > 0 || !compressed) {
                    violated(&self.config, state, protocol::ODD_FORM);
                }
            }
            Kind::Text => {
                self.look_at_part(state, Part::Value(&body, b""), false);
                // Forms of other sites send JSON so, and many readers do not ask what it is called.
                if matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
                    self.look_at_json(state, &body);
                }
            }
        }
        if count > self.config.max_args && !compressed {
            violated(&self.config, state, protocol::MANY_ARGS);
        }
        self.held -= body.len();
    }

    /// Looks at the names and values of JSON: how deep it is.
    fn look_at_json(&mut self, state: &mut State, body: &[u8]) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let depth = body::json(body, &mut buffer, |part| self.look_at_part(state, part, false));
        self.buffer = buffer;
        depth
    }

    /// Asks all rules about a text.
    fn look(&mut self, state: &mut State, text: Text<'_>) {
        let mut skip = state.matched;
        for number in &state.excludes {
            let number = usize::from(*number);
            if self.excludes[number].is_for_text(text.on, text.name) {
                for (skip, excluded) in skip.iter_mut().zip(&self.excluded[number]) {
                    *skip |= excluded;
                }
            }
        }
        let mut found = [0u16; 16];
        let mut count = 0;
        self.engine.look(text, &skip, |number| {
            if count < found.len() {
                // At most RULES_MAX rules.
                let number = number as u16;
                found[count] = number;
                count += 1;
            }
        });
        for number in &found[..count] {
            let number = usize::from(*number);
            let rule = &self.engine.rules[number];
            state.matched[number / 64] |= 1 << (number % 64);
            match rule.action {
                Action::Allow => state.allowed = true,
                Action::Score => state.score += rule.score,
            }
            note(state, rule.id, &rule.name, text);
        }
    }

    fn is_attack(&self, state: &State) -> bool {
        state.score >= self.config.threshold && !state.allowed
    }

    /// Answers an attack, or says that it was one.
    fn attack(&mut self, exchange: &mut Exchange<'_, State>) -> Outcome {
        self.attacks.add(1);
        let state = &mut *exchange.state;
        let found = state.found.take().unwrap_or_default();
        warn!("attack, score {}: {found}", state.score);
        if self.config.mode == Mode::Detect {
            // Once is enough.
            self.let_go(state);
            return Outcome::Done;
        }
        self.let_go(state);
        exchange.answer(&Response::new(self.config.status).text("This request was refused.\n"))
    }

    fn passed(&mut self, exchange: &mut Exchange<'_, State>) -> Outcome {
        let state = &mut *exchange.state;
        if let Some(found) = state.found.take() {
            self.suspicious.add(1);
            info!("passed, score {}: {found}", state.score);
        }
        self.let_go(state);
        Outcome::Done
    }

    fn too_long(&mut self, exchange: &mut Exchange<'_, State>) -> Outcome {
        self.long.add(1);
        self.let_go(exchange.state);
        exchange.answer(&Response::new(413).text("This body is too long.\n"))
    }

    fn no_room(&mut self, exchange: &mut Exchange<'_, State>) -> Outcome {
        self.no_room.add(1);
        self.let_go(exchange.state);
        let answer = Response::new(503).field("retry-after", "1");
        exchange.answer(&answer.text("Too many bodies are looked at.\n"))
    }

    fn let_go(&mut self, state: &mut State) {
        if let Some((_, body)) = state.body.take() {
            self.held -= body.len();
        }
    }
}

/// Counts a violation, once.
fn violated(config: &Config, state: &mut State, violation: Violation) {
    let bit = 1 << (violation.id - protocol::ALL[0].id);
    if violation.level > config.paranoia
        || state.violations & bit != 0
        || config.disable.contains(&violation.id)
    {
        return;
    }
    state.violations |= bit;
    state.score += violation.score;
    note(state, violation.id, violation.name, Text { on: 0, name: b"", value: b"", plus: false });
}

/// Remembers what is to be logged.
fn note(state: &mut State, id: u32, name: &str, text: Text<'_>) {
    let found = state.found.get_or_insert_default();
    if found.len() > 512 {
        return;
    }
    if !found.is_empty() {
        found.push_str("; ");
    }
    found.push_str(&id.to_string());
    found.push(' ');
    found.push_str(name);
    if text.on != 0 {
        found.push_str(" in ");
        found.push_str(engine::kind_name(text.on));
        if !text.name.is_empty() {
            found.push(' ');
            found.push_str(&text.name[..text.name.len().min(LOGGED)].escape_ascii().to_string());
        }
        found.push_str(": ");
        found.push_str(&text.value[..text.value.len().min(LOGGED)].escape_ascii().to_string());
    }
}
