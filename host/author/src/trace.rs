//! What functions did to packets, for people.
//!
//! Owns: what changed in a packet, in the words of a dissector. Must not know: who followed the packets.

use anyhow::Result;
use weir_spec::{FollowedPacket, TracedPacket, TracedStep};

use crate::captures::Frame;
use crate::dissect;

/// The ways of packets.
///
/// # Errors
/// When a temporary file for tshark cannot be written.
pub fn told(ways: &[FollowedPacket]) -> Result<Vec<TracedPacket>> {
    ways.iter().map(told_of).collect()
}

fn told_of(way: &FollowedPacket) -> Result<TracedPacket> {
    let frame = |bytes: &[u8]| Frame { time: 0, bytes: bytes.to_vec(), cut: 0 };
    let mut packet = frame(&way.bytes.0);
    let summary = dissect::summary(&packet)?;
    let mut steps = Vec::with_capacity(way.steps.len());
    for step in &way.steps {
        let mut changes = Vec::new();
        if let Some(bytes) = &step.changed {
            let after = frame(&bytes.0);
            changes.extend(dissect::changed(&packet, &after)?.lines().map(str::to_owned));
            packet = after;
        }
        steps.push(TracedStep {
            function: step.function.clone(),
            verdict: step.verdict.clone().unwrap_or_else(|| "fault".into()),
            changes,
        });
    }
    Ok(TracedPacket { number: way.number, packet: summary, steps })
}
