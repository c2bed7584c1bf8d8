//! What a hop to another process costs, by each way there is.
//!
//! `scripts/bench hops [ROUNDS]`. Rounds are interleaved, medians are printed. Needs root for what
//! needs programs in the kernel.

mod channel;
mod delivery;
mod ring;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let argument = |n: usize| arguments.get(n).map_or("", String::as_str);
    if argument(0) == "worker" {
        return delivery::worker(argument(1), argument(2) == "confined");
    }
    let numbers = arguments.iter().find_map(|argument| argument.parse().ok());
    let rounds = numbers.unwrap_or(7_usize).max(1);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{rounds} rounds, load before: {}", load.trim());
    delivery::run(rounds);
}

/// The middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds that a thread has been on a CPU: a process id's first thread, or `thread-self`.
fn cpu(of: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{of}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
