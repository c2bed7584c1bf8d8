//! Machine code on disk: one file for each component, bounded in bytes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Where compiled code is kept from one start to the next. What was used longest ago goes first when there is too much.
#[derive(Clone, Debug)]
pub struct CodeCache {
    /// Must be writable by nobody else, because what lies there is executed.
    pub directory: PathBuf,
    /// Bytes that are kept.
    pub most: u64,
}

impl CodeCache {
    /// Makes the directory.
    pub(crate) fn make(&self) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// Loads a component's code; what cannot be read is compiled again.
    pub(crate) fn load(&self, engine: &Engine, name: &str) -> Option<Component> {
        let path = self.directory.join(name);
        if !path.exists() {
            return None;
        }
        // SAFETY: the directory is ours alone (mode 0700), files in it are written whole or not at all,
        // and their names carry the hash of component, wasmtime version and settings.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => {
                // Only says that it is still used.
                drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now())));
                Some(component)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), "cached code is unusable, compiling again: {error:#}");
                None
            }
        }
    }

    /// Keeps a component's code: there whole or not at all. Without it the component is compiled again at the next start.
    pub(crate) fn keep(&self, name: &str, code: &[u8]) {
        let path = self.directory.join(name);
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            // On disk before it has its name, or a power loss could leave the name with something else behind it.
            .and_then(|mut file| file.write_all(code).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            drop(fs::remove_file(&partial));
            tracing::warn!(path = %path.display(), "compiled code is not kept: {error}");
        }
        self.prune(&path);
    }

    /// Removes what was used longest ago, until the rest is few enough bytes. `newest` stays.
    fn prune(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .filter(|(_, _, path)| path != newest)
            .collect();
        files.sort_unstable();
        let mut kept: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        kept += fs::metadata(newest).map_or(0, |metadata| metadata.len());
        for (_, bytes, path) in files {
            if kept <= self.most {
                return;
            }
            // Code that runs is mapped, and stays.
            if fs::remove_file(&path).is_ok() {
                kept -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_used_longest_ago_makes_room_and_the_newest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache { directory: directory.path().join("cache"), most: 250 };
        cache.make().unwrap();
        let there = || {
            let mut names: Vec<_> = fs::read_dir(&cache.directory)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for (age, name) in [(30, "a.cwasm"), (20, "b.cwasm")] {
            cache.keep(name, &[0; 100]);
            let file = File::open(cache.directory.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        assert_eq!(there(), ["a.cwasm", "b.cwasm"]);
        // What a host left that was killed while it wrote is old some day, too.
        fs::write(cache.directory.join("c.7.partial"), [0; 50]).unwrap();
        cache.keep("d.cwasm", &[0; 100]);
        assert_eq!(there(), ["b.cwasm", "c.7.partial", "d.cwasm"]);
        cache.keep("e.cwasm", &[0; 1000]);
        assert_eq!(there(), ["e.cwasm"]);
    }
}
