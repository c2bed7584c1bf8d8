//! A consistent hash over weighted upstreams: Maglev (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Owns: the table. Must not know: what is hashed, or which upstreams are well.

use weir_sdk::hash::{bytes as hash, mix};

/// Places of the table: a prime, and at least a hundred times the most upstreams.
const PLACES: u32 = 16_381;

/// Which upstream a hash goes to.
#[derive(Debug)]
pub(crate) struct Table {
    places: Vec<u16>,
}

impl Table {
    /// Upstreams by name, so that the table does not depend on their order, and their weights.
    pub(crate) fn new(upstreams: &[(&str, u32)]) -> Self {
        let mut order: Vec<usize> = (0..upstreams.len()).collect();
        order.sort_by_key(|at| upstreams[*at].0);
        let heaviest = upstreams.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
        let mut turns: Vec<Turn> = order
            .iter()
            .map(|at| {
                let (name, weight) = upstreams[*at];
                let hash = hash(name.as_bytes(), 0);
                let offset = (hash as u32) % PLACES;
                let skip = ((hash >> 32) as u32) % (PLACES - 1) + 1;
                Turn { upstream: *at, at: offset, skip, weight, credit: 0 }
            })
            .collect();
        let mut places = vec![u16::MAX; PLACES as usize];
        let mut left = PLACES;
        while left > 0 {
            for turn in &mut turns {
                // Who weighs less than the heaviest takes its turn less often.
                turn.credit += turn.weight;
                if turn.credit < heaviest || left == 0 {
                    continue;
                }
                turn.credit -= heaviest;
                while places[turn.at as usize] != u16::MAX {
                    turn.at = (turn.at + turn.skip) % PLACES;
                }
                places[turn.at as usize] = u16::try_from(turn.upstream).unwrap_or(0);
                left -= 1;
            }
        }
        Self { places }
    }

    /// The upstreams that a hash goes to, the one after the other if those before cannot have it.
    /// Endless.
    pub(crate) fn choices(&self, hash: u64) -> impl Iterator<Item = usize> {
        // Each further try takes another place, not the neighbour: the load of who is gone spreads
        // over all.
        (0..).map(move |try_| {
            let place = mix(hash ^ try_) % u64::from(PLACES);
            usize::from(self.places[place as usize])
        })
    }
}

struct Turn {
    upstream: usize,
    at: u32,
    skip: u32,
    weight: u32,
    credit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(table: &Table, upstreams: usize) -> Vec<u32> {
        let mut counts = vec![0; upstreams];
        for key in 0..20_000u32 {
            let first = table.choices(hash(&key.to_le_bytes(), 0)).next().unwrap();
            counts[first] += 1;
        }
        counts
    }

    #[test]
    fn keys_spread_by_weight() {
        let counts = counts(&Table::new(&[("a", 1), ("b", 2), ("c", 1)]), 3);
        for (count, expected) in counts.iter().zip([5_000u32, 10_000, 5_000]) {
            assert!(count.abs_diff(expected) < expected / 15, "{counts:?}");
        }
    }

    #[test]
    fn order_does_not_matter_and_a_lost_upstream_moves_few_keys() {
        let four = Table::new(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let names = ["d", "b", "a"];
        let three = Table::new(&names.map(|name| (name, 1)));
        let mut moved = 0;
        for key in 0..10_000u32 {
            let hash = hash(&key.to_le_bytes(), 0);
            let before = ["a", "b", "c", "d"][four.choices(hash).next().unwrap()];
            let after = names[three.choices(hash).next().unwrap()];
            moved += u32::from(before != "c" && before != after);
        }
        assert!(moved < 800, "{moved} of 10000 keys moved without need");
    }

    #[test]
    fn the_next_choices_come_to_everybody() {
        let table = Table::new(&[("a", 1), ("b", 1), ("c", 1)]);
        for key in 0..100u64 {
            for upstream in 0..3 {
                assert!(table.choices(key).take(100).any(|choice| choice == upstream));
            }
        }
    }
}
