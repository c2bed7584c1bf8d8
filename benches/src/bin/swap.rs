//! How long the data path stands still when a function is replaced, under full load.
//!
//! Each round replaces the chain's function by an upload that was never seen before. The lane says
//! how long publishing it took ("said"). The sink sees more ("seen"): the gap between the last
//! burst of the old version and the first burst of the new one, and the longest gap in the time
//! after that, while the old version's memory is given back. Beside it stand the longest gaps of
//! times in which nothing happens, and of those in which the next version is made ready. CPU time
//! leaves out what other programs on the worker's core took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_benches::driver::flows;
use weir_benches::lanes::{
    Gap, Watched, chain, function, generator, lane, pool, quantile, variant, wasm,
};
use weir_packet_plane::{FunctionPlan, Worker};
use weir_pool::HugePages;
use weir_sandbox::{Sandbox, SandboxConfig};

const SWAPS: u32 = 300;
/// What is looked at around an event: some hundred bursts.
const WINDOW: Duration = Duration::from_millis(2);
/// The aim, in microseconds.
const AIM: f64 = 50.0;

fn main() {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    println!(
        "{SWAPS} swaps under full load, each to an upload not seen before; microseconds: median, 99th percentile, longest"
    );
    println!("the aim: the data path stands still for at most {AIM} us");
    println!("{:40}{:^30}   {:^30}", "", "the worker's CPU time", "wall time");
    for (name, config, state) in cases() {
        for (round, huge) in [HugePages::Never, HugePages::Auto].into_iter().enumerate() {
            let first = round as u32 * (SWAPS + 1);
            measure(&sandbox, name, &config, state, huge, first);
        }
    }
}

/// Functions with their configuration and bytes of state.
fn cases() -> [(&'static str, String, usize); 2] {
    let rules: Vec<String> = (0..999)
        .map(|n| {
            format!(
                r#"{{"action": "deny", "proto": "udp", "src": "10.{}.0.0/16", "dport": {}}}"#,
                n % 250,
                1 + n % 7
            )
        })
        .chain([r#"{"action": "allow", "proto": "udp", "src": "10.0.0.0/8"}"#.to_owned()])
        .collect();
    [
        ("firewall", format!(r#"{{"rules": [{}]}}"#, rules.join(",")), 8 << 20),
        ("nat", r#"{"external": ["203.0.113.1"]}"#.to_owned(), 8 << 20),
    ]
}

fn measure(
    sandbox: &Arc<Sandbox>,
    name: &str,
    config: &str,
    state: usize,
    huge: HugePages,
    first: u32,
) {
    let wasm = wasm(name);
    let version = |number: u32| -> FunctionPlan {
        function(sandbox, name, &variant(&wasm, number), config, state)
    };
    let (sink, watch) = Watched::new("out");
    let source = generator(flows(10_000, [198, 51, 100, 1], 80));
    let plan = |number| chain("swap", vec![version(number)]);
    let lane = lane(sandbox, plan(first), vec![Box::new(source), Box::new(sink)], pool(huge));
    let site = lane.site();
    let worker = Worker::start("bench", None, Arc::clone(sandbox)).expect("a worker");
    worker.add("swap", lane).expect("it runs");
    let mut said = Vec::new();
    let mut ready = Vec::new();
    let [mut nothing, mut staging, mut swaps, mut after] = [const { Vec::new() }; 4];
    let mut fresh = 0;
    for number in 0..SWAPS {
        watch.forget();
        std::thread::sleep(WINDOW);
        nothing.push(watch.take().longest);

        let states = worker.with("swap", |lane| lane.states()).expect("it runs").expect("a lane");
        let plan = plan(first + number + 1);
        watch.forget();
        let started = Instant::now();
        let staged = site.stage(plan, &states).unwrap_or_else(|e| panic!("{e}"));
        ready.push(started.elapsed().as_secs_f64() * 1e6);
        staging.push(watch.take().longest);

        let mark = watch.clone();
        let published = worker.with("swap", move |lane| {
            mark.mark();
            lane.publish(staged, Some(0))
        });
        let (published, retired) =
            published.expect("it runs").expect("a lane").unwrap_or_else(|e| panic!("{e}"));
        retired.end(sandbox);
        std::thread::sleep(WINDOW);
        let seen = watch.take();
        swaps.push(seen.marked);
        after.push(seen.longest);
        said.push(published.pause.as_secs_f64() * 1e6);
        fresh += published.fresh.len();
    }
    let mut lane = worker.remove("swap").expect("it runs").expect("a lane");
    let pool = lane.finish().expect("memory does not fail");
    let (counts, _) = lane.counts();
    println!();
    println!("{name}, {huge:?} huge pages, {} packets", counts.packets_in);
    println!("  {:36}  {}", "said: publishing", line(said));
    for (what, gaps) in [
        ("seen: old version to new version", swaps),
        ("seen: afterwards, the old one ends", after),
        ("seen: the next one is made ready", staging),
        ("seen: nothing happens", nothing),
    ] {
        let column =
            |of: fn(&Gap) -> u64| line(gaps.iter().map(|gap| of(gap) as f64 / 1e3).collect());
        println!("  {what:36}  {}   {}", column(|gap| gap.cpu), column(|gap| gap.wall));
    }
    println!("  {:36}  {}", "making it ready, off the data path", line(ready));
    println!(
        "  packets lost: {}, buffers lost: {}, swaps without the state: {fresh}",
        counts.packets_in - counts.packets_out,
        pool.out
    );
}

fn line(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |per_mille| quantile(&values, per_mille);
    format!("{:9.1} {:9.1} {:9.1}", at(500), at(990), at(1000))
}
