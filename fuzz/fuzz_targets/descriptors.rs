//! Descriptors: two functions that write whatever the packets say into descriptors and verdicts. The runner and the
//! host keep every packet in its room and account for all of them.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use weir_chain::{Executor, Mode, Prepared, board};
use weir_layout::Metadata;
use weir_pool::Packet;
use weir_sandbox::{Sandbox, SandboxConfig, Shared};
use weir_tests::bench_plane::{Plane, chain, function};
use weir_tests::wat_guest::{self, each};

/// Takes offset, length and verdict from twelve bytes of the packet; a zero word leaves things alone.
fn writes(at: usize) -> String {
    each(&format!(
        "(if (i32.ge_u (local.get $length) (i32.const {end})) (then
           (local.set $verdict (i32.load offset={verdict} (local.get $p)))
           (if (i32.load offset={length} (local.get $p)) (then
             (i32.store offset=4 (local.get $d) (i32.load offset={length} (local.get $p)))))
           (if (i32.load offset={at} (local.get $p)) (then
             (i32.store (local.get $d) (i32.add (i32.load (local.get $d))
               (i32.load offset={at} (local.get $p))))))))",
        length = at + 4,
        verdict = at + 8,
        end = at + 12,
    ))
}

thread_local! {
    static CHAIN: RefCell<(Executor<Plane>, Option<Plane>)> = RefCell::new(start());
}

fn start() -> (Executor<Plane>, Option<Plane>) {
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let plane = Plane::new(64);
    let window = Shared::new(plane.pool.memory()).expect("a handle");
    let functions = [0, 12, 24].map(|at| function("f", wat_guest::admitted(&writes(at)), true));
    let prepared =
        Prepared::new(&sandbox, chain(functions.to_vec()), Mode::Linked).expect("it compiles");
    let executor = prepared.instantiate(&sandbox, &window, 2048).expect("it starts");
    (executor, Some(plane))
}

fuzz_target!(|data: &[u8]| {
    CHAIN.with_borrow_mut(|(executor, lent)| {
        let plane = lent.as_mut().expect("home between runs");
        let burst: Vec<Packet> = data
            .chunks(48)
            .take(60)
            .map(|bytes| {
                let buffer = plane.pool.take().expect("64 rooms");
                let descriptor = plane.pool.place(buffer, bytes).expect("48 bytes fit");
                Packet { descriptor, metadata: Metadata::default(), time: 0, buffer, cut: 0 }
            })
            .collect();
        if burst.is_empty() {
            return;
        }
        board::fill(executor.board_mut(), plane.pool.memory_mut(), &burst, 0, 0);
        let reverse = data[0] & 1 == 1;
        let first = if reverse { 2 } else { 0 };
        executor.run(lent, burst.len(), first, reverse).expect("nothing here traps");
        let plane = lent.as_mut().expect("home between runs");
        let mut seen = vec![false; burst.len()];
        board::ends(executor.board(), |origin, descriptor, _| {
            assert!(!std::mem::replace(&mut seen[origin], true), "packet {origin} ended twice");
            let room = plane.pool.room_offset(burst[origin].buffer);
            assert!(descriptor.lies_in(room, 2048), "{descriptor:?} left its room {room:#x}");
        });
        assert!(seen.iter().all(|seen| *seen), "a packet was lost");
        for packet in burst {
            plane.pool.give(packet.buffer);
        }
        plane.clones.clear();
    });
});
