//! The sandbox: turns what a tenant uploaded into code that can do no harm.
//!
//! Owns: admission (what may run at all), compilation and its cache, stores with their limits,
//! windows and state regions in guests' memory, the host interface of `weir:net`, configuring an
//! instance and handing on what it saved, and naming the function that is at fault. Must not know:
//! what a verdict or a packet means, ports; of chains only the runner, a guest of ours that has the
//! others called (`runner`). What a function or the runner asks of the packet plane goes through
//! [`Requests`] and [`Services`].
//!
//! ```text
//!  bytes -> admit -> Admitted -> Sandbox::compile -> Component
//!                                                       |  Guest (limits, memories, telemetry)
//!                                                       v
//!                                      Sandbox::store -> Store<Guest>  <- Sandbox::link: host calls
//! ```
//!
//! # Whom we defend against
//!
//! A component is hostile. It runs in linear memories that wasmtime bounds with guard pages; it
//! gets windows only onto memory of its own security domain, with the protection its access calls
//! for; time is bounded by epochs (measured in the thread's CPU time, so that a busy machine faults
//! nobody), memory by a limiter, stack by wasmtime, log and metric names by [`Telemetry`].

mod admissions;
mod admit;
mod answers;
mod code_cache;
mod compile;
mod compiler;
mod deadline;
mod exchange;
mod fault;
mod function_cache;
mod guard;
mod guest;
mod host;
mod life;
mod loaded;
mod manifest;
mod memories;
mod memory_ledger;
mod policy;
mod runner;
mod said;
mod serving;
mod shared_code;
mod starts;
mod state;
mod telemetry;
mod ticker;
mod trace;
mod window;

pub use admissions::answer_admission;
pub use admit::{Admitted, Refused, UPLOAD_MAX, World, admit};
pub use code_cache::CodeCache;
pub use compile::{CompileError, Compiled, Sandbox, SandboxConfig, giving};
pub use compiler::Compiler;
pub use deadline::{charged, thread_time};
pub use exchange::{CopiedAnswer, Exchanges, KEY_MAX, LaidMessage, Rejection, Span, link_exchange};
pub use fault::{Fault, FaultKind, Overdue, size, start_failure};
pub use guest::{
    ARGUMENTS_MAX, Guest, GuestFunction, INSTANCES_MAX, Limits, MEMORIES_MAX, Running,
    SETUP_DEADLINE, Shared, TABLES_MAX, Window,
};
pub use host::{Refusal, Requests, Setup, link_function};
pub use life::{Configure, Exports, Given, InstanceError, Snapshot, configure, once};
pub use manifest::embedded_manifest;
pub use memories::{Memories, memories};
pub use memory_ledger::MemoryLedger;
pub use policy::{FOLLOWING, Health, OnFault, PROBATION, Record, Treatment};
pub use runner::{Services, link_runner};
pub use said::one_line;
pub use state::{State, States, seed_of};
pub use telemetry::{Level, LogLine, Telemetry, TelemetryReport};
pub use ticker::{Ticker, Ticking};
pub use trace::{explain, explain_soon, read_lines, read_lines_in_children, told};
