//! What is made of files, and made anew when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::error::GatewayError;

/// What tells that a file is another one, or says something else, or may be read now: device,
/// inode, size, and when its content and its properties changed last.
#[derive(PartialEq, Eq)]
struct Mark([u64; 3], [i64; 4]);

/// The mark of each file; none: it cannot be looked at.
type Marks = Vec<Option<Mark>>;

/// A `T` that is made of files.
pub(crate) struct Read<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, GatewayError> + Send + Sync>,
    now: ArcSwap<T>,
    last: Mutex<Last>,
    /// Whoever reads has it: what was read first is not to be put in force last.
    turn: Mutex<()>,
}

/// The last reading.
struct Last {
    /// The files as they were before it.
    marks: Marks,
    /// Why nothing was made of them.
    problem: Option<String>,
}

/// A [`Read`] of whatever it is.
pub(crate) trait FromFiles: Send + Sync {
    /// Whether it is to be read again: a file has changed since it was read, or the last reading
    /// failed, for which the reason may be gone without a trace.
    fn stale(&self) -> bool;

    /// Reads the files again.
    ///
    /// # Errors
    /// Which file is no good, and why; all stays as it was.
    fn reload(&self) -> Result<(), GatewayError>;

    /// Why what was made of the files is not what they say now.
    fn problem(&self) -> Option<String>;
}

impl<T> Read<T> {
    /// Has `make` read these files.
    ///
    /// # Errors
    /// Which file is no good, and why.
    pub(crate) fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, GatewayError> + Send + Sync + 'static,
    ) -> Result<Self, GatewayError> {
        let last = Mutex::new(Last { marks: marks(&paths), problem: None });
        let now = ArcSwap::from_pointee(make()?);
        Ok(Self { paths, make: Box::new(make), now, last, turn: Mutex::default() })
    }

    /// What was made of them last.
    pub(crate) fn now(&self) -> Arc<T> {
        self.now.load_full()
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync> FromFiles for Read<T> {
    fn stale(&self) -> bool {
        let marks = marks(&self.paths);
        let last = self.last();
        last.problem.is_some() || last.marks != marks
    }

    fn reload(&self) -> Result<(), GatewayError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = marks(&self.paths);
        let made = (self.make)();
        let problem = made.as_ref().err().map(ToString::to_string);
        *self.last() = Last { marks, problem };
        self.now.store(Arc::new(made?));
        Ok(())
    }

    fn problem(&self) -> Option<String> {
        self.last().problem.clone()
    }
}

fn marks(paths: &[PathBuf]) -> Marks {
    let mark = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let changed = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Some(Mark([meta.dev(), meta.ino(), meta.size()], changed))
    };
    paths.iter().map(|path| mark(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_could_not_be_read_is_tried_again_though_the_file_looks_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.pem");
        fs::write(&path, "first").unwrap();
        let (file, fails) = (path.clone(), Arc::new(AtomicBool::new(false)));
        let failing = Arc::clone(&fails);
        let read = Read::new(vec![path.clone()], move || {
            let broken = |what: &str| GatewayError::Certificate {
                file: file.clone(),
                of_key: false,
                what: what.into(),
            };
            if failing.load(Ordering::Relaxed) {
                return Err(broken("too many open files"));
            }
            fs::read_to_string(&file).map_err(|error| broken(&error.to_string()))
        });
        let read = read.unwrap();
        assert!(!read.stale());
        fs::write(&path, "second").unwrap();
        fails.store(true, Ordering::Relaxed);
        assert!(read.stale() && read.reload().is_err());
        assert!(read.problem().unwrap().contains("too many open files"));
        assert_eq!(*read.now(), "first");
        fails.store(false, Ordering::Relaxed);
        assert!(read.stale() && read.reload().is_ok());
        assert_eq!((&**read.now(), read.problem(), read.stale()), ("second", None, false));
    }

    #[test]
    fn another_file_of_the_same_age_is_another_one_and_so_is_one_with_other_rights() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.pem");
        fs::write(&path, "first").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let file = path.clone();
        let read = Read::new(vec![path.clone()], move || Ok(fs::read_to_string(&file).unwrap()));
        let read = read.unwrap();
        let other = directory.path().join("other.pem");
        fs::write(&other, "other").unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(read.stale());
        read.reload().unwrap();
        assert_eq!(*read.now(), "other");
        assert!(!read.stale());
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(&path, rights).unwrap();
        assert!(read.stale());
    }
}
