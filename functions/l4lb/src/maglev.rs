//! Maglev's lookup table (Eisenbud, Yi, Contavalli and others, "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4).

/// A backend's order of preference for table entries: `(offset + n * skip) mod size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preference {
    pub(crate) offset: usize,
    pub(crate) skip: usize,
    /// Turns it gets for each turn of a backend with weight 1; 0 for none.
    pub(crate) weight: u32,
}

impl Preference {
    /// From two hashes of the backend's name, as in the paper.
    pub(crate) fn new(hashes: (u64, u64), size: usize, weight: u32) -> Self {
        Self {
            offset: (hashes.0 % size as u64) as usize,
            skip: (hashes.1 % (size as u64 - 1)) as usize + 1,
            weight,
        }
    }
}

/// Fills a table of `size` entries (a prime) with the places of backends; empty if none has any weight. The paper's
/// algorithm 1, with as many turns in a row as a backend's weight.
pub(crate) fn populate(backends: &[Preference], size: usize) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    if backends.iter().all(|b| b.weight == 0) {
        return Vec::new();
    }
    let mut table = vec![FREE; size];
    // Sums and not products: those would not fit into Wasm's 32 bits.
    let mut next: Vec<usize> = backends.iter().map(|backend| backend.offset).collect();
    let mut filled = 0;
    loop {
        for (place, backend) in backends.iter().enumerate() {
            for _ in 0..backend.weight {
                // Each visits every entry, because the size is prime.
                let entry = loop {
                    let entry = next[place];
                    next[place] = (entry + backend.skip) % size;
                    if table[entry] == FREE {
                        break entry;
                    }
                };
                table[entry] = place as u16;
                filled += 1;
                if filled == size {
                    return table;
                }
            }
        }
    }
}

/// Whether a number is prime.
pub(crate) fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference(offset: usize, skip: usize, weight: u32) -> Preference {
        Preference { offset, skip, weight }
    }

    #[test]
    fn the_papers_example() {
        // Table 1: permutations of B0 (3 0 4 1 5 2 6), B1 (0 2 4 6 1 3 5), B2 (3 4 5 6 0 1 2).
        let b0 = preference(3, 4, 1);
        let b1 = preference(0, 2, 1);
        let b2 = preference(3, 1, 1);
        assert_eq!(populate(&[b0, b1, b2], 7), [1, 0, 1, 0, 2, 2, 0]);
        // Right: the same after B1 has gone.
        let gone = Preference { weight: 0, ..b1 };
        assert_eq!(populate(&[b0, gone, b2], 7), [0, 0, 0, 0, 2, 2, 2]);
    }

    fn many(n: u64, size: usize) -> Vec<Preference> {
        let mix = |x: u64| {
            x.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        (0..n).map(|i| Preference::new((mix(i + 1), mix(i + 10_000)), size, 1)).collect()
    }

    #[test]
    fn load_is_even_and_a_lost_backend_disturbs_few_others() {
        const SIZE: usize = 65_537;
        let mut backends = many(100, SIZE);
        let before = populate(&backends, SIZE);
        let mut shares = vec![0usize; 100];
        before.iter().for_each(|b| shares[usize::from(*b)] += 1);
        // "The maximum permitted difference is a factor": section 5.3 finds about 1 % at this size.
        assert!(shares.iter().all(|s| s.abs_diff(SIZE / 100) <= SIZE / 100 / 50), "{shares:?}");
        backends[17].weight = 0;
        let after = populate(&backends, SIZE);
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 17 && b != a).count();
        // Section 5.3, figure 12: some percent of the entries at most.
        assert!(moved < SIZE / 20, "{moved} of {SIZE} entries moved without need");
        assert!(!after.contains(&17));
    }

    #[test]
    fn weights_are_shares() {
        const SIZE: usize = 65_537;
        let mut backends = many(3, SIZE);
        backends[1].weight = 2;
        let table = populate(&backends, SIZE);
        let share = |b: u16| table.iter().filter(|e| **e == b).count() as f64 / SIZE as f64;
        assert!((share(0) - 0.25).abs() < 0.01 && (share(1) - 0.5).abs() < 0.01);
        assert!(populate(&[], 7).is_empty());
    }
}
