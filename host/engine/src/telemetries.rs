//! Logs and own counters of a chain's functions, on either plane.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_control::engine::{ChainId, FunctionLog, LogLine};
use weir_sandbox::Telemetry;
use weir_spec::Name;

/// Those of functions that run side by side, by their names in the chain; they outlive versions.
/// Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Telemetries(Arc<Mutex<BTreeMap<String, Arc<Telemetry>>>>);

impl Telemetries {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Telemetry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function's.
    pub(crate) fn of(&self, label: &str) -> Arc<Telemetry> {
        Arc::clone(self.all().entry(label.to_owned()).or_default())
    }

    /// A function's, if there is one of this name.
    pub(crate) fn known(&self, label: &str) -> Option<Arc<Telemetry>> {
        self.all().get(label).cloned()
    }

    /// Those of a function's shadow, which are not to be mixed with its own; they begin anew with
    /// each shadow.
    pub(crate) fn new_shadow(&self, label: &str) -> Arc<Telemetry> {
        let new = Arc::default();
        self.all().insert(shadow_of(label), Arc::clone(&new));
        new
    }
}

/// The name under which a shadow's log is kept.
pub(crate) fn shadow_of(label: &str) -> String {
    format!("{label} (shadow)")
}

/// What a function and its shadow logged in all of these, each in the order of time.
pub(crate) fn function_log<'a>(
    chain: &ChainId,
    function: &Name,
    all: impl Iterator<Item = &'a Telemetries> + Clone,
) -> FunctionLog {
    let mut log = FunctionLog::default();
    for name in [function.to_string(), shadow_of(function.as_str())] {
        let source = format!("{}:{name}", chain.name);
        let mut kept = Vec::new();
        for telemetries in all.clone() {
            let (lines, lost) = telemetries.of(&name).lines();
            kept.extend(lines);
            log.lost += lost;
        }
        kept.sort_by_key(|line| line.time);
        log.lines.extend(kept.into_iter().map(|line| LogLine {
            time: weir_control::time::rfc3339(line.time),
            level: format!("{:?}", line.level).to_lowercase(),
            source: source.clone(),
            message: line.message,
        }));
    }
    log
}
