//! The classifier against the definition: the first area, in order of rules, that holds the packet.

use proptest::prelude::*;

use super::*;

fn holds<A: Address>(prefix: Prefix<A>, address: A) -> bool {
    prefix.first() <= address && address <= prefix.last()
}

fn scan<A: Address>(areas: &[Area<A>], src: A, dst: A, fields: Fields) -> u32 {
    areas
        .iter()
        .filter(|area| holds(area.src, src) && holds(area.dst, dst))
        .filter(|area| (0..4).all(|i| (area.low[i]..=area.high[i]).contains(&fields[i])))
        .map(|area| area.rule)
        .min()
        .unwrap_or(NO_RULE)
}

/// Few different bits, so that prefixes nest and packets hit.
fn crowded_address() -> impl Strategy<Value = u128> {
    (any::<u8>(), any::<u8>(), any::<u128>(), 0_u8..4).prop_map(|(a, b, noise, spread)| {
        let value = u128::from(a & 3) << 120 | u128::from(b & 7) << 100 | u128::from(b & 1) << 96;
        if spread == 0 { value | noise >> 60 } else { value }
    })
}

fn crowded_prefix<A: Address>(cast: fn(u128) -> A) -> impl Strategy<Value = Prefix<A>> {
    (crowded_address(), prop_oneof![Just(0), Just(A::BITS), 0..=A::BITS])
        .prop_map(move |(address, length)| Prefix::holding(cast(address), length))
}

fn value() -> impl Strategy<Value = u16> {
    prop_oneof![0_u16..20, Just(65535), any::<u16>()]
}

fn range() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![
        Just((0, 65535)),
        value().prop_map(|v| (v, v)),
        (value(), value()).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ]
}

fn areas<A: Address>(cast: fn(u128) -> A) -> impl Strategy<Value = Vec<Area<A>>> {
    let fields = (range(), range(), range(), range());
    let area = (crowded_prefix(cast), crowded_prefix(cast), fields);
    prop::collection::vec(area, 0..120).prop_map(|areas| {
        areas
            .into_iter()
            .zip(0..)
            .map(|((src, dst, (a, b, c, d)), number)| Area {
                src,
                dst,
                low: [a.0, b.0, c.0, d.0],
                high: [a.1, b.1, c.1, d.1],
                // Some rules have several areas.
                rule: number / 2,
            })
            .collect()
    })
}

fn packets() -> impl Strategy<Value = Vec<(u128, u128, Fields)>> {
    let fields = [value(), value(), value(), value()];
    prop::collection::vec((crowded_address(), crowded_address(), fields), 32)
}

fn agrees<A: Address>(areas: &[Area<A>], packets: &[(u128, u128, Fields)], cast: fn(u128) -> A) {
    let classifier = Classifier::new(areas);
    let corners = areas.iter().flat_map(|area| {
        [
            (area.src.first(), area.dst.last(), area.low),
            (area.src.last(), area.dst.first(), area.high),
        ]
    });
    let random = packets.iter().map(|&(src, dst, fields)| (cast(src), cast(dst), fields));
    for (src, dst, fields) in random.chain(corners) {
        assert_eq!(
            classifier.first_match(src, dst, fields),
            scan(areas, src, dst, fields),
            "{src:x?} {dst:x?} {fields:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_scan_v4(areas in areas(|a| (a >> 96) as u32), packets in packets()) {
        agrees(&areas, &packets, |a| (a >> 96) as u32);
    }

    #[test]
    fn agrees_with_a_scan_v6(areas in areas(|a| a), packets in packets()) {
        agrees(&areas, &packets, |a| a);
    }
}

#[test]
fn nothing_matches_no_rules() {
    assert_eq!(Classifier::<u32>::new(&[]).first_match(0, u32::MAX, [6, 1, 2, 0]), NO_RULE);
}

/// Ten thousand rules in one group: the tree must find the right one without a scan's memory.
#[test]
fn one_pair_of_prefixes_with_many_ports() {
    let areas: Vec<Area<u32>> = (0..10_000_u16)
        .map(|port| Area {
            src: Prefix::ANY,
            dst: Prefix::ANY,
            low: [6, 0, port * 5, 0],
            high: [6, u16::MAX, port * 5 + 2, 1],
            rule: port.into(),
        })
        .collect();
    let classifier = Classifier::new(&areas);
    assert!(classifier.groups.held() <= 2 * areas.len(), "{}", classifier.groups.held());
    for port in 0..u16::MAX {
        let expected =
            if port / 5 < 10_000 && port % 5 <= 2 { u32::from(port / 5) } else { NO_RULE };
        assert_eq!(classifier.first_match(1, 2, [6, 1, port, 1]), expected);
    }
}

/// Ranges nested in each other in every field: the budget ends the copying.
#[test]
fn memory_is_bounded_when_rules_overlap_without_end() {
    let areas: Vec<Area<u32>> = (0..2_000_u16)
        .map(|i| Area {
            src: Prefix::ANY,
            dst: Prefix::ANY,
            low: [0, 2_000 - i, i, 0],
            high: [255, 60_000 + i, u16::MAX - i, 1],
            rule: i.into(),
        })
        .collect();
    let classifier = Classifier::new(&areas);
    assert!(classifier.groups.held() <= 16 * areas.len(), "{}", classifier.groups.held());
    for port in (0..u16::MAX).step_by(97) {
        let fields = [6, port, port, 0];
        assert_eq!(classifier.first_match(1, 2, fields), scan(&areas, 1, 2, fields));
    }
}
