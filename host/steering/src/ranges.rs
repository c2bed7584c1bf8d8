//! Rules that differ only in their ports.
//!
//! A few are looked at one by one. Many are a range tree (Bentley 1980): each rule lies at the
//! nodes of a binary tree over the destination ports that make up its range (at most 30), and a
//! node has, for each source port, its best rule. So a search looks at 17 nodes, however many rules
//! there are.

use std::collections::{BTreeSet, HashMap};

use crate::rule::Ports;

/// Rules that are looked at one by one.
const FEW: usize = 16;
/// Bits of a port.
const BITS: u32 = 16;
/// All ports.
pub(crate) const ANY: Ports = (0, u16::MAX);

/// A rule's ports, and its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) source: Ports,
    pub(crate) destination: Ports,
    pub(crate) rule: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) enum Ranges {
    /// By number.
    Few(Vec<Range>),
    Many(Tree),
}

impl Ranges {
    /// Of rules in ascending order.
    pub(crate) fn new(rules: Vec<Range>) -> Self {
        if rules.len() <= FEW { Self::Few(rules) } else { Self::Many(Tree::new(&rules)) }
    }

    /// The first rule that has these ports.
    #[inline]
    pub(crate) fn first(&self, source: u16, destination: u16) -> Option<u32> {
        let within = |ports: Ports, port| ports.0 <= port && port <= ports.1;
        match self {
            Self::Few(rules) => rules
                .iter()
                .find(|r| within(r.source, source) && within(r.destination, destination))
                .map(|r| r.rule),
            Self::Many(tree) => tree.first(source, destination),
        }
    }

    /// Bytes of the heap, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Few(rules) => rules.capacity() * size_of::<Range>(),
            Self::Many(tree) => tree.0.values().map(|steps| steps.len() * size_of::<Step>()).sum(),
        }
    }
}

/// From this source port on: this rule, or none.
type Step = (u16, Option<u32>);

/// Steps by the number of bits of the destination port that lead to the node, and those bits.
#[derive(Debug)]
pub(crate) struct Tree(HashMap<(u32, u16), Vec<Step>>);

impl Tree {
    fn new(rules: &[Range]) -> Self {
        let mut nodes: HashMap<_, Vec<(Ports, u32)>> = HashMap::new();
        for range in rules {
            for node in prefixes(range.destination) {
                nodes.entry(node).or_default().push((range.source, range.rule));
            }
        }
        Self(nodes.into_iter().map(|(node, rules)| (node, steps(&rules))).collect())
    }

    fn first(&self, source: u16, destination: u16) -> Option<u32> {
        let nodes = (0..=BITS).filter_map(|bits| self.0.get(&(bits, leading(destination, bits))));
        nodes
            .filter_map(|steps| {
                let after = steps.partition_point(|(from, _)| *from <= source);
                steps[..after].last().and_then(|(_, rule)| *rule)
            })
            .min()
    }
}

/// So many bits of a port.
const fn leading(port: u16, bits: u32) -> u16 {
    if bits == 0 { 0 } else { port >> (BITS - bits) }
}

/// The fewest nodes that make up a range: the number of bits, and those bits. An empty range has
/// none.
pub(crate) fn prefixes((from, to): Ports) -> Vec<(u32, u16)> {
    let (mut from, end) = (u32::from(from), u32::from(to) + 1);
    let mut nodes = Vec::new();
    while from < end {
        // The largest block that begins here, and ends in time.
        let aligned = if from == 0 { BITS } else { from.trailing_zeros() };
        let size = aligned.min((end - from).ilog2());
        nodes.push((BITS - size, (from >> size) as u16));
        from += 1 << size;
    }
    nodes
}

/// For each source port the first of the rules that have it.
fn steps(rules: &[(Ports, u32)]) -> Vec<Step> {
    let mut changes: Vec<(u32, bool, u32)> = Vec::with_capacity(rules.len() * 2);
    for &((from, to), rule) in rules.iter().filter(|((from, to), _)| from <= to) {
        changes.push((u32::from(from), true, rule));
        changes.push((u32::from(to) + 1, false, rule));
    }
    changes.sort_unstable();
    let (mut here, mut steps) = (BTreeSet::new(), Vec::<Step>::new());
    for same in changes.chunk_by(|a, b| a.0 == b.0) {
        for &(_, begins, rule) in same {
            if begins {
                here.insert(rule)
            } else {
                here.remove(&rule)
            };
        }
        let first = here.first().copied();
        let Ok(from) = u16::try_from(same[0].0) else { break };
        if steps.last().map(|(_, rule)| *rule) != Some(first) {
            steps.push((from, first));
        }
    }
    steps.shrink_to_fit();
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_made_of_few_blocks() {
        assert_eq!(prefixes(ANY), [(0, 0)]);
        assert_eq!(prefixes((443, 443)), [(16, 443)]);
        assert_eq!(prefixes((1024, 65535)).len(), 6);
        assert_eq!(prefixes((1, 65534)).len(), 30);
        assert_eq!(prefixes((2, 1)), []);
    }

    proptest! {
        #[test]
        fn a_tree_finds_what_a_list_finds(
            rules in prop::collection::vec(any::<[u16; 4]>(), 1..80), port: [u16; 2], pick: usize,
        ) {
            let rules: Vec<_> = rules
                .into_iter()
                .enumerate()
                .map(|(n, [a, b, c, d])| Range {
                    source: (a.min(b), a.max(b)),
                    destination: if n % 7 == 0 { ANY } else { (c.min(d), c.max(d)) },
                    rule: n as u32,
                })
                .collect();
            let list = Ranges::Few(rules.clone());
            let tree = Ranges::Many(Tree::new(&rules));
            let edge = rules[pick % rules.len()];
            for (source, destination) in [
                (port[0], port[1]),
                (edge.source.0, edge.destination.1),
                (edge.source.1, edge.destination.0),
                (edge.source.1.wrapping_add(1), edge.destination.0),
                (edge.source.0.wrapping_sub(1), edge.destination.1.wrapping_add(1)),
            ] {
                prop_assert_eq!(tree.first(source, destination), list.first(source, destination));
            }
        }
    }
}
