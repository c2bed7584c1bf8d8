//! The harness, and through it bursts, packets, buffers, counters and timers.

use serde::Deserialize;
use serde_json::json;

use weir_layout::{BURST_AREA, DESCRIPTORS, METADATA, VERDICTS, WASM_PAGE};

use super::{Frame, Harness, Native, Options, Sent};
use crate::host::{Level, Refusal};
use crate::memory::Chunk;
use crate::prelude::*;

/// Does what the first byte of a packet says.
struct Puppet {
    held: Vec<Buffer>,
    seen: Counter,
    level: Gauge,
    kept: StateMap<u8, u64>,
    ticks: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strings {
    #[serde(default = "four")]
    capacity: usize,
    #[serde(default)]
    refuse: bool,
}

fn four() -> usize {
    4
}

impl Function for Puppet {
    type Config = Strings;

    fn configure(mut setup: Setup, config: Strings) -> Result<Self, String> {
        info!("in place {} of {:?}", setup.position, setup.functions);
        if config.refuse {
            return Err(format!("refused; {}", setup.port("c").unwrap_err()));
        }
        assert_eq!(setup.port("b"), Ok(1));
        Ok(Self {
            held: Vec::new(),
            seen: host::counter("seen"),
            level: host::gauge("level"),
            kept: setup.region().map("kept", config.capacity)?,
            ticks: Vec::new(),
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        self.seen.add(burst.len() as u64);
        let now = burst.now();
        for mut packet in burst.packets() {
            match packet.data().first() {
                Some(b'p') => packet.prepend(4).unwrap().copy_from_slice(b"head"),
                Some(b's') => packet.strip_front(2).unwrap(),
                Some(b'l') => packet.set_len(3).unwrap(),
                Some(b'h') => self.held.push(packet.hold()),
                Some(b'k') => _ = self.kept.insert(1, b'k', now),
                Some(b't') => host::set_timer(now + 1_000),
                Some(b'm') => packet.set_verdict(Verdict::Forward(packet.port() + 1)),
                Some(b'r') => packet.set_verdict(Verdict::Drop(u32::from(packet.reverse()))),
                Some(b'g') => self.level.set(2.5),
                Some(b'c') => host::send_copy(packet.data(), Verdict::Reply).unwrap(),
                _ => {}
            }
        }
    }

    fn tick(&mut self, now: u64) {
        self.ticks.push(now);
        self.seen.add(100);
    }
}

impl Snapshot for Puppet {
    fn save(&self) -> Vec<u8> {
        self.ticks.iter().flat_map(|tick| tick.to_le_bytes()).collect()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        let (ticks, rest) = saved.as_chunks();
        self.ticks = ticks.iter().map(|tick| u64::from_le_bytes(*tick)).collect();
        if rest.is_empty() { Ok(()) } else { Err("half a tick".into()) }
    }
}

fn puppet() -> Harness<Puppet> {
    Harness::new("{}").unwrap()
}

#[test]
fn packets_grow_and_shrink_within_their_rooms() {
    let mut harness = puppet();
    let outcomes = harness.run_burst(&["packet", "strip", "long", "other", ""].map(str::as_bytes));
    let bytes: Vec<&[u8]> = outcomes.iter().map(|outcome| &outcome.bytes[..]).collect();
    assert_eq!(bytes, [&b"headpacket"[..], b"rip", b"lon", b"other", b""]);
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Next));

    let free = harness.free_rooms();
    harness.load(&[[b'x'; 1920]]);
    let window = harness.host.window.clone().unwrap().0;
    // SAFETY: `load` put one packet there.
    let mut burst = unsafe { Burst::new(window, 1) };
    let mut packet = burst.packet(0);
    assert_eq!((packet.headroom(), packet.len()), (128, 1920));
    assert!(packet.set_len(1921).is_err() && packet.set_len(usize::MAX).is_err());
    assert!(packet.prepend(129).is_err() && packet.prepend(usize::MAX).is_err());
    assert!(packet.strip_front(1921).is_err() && packet.strip_front(usize::MAX).is_err());
    assert!(packet.strip_front(1920).is_err(), "it would lie in the next room");
    assert_eq!((packet.headroom(), packet.len()), (128, 1920));
    packet.prepend(128).unwrap().fill(b'y');
    packet.set_len(2048).unwrap();
    assert_eq!((packet.headroom(), packet.data()[127], packet.data()[128]), (0, b'y', b'x'));
    packet.set_len(2047).unwrap();
    packet.strip_front(2047).unwrap();
    assert!(packet.is_empty());
    drop(burst);
    assert_eq!(harness.unload()[0].bytes, b"");
    assert_eq!(harness.free_rooms(), free);
}

#[test]
fn metadata_and_verdicts_arrive() {
    let mut harness = puppet();
    assert_eq!(harness.run(b"m").verdict, Verdict::Forward(1));
    assert_eq!(harness.run(Frame::new(b"r").reverse()).verdict, Verdict::Drop(1));
    assert_eq!(harness.run(Frame::new(b"r")).verdict, Verdict::Drop(0));
}

#[test]
#[should_panic(expected = "no port 2")]
fn a_port_that_is_not_there_is_a_fault() {
    puppet().run(Frame::new(b"m").port(1));
}

#[test]
fn held_packets_are_sent_or_freed() {
    let mut harness = puppet();
    let rooms = harness.free_rooms();
    harness.run_burst(&[b"h1", b"h2", b"h3"]);
    assert_eq!((harness.held(), harness.free_rooms()), (3, rooms - 3));
    harness.enter(|puppet| {
        let mut buffer = puppet.held.remove(0);
        buffer.data_mut()[1] = b'!';
        assert_eq!(buffer.data(), b"h!");
        buffer.send(Verdict::Forward(1)).unwrap();
        // Ports are 0 and 1; the packet is lost.
        assert_eq!(puppet.held.remove(0).send(Verdict::Forward(2)), Err(Refusal::BadVerdict));
    });
    let sent = Sent { bytes: b"h!".to_vec(), verdict: Verdict::Forward(1) };
    assert_eq!(harness.sent(), [sent]);
    assert_eq!((harness.held(), harness.free_rooms()), (1, rooms - 1));
    harness.enter(|puppet| puppet.held.clear());
    assert_eq!((harness.held(), harness.free_rooms()), (0, rooms));
}

#[test]
fn what_is_held_beyond_the_share_is_not_the_functions() {
    let options = Options { rooms: 32, ..Options::default() };
    let mut harness = Harness::<Puppet>::with(options, "{}").unwrap();
    let frames: Vec<[u8; 2]> = (0..10).map(|n| [b'h', n]).collect();
    harness.run_burst(&frames);
    assert_eq!((harness.held(), harness.free_rooms()), (8, 24));
    // The rooms of the last two are other packets' in the next burst. One of these can be held:
    // another instance, which has the same share, let go of something meanwhile.
    harness.host.share += 1;
    harness.run_burst(&[b"h!", b"h?"]);
    assert_eq!((harness.held(), harness.free_rooms()), (9, 23));
    harness.enter(|puppet| {
        let owned: Vec<bool> = puppet.held.iter().map(Buffer::is_owned).collect();
        assert_eq!(owned[..8], [true; 8]);
        assert_eq!(owned[8..], [false, false, true, false]);
        assert!(puppet.held[8].data_mut().is_empty() && puppet.held[9].data().is_empty());
        assert_eq!(puppet.held.remove(8).send(Verdict::Next), Err(Refusal::Exhausted));
        drop(puppet.held.remove(8));
        assert_eq!((puppet.held.len(), puppet.held[8].data()), (10, &b"h!"[..]));
    });
    assert_eq!((harness.held(), harness.free_rooms()), (9, 23));
    harness.enter(|puppet| puppet.held.clear());
    assert_eq!((harness.held(), harness.free_rooms()), (0, 32));
}

/// Tries what its packet names with a packet that it just held.
struct Hasty(Option<Buffer>);

impl Function for Hasty {
    type Config = NoConfig;

    fn configure(_: Setup, _: NoConfig) -> Result<Self, String> {
        Ok(Self(None))
    }

    fn process(&mut self, burst: &mut Burst) {
        let command = burst.data(0)[0];
        let mut held = burst.packet(0).hold();
        match command {
            b'd' => drop(held),
            b's' => assert_eq!(held.send(Verdict::Next), Err(Refusal::NotOwned)),
            b'w' => held.data_mut().fill(0),
            b'h' => self.0 = Some(burst.packet(0).hold()),
            b'v' => {
                burst.packet(0).data_mut()[0] = b'V';
                burst.set_verdict(0, Verdict::Next);
                self.0 = Some(held);
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_held_is_the_functions_only_after_its_burst() {
    let mut harness = Harness::<Hasty>::new("{}").unwrap();
    let rooms = harness.free_rooms();
    assert_eq!(harness.run(b"drop").verdict, Verdict::Drop(0));
    assert_eq!(harness.run(b"send").verdict, Verdict::Drop(0));
    assert_eq!((harness.held(), harness.free_rooms()), (0, rooms));
    assert_eq!(harness.run(b"verdict").verdict, Verdict::Hold, "it holds a handle");
    assert_eq!(harness.function().0.as_ref().unwrap().data(), b"Verdict");
    harness.enter(|hasty| hasty.0 = None);
    assert_eq!((harness.held(), harness.free_rooms()), (0, rooms));
}

#[test]
#[should_panic(expected = "not before")]
fn what_is_held_cannot_be_written_in_its_burst() {
    Harness::<Hasty>::new("{}").unwrap().run(b"write");
}

#[test]
#[should_panic(expected = "packet 0 is held already")]
fn what_is_held_cannot_be_held_again() {
    Harness::<Hasty>::new("{}").unwrap().run(b"hold");
}

#[test]
fn a_window_may_be_somebody_elses() {
    let memory = Chunk::zeroed(2 * WASM_PAGE);
    let offset = BURST_AREA as u32 + 128;
    memory.write(DESCRIPTORS, &(4_u64 << 32 | u64::from(offset)).to_ne_bytes());
    memory.write(DESCRIPTORS + 8, &(1_u64 << 32 | u64::from(offset + 2048)).to_ne_bytes());
    memory.write(METADATA + 8, &1_u64.to_ne_bytes());
    memory.write(offset as usize, b"puppet");
    memory.write(offset as usize + 2048, b"m");
    let options =
        Options { ports: ["a", "b", "c"].map(String::from).to_vec(), ..Options::default() };
    let state = Chunk::zeroed(options.state_bytes);
    let config = json!({});
    // SAFETY: the memory outlives the function and only this thread has it; the descriptors written
    // above name two rooms of 2,048 bytes.
    let puppet = unsafe {
        Native::<Puppet>::new(memory.start(), memory.len(), state.start(), &options, config)
    };
    let mut puppet = puppet.unwrap();
    puppet.process(2);
    assert_eq!(memory.read_u32(DESCRIPTORS), offset - 4);
    assert_eq!(memory.read_u32(DESCRIPTORS + 4), 8);
    assert_eq!(memory.read_u32(VERDICTS + 4), Verdict::Forward(2).encode());
    puppet.process(1);
    assert_eq!(memory.read_u32(DESCRIPTORS + 4), 8, "it begins with an `h` now, and is held");
    assert_eq!(memory.read_u32(VERDICTS), Verdict::Hold.encode());
}

#[test]
fn buffers_are_allocated_until_there_is_none() {
    let options = Options { rooms: 32, ..Options::default() };
    let mut harness = Harness::<Puppet>::with(options, "{}").unwrap();
    harness.enter(|puppet| {
        assert!(host::allocate(2048 - 127).is_none(), "longer than a room allows");
        while let Some(mut buffer) = host::allocate(3) {
            buffer.data_mut().copy_from_slice(b"new");
            puppet.held.push(buffer);
        }
        assert_eq!(puppet.held.len(), 8, "a quarter of the rooms");
        puppet.held.pop().unwrap().send(Verdict::Next).unwrap();
        assert_eq!(host::send_copy(&[0; 2000], Verdict::Next), Err(Refusal::OutOfBounds));
        assert_eq!(host::send_copy(b"copy", Verdict::Hold), Err(Refusal::BadVerdict));
    });
    assert_eq!(harness.sent()[0].bytes, b"new");
    harness.enter(|puppet| puppet.held.clear());
    harness.load(&[b"x"; 32]);
    harness.enter(|_| {
        assert_eq!(host::send_copy(b"copy", Verdict::Next), Err(Refusal::Exhausted));
        assert!(host::allocate(3).is_none());
    });
    harness.unload();
    assert_eq!(harness.run(b"copy").verdict, Verdict::Next);
    assert_eq!(harness.sent()[0], Sent { bytes: b"copy".to_vec(), verdict: Verdict::Reply });
}

#[test]
fn counters_are_handed_over_at_most_ten_times_a_second() {
    let mut harness = puppet();
    let start = harness.now();
    harness.run_burst(&[b"x", b"x"]);
    assert_eq!(harness.host.counters.get("seen"), None);
    assert_eq!(harness.host.timer, start + 100_000_000, "so that it is not forgotten");
    harness.advance(50_000_000);
    harness.run(b"g");
    assert_eq!((harness.host.counters.get("seen"), harness.host.gauges.get("level")), (None, None));
    harness.advance(50_000_000);
    assert_eq!((harness.host.counters["seen"], harness.host.gauges["level"]), (3, 2.5));
    assert_eq!(harness.host.timer, 0, "nothing to be done");
    assert!(harness.function().ticks.is_empty(), "that was not the function's timer");
    // The same by a burst that comes late, as without timers.
    harness.run(b"x");
    harness.host.now += 200_000_000;
    harness.run(b"x");
    assert_eq!(harness.host.counters["seen"], 5);
    assert_eq!(harness.host.timer, 0);
    harness.run(b"x");
    assert_eq!(harness.counter("seen"), 6);
    assert_eq!((harness.gauge("level"), harness.counter("none")), (Some(2.5), 0));
}

#[test]
fn the_functions_timer_and_the_counters_share_one() {
    let mut harness = puppet();
    let start = harness.now();
    harness.run(b"t");
    assert_eq!(harness.host.timer, start + 1_000);
    harness.advance(999);
    assert!(harness.function().ticks.is_empty());
    harness.advance(1);
    assert_eq!(harness.function().ticks, [start + 1_000]);
    // The tick handed over what there was before it; what it counted itself is due later.
    assert_eq!(harness.host.counters["seen"], 1);
    assert_eq!(harness.host.timer, start + 1_000 + 100_000_000);
    harness.advance(1_000_000_000);
    assert_eq!(harness.function().ticks, [start + 1_000]);
    assert_eq!(harness.host.counters["seen"], 101);
    harness.enter(|_| {
        host::set_timer(start);
        host::set_timer(0);
    });
    assert_eq!(harness.host.timer, 0);
}

#[test]
fn a_successor_finds_the_state_that_agrees() {
    let mut harness = puppet();
    harness.run(b"k");
    assert_eq!(harness.counter("seen"), 1);
    assert_eq!(harness.swap("{}"), Ok(true));
    assert_eq!(harness.function().kept.len(), 1);
    assert_eq!(harness.swap(json!({"capacity": 5})), Ok(false), "written to, so given a fresh one");
    assert_eq!(harness.function().kept.len(), 0);
    harness.run(b"k");
    let error = harness.swap(json!({"refuse": true})).unwrap_err();
    assert_eq!(error, "refused; no port is named `c`; ports: a, b");
    assert_eq!(harness.function().kept.len(), 1, "the old one is still there");
    assert_eq!(harness.counter("seen"), 2);
}

#[test]
fn a_successor_is_handed_the_snapshot() {
    let mut harness = puppet();
    harness.run(b"t");
    harness.advance(1_000);
    let ticks = harness.function().ticks.clone();
    harness.swap_with_snapshot("{}").unwrap();
    assert_eq!((harness.function().ticks.clone(), ticks.len()), (ticks, 1));
}

#[test]
fn a_bad_configuration_is_named() {
    let error = |config: &str| Harness::<Puppet>::new(config).err().unwrap();
    let unknown = error(r#"{"capasity": 4}"#);
    assert!(unknown.contains("unknown field `capasity`, expected `capacity`"), "{unknown}");
    assert!(!unknown.contains("line"), "{unknown}");
    let wrong = error(r#"{"capacity": "four"}"#);
    assert_eq!(wrong, "capacity: invalid type: string \"four\", expected usize");
    let whole = error("7");
    assert!(whole.starts_with("configuration: invalid"), "{whole}");
    let large = error(r#"{"capacity": 10000000}"#);
    assert!(large.contains("raise `state`"), "{large}");
}

#[test]
fn functions_on_one_thread_do_not_mix() {
    let (mut a, mut b) = (puppet(), puppet());
    a.run(b"g");
    b.run_burst(&[b"x", b"y"]);
    a.run(b"x");
    assert_eq!((a.counter("seen"), b.counter("seen")), (2, 2));
    assert_eq!((a.gauge("level"), b.gauge("level")), (Some(2.5), None));
    let line = (Level::Info, r#"in place 0 of ["function"]"#.to_owned());
    assert_eq!((a.log(), b.log()), (vec![line.clone()], vec![line]));
}

#[test]
fn names_are_checked() {
    let refused = |name: &'static str| std::panic::catch_unwind(|| host::counter(name)).is_err();
    assert!(
        refused("")
            && refused("Upper")
            && refused("dot.dot")
            && refused(&"x".repeat(65).leak()[..])
    );
    let _ = host::counter("a_counter");
    assert!(std::panic::catch_unwind(|| host::gauge("a_counter")).is_err());
    for at in 1..64 {
        let _ = host::counter(format!("counter_{at}").leak());
    }
    assert!(refused("one_more"));
    assert!(!refused("counter_63"), "known");
}

/// Takes its region twice.
struct Greedy;

impl Function for Greedy {
    type Config = NoConfig;

    fn configure(mut setup: Setup, _: NoConfig) -> Result<Self, String> {
        drop(setup.region());
        drop(setup.region());
        Ok(Self)
    }

    fn process(&mut self, _: &mut Burst) {}
}

#[test]
#[should_panic(expected = "Setup::region was called a second time")]
fn a_region_that_is_taken_twice_is_told() {
    drop(Harness::<Greedy>::new(""));
}

#[test]
fn memory_in_place_of_a_region_is_never_used_up() {
    let options = Options { state_bytes: 0, ..Options::default() };
    assert!(Harness::<Greedy>::with(options, "").is_ok());
}
