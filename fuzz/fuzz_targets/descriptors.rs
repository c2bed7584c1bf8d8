//! Descriptors: functions that write whatever the packets say into descriptors and verdicts, their
//! own packets' and others', and trap. The runner and the host keep every packet in its room and
//! account for all of them, and what is left in the window is nobody's: a burst that asks for
//! nothing passes.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use weir_chain::{Executor, Mode, Prepared, board};
use weir_layout::{Descriptor, Metadata};
use weir_pool::Packet;
use weir_sandbox::{Sandbox, SandboxConfig, Shared};
use weir_tests::bench_plane::{Plane, chain, function};
use weir_tests::wat_guest::{self, each};

/// Bytes that a function reads of each packet.
const ORDER: usize = 16;

/// Takes offset, length and verdict from twelve bytes of the packet; a zero word leaves things
/// alone. The next word is all ones for a trap, else it names another verdict to be spoilt.
fn writes(at: usize) -> String {
    each(&format!(
        "(if (i32.ge_u (local.get $length) (i32.const {end})) (then
           (local.set $verdict (i32.load offset={verdict} (local.get $p)))
           (if (i32.load offset={other} (local.get $p)) (then
             (if (i32.eq (i32.load offset={other} (local.get $p)) (i32.const -1))
               (then unreachable))
             (i32.store offset=0x1000 (i32.add (global.get $window) (i32.shl
               (i32.and (i32.load offset={other} (local.get $p)) (i32.const 0xff)) (i32.const 2)))
               (i32.const 0xff))))
           (if (i32.load offset={length} (local.get $p)) (then
             (i32.store offset=4 (local.get $d) (i32.load offset={length} (local.get $p)))))
           (if (i32.load offset={at} (local.get $p)) (then
             (i32.store (local.get $d) (i32.add (i32.load (local.get $d))
               (i32.load offset={at} (local.get $p))))))))",
        length = at + 4,
        verdict = at + 8,
        other = at + 12,
        end = at + ORDER,
    ))
}

struct Chain {
    sandbox: Sandbox,
    prepared: Prepared,
    executor: Executor<Plane>,
    lent: Option<Plane>,
}

thread_local! {
    static CHAIN: RefCell<Chain> = RefCell::new(Chain::start());
}

impl Chain {
    fn start() -> Self {
        let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
        let plane = Plane::new(64);
        let functions =
            [0, ORDER, 2 * ORDER].map(|at| function("f", wat_guest::admitted(&writes(at)), true));
        let prepared =
            Prepared::new(&sandbox, chain(functions.to_vec()), Mode::Linked).expect("it compiles");
        let executor = Self::instantiate(&sandbox, &prepared, &plane);
        Self { sandbox, prepared, executor, lent: Some(plane) }
    }

    fn instantiate(sandbox: &Sandbox, prepared: &Prepared, plane: &Plane) -> Executor<Plane> {
        let window = Shared::new(plane.pool.memory()).expect("a handle");
        prepared.instantiate(sandbox, &window, 2048).expect("it starts")
    }

    /// Passes a burst of packets with these bytes through the chain; whether all of it passed
    /// untouched.
    fn pass<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>, reverse: bool) -> bool {
        let plane = self.lent.as_mut().expect("home between runs");
        let burst: Vec<Packet> = packets
            .map(|bytes| {
                let buffer = plane.pool.take().expect("64 rooms");
                let descriptor = plane.pool.place(buffer, bytes).expect("48 bytes fit");
                Packet { descriptor, metadata: Metadata::default(), time: 0, buffer, cut: 0 }
            })
            .collect();
        board::fill(self.executor.board_mut(), plane.pool.memory_mut(), &burst, 0, 0);
        let first = if reverse { 2 } else { 0 };
        let ran = self.executor.run(&mut self.lent, burst.len(), first, reverse);
        let plane = self.lent.as_mut().expect("home between runs");
        let mut seen = vec![false; burst.len()];
        let mut end = |origin: usize, descriptor: Descriptor| {
            assert!(!std::mem::replace(&mut seen[origin], true), "packet {origin} ended twice");
            let room = plane.pool.room_offset(burst[origin].buffer);
            assert!(descriptor.lies_in(room, 2048), "{descriptor:?} left its room {room:#x}");
        };
        let board = self.executor.board();
        let passed = ran.is_ok() && board::all_passed(board);
        if ran.is_ok() {
            board::ends(board, |origin, descriptor, _| end(origin, descriptor));
        } else {
            board::departed(board, &mut |origin, descriptor, _| end(origin, descriptor));
            board::stranded(board, |stranded| end(stranded.origin, stranded.descriptor));
        }
        assert!(seen.iter().all(|seen| *seen), "a packet was lost");
        for packet in burst {
            plane.pool.give(packet.buffer);
        }
        plane.clones.clear();
        if ran.is_err() {
            self.executor = Self::instantiate(&self.sandbox, &self.prepared, plane);
        }
        passed
    }
}

fuzz_target!(|data: &[u8]| {
    if data.is_empty() {
        return;
    }
    CHAIN.with_borrow_mut(|chain| {
        chain.pass(data.chunks(3 * ORDER).take(60), data[0] & 1 == 1);
        let calm = [0; 3 * ORDER];
        let passed = chain.pass(std::iter::repeat_n(&calm[..], 60), false);
        assert!(passed, "a verdict was left for packets that nobody gave one");
    });
});
