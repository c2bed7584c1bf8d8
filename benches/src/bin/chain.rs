//! The chain of six real functions, in Wasm and natively in the same loop; with a function's name,
//! that one alone.

use weir_benches::driver::{Driver, flows, median};
use weir_benches::suite::{VIP, natives, six, wasm};
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
        "ns a packet at burst {BURST}, 64-byte packets, 10,000 flows: medians of {ROUNDS} interleaved rounds"
    );
    println!("{:48}  native   wasm  share   least: native, wasm", "chain");
    let only = std::env::args().nth(1);
    let all = six();
    let names = ["monitor", "firewall", "nat", "router", "ratelimit", "l4lb"];
    for (title, entries) in names
        .iter()
        .zip(six())
        .map(|(name, entry)| ((*name).to_owned(), vec![entry]))
        .chain([(names.join(" "), all)])
    {
        if only.as_ref().is_some_and(|only| *only != title) {
            continue;
        }
        let make = || Box::new(Driver::new(flows(10_000, VIP, 80), BURST));
        let (mut native, lent) = (make(), make());
        let mut functions = natives(&native, &entries);
        let mut board = Memory::new("board", 1 << 16, HugePages::Never).expect("memory");
        let mut chain = wasm(&sandbox, &lent, &entries, Mode::Linked);
        let mut lent = Some(lent);
        let mut measured = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            measured[0].push(native.native(&mut functions, &mut board, BURSTS));
            measured[1].push(Driver::wasm(&mut lent, &mut chain, BURSTS));
        }
        let least = measured.each_ref().map(|all| all.iter().copied().fold(f64::MAX, f64::min));
        let [native, wasm] = measured.map(median);
        let share = wasm - native;
        println!(
            "{title:48}  {native:6.1}  {wasm:5.1}  {share:5.1}  {:6.1}  {:5.1}",
            least[0], least[1]
        );
    }
}
