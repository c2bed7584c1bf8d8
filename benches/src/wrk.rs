//! Requests as fast as they are answered, by `wrk`.
//!
//! Owns: asking it, and reading what it says. Must not know: who is asked.

use std::process::Command;

use crate::gateways::Gateway;

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Requests a second.
    pub requests: f64,
    /// Milliseconds that half of them took at most.
    pub p50: f64,
    /// Milliseconds that 99 of 100 took at most.
    pub p99: f64,
    /// Microseconds of CPU time for a request, of the gateway and its children.
    pub cpu: f64,
    /// What of these was the children's.
    pub children: f64,
}

/// Has wrk, on this core, ask a gateway for a path for so many seconds.
///
/// # Panics
/// When it cannot, or something goes wrong with a request.
#[must_use]
pub fn wrk(core: &str, gateway: &Gateway, path: &str, connections: u32, seconds: u32) -> Seen {
    let (before, own_before) = (gateway.running.cpu(), gateway.running.own_cpu());
    let (connections, period) = (connections.to_string(), format!("{seconds}s"));
    let url = format!("http://127.0.0.1:{}{path}", gateway.port);
    // A machine that is busy with other things is no error of the gateway's.
    let patience = ["--timeout", "10s"];
    let mut command = Command::new("taskset");
    command.args(["-c", core, "wrk", "-t", "1", "-c", &connections, "-d", &period, "--latency"]);
    let output = command.args(patience).arg(&url).output().expect("wrk starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let (all, own) =
        (gateway.running.cpu().since(&before), gateway.running.own_cpu().since(&own_before));
    assert!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{}: {text}\n{}",
        gateway.name,
        std::fs::read_to_string(gateway.directory.path().join("log")).unwrap_or_default()
    );
    let value = |key: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(key));
        let value = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_else(|| panic!("no {key}: {text}"));
        value.to_owned()
    };
    let requests: f64 = value("Requests/sec:").parse().expect("a number");
    let each =
        |time: std::time::Duration| time.as_secs_f64() * 1e6 / (requests * f64::from(seconds));
    Seen {
        requests,
        p50: milliseconds(&value("50%")),
        p99: milliseconds(&value("99%")),
        cpu: each(all),
        children: each(all.saturating_sub(own)),
    }
}

fn milliseconds(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].parse().expect("a number");
    match &text[split..] {
        "us" => number / 1000.0,
        "s" => number * 1000.0,
        _ => number,
    }
}
