//! A linked chain and the same chain run one by one do exactly the same, whatever functions decide
//! and whatever they write.

use std::sync::Arc;

use proptest::prelude::*;
use weir_chain::board::{self, End};
use weir_chain::{Executor, Mode, Prepared};
use weir_layout::{Descriptor, Metadata, VERDICT_FINAL};
use weir_pool::Packet;
use weir_sandbox::{Admitted, Sandbox, SandboxConfig, Shared};
use weir_tests::bench_plane::{Plane, chain, function};
use weir_tests::wat_guest::{self, each};

/// A guest that takes its verdict from the packet: the `u32` at this offset, if it is that long.
fn obeys(offset: usize) -> String {
    each(&format!(
        "(if (i32.ge_u (local.get $length) (i32.const {end}))
          (then (local.set $verdict (i32.load offset={offset} (local.get $p)))))",
        end = offset + 4
    ))
}

/// A guest that also changes packets: adds 1 to a byte, and strips or prepends by what the byte
/// says.
fn changes(offset: usize) -> String {
    each(&format!(
        "(if (i32.gt_u (local.get $length) (i32.const {offset})) (then
          (i32.store8 offset={offset} (local.get $p)
            (i32.add (i32.load8_u offset={offset} (local.get $p)) (i32.const 1)))
          (if (i32.eqz (i32.and (i32.load8_u offset={offset} (local.get $p)) (i32.const 3))) (then
            (i32.store (local.get $d) (i32.sub (i32.load (local.get $d)) (i32.const 4)))
            (i32.store offset=4 (local.get $d) (i32.add (local.get $length) (i32.const 4)))))
          (if (i32.eqz (i32.and (i32.load8_u offset={offset} (local.get $p)) (i32.const 31))) (then
            (i32.store (local.get $d) (i32.load offset={offset} (local.get $p)))))))"
    ))
}

/// What one run does: ends in order, bytes, clones, and who let which flows pass for good.
type Trace = (Vec<(usize, Descriptor, End, Vec<u8>)>, Vec<(u32, u32, u32)>, Vec<(usize, u64)>);

fn run(
    executor: &mut Executor<Plane>,
    plane: Plane,
    packets: &[Vec<u8>],
    start: usize,
    reverse: bool,
) -> (Trace, Plane) {
    let mut plane = plane;
    let mut burst = Vec::new();
    for (i, bytes) in packets.iter().enumerate() {
        let buffer = plane.pool.take().unwrap();
        let descriptor = plane.pool.place(buffer, bytes).unwrap();
        burst.push(Packet {
            descriptor,
            metadata: Metadata { port: 1, flags: 0, hash: i as u32 },
            time: 0,
            buffer,
            cut: 0,
        });
    }
    board::fill(executor.board_mut(), plane.pool.memory_mut(), &burst, 7, 9);
    let mut lent = Some(plane);
    executor.run(&mut lent, burst.len(), start, reverse).unwrap();
    let mut plane = lent.unwrap();
    let mut ends = Vec::new();
    board::ends(executor.board(), |origin, descriptor, end| {
        ends.push((
            origin,
            descriptor,
            end,
            plane.pool.bytes(descriptor).unwrap_or_default().to_vec(),
        ));
    });
    let all_passed = board::all_passed(executor.board());
    let mut finals = Vec::new();
    board::take_finals(executor.board_mut(), |origin, functions| finals.push((origin, functions)));
    if all_passed {
        let passed = |(origin, packet): (usize, &Packet)| (origin, packet.descriptor, End::Through);
        let whole = ends.iter().map(|(origin, descriptor, end, _)| (*origin, *descriptor, *end));
        assert!(whole.eq(burst.iter().enumerate().map(passed)) && finals.is_empty());
    }
    for packet in burst.iter().rev() {
        plane.pool.give(packet.buffer);
    }
    let clones = std::mem::take(&mut plane.clones);
    ((ends, clones, finals), plane)
}

fn verdict_word() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => Just(0u32),
        2 => (0u32..9).prop_map(|kind| kind),
        2 => (0u32..9).prop_map(|kind| kind | VERDICT_FINAL),
        1 => Just(0x203 | VERDICT_FINAL),
        2 => (0u32..6, prop_oneof![Just(1u32), Just(3), Just(5), Just(7), Just(8)]).prop_map(|(n, kind)| kind | n << 8),
        1 => any::<u32>(),
    ]
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    // Some are so long that a burst of them is given to a function in several parts.
    let tail = prop_oneof![0usize..200, 1200usize..1800];
    (prop::collection::vec(verdict_word(), 0..8), tail).prop_map(|(words, tail)| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.resize(bytes.len() + tail, 3);
        bytes
    })
}

#[test]
fn linked_and_separate_chains_agree() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let copying: Arc<Admitted> = Arc::new(weir_sandbox::admit(&wat_guest::copying()).unwrap());
    let mut guests: Vec<(Arc<Admitted>, bool)> =
        (0..4).map(|k| (wat_guest::admitted(&obeys(k * 4)), k % 2 == 0)).collect();
    guests.push((wat_guest::admitted(&changes(20)), true));
    guests.push((copying.clone(), true));
    guests.push((copying, false));
    for (head, writes) in [(64, true), (64, false), (65_536, true)] {
        let bursting = weir_sandbox::admit(&wat_guest::bursting(head)).unwrap();
        guests.push((Arc::new(bursting), writes));
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(24));
    let input = (
        prop::collection::vec(0..guests.len(), 1..7),
        prop::collection::vec(
            (prop::collection::vec(packet(), 1..70), 0usize..7, any::<bool>()),
            1..12,
        ),
    );
    runner
        .run(&input, |(picks, bursts)| {
            let functions = picks.iter().enumerate().map(|(k, pick)| {
                let (admitted, writes) = guests[*pick].clone();
                function(&format!("f{k}"), admitted, writes)
            });
            let spec = chain(functions.collect());
            let mut planes = [Plane::new(128), Plane::new(128)];
            let mut executors = Vec::new();
            for (plane, mode) in planes.iter().zip([Mode::Linked, Mode::Separate]) {
                let window = Shared::new(plane.pool.memory()).unwrap();
                let prepared = Prepared::new(&sandbox, spec.clone(), mode).unwrap();
                executors.push(prepared.instantiate::<Plane>(&sandbox, &window, 2048).unwrap());
            }
            for (packets, start, reverse) in &bursts {
                let start = start % picks.len();
                let [a, b] = planes;
                let (linked, a) = run(&mut executors[0], a, packets, start, *reverse);
                let (separate, b) = run(&mut executors[1], b, packets, start, *reverse);
                prop_assert_eq!(linked, separate);
                planes = [a, b];
            }
            for k in 0..picks.len() {
                prop_assert_eq!(
                    board::usage(executors[0].board(), k),
                    board::usage(executors[1].board(), k)
                );
            }
            prop_assert_eq!(planes[0].pool.accounting().out, 0);
            Ok(())
        })
        .unwrap();
}
