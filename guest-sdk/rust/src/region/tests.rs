//! Tests of the containers against the standard library's, and with garbage.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{HEADER, StateMap, StateRegion};
use crate::flow::Hasher;
use crate::memory::Chunk;

const BYTES: usize = 1 << 20;

fn region(memory: &Chunk, kept: bool) -> StateRegion {
    StateRegion::attached(memory.clone(), kept)
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    Change(u16, u32),
    Sweep(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u16..400, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        3 => (0_u16..400).prop_map(Step::Remove),
        3 => (0_u16..400, any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        1 => (0_u32..4).prop_map(Step::Sweep),
    ]
}

proptest! {
    #[test]
    fn a_map_does_what_a_hash_map_does(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..600)) {
        let hasher = Hasher::new(seed);
        let memory = Chunk::zeroed(BYTES);
        let mut map = region(&memory, false).map::<u16, u32>("m", 400).unwrap();
        let mut model = HashMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(key, value) => {
                    map.insert(hasher.hash(&key), key, value).unwrap();
                    model.insert(key, value);
                }
                Step::Remove(key) => {
                    prop_assert_eq!(map.remove(hasher.hash(&key), &key), model.remove(&key));
                }
                Step::Change(key, value) => {
                    if let Some(there) = map.find_mut(hasher.hash(&key), &key) {
                        *there = value;
                    }
                    model.entry(key).and_modify(|there| *there = value);
                }
                Step::Sweep(rest) => {
                    let mut from = 0;
                    loop {
                        from = map.sweep(from, 50, |key, _| u32::from(*key) % 4 != rest);
                        if from == 0 {
                            break;
                        }
                    }
                    model.retain(|key, _| u32::from(*key) % 4 != rest);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            if at % 50 == 0 {
                // The successor finds the same.
                map = region(&memory, true).map("m", 400).unwrap();
            }
        }
        for key in 0..400 {
            prop_assert_eq!(map.find(hasher.hash(&key), &key), model.get(&key));
        }
        let found: HashMap<u16, u32> =
            (0..map.slots()).filter_map(|slot| map.at(slot)).map(|(k, v)| (*k, *v)).collect();
        prop_assert_eq!(found, model);
    }

    /// Whatever the region holds behind an agreeing header, nothing is reached outside of it and
    /// everything ends.
    #[test]
    fn garbage_is_survived(garbage in prop::collection::vec(any::<u8>(), 4096), keys in prop::collection::vec(any::<u64>(), 50)) {
        let memory = Chunk::zeroed(BYTES);
        let map = region(&memory, false).map::<u64, u64>("m", 100).unwrap();
        let len_at = size_of::<super::Shape>();
        memory.write(len_at, &garbage[..HEADER - len_at]);
        for at in (HEADER..HEADER + map.slots() * 17 + 64).step_by(garbage.len()) {
            memory.write(at, &garbage);
        }
        let mut map: StateMap<u64, u64> = region(&memory, true).map("m", 100).unwrap();
        let hasher = Hasher::new(1);
        for key in keys {
            let hash = hasher.hash(&key);
            let mut probe = [hash.into()];
            map.look_ahead(&mut probe);
            prop_assert_eq!(map.find(probe[0], &key), map.find(hash, &key));
            if map.insert(hash, key, 1).is_ok() {
                prop_assert_eq!(map.find(hash, &key), Some(&1));
                map.look_ahead(&mut probe);
                prop_assert_eq!(map.find(probe[0], &key), Some(&1));
            }
            map.retain_near(hash, |key, _| key % 2 == 0);
            map.remove(hash, &key);
            prop_assert!(map.find(hash, &key).is_none());
            prop_assert!(map.find(probe[0], &key).is_none(), "where it was before");
            prop_assert!(map.len() <= map.slots());
        }
        map.clear();
        prop_assert!(map.is_empty() && (0..map.slots()).all(|slot| map.at(slot).is_none()));
    }
}

/// Behind the header: what a fresh container says of its contents.
#[test]
fn opening_what_agrees_writes_nothing() {
    let memory = Chunk::zeroed(BYTES);
    let mut first = region(&memory, false);
    first.map::<u64, u64>("flows", 100).unwrap().insert(3, 4, 5).unwrap();
    first.array::<u32>("rates", 10).unwrap()[9] = 7;
    let before = memory.to_vec();

    let mut second = region(&memory, true);
    assert!(second.kept());
    let flows = second.map::<u64, u64>("flows", 100).unwrap();
    let rates = second.array::<u32>("rates", 10).unwrap();
    assert_eq!((flows.find(3, &4), flows.len(), rates[9]), (Some(&5), 1, 7));
    assert!(memory.to_vec() == before);
}

#[test]
fn what_does_not_agree_is_fresh() {
    let memory = Chunk::zeroed(BYTES);
    let fill = || {
        let mut map = region(&memory, false).map::<u64, u64>("flows", 100).unwrap();
        map.clear();
        map.insert(3, 4, 5).unwrap();
    };
    let kept = || region(&memory, true);
    fill();
    assert_eq!(kept().map::<u64, u64>("flows", 100).unwrap().len(), 1);
    assert_eq!(kept().map::<u64, u64>("other", 100).unwrap().len(), 0);
    fill();
    assert_eq!(kept().map::<u64, u64>("flows", 101).unwrap().len(), 0);
    fill();
    assert_eq!(kept().map::<u32, u64>("flows", 100).unwrap().len(), 0);
    fill();
    assert_eq!(kept().map::<u64, u32>("flows", 100).unwrap().len(), 0);
    fill();
    assert!(kept().array::<u64>("flows", 100).unwrap().iter().all(|value| *value == 0));
}

#[test]
fn a_region_that_is_too_small_says_what_is_needed() {
    let memory = Chunk::zeroed(1 << 16);
    let mut region = region(&memory, false);
    let error = region.map::<u64, u64>("flows", 1 << 20).unwrap_err();
    assert!(error.contains("`flows` takes 2") && error.contains("65536"), "{error}");
    let error = region.array::<u64>("rates", usize::MAX).unwrap_err();
    assert!(error.contains("`rates`"), "{error}");
    assert!(region.map::<u64, u64>("flows", usize::MAX / 2).is_err());
    assert!(region.array::<u64>("rates", 1000).is_ok());
    assert_eq!(region.free(), (1 << 16) - 64 - 8000);
}

/// How much of its capacity a map takes before it is full for some key.
#[test]
fn the_capacity_fits() {
    for capacity in [1, 5, 12, 13, 64, 100, 1000, 10_000, 100_000] {
        for seed in 0..(200_000 / capacity as u64).min(2_000) {
            let hasher = Hasher::new(seed);
            let mut map = StateRegion::heap().map::<u64, u8>("m", capacity).unwrap();
            for key in 0..capacity as u64 {
                assert!(
                    map.insert(hasher.hash(&key), key, 0).is_ok(),
                    "full at {key} of {capacity}, seed {seed}"
                );
            }
        }
    }
}

#[test]
fn a_full_map_says_so_and_room_can_be_made() {
    let hasher = Hasher::new(0);
    let mut map = StateRegion::heap().map::<u64, u64>("m", 1000).unwrap();
    let full = (0..10_000_u64).find(|key| map.insert(hasher.hash(key), *key, *key).is_err());
    let key = full.expect("1264 slots are soon full");
    let hash = hasher.hash(&key);
    assert!(map.len() >= 1000 && map.len() <= map.slots());
    let freed = map.retain_near(hash, |_, value| *value % 2 == 0);
    assert!((1..=32).contains(&freed));
    assert!(map.insert(hash, key, key).is_ok());
    assert_eq!(map.at(map.slot(hash, &key).unwrap()), Some((&key, &key)));
    // One goes at a time, the lowest first; what has no rank stays.
    let rank = |key: &u64, _: &u64| key.is_multiple_of(4).then_some(*key);
    let mut ranked = Vec::new();
    map.retain_near(hash, |key, _| {
        ranked.extend(rank(key, key));
        true
    });
    ranked.sort_unstable();
    assert!(ranked.len() > 1);
    for gone in ranked {
        assert!(map.evict_near(hash, rank));
        assert_eq!(map.find(hasher.hash(&gone), &gone), None);
    }
    let left = map.len();
    assert!(!map.evict_near(hash, rank) && map.len() == left);
}
