//! Buffers: nobody gets one twice, none is lost, and no descriptor reaches beyond its room.

use std::collections::HashSet;

use proptest::prelude::*;
use weir_layout::{BURST_AREA, Descriptor, HEADROOM};
use weir_pool::{Accounting, BufferIndex, HugePages, Pool, PoolConfig, PoolError};

fn pool(rooms: u32, room_bytes: u32) -> Pool {
    Pool::new("test", &PoolConfig { rooms, room_bytes, huge: HugePages::Never }).expect("pool")
}

#[test]
fn the_hottest_buffer_comes_first() {
    let mut pool = pool(4, 2048);
    let (a, b) = (pool.take().expect("a"), pool.take().expect("b"));
    assert_eq!((a.get(), b.get()), (0, 1));
    pool.give(a);
    assert_eq!(pool.take(), Some(a));
    assert_eq!(pool.accounting(), Accounting { total: 4, free: 2, out: 2 });
}

#[test]
fn an_empty_pool_gives_nothing() {
    let mut pool = pool(65, 512);
    let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(all.len(), 65);
    assert_eq!(pool.take(), None);
    assert_eq!(pool.accounting(), Accounting { total: 65, free: 0, out: 65 });
    all.into_iter().for_each(|buffer| pool.give(buffer));
    assert_eq!(pool.accounting(), Accounting { total: 65, free: 65, out: 0 });
}

#[test]
#[should_panic(expected = "given twice")]
fn giving_twice_is_noticed() {
    let mut pool = pool(4, 2048);
    let buffer = pool.take().expect("buffer");
    pool.give(buffer);
    pool.give(buffer);
}

#[test]
#[should_panic(expected = "of another pool")]
fn a_foreign_buffer_is_noticed() {
    let mut big = pool(1000, 512);
    let last = std::iter::from_fn(|| big.take()).last().expect("buffer");
    pool(4, 2048).give(last);
}

#[test]
fn packets_lie_behind_the_headroom() {
    let mut pool = pool(2, 512);
    let first = pool.take().expect("buffer");
    let second = pool.take().expect("buffer");
    let descriptor = pool.place(second, &[7; 384]).expect("fits exactly");
    assert_eq!(descriptor.offset as usize, BURST_AREA + 512 + HEADROOM);
    assert_eq!(pool.index_of(descriptor.offset), Some(second));
    assert_eq!(pool.bytes(descriptor), Some(&[7; 384][..]));
    assert_eq!(pool.place(first, &[7; 385]), None);
    assert_eq!(pool.place(first, &[]).map(|empty| empty.length), Some(0));
    pool.bytes_mut(descriptor).expect("bytes")[0] = 9;
    assert_eq!(pool.memory().get::<u8>(descriptor.offset as usize), 9);
}

#[test]
fn a_packet_may_fill_its_room_and_no_more() {
    for room_bytes in [512, 2048, 65_536] {
        let pool = pool(2, room_bytes);
        for room in [BURST_AREA as u32, BURST_AREA as u32 + room_bytes] {
            for ahead in [0, 1, 128, room_bytes - 1] {
                let descriptor = |length| Descriptor {
                    offset: room + ahead,
                    length: room_bytes - ahead + length,
                };
                assert!(pool.bytes(descriptor(0)).is_some(), "{:?}", descriptor(0));
                assert!(pool.bytes(descriptor(1)).is_none(), "{:?}", descriptor(1));
            }
        }
        assert!(pool.bytes(Descriptor { offset: BURST_AREA as u32 - 1, length: 1 }).is_none());
    }
}

#[test]
fn impossible_pools_are_refused() {
    let make = |rooms, room_bytes| {
        Pool::new("test", &PoolConfig { rooms, room_bytes, huge: HugePages::Never })
    };
    for room_bytes in [0, 256, 513, 2047, 131_072] {
        assert!(matches!(make(1, room_bytes), Err(PoolError::RoomBytes { .. })), "{room_bytes}");
    }
    for rooms in [0, 1 << 20, u32::MAX] {
        let error = make(rooms, 2048).expect_err("too few or many");
        assert!(error.to_string().contains("at most 1048544"), "{error}");
    }
}

#[test]
fn a_burst_comes_in_the_same_order() {
    let (mut one, mut many) = (pool(8, 512), pool(8, 512));
    let mut burst = Vec::new();
    many.take_all(&mut burst, 3);
    assert_eq!(burst, std::iter::from_fn(|| one.take()).take(3).collect::<Vec<_>>());
    many.give_all(burst.drain(..));
    assert_eq!(many.take().map(BufferIndex::get), Some(2));
}

#[test]
#[should_panic(expected = "given twice")]
fn giving_twice_in_a_burst_is_noticed() {
    let mut pool = pool(4, 2048);
    let buffer = pool.take().expect("buffer");
    pool.give_all([buffer, buffer].into_iter());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    TakeAll(u8),
    Give(u8),
    GiveAll(u8),
}

impl Arbitrary for Step {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        prop_oneof![
            Just(Self::Take),
            (0..40_u8).prop_map(Self::TakeAll),
            any::<u8>().prop_map(Self::Give),
            any::<u8>().prop_map(Self::GiveAll),
        ]
        .boxed()
    }
}

proptest! {
    /// Any series of takes and gives, one by one and in bursts, keeps the account, and a buffer out
    /// is never handed out again.
    #[test]
    fn accounts_balance(steps in prop::collection::vec(any::<Step>(), 0..400)) {
        let mut pool = pool(100, 512);
        let mut mine = Vec::new();
        for step in steps {
            let had = mine.len();
            match step {
                Step::Take => match pool.take() {
                    Some(buffer) => mine.push(buffer),
                    None => prop_assert_eq!(had, 100),
                },
                Step::TakeAll(most) => {
                    pool.take_all(&mut mine, most.into());
                    prop_assert_eq!(mine.len(), (had + usize::from(most)).min(100));
                }
                Step::Give(which) if had > 0 => {
                    let buffer = mine.swap_remove(usize::from(which) % had);
                    pool.give(buffer);
                    prop_assert!(!pool.is_out(buffer));
                }
                Step::GiveAll(from) if had > 0 => {
                    pool.give_all(mine.drain(usize::from(from) % had..));
                }
                _ => {}
            }
            let distinct: HashSet<_> = mine.iter().collect();
            prop_assert_eq!(distinct.len(), mine.len());
            prop_assert!(mine.iter().all(|&buffer| pool.is_out(buffer)));
            let out = mine.len() as u32;
            prop_assert_eq!(pool.accounting(), Accounting { total: 100, free: 100 - out, out });
        }
    }

    /// `bytes` agrees with the definition in `wit/window.md`, whatever a guest writes.
    #[test]
    fn descriptors_stay_in_one_room(
        offset in prop_oneof![any::<u32>(), 0u32..0x1_3000],
        length in prop_oneof![any::<u32>(), 0u32..2048],
        shift in 9u32..=12,
    ) {
        let room_bytes = 1 << shift;
        let pool = pool(3, room_bytes);
        let descriptor = Descriptor { offset, length };
        let expected = (0..3).any(|i| {
            descriptor.lies_in(BURST_AREA as u32 + i * room_bytes, room_bytes)
        });
        prop_assert_eq!(pool.bytes(descriptor).is_some(), expected);
        if let Some(bytes) = pool.bytes(descriptor) {
            prop_assert_eq!(bytes.len(), length as usize);
        }
    }
}
