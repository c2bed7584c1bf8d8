//! Rules that decide nothing, because an earlier one means all of their packets: a mistake of
//! whoever wrote them, or a leftover.

use std::collections::HashMap;

use crate::hash::Fold;
use crate::pattern::{Pattern, patterns};
use crate::ranges::ANY;
use crate::rule::{Ports, Rule};
use crate::table::Bits;

/// Comparisons at most: enough for 100,000 rules with prefixes as they are given out. What is
/// beyond is not looked at.
const LOOKS: usize = 50_000_000;

/// A rule that decides nothing, and the first that means all of its packets; places from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoveredRule {
    /// The later one.
    pub rule: usize,
    /// The earlier one.
    pub by: usize,
}

/// Rules that look at the same bits and find the same there.
#[derive(Default)]
struct Cell {
    /// The first that takes all ports.
    first: Option<usize>,
    /// Those that look at ranges of ports.
    ranges: Vec<(usize, (Ports, Ports))>,
}

/// Finds the rules that decide nothing because a single earlier one means all of their packets.
#[must_use]
pub fn covered(rules: &[Rule]) -> Vec<CoveredRule> {
    let hasher = Fold::random();
    let mut tuples: Vec<(Bits, HashMap<Bits, Cell, Fold>)> = Vec::new();
    let mut places = HashMap::with_hasher(hasher);
    let mut looks = LOOKS;
    let mut found = Vec::new();
    for (rule, patterns) in rules.iter().map(patterns).enumerate() {
        let mut by = patterns.iter().map(|pattern| earlier(pattern, &tuples, &mut looks));
        // All parts by the same one: else it takes several together, which nobody could name in a
        // line.
        if let Some(Some(first)) = by.next()
            && by.all(|other| other == Some(first))
        {
            found.push(CoveredRule { rule, by: first });
        }
        if looks == 0 {
            break;
        }
        for Pattern { mask, bits, ports } in &patterns {
            let mask = Bits::of(mask);
            let place = *places.entry(mask).or_insert_with(|| {
                tuples.push((mask, HashMap::with_hasher(hasher)));
                tuples.len() - 1
            });
            let cell = tuples[place].1.entry(Bits::of(bits)).or_default();
            match ports {
                Some(ports) => cell.ranges.push((rule, *ports)),
                None => _ = cell.first.get_or_insert(rule),
            }
        }
    }
    found
}

/// The first rule so far that means all that a pattern means.
fn earlier(
    pattern: &Pattern,
    tuples: &[(Bits, HashMap<Bits, Cell, Fold>)],
    looks: &mut usize,
) -> Option<usize> {
    let (mask, bits) = (Bits::of(&pattern.mask), Bits::of(&pattern.bits));
    let port = |mask, port, range| if mask == 0 { range } else { (port, port) };
    let ports = pattern.ports.unwrap_or((ANY, ANY));
    let ports = (
        port(pattern.mask.source_port, pattern.bits.source_port, ports.0),
        port(pattern.mask.destination_port, pattern.bits.destination_port, ports.1),
    );
    let holds = |outer: Ports, inner: Ports| outer.0 <= inner.0 && inner.1 <= outer.1;
    let mut first: Option<usize> = None;
    for (wider, cells) in tuples {
        *looks = looks.saturating_sub(1);
        if mask.masked(*wider) != *wider {
            continue;
        }
        let Some(cell) = cells.get(&bits.masked(*wider)) else { continue };
        *looks = looks.saturating_sub(cell.ranges.len());
        let range = cell
            .ranges
            .iter()
            .find(|(_, (source, destination))| {
                holds(*source, ports.0) && holds(*destination, ports.1)
            })
            .map(|(rule, _)| *rule);
        first = [first, cell.first, range].into_iter().flatten().min();
    }
    first
}
