//! `weir steer`

use std::path::Path;

use anyhow::Result;
use reqwest::Method;
use weir_control::api::List;
use weir_control::{Steered, SteeringEntry};
use weir_spec::{Document, SteerTo, Steering, SteeringRule};

use super::or_dash;
use crate::cli::SteerCommand;
use crate::client::{Client, Refused};
use crate::render::{self, Output};

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
    let document = Document::<Steering>::read(file)?;
    let waiting = output.wait(format!("applying {} rules", document.value.rules.len()));
    let applied = client.send_json(Method::PUT, &["steering"], &document.value);
    let applied: Steered = applied.map_err(|error| {
        // What is wrong with a value is shown where the file has it.
        let invalid = error.downcast_ref::<Refused>().and_then(Refused::invalid);
        invalid.map_or(error, |invalid| document.locate(invalid).into())
    })?;
    drop(waiting);
    output.outcome(&applied, |applied| {
        let Steered { tenant, rules, pause_us } = applied;
        format!("{rules} steering rules of tenant {tenant} are in force; pause {pause_us:.1} us\n")
    })
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
            or_dash(entry.flows),
        ]
    });
    render::table(["port", "chain", "tenant", "direction", "rule", "packets", "#flows"], rows)
}
