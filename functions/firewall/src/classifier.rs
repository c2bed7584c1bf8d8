//! Finds the first rule that matches a packet, at a cost that hardly depends on the number of
//! rules.
//!
//! Owns: the compiled rules of one address family. Must not know: packets, actions, flows; a rule
//! is a number, and the lowest number that matches wins.
//!
//! Two stages, because addresses and ports want different structures:
//!
//! 1. Addresses: tuple space search (Srinivasan, Suri, Varghese, "Packet Classification using Tuple
//!    Space Search", SIGCOMM 1999) with its tuple pruning. One search for the source and one for
//!    the destination give the nested prefixes that hold each address; only pairs of those can
//!    match, and of them only pairs whose prefix lengths occur together and whose best rule is
//!    better than what was found. Each is one probe of a hash table, whose entry is the group of
//!    rules with exactly these two prefixes. Memory is linear in the rules.
//! 2. Ports, protocol, direction: a group larger than a handful is a binary decision tree (Gupta
//!    and McKeown, "HiCuts", Hot Interconnects 1999; binary cuts at rule boundaries as in Qi et
//!    al., "HyperSplit", INFOCOM 2009) with a fixed budget for copied rules.
//!
//! Worst cases, which only who writes the rules can make: every nesting depth of both addresses in
//! use together (33 x 33 probes), and a group of rules that overlap so much in all four fields that
//! the budget ends: its leaves are then scanned.

mod groups;
mod prefixes;

use std::collections::HashMap;

pub(crate) use groups::Fields;
use groups::{Entry, Groups};
pub(crate) use prefixes::{Address, Prefix};
use prefixes::{Node, Prefixes};

/// No rule.
pub(crate) const NO_RULE: u32 = u32::MAX;

/// A part of the header space that belongs to a rule; a rule may have several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area<A> {
    /// Source addresses.
    pub(crate) src: Prefix<A>,
    /// Destination addresses.
    pub(crate) dst: Prefix<A>,
    /// Lowest value of each field, inclusive.
    pub(crate) low: Fields,
    /// Highest value of each field, inclusive.
    pub(crate) high: Fields,
    /// The rule's number, below [`NO_RULE`].
    pub(crate) rule: u32,
}

/// The compiled rules of one address family.
pub(crate) struct Classifier<A> {
    sources: Prefixes<A>,
    destinations: Prefixes<A>,
    pairs: Pairs,
    groups: Groups,
}

impl<A: Address> Classifier<A> {
    /// Compiles the areas, in any order.
    pub(crate) fn new(areas: &[Area<A>]) -> Self {
        let mut sources = Prefixes::new(areas.iter().map(|area| area.src));
        let mut destinations = Prefixes::new(areas.iter().map(|area| area.dst));
        let mut members: HashMap<(u32, u32), Vec<Entry>> = HashMap::new();
        for area in areas {
            let src = sources.id(area.src);
            let dst = destinations.id(area.dst);
            sources.join(src, area.dst.length(), area.rule);
            destinations.join(dst, area.src.length(), area.rule);
            members.entry((src, dst)).or_default().push(Entry {
                low: area.low,
                high: area.high,
                rule: area.rule,
            });
        }
        // In a fixed order, so that equal rules always give equal tables.
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable_by_key(|&(pair, _)| pair);
        let mut groups = Groups::default();
        let mut pairs = Pairs::new(members.len());
        for ((src, dst), entries) in members {
            pairs.insert(src, dst, groups.add(entries));
        }
        Self { sources, destinations, pairs, groups }
    }

    /// The lowest rule that matches, or [`NO_RULE`].
    pub(crate) fn first_match(&self, src: A, dst: A, fields: Fields) -> u32 {
        let mut found = NO_RULE;
        let last = self.destinations.longest(dst);
        let mut next_src = Some(self.sources.longest(src));
        while let Some(src_id) = next_src {
            let source = self.sources.node(src_id);
            next_src = source.parent();
            if source.best >= found {
                continue;
            }
            let mut next_dst = Some(last);
            while let Some(dst_id) = next_dst {
                let destination = self.destinations.node(dst_id);
                next_dst = destination.parent();
                if destination.best < found
                    && Node::may_meet(source, destination)
                    && let Some(group) = self.pairs.get(src_id, dst_id)
                {
                    found = self.groups.first_match(group, fields, found);
                }
            }
        }
        found
    }
}

/// Which group belongs to a pair of prefixes: a hash table with linear probing, at most half full.
struct Pairs {
    slots: Vec<Slot>,
    shift: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    src: u32,
    dst: u32,
    group: u32,
}

impl Slot {
    const EMPTY: Self = Self { src: u32::MAX, dst: u32::MAX, group: 0 };
}

impl Pairs {
    fn new(len: usize) -> Self {
        let slots = (2 * len).next_power_of_two().max(2);
        Self { slots: vec![Slot::EMPTY; slots], shift: 64 - slots.trailing_zeros() }
    }

    /// Fibonacci hashing (Knuth, volume 3, section 6.4) of both numbers.
    fn start(&self, src: u32, dst: u32) -> usize {
        let key = u64::from(src) << 32 | u64::from(dst);
        ((key ^ key >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    fn insert(&mut self, src: u32, dst: u32, group: u32) {
        let mask = self.slots.len() - 1;
        let mut at = self.start(src, dst);
        while self.slots[at].src != u32::MAX {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { src, dst, group };
    }

    fn get(&self, src: u32, dst: u32) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = self.start(src, dst);
        loop {
            let slot = &self.slots[at & mask];
            if slot.src == src && slot.dst == dst {
                return Some(slot.group);
            }
            if slot.src == u32::MAX {
                return None;
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
