//! What functions did to packets, for people.
//!
//! Owns: what changed in a packet, in the words of a dissector. Must not know: who followed the
//! packets.

use anyhow::Result;
use weir_spec::{FollowedPacket, TracedPacket, TracedStep};

use crate::captures::Frame;
use crate::dissect::{self, Dissected};

/// The ways of packets.
///
/// # Errors
/// When a temporary file for tshark cannot be written.
pub fn told(ways: &[FollowedPacket]) -> Result<Vec<TracedPacket>> {
    let frame = |bytes: &[u8]| Frame { time: 0, bytes: bytes.to_vec(), cut: 0 };
    let forms = ways.iter().flat_map(|way| {
        let changed = way.steps.iter().filter_map(|step| step.changed.as_ref());
        std::iter::once(&way.bytes).chain(changed).map(|bytes| frame(&bytes.0))
    });
    let forms: Vec<Frame> = forms.collect();
    let dissected = dissect::dissect(&forms.iter().collect::<Vec<_>>())?;
    let mut dissected = dissected.iter();
    Ok(ways.iter().map_while(|way| told_of(way, &mut dissected)).collect())
}

/// `forms` begins with what the packet was, and then became.
fn told_of<'a>(
    way: &FollowedPacket,
    forms: &mut impl Iterator<Item = &'a Dissected<'a>>,
) -> Option<TracedPacket> {
    let mut packet = forms.next()?;
    let summary = packet.summary();
    let mut steps = Vec::with_capacity(way.steps.len());
    for step in &way.steps {
        let mut changes = Vec::new();
        if step.changed.is_some() {
            let after = forms.next()?;
            changes.extend(packet.changed(after).lines().map(str::to_owned));
            packet = after;
        }
        steps.push(TracedStep {
            function: step.function.clone(),
            verdict: step.verdict.clone().unwrap_or_else(|| "fault".into()),
            changes,
        });
    }
    Some(TracedPacket { number: way.number, packet: summary, steps })
}
