//! `weir function log`

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use weir_control::engine::{FunctionLog, LogLine};
use weir_control::time;

use crate::cli::{Format, LogArgs};
use crate::client::Client;
use crate::render::{self, Output};

/// Between two questions for new lines.
const LOOK: Duration = Duration::from_millis(250);
/// A line may come so much later than newer ones of others: that of a worker process comes with its
/// next report.
const LATE: Duration = Duration::from_secs(2);

pub(super) fn run(args: &LogArgs, client: &Client, output: Output) -> Result<()> {
    let path = ["functions", args.name.as_str(), "log"];
    let ask = |since: Option<String>, limit: Option<usize>| -> Result<FunctionLog> {
        let since = since.map(|time| ("since", time));
        let limit = limit.map(|lines| ("limit", lines.to_string()));
        client.get_with(&path, &since.into_iter().chain(limit).collect::<Vec<_>>())
    };
    let since = args.since.map(|period| ago(period.get()));
    if !args.follow {
        return output.result(&ask(since, args.tail)?, text);
    }
    let mut log = ask(None, None)?;
    let mut known = Known::default();
    let lines = known.take(&log.lines);
    let wanted = lines.iter().filter(|line| since.as_ref().is_none_or(|since| line.time >= *since));
    let wanted: Vec<_> = wanted.collect();
    let others = args.tail.map_or(0, |tail| wanted.len().saturating_sub(tail));
    wanted[others..].iter().try_for_each(|line| print(line, output))?;
    loop {
        std::thread::sleep(LOOK);
        let newest = log.lines.last().and_then(|line| time::before(&line.time, LATE));
        let next = ask(newest, None)?;
        known.take(&next.lines).into_iter().try_for_each(|line| print(line, output))?;
        if next.lost > log.lost && !output.quiet {
            eprintln!("{} lines were lost: it writes too many", next.lost - log.lost);
        }
        log = next;
    }
}

/// So long ago.
fn ago(period: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = now.saturating_sub(period).as_nanos();
    time::rfc3339(u64::try_from(then).unwrap_or(u64::MAX))
}

/// The lines of the last answer, and how many there are of each.
#[derive(Default)]
struct Known(HashMap<LogLine, usize>);

impl Known {
    /// Those of the next answer that were not in the last one.
    fn take<'a>(&mut self, lines: &'a [LogLine]) -> Vec<&'a LogLine> {
        let mut before = std::mem::take(&mut self.0);
        let new = lines.iter().filter(|line| {
            *self.0.entry((*line).clone()).or_default() += 1;
            match before.get_mut(*line) {
                Some(left @ 1..) => {
                    *left -= 1;
                    false
                }
                _ => true,
            }
        });
        new.collect()
    }
}

fn print(line: &LogLine, output: Output) -> Result<()> {
    match output.format {
        Format::Json => render::print(format!("{}\n", serde_json::to_string(line)?).as_bytes()),
        Format::Table => render::print(shown(line).as_bytes()),
    }
}

fn shown(LogLine { time, level, source, message }: &LogLine) -> String {
    format!("{time} {level:5} {source} {message}\n")
}

fn text(log: &FunctionLog) -> String {
    let mut text = String::new();
    if log.lost > 0 {
        text.push_str(&format!("({} earlier lines were lost)\n", log.lost));
    }
    log.lines.iter().for_each(|line| text.push_str(&shown(line)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_new_once() {
        let line = |time: &str, message: &str| LogLine {
            time: time.into(),
            level: "info".into(),
            source: "edge:probe".into(),
            message: message.into(),
        };
        let (a, b, c) = (line("1", "a"), line("2", "b"), line("1", "c"));
        let mut known = Known::default();
        assert_eq!(known.take(&[a.clone(), a.clone()]), [&a, &a]);
        // The same text in the same millisecond again; one that came late; one that is no longer
        // asked for.
        let next = [a.clone(), a.clone(), a.clone(), c.clone(), b.clone()];
        assert_eq!(known.take(&next), [&a, &c, &b]);
        assert_eq!(known.take(std::slice::from_ref(&b)), Vec::<&LogLine>::new());
    }
}
