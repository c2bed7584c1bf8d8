//! A station one of whose ports is the kernel's stack: what goes up, and whose the kernel's answers
//! are.

use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_packet_plane::{
    ChainPlan, Clock, FunctionPlan, Lane, LaneConfig, Rules, States, Station, Turn, Upward,
};
use weir_pool::{HugePages, PoolConfig};
use weir_port::memory::{ChannelPort, Wire, channel};
use weir_port::{Packet, Pool, Port, PortError, pass_on};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_steering::{Rule, Table, Target};
use weir_tests::rig::{function, plan};
use weir_tests::wat_guest::{self, each};

const ROOMS: u32 = 512;
/// Hardware addresses.
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const KERNEL: [u8; 6] = [2, 0, 0, 0, 0, 9];
const EVERYBODY: [u8; 6] = [0xff; 6];
/// Where functions leave their marks: the first bytes of a datagram.
const FORTH: usize = 42;
const BACK: usize = 43;

/// A wire as the kernel's stack.
struct Stack {
    wire: ChannelPort,
}

impl Port for Stack {
    pass_on!(wire: name, kind, attach, receive, send, finish, statistics);

    fn is_kernel(&self) -> bool {
        true
    }

    fn reaches_kernel(&self) -> bool {
        true
    }

    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.wire.send(pool, packets)
    }
}

/// Adds this to one byte of packets in its direction and to another of those in reverse.
fn marks(mark: u8) -> FunctionPlan {
    let add = |at: usize| {
        format!(
            "(i32.store8 offset={at} (local.get $p)
               (i32.add (i32.load8_u offset={at} (local.get $p)) (i32.const {mark})))"
        )
    };
    // The metadata's flags, whose bit 0 is the direction.
    let body = each(&format!(
        "(if (i32.and (i32.load16_u offset=0x2002 (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3)))) (i32.const 1)) (then {}) (else {}))",
        add(BACK),
        add(FORTH)
    ));
    function("marks", wat_guest::admitted(&body))
}

fn datagram(macs: ([u8; 6], [u8; 6]), from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(from.0, to.0, 64)
        .udp(from.1, to.1)
        .write(&mut bytes, &[0; 8])
        .expect("a frame");
    bytes
}

const A: ([u8; 4], u16) = ([10, 0, 0, 2], 4000);
const B: ([u8; 4], u16) = ([10, 0, 0, 9], 53);

/// From the client to this hardware address.
fn question(mac: [u8; 6]) -> Vec<u8> {
    datagram((CLIENT, mac), A, B)
}

/// What whoever answers it says.
fn reply() -> Vec<u8> {
    datagram((KERNEL, CLIENT), B, A)
}

struct Rig {
    station: Station,
    client: Wire,
    server: Option<Wire>,
    kernel: Wire,
    sandbox: Arc<Sandbox>,
}

impl Rig {
    fn new(with_server: bool) -> Self {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
        let (from, client) = channel("from");
        let (to, server) = channel("to");
        let (stack, kernel) = channel("stack");
        let mut ports: Vec<Box<dyn Port>> = vec![Box::new(from)];
        if with_server {
            ports.push(Box::new(to));
        }
        ports.push(Box::new(Stack { wire: stack }));
        let config = LaneConfig {
            pool: PoolConfig { rooms: ROOMS, room_bytes: 2048, huge: HugePages::Never },
            ports,
            symmetric: true,
            clock: Clock::Capture,
            burst: 32,
            seed: 1,
            on_event: None,
        };
        let station = Station::new(Arc::clone(&sandbox), "test", config, 1024).expect("memory");
        Self { station, client, server: with_server.then_some(server), kernel, sandbox }
    }

    fn add(&mut self, name: &str, mark: u8, upward: bool, takes_rest: bool) {
        self.add_chain(name, vec![marks(mark)], upward, takes_rest);
    }

    fn add_chain(
        &mut self,
        name: &str,
        functions: Vec<FunctionPlan>,
        upward: bool,
        takes_rest: bool,
    ) {
        let upward = upward.then(|| Arc::new(Upward::new(KERNEL, [])));
        let plan = ChainPlan { upward, ..plan(functions) };
        let lane = Lane::aside(self.station.site(), plan, None, &States::default());
        self.station.add(name.into(), lane.expect("a lane"), takes_rest);
    }

    fn steer(&mut self, rules: &[Rule], chains: &[&str]) {
        let chains = chains.iter().map(|name| (*name).to_owned()).collect();
        let hits = rules.iter().map(|_| Arc::default()).collect();
        drop(self.station.steer(Arc::new(Rules { table: Table::new(rules), chains, hits })));
    }

    fn settle(&mut self) {
        let _ticking = self.sandbox.ticker().tick();
        while self.station.turn() == Turn::Busy {}
    }

    /// Sends it from the client; the answer is what came out at the server and at the kernel.
    fn ask(&mut self, frame: Vec<u8>) -> [Vec<Vec<u8>>; 2] {
        assert!(self.client.push(frame));
        self.settle();
        [self.server.as_ref().map(drain).unwrap_or_default(), drain(&self.kernel)]
    }

    /// The kernel sends it; the answer is the marks of what came to the client.
    fn answer(&mut self, frame: Vec<u8>) -> Option<[u8; 2]> {
        assert!(self.kernel.push(frame));
        self.settle();
        let frames = drain(&self.client);
        assert!(frames.len() < 2);
        frames.first().map(|frame| [frame[FORTH], frame[BACK]])
    }

    fn finish(mut self) {
        let _ticking = self.sandbox.ticker().tick();
        let pool = self.station.finish().expect("wires do not fail");
        assert_eq!((pool.out, pool.free), (0, ROOMS), "buffers were lost");
    }
}

fn drain(wire: &Wire) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.take(Duration::ZERO)).collect()
}

/// Gives packets of one direction this verdict.
fn decides(reverse: bool, verdict: u32) -> FunctionPlan {
    let body = each(&format!(
        "(if (i32.eq (i32.const {}) (i32.and (i32.const 1) (i32.load16_u offset=0x2002
            (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))))
          (then (local.set $verdict (i32.const {verdict}))))",
        u32::from(reverse)
    ));
    function("decides", wat_guest::admitted(&body))
}

#[test]
fn what_a_function_answers_the_kernel_goes_back_to_it_whatever_is_said_of_it_on_the_way() {
    const NEXT: u32 = 0;
    const REPLY: u32 = 2;
    const TO_KERNEL: u32 = 4;
    for verdict in [NEXT, TO_KERNEL] {
        let mut rig = Rig::new(true);
        rig.add_chain("web", vec![decides(true, REPLY), decides(false, verdict)], true, true);
        assert!(rig.kernel.push(reply()));
        rig.settle();
        let out = [&rig.client, rig.server.as_ref().unwrap(), &rig.kernel].map(drain);
        assert_eq!(out.map(|frames| frames.len()), [0, 0, 1], "{verdict}");
        rig.finish();
    }
}

#[test]
fn what_is_for_the_kernel_goes_up_and_its_answers_pass_the_chain_in_reverse() {
    let mut rig = Rig::new(true);
    rig.add("web", 1, true, true);
    let [server, kernel] = rig.ask(question(KERNEL));
    assert_eq!((server.len(), kernel.len()), (0, 1));
    assert_eq!(kernel[0][FORTH], 1, "through the chain");
    assert_eq!(rig.answer(reply()), Some([0, 1]), "in reverse");
    let [server, kernel] = rig.ask(question(SERVER));
    assert_eq!((server.len(), kernel.len()), (1, 0), "for somebody else");
    let [server, kernel] = rig.ask(question(EVERYBODY));
    assert_eq!((server.len(), kernel.len()), (1, 1), "for both");
    assert_eq!(server, kernel);
    rig.finish();
}

#[test]
fn without_another_port_the_kernel_has_it_all() {
    let mut rig = Rig::new(false);
    rig.add("web", 1, true, true);
    for mac in [KERNEL, SERVER, EVERYBODY] {
        let [_, kernel] = rig.ask(question(mac));
        assert_eq!(kernel.len(), 1);
        assert_eq!((&kernel[0][..6], kernel[0][FORTH]), (&mac[..], 1));
    }
    assert_eq!(rig.answer(reply()), Some([0, 1]));
    rig.finish();
}

#[test]
fn a_chain_of_packets_alone_has_nothing_to_do_with_the_kernel() {
    for with_server in [true, false] {
        let mut rig = Rig::new(with_server);
        rig.add("edge", 1, false, true);
        let [server, kernel] = rig.ask(question(KERNEL));
        assert_eq!((server.len(), kernel.len()), (usize::from(with_server), 0));
        // Without another port it goes back.
        assert_eq!(drain(&rig.client).len(), usize::from(!with_server));
        assert_eq!(rig.answer(reply()), Some([0, 0]), "past the chain");
        rig.finish();
    }
}

#[test]
fn answers_go_back_by_the_way_by_which_the_flow_last_went_up() {
    let mut rig = Rig::new(true);
    rig.add("edge", 1, false, true);
    rig.add("one", 2, true, false);
    rig.add("two", 4, true, false);
    let to = |target| {
        [Rule { protocol: Some(17), source_ports: Some((4000, 4000)), ..Rule::all(target) }]
    };
    rig.steer(&to(Target::Chain(0)), &["one"]);
    assert_eq!(rig.ask(question(KERNEL))[1][0][FORTH], 2);
    assert_eq!(rig.answer(reply()), Some([0, 2]));
    // Other rules: the old chain has the answers until the flow takes the new way.
    rig.steer(&to(Target::Chain(0)), &["two"]);
    assert_eq!(rig.answer(reply()), Some([0, 2]));
    assert_eq!(rig.ask(question(KERNEL))[1][0][FORTH], 4);
    assert_eq!(rig.answer(reply()), Some([0, 4]));
    // Past all chains.
    rig.steer(&to(Target::Kernel), &[]);
    assert_eq!(rig.answer(reply()), Some([0, 4]));
    assert_eq!(rig.ask(question(KERNEL))[1][0][FORTH], 0);
    assert_eq!(rig.answer(reply()), Some([0, 0]));
    // A version of a chain, or another chain, changes nothing about that.
    rig.add("three", 8, true, false);
    assert_eq!(rig.answer(reply()), Some([0, 0]));
    rig.finish();
}

#[test]
fn what_the_kernel_begins_goes_as_an_answer_would() {
    let mut rig = Rig::new(true);
    rig.add("edge", 1, false, true);
    rig.add("web", 2, true, false);
    assert_eq!(rig.answer(reply()), Some([0, 2]), "there is one chain that goes up");
    // The rules see it as if the client had asked.
    let ports =
        |target| [Rule { port: Some(0), destination_ports: Some((53, 53)), ..Rule::all(target) }];
    rig.steer(&ports(Target::Kernel), &[]);
    assert_eq!(rig.answer(reply()), Some([0, 0]));
    rig.steer(&ports(Target::Chain(0)), &["web"]);
    assert_eq!(rig.answer(reply()), Some([0, 2]));
    rig.steer(&ports(Target::Chain(0)), &["edge"]);
    assert_eq!(rig.answer(reply()), Some([0, 0]), "it never went up from there");
    rig.steer(&ports(Target::Drop), &[]);
    assert_eq!(rig.answer(reply()), None);
    rig.finish();
}

#[test]
fn a_verdict_sends_a_flow_up_that_is_for_somebody_else() {
    let mut rig = Rig::new(true);
    let verdict = each("(local.set $verdict (i32.const 4))");
    let function = function("inspects", wat_guest::admitted(&verdict));
    let upward = Some(Arc::new(Upward::new(KERNEL, [])));
    let plan = ChainPlan { upward, ..plan(vec![function]) };
    let lane = Lane::aside(rig.station.site(), plan, None, &States::default());
    rig.station.add("web".into(), lane.expect("a lane"), true);
    let [server, kernel] = rig.ask(question(SERVER));
    assert_eq!((server.len(), kernel.len()), (0, 1));
    assert_eq!(kernel[0][..6], KERNEL, "the kernel takes it for its own");
    // What it answers is not given back to it.
    assert_eq!(rig.answer(reply()), Some([0, 0]));
    assert_eq!(drain(&rig.kernel).len(), 0);
    rig.finish();
}
