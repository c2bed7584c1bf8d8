//! What is made of files, and made anew when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::error::GatewayError;

/// When each file changed last; none: it cannot be looked at.
type Changes = Vec<Option<SystemTime>>;

/// A `T` that is made of files.
pub(crate) struct Read<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, GatewayError> + Send + Sync>,
    now: ArcSwap<T>,
    /// As of the last reading.
    changed: Mutex<Changes>,
}

/// A [`Read`] of whatever it is.
pub(crate) trait FromFiles: Send + Sync {
    /// Whether a file has changed since it was read.
    fn stale(&self) -> bool;

    /// Reads the files again.
    ///
    /// # Errors
    /// Which file is no good, and why; all stays as it was.
    fn reload(&self) -> Result<(), GatewayError>;
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
        let changed = Mutex::new(changes(&paths));
        let now = ArcSwap::from_pointee(make()?);
        Ok(Self { paths, make: Box::new(make), now, changed })
    }

    /// What was made of them last.
    pub(crate) fn now(&self) -> Arc<T> {
        self.now.load_full()
    }
}

impl<T: Send + Sync> FromFiles for Read<T> {
    fn stale(&self) -> bool {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) != changes(&self.paths)
    }

    fn reload(&self) -> Result<(), GatewayError> {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changes(&self.paths);
        self.now.store(Arc::new((self.make)()?));
        Ok(())
    }
}

fn changes(paths: &[PathBuf]) -> Changes {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    paths.iter().map(|path| changed(path)).collect()
}
