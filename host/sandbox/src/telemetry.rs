//! What a function says about itself: log lines, counters, gauges. Bounded in every direction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::said::one_line;
use crate::trace::{explain, is_tagged};

/// Log lines kept of a function.
const LINES_KEPT: usize = 1000;
/// Lines a function may write in a second, after [`LINES_BURST`] at once.
const LINES_PER_SECOND: u64 = 100;
const LINES_BURST: u64 = 200;
/// Time after which no more lines are explained for one who looks.
const EXPLAINING: Duration = Duration::from_secs(5);
/// Names of counters and gauges a function may have, together.
const NAMES_MAX: usize = 64;
/// Characters of a name.
const NAME_LENGTH_MAX: usize = 64;

/// How much a log line matters; the same numbers as WIT's `level`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the usual five")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// A line of a function's log.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// How much it matters.
    pub level: Level,
    /// The text, without control characters.
    pub message: String,
    /// The host wrote it, about a fault of the function: places in code are told in it. What a
    /// function writes itself is never read as that.
    #[serde(default)]
    pub fault: bool,
}

/// What a function said about itself in another process since it was last asked.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TelemetryReport {
    /// Lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines lost to flooding.
    pub lost: u64,
    /// What was added to counters.
    pub counters: BTreeMap<String, u64>,
    /// Gauges as they are.
    pub gauges: BTreeMap<String, f64>,
}

/// Log, counters and gauges of one function in one chain. Outlives instances and versions.
#[derive(Debug, Default)]
pub struct Telemetry {
    shared: Arc<Mutex<Inner>>,
    /// Taken behind the other one, where both are.
    gauges: Mutex<BTreeMap<String, f64>>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<LogLine>,
    lost: u64,
    /// Token bucket: tokens are thousandths of a line.
    tokens: u64,
    filled: u64,
    counters: BTreeMap<String, u64>,
}

impl Telemetry {
    /// One with the same log and the same counters, and gauges of its own: for an instance that
    /// runs beside others of the function, which all say how they are.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), gauges: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_gauges(&self) -> MutexGuard<'_, BTreeMap<String, f64>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line that the function wrote, or that is about it, or counts it as lost when the
    /// function floods.
    pub fn log(&self, level: Level, message: &str) {
        self.append(level, message, false);
    }

    /// The same for what a fault of the function is told by.
    pub fn fault(&self, message: &str) {
        self.append(Level::Error, message, true);
    }

    fn append(&self, level: Level, message: &str, fault: bool) {
        let time = wall_clock();
        let mut inner = self.inner();
        let milliseconds = time / 1_000_000;
        let gained = milliseconds.saturating_sub(inner.filled) * LINES_PER_SECOND;
        inner.filled = milliseconds;
        inner.tokens = inner.tokens.saturating_add(gained).min(LINES_BURST * 1000);
        if inner.tokens < 1000 {
            inner.lost += 1;
            return;
        }
        inner.tokens -= 1000;
        inner.keep(LogLine { time, level, message: message.to_owned(), fault });
    }

    /// The lines kept, oldest first, and how many were lost to flooding. Faults have lines of
    /// source in them, where there are any, which takes its time.
    #[must_use]
    pub fn lines(&self) -> (Vec<LogLine>, u64) {
        let tagged: BTreeSet<String> = self
            .inner()
            .lines
            .iter()
            .filter(|line| line.fault && is_tagged(&line.message))
            .map(|line| line.message.clone())
            .collect();
        // Without the lock, for whoever logs meanwhile; the next one to look finds it done.
        let until = Instant::now() + EXPLAINING;
        let explained: BTreeMap<String, String> = tagged
            .into_iter()
            .take_while(|_| Instant::now() < until)
            .map(|text| (text.clone(), explain(&text)))
            .collect();
        let mut inner = self.inner();
        for line in &mut inner.lines {
            if let Some(text) = explained.get(&line.message).filter(|_| line.fault) {
                line.message.clone_from(text);
            }
        }
        (inner.lines.iter().cloned().collect(), inner.lost)
    }

    /// Adds to a counter.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub(crate) fn count(&self, name: &str, delta: u64) -> Result<(), String> {
        let mut inner = self.inner();
        match inner.counters.get_mut(name) {
            Some(counter) => *counter = counter.saturating_add(delta),
            None => {
                inner.check(name, &self.own_gauges())?;
                inner.counters.insert(name.to_owned(), delta);
            }
        }
        Ok(())
    }

    /// Sets a gauge.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub(crate) fn gauge(&self, name: &str, value: f64) -> Result<(), String> {
        if let Some(gauge) = self.own_gauges().get_mut(name) {
            *gauge = value;
            return Ok(());
        }
        let inner = self.inner();
        let mut gauges = self.own_gauges();
        inner.check(name, &gauges)?;
        gauges.insert(name.to_owned(), value);
        Ok(())
    }

    /// Whatever it was that the gauges told of, it is gone.
    pub fn forget_gauges(&self) {
        self.own_gauges().clear();
    }

    /// Everything that was said since the last time, which is not kept here any more.
    #[must_use]
    pub fn take(&self) -> TelemetryReport {
        let mut inner = self.inner();
        TelemetryReport {
            lines: inner.lines.drain(..).collect(),
            lost: std::mem::take(&mut inner.lost),
            counters: inner
                .counters
                .iter_mut()
                .map(|(n, v)| (n.clone(), std::mem::take(v)))
                .collect(),
            gauges: self.own_gauges().clone(),
        }
    }

    /// Takes in what a function said in another process, which may be anything: bounds hold as if
    /// it had been said here.
    pub fn absorb(&self, said: TelemetryReport) {
        for (name, delta) in said.counters {
            // A name that is not allowed here was not allowed there.
            let _ = self.count(&name, delta);
        }
        for (name, value) in said.gauges {
            let _ = self.gauge(&name, value);
        }
        let mut inner = self.inner();
        inner.lost = inner.lost.saturating_add(said.lost);
        for line in said.lines {
            inner.keep(line);
        }
    }

    /// Counters by name.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.inner().counters.clone()
    }

    /// Gauges by name.
    #[must_use]
    pub fn gauges(&self) -> BTreeMap<String, f64> {
        self.own_gauges().clone()
    }
}

impl Inner {
    fn keep(&mut self, line: LogLine) {
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        let message = one_line(&line.message).into_owned();
        self.lines.push_back(LogLine { message, ..line });
    }

    fn check(&self, name: &str, gauges: &BTreeMap<String, f64>) -> Result<(), String> {
        if self.counters.contains_key(name) || gauges.contains_key(name) {
            return Ok(());
        }
        let fine = !name.is_empty()
            && name.len() <= NAME_LENGTH_MAX
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        // As much of it as there may be is enough to know it by.
        let name = &name[..name.floor_char_boundary(NAME_LENGTH_MAX)];
        if !fine {
            return Err(format!(
                "metric name {name:?}: allowed are 1 to {NAME_LENGTH_MAX} characters a-z, 0-9 and _"
            ));
        }
        if self.counters.len() + gauges.len() >= NAMES_MAX {
            return Err(format!("metric {name:?} is one too many: allowed are {NAMES_MAX} names"));
        }
        Ok(())
    }
}

/// Nanoseconds since 1970.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let telemetry = Telemetry::default();
        for i in 0..10_000 {
            telemetry.log(Level::Info, &format!("line {i}\nwith a break"));
        }
        let (lines, lost) = telemetry.lines();
        assert!(lines.len() < 1000, "{}", lines.len());
        assert_eq!(lines.len() as u64 + lost, 10_000);
        assert_eq!(lines[0].message, "line 0 with a break");
        telemetry.log(Level::Info, &"ä".repeat(10_000));
    }

    #[test]
    fn what_a_function_writes_is_never_read_as_places_in_code() {
        let telemetry = Telemetry::default();
        // Of a component that is gone: nothing but names is left of what is a fault.
        let text = "trap: x, in f [m#1+0x2]; code 00112233aabb";
        telemetry.log(Level::Error, text);
        telemetry.fault(text);
        let other = Telemetry::default();
        other.absorb(telemetry.take());
        let lines: Vec<String> = other.lines().0.into_iter().map(|line| line.message).collect();
        assert_eq!(lines, [text, "trap: x, in f"]);
    }

    #[test]
    fn names_are_bounded() {
        let telemetry = Telemetry::default();
        assert!(telemetry.count("Bad-Name", 1).is_err());
        assert!(telemetry.count("", 1).is_err());
        for i in 0..NAMES_MAX {
            telemetry.count(&format!("c{i}"), 1).unwrap();
        }
        assert!(telemetry.gauge("one_too_many", 1.0).is_err());
        telemetry.count("c0", u64::MAX).unwrap();
        assert_eq!(telemetry.counters()["c0"], u64::MAX);
    }

    #[test]
    fn instances_side_by_side_count_together_and_each_has_its_gauges() {
        let one = Telemetry::default();
        let other = one.beside();
        for (telemetry, value) in [(&one, 5.0), (&other, 1.0), (&one, 6.0)] {
            telemetry.count("asked", 1).unwrap();
            telemetry.gauge("kept", value).unwrap();
        }
        assert_eq!((one.counters()["asked"], other.counters()["asked"]), (3, 3));
        assert_eq!((one.gauges()["kept"], other.gauges()["kept"]), (6.0, 1.0));
        other.forget_gauges();
        assert_eq!((one.gauges().len(), other.gauges().len()), (1, 0));
    }
}
