//! Running tests, and what came of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use weir_sandbox::{CodeCache, Sandbox, SandboxConfig, World};
use weir_spec::{Document, DocumentError, Invalid, Manifest, ResolvedFunction};

use crate::captures::{self, Frame};
use crate::connections;
use crate::dissect::{self, Dissected};
use crate::exchanges;
use crate::function::Function;
use crate::listener::Run;
use crate::packets;
use crate::suite::{Dropped, Expect, Suite, Test};

/// What came of all tests. Its JSON keys are a promise to scripts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The function.
    pub function: String,
    /// Tests that went as expected.
    pub passed: u64,
    /// Tests that did not.
    pub failed: u64,
    /// The tests.
    pub tests: Vec<Outcome>,
    /// What the function decided and counted in all tests together.
    pub coverage: Coverage,
    /// Nanoseconds that a packet takes in memory; of the first test whose packets could be
    /// measured.
    pub ns_per_packet: Option<f64>,
}

/// What came of a test.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Whether all was as expected.
    pub passed: bool,
    /// What was not.
    pub problems: Vec<String>,
    /// Packets given, and packets that left.
    pub packets_in: u64,
    /// Packets that left.
    pub packets_out: u64,
    /// Exchanges.
    pub exchanges: u64,
    /// Connections.
    pub connections: u64,
    /// What the function logged.
    pub log: Vec<String>,
}

/// What occurred in all tests together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// Verdicts (packets), or answers to events (messages), by name.
    pub verdicts: BTreeMap<String, u64>,
    /// Reasons for which packets were dropped.
    pub drops: BTreeMap<String, u64>,
    /// The function's own counters.
    pub counters: BTreeMap<String, u64>,
    /// Its own gauges, as the last test that has them left them.
    pub gauges: BTreeMap<String, f64>,
    /// Configurations that it refused.
    pub refused: u64,
}

/// Tests of a function, by the real engine.
pub struct Tester {
    sandbox: Arc<Sandbox>,
    function: Function,
    measured: Option<Duration>,
    report: Report,
}

impl Tester {
    /// Gets a function ready: a file, and the manifest to take if it carries none. Packets are
    /// measured for `measured`, and compiled code is kept in `cache`.
    ///
    /// # Errors
    /// When the file cannot be read, or no host would admit it.
    pub fn new(
        file: &Path,
        manifest: Option<&Manifest>,
        measured: Option<Duration>,
        cache: Option<CodeCache>,
    ) -> Result<Self> {
        let sandbox = SandboxConfig { cache, ..SandboxConfig::default() };
        let sandbox = Arc::new(Sandbox::new(sandbox)?);
        let function = Function::read(&sandbox, file, manifest)?;
        let report = Report { function: function.name().to_owned(), ..Report::default() };
        Ok(Self { sandbox, function, measured, report })
    }

    /// Runs the tests of a file.
    ///
    /// # Errors
    /// When a test cannot be done at all: its capture is not there, or it is for the other plane.
    /// The error says where it is in the file.
    pub fn suite(&mut self, suite: &Document<Suite>, directory: &Path) -> Result<()> {
        for (place, test) in suite.value.tests.iter().enumerate() {
            self.test(test, directory).map_err(|error| match error.downcast::<Invalid>() {
                Ok(invalid) => {
                    let located: DocumentError = suite.locate(invalid.within_array("test", place));
                    located.into()
                }
                Err(error) => error.context(format!("test {:?}", test.name)),
            })?;
        }
        Ok(())
    }

    /// Runs a test; files that it names are relative to `directory`.
    ///
    /// # Errors
    /// When it cannot be done at all. An [`Invalid`] is about a key of the test.
    pub fn test(&mut self, test: &Test, directory: &Path) -> Result<()> {
        let resolved = self.function.configured(&test.config)?;
        let mut outcome = Outcome { name: test.name.clone(), ..Outcome::default() };
        if self.function.is_for_packets() {
            self.test_packets(test, &resolved, directory, &mut outcome)?;
        } else {
            self.test_messages(test, &resolved, &mut outcome)?;
        }
        self.report.coverage.refused +=
            u64::from(test.expect.refused.is_some() && outcome.problems.is_empty());
        outcome.passed = outcome.problems.is_empty();
        if outcome.passed {
            self.report.passed += 1;
        } else {
            self.report.failed += 1;
        }
        self.report.tests.push(outcome);
        Ok(())
    }

    fn test_packets(
        &mut self,
        test: &Test,
        resolved: &ResolvedFunction,
        directory: &Path,
        outcome: &mut Outcome,
    ) -> Result<()> {
        for (key, none) in
            [("exchange", test.exchange.is_empty()), ("connection", test.connection.is_empty())]
        {
            ensure!(
                none,
                Invalid::at(key, "the function is for packets")
                    .help("give it a capture: `in = \"FILE.pcap\"`")
            );
        }
        let frames: Arc<[Frame]> = match &test.input {
            Some(file) => read(directory, file, &["in"])?.into(),
            None => Arc::new([]),
        };
        let expect = &test.expect;
        match packets::run(&self.sandbox, &self.function, resolved, &test.ports, &frames)? {
            packets::Run::Refused(message, log) => {
                refused(expect, Some(&message), outcome);
                outcome.log = own(log);
            }
            packets::Run::Failed(message, log) => {
                outcome.problems.push(message);
                outcome.log = own(log);
            }
            packets::Run::Done(ran) => {
                refused(expect, None, outcome);
                self.count(
                    &ran.counters,
                    &ran.gauges,
                    ran.report.functions.iter().flat_map(|f| &f.verdicts),
                );
                add(&mut self.report.coverage.drops, &ran.report.drops);
                (outcome.packets_in, outcome.packets_out) =
                    (ran.report.packets_in, ran.sent.len() as u64);
                check_packets(expect, &ran, &frames, directory, &mut outcome.problems)?;
                let faults = ran.report.functions.iter().map(|function| function.faults).sum();
                let problems = &mut outcome.problems;
                check(expect, (&ran.counters, &ran.gauges), faults, &ran.faults, problems);
                outcome.log = own(ran.log);
                if let (Some(time), None, false, 0) =
                    (self.measured, self.report.ns_per_packet, frames.is_empty(), faults)
                {
                    let ns =
                        packets::measure(&self.sandbox, &self.function, resolved, &frames, time)?;
                    self.report.ns_per_packet = Some(ns);
                }
            }
        }
        Ok(())
    }

    fn test_messages(
        &mut self,
        test: &Test,
        resolved: &ResolvedFunction,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let expect = &test.expect;
        match self.messages(test, resolved)? {
            Run::Refused(message, log) => {
                refused(expect, Some(&message), outcome);
                outcome.log = own(log);
            }
            Run::Failed(message, log) => {
                outcome.problems.push(message);
                outcome.log = own(log);
            }
            Run::Done(ran) => {
                refused(expect, None, outcome);
                self.count(&ran.counters, &ran.gauges, &ran.actions);
                outcome.exchanges = test.exchange.len() as u64;
                outcome.connections = test.connection.len() as u64;
                outcome.problems.extend(ran.problems);
                for (name, expected) in expect.verdicts.iter().flatten() {
                    let got = ran.actions.get(name).copied().unwrap_or(0);
                    if got != *expected {
                        let problem = format!("verdict {name}: expected {expected}, got {got}");
                        outcome.problems.push(problem);
                    }
                }
                let problems = &mut outcome.problems;
                let said = (&ran.counters, &ran.gauges);
                check(expect, said, ran.fault_count, &ran.faults, problems);
                outcome.log = own(ran.log);
            }
        }
        Ok(())
    }

    /// Gives a function that is not for packets what the test has for it.
    fn messages(&self, test: &Test, resolved: &ResolvedFunction) -> Result<Run> {
        let connections = self.function.admitted.world == World::Connection;
        let (kind, instead) = if connections {
            ("connections", "give it connections: `[[test.connection]]`")
        } else {
            ("messages", "give it requests: `[[test.exchange]]`")
        };
        for (key, none) in [
            ("in", test.input.is_none()),
            ("exchange", test.exchange.is_empty() || !connections),
            ("connection", test.connection.is_empty() || connections),
        ] {
            let wrong = || Invalid::at(key, format!("the function is for {kind}")).help(instead);
            ensure!(none, wrong());
        }
        let (sandbox, function) = (&self.sandbox, &self.function);
        if connections {
            connections::run(sandbox, function, resolved, &test.connection, &test.expect)
        } else {
            exchanges::run(sandbox, function, resolved, &test.exchange, &test.expect)
        }
    }

    fn count<'a>(
        &mut self,
        counters: &BTreeMap<String, u64>,
        gauges: &BTreeMap<String, f64>,
        verdicts: impl IntoIterator<Item = (&'a String, &'a u64)>,
    ) {
        add(&mut self.report.coverage.counters, counters);
        let gauges = gauges.iter().map(|(name, value)| (name.clone(), *value));
        self.report.coverage.gauges.extend(gauges);
        add(&mut self.report.coverage.verdicts, verdicts);
    }

    /// What came of the tests so far.
    #[must_use]
    pub fn report(self) -> Report {
        self.report
    }
}

fn add<'a>(to: &mut BTreeMap<String, u64>, from: impl IntoIterator<Item = (&'a String, &'a u64)>) {
    for (name, n) in from {
        *to.entry(name.clone()).or_default() += n;
    }
}

fn read(directory: &Path, file: &Path, key: &[&str]) -> Result<Vec<Frame>> {
    captures::read(&directory.join(file)).map_err(|error| {
        let mut invalid = Invalid::whole(error.to_string());
        for key in key.iter().rev() {
            invalid = invalid.within(key);
        }
        invalid.into()
    })
}

/// Whether the configuration was refused as it was to be.
fn refused(expect: &Expect, message: Option<&str>, outcome: &mut Outcome) {
    match (&expect.refused, message) {
        (Some(part), Some(message)) if message.contains(part.as_str()) => {}
        (Some(part), Some(message)) => {
            outcome.problems.push(format!(
                "the configuration was refused, but {part:?} is not in the message: {message}"
            ));
        }
        (Some(_), None) => outcome.problems.push("the configuration was not refused".into()),
        (None, Some(message)) => {
            outcome.problems.push(format!("the configuration was refused: {message}"));
        }
        (None, None) => {}
    }
}

/// What the function said itself: the engine's lines about faults are told as faults.
fn own(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter(|line| !line.starts_with("fault: ")).collect()
}

/// What both planes have.
fn check(
    expect: &Expect,
    (counters, gauges): (&BTreeMap<String, u64>, &BTreeMap<String, f64>),
    count: u64,
    messages: &[String],
    problems: &mut Vec<String>,
) {
    if count != expect.faults {
        problems.push(format!("faults: expected {}, got {count}", expect.faults));
        problems.extend(messages.iter().take(5).map(|message| weir_sandbox::explain(message)));
    }
    for (name, expected) in expect.counters.iter().flatten() {
        match counters.get(name) {
            Some(n) if n == expected => {}
            None if *expected == 0 => {}
            Some(n) => problems.push(format!("counter {name}: expected {expected}, got {n}")),
            None => {
                let there = names(counters);
                problems.push(format!("counter {name}: expected {expected}, but nothing was counted under it; counters: {there}"));
            }
        }
    }
    for (name, expected) in expect.gauges.iter().flatten() {
        match gauges.get(name) {
            got if is(*expected, got) => {}
            Some(got) => problems.push(format!("gauge {name}: expected {expected}, got {got}")),
            None => {
                let there = names(gauges);
                problems.push(format!(
                    "gauge {name}: expected {expected}, but it was not set; gauges: {there}"
                ));
            }
        }
    }
}

/// Whether a gauge has this value, to nine digits.
pub(crate) fn is(expected: f64, got: Option<&f64>) -> bool {
    got.is_some_and(|got| (got - expected).abs() <= 1e-9 * expected.abs())
}

fn names<T>(of: &BTreeMap<String, T>) -> String {
    let there: Vec<_> = of.keys().map(String::as_str).collect();
    if there.is_empty() { "none".to_owned() } else { there.join(", ") }
}

fn check_packets(
    expect: &Expect,
    ran: &packets::Ran,
    frames: &[Frame],
    directory: &Path,
    problems: &mut Vec<String>,
) -> Result<()> {
    let out = ran.sent.len() as u64;
    if let Some(expected) = expect.out
        && expected != out
    {
        problems.push(format!("packets that leave: expected {expected}, got {out}"));
    }
    let dropped = ran.dropped();
    match &expect.drop {
        Some(Dropped::Count(expected)) if *expected != dropped.len() as u64 => {
            problems.push(format!(
                "packets that are dropped: expected {expected}, got {}",
                dropped.len()
            ));
        }
        Some(Dropped::Numbers(expected)) => {
            let show = |what: &str,
                        numbers: &mut dyn Iterator<Item = &u64>,
                        problems: &mut Vec<String>|
             -> Result<()> {
                let frame =
                    |number: &u64| frames.get(usize::try_from(*number).ok()?.checked_sub(1)?);
                let numbers: Vec<&u64> = numbers.take(10).collect();
                let known: Vec<&Frame> =
                    numbers.iter().filter_map(|number| frame(number)).collect();
                let dissected = dissect::dissect(&known)?;
                let mut dissected = dissected.iter();
                for number in numbers {
                    let shown = frame(number).and_then(|_| dissected.next());
                    let shown = shown.map(Dissected::summary);
                    let shown = shown.unwrap_or_else(|| "the capture has no such packet".into());
                    problems.push(format!("packet {number} {what}: {shown}"));
                }
                Ok(())
            };
            let missing = &mut expected.iter().filter(|number| !dropped.contains(number));
            show("was to be dropped, and leaves", missing, problems)?;
            let surplus = &mut dropped.iter().filter(|number| !expected.contains(number));
            show("was dropped, and was to leave", surplus, problems)?;
        }
        _ => {}
    }
    for (name, expected) in expect.verdicts.iter().flatten() {
        let got: u64 =
            ran.report.functions.iter().filter_map(|function| function.verdicts.get(name)).sum();
        if got != *expected {
            problems.push(format!("verdict {name}: expected {expected}, got {got}"));
        }
    }
    if let Some(file) = &expect.capture {
        let expected = read(directory, file, &["expect", "capture"])?;
        let got: Vec<Frame> = ran.sent.iter().map(|sent| sent.frame.clone()).collect();
        let shown = dissect::differences(&expected, &got, &file.display().to_string());
        problems.extend(shown.context("comparing captures")?);
    }
    Ok(())
}
