//! What went wrong in a guest, and whose fault it was.

use std::fmt;

use wasmtime::Trap;

use crate::admit::Admitted;
use crate::trace;

/// The kind of a fault, as counted in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// The code trapped: `unreachable` (a panic), out of bounds, a write to read-only memory, ...
    Trap,
    /// It ran longer than its deadline.
    Deadline,
    /// It recursed too deeply.
    Stack,
    /// It trapped after more memory had been refused to it.
    Memory,
    /// It broke the contract of `weir:net` (a window at a bad place, a name that is not allowed, ...).
    Contract,
    /// It moved a packet's descriptor out of the packet's room.
    BadDescriptor,
    /// It gave a verdict that means nothing.
    BadVerdict,
}

impl FaultKind {
    /// Short name for metrics and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Stack => "stack",
            Self::Memory => "memory",
            Self::Contract => "contract",
            Self::BadDescriptor => "bad-descriptor",
            Self::BadVerdict => "bad-verdict",
        }
    }
}

/// A fault with its explanation.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Place of the function in the guest's list, when it is known.
    pub function: Option<usize>,
    /// For people: what happened and where in the code, for [`crate::explain`]; or what rule was broken.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Fault {}

/// A host call's answer to a guest that broke the contract; becomes [`FaultKind::Contract`].
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// The guest's time was up; becomes [`FaultKind::Deadline`].
#[derive(Debug)]
pub struct Overdue {
    /// The CPU time that it had.
    pub limit: std::time::Duration,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ran longer than its deadline of {:?} of CPU time", self.limit)
    }
}

impl std::error::Error for Overdue {}

/// What start code did, if this is why there is no instance.
#[must_use]
pub fn start_failure(error: &wasmtime::Error) -> Option<&'static str> {
    if error.is::<Overdue>() {
        Some("did not end")
    } else {
        error.is::<Trap>().then_some("trapped")
    }
}

impl Fault {
    /// Reads wasmtime's error. `memory_refused`: whether the function was refused memory before.
    #[must_use]
    pub fn new(error: &wasmtime::Error, function: Option<usize>, memory_refused: bool) -> Self {
        let kind = if error.downcast_ref::<Violation>().is_some() {
            FaultKind::Contract
        } else if error.downcast_ref::<Overdue>().is_some() {
            FaultKind::Deadline
        } else {
            match error.downcast_ref::<Trap>() {
                Some(Trap::StackOverflow) => FaultKind::Stack,
                Some(Trap::Interrupt) => FaultKind::Deadline,
                Some(_) if memory_refused => FaultKind::Memory,
                _ => FaultKind::Trap,
            }
        };
        Self { kind, function, message: trace::text(error) }
    }

    /// Says whose code it was, if nobody has: [`crate::explain`] then finds its lines of source.
    #[must_use]
    pub fn of(self, admitted: &Admitted) -> Self {
        self.in_code(Some(admitted.hash))
    }

    /// With what the function logged before ([`crate::Guest::heard`]): a panic's message is there, and nowhere in the trap.
    #[must_use]
    pub fn having_said(mut self, lines: &[String]) -> Self {
        if !lines.is_empty() {
            // In front: behind the message may be places in code, which `explain` looks for at the end.
            self.message = format!("it logged \"{}\"; {}", lines.join("\", \""), self.message);
        }
        self
    }

    /// The same by the hash of the component.
    #[must_use]
    pub fn in_code(mut self, hash: Option<[u8; 32]>) -> Self {
        trace::tag(&mut self.message, hash);
        self
    }
}
