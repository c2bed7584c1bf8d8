//! `weir steer`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use reqwest::Method;
use weir_control::api::{List, TOML_MAX};
use weir_control::{DroppingRule, Steered, SteeringEntry, in_force};
use weir_spec::{Document, Name, SteerTo, Steering, SteeringRule};

use super::or_dash;
use crate::cli::SteerCommand;
use crate::client::{Client, Refused};
use crate::render::{self, Output};

/// Rules that are told of each kind.
const TOLD: usize = 8;

pub(super) fn run(command: SteerCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        SteerCommand::Apply { file } => apply(&file, client, output),
        SteerCommand::List => {
            let rules: List<SteeringEntry> = client.get(&["steering"])?;
            output.result(&rules.items, |rules| list(rules))
        }
    }
}

fn apply(file: &Path, client: &Client, output: Output) -> Result<()> {
    let waiting = output.wait("applying steering rules".to_owned());
    // The host reads what is not too long: it is awake, and this program has to be started each
    // time.
    let text = std::fs::read_to_string(file).ok().filter(|text| text.len() <= TOML_MAX);
    let applied: Result<Steered> = match text {
        Some(text) => client.send_toml(Method::PUT, &["steering"], text),
        None => {
            let document = Document::<Steering>::read(file)?;
            client.send_json(Method::PUT, &["steering"], &document.value)
        }
    };
    let applied = applied.or_else(|error| {
        // What is wrong with a value is shown where the file has it.
        let document = Document::<Steering>::read(file)?;
        let invalid = error.downcast_ref::<Refused>().and_then(Refused::invalid);
        Err(invalid.map_or(error, |invalid| document.locate(invalid).into()))
    })?;
    drop(waiting);
    output.outcome(&applied, |applied| {
        let Steered { tenant, rules, pause_us, covered, dropping, idle_ports, .. } = applied;
        let mut text = format!("{}; pause {pause_us:.1} us\n", in_force(*rules, tenant));
        for port in idle_ports {
            text += &format!("no rule holds at port {port}: no chain has it\n");
        }
        if covered.is_empty() && dropping.is_empty() {
            return text;
        }
        let named = Document::<Steering>::read(file).map(|document| document.value.rules);
        let named = named.unwrap_or_default();
        let label = |number: usize| {
            let rule = number.checked_sub(1).and_then(|place| Some((place, named.get(place)?)));
            rule.map_or_else(|| format!("rule {number}"), |(place, rule)| rule.label(place))
        };
        let idle =
            covered.iter().map(|rule| (label(rule.number), label(rule.by), rule.contradicts));
        text += &deciding_nothing(idle);
        for DroppingRule { number, port, why } in dropping.iter().take(TOLD) {
            let rule = label(*number);
            text += &format!("{rule} drops its packets at port {port}: {why}\n");
        }
        text + &more_of(dropping.len(), "drop their packets")
    })
}

/// So many rules beyond those that are told.
fn more_of(rules: usize, what: &str) -> String {
    match rules.saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("{more} more rules {what}\n"),
    }
}

/// Rules that decide nothing, each with the earlier one that means all of its packets and whether
/// that sends them elsewhere: a line for each of the first.
fn deciding_nothing(rules: impl ExactSizeIterator<Item = (String, String, bool)>) -> String {
    let more = more_of(rules.len(), "decide nothing");
    let mut text = String::new();
    for (rule, by, contradicts) in rules.take(TOLD) {
        let elsewhere = if contradicts { ", and sends them elsewhere" } else { "" };
        text += &format!("{rule} decides nothing: {by} means all of its packets{elsewhere}\n");
    }
    text + &more
}

fn list(entries: &[SteeringEntry]) -> String {
    let rows = entries.iter().map(|entry| {
        let rule = entry.rule.as_ref();
        let to = rule.and_then(|rule| rule.to).map(|to| match to {
            SteerTo::Kernel => "(kernel)".to_owned(),
            SteerTo::Drop => "(drop)".to_owned(),
        });
        let direction = if entry.reverse { "reverse" } else { "forward" };
        let name = rule.and_then(|rule| rule.name.as_ref());
        let number = entry.number.map(|number| match name {
            Some(name) => format!("{number} {name}"),
            None => number.to_string(),
        });
        [
            or_dash(entry.port.as_ref()),
            or_dash(entry.chain.as_ref().map(ToString::to_string).or(to)),
            entry.tenant.to_string(),
            or_dash(rule.is_none().then_some(direction)),
            or_dash(number),
            rule.map_or_else(|| "others".to_owned(), SteeringRule::conditions),
            or_dash(at(entry)),
            or_dash(entry.flows),
            or_dash(entry.places.iter().filter_map(|place| place.packets).reduce(|a, b| a + b)),
        ]
    });
    let columns =
        ["port", "chain", "tenant", "direction", "rule", "packets", "at", "#flows", "#in device"];
    render::table(columns, rows) + &reasons(entries) + &idle(entries)
}

/// Which rules decide nothing.
fn idle(entries: &[SteeringEntry]) -> String {
    let ruled =
        entries.iter().filter_map(|entry| Some((entry, entry.number?, entry.rule.as_ref()?)));
    let by_number: BTreeMap<_, _> =
        ruled.map(|(entry, number, rule)| ((&entry.tenant, number), (entry, rule))).collect();
    let told = by_number.iter().filter_map(|((tenant, number), (entry, rule))| {
        let by = entry.covered_by?;
        let (_, earlier) = by_number.get(&(*tenant, by))?;
        let label = format!("{} of tenant {tenant}", rule.label(number - 1));
        let elsewhere = (&rule.chain, rule.to) != (&earlier.chain, earlier.to);
        Some((label, earlier.label(by - 1), elsewhere))
    });
    deciding_nothing(told.collect::<Vec<_>>().into_iter())
}

/// Where a rule is compared: once if that is so at all ports.
fn at(entry: &SteeringEntry) -> Option<String> {
    let first = entry.places.first()?;
    if entry.places.iter().all(|place| place.at == first.at) {
        return Some(first.at.clone());
    }
    let places = entry.places.iter().map(|place| format!("{} ({})", place.at, place.port));
    Some(places.collect::<Vec<_>>().join(", "))
}

/// Why rules are compared in software although there is something before the port, and why packets
/// of theirs are dropped that they send elsewhere: a line for each reason.
fn reasons(entries: &[SteeringEntry]) -> String {
    let mut reasons = BTreeMap::<(&str, &Name, &Name, &str), Vec<String>>::new();
    for entry in entries {
        for place in &entry.places {
            let Some(number) = entry.number else { continue };
            for (what, why) in [("in software", &place.reason), ("dropped", &place.dropped)] {
                let Some(why) = why else { continue };
                let rules = reasons.entry((what, &entry.tenant, &place.port, why)).or_default();
                rules.push(number.to_string());
            }
        }
    }
    let mut text = String::new();
    for ((what, tenant, port, reason), mut rules) in reasons {
        let more = rules.len().saturating_sub(TOLD);
        rules.truncate(TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let rule = if rules.len() == 1 { "rule" } else { "rules" };
        text += &format!(
            "{what} at port {port} of tenant {tenant}: {rule} {}{more}: {reason}\n",
            rules.join(", ")
        );
    }
    text
}
