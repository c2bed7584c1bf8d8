//! Several chains between the same ports: rules, verdicts for whole flows, and flows that functions
//! move elsewhere.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_layout::{VERDICT_FINAL, Verdict};
use weir_packet_plane::{
    Clock, Counters, DROP_REASONS, DropReason, FunctionPlan, Lane, LaneConfig, Rules, Standing,
    States, Station, Turn,
};
use weir_pool::{HugePages, PoolConfig};
use weir_port::memory::{ChannelPort, Wire, channel};
use weir_port::{Moved, Port, pass_on};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_steering::{Key, Rule, Table, Target};
use weir_tests::rig::{dropped, dropped_by_reason, function, plan};
use weir_tests::wat_guest::{self, each};

const ROOMS: u32 = 512;
/// Where the payload of a [`datagram`] begins.
const PAYLOAD: usize = 42;

/// Decides as the four bytes at this offset say.
fn obeys(offset: usize) -> FunctionPlan {
    let body = each(&format!(
        "(if (i32.ge_u (local.get $length) (i32.const {end}))
          (then (local.set $verdict (i32.load offset={offset} (local.get $p)))))",
        end = offset + 4
    ));
    function("obeys", wat_guest::admitted(&body))
}

/// Writes this byte behind the payload's verdicts, so that one sees who had the packet.
fn marks(name: &str, offset: usize, mark: u8) -> FunctionPlan {
    let body = each(&format!("(i32.store8 offset={offset} (local.get $p) (i32.const {mark}))"));
    function(name, wat_guest::admitted(&body))
}

/// A UDP datagram of the flow with this source port, with this payload.
fn datagram(flow: u16, payload: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [192, 0, 2, 7], 64)
        .udp(flow, 53)
        .write(&mut bytes, &payload)
        .expect("a frame");
    bytes
}

/// The answer to a [`datagram`].
fn answer(flow: u16, payload: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 7], [10, 0, 0, 1], 64)
        .udp(53, flow)
        .write(&mut bytes, &payload)
        .expect("a frame");
    bytes
}

/// What a port is told about moved flows: where they go, and that they are void.
type Told = Arc<Mutex<Vec<Option<Moved>>>>;

/// A wire that notes what it is told about moved flows, and perhaps has a way to the kernel's
/// stack.
struct Noting {
    port: ChannelPort,
    told: Told,
    reaches_kernel: bool,
}

impl Port for Noting {
    pass_on!(port: name, kind, attach, receive, send, finish, statistics);

    fn reaches_kernel(&self) -> bool {
        self.reaches_kernel
    }

    fn place_flow(&mut self, _: &Key, to: Moved) -> bool {
        self.told.lock().expect("no panic").push(Some(to));
        true
    }

    fn forget_flows(&mut self) {
        self.told.lock().expect("no panic").push(None);
    }
}

/// A station between two wires, driven by the test.
struct Rig {
    station: Station,
    inside: Wire,
    outside: Wire,
    sandbox: Arc<Sandbox>,
    counters: Vec<Arc<weir_packet_plane::Shared>>,
}

impl Rig {
    fn new() -> Self {
        Self::between(|port, _| Box::new(port))
    }

    /// Each port (its number) as this makes it of a wire's.
    fn between(mut of: impl FnMut(ChannelPort, usize) -> Box<dyn Port>) -> Self {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
        let (in_port, inside) = channel("in");
        let (out_port, outside) = channel("out");
        let config = LaneConfig {
            pool: PoolConfig { rooms: ROOMS, room_bytes: 2048, huge: HugePages::Never },
            ports: vec![of(in_port, 0), of(out_port, 1)],
            symmetric: true,
            clock: Clock::Capture,
            burst: 32,
            seed: 1,
            on_event: None,
        };
        let station = Station::new(Arc::clone(&sandbox), "test", config, 1024).expect("memory");
        let counters = vec![station.counters()];
        Self { station, inside, outside, sandbox, counters }
    }

    fn add(&mut self, name: &str, functions: Vec<FunctionPlan>, takes_rest: bool) {
        let lane = Lane::aside(self.station.site(), plan(functions), None, &States::default())
            .expect("a lane");
        self.counters.push(lane.counters());
        self.station.add(name.into(), lane, takes_rest);
    }

    fn settle(&mut self) {
        let _ticking = self.sandbox.ticker().tick();
        while self.station.turn() == Turn::Busy {}
    }

    /// Sends datagrams in, and gives what comes out on the other side.
    fn forth(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for frame in frames {
            assert!(self.inside.push(frame.clone()));
        }
        self.settle();
        drain(&self.outside)
    }

    /// Sends datagrams in, as one burst that came at this time.
    fn push_at(&mut self, time: u64, frames: &[Vec<u8>]) {
        for frame in frames {
            assert!(self.inside.push_at(frame.clone(), time));
        }
        self.settle();
    }

    /// The same in the other direction.
    fn back(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for frame in frames {
            assert!(self.outside.push(frame.clone()));
        }
        self.settle();
        drain(&self.inside)
    }

    fn steer(&mut self, rules: &[Rule], chains: &[&str]) -> Vec<Arc<AtomicU64>> {
        let hits: Vec<Arc<AtomicU64>> = rules.iter().map(|_| Arc::default()).collect();
        let chains = chains.iter().map(|name| (*name).to_owned()).collect();
        let table = Table::new(rules);
        drop(self.station.steer(Arc::new(Rules { table, chains, hits: hits.clone() })));
        hits
    }

    /// Counts of a lane, 1 for the first that was added; 0 for what no lane had.
    fn counts(&self, lane: usize) -> Counters {
        self.counters[lane].read().0
    }

    /// Ends it: every buffer is back, every packet is accounted for.
    fn finish(mut self) {
        let _ticking = self.sandbox.ticker().tick();
        let pool = self.station.finish().expect("wires do not fail");
        assert_eq!((pool.out, pool.free), (0, ROOMS), "buffers were lost");
        for shared in &self.counters {
            let counters = shared.read().0;
            let gone = counters.packets_out + counters.packets_to_kernel + counters.packets_moved;
            let dropped = dropped(&counters);
            assert_eq!(
                counters.packets_in + counters.packets_made,
                gone + dropped,
                "{:?}",
                dropped_by_reason(&counters)
            );
        }
    }
}

fn drain(wire: &Wire) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.take(Duration::ZERO)).collect()
}

/// Source ports and marks of what came out.
fn seen(frames: &[Vec<u8>], mark: usize) -> Vec<(u16, u8)> {
    frames.iter().map(|f| (u16::from_be_bytes([f[34], f[35]]), f[mark])).collect()
}

fn by_source_port(ports: std::ops::RangeInclusive<u16>, target: Target) -> Rule {
    let source_ports = Some((*ports.start(), *ports.end()));
    Rule { protocol: Some(17), source_ports, ..Rule::all(target) }
}

fn drops(counters: &Counters, reason: DropReason) -> u64 {
    assert_eq!(DROP_REASONS[reason as usize].0, reason);
    counters.drops[reason as usize]
}

#[test]
fn rules_choose_the_chain_and_new_ones_hold_at_once() {
    const MARK: usize = PAYLOAD;
    let mut rig = Rig::new();
    rig.add("default", vec![marks("a", MARK, 1)], true);
    rig.add("inspect", vec![marks("b", MARK, 2)], false);
    let burst: Vec<_> = (1..=6).map(|flow| datagram(flow, &[0])).collect();
    assert_eq!(seen(&rig.forth(&burst), MARK), (1..=6).map(|flow| (flow, 1)).collect::<Vec<_>>());
    let rules = [
        by_source_port(2..=3, Target::Chain(0)),
        by_source_port(3..=4, Target::Drop),
        by_source_port(6..=6, Target::Kernel),
    ];
    let hits = rig.steer(&rules, &["inspect"]);
    for _ in 0..3 {
        let mut out = seen(&rig.forth(&burst), MARK);
        out.sort_unstable();
        assert_eq!(out, [(1, 1), (2, 2), (3, 2), (5, 1)]);
    }
    let hits: Vec<u64> = hits.iter().map(|hits| hits.load(Ordering::Relaxed)).collect();
    assert_eq!(hits, [2, 1, 1], "a flow is looked up once");
    let rest = rig.counts(0);
    assert_eq!(drops(&rest, DropReason::Steering), 3);
    // A wire has no way to the kernel.
    assert_eq!(drops(&rest, DropReason::ToKernel), 3);
    // The answers of a flow are other packets: they match no rule here.
    assert_eq!(seen(&rig.back(&[answer(2, &[0])]), MARK), [(53, 1)]);
    rig.steer(&[], &[]);
    assert_eq!(rig.forth(&burst).len(), 6);
    assert_eq!((rig.counts(1).packets_in, rig.counts(2).packets_in), (19, 6));
    rig.finish();
}

#[test]
fn what_nobody_claims_is_dropped_under_its_reason() {
    let mut rig = Rig::new();
    rig.add("only", vec![marks("a", PAYLOAD, 1)], false);
    rig.steer(&[by_source_port(1..=1, Target::Chain(0))], &["only"]);
    assert_eq!(seen(&rig.forth(&[datagram(1, &[0]), datagram(2, &[0])]), PAYLOAD), [(1, 1)]);
    assert_eq!(drops(&rig.counts(0), DropReason::Unclaimed), 1);
    // Of what comes in by the other port it is told apart.
    let elsewhere = |rig: &Rig| rig.counts(0).drops_elsewhere[DropReason::Unclaimed as usize];
    assert_eq!(elsewhere(&rig), 0);
    assert!(rig.back(&[answer(2, &[0])]).is_empty());
    assert_eq!((drops(&rig.counts(0), DropReason::Unclaimed), elsewhere(&rig)), (2, 1));
    rig.station.set_takes_rest("only", true);
    assert_eq!(rig.forth(&[datagram(1, &[0]), datagram(2, &[0])]).len(), 2);
    // What is for a chain that is not here is not for who takes the rest.
    rig.steer(&[by_source_port(1..=1, Target::Chain(0))], &["later"]);
    assert_eq!(seen(&rig.forth(&[datagram(1, &[0]), datagram(2, &[0])]), PAYLOAD), [(2, 1)]);
    assert_eq!(drops(&rig.counts(0), DropReason::NoChain), 1);
    rig.add("later", vec![marks("b", PAYLOAD, 2)], false);
    assert_eq!(seen(&rig.forth(&[datagram(1, &[0])]), PAYLOAD), [(1, 2)]);
    rig.finish();
}

/// Rules come to a station before its first lane does, and so before anything comes in.
#[test]
fn rules_wait_for_the_first_chain() {
    let mut rig = Rig::new();
    rig.steer(&[by_source_port(1..=1, Target::Drop)], &[]);
    assert!(rig.forth(&[datagram(1, &[0]), datagram(2, &[0])]).is_empty());
    rig.add("only", vec![marks("a", PAYLOAD, 1)], true);
    assert_eq!(seen(&rig.forth(&[]), PAYLOAD), [(2, 1)]);
    rig.finish();
}

/// Who looks at a chain changes nothing of where packets go.
#[test]
fn looking_at_a_chain_forgets_nothing() {
    const MARK: usize = PAYLOAD + 8;
    let mut rig = Rig::new();
    let moves =
        FunctionPlan { targets: vec!["inspect".into()], flow_verdicts: true, ..obeys(PAYLOAD) };
    rig.add("default", vec![moves, marks("a", MARK, 1)], true);
    rig.add("inspect", vec![marks("b", MARK, 2)], false);
    rig.forth(&[datagram(1, &[Verdict::Move(1).encode(), 0, 0])]);
    rig.forth(&[datagram(2, &[NEXT_FINAL, 0, 0])]);
    assert_eq!(given(&rig, 1), [2, 1]);
    struct Nobody;
    impl weir_packet_plane::Observer for Nobody {}
    let watch = rig.station.look("default", |lane| lane.observe(Box::new(Nobody)));
    let watch = watch.expect("the lane");
    let known = [datagram(1, &[NEXT, 0, 0]), datagram(2, &[DROP, 0, 0])];
    assert_eq!(seen(&rig.forth(&known), MARK), [(1, 2), (2, 1)]);
    let ended = rig.station.look("default", |lane| lane.end_observing(watch)).expect("the lane");
    assert!(ended.is_some());
    rig.station.look("default", |lane| (lane.plan().functions.len(), lane.states()));
    assert_eq!(seen(&rig.forth(&known), MARK), [(1, 2), (2, 1)]);
    assert_eq!(given(&rig, 1), [2, 3]);
    rig.finish();
}

/// A chain of two that obey, the first and second word of the payload, and do decide about flows.
fn two() -> Vec<FunctionPlan> {
    let decides = |plan: FunctionPlan, name: &str| FunctionPlan {
        name: name.into(),
        flow_verdicts: true,
        ..plan
    };
    vec![decides(obeys(PAYLOAD), "first"), decides(obeys(PAYLOAD + 4), "second")]
}

const NEXT: u32 = 0;
const NEXT_FINAL: u32 = VERDICT_FINAL;
const DROP: u32 = 1;

/// Packets that the functions of the lane have been given.
fn given(rig: &Rig, lane: usize) -> Vec<u64> {
    rig.counts(lane).functions.iter().map(|f| f.packets).collect()
}

#[test]
fn a_flow_that_may_pass_for_good_is_not_shown_again() {
    let mut rig = Rig::new();
    rig.add("chain", two(), true);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT_FINAL, NEXT])]).len(), 1);
    // The first function does not see it any more, and cannot drop it; the second does.
    assert_eq!(rig.forth(&[datagram(1, &[DROP, NEXT])]).len(), 1);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT, DROP])]).len(), 0);
    assert_eq!(given(&rig, 1), [1, 3]);
    // Another flow is another matter, and so is the other direction.
    assert_eq!(rig.forth(&[datagram(2, &[DROP, NEXT])]).len(), 0);
    assert_eq!(rig.back(&[answer(1, &[DROP, NEXT])]).len(), 0);
    assert_eq!(given(&rig, 1), [3, 4]);
    // When nobody wants to see it, it passes without the chain.
    assert_eq!(rig.forth(&[datagram(1, &[DROP, NEXT_FINAL])]).len(), 1);
    assert_eq!(rig.forth(&[datagram(1, &[DROP, DROP]), datagram(3, &[NEXT, NEXT])]).len(), 2);
    assert_eq!(given(&rig, 1), [4, 6]);
    rig.finish();
}

#[test]
fn a_verdict_for_a_flow_waits_for_those_before_to_let_it_pass() {
    let mut rig = Rig::new();
    rig.add("chain", two(), true);
    let drop_final = DROP | VERDICT_FINAL;
    // The first has to see what comes, so the second is asked again.
    rig.forth(&[datagram(1, &[NEXT, drop_final])]);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT, NEXT])]).len(), 1);
    assert_eq!(given(&rig, 1), [2, 2]);
    rig.forth(&[datagram(1, &[NEXT_FINAL, drop_final])]);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT, NEXT])]).len(), 0);
    assert_eq!(given(&rig, 1), [3, 3]);
    assert_eq!(drops(&rig.counts(1), DropReason::FlowVerdict), 1);
    // In reverse the second is the first.
    rig.back(&[answer(1, &[NEXT, Verdict::Forward(1).encode() | VERDICT_FINAL])]);
    assert_eq!(drain(&rig.outside).len(), 1);
    rig.back(&[answer(1, &[NEXT, NEXT])]);
    assert_eq!(drain(&rig.outside).len(), 1);
    assert_eq!(given(&rig, 1), [3, 4]);
    rig.finish();
}

#[test]
fn a_swap_and_new_rules_make_decisions_void() {
    let mut rig = Rig::new();
    rig.add("chain", two(), true);
    let pass = [datagram(1, &[NEXT_FINAL, NEXT_FINAL])];
    rig.forth(&pass);
    rig.forth(&pass);
    assert_eq!(given(&rig, 1), [1, 1]);
    let (site, sandbox) = (rig.station.site(), Arc::clone(&rig.sandbox));
    let states = rig.station.with("chain", |lane| lane.states()).expect("the lane");
    let staged = site.stage(plan(two()), &states).expect("staged");
    let published = rig.station.with("chain", move |lane| lane.publish(staged, Some(0)));
    published.expect("the lane").expect("published").1.end(&sandbox);
    rig.forth(&pass);
    rig.forth(&pass);
    assert_eq!(given(&rig, 1), [2, 2]);
    rig.steer(&[by_source_port(9..=9, Target::Drop)], &[]);
    rig.forth(&pass);
    assert_eq!(given(&rig, 1), [3, 3]);
    rig.finish();
}

#[test]
fn who_does_not_decide_about_flows_is_always_asked() {
    let mut rig = Rig::new();
    rig.add("chain", vec![obeys(PAYLOAD)], true);
    rig.forth(&[datagram(1, &[NEXT_FINAL])]);
    assert_eq!(rig.forth(&[datagram(1, &[DROP | VERDICT_FINAL])]).len(), 0);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT])]).len(), 1);
    assert_eq!(given(&rig, 1), [3]);
    rig.finish();
}

#[test]
fn a_moved_flow_goes_elsewhere_in_both_directions() {
    const MARK: usize = PAYLOAD + 8;
    let mut rig = Rig::new();
    let moves = FunctionPlan { targets: vec!["inspect".into()], ..obeys(PAYLOAD) };
    rig.add("default", vec![moves, marks("a", MARK, 1)], true);
    rig.add("inspect", vec![marks("b", MARK, 2), marks("c", MARK + 1, 3)], false);
    let to_inspect = Verdict::Move(1).encode();
    let word = |verdict| [verdict, 0, 0];
    assert_eq!(seen(&rig.forth(&[datagram(1, &word(to_inspect))]), MARK), [(1, 2)]);
    assert_eq!(seen(&rig.forth(&[datagram(1, &word(DROP))]), MARK), [(1, 2)]);
    assert_eq!(seen(&rig.back(&[answer(1, &word(DROP))]), MARK), [(53, 2)]);
    assert_eq!(seen(&rig.forth(&[datagram(2, &word(NEXT))]), MARK), [(2, 1)]);
    assert_eq!(given(&rig, 1), [2, 1]);
    // To the kernel, which a wire does not reach; and to a target that is not there.
    assert!(rig.forth(&[datagram(3, &word(Verdict::Move(0).encode()))]).is_empty());
    assert!(rig.forth(&[datagram(3, &word(NEXT))]).is_empty());
    assert!(rig.forth(&[datagram(4, &word(Verdict::Move(2).encode()))]).is_empty());
    assert_eq!(drops(&rig.counts(1), DropReason::ToKernel), 1);
    assert_eq!(drops(&rig.counts(0), DropReason::ToKernel), 1);
    assert_eq!(drops(&rig.counts(1), DropReason::NoTarget), 1);
    rig.station.remove("inspect").expect("the lane");
    assert_eq!(seen(&rig.forth(&[datagram(1, &word(NEXT))]), MARK), [(1, 1)]);
    assert!(rig.forth(&[datagram(1, &word(to_inspect))]).is_empty());
    assert_eq!(drops(&rig.counts(1), DropReason::NoTarget), 2);
    rig.finish();
}

#[test]
fn a_chain_that_is_alone_may_move_flows_to_the_kernel() {
    let mut rig = Rig::new();
    rig.add("only", vec![FunctionPlan { writes: false, ..obeys(PAYLOAD) }], true);
    let mut frames = vec![datagram(1, &[Verdict::Move(0).encode()])];
    frames.extend((0..100).map(|_| datagram(1, &[NEXT])));
    // The rest of the burst was shown to it, and what came in behind that was not.
    assert_eq!(rig.forth(&frames).len(), 31);
    assert!(rig.back(&[answer(1, &[NEXT])]).is_empty());
    assert_eq!(rig.forth(&[datagram(2, &[NEXT])]).len(), 1);
    assert_eq!(given(&rig, 1), [33]);
    assert_eq!(drops(&rig.counts(1), DropReason::ToKernel), 1);
    assert_eq!(drops(&rig.counts(0), DropReason::ToKernel), 70);
    rig.finish();
}

/// What is before the ports is told of what it has to see to, and when that is void.
#[test]
fn what_is_before_a_port_is_told_where_flows_were_moved() {
    // The first port has a way to the kernel beside it.
    let told: [Told; 2] = Default::default();
    let take = || told.each_ref().map(|told| std::mem::take(&mut *told.lock().expect("no panic")));
    let rig = |takes_rest, has_rules| {
        let mut rig = Rig::between(|port, n| {
            let told = Arc::clone(&told[n]);
            Box::new(Noting { port, told, reaches_kernel: n == 0 })
        });
        let moves = FunctionPlan { targets: vec!["b".into()], ..obeys(PAYLOAD) };
        rig.add("a", vec![moves], takes_rest);
        rig.add("b", vec![marks("b", PAYLOAD + 4, 2)], false);
        if has_rules {
            rig.steer(&[by_source_port(1..=9, Target::Chain(0))], &["a"]);
        }
        take();
        rig
    };
    let moved = |flow, to| datagram(flow, &[Verdict::Move(to).encode(), 0]);
    let (kernel, chain) = (Some(Moved::ToKernel), Some(Moved::ToChain));
    let mut all_steered = rig(false, true);
    all_steered.forth(&[moved(1, 1)]);
    assert_eq!(take(), [vec![chain], vec![chain]]);
    // All of a flow goes to the kernel by one way.
    all_steered.forth(&[moved(2, 0)]);
    assert_eq!(take(), [vec![chain], vec![kernel]]);
    // Who decided so may be another one now.
    all_steered.station.with("a", |_| ());
    assert_eq!(take(), [vec![None], vec![None]]);
    all_steered.finish();
    // A rule for other packets of the flow may lead elsewhere, also where a chain takes the rest.
    let mut with_rules = rig(true, true);
    with_rules.forth(&[moved(1, 1)]);
    assert_eq!(take(), [vec![chain], vec![chain]]);
    with_rules.finish();
    // What comes in anyway nobody has to be told.
    let mut rig = rig(true, false);
    rig.forth(&[moved(1, 1)]);
    assert_eq!(take(), [vec![], vec![]]);
    rig.forth(&[moved(2, 0)]);
    assert_eq!(take(), [vec![], vec![kernel]]);
    rig.finish();
}

#[test]
fn what_functions_move_to_each_other_is_dropped() {
    const PACKETS: u64 = 40;
    let moves = |to: &str| FunctionPlan { targets: vec![to.into()], ..obeys(PAYLOAD) };
    let mut rig = Rig::new();
    rig.add("a", vec![moves("b"), marks("a", PAYLOAD + 4, 1)], true);
    rig.add("b", vec![moves("a")], false);
    let circles: Vec<_> =
        (0..PACKETS as u16).map(|flow| datagram(flow, &[Verdict::Move(1).encode(), 0])).collect();
    assert!(rig.forth(&circles).is_empty());
    // There and back is no circle yet.
    assert_eq!(drops(&rig.counts(1), DropReason::MoveLoop), PACKETS);
    assert_eq!(given(&rig, 1)[0], 2 * PACKETS);
    assert_eq!(given(&rig, 2), [PACKETS]);
    assert_eq!(drops(&rig.counts(2), DropReason::MoveLoop), 0);
    // Nothing of that sticks to the rooms that they lay in.
    assert!(rig.forth(&circles).is_empty());
    assert_eq!(drops(&rig.counts(1), DropReason::MoveLoop) % PACKETS, 0);
    rig.finish();
}

/// A router's errors come to who has the flow that they are about.
#[test]
fn an_icmp_error_goes_where_rules_send_the_flow_that_it_quotes() {
    const MARK: usize = PAYLOAD + 28 + 4;
    let payload = [0; 9];
    let error = |quoted: Vec<u8>, kind| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([172, 16, 0, 1], [192, 0, 2, 7], 64)
            .icmpv4_raw(kind, 4, [0; 4])
            .write(&mut frame, &quoted[14..])
            .expect("a frame");
        frame
    };
    // As the sender of these answers hears of them.
    let about = |flow| error(answer(flow, &payload), 3);
    let ping = error(answer(1, &payload), 8);
    let mut rig = Rig::new();
    rig.add("edge", vec![marks("a", MARK, 1)], true);
    rig.add("web", vec![marks("b", MARK, 2)], false);
    let marked = |rig: &mut Rig, frame: &Vec<u8>| {
        rig.forth(slice::from_ref(frame)).first().map(|frame| frame[MARK])
    };
    let web = by_source_port(1..=9, Target::Chain(0));
    rig.steer(&[web], &["web"]);
    // They look alike but for what they quote, whatever was seen before.
    for frame in [&about(1), &ping, &about(10), &about(1), &ping, &about(10)] {
        let mark = if *frame == about(1) { 2 } else { 1 };
        assert_eq!(marked(&mut rig, frame), Some(mark));
    }
    // A rule that means the error itself decides.
    let icmp = Rule { protocol: Some(1), ..Rule::all(Target::Drop) };
    rig.steer(&[web, icmp], &["web"]);
    assert_eq!(marked(&mut rig, &about(1)), None);
    assert_eq!(drops(&rig.counts(0), DropReason::Steering), 1);
    rig.finish();
}

#[test]
fn behind_a_translation_the_flow_that_came_in_is_moved() {
    // Source port 7 instead of 1.
    let translates = each(&format!(
        "(if (i32.eq (i32.load16_u offset=34 (local.get $p)) (i32.const {one}))
           (then (i32.store16 offset=34 (local.get $p) (i32.const {seven}))))",
        one = 1_u16.swap_bytes(),
        seven = 7_u16.swap_bytes()
    ));
    let mut rig = Rig::new();
    rig.add(
        "only",
        vec![function("translates", wat_guest::admitted(&translates)), obeys(PAYLOAD)],
        true,
    );
    let moved = datagram(1, &[Verdict::Move(0).encode()]);
    // The first one only says that flows are moved here.
    assert!(rig.forth(std::slice::from_ref(&moved)).is_empty());
    assert_eq!(rig.forth(&[datagram(7, &[NEXT])]).len(), 1);
    assert_eq!(rig.back(&[answer(7, &[NEXT])]).len(), 1);
    assert_eq!(rig.forth(&[datagram(1, &[NEXT])]).len(), 1);
    assert!(rig.forth(&[moved]).is_empty());
    assert!(rig.forth(&[datagram(1, &[NEXT])]).is_empty());
    assert_eq!(rig.back(&[answer(7, &[NEXT])]).len(), 1);
    assert_eq!(drops(&rig.counts(1), DropReason::ToKernel), 2);
    assert_eq!(drops(&rig.counts(0), DropReason::ToKernel), 1);
    rig.finish();
}

#[test]
fn all_packets_of_a_moved_flow_go_along() {
    // Where the payload of what an ICMP error quotes begins.
    const QUOTED: usize = PAYLOAD + 28;
    const MARK: usize = QUOTED + 4;
    let payload = |verdict| [NEXT, 0, 0, 0, 0, 0, 0, verdict, 0];
    let coded = |mut frame: Vec<u8>| {
        frame[15] = 46 << 2;
        frame
    };
    let by_another_router = |mut frame: Vec<u8>| {
        frame[5] ^= 0x77;
        frame
    };
    let error = |flow| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
            .ipv4([172, 16, 0, 1], [10, 0, 0, 1], 64)
            .icmpv4_raw(3, 4, [0; 4])
            .write(&mut frame, &datagram(flow, &payload(DROP))[14..])
            .expect("a frame");
        frame
    };
    let mut rig = Rig::new();
    let moves = FunctionPlan { targets: vec!["inspect".into()], ..obeys(QUOTED) };
    rig.add("default", vec![moves, marks("a", MARK, 1)], true);
    rig.add("inspect", vec![marks("b", MARK, 2)], false);
    // Moves are remembered from the first one on, which makes void what was known.
    let moved = datagram(9, &payload(Verdict::Move(1).encode()));
    assert_eq!(seen(&rig.forth(&[moved]), MARK), [(9, 2)]);
    let mut all = |verdict, mark| {
        let forth = || datagram(1, &payload(verdict));
        let back = || answer(1, &payload(verdict));
        let forth = rig.forth(&[forth(), coded(forth()), by_another_router(forth())]);
        let back = rig.back(&[back(), coded(back()), by_another_router(back()), error(1)]);
        let marks = forth.iter().chain(&back).map(|frame| frame[MARK]);
        assert_eq!(marks.collect::<Vec<_>>(), [mark; 7]);
        // And nothing else does.
        let others = [rig.back(&[error(2)]), rig.back(&[error(2)]), rig.back(&[error(1)])];
        let marks = others.iter().map(|frames| frames[0][MARK]);
        assert_eq!(marks.collect::<Vec<_>>(), [1, 1, mark]);
        let other = datagram(2, &payload(NEXT));
        assert_eq!(seen(&rig.forth(&[other]), MARK), [(2, 1)]);
        if verdict == NEXT {
            let moved = datagram(1, &payload(Verdict::Move(1).encode()));
            assert_eq!(seen(&rig.forth(&[moved]), MARK), [(1, 2)]);
        }
    };
    all(NEXT, 1);
    // Also those that were known to go elsewhere before.
    all(DROP, 2);
    rig.finish();
}

#[test]
fn packets_of_a_moved_flow_stay_in_order() {
    let moves = FunctionPlan { targets: vec!["inspect".into()], ..obeys(PAYLOAD) };
    let mut rig = Rig::new();
    rig.add("default", vec![moves], true);
    rig.add("inspect", vec![marks("b", PAYLOAD, 2)], false);
    // Several bursts in one turn: those behind the first come straight from the port.
    let frames: Vec<_> = (0..100).map(|n| datagram(1, &[Verdict::Move(1).encode(), n])).collect();
    let number = |frame: &Vec<u8>| u32::from(frame[PAYLOAD + 4]);
    let out: Vec<u32> = rig.forth(&frames).iter().map(number).collect();
    assert_eq!(out, (0..100).collect::<Vec<_>>());
    assert!((1..100).contains(&given(&rig, 1)[0]));
    rig.finish();
}

#[test]
fn what_a_chain_moves_to_itself_while_it_ends_is_not_lost() {
    let tick = r#"#tick") (param i64)
    (call $send-copy (i32.const 0x8000) (i32.const 14) (i32.const 0) (i32.const 0x40)))"#;
    let text = wat_guest::module(wat_guest::NULL).replace(r#"#tick") (param i64))"#, tick);
    let sends = weir_sandbox::admit(&wat_guest::upload(&text, "packet-function")).unwrap();
    let again =
        each(&format!("(local.set $verdict (i32.const {}))", Verdict::Move(1).encode() as i32));
    let again = FunctionPlan {
        targets: vec!["ends".into()],
        ..function("again", wat_guest::admitted(&again))
    };
    let mut rig = Rig::new();
    rig.add("default", vec![marks("a", PAYLOAD, 1)], true);
    rig.add("ends", vec![function("sends", sends.into()), again], false);
    rig.station.remove("ends").expect("the lane");
    assert_eq!(dropped_by_reason(&rig.counts(2)), [("held-at-end", 1)]);
    rig.finish();
}

#[test]
fn a_fault_in_one_chain_does_not_touch_another() {
    let traps =
        each("(if (i32.eq (i32.load offset=42 (local.get $p)) (i32.const 7)) (then unreachable))");
    let mut rig = Rig::new();
    rig.add("good", vec![marks("a", PAYLOAD + 8, 1)], true);
    rig.add("bad", vec![function("traps", wat_guest::admitted(&traps))], false);
    rig.steer(&[by_source_port(2..=2, Target::Chain(0))], &["bad"]);
    let burst = [
        datagram(1, &[7, 0, 0]),
        datagram(2, &[0, 0, 0]),
        datagram(1, &[7, 0, 0]),
        datagram(2, &[7, 0, 0]),
    ];
    assert_eq!(rig.forth(&burst).len(), 2);
    assert_eq!(dropped_by_reason(&rig.counts(2)), [("fault", 2)]);
    assert_eq!(rig.counts(1).packets_out, 2);
    rig.finish();
}

#[test]
fn held_packets_and_timers_of_a_chain_beside_another_are_not_forgotten() {
    let mut rig = Rig::new();
    rig.add("default", vec![marks("a", PAYLOAD, 1)], true);
    rig.add("holds", vec![obeys(PAYLOAD)], false);
    rig.steer(&[by_source_port(2..=2, Target::Chain(0))], &["holds"]);
    assert!(rig.forth(&[datagram(2, &[Verdict::Hold.encode()])]).is_empty());
    assert_eq!(rig.forth(&[datagram(1, &[0])]).len(), 1);
    rig.station.remove("holds").expect("the lane");
    assert_eq!(dropped_by_reason(&rig.counts(2)), [("held-at-end", 1)]);
    rig.finish();
}

/// As [`obeys`] the payload's first word, and decides about flows; traps if it is [`TRAP`]. While
/// the first word of its state region is not 0 it refuses its configuration; a packet whose second
/// word is not 0 sets it.
fn traps() -> FunctionPlan {
    let body = each(&format!(
        "(local.set $verdict (i32.load offset={PAYLOAD} (local.get $p)))
         (if (i32.eq (local.get $verdict) (i32.const {TRAP})) (then
           (i32.store (global.get $state) (i32.load offset={} (local.get $p)))
           unreachable))",
        PAYLOAD + 4
    ));
    FunctionPlan {
        flow_verdicts: true,
        state_bytes: 65_536,
        state_layout: "1".into(),
        ..function("traps", wat_guest::refusing(&body))
    }
}

const TRAP: u32 = 0x7f;

#[test]
fn a_fault_in_a_burst_leaves_the_ways_of_its_other_packets() {
    let mut rig = Rig::new();
    rig.add("chain", vec![traps()], true);
    rig.push_at(1, &[datagram(1, &[DROP | VERDICT_FINAL, 0])]);
    let other = Verdict::Drop(3).encode() | VERDICT_FINAL;
    // One flow makes the function trap, which makes void what it had decided about the other one,
    // in the same burst.
    rig.push_at(2, &[datagram(2, &[TRAP, 0]), datagram(1, &[other, 0])]);
    let counts = rig.counts(1);
    assert_eq!(dropped_by_reason(&counts), [("fault", 1), ("flow-verdict", 1)]);
    assert_eq!(counts.functions[0].drops[0], 1);
    // From the next burst on it is asked again, when it is back: behind the burst that tells the
    // time.
    rig.push_at(1_000_000_000, &[datagram(3, &[NEXT, 0])]);
    rig.push_at(1_000_000_001, &[datagram(1, &[NEXT, 0])]);
    assert_eq!(drain(&rig.outside).len(), 1);
    rig.finish();
}

#[test]
fn a_verdict_for_a_flow_that_cannot_be_carried_out_is_not_remembered() {
    let mut rig = Rig::new();
    rig.add("chain", two(), true);
    let nowhere = datagram(1, &[Verdict::Forward(9999).encode() | VERDICT_FINAL, NEXT]);
    rig.push_at(1, &[nowhere]);
    assert_eq!(dropped_by_reason(&rig.counts(1)), [("bad-verdict", 1)]);
    // Behind the burst that tells the time it is asked again.
    rig.push_at(1_000_000_000, &[datagram(2, &[NEXT, NEXT])]);
    rig.push_at(1_000_000_001, &[datagram(1, &[NEXT, NEXT])]);
    assert_eq!(drain(&rig.outside).len(), 1);
    rig.finish();
}

#[test]
fn a_chain_without_instances_does_not_touch_another() {
    let mut rig = Rig::new();
    rig.add("good", vec![marks("a", PAYLOAD, 1)], true);
    rig.add("bad", vec![traps()], false);
    rig.steer(&[by_source_port(2..=2, Target::Chain(0))], &["bad"]);
    let bad = || datagram(2, &[TRAP, 1]);
    rig.push_at(1, &[bad(), bad(), bad()]);
    for n in 1..=5 {
        rig.push_at(n * 1_000_000_000, &[bad(), datagram(1, &[0])]);
        assert_eq!(drain(&rig.outside).len(), 1);
    }
    assert_eq!(dropped_by_reason(&rig.counts(2)), [("fault", 3), ("out-of-order", 5)]);
    rig.finish();
}

#[test]
fn packets_that_had_passed_a_canary_when_it_was_found_out_leave() {
    // By a bulk operation, which the host carries out: it is found out at the end of the burst.
    let write = "(memory.fill (i32.add (global.get $window) (i32.const 0x2000)) (i32.const 7) (i32.const 8))";
    let bad = function("first", wat_guest::admitted(&each(write)));
    let second = || two().remove(1);
    let mut rig = Rig::new();
    rig.add("chain", vec![two().remove(0), second()], true);
    let (site, bad) = (rig.station.site(), FunctionPlan { version: "2".into(), ..bad });
    let staged = site.stage(plan(vec![bad, second()]), &Standing::default()).expect("staged");
    let begun = rig.station.with("chain", move |lane| lane.begin_canary(staged, 0, 100));
    begun.expect("the lane").expect("a canary");
    rig.push_at(1, &[datagram(1, &[NEXT, NEXT]), datagram(1, &[NEXT, NEXT])]);
    assert_eq!(drain(&rig.outside).len(), 2);
    assert_eq!(rig.counts(1).functions[0].faults, 1);
    assert_eq!(given(&rig, 1), [2, 2], "none passed the chain twice");
    rig.finish();
}
