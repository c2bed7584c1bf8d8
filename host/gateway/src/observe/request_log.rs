//! The file that a listener's requests are written to, one JSON object a line.
//!
//! Owns: the file, the thread that opens it and writes to it, what is lost when that does not keep
//! up. Must not know: what a line says.
//!
//! Threads of the gateway hand over many lines at a time. Nobody waits for the disk: what blocks (a
//! file system of another machine, a FIFO) blocks the thread alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Batches that wait for the disk; more are lost.
const QUEUE: usize = 64;
/// A file that cannot be opened is tried again with each batch, and so often.
const AGAIN: Duration = Duration::from_secs(3);
/// Between two looks whether the queue has room for the last order.
const LOOK: Duration = Duration::from_millis(10);
/// A new file is its owner's, and its group may read it: what clients ask for is nobody else's. A
/// file in the place of one that was renamed has the rights of that one.
const MODE: u32 = 0o640;
/// Rights among the bits of a mode.
const RIGHTS: u32 = 0o7777;

enum Order {
    /// These lines, and how many they are.
    Write(Vec<u8>, u64),
    /// No more.
    End,
}

/// What the thread and others know.
#[derive(Default)]
struct Shared {
    lost: AtomicU64,
    /// Lines that were handed over, and are neither written nor lost yet.
    waiting: AtomicU64,
    /// Lines were lost because too many waited, which was told.
    behind: AtomicBool,
    /// Why there is no file.
    problem: Mutex<Option<String>>,
}

/// See the module. The thread ends with the last clone of what holds this.
pub(crate) struct Journal {
    path: PathBuf,
    orders: SyncSender<Order>,
    shared: Arc<Shared>,
    /// Disconnected when the thread has ended; none: it was waited for.
    ended: Mutex<Option<Receiver<()>>>,
}

impl Journal {
    /// Starts the thread, which opens the file, behind what is in it.
    ///
    /// # Errors
    /// What the kernel said of the thread.
    pub(crate) fn start(path: &Path) -> io::Result<Arc<Self>> {
        let (orders, receiver) = sync_channel(QUEUE);
        let (ends, ended) = sync_channel(0);
        let shared = Arc::<Shared>::default();
        let mut writer = Writer { path: path.to_owned(), open: None, mode: None, failing: None };
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("gateway-log".to_owned()).spawn(move || {
            writer.run(&receiver, &of_thread);
            drop(ends);
        })?;
        let ended = Mutex::new(Some(ended));
        Ok(Arc::new(Self { path: path.to_owned(), orders, shared, ended }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has so many lines written, or counts them as lost if too many wait already.
    pub(crate) fn write(&self, lines: Vec<u8>, count: u64) {
        self.shared.waiting.fetch_add(count, Relaxed);
        match self.orders.try_send(Order::Write(lines, count)) {
            Ok(()) => (),
            Err(TrySendError::Full(_)) => {
                self.shared.loses(count);
                if !self.shared.behind.swap(true, Relaxed) {
                    tracing::error!(
                        file = %self.path.display(),
                        "requests are lost, not written down: the disk, or who reads the file, does not keep up"
                    );
                }
            }
            Err(TrySendError::Disconnected(_)) => self.shared.loses(count),
        }
    }

    /// Lines that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Why there is no file.
    pub(crate) fn problem(&self) -> Option<String> {
        self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all that was handed over is written, until the deadline at most: what waits then
    /// is lost.
    pub(crate) fn end(&self, deadline: Instant) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ended) = ended else { return };
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Err(TrySendError::Full(_)) = self.orders.try_send(Order::End) {
            if left().is_zero() {
                break;
            }
            thread::sleep(LOOK);
        }
        if ended.recv_timeout(left()) == Err(RecvTimeoutError::Timeout) {
            let lines = self.shared.waiting.swap(0, Relaxed);
            self.shared.lost.fetch_add(lines, Relaxed);
            tracing::error!(
                file = %self.path.display(), lines,
                "the last requests are not written down: the disk, or who reads the file, did not take them in time"
            );
        }
    }
}

impl Shared {
    /// Of the lines that wait so many are lost.
    fn loses(&self, count: u64) {
        self.waiting.fetch_sub(count, Relaxed);
        self.lost.fetch_add(count, Relaxed);
    }
}

/// The file that lines go to.
struct Open {
    file: File,
    /// Its last line is not whole.
    torn: bool,
}

struct Writer {
    path: PathBuf,
    /// None: it could not be opened.
    open: Option<Open>,
    /// The rights of the file that was there before.
    mode: Option<u32>,
    /// Why nothing can be written, which was told.
    failing: Option<String>,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>, shared: &Shared) {
        self.try_again(shared);
        loop {
            let order = match orders.try_recv() {
                Ok(order) => Some(order),
                Err(TryRecvError::Empty) => self.wait(orders, shared),
                Err(TryRecvError::Disconnected) => return,
            };
            match order {
                Some(Order::Write(lines, count)) => {
                    let (whole, failed) = match self.write(&lines, shared) {
                        Ok(()) => (count, None),
                        Err((bytes, error)) => (lines_in(&lines[..bytes]), Some(error)),
                    };
                    shared.waiting.fetch_sub(whole, Relaxed);
                    shared.loses(count - whole);
                    self.tell(failed);
                }
                Some(Order::End) => return,
                None if self.open.is_none() => self.try_again(shared),
                None => (),
            }
        }
    }

    /// Waits for an order when all before are done; none if there is none for a while.
    fn wait(&self, orders: &Receiver<Order>, shared: &Shared) -> Option<Order> {
        if shared.behind.swap(false, Relaxed) {
            let lost = shared.lost.load(Relaxed);
            tracing::info!(file = %self.path.display(), lost, "all that waited is written down");
        }
        match orders.recv_timeout(AGAIN) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Order::End),
        }
    }

    fn try_again(&mut self, shared: &Shared) {
        let failed = self.opened(shared).err();
        self.tell(failed);
    }

    /// Says when it begins and ends that nothing can be written.
    fn tell(&mut self, failed: Option<io::Error>) {
        let failed = failed.map(|error| error.to_string());
        if failed == self.failing {
            return;
        }
        let file = self.path.display();
        match &failed {
            Some(error) => tracing::error!(%file, %error, "requests are not written down"),
            None => tracing::info!(%file, "requests are written down again"),
        }
        self.failing = failed;
    }

    /// The file that has the name now.
    fn opened(&mut self, shared: &Shared) -> io::Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) if is_at(&open.file, &self.path) => open,
            before => {
                let meta = before.and_then(|before| before.file.metadata().ok());
                self.mode = meta.map(|meta| meta.mode() & RIGHTS).or(self.mode);
                let opened = open(&self.path, self.mode);
                let problem = opened.as_ref().err().map(|error| {
                    format!("{}: requests are not written down: {error}", self.path.display())
                });
                *shared.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
                let file = opened?;
                Open { torn: is_torn(&file, &self.path), file }
            }
        };
        Ok(self.open.insert(open))
    }

    /// Writes lines down. An error comes with the bytes that were written all the same.
    fn write(&mut self, lines: &[u8], shared: &Shared) -> Result<(), (usize, io::Error)> {
        let Open { file, torn } = self.opened(shared).map_err(|error| (0, error))?;
        if *torn {
            file.write_all(b"\n").map_err(|error| (0, error))?;
            *torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            let error = match file.write(&lines[written..]) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(bytes) => {
                    written += bytes;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            *torn = written > 0 && lines[written - 1] != b'\n';
            return Err((written, error));
        }
        Ok(())
    }
}

/// Lines that are whole.
fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Whether the file still has this name: whoever rotates logs gives it another.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(named)) => number(file) == number(named),
        _ => false,
    }
}

/// Opens the file, or makes it, with these rights if there was one before.
fn open(path: &Path, mode: Option<u32>) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        // Where nobody reads a FIFO, this fails, and what follows would wait.
        let reached = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let reached = reached.map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) => io::Error::new(error.kind(), "nobody reads from it"),
            _ => error,
        })?;
        let file = OpenOptions::new().append(true).open(path);
        drop(reached);
        return file;
    }
    let new = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path);
    match new {
        Ok(file) => {
            if let Some(mode) = mode {
                file.set_permissions(Permissions::from_mode(mode))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).create(true).mode(MODE).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Whether the file's last line is not whole: a host that crashed, or a disk that was full, cut it
/// off.
fn is_torn(file: &File, path: &Path) -> bool {
    let Some(end) = file.metadata().ok().filter(|meta| meta.is_file() && meta.len() > 0) else {
        return false;
    };
    let mut last = [0];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, end.len() - 1));
    read.is_ok() && last != *b"\n"
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use super::*;

    /// A FIFO, and a file that reads from it.
    fn fifo(directory: &Path) -> (PathBuf, File) {
        let path = directory.join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        (path, reader.unwrap())
    }

    fn until(what: &str, so: impl Fn() -> bool) {
        let began = Instant::now();
        while !so() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: not in time");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// So many lines of 100 bytes.
    fn lines(count: usize) -> Vec<u8> {
        format!("{:99}\n", "a line").repeat(count).into_bytes()
    }

    #[test]
    fn of_a_batch_that_was_written_in_part_only_the_rest_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (path, reader) = fifo(directory.path());
        let journal = Journal::start(&path).unwrap();
        journal.write(lines(1000), 1000);
        until("it is written", || matches!(Read::read(&mut &reader, &mut [0; 100]), Ok(100)));
        // The rest does not fit into a pipe.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(journal.lost(), 0);
        drop(reader);
        until("it is counted", || journal.lost() > 0);
        assert_eq!(journal.lost(), 1000 - 65_536 / 100);
    }

    #[test]
    fn the_end_does_not_wait_for_who_reads_nothing_and_counts_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let (path, reader) = fifo(directory.path());
        let journal = Journal::start(&path).unwrap();
        for _ in 0..QUEUE + 10 {
            journal.write(lines(1000), 1000);
        }
        let began = Instant::now();
        journal.end(began + Duration::from_millis(500));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(journal.lost(), (QUEUE as u64 + 10) * 1000);
        drop(reader);
    }
}
