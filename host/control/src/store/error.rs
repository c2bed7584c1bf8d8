//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

/// See each variant; every message says what to do where we know it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, or nearly so.
    #[error(
        "the disk of {} is full: {free} bytes are free, {needed} are needed; nothing was changed. Make room and try again", path.display()
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Another host has it open.
    #[error(
        "the store {} is in use by another host (process {process}); stop that one, or give this one another `[store] path`", path.display()
    )]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// Its process number.
        process: String,
    },
    /// It was written by a newer version of Weir.
    #[error("the store has format {found}, this version of Weir knows {known}: use a newer Weir")]
    Format {
        /// Format of the store.
        found: u32,
        /// Format known.
        known: u32,
    },
    /// A record is not as records of its format are, which we know.
    #[error(
        "the store is damaged: record {key} is not as format {format} has it: {why}; restore it from a backup, or use the Weir that wrote it"
    )]
    Record {
        /// Its key.
        key: String,
        /// The format, which this version of Weir knows.
        format: u32,
        /// What is wrong.
        why: String,
    },
    /// Something in it is not what we wrote.
    #[error("the store is damaged: {0}; restore it from a backup")]
    Corrupt(String),
    /// The Wasm of a function is not what we wrote, or is not there.
    #[error("the store is damaged: {0}; push the same Wasm again, or restore it from a backup")]
    Blob(String),
    /// The file system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The database said no.
    #[error("the store's database: {0}")]
    Database(Box<redb::Error>),
}

impl StoreError {
    /// What a tenant is told of it, which needs to know neither where the store is nor how full its
    /// disk; none: all.
    pub(crate) fn public(&self) -> Option<&'static str> {
        match self {
            Self::Blob(_) => None,
            Self::Full { .. } => {
                Some("the host's disk is full; nothing was changed. Try again later")
            }
            _ => Some("the host's store failed; the host's log says how"),
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::from_io(what, source)
    }

    fn from_io(what: String, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full { path: PathBuf::from(what), free: 0, needed: 1 };
        }
        Self::Io { what, source }
    }

    pub(crate) fn database(path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::Corrupt(format!("{}: {source}", path.display()))
            }
            redb::Error::Io(source) => Self::from_io(path.display().to_string(), source),
            redb::Error::Corrupted(what) => Self::Corrupt(what),
            error => Self::Database(Box::new(error)),
        }
    }
}
