//! Telling the packets of a station apart: rules for new flows, a flow cache for known ones, and
//! what functions decided about them.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_layout::{BURST_MAX, Verdict};
use weir_pool::Packet;
use weir_steering::{FlowCache, Key, Table, Target, quoted};

use crate::context::{Conclusion, Context, Decision, FROM, TO};
use crate::counters::DropReason;
use crate::plan::FunctionPlan;

/// Steering rules as one station needs them.
#[derive(Debug)]
pub struct Rules {
    /// Rules that concern this station's ports and chains.
    pub table: Table,
    /// Names of the lanes that [`Target::Chain`] counts, whether they are here or not: what is for
    /// one that is not is dropped.
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
    /// From the kernel's stack out, past all chains.
    Answer,
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
const ANSWER: u16 = 0xfffc;
const NO_CHAIN: u16 = 0xfffb;
/// A packet of the burst whose way was taken.
const TAKEN: u16 = 0xfff0;
/// A code point that no packet has: of the key under which an ICMP packet is known once it was
/// looked into.
const LOOKED_INTO: u8 = 0x80;
/// Maximum number of verdicts for whole flows that are told apart; others count for their packet
/// only.
const FINALS_MAX: usize = 4096;

/// See the module.
pub(crate) struct Steering {
    rules: Arc<Rules>,
    /// Lanes by the rules' numbers of chains.
    chains: Vec<Option<u16>>,
    /// The lane that gets what no rule claims.
    rest: Option<u16>,
    /// Names of lanes, and whether they have to do with the kernel's stack.
    lanes: Vec<(String, bool)>,
    cache: FlowCache,
    /// Whose the kernel's answers are: they go back the way by which the flow's last packet went
    /// up, whatever has been decided about flows since. There if one of the ports is the kernel's
    /// stack.
    answers: Option<FlowCache>,
    /// Flows that functions have moved, as [`Key::plain`] has them. What the other cache does not
    /// know is looked for here once one was, and so are all ICMP errors: their key says nothing of
    /// the flow that they are about.
    moves: FlowCache,
    /// One was.
    has_moves: bool,
    finals: Vec<Final>,
    /// What is known about flows is not to be believed any more, once the burst is done with.
    stale: bool,
    /// Of the burst: by packet.
    keys: Vec<Key>,
    hashes: Vec<u64>,
    ways: Vec<weir_steering::FlowRoute>,
    /// Packets of the burst that go one way together.
    places: Vec<u32>,
    /// Room for a burst.
    pub(crate) aside: Vec<Packet>,
}

impl Steering {
    /// `kernel`: whether one of the ports is the kernel's stack.
    pub(crate) fn new(flows: usize, seed: u64, kernel: bool) -> Self {
        let cache = FlowCache::new(flows, seed);
        Self {
            lanes: Vec::new(),
            answers: kernel.then(|| FlowCache::new(flows, seed.rotate_left(32))),
            rules: Arc::default(),
            chains: Vec::new(),
            rest: None,
            moves: cache.another(),
            cache,
            has_moves: false,
            finals: Vec::new(),
            stale: false,
            keys: Vec::with_capacity(BURST_MAX),
            hashes: Vec::with_capacity(BURST_MAX),
            ways: Vec::with_capacity(BURST_MAX),
            places: Vec::with_capacity(BURST_MAX),
            aside: Vec::with_capacity(BURST_MAX),
        }
    }

    /// Other rules, or other lanes: `lanes` are their names and whether they go up to the kernel's
    /// stack, `rest` the one that takes what is left.
    pub(crate) fn arrange(
        &mut self,
        rules: Arc<Rules>,
        lanes: Vec<(String, bool)>,
        rest: Option<usize>,
    ) {
        if let Some(answers) = &mut self.answers
            && !lanes.starts_with(&self.lanes)
        {
            // Numbers mean other lanes.
            answers.clear();
        }
        let number = |name: &String| lanes.iter().position(|(lane, _)| lane == name);
        self.chains = rules.chains.iter().map(|name| number(name).map(code)).collect();
        self.rest = rest.map(code);
        self.lanes = lanes;
        self.rules = rules;
        self.forget();
    }

    /// Forgets all flows, once the burst is done with: until then the ways of its packets are
    /// needed.
    pub(crate) fn forget_later(&mut self) {
        self.stale = true;
    }

    /// Forgets all flows if that was put off, and says whether. Between two bursts.
    #[inline]
    pub(crate) fn forget_if_stale(&mut self) -> bool {
        let stale = self.stale;
        if stale {
            self.forget();
        }
        stale
    }

    fn forget(&mut self) {
        self.stale = false;
        self.cache.clear();
        self.moves.clear();
        self.finals.clear();
    }

    /// Finds the way of each packet of the context's burst.
    pub(crate) fn classify(&mut self, context: &Context) {
        self.keys.clear();
        self.hashes.clear();
        self.ways.clear();
        if context.is_kernels()
            && let Some(answers) = self.answers.take()
        {
            self.classify_answers(context, &answers);
            self.answers = Some(answers);
            return;
        }
        for packet in &context.burst {
            let frame = context.pool.bytes(packet.descriptor).unwrap_or_default();
            let key = Key::read(frame, packet.metadata.port);
            self.hashes.push(self.cache.hash(&key));
            self.keys.push(key);
        }
        self.cache.look_ahead(&self.hashes);
        for place in 0..self.keys.len() {
            let way = self.cache.get(&self.keys[place], self.hashes[place]);
            let way = way.unwrap_or_else(|| self.ask(place, context));
            self.ways.push(way);
        }
    }

    /// The same for what the kernel sends.
    fn classify_answers(&mut self, context: &Context, answers: &FlowCache) {
        for packet in &context.burst {
            let frame = context.pool.bytes(packet.descriptor).unwrap_or_default();
            let key = Key::read(frame, packet.metadata.port);
            let plain = plain(key);
            let hash = answers.hash(&plain);
            let way = answers.get(&plain, hash);
            self.ways.push(way.unwrap_or_else(|| self.way_of_question(&key)));
            self.hashes.push(hash);
            self.keys.push(plain);
        }
    }

    /// Where the kernel's packet goes if nothing came before it: as what it could be the answer to,
    /// in reverse.
    #[cold]
    fn way_of_question(&self, answer: &Key) -> weir_steering::FlowRoute {
        let goes_up = |lane: &u16| self.lanes.get(usize::from(*lane)).is_some_and(|lane| lane.1);
        let target = match self.rules.table.classify(&answer.reversed(FROM as u16)) {
            Some((_, Target::Kernel)) => ANSWER,
            Some((_, Target::Drop)) => STEERED_AWAY,
            Some((_, Target::Chain(n))) => {
                let lane = self.chains.get(usize::from(n)).copied().flatten();
                lane.filter(goes_up).unwrap_or(ANSWER)
            }
            None => {
                let first = || self.lanes.iter().position(|lane| lane.1).map(code);
                self.rest.filter(goes_up).or_else(first).unwrap_or(ANSWER)
            }
        };
        weir_steering::FlowRoute { target, skip: 0 }
    }

    /// Packets of these flows went up to the kernel: from this lane, which sees the answers too, or
    /// without any.
    pub(crate) fn note_answers(&mut self, flows: &mut Vec<Key>, lane: Option<usize>) {
        let lane = lane.filter(|lane| self.lanes.get(*lane).is_some_and(|lane| lane.1));
        let target = lane.map_or(ANSWER, code);
        for key in flows.drain(..) {
            if let Some(answers) = &mut self.answers {
                let key = plain(key);
                let hash = answers.hash(&key);
                answers.insert(&key, hash, weir_steering::FlowRoute { target, skip: 0 });
            }
        }
    }

    /// Whether all packets come in, whatever what is before the ports decides: it goes by the
    /// rules, which may lead elsewhere.
    pub(crate) fn all_come(&self) -> bool {
        self.rest.is_some() && self.rules.is_empty()
    }

    /// The way of a packet that nothing is known about.
    #[cold]
    fn ask(&mut self, place: usize, context: &Context) -> weir_steering::FlowRoute {
        if self.keys[place].is_icmp() && (self.has_moves || !self.rules.is_empty()) {
            if let Some(way) = self.ask_for_quoted(place, context) {
                return way;
            }
            let (key, hash) = (&mut self.keys[place], self.hashes[place]);
            key.dscp |= LOOKED_INTO;
            if let Some(known) = self.cache.get(key, hash) {
                return known;
            }
        }
        let (key, hash) = (&self.keys[place], self.hashes[place]);
        let moved = self.moved(&key.plain(), hash);
        if let Some(way) = moved {
            self.cache.insert(key, hash, way);
            return way;
        }
        self.ask_rules(place)
    }

    /// The way of an ICMP error: that of the flow that it quotes, if this was moved, or if no rule
    /// means the error itself and one means that flow. Not remembered, because the packet's key
    /// says nothing of it.
    fn ask_for_quoted(&self, place: usize, context: &Context) -> Option<weir_steering::FlowRoute> {
        let packet = &context.burst[place];
        let frame = context.pool.bytes(packet.descriptor).unwrap_or_default();
        let flow = quoted(frame, packet.metadata.port)?;
        let moved = self.moved(&flow, self.moves.hash(&flow));
        if moved.is_some() {
            return moved;
        }
        let key = &self.keys[place];
        if self.rules.table.classify(key).is_some() {
            return None;
        }
        let (_, target) =
            self.rules.table.classify(&Key { dscp: key.dscp, macs: key.macs, ..flow })?;
        Some(weir_steering::FlowRoute { target: self.code_of(target), skip: 0 })
    }

    /// Where a function has moved a flow.
    fn moved(&self, flow: &Key, hash: u64) -> Option<weir_steering::FlowRoute> {
        if self.has_moves { self.moves.get(flow, hash) } else { None }
    }

    /// Where a rule leads. What is for a chain that is not here is nobody else's.
    fn code_of(&self, target: Target) -> u16 {
        match target {
            Target::Chain(n) => {
                self.chains.get(usize::from(n)).copied().flatten().unwrap_or(NO_CHAIN)
            }
            Target::Kernel => KERNEL,
            Target::Drop => STEERED_AWAY,
        }
    }

    /// The way of a flow by the rules.
    fn ask_rules(&mut self, place: usize) -> weir_steering::FlowRoute {
        let target = match self.rules.table.classify(&self.key(place as u32)) {
            Some((rule, target)) => {
                if let Some(hits) = self.rules.hits.get(rule as usize) {
                    hits.fetch_add(1, Ordering::Relaxed);
                }
                self.code_of(target)
            }
            None => self.rest.unwrap_or(UNCLAIMED),
        };
        let way = weir_steering::FlowRoute { target, skip: 0 };
        self.cache.insert(&self.keys[place], self.hashes[place], way);
        way
    }

    /// The way that all packets of the burst have, if it is one.
    pub(crate) fn only_way(&self) -> Option<Way> {
        let first = *self.ways.first()?;
        self.ways.iter().all(|way| *way == first).then(|| self.decode(first))
    }

    /// A way that packets of the burst have to go and have not gone yet; [`Self::places`] are those
    /// packets.
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

    fn decode(&self, way: weir_steering::FlowRoute) -> Way {
        let destination = match way.target {
            KERNEL => Destination::Kernel,
            STEERED_AWAY => Destination::Dropped(DropReason::Steering),
            UNCLAIMED => Destination::Dropped(DropReason::Unclaimed),
            NO_CHAIN => Destination::Dropped(DropReason::NoChain),
            ANSWER => Destination::Answer,
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
                Some(weir_steering::FlowRoute { skip: way.skip | passed, ..way })
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
                alone.then_some(weir_steering::FlowRoute { target: FINALS + number, skip: 0 })
            });
        }
    }

    /// Changes the way of a flow that goes to this lane.
    fn change(
        &mut self,
        flow: u32,
        lane: usize,
        change: impl FnOnce(weir_steering::FlowRoute) -> Option<weir_steering::FlowRoute>,
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

    /// The key of a flow of the burst.
    pub(crate) fn key(&self, flow: u32) -> Key {
        let key = self.keys[flow as usize];
        Key { dscp: key.dscp & !LOOKED_INTO, ..key }
    }

    /// A function moved this flow, in both directions.
    pub(crate) fn move_flow(&mut self, key: &Key, to: Destination) {
        let target = match to {
            Destination::Lane(lane) => code(lane),
            _ => KERNEL,
        };
        if !mem::replace(&mut self.has_moves, true) {
            // It has ICMP packets that nobody looked into.
            self.cache.clear();
        }
        let moves = &mut self.moves;
        let key = key.plain();
        for key in [key, key.reversed(other_port(key.port))] {
            let hash = moves.hash(&key);
            self.cache.forget(&key, hash);
            moves.insert(&key, hash, weir_steering::FlowRoute { target, skip: 0 });
        }
    }
}

/// The port by which a flow's other direction comes in.
pub(crate) const fn other_port(port: u16) -> u16 {
    if port as usize == FROM { TO as u16 } else { FROM as u16 }
}

/// What tells the kernel's answers apart: not its code point, nor whose hardware addresses it has
/// found, be it by ARP.
const fn plain(key: Key) -> Key {
    Key { macs: [[0; 6]; 2], ..key.plain() }
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
