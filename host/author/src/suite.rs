//! What `weir-test.toml` says.

mod connection;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use weir_message::FunctionCounters;
use weir_spec::{Check, Invalid};

pub use connection::{Arrives, Connection, ExpectConnection, Octets, Step};

/// The file's name in a project.
pub const FILE: &str = "weir-test.toml";

/// A file of tests.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Suite {
    /// The tests, in order.
    #[serde(rename = "test")]
    pub tests: Vec<Test>,
}

/// A test: a function with a configuration, what it is given, and what has to come of that.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Test {
    /// What it shows.
    pub name: String,
    /// A capture, relative to the file: for functions for packets.
    #[serde(default, rename = "in")]
    pub input: Option<PathBuf>,
    /// The function's configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Names of the ports: packets come in by the first, and leave by the second, or by the first
    /// if it is the only one.
    #[serde(default)]
    pub ports: Vec<String>,
    /// What has to come of it.
    #[serde(default)]
    pub expect: Expect,
    /// Requests, one after the other: for functions for messages.
    #[serde(default)]
    pub exchange: Vec<Exchange>,
    /// Connections, one after the other: for functions for connections.
    #[serde(default)]
    pub connection: Vec<Connection>,
}

/// What has to come of a test. What is left out may be anything, but for faults: there are to be
/// none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Expect {
    /// Packets that leave.
    pub out: Option<u64>,
    /// Packets that are dropped.
    pub drop: Option<Dropped>,
    /// A capture, relative to the file: the packets that leave, byte for byte.
    pub capture: Option<PathBuf>,
    /// Verdicts by name; of functions for messages and connections, what they answered to events.
    pub verdicts: Option<BTreeMap<String, u64>>,
    /// The function's own counters.
    pub counters: Option<BTreeMap<String, u64>>,
    /// Its own gauges, as they are at the end: to nine digits.
    pub gauges: Option<BTreeMap<String, f64>>,
    /// `configure` refuses the configuration with a message that has this in it.
    pub refused: Option<String>,
    /// Times that the function faults.
    #[serde(default)]
    pub faults: u64,
}

/// Packets that are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "packets' numbers, such as [3, 6], or how many they are")]
pub enum Dropped {
    /// So many.
    Count(u64),
    /// These: numbers as tshark shows them, from 1.
    Numbers(Vec<u64>),
}

/// A request, what the upstream answers, and what has to come of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Exchange {
    /// What the client sends.
    #[serde(default)]
    pub request: Request,
    /// What the upstream answers.
    #[serde(default)]
    pub response: Response,
    /// What has to come of it.
    #[serde(default)]
    pub expect: ExpectExchange,
}

/// A request. The field `host` is `test` if `fields` does not say otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Fields.
    pub fields: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: "GET".into(),
            path: "/".into(),
            fields: BTreeMap::new(),
            body: String::new(),
        }
    }
}

/// A response.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Fields.
    pub fields: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Default for Response {
    fn default() -> Self {
        Self { status: 200, fields: BTreeMap::new(), body: String::new() }
    }
}

/// What has to come of an exchange. What is left out may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExpectExchange {
    /// The status that the client gets.
    pub status: Option<u16>,
    /// Fields that it gets; `false` for one that it does not get.
    #[serde(default)]
    pub fields: BTreeMap<String, Field>,
    /// The body that it gets.
    pub body: Option<String>,
    /// What the upstream gets.
    pub upstream: Option<ExpectUpstream>,
}

/// A field's value, or that it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a field's value, or `false` if it is not to be there")]
pub enum Field {
    /// It is there (`true`), or not.
    There(bool),
    /// It is there, and is this.
    Value(String),
}

/// What the upstream gets.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`false` if nothing reaches the upstream, or a table of method, path, fields and body"
)]
pub enum ExpectUpstream {
    /// Something (`true`), or nothing.
    Reached(bool),
    /// A request like this.
    Request(ExpectRequest),
}

/// A request as the upstream gets it. What is left out may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExpectRequest {
    /// Its method.
    pub method: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Its fields; `false` for one that is not there.
    #[serde(default)]
    pub fields: BTreeMap<String, Field>,
    /// Its body.
    pub body: Option<String>,
}

impl Check for Suite {
    fn check(&self) -> Result<(), Invalid> {
        if self.tests.is_empty() {
            return Err(Invalid::at("test", "there are no tests").help("add `[[test]]`"));
        }
        self.tests
            .iter()
            .enumerate()
            .try_for_each(|(n, test)| test.check().map_err(|e| e.within_array("test", n)))
    }
}

impl Test {
    fn check(&self) -> Result<(), Invalid> {
        let given = [
            ("in", self.input.is_some()),
            ("exchange", !self.exchange.is_empty()),
            ("connection", !self.connection.is_empty()),
        ];
        let mut given = given.iter().filter(|(_, there)| *there);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            return Err(Invalid::at(first, format!("`{first}` and `{second}` exclude each other"))
                .help("make two tests of it: a function is for packets, for requests, or for connections"));
        }
        let messages = !self.exchange.is_empty() || !self.connection.is_empty();
        if self.input.is_none() && !messages && self.expect.refused.is_none() {
            return Err(Invalid::whole("the test gives the function nothing").help(
                "add `in = \"FILE.pcap\"` (packets), `[[test.exchange]]` (messages) or `[[test.connection]]`",
            ));
        }
        self.check_expected(messages)?;
        if self.ports.len() > 16 {
            return Err(Invalid::at("ports", "these are too many ports").help("allowed: 16"));
        }
        self.exchange.iter().enumerate().try_for_each(|(n, exchange)| {
            exchange.check().map_err(|e| e.within_array("exchange", n))
        })?;
        self.connection.iter().enumerate().try_for_each(|(n, connection)| {
            connection.check().map_err(|e| e.within_array("connection", n))
        })
    }

    fn check_expected(&self, messages: bool) -> Result<(), Invalid> {
        let expect = &self.expect;
        if let Some(part) = &expect.refused {
            let others = [
                ("out", expect.out.is_some()),
                ("drop", expect.drop.is_some()),
                ("capture", expect.capture.is_some()),
                ("verdicts", expect.verdicts.is_some()),
                ("counters", expect.counters.is_some()),
                ("gauges", expect.gauges.is_some()),
                ("faults", expect.faults > 0),
            ];
            if let Some((key, _)) = others.iter().find(|(_, said)| *said) {
                return Err(Invalid::at(
                    key,
                    "a function that refuses its configuration does nothing",
                )
                .help("leave it out, or `refused`")
                .within("expect"));
            }
            if part.is_empty() {
                return Err(Invalid::at("refused", "every message has the empty text in it")
                    .help("say a part of the message that is expected")
                    .within("expect"));
            }
        }
        let packets = [
            ("out", expect.out.is_some()),
            ("drop", expect.drop.is_some()),
            ("capture", expect.capture.is_some()),
            ("verdicts", expect.verdicts.is_some() && !messages),
        ];
        if let Some((key, _)) = packets.iter().find(|(_, said)| *said && self.input.is_none()) {
            return Err(Invalid::at(key, "this is about packets, and the test has none")
                .help("add `in = \"FILE.pcap\"`")
                .within("expect"));
        }
        let allowed: &[&str] =
            if messages { &FunctionCounters::NAMES } else { &weir_layout::VERDICT_NAMES };
        let mut verdicts = expect.verdicts.iter().flatten().map(|(name, _)| name);
        if let Some(name) = verdicts.find(|name| !allowed.contains(&name.as_str())) {
            return Err(Invalid::at(
                name,
                format!("unknown key `{name}`: there is no such verdict"),
            )
            .help(format!("allowed: {}", allowed.join(", ")))
            .within("verdicts")
            .within("expect"));
        }
        if let Some(Dropped::Numbers(numbers)) = &expect.drop
            && numbers.contains(&0)
        {
            return Err(Invalid::at("drop", "there is no packet 0")
                .help("packets are counted from 1, as tshark does")
                .within("expect"));
        }
        Ok(())
    }
}

impl Exchange {
    fn check(&self) -> Result<(), Invalid> {
        if !self.request.path.starts_with('/') {
            return Err(Invalid::at("path", "a path begins with /").within("request"));
        }
        if !(200..=599).contains(&self.response.status) {
            return Err(Invalid::at("status", format!("{} is no status", self.response.status))
                .help("allowed: 200 to 599")
                .within("response"));
        }
        Ok(())
    }
}
