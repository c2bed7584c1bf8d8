//! Why a worker could not be started or shut in.

use std::io;
use std::path::PathBuf;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The worker's program or an argument has a byte that no program can be given.
    #[error("worker {program}: {what} has a zero byte in it; leave it out")]
    Zero {
        /// The program.
        program: PathBuf,
        /// What it was.
        what: String,
    },
    /// The worker could shrink a memory under this process's mapping, which would end this process.
    #[error(
        "worker {program}: memory {number} can be shrunk; seal it with F_SEAL_SHRINK before it is shared"
    )]
    NotSealed {
        /// The program.
        program: PathBuf,
        /// Which of the plan's, from 0.
        number: usize,
    },
    /// A step on the way to the new process failed.
    #[error("worker {program}: {step}: {problem}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// What the kernel said.
        problem: io::Error,
    },
    /// This process was not started as a worker.
    #[error("this is no worker: {0}; start it by WorkerProcess::spawn")]
    NoWorker(String),
    /// A layer of confinement that must be there is not.
    #[error("confinement: {step}: {problem}; the worker must not run")]
    Confine {
        /// What was to be done.
        step: &'static str,
        /// What was wrong.
        problem: String,
    },
}
