//! The table against what it stands for: looking at the rules one by one.

mod common;

use common::{aimed, key, ports, rarely, rule, scan};
use proptest::prelude::*;
use weir_steering::{CoveredRule, Key, Prefix, Rule, Table, Target, covered};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_table_says_what_its_rules_say(
        rules in prop::collection::vec(rule(), 0..60), keys in prop::collection::vec(key(), 8),
    ) {
        let table = Table::new(&rules);
        prop_assert_eq!(table.len(), rules.len());
        for key in keys {
            prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            for rule in &rules {
                let key = aimed(rule, key);
                prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            }
        }
    }

    /// As bits alone, a rule means the same keys.
    #[test]
    fn masked_rules_mean_what_rules_mean(
        rules in prop::collection::vec(rule(), 20), keys in prop::collection::vec(key(), 8),
    ) {
        let masked: Vec<_> = rules.iter().map(Rule::masked).collect();
        for (rule, parts) in rules.iter().zip(&masked) {
            for key in keys.iter().flat_map(|key| [*key, aimed(rule, *key)]) {
                let means = parts.iter().any(|part| {
                    let words = key.words().into_iter().zip(part.mask.words());
                    words.map(|(word, mask)| word & mask).eq(part.bits.words())
                });
                prop_assert_eq!(means, rule.matches(&key), "{:?} {:?}", rule, key);
            }
        }
    }

    /// What is said to decide nothing decides nothing, and who is said to be before it has such
    /// packets.
    #[test]
    fn covered_rules_never_decide(
        rules in prop::collection::vec(rule(), 0..40), keys in prop::collection::vec(key(), 8),
    ) {
        for CoveredRule { rule, by } in covered(&rules) {
            prop_assert!(by < rule);
            for key in keys.iter().flat_map(|key| [*key, aimed(&rules[rule], *key)]) {
                prop_assert!(!rules[rule].matches(&key) || rules[by].matches(&key), "{:?}", key);
            }
        }
    }

    /// Many rules that differ in nothing but their ports.
    #[test]
    fn many_ranges_of_ports_are_told_apart(
        ranges in prop::collection::vec((rarely(ports()), rarely(ports())), 1..100),
        keys in prop::collection::vec(key(), 8),
    ) {
        let rules: Vec<_> = ranges
            .into_iter()
            .enumerate()
            .map(|(n, (source_ports, destination_ports))| Rule {
                protocol: Some(6),
                source_ports: source_ports.or(Some((2, 9))),
                destination_ports,
                ..Rule::all(Target::Chain(n as u16))
            })
            .collect();
        let table = Table::new(&rules);
        for key in keys {
            for rule in &rules {
                let key = aimed(rule, key);
                prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            }
        }
    }
}

#[test]
fn an_empty_table_decides_nothing() {
    let table = Table::new(&[]);
    assert!(table.is_empty());
    assert_eq!(table.classify(&Key::default()), None);
}

#[test]
fn the_first_rule_decides() {
    let voice = Rule { dscp: Some(46), ..Rule::all(Target::Chain(1)) };
    let web = Rule { destination_ports: Some((80, 443)), ..Rule::all(Target::Chain(2)) };
    let rules = [voice, web, Rule::all(Target::Kernel), Rule::all(Target::Drop)];
    let table = Table::new(&rules);
    let key = Key { ethertype: 0x0800, dscp: 46, destination_port: 443, ..Key::default() };
    assert_eq!(table.classify(&key), Some((0, Target::Chain(1))));
    assert_eq!(table.classify(&Key { dscp: 0, ..key }), Some((1, Target::Chain(2))));
    // ARP has no code point, whatever its bytes are.
    let arp = Key { ethertype: 0x0806, destination_port: 0, ..key };
    assert_eq!(table.classify(&arp), Some((2, Target::Kernel)));
}

#[test]
fn rules_behind_one_that_means_more_are_found() {
    let prefix =
        |text: &str, length| Some(Prefix { address: text.parse().expect("an address"), length });
    let rules = [
        Rule { source: prefix("10.0.0.0", 8), ..Rule::all(Target::Drop) },
        Rule {
            destination_ports: Some((5000, 5999)),
            protocol: Some(17),
            ..Rule::all(Target::Kernel)
        },
        // More of the same, and elsewhere.
        Rule { source: prefix("10.1.0.0", 16), protocol: Some(6), ..Rule::all(Target::Chain(0)) },
        // Only some of it.
        Rule {
            destination_ports: Some((5999, 6000)),
            protocol: Some(17),
            ..Rule::all(Target::Drop)
        },
        Rule {
            destination_ports: Some((5060, 5061)),
            protocol: Some(17),
            ..Rule::all(Target::Drop)
        },
        Rule {
            destination_ports: Some((5999, 5999)),
            protocol: Some(17),
            ..Rule::all(Target::Kernel)
        },
        Rule { source: prefix("10.0.0.0", 7), ..Rule::all(Target::Drop) },
        // For IPv4 and IPv6, both of which the one after next has.
        Rule { dscp: Some(46), ..Rule::all(Target::Drop) },
        Rule::all(Target::Kernel),
        Rule { dscp: Some(46), vlan: Some(7), ..Rule::all(Target::Chain(1)) },
        Rule::all(Target::Kernel),
    ];
    let found: Vec<_> = covered(&rules).into_iter().map(|found| (found.rule, found.by)).collect();
    assert_eq!(found, [(2, 0), (4, 1), (5, 1), (9, 7), (10, 8)]);
}
