//! Maglev's lookup table (Eisenbud, Yi, Contavalli and others, "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4).

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

/// Fills a table of `size` entries (a prime) with the places of backends; empty if none has any
/// weight. The paper's algorithm 1, with as many turns in a row as a backend's weight.
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
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::{BackendConfig, Config, Mode, ServiceConfig};

    fn preference(offset: usize, skip: usize, weight: u32) -> Preference {
        Preference { offset, skip, weight }
    }

    #[test]
    fn the_papers_example() {
        // Table 1, left: the permutations of B0, B1 and B2.
        let all = [preference(3, 4, 1), preference(0, 2, 1), preference(3, 1, 1)];
        let order = |b: &Preference| (0..7).map(|n| (b.offset + n * b.skip) % 7).collect();
        let orders: Vec<Vec<usize>> = all.iter().map(order).collect();
        assert_eq!(orders, [[3, 0, 4, 1, 5, 2, 6], [0, 2, 4, 6, 1, 3, 5], [3, 4, 5, 6, 0, 1, 2]]);
        // Right: the table, and the same after B1 has gone.
        assert_eq!(populate(&all, 7), [1, 0, 1, 0, 2, 2, 0]);
        let mut gone = all;
        gone[1].weight = 0;
        assert_eq!(populate(&gone, 7), [0, 0, 0, 0, 2, 2, 2]);
    }

    /// The set-up of section 5.3: 1,000 backends, a small and a large table.
    const BACKENDS: usize = 1000;
    const SMALL: usize = 65_537;
    const LARGE: usize = 655_373;

    /// The table that a configuration leads to, in which some backends have failed.
    fn table(size: usize, failed: &[usize]) -> Vec<u16> {
        let backend = |n: usize| BackendConfig {
            ip: Ipv4Addr::from(0x0a00_0000 + n as u32).into(),
            port: None,
            mac: None,
            weight: 1,
            healthy: !failed.contains(&n),
        };
        let service = ServiceConfig {
            vip: Ipv4Addr::new(198, 51, 100, 1).into(),
            proto: "tcp".into(),
            port: 80,
            mode: Mode::Dnat,
            backends: (0..BACKENDS).map(backend).collect(),
        };
        let services = vec![service];
        let config = Config { table: size, max_connections: 64, idle: 1, idle_tcp: 1, services };
        config.services().unwrap().remove(0).table
    }

    /// How many times the even share the most loaded backend has.
    fn most_loaded(table: &[u16]) -> f64 {
        let mut shares = vec![0_u32; BACKENDS];
        table.iter().for_each(|backend| shares[usize::from(*backend)] += 1);
        let most = shares.iter().max().unwrap();
        f64::from(*most) * BACKENDS as f64 / table.len() as f64
    }

    #[test]
    fn load_is_as_even_as_in_the_paper() {
        // Figure 11. Turns make all shares alike but for one entry; the paper calls that almost
        // perfect.
        for size in [SMALL, LARGE] {
            let table = table(size, &[]);
            let mut shares = vec![0; BACKENDS];
            table.iter().for_each(|backend| shares[usize::from(*backend)] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{least} to {most} of {size}");
            println!("{size} entries: the most loaded has {:.4} of its share", most_loaded(&table));
        }
        // Rendezvous hashing beside it: backends have to be 49.5 % larger than their share with the
        // small table, says the paper, and 12.3 % with the large one.
        for (size, paper) in [(SMALL, 1.495), (LARGE, 1.123)] {
            let name = |n: usize| weir_sdk::flow::Hasher::new(n as u64 + 1);
            let backends: Vec<_> = (0..BACKENDS).map(name).collect();
            let highest = |entry: usize| {
                let score = |n: &usize| backends[*n].hash(&(entry as u64));
                (0..BACKENDS).max_by_key(score).unwrap() as u16
            };
            let most = most_loaded(&(0..size).map(highest).collect::<Vec<_>>());
            assert!((most - paper).abs() < 0.1, "{size} entries: {most}");
            println!("{size} entries, rendezvous: the most loaded has {most:.4} of its share");
        }
    }

    /// Percent of the entries that change when so many backends fail at once, and percent that
    /// change though their backend has not failed; the averages of some draws.
    fn changes(size: usize, failures: usize, draws: usize) -> (f64, f64) {
        let before = table(size, &[]);
        let (mut all, mut needless) = (0, 0);
        let mut random = 7_u64;
        for _ in 0..draws {
            let mut failed = Vec::new();
            while failed.len() < failures {
                // Knuth, TAOCP, volume 2, 3.3.4.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let backend = (random >> 33) as usize % BACKENDS;
                if !failed.contains(&backend) {
                    failed.push(backend);
                }
            }
            for (old, new) in before.iter().zip(&table(size, &failed)) {
                assert!(!failed.contains(&usize::from(*new)));
                all += usize::from(old != new);
                needless += usize::from(old != new && !failed.contains(&usize::from(*old)));
            }
        }
        let percent = |n: usize| 100.0 * n as f64 / (size * draws) as f64;
        (percent(all), percent(needless))
    }

    #[test]
    fn few_entries_change_when_backends_fail() {
        // Figure 12.
        let mut last = (0.0, 0.0);
        for failures in [1, 2, 5, 10, 25, 50] {
            let small = changes(SMALL, failures, 20);
            let large = changes(LARGE, failures, 2);
            println!(
                "{failures} of {BACKENDS} fail: {:.2} % of the small table's entries change, {:.2} % without need; of the \
                 large one's {:.2} %, {:.2} %",
                small.0, small.1, large.0, large.1
            );
            assert!(small.1 > last.0 && large.1 > last.1, "more failures change more entries");
            assert!(large.1 < small.1, "the larger table is more resilient");
            assert!(small.1 < 4.0 && large.1 < 1.0, "{small:?}, {large:?}");
            last = (small.1, large.1);
        }
    }

    #[test]
    fn weights_are_shares() {
        let mut backends: Vec<_> = [(5, 77), (900, 3), (41, 4321)]
            .map(|hashes| Preference::new(hashes, SMALL, 1))
            .to_vec();
        backends[1].weight = 2;
        let table = populate(&backends, SMALL);
        let share = |b: u16| table.iter().filter(|e| **e == b).count() as f64 / SMALL as f64;
        assert!((share(0) - 0.25).abs() < 0.01 && (share(1) - 0.5).abs() < 0.01);
        assert!(populate(&[], 7).is_empty());
    }
}
