//! The prefixes that occur in rules, and which of them hold an address.
//!
//! Owns: longest prefix match over elementary intervals (binary search over range ends: Lampson,
//! Srinivasan, Varghese, "IP Lookups using Multiway and Multicolumn Search", INFOCOM 1998) and the
//! nesting of the prefixes. Must not know: what the prefixes are used for.

use super::NO_RULE;

/// An address as an integer in host order.
pub(crate) trait Address: Copy + Ord + std::fmt::Debug {
    /// Length in bits.
    const BITS: u8;
    /// The address 0.
    const ZERO: Self;
    /// Keeps the first `length` bits and sets the others to 0 (`ones` false) or 1.
    fn fill(self, length: u8, ones: bool) -> Self;
    /// The next address, or `None` after the last.
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    const BITS: u8 = 32;
    const ZERO: Self = 0;

    fn fill(self, length: u8, ones: bool) -> Self {
        let rest = Self::MAX.checked_shr(length.into()).unwrap_or(0);
        if ones { self | rest } else { self & !rest }
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    const BITS: u8 = 128;
    const ZERO: Self = 0;

    fn fill(self, length: u8, ones: bool) -> Self {
        let rest = Self::MAX.checked_shr(length.into()).unwrap_or(0);
        if ones { self | rest } else { self & !rest }
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// A prefix whose bits after the length are 0. Ordered so that a prefix comes before those in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix<A> {
    address: A,
    length: u8,
}

impl<A: Address> Prefix<A> {
    /// Every address.
    pub(crate) const ANY: Self = Self { address: A::ZERO, length: 0 };

    /// The prefix of this length that holds the address; a length beyond the address's is cut.
    pub(crate) fn holding(address: A, length: u8) -> Self {
        let length = length.min(A::BITS);
        Self { address: address.fill(length, false), length }
    }

    /// The lowest address.
    pub(crate) fn first(self) -> A {
        self.address
    }

    /// The highest address.
    pub(crate) fn last(self) -> A {
        self.address.fill(self.length, true)
    }

    /// Bits.
    pub(crate) fn length(self) -> u8 {
        self.length
    }
}

/// One prefix that occurs in rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// The lowest rule that has this prefix.
    pub(super) best: u32,
    /// The longest other prefix around this one; the number itself at the root.
    parent: u32,
    /// Length classes of the prefixes that occur together with this one on the other side.
    partners: u64,
    /// This prefix's own length class.
    class: u64,
    id: u32,
}

impl Node {
    /// The longest other prefix around this one.
    pub(super) fn parent(&self) -> Option<u32> {
        (self.parent != self.id).then_some(self.parent)
    }

    /// False when no rule has both prefixes; true when one may.
    pub(super) fn may_meet(source: &Self, destination: &Self) -> bool {
        source.partners & destination.class != 0 && destination.partners & source.class != 0
    }
}

/// A bit for the length; neighbours share one when there are more than 64 lengths.
fn class<A: Address>(length: u8) -> u64 {
    let bit = if A::BITS > 63 { length / 2 } else { length };
    1 << bit.min(63)
}

/// A set of prefixes with their nesting; holds the prefix of length 0 always.
pub(super) struct Prefixes<A> {
    /// Sorted; `nodes[i]` belongs to `sorted[i]`.
    sorted: Vec<Prefix<A>>,
    nodes: Vec<Node>,
    /// Where an interval begins; the first begins at address 0.
    starts: Vec<A>,
    /// The longest prefix that holds the interval.
    owners: Vec<u32>,
}

impl<A: Address> Prefixes<A> {
    pub(super) fn new(prefixes: impl Iterator<Item = Prefix<A>>) -> Self {
        let mut sorted: Vec<_> = prefixes.chain([Prefix::ANY]).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut set = Self { nodes: Vec::new(), starts: Vec::new(), owners: Vec::new(), sorted };
        // Prefixes that hold the present one, outermost first.
        let mut open: Vec<u32> = Vec::new();
        for at in 0..set.sorted.len() {
            let prefix = set.sorted[at];
            let id = u32::try_from(at).expect("fewer than 2^32 prefixes");
            set.close(&mut open, Some(prefix.first()));
            let parent = open.last().copied().unwrap_or(id);
            set.nodes.push(Node {
                best: NO_RULE,
                parent,
                partners: 0,
                class: class::<A>(prefix.length()),
                id,
            });
            set.begin(prefix.first(), id);
            open.push(id);
        }
        set.close(&mut open, None);
        set
    }

    /// Ends the open prefixes that do not reach as far as `until`; each gives way to its parent.
    fn close(&mut self, open: &mut Vec<u32>, until: Option<A>) {
        while let Some(&inner) = open.last() {
            let last = self.sorted[inner as usize].last();
            if until.is_some_and(|until| until <= last) {
                return;
            }
            open.pop();
            if let (Some(start), Some(&outer)) = (last.next(), open.last()) {
                self.begin(start, outer);
            }
        }
    }

    /// From `start` on the longest prefix is `owner`.
    fn begin(&mut self, start: A, owner: u32) {
        if self.starts.last() == Some(&start) {
            self.owners.pop();
        } else {
            self.starts.push(start);
        }
        self.owners.push(owner);
    }

    /// The number of a prefix of the set.
    pub(super) fn id(&self, prefix: Prefix<A>) -> u32 {
        let at = self.sorted.binary_search(&prefix).expect("the set was made of these prefixes");
        u32::try_from(at).expect("fewer than 2^32 prefixes")
    }

    /// Notes that a rule has this prefix, and one of length `partner` on the other side.
    pub(super) fn join(&mut self, id: u32, partner: u8, rule: u32) {
        let node = &mut self.nodes[id as usize];
        node.best = node.best.min(rule);
        node.partners |= class::<A>(partner);
    }

    /// The longest prefix that holds the address.
    pub(super) fn longest(&self, address: A) -> u32 {
        self.owners[self.starts.partition_point(|&start| start <= address) - 1]
    }

    pub(super) fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }
}
