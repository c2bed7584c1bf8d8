//! Known flows of one version of IP, in the state region.

use std::cmp::Reverse;

use weir_sdk::host::Counter;
use weir_sdk::parse::protocol;
use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::track::{Clock, Life, Side, Stage, Step, acknowledges, midway, opens, plain, sane};

/// Slots looked at by each sweep.
const SWEEP: usize = 16;

/// What is remembered of a flow; the key is the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    deadline: u32,
    stage: u8,
    marks: u8,
    /// 1 when the originator is the key's second end.
    swapped: u8,
    /// 1 when it goes to the kernel's stack.
    inspected: u8,
    /// TCP: what each side, by its number, has acknowledged last: the sequence number that it
    /// expects.
    expected: [u32; 2],
}

/// A packet as far as flows are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<K> {
    pub(crate) key: K,
    /// Its sender is the key's second end.
    pub(crate) swapped: bool,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    /// TCP's acknowledgement number.
    pub(crate) acknowledged: u32,
}

/// What the table says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It belongs to a flow.
    Pass,
    /// It belongs to a flow that is inspected, and is on its way there.
    Inspect,
    /// It does not fit the state of its flow, or could not begin one.
    Invalid,
    /// It begins a flow, if the rules allow it.
    New,
}

/// See the module.
pub(crate) struct Flows<K> {
    map: StateMap<K, Entry>,
    cursor: StateArray<u64>,
    given_up: Counter,
}

impl<K: FromBytes + IntoBytes + Immutable + Eq + Copy> Flows<K> {
    pub(crate) fn new(
        region: &mut StateRegion,
        name: &str,
        most: usize,
        given_up: Counter,
    ) -> Result<Self, String> {
        let cursor = region.array(&format!("{name}-cursor"), 1)?;
        Ok(Self { map: region.map(name, most)?, cursor, given_up })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    pub(crate) fn look_ahead(&self, probes: &mut [Probe]) {
        self.map.look_ahead(probes);
    }

    /// Looks a packet up and moves its flow on. `sequence`, TCP's number, is asked of few.
    #[inline(always)]
    pub(crate) fn see(
        &mut self,
        sight: &Sight<K>,
        sequence: impl FnOnce() -> u32,
        probe: Probe,
        now: u32,
        clock: &Clock,
        loose: bool,
    ) -> Known {
        let tcp = sight.protocol == protocol::TCP;
        if tcp && !sane(sight.flags) {
            return Known::Invalid;
        }
        if let Some(entry) = self.map.find_mut(probe, &sight.key)
            && clock.alive(now, entry.deadline)
            && let Some(stage) = Stage::from_number(entry.stage)
        {
            let mut life = Life { stage, marks: entry.marks };
            let side = if (entry.swapped == 1) == sight.swapped {
                Side::Originator
            } else {
                Side::Responder
            };
            let step = if !tcp {
                life.datagram(side);
                Step::Pass
            } else if stage == Stage::Established && plain(sight.flags) {
                entry.expected[side as usize] = sight.acknowledged;
                Step::Pass
            } else if life.doubts(sight.flags, sequence, entry.expected[1 - side as usize]) {
                Step::Doubtful
            } else {
                if acknowledges(sight.flags) {
                    entry.expected[side as usize] = sight.acknowledged;
                }
                life.segment(side, sight.flags)
            };
            match step {
                Step::Pass | Step::Doubtful => {
                    entry.stage = life.stage as u8;
                    entry.marks = life.marks;
                    entry.deadline = if step == Step::Pass {
                        clock.deadline(now, life.stage)
                    } else {
                        clock.doubted(now, entry.deadline)
                    };
                    let up = entry.inspected == 1 && side == Side::Originator;
                    return if up { Known::Inspect } else { Known::Pass };
                }
                Step::Invalid => return Known::Invalid,
                Step::Again => {}
            }
        }
        let begins = !tcp || opens(sight.flags) || (loose && midway(sight.flags));
        if begins { Known::New } else { Known::Invalid }
    }

    /// Whether a flow is known, and if so whether it is inspected, without moving it: for what ICMP
    /// errors quote.
    pub(crate) fn knows(&self, hash: u64, key: &K, now: u32, clock: &Clock) -> Option<bool> {
        let entry = self.map.find(hash, key).filter(|entry| clock.alive(now, entry.deadline));
        entry.map(|entry| entry.inspected == 1)
    }

    /// Remembers a flow that the rules allow, or have inspected. False when there is no room.
    pub(crate) fn open(
        &mut self,
        sight: &Sight<K>,
        hash: u64,
        now: u32,
        clock: &Clock,
        inspected: bool,
    ) -> bool {
        let stage = match sight.protocol {
            protocol::TCP if opens(sight.flags) => Stage::SynSent,
            protocol::TCP => Stage::Midway,
            protocol::UDP => Stage::Udp,
            protocol::ICMP | protocol::ICMPV6 => Stage::Icmp,
            _ => Stage::Generic,
        };
        let life = Life::begin(stage);
        let entry = Entry {
            deadline: clock.deadline(now, stage),
            stage: stage as u8,
            marks: life.marks,
            swapped: sight.swapped.into(),
            inspected: inspected.into(),
            expected: [0; 2],
        };
        if self.map.insert(hash, sight.key, entry).is_ok() {
            return true;
        }
        if self.map.retain_near(hash, |_, entry| clock.alive(now, entry.deadline)) == 0 {
            self.give_one_up(hash, now, clock);
        }
        self.map.insert(hash, sight.key, entry).is_ok()
    }

    /// Forgets a flow near this hash that is not under way, if there is one: the one that has been
    /// silent for longest. Those who send nothing but first packets must not keep others out.
    #[cold]
    fn give_one_up(&mut self, hash: u64, now: u32, clock: &Clock) {
        let ended = self.map.evict_near(hash, |_, entry| {
            let stage = Stage::from_number(entry.stage)?;
            let life = Life { stage, marks: entry.marks };
            let silence = clock.silence(now, entry.deadline, stage);
            (!life.is_under_way()).then_some(Reverse(silence))
        });
        self.given_up.add(ended.into());
    }

    /// Forgets flows whose time is over, a few at a time. Shortens that of those that were given
    /// more than they get by now: shorter timeouts hold for flows that are silent, too.
    pub(crate) fn sweep(&mut self, now: u32, clock: &Clock) {
        if self.map.is_empty() {
            return;
        }
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % self.map.slots();
        let next = self.map.sweep(from, SWEEP, |_, entry| {
            let alive = clock.alive(now, entry.deadline);
            if let Some(stage) = Stage::from_number(entry.stage).filter(|_| alive) {
                entry.deadline = clock.shortened(now, entry.deadline, stage);
            }
            alive
        });
        self.cursor[0] = next as u64;
    }
}
