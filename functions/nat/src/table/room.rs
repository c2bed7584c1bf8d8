//! Making room: flows that have ended, and those that are given up for others.
//!
//! Owns: which flows go, and how many are looked at for that. Must not know: packets.

use weir_sdk::flow::FlowV4;

use super::life::timeout_unless_under_way;
use super::ports::Pool;
use super::{Flow, NoFlow, Table, protocol_place};

/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;
/// Slots looked at in a burst when there is no room, for flows that have ended and for those that
/// may be given up: some 10 µs each.
pub(super) const SWEEP_MAX: usize = 2048;

/// Something that may find no room; it is told of a port that is free.
type Attempt<'a, T> = dyn FnMut(&mut Table, Option<u16>) -> Result<T, NoFlow> + 'a;

impl Table {
    /// Ends flows whose time is over, a few at a time. Call it once for each burst, with its time
    /// in nanoseconds and in seconds.
    #[inline]
    pub(crate) fn sweep(&mut self, nanos: u64, now: u32) {
        if nanos.wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = nanos;
            self.sweep_slots(SWEEP, now);
            self.show_flows();
        }
        (self.patience, self.generosity) = (SWEEP_MAX, SWEEP_MAX);
    }

    /// Tries once more when there was no room and some could be made: of flows whose time is over,
    /// or of one that is not under way. The attempt is told which port that one had, if a port was
    /// asked for: to look for a single free one takes long.
    #[cold]
    pub(super) fn try_again<T>(
        &mut self,
        why: NoFlow,
        now: u32,
        attempt: &mut Attempt<'_, T>,
    ) -> Result<T, NoFlow> {
        let mut tried = Err(why);
        if self.make_room(now) {
            tried = attempt(self, None);
        }
        match tried {
            Err(NoFlow::Flows) if self.give_one_up(now, None).is_some() => attempt(self, None),
            // Before that it is not known how many are in use.
            Err(NoFlow::Ports(pool)) if self.is_counted(pool) => {
                match self.give_one_up(now, Some(pool)) {
                    Some(port) => attempt(self, Some(port)),
                    None => tried,
                }
            }
            tried => tried,
        }
    }

    /// Looks further for flows whose time is over, because there is no room; whether it found some.
    #[cold]
    fn make_room(&mut self, now: u32) -> bool {
        let count = self.patience.min(self.flows.slots());
        self.patience -= count;
        self.sweep_slots(count, now) > 0
    }

    /// Looks at so many slots, at most all; the number of flows that it ended.
    fn sweep_slots(&mut self, count: usize, now: u32) -> usize {
        let slots = self.flows.slots();
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % slots;
        let (mut slot, mut ended) = (from, 0);
        for _ in 0..count {
            let expired =
                self.flows.at(slot).filter(|(_, flow)| flow.expires <= now).map(|(k, _)| *k);
            if let Some(key) = expired {
                self.close(self.hasher.hash(&key), &key);
                ended += 1;
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }
        self.cursor[0] = slot as u64;
        ended
    }

    /// Ends a flow that is not under way, for another: of the slots that are looked at together,
    /// the one that has been silent for longest. Who sends nothing but first packets must not keep
    /// others out. With a pool, it is one with whose end a port of that is free. The port that it
    /// had, if there was one.
    fn give_one_up(&mut self, now: u32, pool: Option<Pool>) -> Option<u16> {
        let slots = self.flows.slots();
        while self.generosity > 0 {
            let count = SWEEP.min(self.generosity);
            self.generosity -= count;
            let from = usize::try_from(self.cursor[0]).unwrap_or(0) % slots;
            let looked_at = (from..from + count).map(|slot| slot % slots);
            let idle = looked_at.filter_map(|slot| {
                let (key, flow) = self.flows.at(slot)?;
                let timeout = timeout_unless_under_way(flow, key.protocol(), &self.timeouts)?;
                let silence = timeout.saturating_sub(flow.expires.saturating_sub(now));
                let wanted = pool.is_none_or(|pool| self.frees(key, flow, pool));
                wanted.then_some((silence, *key, flow.port))
            });
            let longest = idle.max_by_key(|(silence, ..)| *silence);
            self.cursor[0] = ((from + count) % slots) as u64;
            if let Some((_, key, port)) = longest {
                self.close(self.hasher.hash(&key), &key);
                self.given_up.add(1);
                return Some(port);
            }
        }
        None
    }

    /// Whether a port of the pool is free when this flow ends.
    fn frees(&self, key: &FlowV4, flow: &Flow, pool: Pool) -> bool {
        usize::from(flow.external) == pool.external
            && protocol_place(key.protocol()) == Some(pool.place)
            && self.may_be_given_out(flow.port)
            && self.mapping(pool.external, pool.place, flow.port).flows == 1
    }
}
