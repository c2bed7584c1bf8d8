//! A chain: which functions a packet passes, in which order, within which limits.

use std::collections::BTreeSet;
use std::path::PathBuf;

use semver::Version;
use serde::{Deserialize, Deserializer, Serialize};

use crate::invalid::{Check, Invalid};
use crate::list::{Keyed, at_most};
use crate::manifest::limits;
use crate::text::counted;
use crate::workers::{WORKERS_MAX, WorkerCount};
use crate::{Name, Period, Size, Table, World};

/// Functions in a chain at most.
const FUNCTIONS_MAX: usize = 64;

/// Chains at most to which a function may move flows.
const TARGETS_MAX: usize = 4096;

/// Instances of a function of the world `wasi:http/proxy` at most, at a time and on a thread.
const INSTANCES_MAX: u32 = 10_000;

/// Bytes at most of what a chain's functions are configured with on all workers together, where
/// that differs: `config` is in it as often as there are workers.
const PER_WORKER_MAX: usize = 64 << 20;

/// Which plane a chain belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Plane {
    /// L2/L3: packets.
    #[default]
    Packet,
    /// L4/L7: requests, responses, connections.
    Message,
    /// Packets first, and then the messages that the kernel's stack makes of them.
    Both,
}

impl Plane {
    /// As files and reports write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Message => "message",
            Self::Both => "both",
        }
    }
}

/// What a function may do with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Access {
    /// Look at them; a write is a fault.
    ReadOnly,
    /// Change them.
    #[default]
    ReadWrite,
}

/// What happens to packets that reach a function while it is out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnFault {
    /// They are dropped.
    #[default]
    FailClosed,
    /// They skip it.
    FailOpen,
}

/// A chain file, and the body of `PUT /v1/chains/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Chain {
    /// Its name.
    pub name: Name,
    /// Its plane; that of its functions if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plane: Option<Plane>,
    /// Whose it is; without it, that of whoever applies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// The port whose packets pass the functions in order. Without it the chain is deployed and
    /// idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Name>,
    /// The port by which they leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Whether packets that come in by `to` pass the functions in reverse and leave by `from`.
    #[serde(default = "yes")]
    pub symmetric: bool,
    /// Whether it takes only packets that steering rules, or a function, send to it; else it takes
    /// all of its ports that no rule means.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub steered: bool,
    /// Workers that share its flows, each with its own instances; its ports have as many queues. A
    /// number, or `"all"`.
    #[serde(default, skip_serializing_if = "WorkerCount::is_one")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::WorkerCountSchema))]
    pub workers: WorkerCount,
    /// The functions, in order.
    #[serde(rename = "function", deserialize_with = "functions")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 64))]
    pub functions: Vec<FunctionUse>,
}

/// As many functions as a chain can have.
fn functions<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<FunctionUse>, D::Error> {
    let too_many =
        format_args!("the chain has too many functions; allowed are 1 to {FUNCTIONS_MAX}");
    let functions: Vec<_> = at_most(from, FUNCTIONS_MAX, too_many)?;
    if functions.is_empty() {
        let message = format!("the chain has 0 functions; allowed are 1 to {FUNCTIONS_MAX}");
        return Err(serde::de::Error::custom(message));
    }
    Ok(functions.into_iter().map(|Keyed(function)| function).collect())
}

/// As many tables as a host can have workers.
fn tables<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Table>, D::Error> {
    let too_many = format_args!("there are too many tables; allowed is one for each worker");
    at_most(from, usize::from(WORKERS_MAX), too_many)
}

/// As many chains as a function can tell apart.
fn targets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Name>, D::Error> {
    let too_many = format_args!("there are too many chains; allowed are {TARGETS_MAX}");
    at_most(from, TARGETS_MAX, too_many)
}

const fn yes() -> bool {
    true
}

/// A function's place in a chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FunctionUse {
    /// The function that was pushed under this name.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(required = true, nullable = false))]
    pub function: Option<Name>,
    /// A file instead, relative to the chain file. Only in files: `weir chain apply` pushes it
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub path: Option<PathBuf>,
    /// Its name in this chain, if not that of the function; unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Its version; the newest if left out.
    #[serde(
        default,
        deserialize_with = "crate::text::version",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::VersionSchema>))]
    pub version: Option<Version>,
    /// What it may do with packets; `read-only` if either this or its manifest says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What happens to packets when it faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_fault: Option<OnFault>,
    /// Bytes of linear memory it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// CPU time it may take for a burst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// Time that an exchange may take in all, for functions of the world `wasi:http/proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// Maximum number of instances at a time on each thread of the gateway, for functions of the
    /// world `wasi:http/proxy`: each exchange has one.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000))]
    pub instances: Option<u32>,
    /// Maximum number of requests that an instance serves, one after the other, for functions of
    /// the world `wasi:http/proxy`. What the instance keeps between them is the next one's to see.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub requests_per_instance: Option<u32>,
    /// How long an instance that serves nobody is kept for the next request, for functions of that
    /// world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_idle: Option<Period>,
    /// Bytes of its state region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Size>,
    /// Whether the host remembers what it decides about whole flows, and does not show it their
    /// packets again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_verdicts: Option<bool>,
    /// Chains to which it may move flows, between the same ports; it counts them from 1, 0 is the
    /// kernel's stack.
    #[serde(default, deserialize_with = "targets", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 4096))]
    pub targets: Vec<Name>,
    /// Whether its instances on all workers have one state region together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_shared: Option<bool>,
    /// Its configuration: any table, handed to it as JSON.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub config: Table,
    /// What is different on each worker: one table for each, whose keys go before those of
    /// `config`.
    #[serde(default, deserialize_with = "tables", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>, max_items = 1024))]
    pub per_worker: Vec<Table>,
}

/// Refuses the first of these keys that is set.
fn has_none_of(keys: &[(&str, bool)], message: &str, help: &str) -> Result<(), Invalid> {
    match keys.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(Invalid::at(key, message).help(help)),
        None => Ok(()),
    }
}

impl FunctionUse {
    /// Its name in the chain: `name`, else `use`, else the file's stem.
    #[must_use]
    pub fn label(&self) -> String {
        match (&self.name, &self.function, &self.path) {
            (Some(name), ..) | (None, Some(name), _) => name.to_string(),
            (None, None, Some(path)) => {
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
            (None, None, None) => String::new(),
        }
    }

    /// What only functions for packets have.
    fn check_of_messages(&self) -> Result<(), Invalid> {
        let packets_only = [
            ("flow-verdicts", self.flow_verdicts == Some(true)),
            ("targets", !self.targets.is_empty()),
            ("per-worker", !self.per_worker.is_empty()),
            ("state-shared", self.state_shared == Some(true)),
        ];
        has_none_of(&packets_only, "only functions for packets have it", "leave it out")
    }

    /// What only `wasi:http` components have.
    fn check_of_others(&self) -> Result<(), Invalid> {
        let services_only = [
            ("timeout", self.timeout.is_some()),
            ("instances", self.instances.is_some()),
            ("requests-per-instance", self.requests_per_instance.is_some()),
            ("instance-idle", self.instance_idle.is_some()),
        ];
        has_none_of(
            &services_only,
            "only wasi:http components have it",
            "leave it out; `deadline` is the CPU time that other functions have",
        )
    }

    fn check(&self) -> Result<(), Invalid> {
        match (&self.function, &self.path) {
            (None, None) => {
                return Err(Invalid::whole("the entry names no function")
                    .help("add `use = \"NAME\"` (a pushed function) or `path = \"FILE.wasm\"`"));
            }
            (Some(_), Some(_)) => {
                return Err(Invalid::at("path", "`use` and `path` exclude each other")
                    .help("keep one of them"));
            }
            _ => {}
        }
        if let Some(size) = self.memory {
            limits::memory(size).map_err(|e| e.within("memory"))?;
        }
        if let Some(size) = self.state {
            limits::state(size).map_err(|e| e.within("state"))?;
        }
        if let Some(period) = self.deadline {
            limits::deadline(period).map_err(|e| e.within("deadline"))?;
        }
        if let Some(period) = self.timeout {
            limits::timeout(period).map_err(|e| e.within("timeout"))?;
        }
        if self.instances.is_some_and(|n| !(1..=INSTANCES_MAX).contains(&n)) {
            return Err(Invalid::at("instances", "there cannot be so many instances")
                .help(format!("allowed: 1 to {INSTANCES_MAX}")));
        }
        if let Some(requests) = self.requests_per_instance {
            limits::requests_per_instance(requests)
                .map_err(|e| e.within("requests-per-instance"))?;
        }
        if let Some(period) = self.instance_idle {
            limits::instance_idle(period).map_err(|e| e.within("instance-idle"))?;
        }
        if self.name.is_none() && self.label().parse::<Name>().is_err() {
            return Err(Invalid::at(
                "path",
                format!("the file's name {:?} is no name for a function", self.label()),
            )
            .help("add `name = \"NAME\"`"));
        }
        Ok(())
    }
}

impl Chain {
    /// Its plane: what it says, or was found out by [`Self::settle`].
    #[must_use]
    pub fn plane(&self) -> Plane {
        self.plane.unwrap_or_default()
    }

    /// Finds out its plane by the worlds of its functions, as far as they are known. Those for
    /// packets come before those for messages.
    ///
    /// # Errors
    /// When functions are not in that order, or contradict the plane that the chain names, or have
    /// keys of other worlds.
    pub fn settle(&mut self, worlds: &[Option<World>]) -> Result<(), Invalid> {
        let messages = worlds.iter().map(|world| world.is_some_and(World::of_messages));
        let messages: Vec<bool> = messages.collect();
        let label =
            |index: usize| self.functions.get(index).map_or_else(String::new, FunctionUse::label);
        let first = messages.iter().position(|of| *of);
        let packets = messages.iter().rposition(|of| !*of);
        if let (Some(first), Some(last)) = (first, packets)
            && first < last
        {
            let message = format!(
                "{} is for packets, and stands behind {}, which is for messages",
                label(last),
                label(first)
            );
            return Err(Invalid::at("use", message)
                .help("functions for packets come first: messages are made of what they let pass")
                .within_array("function", last));
        }
        let found = match (first, packets) {
            (None, _) => Plane::Packet,
            (Some(_), None) => Plane::Message,
            (Some(_), Some(_)) => Plane::Both,
        };
        let (odd, what) = match (self.plane, found) {
            (None, _) => (None, ""),
            (Some(Plane::Packet), _) => (first, "messages"),
            (Some(Plane::Message), _) => (packets, "packets"),
            (Some(Plane::Both), Plane::Both) => (None, ""),
            (Some(Plane::Both), _) => {
                let message = "all of the chain's functions are for one plane";
                return Err(Invalid::at("plane", message).help("leave `plane` out"));
            }
        };
        if let Some(odd) = odd {
            let message =
                format!("{} is for {what}, and the chain's `plane` is another", label(odd));
            return Err(Invalid::at("use", message)
                .help("leave `plane` out, or set it to \"both\" for functions of both planes")
                .within_array("function", odd));
        }
        self.plane = Some(found);
        for (index, (function, world)) in self.functions.iter().zip(worlds).enumerate() {
            let checked = match world {
                Some(World::WasiHttpProxy) => Ok(()),
                _ => function.check_of_others(),
            };
            let of_messages = first.is_some_and(|first| index >= first);
            checked
                .and_then(|()| if of_messages { function.check_of_messages() } else { Ok(()) })
                .map_err(|e| e.within_array("function", index))?;
        }
        Ok(())
    }

    /// Bytes of its functions' configurations, as they are kept.
    #[must_use]
    pub fn config_bytes(&self) -> u64 {
        let bytes = |function: &FunctionUse| {
            let tables = std::iter::once(&function.config).chain(&function.per_worker);
            let targets = function.targets.iter().map(|chain| chain.as_str().len());
            tables.map(|table| table.as_str().len()).chain(targets).sum::<usize>() as u64
        };
        self.functions.iter().map(bytes).sum()
    }

    /// Whether it can be on a host with so many workers. To be asked before configurations are put
    /// together, one for each worker.
    ///
    /// # Errors
    /// When it wants more workers, has not one table for each, or too much in them.
    pub fn check_workers(&self, all: usize) -> Result<(), Invalid> {
        let workers = self.workers.of(all);
        if workers > all {
            let message = format!("the chain wants {workers} workers, and the host has {all}");
            return Err(Invalid::at("workers", message).help(
                "lower it, or raise `count` (or name more `cores`) in [workers] of the host's configuration",
            ));
        }
        self.check_tables(workers)
    }

    /// Whether functions have a table for each of so many workers, or none; and not too much in all
    /// of them.
    fn check_tables(&self, workers: usize) -> Result<(), Invalid> {
        let mut bytes = 0;
        for (index, function) in self.functions.iter().enumerate() {
            let tables = function.per_worker.len();
            let wrong = |message: String, help: String| {
                Err(Invalid::at("per-worker", message).help(help).within_array("function", index))
            };
            if tables == 0 {
                continue;
            }
            if tables != workers {
                let message =
                    format!("{} for {}", counted(tables, "table"), counted(workers, "worker"));
                let help = "allowed: one for each of the chain's `workers`, or none";
                return wrong(message, help.to_owned());
            }
            let own = function.per_worker.iter().map(|own| own.as_str().len());
            bytes += function.config.as_str().len() * tables + own.sum::<usize>();
            if bytes > PER_WORKER_MAX {
                let message = format!("the configurations of all workers have {bytes} bytes");
                return wrong(message, format!("allowed: {PER_WORKER_MAX} in a chain"));
            }
        }
        Ok(())
    }

    /// What only chains for packets have.
    fn check_message(&self) -> Result<(), Invalid> {
        let wrong = |key: &str| {
            Err(Invalid::at(key, format!("a chain of the message plane has no `{key}`"))
                .help("leave it out: listeners name the chain that their messages pass"))
        };
        if self.from.is_some() {
            return wrong("from");
        }
        if self.to.is_some() {
            return wrong("to");
        }
        if self.steered {
            return wrong("steered");
        }
        if !self.workers.is_one() {
            return wrong("workers");
        }
        self.functions.iter().enumerate().try_for_each(|(index, function)| {
            function.check_of_messages().map_err(|e| e.within_array("function", index))
        })
    }

    /// What chains of both planes need.
    fn check_both(&self) -> Result<(), Invalid> {
        if self.from.is_none() {
            let message = "a chain of both planes has no `from`";
            return Err(Invalid::at("from", message)
                .help("add `from = \"PORT\"`: where its packets come in"));
        }
        if !self.symmetric {
            let message = "a chain of both planes is symmetric";
            return Err(Invalid::at("symmetric", message)
                .help("leave it out: what the kernel answers passes the functions in reverse"));
        }
        Ok(())
    }
}

impl Check for Chain {
    fn check(&self) -> Result<(), Invalid> {
        let mut labels = BTreeSet::new();
        for (index, function) in self.functions.iter().enumerate() {
            function.check().map_err(|e| e.within_array("function", index))?;
            if !labels.insert(function.label()) {
                let message = format!("the chain has two functions named {:?}", function.label());
                return Err(Invalid::whole(message)
                    .help("give one of them a `name` of its own")
                    .within_array("function", index));
            }
        }
        if let WorkerCount::Number(workers) = self.workers {
            self.check_tables(usize::from(workers.get()))?;
        }
        match self.plane {
            Some(Plane::Message) => return self.check_message(),
            Some(Plane::Both) => self.check_both()?,
            Some(Plane::Packet) | None => {}
        }
        if let (None, Some(_)) = (&self.from, &self.to) {
            return Err(Invalid::at("to", "the chain has `to`, but no `from`")
                .help("add `from = \"PORT\"`: where its packets come in"));
        }
        if self.steered && self.from.is_none() {
            return Err(Invalid::at("steered", "the chain is steered, but has no `from`")
                .help("add `from = \"PORT\"`: where its packets come in"));
        }
        if self.from.is_some() && self.from == self.to && self.symmetric {
            return Err(Invalid::at("to", "`to` is the same port as `from`")
                .help("leave `to` out if packets go back where they came from, or set `symmetric = false`: a packet's direction cannot be told by its port"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables and configuration are compared with workers before the second is there as often as
    /// there are of the first.
    #[test]
    fn a_chain_has_no_more_tables_and_workers_than_the_host() {
        let chain = |workers: serde_json::Value, tables: usize, bytes: usize| -> Chain {
            let config = serde_json::json!({ "a": "x".repeat(bytes) });
            let tables = vec![serde_json::json!({}); tables];
            let function = serde_json::json!({"use": "f", "config": config, "per-worker": tables});
            let chain =
                serde_json::json!({"name": "c", "workers": workers, "function": [function]});
            serde_json::from_value(chain).unwrap()
        };
        let check = |chain: Chain| {
            chain.check_workers(4).map_err(|invalid| (invalid.key(), invalid.message))
        };
        let all = || serde_json::json!("all");
        assert_eq!(check(chain(all(), 4, 10)), Ok(()));
        assert_eq!(check(chain(all(), 0, 10)), Ok(()));
        let at = || "function[0].per-worker".to_owned();
        assert_eq!(check(chain(all(), 5, 10)), Err((at(), "5 tables for 4 workers".to_owned())));
        let (key, message) = check(chain(all(), 4, PER_WORKER_MAX / 4)).unwrap_err();
        assert_eq!(key, at());
        assert!(message.ends_with(&format!("have {} bytes", PER_WORKER_MAX + 40)), "{message}");
        assert_eq!(check(chain(5.into(), 5, 10)).unwrap_err().0, "workers");
    }

    #[test]
    fn whole_numbers_may_be_written_as_others() {
        let chain = |number: &str| {
            let function = format!(r#"{{"use": "f", "instances": {number}}}"#);
            serde_json::from_str::<Chain>(&format!(r#"{{"name": "c", "function": [{function}]}}"#))
        };
        assert_eq!(chain("64.0").unwrap().functions[0].instances, Some(64));
        assert!(chain("64.5").is_err() && chain("-1").is_err());
    }
}
