//! What a function wrote for a packet that it may not write, and why: in words, once it has
//! happened.

use weir_layout::{FLAG_REVERSE, VERDICT_FINAL, VERDICT_NAMES, Verdict};
use weir_pool::Packet;
use weir_sandbox::{FaultKind, World};

use crate::context::Context;

/// What stands in place of a verdict where a function that gets copies answered something else than
/// verdicts.
const NO_ANSWER: u32 = 0xff;

const NO_ANSWER_TOLD: &str = "it stands for an answer that is no verdict: a function that gets copies has to give one for each packet, cannot \
     hold packets, and changes them only within its `access` and within what it was given";

/// A bad verdict or descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Violation {
    pub(crate) function: usize,
    pub(crate) kind: FaultKind,
    /// The packet's place in the burst.
    pub(crate) place: usize,
    /// Which packet of those that came in it is, from 1, if that is known.
    pub(crate) number: Option<u64>,
    /// The packet, with the descriptor that it had when it came into the chain.
    pub(crate) packet: Packet,
    /// Offset and length that the function wrote.
    pub(crate) wrote: (u32, u32),
    /// The verdict that it wrote.
    pub(crate) verdict: u32,
}

impl Violation {
    /// The fault in words, of a function of this world: which packet, what was written, and what is
    /// wrong with that.
    pub(crate) fn told(&self, context: &Context, world: World) -> String {
        let Self { kind, number, packet, .. } = self;
        let bytes = packet.descriptor.length;
        let which = match number {
            Some(number) => format!("packet {number} ({bytes} bytes)"),
            None => format!("a packet of {bytes} bytes"),
        };
        let what = match kind {
            FaultKind::BadDescriptor => self.descriptor(context),
            _ => {
                let ports = context.ports.iter().map(|port| port.name()).collect::<Vec<_>>();
                let reverse = packet.metadata.flags & FLAG_REVERSE != 0;
                let why = if self.verdict == NO_ANSWER && world != World::Window {
                    NO_ANSWER_TOLD.to_owned()
                } else {
                    let functions = context.ledger.functions;
                    reason(self.verdict, &ports, self.function, functions, reverse)
                };
                format!("verdict {:#010x}: {why}", self.verdict)
            }
        };
        format!("{which}: {what}")
    }

    fn descriptor(&self, context: &Context) -> String {
        let (offset, length) = self.wrote;
        let first = context.pool.room_offset(self.packet.buffer);
        let end = first + context.pool.room_bytes();
        format!(
            "offset {offset:#x} and length {length}: its room begins at offset {first:#x} and ends before {end:#x}, and the packet has to stay in it"
        )
    }
}

/// What is wrong with a verdict of the function at this place of so many.
fn reason(word: u32, ports: &[&str], place: usize, functions: usize, reverse: bool) -> String {
    let (kind, argument) = (word & 0xff & !VERDICT_FINAL, word >> 8);
    let Some(name) = VERDICT_NAMES.get(kind as usize) else {
        return format!(
            "there is no kind {kind}: kinds are 0 to {}, `next` to `move`",
            VERDICT_NAMES.len() - 1
        );
    };
    if word & VERDICT_FINAL != 0 && kind > Verdict::ToKernel.kind() {
        return format!("`{name}` cannot be final (0x80)");
    }
    match name {
        &"forward" | &"clone" => {
            let there = ports.iter().enumerate().map(|(n, port)| format!("{n} ({port})"));
            let there = there.collect::<Vec<_>>().join(", ");
            format!("`{name}` to port {argument}: the chain has {there}")
        }
        &"jump" => {
            let later = if reverse { 0..place } else { place + 1..functions };
            let allowed = if later.is_empty() {
                "there is none".to_owned()
            } else {
                format!("{} to {}", later.start, later.end - 1)
            };
            format!(
                "`jump` to function {argument} from function {place}: it has to be one that comes later: {allowed}"
            )
        }
        &"reply" if argument == 0 => {
            "`reply`: a function made the packet, which came in by no port".into()
        }
        &"move" => format!("`move` to target {argument}: numbers end at 65535"),
        _ => format!("`{name}` has no argument, and this one has {argument}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_the_value_and_what_is_allowed() {
        let told = |word, reverse| reason(word, &["in", "out"], 1, 3, reverse);
        for (word, reverse, expected) in [
            (0x63, false, "there is no kind 99: kinds are 0 to 8, `next` to `move`"),
            (0x86, false, "`hold` cannot be final (0x80)"),
            (0x4d03, false, "`forward` to port 77: the chain has 0 (in), 1 (out)"),
            (0x4d83, false, "`forward` to port 77: the chain has 0 (in), 1 (out)"),
            (0x0207, false, "`clone` to port 2: the chain has 0 (in), 1 (out)"),
            (0x0105, false, "later: 2 to 2"),
            (0x0105, true, "later: 0 to 0"),
            (0x0002, false, "came in by no port"),
            (0x0502, false, "`reply` has no argument, and this one has 5"),
            (0x0100, false, "`next` has no argument, and this one has 1"),
            (0x0100_0008, false, "`move` to target 65536: numbers end at 65535"),
        ] {
            assert!(told(word, reverse).ends_with(expected), "{}", told(word, reverse));
        }
        assert!(reason(0x05, &[], 0, 1, false).ends_with("later: there is none"));
    }
}
