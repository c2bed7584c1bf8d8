//! The journal: what was changed, written down before it is done, so that it can be undone after a
//! crash.
//!
//! A file with a JSON object in each line: first the boot that it is of, then changes, and the
//! numbers of those that were undone. It only grows, and is emptied when nothing is left to undo.
//! What another boot of the machine was changed in is gone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::setting::Change;
use crate::sysfs;

/// Why the journal cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error("the journal of changes {} belongs to a host that runs; stop it: it undoes them itself", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("the journal of changes {} cannot be {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is none, or of a later version.
    #[error(
        "line {line} of the journal of changes {} means nothing to this version: {problem}; what it says can be undone by hand, \
         and the file removed",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Record {
    /// The number of the machine's boot.
    Boot(String),
    /// What is about to be done.
    Change(Change),
    /// The change of this number is undone, or is not ours to undo any more.
    Settled(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of its lines. What lies behind them was not written whole.
    length: u64,
    boot: String,
    /// None: settled.
    changes: Vec<Option<Change>>,
    /// Those that are settled, and the file does not say so.
    unwritten: Vec<usize>,
}

impl Journal {
    /// Opens it, for as long as it lives, or makes one.
    ///
    /// # Errors
    /// When another process has it, or it cannot be read.
    pub fn open(path: &Path, kernel: &dyn Kernel) -> Result<Self, JournalError> {
        let at = |what| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, what, source }
        };
        let boot =
            sysfs::text(&kernel.proc().join("sys/kernel/random/boot_id")).unwrap_or_default();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(at("opened"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(at("locked")(error)),
        }
        // Its name has to outlive a crash as well.
        let directory =
            path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|d| d.sync_all()).map_err(at("kept"))?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            length: 0,
            boot,
            changes: Vec::new(),
            unwritten: Vec::new(),
        };
        journal.read()?;
        Ok(journal)
    }

    /// Whether there is a journal with something in it.
    #[must_use]
    pub fn is_left_at(path: &Path) -> bool {
        path.metadata().is_ok_and(|file| file.len() > 0)
    }

    fn read(&mut self) -> Result<(), JournalError> {
        let mut text = Vec::new();
        self.file.read_to_end(&mut text).map_err(|e| self.io("read", e))?;
        // What was being written when the machine stopped was not done yet.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut boot = None;
        for (number, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let damaged = |problem: String| JournalError::Damaged {
                path: self.path.clone(),
                line: number + 1,
                problem,
            };
            match serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))? {
                Record::Boot(of) => boot = Some(of),
                Record::Change(change) => self.changes.push(Some(change)),
                Record::Settled(number) => match self.changes.get_mut(number) {
                    Some(change) => *change = None,
                    None => return Err(damaged(format!("there is no change {number}"))),
                },
            }
        }
        if boot.is_some_and(|boot| boot != self.boot) {
            self.changes.clear();
        }
        if self.changes.iter().all(Option::is_none) {
            return self.empty();
        }
        self.length = whole as u64;
        Ok(())
    }

    fn io(&self, what: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), what, source }
    }

    fn empty(&mut self) -> Result<(), JournalError> {
        self.changes.clear();
        self.length = 0;
        let emptied = self.file.set_len(0).and_then(|()| self.file.sync_all());
        emptied.map_err(|e| self.io("emptied", e))?;
        self.unwritten.clear();
        Ok(())
    }

    /// Writes a change down: it may be made when this returns. The answer is its number.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn push(&mut self, change: Change) -> Result<usize, JournalError> {
        if self.changes.is_empty() {
            self.append(&Record::Boot(self.boot.clone()))?;
            self.unwritten.clear();
        }
        self.append(&Record::Change(change.clone()))?;
        self.changes.push(Some(change));
        Ok(self.changes.len() - 1)
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(record).map_err(|e| self.io("written", e.into()))?;
        line.push(b'\n');
        self.file
            .set_len(self.length)
            .and_then(|()| self.file.write_all_at(&line, self.length))
            .and_then(|()| self.file.sync_data())
            .map_err(|e| self.io("written", e))?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Changes that are not settled, with their numbers, the first one first.
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = (usize, &Change)> {
        let all = self.changes.iter().enumerate();
        all.filter_map(|(number, change)| Some((number, change.as_ref()?)))
    }

    /// A change is undone, or is not ours to undo any more.
    ///
    /// # Errors
    /// When that, or what was settled before, cannot be written.
    pub fn settle(&mut self, number: usize) -> Result<(), JournalError> {
        if let Some(change) = self.changes.get_mut(number) {
            *change = None;
            self.unwritten.push(number);
        }
        self.catch_up()
    }

    /// Writes what is settled and could not be written when it was.
    ///
    /// # Errors
    /// When it still cannot be.
    pub(crate) fn catch_up(&mut self) -> Result<(), JournalError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if self.changes.iter().all(Option::is_none) {
            return self.empty();
        }
        while let Some(number) = self.unwritten.last() {
            self.append(&Record::Settled(*number))?;
            self.unwritten.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Live;
    use crate::setting::Setting;

    fn change(count: u16) -> Change {
        let pf = "0000:01:00.0".parse().unwrap();
        Change { before: Setting::VfCount { pf, count: 0 }, after: Setting::VfCount { pf, count } }
    }

    fn counts(journal: &Journal) -> Vec<(usize, u16)> {
        let count = |(number, change): (usize, &Change)| match change.after {
            Setting::VfCount { count, .. } => (number, count),
            _ => unreachable!("only counts are written here"),
        };
        journal.changes().map(count).collect()
    }

    #[test]
    fn it_is_found_again_without_what_was_settled_or_cut() {
        let directory = tempfile::tempdir().unwrap();
        let (path, kernel) = (directory.path().join("journal"), Live::default());
        let mut journal = Journal::open(&path, &kernel).unwrap();
        assert!(!Journal::is_left_at(&path));
        for count in 1..=3 {
            journal.push(change(count)).unwrap();
        }
        journal.settle(1).unwrap();
        assert!(matches!(Journal::open(&path, &kernel), Err(JournalError::Locked { .. })));
        drop(journal);
        std::fs::write(&path, [std::fs::read(&path).unwrap(), b"{\"change\":".to_vec()].concat())
            .unwrap();
        let mut journal = Journal::open(&path, &kernel).unwrap();
        assert_eq!(counts(&journal), [(0, 1), (2, 3)]);
        journal.push(change(4)).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, &kernel).unwrap();
        assert_eq!(counts(&journal), [(0, 1), (2, 3), (3, 4)]);
        for number in [3, 2, 0] {
            journal.settle(number).unwrap();
        }
        assert!(!Journal::is_left_at(&path));
    }

    #[test]
    fn another_boot_has_nothing_to_undo_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let kernel = Live::at("/sys", directory.path().join("proc"));
        let boot = directory.path().join("proc/sys/kernel/random/boot_id");
        std::fs::create_dir_all(boot.parent().unwrap()).unwrap();
        std::fs::write(&boot, "one\n").unwrap();
        Journal::open(&path, &kernel).unwrap().push(change(1)).unwrap();
        assert_eq!(counts(&Journal::open(&path, &kernel).unwrap()), [(0, 1)]);
        std::fs::write(&boot, "two\n").unwrap();
        assert_eq!(counts(&Journal::open(&path, &kernel).unwrap()), []);
        std::fs::write(&path, "{\"boot\":\"two\"}\n{\"settled\":0}\n").unwrap();
        let error = Journal::open(&path, &kernel).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("no change 0"), "{error}");
    }
}
