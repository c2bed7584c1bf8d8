//! Descriptors to a worker process and back.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use weir_hop::{Descriptor, Hub, Inherited, Limits, Plan, WorkerProcess};

use crate::channel::{Channel, Events, Hop, Rings, Socket};
use crate::ring::{BYTES, Ring};
use crate::{cpu, median};

/// Round trips that are timed in a round.
const TRIPS: usize = 20_000;
/// How long throughput is measured in a round.
const LONG: Duration = Duration::from_millis(400);
/// How many are under way then.
const UNDER_WAY: usize = 64;

/// Where the two run: as the kernel likes, or each on a core of its own.
const PLACES: [(&str, bool); 2] = [("free", false), ("two cores", true)];

const WAYS: [(&str, &str, bool); 6] = [
    ("SK_MSG", "skmsg", false),
    ("SK_MSG, worker confined", "skmsg", true),
    ("Unix stream", "unix", false),
    ("Unix seqpacket", "seqpacket", false),
    ("TCP loopback", "tcp", false),
    ("eventfd and ring", "ring", false),
];

/// The worker: sends everything back.
pub(crate) fn worker(way: &str, confined: bool) {
    let inherited = Inherited::take().expect("a worker's files");
    if confined {
        inherited.confine(&Limits::default(), &[]).expect("confinement");
    }
    let mut files = inherited.memories.into_iter();
    let mut next = || files.next().expect("a file");
    let mut channel: Box<dyn Channel> = match way {
        "skmsg" | "unix" => {
            let events = Events::of(&inherited.end).expect("epoll");
            Box::new(Hop(inherited.end, events))
        }
        "ring" => {
            let [to, from] = Ring::pair(next());
            let (bell, woken) = (next(), next());
            let events = Events::of(&woken).expect("epoll");
            Box::new(Rings { to, from, bell, woken, events })
        }
        _ => Box::new(Socket::of(next()).expect("epoll")),
    };
    let mut work = Vec::new();
    while channel.receive(&mut work).is_ok() {
        if channel.send(&work).is_err() {
            return;
        }
        work.clear();
    }
}

struct Under {
    channel: Box<dyn Channel>,
    worker: WorkerProcess,
}

fn start(hub: &Hub, way: &str, confined: bool) -> io::Result<Under> {
    let (end, socket) = match way {
        "skmsg" => hub.connect_worker(1, 1),
        _ => Hub::unix().connect_worker(1, 1),
    }
    .map_err(io::Error::other)?;
    let mut files: Vec<OwnedFd> = Vec::new();
    let channel: Box<dyn Channel> = match way {
        "skmsg" | "unix" => {
            let events = Events::of(&end)?;
            Box::new(Hop(end, events))
        }
        "ring" => {
            let memory = memfd_create("rings", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&memory, BYTES as u64)?;
            fcntl_add_seals(&memory, SealFlags::SHRINK)?;
            let bells = [eventfd(0, EventfdFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?];
            let [from, to] = Ring::pair(&memory);
            let [woken, bell] = bells;
            files = vec![memory, woken.try_clone()?, bell.try_clone()?];
            let events = Events::of(&woken)?;
            Box::new(Rings { to, from, bell, woken, events })
        }
        "tcp" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let one = TcpStream::connect(listener.local_addr()?)?;
            let (other, _) = listener.accept()?;
            one.set_nodelay(true)?;
            other.set_nodelay(true)?;
            files.push(other.into());
            Box::new(Socket::of(one.into())?)
        }
        _ => {
            let flags = SocketFlags::CLOEXEC;
            let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            files.push(other);
            Box::new(Socket::of(one)?)
        }
    };
    let mut plan = Plan::new(std::env::current_exe()?);
    let confined = if confined { "confined" } else { "" };
    plan.arguments = ["worker", way, confined].map(Into::into).to_vec();
    plan.memories = files.into_iter().map(Arc::new).collect();
    let worker = WorkerProcess::spawn(&plan, &socket).map_err(io::Error::other)?;
    Ok(Under { channel, worker })
}

/// What a round has measured.
struct Round {
    p50: f64,
    p99: f64,
    trip_cpu: f64,
    rate: f64,
    load_cpu: f64,
    idle_cpu: f64,
}

/// Puts a thread or a process on one core, or back on all.
fn place(process: Option<rustix::thread::Pid>, cores: std::ops::Range<usize>) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    cores.for_each(|core| set.set(core));
    Ok(rustix::thread::sched_setaffinity(process, &set)?)
}

fn round(hub: &Hub, way: &str, confined: bool, apart: bool) -> io::Result<Round> {
    let Under { mut channel, worker } = start(hub, way, confined)?;
    place(None, if apart { 0..1 } else { 0..64 })?;
    place(rustix::thread::Pid::from_raw(worker.id()), if apart { 1..2 } else { 0..64 })?;
    let id = worker.id().to_string();
    let used = || (cpu("thread-self") + cpu(&id)) as f64;
    let one = [Descriptor::default()];
    let mut got = Vec::new();
    let mut trip = |channel: &mut dyn Channel| {
        channel.send(&one)?;
        while got.is_empty() {
            channel.receive(&mut got)?;
        }
        got.clear();
        io::Result::Ok(())
    };
    for _ in 0..1000 {
        trip(&mut *channel)?;
    }
    let before = used();
    let mut times = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let start = Instant::now();
        trip(&mut *channel)?;
        times.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    let trip_cpu = (used() - before) / TRIPS as f64 / 1000.0;
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[TRIPS / 2], times[TRIPS * 99 / 100]);

    let many = [Descriptor::default(); UNDER_WAY];
    channel.send(&many)?;
    let (mut count, start, before) = (0_u64, Instant::now(), used());
    while start.elapsed() < LONG {
        got.clear();
        channel.receive(&mut got)?;
        count += got.len() as u64;
        channel.send(&got)?;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let load_cpu = (used() - before) / count as f64 / 1000.0;
    let mut left = UNDER_WAY;
    while left > 0 {
        got.clear();
        channel.receive(&mut got)?;
        left -= got.len();
    }
    let before = used();
    std::thread::sleep(Duration::from_millis(100));
    // This thread's own waking up for this line is in it.
    let idle_cpu = (used() - before) / 100_000.0 / 10.0;
    Ok(Round { p50, p99, trip_cpu, rate, load_cpu, idle_cpu })
}

pub(crate) fn run(rounds: usize) {
    println!();
    println!(
        "round trip, one under way (us): p50, p99, CPU of both; {UNDER_WAY} under way: thousand a second, CPU of both (us each); idle: CPU (%)"
    );
    let hub = Hub::new();
    println!("hub: {}", hub.carrier());
    let cases = || PLACES.iter().flat_map(|place| WAYS.iter().map(move |way| (place, way)));
    let mut all: Vec<Vec<Round>> = cases().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (((_, apart), (name, way, confined)), rounds) in cases().zip(&mut all) {
            match round(&hub, way, *confined, *apart) {
                Ok(round) => rounds.push(round),
                Err(error) => eprintln!("{name}: {error}"),
            }
        }
    }
    println!("| cores | way | p50 | p99 | CPU | thousand/s | CPU | idle |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (((place, _), (name, ..)), rounds) in cases().zip(&all) {
        let of = |pick: fn(&Round) -> f64| median(&mut rounds.iter().map(pick).collect::<Vec<_>>());
        println!(
            "| {place} | {name} | {:.1} | {:.1} | {:.1} | {:.0} | {:.2} | {:.2} |",
            of(|round| round.p50),
            of(|round| round.p99),
            of(|round| round.trip_cpu),
            of(|round| round.rate) / 1000.0,
            of(|round| round.load_cpu),
            of(|round| round.idle_cpu),
        );
    }
}
