//! The host is killed with SIGKILL in the middle of whatever it does to its store, again and again.
//! Afterwards all that was acknowledged must be there, to the byte, and nothing half.
//!
//! The child (this program with an argument) changes the store as fast as it can and says what is
//! done on its standard output: a line is written only after the store said yes.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use semver::Version;
use weir_control::store::{FunctionId, Store, StoreError, VersionRecord};
use weir_spec::{CheckReport, Name};

/// Kills of a host that makes its store.
const FRESH: u64 = 60;
/// Kills of a host that changes one and the same store.
const KILLS: u64 = 40;
/// Functions that are pushed to and removed in turn.
const FUNCTIONS: u64 = 5;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("child") => {
            let argument = |n| std::env::args().nth(n).expect("an argument");
            child(Path::new(&argument(2)), argument(3).parse().expect("a number"));
        }
        // What test runners ask of every test program: which tests there are, and which of them to
        // leave out.
        Some("--list") if std::env::args().any(|argument| argument == "--ignored") => {}
        Some("--list") => println!("killed_hosts_lose_nothing: test"),
        _ => parent(),
    }
}

fn id(n: u64) -> FunctionId {
    FunctionId::new(&Name::default_tenant(), &format!("f{n}").parse().expect("a name"))
}

/// Differs from step to step, and is longer than a disk block now and then.
fn wasm(step: u64) -> Vec<u8> {
    let length = 100 + usize::try_from(step % 7).expect("small") * 3000;
    step.to_le_bytes().into_iter().cycle().take(length).collect()
}

fn child(directory: &Path, first: u64) {
    let store = Store::open(directory).expect("the store opens");
    let mut out = std::io::stdout().lock();
    for step in first.. {
        let function = id(step % FUNCTIONS);
        if step % 4 == 3 {
            store
                .change(|state| {
                    state.functions.remove(&function);
                    Ok::<_, StoreError>(())
                })
                .expect("removing works");
        } else {
            let wasm = wasm(step);
            store
                .add_wasm(&wasm, |state, digest| {
                    let record = VersionRecord {
                        digest: digest.to_owned(),
                        bytes: wasm.len() as u64,
                        report: CheckReport::default(),
                        created: step,
                        withdrawn: None,
                    };
                    let slot = state.functions.entry(function).or_default();
                    Arc::make_mut(slot).versions.insert(Version::new(step, 0, 0), record);
                    Ok::<_, StoreError>(())
                })
                .expect("pushing works");
        }
        writeln!(out, "{step}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

/// What a store must hold after these steps: function -> steps whose Wasm it has.
type Expected = BTreeMap<u64, Vec<u64>>;

fn apply(expected: &mut Expected, step: u64) {
    if step % 4 == 3 {
        expected.remove(&(step % FUNCTIONS));
    } else {
        expected.entry(step % FUNCTIONS).or_default().push(step);
    }
}

fn found(store: &Store) -> Expected {
    let state = store.state();
    let mut found = Expected::new();
    for n in 0..FUNCTIONS {
        let Some(record) = state.functions.get(&id(n)) else { continue };
        for (version, record) in &record.versions {
            let content = store.wasm(&record.digest).expect("what is recorded is there");
            assert_eq!(*content, *wasm(version.major), "the Wasm of step {}", version.major);
            found.entry(n).or_default().push(version.major);
        }
    }
    found
}

/// A run of kills on one store.
struct Run {
    directory: tempfile::TempDir,
    expected: Expected,
    /// The step that comes next.
    next: u64,
}

impl Run {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, expected: Expected::new(), next: 0 }
    }

    /// Lets a child make so many changes and then go on for this long, kills it, and looks at what
    /// it left.
    fn kill_after(&mut self, changes: u64, wait: Duration) {
        let directory = self.directory.path();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child".as_ref(), directory.as_os_str(), self.next.to_string().as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (done, is_done) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let steps = lines.filter_map(|line| line.parse::<u64>().ok());
            // Whoever waited for steps may have stopped.
            steps.inspect(|step| _ = done.send(*step)).last()
        });
        for _ in 0..changes {
            is_done.recv_timeout(Duration::from_secs(30)).expect("the child makes changes");
        }
        let started = Instant::now();
        while started.elapsed() < wait {
            std::hint::spin_loop();
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        if let Some(last) = reader.join().expect("reading works") {
            (self.next..=last).for_each(|step| apply(&mut self.expected, step));
            self.next = last + 1;
        }
        let store = Store::open(directory).expect("the store opens after a kill");
        let found = found(&store);
        // The step that was under way may be done or not, but not in part.
        let mut one_more = self.expected.clone();
        apply(&mut one_more, self.next);
        if found == one_more && found != self.expected {
            self.expected = one_more;
            self.next += 1;
        }
        assert_eq!(found, self.expected, "before step {}", self.next);
        let blobs = std::fs::read_dir(directory.join("blobs")).expect("the directory");
        let versions: usize = found.values().map(Vec::len).sum();
        assert_eq!(
            blobs.count(),
            versions,
            "files that nobody refers to, before step {}",
            self.next
        );
    }
}

fn parent() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    // A store that is just being made.
    for _ in 0..FRESH {
        Run::new().kill_after(0, Duration::from_micros(random(15_000)));
    }
    // A store with a history.
    let mut run = Run::new();
    for _ in 0..KILLS {
        run.kill_after(random(12), Duration::from_micros(random(8_000)));
    }
    println!(
        "test killed_hosts_lose_nothing ... ok ({} kills, {} changes)",
        FRESH + KILLS,
        run.next
    );
}
