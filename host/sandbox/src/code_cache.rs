//! Machine code on disk, one file for each component, and what was found of uploads; all together
//! bounded in bytes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes behind the content of a file: the SHA-256 of it.
const SUM: usize = 32;

/// Where compiled code, and what was found of uploads, is kept from one start to the next. What was
/// used longest ago goes first when there is too much.
#[derive(Clone, Debug)]
pub struct CodeCache {
    /// Must be writable by nobody else, because what lies there is executed.
    pub directory: PathBuf,
    /// Bytes that are kept.
    pub most: u64,
    /// Bytes of the disk that are left to others.
    pub spare: u64,
    /// The directory that was looked at, whatever has its name later.
    opened: Arc<OnceLock<OwnedFd>>,
}

impl CodeCache {
    /// One in this directory, which is not made before it is used.
    #[must_use]
    pub fn new(directory: PathBuf, most: u64, spare: u64) -> Self {
        Self { directory, most, spare, opened: Arc::default() }
    }

    /// Makes the directory, and keeps it open. One that is there already, and in which others may
    /// write, is refused; that they may put another one in its place is said.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let opened = File::open(&self.directory)?;
        let found = opened.metadata()?;
        let (owner, mode, own) = (found.uid(), found.mode() & 0o7777, own_user());
        if !is_ours_alone(&found) {
            return Err(io::Error::other(format!(
                "it belongs to user {owner}, mode {mode:04o}, and what lies there is executed: remove it, so that it is made anew for user \
                 {own} alone"
            )));
        }
        if let Some(what) = self.exposed()? {
            tracing::warn!("{what}");
        }
        // Made once more, it is the same one.
        let _ = self.opened.set(opened.into());
        Ok(())
    }

    /// What is above it in which others may put something else in its place, before the next start.
    fn exposed(&self) -> io::Result<Option<String>> {
        for parent in fs::canonicalize(&self.directory)?.ancestors().skip(1) {
            let found = fs::metadata(parent)?;
            if !keeps_names(&found) {
                let (owner, mode) = (found.uid(), found.mode() & 0o7777);
                return Ok(Some(format!(
                    "{} belongs to user {owner}, mode {mode:04o}: others than user {} may put something else in the place of the store                      below it before the next start, and what lies there is executed. Take the right to write from them, or have the                      store elsewhere (`[store] path`)",
                    parent.display(),
                    own_user()
                )));
            }
        }
        Ok(None)
    }

    /// Where its files are: in the directory that was looked at.
    fn place(&self) -> PathBuf {
        self.opened.get().map_or_else(|| self.directory.clone(), by_number)
    }

    /// Loads a component's code with the first engine that can; what cannot be read, or is not what
    /// was written, is compiled again.
    pub(crate) fn load<'a>(
        &self,
        engines: impl Iterator<Item = &'a Engine>,
        name: &str,
    ) -> Option<Component> {
        let path = self.directory.join(name);
        let file = File::open(self.place().join(name)).ok()?;
        let mut failed = "the file is damaged, or others may write it".to_owned();
        if file.metadata().is_ok_and(|found| is_ours_alone(&found))
            && is_whole(&file).unwrap_or(false)
        {
            for engine in engines {
                // SAFETY: nobody else may write in the directory (`make`) nor the file, which is
                // the one that is open; what lies in it is what was written, and its name carries
                // the hash of component, wasmtime version and settings. The sum behind the code is
                // in no part of it.
                match unsafe { Component::deserialize_file(engine, by_number(&file)) } {
                    Ok(component) => {
                        // Only says that it is still used.
                        drop(file.set_modified(SystemTime::now()));
                        return Some(component);
                    }
                    Err(error) => failed = format!("{error:#}"),
                }
            }
        }
        tracing::warn!(path = %path.display(), "cached code is unusable, compiling again: {failed}");
        None
    }

    /// Reads what [`Self::keep`] kept, of at most so many bytes. What cannot be read, or is not
    /// what was written, is not there.
    pub(crate) fn read(&self, name: &str, most: usize) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        let file = File::open(self.place().join(name)).ok()?;
        let mut content = Vec::new();
        let read = (&file).take((most + SUM) as u64 + 1).read_to_end(&mut content);
        let length = content.len().checked_sub(SUM).filter(|length| *length <= most);
        let whole = length.filter(|length| {
            read.is_ok() && Sha256::digest(&content[..*length])[..] == content[*length..]
        });
        let Some(length) = whole else {
            tracing::warn!(path = %path.display(), "what was kept is unusable, and is found anew");
            return None;
        };
        content.truncate(length);
        // As above.
        drop(file.set_modified(SystemTime::now()));
        Some(content)
    }

    /// Keeps a component's code, or what was found of an upload: there whole or not at all, whoever
    /// else writes the same, and whether the machine goes on or not. Without it that is done again
    /// at the next start. The answer is whether it is there.
    pub(crate) fn keep(&self, name: &str, content: &[u8]) -> bool {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let path = self.place().join(name);
        let bytes = (content.len() + SUM) as u64;
        if !self.make_room(&path, bytes, || self.free()) {
            let told = self.directory.join(name);
            tracing::warn!(path = %told.display(), "not kept for the next start: the disk is nearly full");
            return false;
        }
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            // On disk before it has its name, or a power loss could leave the name with something
            // else behind it.
            .and_then(|mut file| {
                file.write_all(content)?;
                file.write_all(&Sha256::digest(content))?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = &written {
            drop(fs::remove_file(&partial));
            let told = self.directory.join(name);
            tracing::warn!(path = %told.display(), "not kept for the next start: {error}");
        }
        self.prune(&path);
        written.is_ok()
    }

    /// Bytes that the disk has free. One that does not tell has enough.
    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.place());
        stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Has the disk have room for so many bytes beside what is left to others, if removing what was
    /// used longest ago makes it. If not, nothing is removed in vain: code that is loaded is
    /// mapped, so its file's room is not free before this process ends.
    fn make_room(&self, newest: &Path, bytes: u64, free: impl Fn() -> u64) -> bool {
        let wanted = self.spare.saturating_add(bytes);
        if free() >= wanted {
            return true;
        }
        let mut files = self.files(newest);
        let mapped = mapped_files();
        files.retain(|(_, _, path)| path.file_name().is_none_or(|name| !mapped.contains(name)));
        let most: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        if free().saturating_add(most) < wanted {
            return false;
        }
        for (_, _, path) in files {
            let before = free();
            if before >= wanted {
                break;
            }
            // The disk may free it later, or another process have it mapped: the rest would go the
            // same way.
            if fs::remove_file(path).is_ok() && free() <= before {
                break;
            }
        }
        free() >= wanted
    }

    /// Removes what was used longest ago, until the rest is few enough bytes. `newest` stays.
    fn prune(&self, newest: &Path) {
        let files = self.files(newest);
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

    /// All files but this one, with their length, what was used longest ago first.
    fn files(&self, but: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.place()) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .filter(|(_, _, path)| path != but)
            .collect();
        files.sort_unstable();
        files
    }
}

/// The path of what is open, whatever is at the one that it was opened by.
fn by_number(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether nobody but this process's user, and root, may write it.
fn is_ours_alone(found: &Metadata) -> bool {
    found.mode() & 0o022 == 0 && [own_user(), 0].contains(&found.uid())
}

/// Whether nobody but them may give names in this directory to something else. A group that is the
/// user's own counts as the user, and in a directory with the sticky bit everybody has names of his
/// own only.
fn keeps_names(found: &Metadata) -> bool {
    let own_group = [rustix::process::getegid().as_raw(), 0].contains(&found.gid());
    let others = if own_group { 0o002 } else { 0o022 };
    let sticky = found.mode() & 0o1000 != 0;
    [own_user(), 0].contains(&found.uid()) && (sticky || found.mode() & others == 0)
}

/// Names of the files that this process has mapped now.
fn mapped_files() -> BTreeSet<OsString> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let names = maps.lines().filter_map(|line| line.rsplit_once('/'));
    names.map(|(_, name)| name.into()).collect()
}

/// Whether a file has the sum of what is in it.
fn is_whole(file: &File) -> std::io::Result<bool> {
    let Some(code) = file.metadata()?.len().checked_sub(SUM as u64) else { return Ok(false) };
    let (mut hasher, mut left, mut file) = (Sha256::new(), code, file);
    let mut bytes = vec![0; 64 << 10];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        file.read_exact(&mut bytes[..part])?;
        hasher.update(&bytes[..part]);
        left -= part as u64;
    }
    let mut sum = [0; SUM];
    file.read_exact(&mut sum)?;
    Ok(hasher.finalize()[..] == sum)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_directory_in_which_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(directory.path().join("cache"), 1 << 30, 0);
        for (mode, refused) in [(0o755, false), (0o775, true), (0o757, true), (0o700, false)] {
            cache.make().unwrap();
            fs::set_permissions(&cache.directory, fs::Permissions::from_mode(mode)).unwrap();
            let made = cache.make().map_err(|error| error.to_string());
            assert_eq!(made.is_err(), refused, "{mode:o}: {made:?}");
            fs::remove_dir(&cache.directory).unwrap();
        }
    }

    #[test]
    fn what_others_may_put_in_its_place_is_said_and_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("parent");
        let made = |mode| {
            let cache = CodeCache::new(parent.join("store/cache"), 1 << 30, 0);
            fs::create_dir_all(&parent).unwrap();
            fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
            cache.make().unwrap();
            cache
        };
        let exposed = |mode| made(mode).exposed().unwrap();
        assert!(exposed(0o777).unwrap().contains("parent belongs to user"));
        assert!(exposed(0o1777).is_none() && exposed(0o755).is_none());
        // Another directory that has its name later is not read, and a file that others may write
        // is not run.
        let (engine, code) = compiled();
        let cache = made(0o755);
        let is_loaded = || cache.load([&engine].into_iter(), "a.cwasm").is_some();
        assert!(cache.keep("a.cwasm", &code) && is_loaded());
        fs::rename(parent.join("store"), parent.join("away")).unwrap();
        fs::create_dir_all(&cache.directory).unwrap();
        fs::write(cache.directory.join("a.cwasm"), b"another one's").unwrap();
        assert!(is_loaded());
        let kept = parent.join("away/cache/a.cwasm");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!is_loaded());
        if own_user() == 0 {
            fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(is_loaded());
            std::os::unix::fs::chown(&kept, Some(65_534), None).unwrap();
            assert!(!is_loaded());
        }
    }

    #[test]
    fn what_was_used_longest_ago_makes_room_and_the_newest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(directory.path().join("cache"), 330, 0);
        cache.make().unwrap();
        let there = || there(&cache);
        keep_of_age(&cache, 30, "a.cwasm", &[0; 100]);
        keep_of_age(&cache, 20, "b.cwasm", &[0; 100]);
        assert_eq!(there(), ["a.cwasm", "b.cwasm"]);
        // What a host left that was killed while it wrote is old some day, too.
        fs::write(cache.directory.join("c.7.partial"), [0; 50]).unwrap();
        cache.keep("d.cwasm", &[0; 100]);
        assert_eq!(there(), ["b.cwasm", "c.7.partial", "d.cwasm"]);
        cache.keep("e.cwasm", &[0; 1000]);
        assert_eq!(there(), ["e.cwasm"]);
        // What is left to others is more than the disk has free.
        let full = CodeCache { spare: u64::MAX, ..cache.clone() };
        full.keep("f.cwasm", &[0; 100]);
        assert_eq!(there(), ["e.cwasm"]);
    }

    #[test]
    fn on_a_full_disk_only_what_makes_room_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(directory.path().join("cache"), 1 << 30, 1000);
        cache.make().unwrap();
        let (engine, code) = compiled();
        for (age, name) in [(40, "a"), (30, "b"), (20, "c"), (10, "d")] {
            keep_of_age(&cache, age, name, &code);
        }
        let one = (code.len() + SUM) as u64;
        let (_mapped, new) = (cache.load([&engine].into_iter(), "a"), Path::new("e"));
        // With all four this disk has 1,000 bytes free, and so much that it frees at once.
        let free = |frees: u64| 1000 + frees * (4 - there(&cache).len() as u64);
        let make_room = |bytes, frees| cache.make_room(new, bytes, || free(frees));
        assert!(make_room(0, 0));
        assert!(!make_room(3 * one + 1, one), "what is mapped would have to go");
        assert_eq!(there(&cache), ["a", "b", "c", "d"]);
        assert!(make_room(one, one));
        assert_eq!(there(&cache), ["a", "c", "d"]);
        assert!(!make_room(one, 0));
        assert_eq!(there(&cache), ["a", "d"], "it has no more room without the next one");
    }

    /// Names of what is kept.
    fn there(cache: &CodeCache) -> Vec<String> {
        let entries = fs::read_dir(&cache.directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Keeps what was last used so many seconds ago.
    fn keep_of_age(cache: &CodeCache, age: u64, name: &str, code: &[u8]) {
        cache.keep(name, code);
        let file = File::open(cache.directory.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    /// An engine, and the code of a component for it.
    fn compiled() -> (Engine, Vec<u8>) {
        let engine = Engine::default();
        let text = "(component (core module $m (func (export \"f\") (result i32) (i32.const 7)))
            (core instance $i (instantiate $m))
            (func (export \"f\") (result s32) (canon lift (core func $i \"f\"))))";
        let code = engine.precompile_component(&wat::parse_str(text).unwrap()).unwrap();
        (engine, code)
    }

    #[test]
    fn code_that_is_not_what_was_written_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(directory.path().join("cache"), 1 << 30, 0);
        cache.make().unwrap();
        let (engine, code) = compiled();
        let load = |engines: &[&Engine]| cache.load(engines.iter().copied(), "a.cwasm");
        assert!(load(&[&engine]).is_none());
        cache.keep("a.cwasm", &code);
        let component = load(&[&engine]).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let linker = wasmtime::component::Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let f = instance.get_typed_func::<(), (i32,)>(&mut store, "f").unwrap();
        assert_eq!(f.call(&mut store, ()).unwrap(), (7,));
        // The first engine that can.
        let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap();
        assert!(load(&[&other]).is_none());
        assert!(load(&[&other, &engine]).is_some());
        // As after a power failure: some of it zeros, or cut off, even by whole pages.
        let path = cache.directory.join("a.cwasm");
        for (at, length) in [(code.len() / 2, code.len()), (0, code.len() / 2), (0, 10), (0, 0)] {
            cache.keep("a.cwasm", &code);
            let file = File::options().write(true).open(&path).unwrap();
            if at > 0 {
                file.write_all_at(&[0xa5; 16], at as u64).unwrap();
            }
            file.set_len((length + SUM) as u64).unwrap();
            assert!(load(&[&engine]).is_none(), "{at} {length}");
        }
        cache.keep("a.cwasm", &code);
        assert!(load(&[&engine]).is_some());
    }
}
