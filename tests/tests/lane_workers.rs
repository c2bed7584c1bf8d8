//! Two lanes of one chain: which packets each gets, and that none is lost on the way from one to
//! the other.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use rustix::event::{EventfdFlags, eventfd};
use weir_packet_plane::{Clock, FunctionPlan, Lane, LaneConfig, States, Turn, Worker, spread};
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::memory::{ChannelPort, Wire, channel};
use weir_port::{
    Placement, Port, PortCounts, PortError, PortStatistics, Received, Spreading, pass_on,
};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_tests::rig::{Rig, function, plan};
use weir_tests::wat_guest::{NULL, admitted, each};

const LANES: usize = 2;
const ROOMS: u32 = 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Adds 100 to the last byte of the source address (forward) or takes it from the destination's
/// (reverse): byte 6 of the metadata is the flags, of which 1 is "reverse".
const TRANSLATE: &str = "
    (if (i32.and (i32.load16_u offset=0x2002 (i32.add (global.get $window) (i32.shl (local.get $i) (i32.const 3))))
                 (i32.const 1))
      (then (i32.store8 offset=33 (local.get $p) (i32.sub (i32.load8_u offset=33 (local.get $p)) (i32.const 100))))
      (else (i32.store8 offset=29 (local.get $p) (i32.add (i32.load8_u offset=29 (local.get $p)) (i32.const 100)))))";

/// A UDP packet of a flow; in the other direction if `back`. Its ends' addresses end with the
/// flow's number and with 7.
fn udp(flow: u8, back: bool) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 17;
    let ends = [([10, 0, 0, flow], 1000 + u16::from(flow)), ([192, 0, 2, 7], 53)];
    let (from, to) = if back { (ends[1], ends[0]) } else { (ends[0], ends[1]) };
    frame[26..30].copy_from_slice(&from.0);
    frame[30..34].copy_from_slice(&to.0);
    frame[34..36].copy_from_slice(&from.1.to_be_bytes());
    frame[36..38].copy_from_slice(&to.1.to_be_bytes());
    frame
}

/// Whose flow a forward packet is of, as it left.
fn flow(frame: &[u8]) -> u8 {
    frame[29]
}

struct Lanes {
    sandbox: Arc<Sandbox>,
    lanes: Vec<Lane>,
    inside: Vec<Wire>,
    outside: Vec<Wire>,
    statistics: Vec<[PortStatistics; 2]>,
}

impl Lanes {
    fn new(function: &FunctionPlan) -> Self {
        let mut wires = (Vec::new(), Vec::new());
        let ports = (0..LANES).map(|_| {
            let ((from, inside), (to, outside)) = (channel("in"), channel("out"));
            wires.0.push(inside);
            wires.1.push(outside);
            vec![Box::new(from) as Box<dyn Port>, Box::new(to)]
        });
        let ports = ports.collect();
        let (inside, outside) = wires;
        Self { inside, outside, ..Self::over(function, ports) }
    }

    fn over(function: &FunctionPlan, ports: Vec<Vec<Box<dyn Port>>>) -> Self {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
        let mut beside = States::default();
        let mut statistics = Vec::new();
        let lanes = spread(ports, 1).expect("descriptors").into_iter().map(|ports| {
            statistics.push([0, 1].map(|port: usize| ports[port].statistics().clone()));
            let config = LaneConfig {
                pool: PoolConfig { rooms: ROOMS, room_bytes: 2048, huge: HugePages::Never },
                ports,
                symmetric: true,
                clock: Clock::Monotonic,
                burst: 32,
                seed: 1,
                on_event: None,
            };
            let plan = plan(vec![function.clone()]);
            let lane = Lane::new_beside(Arc::clone(&sandbox), plan, config, &beside);
            let lane = lane.unwrap_or_else(|error| panic!("{error}"));
            beside = States::clone(&lane.states());
            lane
        });
        let lanes = lanes.collect();
        Self { sandbox, lanes, inside: Vec::new(), outside: Vec::new(), statistics }
    }

    /// Until no lane has anything to do.
    fn settle(&mut self) {
        let _ticking = self.sandbox.ticker().tick();
        let mut idle = 0;
        while idle < 2 {
            let busy = self.lanes.iter_mut().map(Lane::turn).filter(|turn| *turn == Turn::Busy);
            idle = if busy.count() > 0 { 0 } else { idle + 1 };
        }
    }

    fn ports(&self) -> PortCounts {
        let mut sum = PortCounts::default();
        for counts in self.statistics.iter().flatten().map(PortStatistics::counts) {
            sum.rx_packets += counts.rx_packets;
            sum.rx_handed_over += counts.rx_handed_over;
            sum.rx_taken_over += counts.rx_taken_over;
            sum.rx_dropped_handoff_full += counts.rx_dropped_handoff_full;
        }
        sum
    }

    /// Ends the lanes: every packet is accounted for, every room is back.
    fn finish(mut self) -> PortCounts {
        let _ticking = self.sandbox.ticker().tick();
        let mut packets_in = 0;
        for lane in &mut self.lanes {
            let pool = lane.finish().expect("wires do not fail");
            assert_eq!((pool.free, pool.out), (ROOMS, 0), "rooms were lost");
            packets_in += lane.counts().0.packets_in;
        }
        let ports = self.ports();
        assert_eq!(ports.rx_packets, packets_in + ports.rx_dropped_handoff_full, "{ports:?}");
        ports
    }
}

#[test]
fn a_version_that_comes_while_its_lane_sleeps_is_on_probation() {
    let mut lanes = Lanes::new(&function("null", admitted(&each(""))));
    // They have not looked at the clock since the machine began.
    for lane in &mut lanes.lanes {
        let admitted = admitted(&each("unreachable"));
        let new =
            FunctionPlan { version: "2".into(), admitted, ..lane.plan().functions[0].clone() };
        let staged = lane.site().stage(plan(vec![new]), &lane.states()).unwrap();
        lane.publish(staged, Some(0)).unwrap();
    }
    // Time may pass before there are packets.
    lanes.settle();
    let version = |lane: &Lane| lane.plan().functions[0].version.clone();
    assert!(lanes.lanes.iter().all(|lane| version(lane) == "2"));
    for flow in 0..200 {
        assert!(lanes.inside[0].push(udp(flow, false)));
    }
    lanes.settle();
    assert!(lanes.lanes.iter().all(|lane| version(lane) != "2"), "the new one traps");
    lanes.finish();
}

#[test]
fn both_directions_of_a_flow_pass_one_lane_wherever_they_come_in() {
    let mut lanes = Lanes::new(&function("null", admitted(&each(""))));
    let mut owner = [None; 200];
    for at in 0..LANES {
        for flow in 0..200 {
            assert!(lanes.inside[at].push(udp(flow, false)));
        }
        lanes.settle();
        for lane in 0..LANES {
            for frame in Rig::drain(&lanes.outside[lane]) {
                let known = owner[usize::from(flow(&frame))].get_or_insert(lane);
                assert_eq!(*known, lane);
            }
        }
    }
    let first = owner.iter().filter(|owner| **owner == Some(0)).count();
    assert!((50..150).contains(&first) && owner.iter().all(Option::is_some), "{owner:?}");
    for at in 0..LANES {
        for flow in 0..200 {
            assert!(lanes.outside[at].push(udp(flow, true)));
        }
        lanes.settle();
        for lane in 0..LANES {
            // By the side of the forward packets, so in reverse.
            for frame in Rig::drain(&lanes.inside[lane]) {
                assert_eq!(owner[usize::from(frame[33])], Some(lane));
            }
            assert!(Rig::drain(&lanes.outside[lane]).is_empty());
        }
    }
    let ports = lanes.finish();
    assert_eq!((ports.rx_packets, ports.rx_dropped_handoff_full), (800, 0));
    assert_eq!((ports.rx_handed_over, ports.rx_taken_over), (400, 400));
}

#[test]
fn a_flow_that_a_function_changed_comes_back_to_the_lane_that_changed_it() {
    let mut lanes = Lanes::new(&function("translate", admitted(&each(TRANSLATE))));
    let mut owner = [None; 100];
    for flow in 0..100 {
        assert!(lanes.inside[usize::from(flow) % LANES].push(udp(flow, false)));
    }
    lanes.settle();
    for lane in 0..LANES {
        for frame in Rig::drain(&lanes.outside[lane]) {
            owner[usize::from(frame[29] - 100)] = Some(lane);
        }
    }
    for at in 0..LANES {
        for flow in 0..100 {
            // The answer is for the address that the packet left with, and its port.
            let mut answer = udp(flow, true);
            answer[33] += 100;
            assert!(lanes.outside[at].push(answer));
        }
        lanes.settle();
        for lane in 0..LANES {
            for frame in Rig::drain(&lanes.inside[lane]) {
                assert_eq!(owner[usize::from(frame[33])], Some(lane), "flow {}", frame[33]);
            }
        }
    }
    assert!(owner.iter().all(Option::is_some), "{owner:?}");
    assert_eq!(lanes.finish().rx_dropped_handoff_full, 0);
}

#[test]
fn what_a_lane_that_is_behind_has_no_room_for_is_dropped_and_counted() {
    let mut lanes = Lanes::new(&function("null", admitted(&each(""))));
    for round in 0..20 {
        for flow in 0..100 {
            assert!(lanes.inside[0].push(udp(flow, round % 2 == 1)));
        }
    }
    {
        let _ticking = lanes.sandbox.ticker().tick();
        while lanes.lanes[0].turn() == Turn::Busy {}
    }
    let ports = lanes.ports();
    assert_eq!(ports.rx_packets, 2000);
    assert!(ports.rx_handed_over >= 100 && ports.rx_dropped_handoff_full > 100, "{ports:?}");
    assert_eq!(ports.rx_taken_over, 0);
    // What lies between the lanes when they end is accounted for, too.
    let ports = lanes.finish();
    assert!(ports.rx_handed_over > 0 && ports.rx_taken_over == 0, "{ports:?}");
}

/// A port that nothing ever comes by; its descriptor is never readable.
struct Deaf(PortStatistics, OwnedFd);

impl Deaf {
    fn boxed() -> Box<dyn Port> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        Box::new(Self(PortStatistics::default(), fd))
    }
}

impl Port for Deaf {
    fn name(&self) -> &'static str {
        "deaf"
    }
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn receive(
        &mut self,
        _: &mut Pool,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Result<Received, PortError> {
        Ok(Received::Waiting)
    }
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.0.add(&PortCounts { tx_packets: packets.len() as u64, ..PortCounts::default() });
        pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        Ok(())
    }
    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        fds.push(self.1.as_fd());
    }
    fn finish(&mut self, _: &mut Pool) -> Result<(), PortError> {
        Ok(())
    }
    fn statistics(&self) -> &PortStatistics {
        &self.0
    }
}

#[test]
fn a_lane_that_sleeps_is_woken_by_what_is_handed_over() {
    let ((from, inside), (to, _outside)) = (channel("in"), channel("out"));
    let ports: Vec<Vec<Box<dyn Port>>> =
        vec![vec![Box::new(from), Box::new(to)], vec![Deaf::boxed(), Deaf::boxed()]];
    let mut lanes = Lanes::over(&function("null", admitted(&each(""))), ports);
    let sent = lanes.statistics[1][1].clone();
    let workers: Vec<_> = std::mem::take(&mut lanes.lanes)
        .into_iter()
        .map(|lane| {
            let worker = Worker::start("test", None, Arc::clone(&lanes.sandbox)).unwrap();
            worker.add("test", lane).unwrap();
            worker
        })
        .collect();
    let mut expected = 0;
    for flow in 0..50 {
        // Asleep, both of them.
        std::thread::sleep(Duration::from_millis(5));
        assert!(inside.push(udp(flow, false)));
        let until = Instant::now() + PATIENCE;
        while lanes.ports().rx_packets <= u64::from(flow) {
            assert!(Instant::now() < until, "the packet was received");
            std::thread::yield_now();
        }
        expected = lanes.ports().rx_handed_over;
        while sent.counts().tx_packets < expected {
            assert!(Instant::now() < until, "{expected} were handed over: {:?}", sent.counts());
            std::thread::yield_now();
        }
    }
    assert!((10..40).contains(&expected), "{expected}");
    for worker in workers {
        lanes.lanes.push(worker.remove("test").unwrap().unwrap());
    }
    lanes.finish();
}

/// Numbers packets in its state region, and writes the number into bytes 50..54.
fn counter(state_shared: bool) -> FunctionPlan {
    let body = "
        (i32.store (global.get $state) (i32.add (i32.load (global.get $state)) (i32.const 1)))
        (i32.store offset=50 (local.get $p) (i32.load (global.get $state)))";
    FunctionPlan {
        state_bytes: 65_536,
        state_shared,
        state_layout: "1".into(),
        ..function("counter", admitted(&each(body)))
    }
}

#[test]
fn state_is_shared_where_a_function_asks_for_it_and_nowhere_else() {
    for shared in [false, true] {
        let mut lanes = Lanes::new(&counter(shared));
        let mut last = 0;
        for round in 0..3 {
            for flow in 0..100 {
                assert!(lanes.inside[0].push(udp(flow, false)));
            }
            lanes.settle();
            let all = lanes.outside.iter().flat_map(Rig::drain);
            last = all.map(|f| u32::from_le_bytes(f[50..54].try_into().unwrap())).max().unwrap();
            if round == 1 {
                // A new version on each lane: it goes on with what its predecessor had.
                let mut beside = States::default();
                for lane in &mut lanes.lanes {
                    let next = plan(vec![FunctionPlan { version: "2".into(), ..counter(shared) }]);
                    let staged = lane.site().stage_beside(next, &lane.states(), &beside).unwrap();
                    beside = staged.states();
                    let (published, retired) = lane.publish(staged, Some(0)).unwrap();
                    assert!(published.fresh.is_empty());
                    retired.end(&lanes.sandbox);
                }
            }
        }
        assert_eq!(last == 300, shared, "{last}");
        assert!(shared || (100..250).contains(&last), "{last}");
        lanes.finish();
    }
}

/// A wire as the queue of a device that puts flows where they belong, or as the kernel's stack.
struct Queue {
    wire: ChannelPort,
    spreading: Spreading,
    placement: Option<Placement>,
}

impl Port for Queue {
    pass_on!(wire: name, kind, attach, receive, send, finish, statistics);

    fn spreading(&self) -> Spreading {
        self.spreading
    }
    fn placement(&self) -> Option<Placement> {
        self.placement.clone()
    }
    fn is_kernel(&self) -> bool {
        self.spreading == Spreading::Follows
    }
    fn reaches_kernel(&self) -> bool {
        self.is_kernel()
    }
    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.wire.send(pool, packets)
    }
}

/// Lanes over devices that spread symmetrically, and the kernel's ends. `placed`: the devices'
/// queues can be told; it is that of the first end's port, modulo the lanes.
fn by_device(function: &FunctionPlan, placed: bool) -> (Lanes, Vec<Wire>) {
    let symmetric = Spreading::Symmetric { rule: "test", queues: 2, table: 0, fields: 1 };
    let place: Placement = Arc::new(|flow| {
        let port = flow.source_port.max(flow.destination_port);
        (flow.protocol == 17).then_some(port % LANES as u16)
    });
    let mut wires = [Vec::new(), Vec::new(), Vec::new()];
    let ports = (0..LANES).map(|_| {
        let ports = wires.iter_mut().enumerate().map(|(number, wires)| {
            let (wire, end) = channel("wire");
            wires.push(end);
            let spreading = if number == 2 { Spreading::Follows } else { symmetric };
            let placement = (number < 2 && placed).then(|| Arc::clone(&place));
            Box::new(Queue { wire, spreading, placement }) as Box<dyn Port>
        });
        ports.collect()
    });
    let ports = ports.collect();
    let [inside, outside, kernel] = wires;
    (Lanes { inside, outside, ..Lanes::over(function, ports) }, kernel)
}

#[test]
fn what_the_kernel_answers_comes_to_the_lane_that_asked() {
    let up = each("(local.set $verdict (i32.const 4))");
    for placed in [false, true] {
        let (mut lanes, kernel) = by_device(&function("up", admitted(&up)), placed);
        for flow in 0..40 {
            let lane = usize::from(flow) % LANES;
            assert!(lanes.inside[lane].push(udp(flow, false)));
            lanes.settle();
            assert_eq!(Rig::drain(&kernel[lane]).len(), 1);
            // It has forgotten by which queue it was asked.
            assert!(kernel[1 - lane].push(udp(flow, true)));
            lanes.settle();
            assert_eq!(Rig::drain(&lanes.inside[lane]), [udp(flow, true)], "flow {flow}");
        }
        // What it begins itself has its answers where the device will put them, if that is known.
        for flow in 100..110 {
            assert!(kernel[1].push(udp(flow, true)));
            lanes.settle();
            let lane = if placed { usize::from(flow) % LANES } else { 1 };
            assert_eq!(Rig::drain(&lanes.inside[lane]).len(), 1, "flow {flow}");
        }
        lanes.finish();
    }
}

#[test]
fn an_icmp_error_comes_to_the_lane_of_the_flow_that_it_quotes() {
    let error = |flow: u8| {
        let mut frame = Vec::new();
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([172, 16, 0, 1], [10, 0, 0, flow], 64)
            .icmpv4(kind)
            .write(&mut frame, &udp(flow, false)[14..])
            .expect("a frame");
        frame
    };
    for placed in [false, true] {
        let (mut lanes, _kernel) = by_device(&function("null", admitted(NULL)), placed);
        for flow in 0..40 {
            for at in 0..LANES {
                assert!(lanes.outside[at].push(error(flow)));
                lanes.settle();
                let lane = if placed { usize::from(flow) % LANES } else { at };
                assert_eq!(Rig::drain(&lanes.inside[lane]).len(), 1, "flow {flow} at {at}");
            }
        }
        // Other packets are right where they came in.
        assert!(lanes.outside[0].push(udp(1, true)));
        lanes.settle();
        assert_eq!(Rig::drain(&lanes.inside[0]).len(), 1);
        lanes.finish();
    }
}

#[test]
fn a_flow_that_a_function_makes_where_it_belongs_is_not_noted() {
    // A copy goes back, and the packet itself nowhere.
    let copies = each(
        "(call $send-copy (local.get $p) (local.get $length) (i32.const 2) (i32.const 0x40))
         (local.set $verdict (i32.const 0x101))",
    );
    let (mut lanes, _kernel) = by_device(&function("copies", admitted(&copies)), true);
    for flow in 0..40 {
        // Half of them on a lane where the device would not have put it: that notes itself.
        assert!(lanes.inside[0].push(udp(flow, false)));
        lanes.settle();
        assert_eq!(Rig::drain(&lanes.inside[0]).len(), 1);
        let handed = lanes.ports().rx_handed_over;
        assert!(lanes.inside[1].push(udp(flow, false)));
        lanes.settle();
        let handed = lanes.ports().rx_handed_over - handed;
        assert_eq!(handed, u64::from(flow % 2), "flow {flow}");
        let copies = lanes.inside.iter().flat_map(Rig::drain);
        assert_eq!(copies.count(), 1);
    }
    lanes.finish();
}
