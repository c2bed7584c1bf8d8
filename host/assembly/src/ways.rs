//! Ways of packets that were followed, as reports have them.

use weir_packet_plane::{Followed, Step, verdict_in_words};
use weir_spec::{Base64, FollowedPacket, FollowedStep};

/// These ways through a chain whose functions have these names.
#[must_use]
pub fn ways(followed: Vec<Followed>, names: &[String]) -> Vec<FollowedPacket> {
    let step = |step: Step| {
        let (verdict, changed) = match step.outcome {
            Some(outcome) => (Some(verdict_in_words(outcome.verdict)), outcome.changed),
            None => (None, None),
        };
        let function = names.get(step.place).cloned().unwrap_or_default();
        FollowedStep { function, verdict, changed: changed.map(Base64) }
    };
    let way = |way: Followed| FollowedPacket {
        number: way.number,
        reverse: way.reverse,
        bytes: Base64(way.bytes),
        steps: way.steps.into_iter().map(step).collect(),
    };
    followed.into_iter().map(way).collect()
}
