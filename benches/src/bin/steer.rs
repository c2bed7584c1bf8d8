//! What it costs to classify the first packet of a flow, by the number of rules: the table, and
//! looking at the rules one by one.

use std::hint::black_box;

use weir_benches::driver::median;
use weir_benches::rules::{Mix, keys};
use weir_sandbox::thread_time;
use weir_steering::{Key, Rule, Table};

const ROUNDS: usize = 11;
/// Packets of a round, each of another flow.
const PACKETS: usize = 20_000;
/// Comparisons of a round, when rules are looked at one by one.
const COMPARISONS: usize = 20_000_000;

fn main() {
    println!("ns of CPU for the first packet of a flow, half of the flows such as a rule means;");
    println!("medians of {ROUNDS} interleaved rounds");
    println!("prefixes    rules  tuples  table  one by one  made in ms    MiB");
    for mix in [Mix::Usual, Mix::Any] {
        for count in [10, 100, 1_000, 10_000, 100_000] {
            let rules = mix.rules(count);
            let packets = keys(&rules, PACKETS);
            let mut measured = [Vec::new(), Vec::new(), Vec::new()];
            let mut table = Table::new(&rules);
            for _ in 0..ROUNDS {
                let started = thread_time();
                table = Table::new(black_box(&rules));
                measured[0].push((thread_time() - started).as_secs_f64() * 1e3);
                measured[1].push(classify(&packets, |key| table.classify(key).map(|(n, _)| n)));
                let few = (COMPARISONS / count).clamp(10, PACKETS);
                measured[2].push(classify(&packets[..few], |key| scan(&rules, key)));
            }
            let [made, found, scanned] = measured.map(median);
            let mebibytes = table.bytes() as f64 / f64::from(1 << 20);
            println!(
                "{:8} {count:8}  {:6}  {found:5.0}  {scanned:10.0}  {made:10.2}  {mebibytes:5.1}",
                if mix == Mix::Usual { "usual" } else { "any" },
                table.tuples(),
            );
        }
    }
}

fn scan(rules: &[Rule], key: &Key) -> Option<u32> {
    rules.iter().position(|rule| rule.matches(key)).map(|n| n as u32)
}

/// Nanoseconds for each.
fn classify(packets: &[Key], find: impl Fn(&Key) -> Option<u32>) -> f64 {
    let started = thread_time();
    let found = packets.iter().filter(|key| find(black_box(key)).is_some()).count();
    let took = thread_time() - started;
    black_box(found);
    took.as_nanos() as f64 / packets.len() as f64
}
