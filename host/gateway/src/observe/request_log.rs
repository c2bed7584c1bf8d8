//! The file that a listener's requests are written to, one JSON object a line.
//!
//! Owns: the file, the thread that writes to it, what is lost when that does not keep up. Must not know: what a line says.
//!
//! Threads of the gateway hand over many lines at a time and never wait for the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Batches that wait for the disk; more are lost.
const QUEUE: usize = 64;

enum Order {
    /// These lines, and how many they are.
    Write(Vec<u8>, u64),
    /// No more.
    End,
}

/// See the module. The thread ends with the last clone of what holds this.
pub(crate) struct Journal {
    path: PathBuf,
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the file, behind what is in it, and starts the thread.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let (orders, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer =
            Writer { path: path.to_owned(), file: Some(open(path)?), torn: false, failing: false };
        let not_written = Arc::clone(&lost);
        let thread = thread::Builder::new().name("gateway-log".to_owned()).spawn(move || {
            writer.run(&receiver, &not_written);
        })?;
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self { path: path.to_owned(), orders, lost, thread }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has so many lines written, or counts them as lost if too many wait already.
    pub(crate) fn write(&self, lines: Vec<u8>, count: u64) {
        if self.orders.try_send(Order::Write(lines, count)).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Lines that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is written.
    pub(crate) fn end(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // A thread that panicked has said so already.
        let _ = self.orders.send(Order::End);
        let _ = thread.join();
    }
}

struct Writer {
    path: PathBuf,
    /// None: it could not be opened again.
    file: Option<File>,
    /// The last line in the file is not whole.
    torn: bool,
    /// Of which it has been said that nothing can be written.
    failing: bool,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>, lost: &AtomicU64) {
        while let Ok(Order::Write(lines, count)) = orders.recv() {
            let written = self.write(&lines);
            if written.is_err() {
                lost.fetch_add(count, Ordering::Relaxed);
            }
            match (&written, self.failing) {
                (Err(error), false) => {
                    tracing::error!(file = %self.path.display(), %error, "requests are not written down");
                }
                (Ok(()), true) => {
                    tracing::info!(file = %self.path.display(), "requests are written down again");
                }
                _ => (),
            }
            self.failing = written.is_err();
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = match self.file.take().filter(|file| is_at(file, &self.path)) {
            Some(file) => file,
            None => {
                self.torn = false;
                open(&self.path)?
            }
        };
        let file = self.file.insert(file);
        if self.torn {
            file.write_all(b"\n")?;
        }
        self.torn = true;
        file.write_all(lines)?;
        self.torn = false;
        Ok(())
    }
}

/// Whether the file still has this name: whoever rotates logs gives it another.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(named)) => number(file) == number(named),
        _ => false,
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}
