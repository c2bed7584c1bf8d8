//! The host's log, on standard error, written by a thread of its own: who logs neither waits for
//! whoever reads it, nor fails with it.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::{Color, Global};
use crate::patience;

/// Variable that says more exactly than `-v` what is logged, such as `weir_control=debug`.
const VARIABLE: &str = "WEIR_LOG";

/// Lines that wait for whoever reads the log; what comes when there are so many is lost, and told.
const WAITING: usize = 8192;

/// How long whoever reads the log has at the end for what waits.
const LAST: Duration = Duration::from_millis(1500);

/// Has what waits written when it is dropped, if whoever reads it takes it in time.
#[must_use]
pub(crate) struct Logging(Option<WorkerGuard>);

impl Drop for Logging {
    fn drop(&mut self) {
        // The guard itself may wait for standard output, to say that it could not tell the writer.
        let guard = self.0.take();
        patience::within(LAST, move || drop(guard));
    }
}

/// Starts logging; once.
pub(crate) fn start(global: &Global) -> Logging {
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
    Logging(Some(writing))
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
