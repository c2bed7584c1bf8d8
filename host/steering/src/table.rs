//! Tuple space search (Srinivasan, Suri, Varghese, SIGCOMM 1999): rules that look at the same bits
//! of a key lie in one hash table under those bits. Tables are visited in the order of their first
//! rule, and no further than the first rule that was found.
//!
//! As Open vSwitch does (Pfaff et al., NSDI 2015), a table is passed over when the packet's
//! addresses begin like no rule's prefix of that length. Ranges of ports are looked at behind the
//! hash ([`Ranges`]).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use crate::Key;
use crate::hash::Fold;
use crate::lengths::Lengths;
use crate::pattern::patterns;
use crate::ranges::{Range, Ranges};
use crate::rule::{Rule, Target};

/// Bits of a key, or which of them count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits([u64; 7]);

impl Bits {
    pub(crate) fn of(key: &Key) -> Self {
        Self(key.words())
    }

    #[inline]
    pub(crate) fn masked(self, mask: Self) -> Self {
        Self(std::array::from_fn(|n| self.0[n] & mask.0[n]))
    }
}

impl Hash for Bits {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for pair in self.0.chunks(2) {
            state.write_u128(u128::from(pair[0]) << 64 | u128::from(*pair.last().unwrap_or(&0)));
        }
    }
}

/// Number of a rule that is none.
const NONE: u32 = u32::MAX;

/// Rules that look at the same bits, and find the same there.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The first of those that look at no range of ports.
    first: u32,
    /// Those that do: an index of [`Table::ranges`].
    ranges: u32,
}

/// Rules that look at the same bits.
#[derive(Debug)]
struct Tuple {
    /// The first of them.
    first: u32,
    mask: Bits,
    cells: HashMap<Bits, Cell, Fold>,
}

/// Tuples whose prefixes are as long.
#[derive(Debug)]
struct Group {
    /// The first rule of all.
    first: u32,
    /// Bits of source and destination address; 0: no matter which.
    lengths: (u32, u32),
    /// By their first rule.
    tuples: Vec<Tuple>,
}

/// Rules, compiled: finds the first that means a packet.
#[derive(Debug)]
pub struct Table {
    targets: Vec<Target>,
    sources: Lengths,
    destinations: Lengths,
    /// By their first rule.
    groups: Vec<Group>,
    ranges: Vec<Ranges>,
}

/// Cells of a tuple while rules are read.
type Cells = HashMap<Bits, Pending, Fold>;

struct Pending {
    first: u32,
    ranges: Vec<Range>,
}

impl Table {
    /// Compiles rules; the first that means a packet decides.
    ///
    /// # Panics
    /// With more than 4,294,967,294 rules.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let hasher = Fold::random();
        let (mut sources, mut destinations) = (Lengths::new(hasher), Lengths::new(hasher));
        let mut groups: HashMap<(u32, u32), HashMap<Bits, Cells, Fold>> = HashMap::new();
        for (number, rule) in rules.iter().enumerate() {
            let number = u32::try_from(number).ok().filter(|n| *n != NONE).expect("as said");
            let lengths = (sources.add(rule.source), destinations.add(rule.destination));
            let tuples = groups.entry(lengths).or_insert_with(|| HashMap::with_hasher(hasher));
            for pattern in patterns(rule) {
                let cells = || HashMap::with_hasher(hasher);
                let cells = tuples.entry(Bits::of(&pattern.mask)).or_insert_with(cells);
                let pending = || Pending { first: NONE, ranges: Vec::new() };
                let cell = cells.entry(Bits::of(&pattern.bits)).or_insert_with(pending);
                // What comes behind a rule that takes all is never reached.
                match pattern.ports {
                    _ if cell.first != NONE => {}
                    Some((source, destination)) => {
                        cell.ranges.push(Range { source, destination, rule: number });
                    }
                    None => cell.first = number,
                }
            }
        }
        let mut ranges = Vec::new();
        let groups = groups.into_iter().map(|(lengths, tuples)| {
            let tuples =
                tuples.into_iter().map(|(mask, cells)| Tuple::new(mask, cells, &mut ranges));
            let mut tuples: Vec<_> = tuples.collect();
            tuples.sort_unstable_by_key(|tuple| tuple.first);
            let first = tuples.first().map_or(NONE, |tuple| tuple.first);
            Group { first, lengths, tuples }
        });
        let mut groups: Vec<_> = groups.collect();
        groups.sort_unstable_by_key(|group| group.first);
        let targets = rules.iter().map(|rule| rule.target).collect();
        Self { targets, sources, destinations, groups, ranges }
    }

    /// The first rule that means a packet: its number, and where it sends it.
    #[must_use]
    pub fn classify(&self, key: &Key) -> Option<(u32, Target)> {
        let bits = Bits::of(key);
        let sources = self.sources.of(key.source);
        let destinations = self.destinations.of(key.destination);
        let mut found = NONE;
        for group in &self.groups {
            if group.first >= found {
                break;
            }
            if !sources.has(group.lengths.0) || !destinations.has(group.lengths.1) {
                continue;
            }
            for tuple in &group.tuples {
                if tuple.first >= found {
                    break;
                }
                let Some(cell) = tuple.cells.get(&bits.masked(tuple.mask)) else { continue };
                found = found.min(cell.first);
                if let Some(ranges) = self.ranges.get(cell.ranges as usize) {
                    let first = ranges.first(key.source_port, key.destination_port);
                    found = found.min(first.unwrap_or(NONE));
                }
            }
        }
        Some((found, *self.targets.get(found as usize)?))
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Different sets of bits that rules look at: on it depends how long a search takes.
    #[must_use]
    pub fn tuples(&self) -> usize {
        self.groups.iter().map(|group| group.tuples.len()).sum()
    }

    /// Bytes that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tuples = self.groups.iter().flat_map(|group| &group.tuples);
        let cells = tuples
            .map(|t| size_of::<Tuple>() + t.cells.capacity() * (size_of::<(Bits, Cell)>() + 1));
        let ranges = self.ranges.iter().map(|ranges| size_of::<Ranges>() + ranges.bytes());
        let lengths = [&self.sources, &self.destinations].map(Lengths::bytes);
        self.targets.len() * size_of::<Target>() + cells.chain(ranges).chain(lengths).sum::<usize>()
    }
}

impl Tuple {
    fn new(mask: Bits, cells: Cells, ranges: &mut Vec<Ranges>) -> Self {
        let mut first = NONE;
        let hasher = *cells.hasher();
        let mut done = HashMap::with_capacity_and_hasher(cells.len(), hasher);
        for (bits, pending) in cells {
            let with_ports = pending.ranges.first().map_or(NONE, |range| range.rule);
            first = first.min(pending.first).min(with_ports);
            let mut cell = Cell { first: pending.first, ranges: NONE };
            if with_ports != NONE {
                cell.ranges = ranges.len() as u32;
                ranges.push(Ranges::new(pending.ranges));
            }
            done.insert(bits, cell);
        }
        Self { first, mask, cells: done }
    }
}
