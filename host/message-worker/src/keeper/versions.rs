//! The functions that run in a worker, and those that they replaced.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_sandbox::{FOLLOWING, PROBATION};

use super::Region;
use super::running::running;
use crate::orders::FunctionImage;

/// For as long the worker knows what was replaced.
const KNOWN: Duration = Duration::from_nanos(PROBATION + FOLLOWING);

/// See the module.
pub(super) struct Versions {
    running: Vec<FunctionImage>,
    before: BTreeMap<String, Replaced>,
}

/// What may bring back what was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// A fault of what replaced it, too.
    ForFaults,
    /// Only whoever undoes that.
    ForUndoing,
}

/// What the last swap of a function replaced, behind what the one before that had replaced: for
/// whoever undoes the last.
struct Replaced {
    functions: Vec<(FunctionImage, Kept)>,
    /// Until then it, and the memory of its state, are kept.
    until: Instant,
}

impl Versions {
    pub(super) fn new(running: Vec<FunctionImage>) -> Self {
        Self { running, before: BTreeMap::new() }
    }

    pub(super) fn running(&self) -> &[FunctionImage] {
        &self.running
    }

    /// What may come to run without an order.
    pub(super) fn before(&self) -> impl Iterator<Item = &FunctionImage> {
        self.before.values().flat_map(|before| before.functions.iter().map(|(f, _)| f))
    }

    /// Until when some of that is kept.
    pub(super) fn known_until(&self) -> Option<Instant> {
        self.before.values().map(|before| before.until).min()
    }

    /// Forgets what nothing brings back any more. Whether there was some.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        let known = self.before.len();
        self.before.retain(|_, before| before.until > now);
        self.before.len() < known
    }

    /// The worker has begun with what runs.
    pub(super) fn begun(&mut self) {
        self.running = std::mem::take(&mut self.running).into_iter().map(running).collect();
    }

    /// A function takes the place of the one of its name.
    pub(super) fn put(&mut self, function: FunctionImage, kept: Kept, now: Instant) {
        if let Some(place) = self.running.iter_mut().find(|f| f.name == function.name) {
            let until = now + KNOWN;
            let fresh = || Replaced { functions: Vec::new(), until };
            let before = self.before.entry(function.name.clone()).or_insert_with(fresh);
            before.until = until;
            before.functions.push((std::mem::replace(place, function), kept));
            if before.functions.len() > 2 {
                before.functions.remove(0);
            }
        }
    }

    /// Nothing brings back what this function replaced.
    pub(super) fn unwatch(&mut self, name: &str) {
        self.before.remove(name);
    }

    /// Whether this version of a function runs, and a fault may bring back what it replaced.
    pub(super) fn can_go_back(&self, name: &str, version: &str) -> bool {
        let last = self.before.get(name).and_then(|before| before.functions.last());
        self.running.iter().any(|f| f.name == name && f.version == version)
            && last.is_some_and(|(_, kept)| *kept == Kept::ForFaults)
    }

    /// What this function replaced by this version runs again, if that version runs; `undone`: as
    /// it was, with what it had replaced itself. False: it is not known.
    pub(super) fn go_back(&mut self, name: &str, version: &str, undone: bool) -> bool {
        let runs = |f: &&mut FunctionImage| f.name == name && f.version == version;
        let Some(place) = self.running.iter_mut().find(runs) else { return true };
        let Some(mut before) = self.before.remove(name) else { return false };
        let Some((last, _)) = before.functions.pop() else { return false };
        *place = last;
        if undone {
            self.before.insert(name.to_owned(), before);
        }
        true
    }

    /// State regions of what runs, by function.
    pub(super) fn regions(&self) -> BTreeMap<String, Region> {
        let with_regions = self.running.iter().filter_map(|function| {
            let (layout, bytes) = (function.state_layout.clone(), function.state_bytes);
            let file = function.state.clone()?;
            Some((function.name.clone(), Region { layout, bytes, file }))
        });
        with_regions.collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    use super::*;

    /// A version of a function with a state region of its own.
    pub(in super::super) fn function(name: &str, version: &str) -> FunctionImage {
        let file = std::fs::File::open("/dev/null").unwrap();
        FunctionImage {
            name: name.into(),
            version: version.into(),
            hash: [0; 32],
            admitted: None,
            connection: false,
            saves: false,
            memory_at_start: 0,
            writes: false,
            memory: 0,
            deadline: 0,
            fails_open: false,
            state_bytes: 1,
            state_layout: version.into(),
            config: String::new(),
            code: None,
            state: Some(Arc::new(file.into())),
            blank: None,
            proxy: None,
            files: [false; 3],
        }
    }

    fn run(versions: &Versions) -> Vec<&str> {
        versions.running().iter().map(|f| f.version.as_str()).collect()
    }

    #[test]
    fn each_function_goes_back_to_what_it_replaced_itself() {
        let mut versions = Versions::new(vec![function("f", "1"), function("g", "1")]);
        versions.put(function("f", "2"), Kept::ForFaults, Instant::now());
        versions.put(function("g", "2"), Kept::ForFaults, Instant::now());
        assert!(versions.go_back("f", "2", false));
        assert_eq!(run(&versions), ["1", "2"]);
        // It does not run any more.
        assert!(versions.go_back("f", "2", false));
        // What it replaced is not known.
        assert!(!versions.go_back("f", "1", false));
        versions.unwatch("g");
        assert!(!versions.go_back("g", "2", true));
        assert_eq!(run(&versions), ["1", "2"]);
    }

    #[test]
    fn what_was_replaced_is_kept_for_as_long_as_the_worker_knows_it() {
        let mut versions = Versions::new(vec![function("f", "1"), function("g", "1")]);
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(versions.known_until(), None);
        versions.put(function("f", "2"), Kept::ForFaults, now);
        versions.put(function("g", "2"), Kept::ForFaults, now + second);
        assert_eq!(versions.known_until(), Some(now + KNOWN));
        assert!(!versions.forget(now + KNOWN - second));
        assert!(versions.forget(now + KNOWN));
        assert_eq!(versions.before().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["g"]);
        assert!(versions.go_back("g", "2", true) && !versions.go_back("f", "2", true));
    }

    #[test]
    fn no_fault_brings_back_what_a_version_before_replaced_and_who_undoes_that_does() {
        let mut versions = Versions::new(vec![function("f", "1")]);
        versions.put(function("f", "2"), Kept::ForFaults, Instant::now());
        versions.put(function("f", "1"), Kept::ForUndoing, Instant::now());
        assert!(!versions.can_go_back("f", "1"));
        assert!(versions.go_back("f", "1", true));
        assert!(versions.can_go_back("f", "2"), "its own swap is as it was");
        assert_eq!(run(&versions), ["2"]);
    }

    #[test]
    fn a_swap_that_is_undone_leaves_what_the_one_before_it_replaced() {
        for undone in [true, false] {
            let mut versions = Versions::new(vec![function("f", "1")]);
            versions.put(function("f", "2"), Kept::ForFaults, Instant::now());
            let state = |versions: &Versions| versions.regions()["f"].file.as_raw_fd();
            let second = state(&versions);
            versions.put(function("f", "3"), Kept::ForFaults, Instant::now());
            assert_ne!(state(&versions), second);
            assert!(versions.go_back("f", "3", undone));
            let Region { layout, file, .. } = versions.regions()["f"].clone();
            assert_eq!((layout.as_str(), file.as_raw_fd()), ("2", second));
            assert_eq!(versions.go_back("f", "2", false), undone);
            assert_eq!(run(&versions), [if undone { "1" } else { "2" }]);
        }
    }
}
