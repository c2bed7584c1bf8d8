//! What a hop costs: chains of `null` functions, linked, one by one, and natively in the same loop.

use weir_benches::driver::{Driver, flows, median};
use weir_benches::suite::{entry, natives, wasm};
use weir_chain::Mode;
use weir_pool::{HugePages, Memory};
use weir_sandbox::{Sandbox, SandboxConfig};

const ROUNDS: usize = 11;
const BURSTS: u64 = 50_000;
const BURST: usize = 32;

fn main() {
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
    let _ticking = sandbox.ticker().tick();
    println!(
        "ns a packet at burst {BURST}, 64-byte packets: medians of {ROUNDS} interleaved rounds"
    );
    println!("functions  native  linked  one by one  linked less native, by function");
    for n in [1usize, 2, 4, 6, 12] {
        let make = || Box::new(Driver::new(flows(10_000, [198, 51, 100, 1], 80), BURST));
        let entries: Vec<_> = (0..n).map(|_| entry::<null::Null>("null", "{}", 0, true)).collect();
        let mut native = make();
        let mut functions = natives(&native, &entries);
        let mut board = Memory::new("board", 1 << 16, HugePages::Never).expect("memory");
        let (linked, separate) = (make(), make());
        let mut linked_chain = wasm(&sandbox, &linked, &entries, Mode::Linked);
        let mut separate_chain = wasm(&sandbox, &separate, &entries, Mode::Separate);
        let (mut linked, mut separate) = (Some(linked), Some(separate));
        let mut measured = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            measured[0].push(native.native(&mut functions, &mut board, BURSTS));
            measured[1].push(Driver::wasm(&mut linked, &mut linked_chain, BURSTS));
            measured[2].push(Driver::wasm(&mut separate, &mut separate_chain, BURSTS / 10));
        }
        let [native, linked, separate] = measured.map(median);
        let hop = (linked - native) / n as f64;
        println!("{n:9}  {native:6.2}  {linked:6.2}  {separate:10.2}  {hop:8.2}");
    }
}
