//! Telling the packets of a station apart: rules for new flows, a flow cache for known ones, and what functions decided about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_layout::{BURST_MAX, Verdict};
use weir_pool::Packet;
use weir_steering::{FlowCache, Key, Table, Target};

use crate::context::{Conclusion, Context, Decision, TO};
use crate::counters::DropReason;
use crate::plan::FunctionPlan;

/// Steering rules as one station needs them.
#[derive(Debug)]
pub struct Rules {
    /// Rules that concern this station's ports and chains.
    pub table: Table,
    /// Names of the lanes that [`Target::Chain`] counts.
    pub chains: Vec<String>,
    /// For each rule of the table, how many flows it has decided about.
    pub hits: Vec<Arc<AtomicU64>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { table: Table::new(&[]), chains: Vec::new(), hits: Vec::new() }
    }
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

/// Where packets go, and which functions (bits) do not see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) destination: Destination,
    pub(crate) skip: u64,
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To the station's lane with this number.
    Lane(usize),
    /// A function has decided for the whole flow.
    Final(Final),
    /// To the kernel's stack.
    Kernel,
    /// Nowhere.
    Dropped(DropReason),
}

/// A verdict for a whole flow, and the lane whose function gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Final {
    pub(crate) lane: usize,
    pub(crate) verdict: Verdict,
}

/// Codes of destinations in the flow cache; below are lanes.
const FINALS: u16 = 0x8000;
const KERNEL: u16 = 0xffff;
const STEERED_AWAY: u16 = 0xfffe;
const UNCLAIMED: u16 = 0xfffd;
/// A packet of the burst whose way was taken.
const TAKEN: u16 = 0xfff0;
/// Most verdicts for whole flows that are told apart; others count for their packet only.
const FINALS_MAX: usize = 4096;

/// See the module.
pub(crate) struct Steering {
    rules: Arc<Rules>,
    /// Lanes by the rules' numbers of chains.
    chains: Vec<Option<u16>>,
    /// The lane that gets what no rule claims.
    rest: Option<u16>,
    cache: FlowCache,
    finals: Vec<Final>,
    /// Of the burst: by packet.
    keys: Vec<Key>,
    hashes: Vec<u64>,
    ways: Vec<weir_steering::Way>,
    /// Packets of the burst that go one way together.
    places: Vec<u32>,
    /// Room for a burst.
    pub(crate) aside: Vec<Packet>,
}

impl Steering {
    pub(crate) fn new(flows: usize, seed: u64) -> Self {
        Self {
            rules: Arc::default(),
            chains: Vec::new(),
            rest: None,
            cache: FlowCache::new(flows, seed),
            finals: Vec::new(),
            keys: Vec::with_capacity(BURST_MAX),
            hashes: Vec::with_capacity(BURST_MAX),
            ways: Vec::with_capacity(BURST_MAX),
            places: Vec::with_capacity(BURST_MAX),
            aside: Vec::with_capacity(BURST_MAX),
        }
    }

    /// Other rules, or other lanes: `lanes` are their names, `rest` the one that takes what is left.
    pub(crate) fn arrange(&mut self, rules: Arc<Rules>, lanes: &[&str], rest: Option<usize>) {
        let number = |name: &String| lanes.iter().position(|lane| lane == name);
        self.chains = rules.chains.iter().map(|name| number(name).map(code)).collect();
        self.rest = rest.map(code);
        self.rules = rules;
        self.forget();
    }

    /// Forgets all flows.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
        self.finals.clear();
    }

    /// Finds the way of each packet of the context's burst.
    pub(crate) fn classify(&mut self, context: &Context) {
        self.keys.clear();
        self.hashes.clear();
        self.ways.clear();
        for packet in &context.burst {
            let frame = context.pool.bytes(packet.descriptor).unwrap_or_default();
            let key = Key::read(frame, packet.metadata.port);
            self.hashes.push(self.cache.hash(&key));
            self.keys.push(key);
        }
        self.cache.look_ahead(&self.hashes);
        for place in 0..self.keys.len() {
            let way = self.cache.get(&self.keys[place], self.hashes[place]);
            let way = way.unwrap_or_else(|| self.ask_rules(place));
            self.ways.push(way);
        }
    }

    /// The way of a flow that nothing is known about.
    #[cold]
    fn ask_rules(&mut self, place: usize) -> weir_steering::Way {
        let key = &self.keys[place];
        let target = match self.rules.table.classify(key) {
            Some((rule, target)) => {
                if let Some(hits) = self.rules.hits.get(rule as usize) {
                    hits.fetch_add(1, Ordering::Relaxed);
                }
                match target {
                    Target::Chain(n) => self.chains.get(usize::from(n)).copied().flatten(),
                    Target::Kernel => Some(KERNEL),
                    Target::Drop => Some(STEERED_AWAY),
                }
            }
            None => self.rest,
        };
        let way = weir_steering::Way { target: target.unwrap_or(UNCLAIMED), skip: 0 };
        self.cache.insert(key, self.hashes[place], way);
        way
    }

    /// The way that all packets of the burst have, if it is one.
    pub(crate) fn only_way(&self) -> Option<Way> {
        let first = *self.ways.first()?;
        self.ways.iter().all(|way| *way == first).then(|| self.decode(first))
    }

    /// A way that packets of the burst have to go and have not gone yet; [`Self::places`] are those packets.
    pub(crate) fn next_way(&mut self) -> Option<Way> {
        let first = self.ways.iter().position(|way| way.target != TAKEN)?;
        let way = self.ways[first];
        self.places.clear();
        for (place, other) in self.ways.iter_mut().enumerate().skip(first) {
            if *other == way {
                other.target = TAKEN;
                self.places.push(place as u32);
            }
        }
        Some(self.decode(way))
    }

    /// See [`Self::next_way`].
    pub(crate) fn places(&self) -> &[u32] {
        &self.places
    }

    fn decode(&self, way: weir_steering::Way) -> Way {
        let destination = match way.target {
            KERNEL => Destination::Kernel,
            STEERED_AWAY => Destination::Dropped(DropReason::Steering),
            UNCLAIMED => Destination::Dropped(DropReason::Unclaimed),
            target if target < FINALS => Destination::Lane(usize::from(target)),
            target => Destination::Final(self.finals[usize::from(target - FINALS)]),
        };
        Way { destination, skip: way.skip }
    }

    /// Remembers what a lane's functions decided about flows of the burst.
    pub(crate) fn conclude(
        &mut self,
        lane: usize,
        functions: &[FunctionPlan],
        reverse: bool,
        conclusions: &[Conclusion],
    ) {
        let may = functions.iter().rev().fold(0, |bits, f| bits << 1 | u64::from(f.flow_verdicts));
        // First who lets flows pass: only then can a verdict be for the whole flow.
        for Conclusion { flow, decision } in conclusions {
            let Decision::Pass(passed) = *decision else { continue };
            let passed = passed & may;
            self.change(*flow, lane, |way| {
                Some(weir_steering::Way { skip: way.skip | passed, ..way })
            });
        }
        for Conclusion { flow, decision } in conclusions {
            let Decision::Verdict(function, verdict) = *decision else { continue };
            if may & 1 << function == 0 {
                continue;
            }
            let before = before(function, functions.len(), reverse);
            let Some(number) = self.number(Final { lane, verdict }) else { continue };
            self.change(*flow, lane, |way| {
                let alone = way.skip & before == before;
                alone.then_some(weir_steering::Way { target: FINALS + number, skip: 0 })
            });
        }
    }

    /// Changes the way of a flow that goes to this lane.
    fn change(
        &mut self,
        flow: u32,
        lane: usize,
        change: impl FnOnce(weir_steering::Way) -> Option<weir_steering::Way>,
    ) {
        let (key, hash) = (self.keys[flow as usize], self.hashes[flow as usize]);
        let Some(way) = self.cache.get(&key, hash) else { return };
        if way.target == code(lane)
            && let Some(way) = change(way)
        {
            self.cache.insert(&key, hash, way);
        }
    }

    /// The number of a verdict for whole flows.
    fn number(&mut self, verdict: Final) -> Option<u16> {
        let known = self.finals.iter().position(|other| *other == verdict);
        let number = known.unwrap_or(self.finals.len());
        if number >= FINALS_MAX {
            return None;
        }
        if known.is_none() {
            self.finals.push(verdict);
        }
        Some(code(number))
    }

    /// A function moved this flow of the burst, in both directions; the answer is its key.
    pub(crate) fn move_flow(&mut self, flow: u32, to: Destination) -> Key {
        let key = self.keys[flow as usize];
        let target = match to {
            Destination::Lane(lane) => code(lane),
            _ => KERNEL,
        };
        let other = key.reversed(u16::from(usize::from(key.port) != TO));
        for key in [key, other] {
            let hash = self.cache.hash(&key);
            self.cache.insert(&key, hash, weir_steering::Way { target, skip: 0 });
        }
        key
    }
}

/// A lane's number, or that of a verdict: there are fewer than [`FINALS`] of either.
fn code(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX).min(FINALS - 1)
}

/// The functions, as bits, that a packet passes before this one.
fn before(function: usize, functions: usize, reverse: bool) -> u64 {
    let all = u64::MAX >> (64 - functions);
    let up_to = (1u64 << function) - 1;
    if reverse { all & !up_to & !(1 << function) } else { up_to }
}

#[cfg(test)]
mod tests {
    use super::before;

    #[test]
    fn functions_before_are_those_the_packet_passes_first() {
        assert_eq!(before(0, 3, false), 0b000);
        assert_eq!(before(2, 3, false), 0b011);
        assert_eq!(before(2, 3, true), 0b000);
        assert_eq!(before(0, 3, true), 0b110);
        assert_eq!(before(63, 64, false), u64::MAX >> 1);
        assert_eq!(before(0, 64, true), u64::MAX << 1);
    }
}
