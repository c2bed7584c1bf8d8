//! Running rules.
//!
//! Owns: which rules are asked about a text, and what they found. Must not know: HTTP. All literals
//! of all rules are searched for at once (Aho-Corasick); only rules of which one is there are
//! asked, so an honest text costs one pass.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind};
use regex::bytes::{Regex, RegexBuilder};

use crate::builtin::{RULES, on};
use crate::text::{self, Comments, Transform};

/// Most rules, built in and the operator's.
pub(crate) const RULES_MAX: usize = 256;
/// Largest compiled expression, in bytes.
const REGEX_MAX: usize = 1 << 21;

/// Rules as bits.
pub(crate) type Set = [u64; RULES_MAX / 64];

/// A rule that can be run.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) score: u32,
    pub(crate) action: Action,
    on: u16,
    /// Only for arguments, cookies or fields of this name.
    of: Option<Vec<u8>>,
    pattern: Option<Regex>,
    /// Classes of bytes of which one has to be there; 0: none has to.
    needs: u64,
    view: View,
}

/// What a match does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Adds to the score.
    #[default]
    Score,
    /// Lets the request pass, whatever else was or will be found.
    Allow,
}

/// The form of a text that a rule is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    Canonical,
    Own(Vec<Transform>),
}

/// A rule of the operator's, checked.
#[derive(Debug)]
pub(crate) struct Custom {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) score: u32,
    pub(crate) action: Action,
    pub(crate) on: u16,
    pub(crate) of: Option<Vec<u8>>,
    pub(crate) pattern: Option<String>,
    pub(crate) contains: Vec<String>,
    pub(crate) transform: Option<Vec<Transform>>,
}

/// A text to be looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// A bit of `on`.
    pub(crate) on: u16,
    /// Of an argument, a cookie or a field.
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Plus signs are spaces.
    pub(crate) plus: bool,
}

/// All rules, and buffers for texts.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) rules: Vec<Rule>,
    /// Finds all literals of all rules, in one pass.
    literals: DFA,
    /// The state before the first byte.
    start: StateID,
    /// For each literal, the rules that have it.
    rules_of: Vec<Set>,
    /// Rules without literals.
    always: Set,
    /// Kinds of texts that the operator's rules are about: they need not have literals.
    plain_too: u16,
    canonical: Vec<u8>,
    own: Vec<u8>,
}

impl Engine {
    /// Built-in rules up to this level, but those that are disabled, and the operator's.
    ///
    /// # Errors
    /// When an expression cannot be compiled.
    pub(crate) fn new(level: u8, disabled: &[u32], custom: Vec<Custom>) -> Result<Self, String> {
        let mut rules = Vec::new();
        let mut literals: Vec<String> = Vec::new();
        let mut rules_of: Vec<Set> = Vec::new();
        let mut always = Set::default();
        let mut plain_too = 0;
        let mut add = |rule: Rule, texts: Vec<String>| {
            let number = rules.len();
            if number >= RULES_MAX {
                return Err(format!("there are more than {RULES_MAX} rules"));
            }
            if texts.is_empty() {
                always[number / 64] |= 1 << (number % 64);
            }
            for literal in texts {
                let at = literals.iter().position(|known| *known == literal).unwrap_or_else(|| {
                    literals.push(literal);
                    rules_of.push(Set::default());
                    literals.len() - 1
                });
                rules_of[at][number / 64] |= 1 << (number % 64);
            }
            rules.push(rule);
            Ok(())
        };
        for built in RULES.iter().filter(|r| r.level <= level && !disabled.contains(&r.id)) {
            let rule = Rule {
                id: built.id,
                name: built.name.into(),
                score: built.score.into(),
                action: Action::Score,
                on: built.on,
                of: None,
                pattern: Some(expression(built.pattern)?),
                needs: built.needs.iter().fold(0, |classes, byte| classes | class(*byte)),
                view: View::Canonical,
            };
            add(rule, built.literals.iter().map(|&literal| literal.to_owned()).collect())?;
        }
        for custom in custom {
            plain_too |= custom.on;
            let pattern = custom.pattern.as_deref().map(expression).transpose();
            let pattern = pattern.map_err(|error| format!("rule {}: {error}", custom.id))?;
            let view = custom.transform.map_or(View::Canonical, View::Own);
            // Literals are searched for in the canonical form, so they are of use to rules about
            // that only.
            let (pattern, texts) = match (pattern, &view) {
                (Some(pattern), View::Canonical) => (Some(pattern), custom.contains),
                (None, View::Canonical) => (None, custom.contains),
                (Some(pattern), View::Own(_)) => (Some(pattern), Vec::new()),
                (None, View::Own(_)) => {
                    let any: Vec<_> = custom.contains.iter().map(|t| regex::escape(t)).collect();
                    (Some(expression(&any.join("|"))?), Vec::new())
                }
            };
            let Custom { id, name, score, action, on, of, .. } = custom;
            add(Rule { id, name, score, action, on, of, pattern, needs: 0, view }, texts)?;
        }
        let wrong = |error: &dyn std::fmt::Display| format!("the rules' literals: {error}");
        let automaton = DFA::builder().match_kind(MatchKind::Standard).build(&literals);
        let automaton = automaton.map_err(|error| wrong(&error))?;
        Ok(Self {
            start: automaton.start_state(Anchored::No).map_err(|error| wrong(&error))?,
            literals: automaton,
            rules,
            rules_of,
            always,
            plain_too,
            canonical: Vec::new(),
            own: Vec::new(),
        })
    }

    /// Whether a plain text has a literal of any rule. Most have none, and need no canonical form.
    fn has_literal(&self, text: &[u8]) -> bool {
        let mut state = self.start;
        text.iter().any(|byte| {
            state = self.literals.next_state(Anchored::No, state, byte.to_ascii_lowercase());
            self.literals.is_special(state) && self.literals.is_match(state)
        })
    }

    /// Looks at a text: numbers of the rules that match it are given to `found`, but those in
    /// `skip`.
    pub(crate) fn look(&mut self, text: Text<'_>, skip: &Set, mut found: impl FnMut(usize)) {
        let mut skip = *skip;
        let plain = self.plain_too & text.on == 0 && text::is_plain(text.value);
        if text.value.is_empty() || plain && !self.has_literal(text.value) {
            return;
        }
        let form = |engine: &mut Self, comments| {
            text::canonical(text.value, text.plus, comments, &mut engine.canonical, &mut engine.own)
        };
        let hidden = form(self, Comments::Replaced);
        self.ask(text, &mut skip, &mut found);
        if hidden {
            form(self, Comments::Kept);
            self.ask(text, &mut skip, &mut found);
        }
    }

    /// Asks the rules about the canonical form that there is now. Those that match, and those about
    /// a form of their own, are not asked again: they are in `skip` then.
    fn ask(&mut self, text: Text<'_>, skip: &mut Set, found: &mut impl FnMut(usize)) {
        let mut classes = 0;
        let mut candidates = self.always;
        let mut state = self.start;
        for byte in &self.canonical {
            classes |= CLASSES[usize::from(*byte)];
            state = self.literals.next_state(Anchored::No, state, *byte);
            if self.literals.is_special(state) && self.literals.is_match(state) {
                for hit in 0..self.literals.match_len(state) {
                    let literal = self.literals.match_pattern(state, hit).as_usize();
                    for (candidates, rules) in candidates.iter_mut().zip(&self.rules_of[literal]) {
                        *candidates |= rules;
                    }
                }
            }
        }
        for (word, (candidates, skip)) in candidates.into_iter().zip(skip).enumerate() {
            let mut left = candidates & !*skip;
            while left != 0 {
                let bit = left & left.wrapping_neg();
                let number = word * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                let rule = &self.rules[number];
                if rule.is_for(text) && (rule.needs == 0 || rule.needs & classes != 0) {
                    let subject = match &rule.view {
                        View::Canonical => &self.canonical,
                        View::Own(transforms) => {
                            *skip |= bit;
                            self.own.clear();
                            self.own.extend_from_slice(text.value);
                            for transform in transforms {
                                text::apply(*transform, &mut self.own);
                            }
                            &self.own
                        }
                    };
                    if rule.pattern.as_ref().is_none_or(|pattern| pattern.is_match(subject)) {
                        *skip |= bit;
                        found(number);
                    }
                }
            }
        }
    }
}

impl Rule {
    fn is_for(&self, text: Text<'_>) -> bool {
        self.on & text.on != 0 && self.of.as_ref().is_none_or(|name| name == text.name)
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text).unicode(false).size_limit(REGEX_MAX).build();
    regex.map_err(|error| format!("pattern: {error}"))
}

/// Each byte that a rule may need is a class of its own, but digits are one.
const fn class(byte: u8) -> u64 {
    match byte {
        b'0'..=b'9' => 1,
        b'\n' => 2,
        b'!'..=b'/' => 4 << (byte - b'!'),
        b':'..=b'@' => 1 << 17 << (byte - b':'),
        b'['..=b'`' => 1 << 24 << (byte - b'['),
        b'{'..=b'~' => 1 << 30 << (byte - b'{'),
        _ => 0,
    }
}

const CLASSES: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
};

/// Names of kinds of texts, as they are configured and logged.
pub(crate) const KINDS: [(&str, u16); 10] = [
    ("path", on::PATH),
    ("arg-names", on::ARG_NAME),
    ("args", on::ARG),
    ("cookies", on::COOKIE),
    ("user-agent", on::AGENT),
    ("referer", on::REFERER),
    ("fields", on::FIELD | on::AGENT | on::REFERER),
    ("file-names", on::FILE),
    ("input", on::INPUT),
    ("all", on::ALL),
];

/// The name of one kind.
pub(crate) fn kind_name(on: u16) -> &'static str {
    match on {
        on::PATH => "path",
        on::ARG_NAME => "arg-name",
        on::ARG => "arg",
        on::COOKIE => "cookie",
        on::FILE => "file-name",
        _ => "field",
    }
}
