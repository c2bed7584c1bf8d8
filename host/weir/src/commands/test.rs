//! `weir test`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use weir_author::sources::Project;
use weir_author::suite::{self, Suite, Test};
use weir_author::tester::{Outcome, Report, Tester};
use weir_spec::{Check, Document, Invalid, counted};

use crate::cli::TestArgs;
use crate::render::Output;

/// Lines of a function's log that are shown under a test that failed: some exceptions with their
/// stacks.
const LOG_LINES: usize = 40;

/// Runs tests. The answer is whether all went as expected.
pub(super) fn run(args: &TestArgs, output: Output) -> Result<bool> {
    let measured = (args.measure > 0).then(|| Duration::from_millis(args.measure));
    let project = if args.file.is_dir() { Some(Project::open(&args.file)?) } else { None };
    let (file, directory) = match &project {
        Some(project) => {
            if !args.no_build && project.is_stale() {
                project.build()?;
            }
            (project.wasm(), project.directory())
        }
        None => (args.file.clone(), args.file.parent().unwrap_or(Path::new("."))),
    };
    let manifest = project.as_ref().map(Project::manifest);
    let cache = args.cache.clone().map(super::kept_code);
    let mut tester = Tester::new(&file, manifest, measured, cache)?;
    match &args.input {
        Some(input) => {
            let test = Test {
                name: input.display().to_string(),
                input: Some(input.clone()),
                config: args.config.as_deref().map(config).transpose()?.unwrap_or_default(),
                expect: suite::Expect { capture: args.expect.clone(), ..suite::Expect::default() },
                ..Test::default()
            };
            tester.test(&test, Path::new(""))?;
        }
        None => {
            let tests = directory.join(suite::FILE);
            if !tests.exists() {
                bail!(
                    "there is nothing to test it with: {} is not there (or give it a capture with --in)",
                    tests.display()
                );
            }
            tester.suite(&Document::<Suite>::read(&tests)?, directory)?;
        }
    }
    let report = tester.report();
    let passed = report.failed == 0;
    output.result(&report, text)?;
    Ok(passed)
}

/// A configuration as it is, of which only the function knows what is right.
#[derive(serde::Deserialize)]
struct Config(Map<String, Value>);

impl Check for Config {
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// A configuration: JSON, or a file of TOML or JSON.
fn config(text: &str) -> Result<Map<String, Value>> {
    let json = |text: &str| serde_json::from_str(text).context("--config: this is no JSON object");
    if text.trim_start().starts_with('{') {
        return json(text);
    }
    let path = Path::new(text);
    if path.extension().is_some_and(|extension| extension == "json") {
        return json(&fs::read_to_string(path).with_context(|| format!("cannot read {text}"))?);
    }
    Ok(Document::<Config>::read(path)?.value.0)
}

fn text(report: &Report) -> String {
    let width = report.tests.iter().map(|test| test.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for test in &report.tests {
        let Outcome {
            name,
            passed,
            problems,
            packets_in,
            packets_out,
            exchanges,
            connections,
            log,
        } = test;
        let verdict = if *passed { "ok  " } else { "FAIL" };
        let given = match (packets_in, exchanges, connections) {
            (0, 0, 0) => None,
            (0, 0, n) => Some(counted(*n, "connection")),
            (0, n, _) => Some(counted(*n, "exchange")),
            (n, ..) => Some(format!("{}, {packets_out} out", counted(*n, "packet"))),
        };
        let line = match given {
            Some(given) => format!("{verdict}  {name:width$}  {given}"),
            None => format!("{verdict}  {name}"),
        };
        text.push_str(&format!("{line}\n"));
        for problem in problems {
            text.push_str(&format!("      {}\n", problem.replace('\n', "\n      ")));
        }
        if !passed && !log.is_empty() {
            let left_out = log.len().saturating_sub(LOG_LINES);
            let note = match left_out {
                0 => String::new(),
                n => format!(
                    " (without the first {}: --output json has all)",
                    counted(n as u64, "line")
                ),
            };
            text.push_str(&format!("      its log{note}:\n"));
            log[left_out..].iter().for_each(|line| text.push_str(&format!("        {line}\n")));
        }
    }
    text.push('\n');
    let list = |of: &BTreeMap<String, u64>, zero: bool| {
        let names = of.iter().filter(|(_, n)| (**n == 0) == zero);
        let names = names.map(|(name, n)| if zero { name.clone() } else { format!("{name}:{n}") });
        names.collect::<Vec<_>>().join(" ")
    };
    let coverage = &report.coverage;
    let mut facts = vec![("verdicts", list(&coverage.verdicts, false))];
    facts.push(("never", list(&coverage.verdicts, true)));
    facts.push(("drops", list(&coverage.drops, false)));
    facts.push(("counters", list(&coverage.counters, false)));
    facts.push(("not counted", list(&coverage.counters, true)));
    let gauges = coverage.gauges.iter().map(|(name, value)| format!("{name}:{value}"));
    facts.push(("gauges", gauges.collect::<Vec<_>>().join(" ")));
    if let Some(ns) = report.ns_per_packet {
        facts.push(("time", format!("{ns:.1} ns per packet, replayed in memory")));
    }
    facts.retain(|(_, value)| !value.is_empty());
    text.push_str(&crate::render::facts(&facts));
    text.push_str(&format!("\n{} passed, {} failed\n", report.passed, report.failed));
    text
}
