//! What the kernel says about a process, its memory, its CPU time, and on which core a thread runs.
//!
//! Owns: reading `/proc`, affinity. Must not know: what is measured, and why.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Memory of this process, in bytes. A page that is mapped in several places counts once (the
/// kernel's "proportional set size").
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By what is mapped: the name of a memfd, `[heap]`, a file, or nothing for anonymous memory.
    pub mapped: BTreeMap<String, u64>,
    /// Page tables. They are the kernel's, but there because of the process.
    pub page_tables: u64,
    /// Mappings; the kernel allows a process 65,530 unless told otherwise.
    pub mappings: u64,
    /// Open files.
    pub files: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Panics
    /// When there is no `/proc`.
    #[must_use]
    pub fn read() -> Self {
        let mut memory = Self::default();
        let mut name = String::new();
        for line in fs::read_to_string("/proc/self/smaps").expect("/proc").lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            if first == "Pss:" {
                *memory.mapped.entry(name.clone()).or_default() += kibibytes(line);
            } else if !first.ends_with(':') {
                // START-END PERMISSIONS OFFSET DEVICE INODE NAME
                name = words.nth(4).unwrap_or_default().to_owned();
                memory.mappings += 1;
            }
        }
        let status = fs::read_to_string("/proc/self/status").expect("/proc");
        memory.page_tables =
            status.lines().filter(|line| line.starts_with("VmPTE:")).map(kibibytes).sum();
        memory.files = fs::read_dir("/proc/self/fd").expect("/proc").count() as u64;
        memory
    }

    /// Bytes of mappings with such names.
    pub fn of(&self, such: impl Fn(&str) -> bool) -> u64 {
        self.mapped.iter().filter(|(name, _)| such(name)).map(|(_, bytes)| bytes).sum()
    }
}

/// The number of `KEY: NUMBER kB`, in bytes.
fn kibibytes(line: &str) -> u64 {
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// What a thread has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time in clock ticks of 10 ms, as `top` counts.
    pub ticks: u64,
    /// CPU time in nanoseconds.
    pub nanoseconds: u64,
    /// Times it was put on a CPU.
    pub turns: u64,
}

/// What each thread of a process has used, by its number: name and use.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn threads(process: u32) -> BTreeMap<u64, (String, Used)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let text = |file: &str| fs::read_to_string(path.join(file)).ok();
        let number = path.file_name()?.to_str()?.parse().ok()?;
        // What stands behind the name in brackets, which may hold anything: state is the first,
        // utime the twelfth.
        let stat = text("stat")?;
        let behind: Vec<u64> = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let schedule: Vec<u64> =
            text("schedstat")?.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        let used = Used {
            ticks: behind.get(11)? + behind.get(12)?,
            nanoseconds: *schedule.first()?,
            turns: *schedule.get(2)?,
        };
        Some((number, (text("comm")?.trim().to_owned(), used)))
    };
    tasks.filter_map(read).collect()
}

/// Lets this process open as many files as an administrator allows.
pub fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Without it the largest numbers fail, and say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// CPU time of this process, all its threads, and its children that have ended; counted in ticks of
/// 10 ms.
///
/// # Panics
/// When there is no `/proc`.
#[must_use]
pub fn process_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc");
    let (_, behind) = stat.rsplit_once(')').expect("the name stands in brackets");
    // From utime to cstime.
    let ticks: u64 =
        behind.split_whitespace().skip(11).take(4).map(|n| n.parse().unwrap_or(0u64)).sum();
    Duration::from_millis(ticks * 10)
}

/// Has this thread run on one core.
pub fn on_core(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // On a machine with one core everybody is on it.
    let _ = sched_setaffinity(None, &set);
}
