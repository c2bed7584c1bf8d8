//! Threads on which guests run.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A pool of threads for guests of all functions. What runs on it ends when the last clone goes.
pub struct Runners(Option<Runtime>);

impl Runners {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(threads.max(1))
            .thread_name("weir-proxy")
            .enable_time()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it is dropped").handle()
    }
}

impl Drop for Runners {
    fn drop(&mut self) {
        // Guests that still run end at their next yield; whoever drops this does not wait for them.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
