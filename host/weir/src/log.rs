//! The host's log, on standard error, written by a thread of its own: who logs neither waits for whoever reads it, nor fails with it.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::{Color, Global};

/// Variable that says more exactly than `-v` what is logged, such as `weir_control=debug`.
const VARIABLE: &str = "WEIR_LOG";

/// Lines that wait for whoever reads the log; what comes when there are so many is lost, and told.
const WAITING: usize = 8192;

/// Starts logging; once. What waits is written when the answer is dropped, for which a reader that stalls has a second.
pub(crate) fn start(global: &Global) -> WorkerGuard {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(VARIABLE)
        .from_env_lossy();
    let terminal = std::io::stderr().is_terminal();
    let (queue, writing) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .lossy(true)
        .thread_name("weir-log")
        .finish(std::io::stderr());
    let lost = queue.error_counter();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would tell them on standard error, and panic where that cannot be written.
        .log_internal_errors(false)
        .with_target(global.verbose > 0)
        .with_ansi(global.color == Color::Always || (global.color == Color::Auto && terminal))
        .with_writer(Log { queue, lost, told: AtomicUsize::new(0) })
        .init();
    writing
}

/// Queues lines, and tells in their place that some were lost.
struct Log {
    queue: NonBlocking,
    lost: ErrorCounter,
    /// As many lost lines were told.
    told: AtomicUsize,
}

impl<'l> MakeWriter<'l> for Log {
    type Writer = NonBlocking;

    fn make_writer(&'l self) -> NonBlocking {
        let mut queue = self.queue.clone();
        let lost = self.lost.dropped_lines();
        if lost != self.told.load(Ordering::Relaxed) {
            let line = b"lines of the log were lost here: whoever reads it is too slow\n";
            // It cannot fail; but it may be lost like the others, and is tried again then.
            let _ = queue.write_all(line);
            if self.lost.dropped_lines() == lost {
                self.told.store(lost, Ordering::Relaxed);
            }
        }
        queue
    }
}
