//! Lanes that sleep: beside a busy lane and beside none, woken by their ports, by time, and by
//! commands.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use weir_packet_plane::{Clock, Lane, LaneConfig, Worker};
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates, channel};
use weir_port::{Port, PortError, PortStatistics, Received};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_tests::rig::{frame, function, plan};
use weir_tests::wat_guest::{admitted, each};

const PATIENCE: Duration = Duration::from_secs(10);

/// A port that says by a descriptor that something came, and otherwise is never asked.
struct Rung {
    inner: MemoryPort,
    bell: Arc<OwnedFd>,
    /// Times it was asked.
    asked: Arc<AtomicU32>,
}

impl Port for Rung {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        _max: usize,
    ) -> Result<Received, PortError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if rustix::io::read(&*self.bell, &mut [0; 8]).is_err() {
            return Ok(Received::Waiting);
        }
        self.inner.receive(pool, into, 1)
    }
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        self.inner.send(pool, packets)
    }
    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        fds.push(self.bell.as_fd());
    }
    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        self.inner.finish(pool)
    }
    fn statistics(&self) -> &PortStatistics {
        self.inner.statistics()
    }
}

fn lane(sandbox: &Arc<Sandbox>, ports: Vec<Box<dyn Port>>) -> Lane {
    let config = LaneConfig {
        pool: PoolConfig { rooms: 256, room_bytes: 2048, huge: HugePages::Never },
        ports,
        symmetric: false,
        clock: Clock::Monotonic,
        burst: 32,
        seed: 1,
        on_event: None,
    };
    let plan = plan(vec![function("pass", admitted(&each("")))]);
    Lane::new(Arc::clone(sandbox), plan, config).expect("a lane")
}

fn generator(rate: Option<u64>) -> MemoryPort {
    let shape = Shape { flows: 1, frame_bytes: 64, protocol: Protocol::Udp };
    let templates = Templates::flows(shape).expect("possible frames");
    let config = GeneratorConfig { rate, ..GeneratorConfig::new(templates) };
    MemoryPort::new("in", Some(config), Keep::Nothing)
}

fn sink() -> Box<dyn Port> {
    Box::new(MemoryPort::new("out", None, Keep::Nothing))
}

fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn sleepers_are_woken(busy: bool) {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).expect("a sandbox"));
    let worker = Worker::start("test", None, Arc::clone(&sandbox)).expect("a worker");
    if busy {
        worker.add("busy", lane(&sandbox, vec![Box::new(generator(None)), sink()])).unwrap();
    }
    // By a descriptor.
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let bell = Arc::new(eventfd(0, flags).expect("a descriptor"));
    let asked = Arc::new(AtomicU32::new(0));
    let rung = Rung { inner: generator(None), bell: Arc::clone(&bell), asked: Arc::clone(&asked) };
    let rung = lane(&sandbox, vec![Box::new(rung), sink()]);
    let rung_counters = rung.counters();
    worker.add("rung", rung).unwrap();
    // By time.
    let slow = lane(&sandbox, vec![Box::new(generator(Some(100))), sink()]);
    let slow_counters = slow.counters();
    worker.add("slow", slow).unwrap();
    // By being asked again.
    let (port, wire) = channel("polled");
    worker.add("polled", lane(&sandbox, vec![Box::new(port), sink()])).unwrap();
    // Not at all.
    let nothing = Box::new(MemoryPort::new("none", None, Keep::Nothing));
    worker.add("ended", lane(&sandbox, vec![nothing])).unwrap();

    // Everybody has looked, and sleeps.
    std::thread::sleep(Duration::from_millis(50));
    for n in 1..=20 {
        let before = asked.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(asked.load(Ordering::Relaxed), before, "a port that sleeps is not asked");
        rustix::io::write(&*bell, &1u64.to_ne_bytes()).unwrap();
        until("the descriptor wakes the lane", || rung_counters.read().0.packets_out == n);
        assert!(wire.push(frame(0)));
        // It goes on asking for a moment, and sleeps again.
        std::thread::sleep(Duration::from_millis(20));
    }
    until("time wakes the lane", || slow_counters.read().0.packets_out >= 10);
    let polled = || worker.with("polled", |lane| lane.counts().0.packets_out).unwrap().unwrap();
    until("the polled port is asked", || polled() == 20);
    for name in ["rung", "ended", "slow", "polled"] {
        let mut lane = worker.remove(name).unwrap().expect("it is there");
        assert_eq!(lane.finish().expect("memory does not fail").out, 0, "{name}");
        assert!(worker.remove(name).unwrap().is_none());
    }
    assert_eq!(worker.remove("busy").unwrap().is_some(), busy);
}

#[test]
fn sleeping_lanes_are_woken_beside_a_busy_one() {
    sleepers_are_woken(true);
}

#[test]
fn sleeping_lanes_are_woken_beside_none() {
    sleepers_are_woken(false);
}
