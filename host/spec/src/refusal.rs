//! What a function says about its configuration, turned into a place in the chain that gave it.
//!
//! A function answers `configure` with a text. Those made with our SDK begin with the keys that
//! lead to the value, such as `rules[3]: dport: "99999" is not a number`; of others nothing is
//! known, and their whole text is the message.

use crate::chain::Chain;
use crate::invalid::{Invalid, Segment, explain};
use crate::parts::parts;

impl Chain {
    /// What is wrong with this chain when the function of that name refused its configuration with
    /// this message.
    #[must_use]
    pub fn refused_configuration(&self, function: &str, message: &str) -> Invalid {
        let said = |text: &str| format!("function {function} refused its configuration: {text}");
        let Some(place) = self.functions.iter().position(|f| f.label() == function) else {
            return Invalid::whole(said(message));
        };
        let (path, rest) = follow(self.functions[place].config.as_str(), message);
        let (text, help) = explain(rest);
        let invalid = Invalid { path, message: said(&text), help };
        invalid.within("config").within_array("function", place)
    }
}

/// Follows the keys with which the text begins as far as they lead; the rest is what it says.
fn follow<'t>(config: &str, text: &'t str) -> (Vec<Segment>, &'t str) {
    let (mut path, mut at, mut rest) = (Vec::new(), config, text);
    while let Some((head, tail)) = rest.split_once(": ") {
        let step = Invalid::path_of(head).and_then(|steps| Some((lead(at, &steps)?, steps)));
        match step {
            Some((value, steps)) => {
                at = value;
                path.extend(steps);
            }
            // The configuration as a whole.
            None if path.is_empty() && head == "config" => {}
            None => break,
        }
        rest = tail;
    }
    (path, rest)
}

fn lead<'v>(value: &'v str, path: &[Segment]) -> Option<&'v str> {
    path.iter().try_fold(value, |value, segment| {
        let mut found = None;
        parts(value, |at, part| {
            if at == *segment {
                found = Some(part.get());
            }
        });
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;

    const CHAIN: &str = r#"name = "edge"
[[function]]
use = "monitor"
[[function]]
use = "firewall"
[function.config]
default = "dney"
rules = [
    { action = "allow", dport = 53 },
    { action = "allow", dport = "99999" },
]
"#;

    fn told(function: &str, message: &str) -> String {
        let document = Document::<Chain>::parse("c.toml", CHAIN).unwrap();
        document.locate(document.value.refused_configuration(function, message)).to_string()
    }

    #[test]
    fn the_value_is_found_in_the_file() {
        assert_eq!(
            told("firewall", "default: unknown variant `dney`, expected one of `allow`, `deny`"),
            "function firewall refused its configuration: unknown value `dney`
 --> c.toml:7:11
  |
7 | default = \"dney\"
  |           ^^^^^^
  = key: function[1].config.default
  = did you mean `deny`? allowed: allow, deny"
        );
        let text =
            told("firewall", "config: rules[1]: dport: \"99999\" is not a number: too large");
        assert!(
            text.starts_with(
                "function firewall refused its configuration: \"99999\" is not a number: too large\n  --> c.toml:10:33"
            ),
            "{text}"
        );
        assert!(text.contains("= key: function[1].config.rules[1].dport"), "{text}");
    }

    #[test]
    fn a_key_that_is_wrong_is_what_is_shown() {
        let mark = |message: &str| {
            let text = told("firewall", message);
            let mut lines = text.lines().skip(1);
            let place = lines.next().unwrap().trim().to_owned();
            (place, lines.nth(2).unwrap().matches('^').count())
        };
        // As C's functions say it, with the key; and as serde does, with its table.
        assert_eq!(mark("default: unknown key; allowed: rules"), ("--> c.toml:7:1".into(), 7));
        let serde = "rules[1]: unknown field `dport`, expected `action`";
        assert_eq!(mark(serde), ("--> c.toml:10:25".into(), 5));
        assert_eq!(mark("unknown field `gone`, expected `rules`").0, "--> c.toml:6:1");
    }

    #[test]
    fn what_leads_nowhere_is_the_message() {
        let text = told("monitor", "no: table: at all");
        assert!(
            text.starts_with("function monitor refused its configuration: no: table: at all\n"),
            "{text}"
        );
        assert!(text.contains(" --> c.toml:2:1"), "{text}");
        assert!(told("other", "x").contains("function other refused"));
    }
}
