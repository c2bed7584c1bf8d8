//! The host is killed with SIGKILL while a client pushes, applies, swaps, rolls back and removes.
//! Started again it has all that it had acknowledged, it works, and nothing of it is half.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::guests::{self, pass};
use crate::host::Host;

/// Kills.
const ROUNDS: u32 = 30;
/// Longest time from a start to the kill, in milliseconds.
const LONGEST: u64 = 250;

/// A change that a client asks for.
#[derive(Clone, Debug)]
enum Change {
    Push(u32),
    Apply(u32),
    Swap(u32),
    RemoveChain,
    RemoveVersion(u32),
}

/// What was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Digests of the versions of `gate`.
    versions: BTreeMap<String, String>,
    /// The version that runs in the chain `edge`, if that is deployed.
    running: Option<String>,
}

fn version(n: u32) -> String {
    format!("{n}.0.0")
}

impl Known {
    /// A change that is possible now, chosen by this number.
    fn next(&self, number: u32, choice: u64) -> Change {
        let mut there: Vec<u32> =
            self.versions.keys().filter_map(|v| v.split('.').next()?.parse().ok()).collect();
        there.sort_unstable();
        let others: Vec<u32> =
            there.iter().copied().filter(|n| self.running != Some(version(*n))).collect();
        let pick = |from: &[u32]| from.get(choice as usize / 16 % from.len().max(1)).copied();
        match (choice % 8, pick(&others), &self.running) {
            (0..=2, ..) | (_, None, None) => Change::Push(number),
            (3 | 4, Some(other), _) => Change::Apply(other),
            (5, Some(other), Some(_)) => Change::Swap(other),
            (6, Some(other), _) if there.len() > 4 => Change::RemoveVersion(other),
            (7, _, Some(_)) if (choice / 8).is_multiple_of(2) => Change::RemoveChain,
            (_, Some(other), _) => Change::Apply(other),
            (_, None, Some(_)) => Change::Push(number),
        }
    }

    fn change(&mut self, change: &Change, digest: Option<String>) {
        match change {
            Change::Push(n) => {
                self.versions.insert(version(*n), digest.unwrap_or_default());
            }
            Change::Apply(n) | Change::Swap(n) => self.running = Some(version(*n)),
            Change::RemoveChain => self.running = None,
            Change::RemoveVersion(n) => drop(self.versions.remove(&version(*n))),
        }
    }

    /// What a host has.
    fn of(host: &Host) -> Self {
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let functions = host.json(&["function", "list"]);
        let gate = functions.as_array().expect("a list").first().cloned().unwrap_or_default();
        let versions = gate["versions"].as_array().cloned().unwrap_or_default();
        let chains = host.json(&["chain", "list"]);
        let edge = chains.as_array().expect("a list").first().cloned();
        Self {
            versions: versions.iter().map(|v| (text(&v["version"]), text(&v["digest"]))).collect(),
            running: edge.map(|edge| text(&edge["running"][0]["version"])),
        }
    }
}

/// Asks for the change; the answer is the digest of what was pushed. None: the host did not say
/// yes.
fn ask(host: &Host, change: &Change) -> Option<Option<String>> {
    let arguments = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let arguments = match change {
        Change::Push(n) => {
            host.write("f.wasm", pass(*n));
            arguments(&format!("function push f.wasm --name gate --version {}", version(*n)))
        }
        Change::Apply(n) => {
            let chain = format!("{}version = \"{}\"\n", guests::CHAIN, version(*n));
            host.write("c.toml", chain);
            arguments("chain apply c.toml")
        }
        Change::Swap(n) => arguments(&format!("function swap gate --to {}", version(*n))),
        Change::RemoveChain => arguments("chain remove edge"),
        Change::RemoveVersion(n) => {
            arguments(&format!("function remove gate --version {}", version(*n)))
        }
    };
    let arguments: Vec<&str> =
        ["--output", "json"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let mut answer = host.weir(&arguments);
    while answer.err.contains("is watched because it is new") {
        std::thread::sleep(Duration::from_millis(50));
        answer = host.weir(&arguments);
    }
    if answer.status != Some(0) {
        let lost = ["broke", "no host answers", "is not as expected"];
        assert!(lost.iter().any(|text| answer.err.contains(text)), "{change:?}: {}", answer.err);
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(&answer.out).unwrap_or_default();
    Some(value["digest"].as_str().map(str::to_owned))
}

#[test]
fn a_killed_host_has_all_that_it_acknowledged_and_nothing_half() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut known = Known::default();
    let mut directory = tempfile::tempdir().unwrap();
    let (mut number, mut done, mut under_way) = (0, 0, 0);
    for round in 0..ROUNDS {
        let host = Host::start_in(directory, guests::TRAFFIC);
        let (pid, wait) = (host.pid(), Duration::from_millis(random(LONGEST)));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(wait);
            kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL)
        });
        let unknown = loop {
            number += 1;
            let change = known.next(number, random(1 << 20));
            let Some(digest) = ask(&host, &change) else { break change };
            known.change(&change, digest);
            done += 1;
        };
        killer.join().unwrap().unwrap();
        (_, directory, _) = host.end(Signal::KILL);

        let mut host = Host::start_in(directory, guests::TRAFFIC);
        let found = Known::of(&host);
        // What was under way may be done or not, but not in part.
        let mut one_more = known.clone();
        let digest = match &unknown {
            Change::Push(n) => found.versions.get(&version(*n)).cloned(),
            _ => None,
        };
        one_more.change(&unknown, digest);
        if found != known {
            assert_eq!(found, one_more, "round {round}: {unknown:?} was under way\n{}", host.log());
            under_way += 1;
        }
        known = found;
        let status = host.json(&["status"]);
        assert_eq!(status["failed"], serde_json::json!({}), "round {round}");
        let blobs = std::fs::read_dir(host.path("store/blobs")).unwrap().count();
        assert_eq!(blobs, known.versions.len(), "round {round}: files that nobody refers to");
        assert_eq!(host.children(), Vec::<String>::new(), "round {round}");
        if known.running.is_some() {
            host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
            assert_eq!(host.running(), known.running.clone().unwrap_or_default());
        }
        (_, directory, _) = host.end(Signal::KILL);
    }
    eprintln!("{ROUNDS} kills, {done} changes acknowledged, {under_way} more found done");
    assert!(done > u64::from(ROUNDS), "{done}");
}
