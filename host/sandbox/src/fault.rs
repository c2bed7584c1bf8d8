//! What went wrong in a guest, and whose fault it was.

use std::fmt;
use std::time::Duration;

use wasmtime::{Trap, WasmBacktrace};

use crate::admit::Admitted;
use crate::trace::{self, FRAMES_MAX};

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
    /// It broke the contract of `weir:net` (a window at a bad place, a name that is not allowed,
    /// ...).
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
    /// For people: what happened and where in the code, for [`crate::explain`]; or what rule was
    /// broken.
    pub message: String,
    /// CPU time that it took of a thread that is not its own, when its time was up; none of other
    /// faults.
    pub lost: Duration,
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
    pub limit: Duration,
    /// What it took, before that was seen, of a thread that others wait for.
    pub lost: Duration,
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

/// Whether wasmtime's text is of an access a little below address 0. Languages that have a stack in
/// linear memory have it there, so that it runs into nothing else.
fn is_below_zero(text: &str) -> bool {
    const STEP_MAX: u64 = 1 << 20;
    let address = text.split_once("memory fault at wasm address 0x").map(|(_, rest)| rest);
    let address = address.and_then(|rest| rest.split(|c: char| !c.is_ascii_hexdigit()).next());
    let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    address.is_some_and(|address| ((1 << 32) - STEP_MAX..1 << 32).contains(&address))
}

/// What such an access is, by the frames above which it was.
fn below_zero(frames: usize) -> (FaultKind, &'static str) {
    if frames >= FRAMES_MAX {
        (FaultKind::Stack, "it recursed too deeply: its stack has grown below address 0")
    } else {
        (
            FaultKind::Trap,
            "below address 0, by a pointer or because a variable is larger than its stack",
        )
    }
}

/// So many bytes as they are written in a chain's file: `4MiB`, or `1000B`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(log2, _)| bytes != 0 && bytes.is_multiple_of(1 << log2));
    unit.map_or_else(|| format!("{bytes}B"), |(log2, unit)| format!("{}{unit}", bytes >> log2))
}

impl Fault {
    /// Reads wasmtime's error. `refused`: the bytes of memory that the function may have, if it was
    /// refused more before.
    #[must_use]
    pub fn new(error: &wasmtime::Error, function: Option<usize>, refused: Option<usize>) -> Self {
        let mut message = trace::text(error);
        let lost = error.downcast_ref::<Overdue>().map_or(Duration::ZERO, |overdue| overdue.lost);
        let kind = if error.downcast_ref::<Violation>().is_some() {
            FaultKind::Contract
        } else if error.downcast_ref::<Overdue>().is_some() {
            FaultKind::Deadline
        } else {
            match error.downcast_ref::<Trap>() {
                Some(Trap::StackOverflow) => FaultKind::Stack,
                Some(Trap::Interrupt) => FaultKind::Deadline,
                Some(_) if let Some(limit) = refused => {
                    let limit = size(limit as u64);
                    message = format!(
                        "it asked for more than its limit of {limit} (`memory` in the chain): {message}"
                    );
                    FaultKind::Memory
                }
                Some(_) if is_below_zero(&message) => {
                    let frames = error.downcast_ref::<WasmBacktrace>();
                    let (kind, why) = below_zero(frames.map_or(0, |trace| trace.frames().len()));
                    message = format!("{why}: {message}");
                    kind
                }
                _ => FaultKind::Trap,
            }
        };
        Self { kind, function, message, lost }
    }

    /// Says whose code it was, if nobody has: [`crate::explain`] then finds its lines of source.
    #[must_use]
    pub fn of(self, admitted: &Admitted) -> Self {
        self.in_code(Some(admitted.hash))
    }

    /// With what the function logged before: a panic's message is there, and nowhere in the trap.
    #[must_use]
    pub(crate) fn having_said(mut self, lines: &[String]) -> Self {
        if !lines.is_empty() {
            // In front: behind the message may be places in code, which `explain` looks for at the
            // end.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_memory_names_its_limit_and_an_access_below_0_the_stack() {
        let fault = |address: &str, refused| {
            let error = wasmtime::Error::from(Trap::MemoryOutOfBounds);
            let text = format!(
                "memory fault at wasm address 0x{address} in linear memory of size 0x20000"
            );
            Fault::new(&error.context(text), Some(0), refused).to_string()
        };
        assert!(fault("20000", None).starts_with("trap: memory fault at"));
        assert!(fault("fff00000", None).starts_with("trap: below address 0, "));
        assert!(fault("fffffff0", None).starts_with("trap: below address 0, "));
        assert!(fault("ffefffff", None).starts_with("trap: memory fault at"));
        assert!(fault("100000000", None).starts_with("trap: memory fault at"));
        assert_eq!(below_zero(FRAMES_MAX).0, FaultKind::Stack);
        let refused = fault("fffffff0", Some(4 << 20));
        let named = "memory: it asked for more than its limit of 4MiB (`memory` in the chain): memory fault";
        assert!(refused.starts_with(named), "{refused}");
    }

    #[test]
    fn sizes_are_told_as_they_are_written() {
        let told = [0, 1000, 1536, 65_536, 3 << 20, 1 << 30].map(size);
        assert_eq!(told, ["0B", "1000B", "1536B", "64KiB", "3MiB", "1GiB"]);
    }
}
