//! What the SDKs without Rust offer beside deciding: changing packets, state over a swap, log,
//! counters, and that what goes wrong in a function is a fault that its log explains. Linked and
//! one by one.

use std::path::Path;
use std::sync::Arc;

use weir_chain::board::{self, End};
use weir_chain::{ChainError, Executor, FunctionSpec, Mode, Prepared, Tick};
use weir_layout::{Metadata, Verdict};
use weir_pool::Packet;
use weir_sandbox::{
    Admitted, Fault, FaultKind, InstanceError, Level, Sandbox, SandboxConfig, Shared,
};
use weir_tests::bench_plane::{Plane, chain, function};
use weir_tests::built;

struct Probe {
    sandbox: Sandbox,
    admitted: Arc<Admitted>,
}

/// A probe that was configured.
struct Running {
    plane: Plane,
    executor: Executor<Plane>,
    spec: FunctionSpec,
}

impl Probe {
    fn new(language: &str) -> Self {
        let probe = Self::of(&built::probe(language));
        assert!(probe.admitted.saves);
        probe
    }

    fn of(wasm: &Path) -> Self {
        let admitted = Arc::new(weir_sandbox::admit(&std::fs::read(wasm).unwrap()).unwrap());
        assert!(admitted.manifest.is_some());
        assert!(admitted.imports.iter().all(|import| import.starts_with("weir:net/")));
        let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
        Self { sandbox, admitted }
    }

    fn start(&self, way: &str, mode: Mode) -> Result<Running, Box<ChainError>> {
        self.start_within(64 << 20, way, mode)
    }

    fn start_within(
        &self,
        memory: usize,
        way: &str,
        mode: Mode,
    ) -> Result<Running, Box<ChainError>> {
        let mut spec = function("probe", Arc::clone(&self.admitted), true);
        spec.memory = memory;
        spec.deadline = std::time::Duration::from_secs(5);
        spec.config = format!("{{\"mode\": \"{way}\"}}");
        let prepared = Prepared::new(&self.sandbox, chain(vec![spec.clone()]), mode).unwrap();
        let plane = Plane::new(128);
        let window = Shared::new(plane.pool.memory()).unwrap();
        match prepared.instantiate::<Plane>(&self.sandbox, &window, 2048) {
            Ok(executor) => Ok(Running { plane, executor, spec }),
            Err(error) => Err(Box::new(error)),
        }
    }
}

impl Running {
    /// Passes these packets, and tells how each ended, with its bytes then.
    fn pass(&mut self, packets: &[Vec<u8>]) -> Result<Vec<(End, Vec<u8>)>, Fault> {
        let plane = &mut self.plane;
        let burst: Vec<Packet> = packets
            .iter()
            .map(|bytes| {
                let buffer = plane.pool.take().unwrap();
                let descriptor = plane.pool.place(buffer, bytes).unwrap();
                let metadata = Metadata { port: 1, flags: 0, hash: 0 };
                Packet { descriptor, metadata, time: 0, buffer, cut: 0 }
            })
            .collect();
        board::fill(self.executor.board_mut(), plane.pool.memory_mut(), &burst, 7, 9);
        let mut lent = Some(std::mem::replace(plane, Plane::new(1)));
        let result = self.executor.run(&mut lent, burst.len(), 0, false);
        self.plane = lent.unwrap();
        result?;
        let mut ends = vec![None; packets.len()];
        board::ends(self.executor.board(), |origin, descriptor, end| {
            let bytes = self.plane.pool.bytes(descriptor).unwrap().to_vec();
            ends[origin] = Some((end, bytes));
        });
        for packet in burst {
            self.plane.pool.give(packet.buffer);
        }
        Ok(ends.into_iter().map(Option::unwrap).collect())
    }

    fn log(&self) -> Vec<(Level, String)> {
        log(&self.spec)
    }
}

fn log(spec: &FunctionSpec) -> Vec<(Level, String)> {
    let (lines, lost) = spec.telemetry.lines();
    assert_eq!(lost, 0);
    lines.into_iter().map(|line| (line.level, line.message)).collect()
}

fn has(log: &[(Level, String)], level: Level, part: &str) -> bool {
    log.iter().any(|(at, message)| *at == level && message.contains(part))
}

/// Frames of different lengths; too many for one call by value.
fn packets() -> Vec<Vec<u8>> {
    (0..70_u8)
        .map(|n| {
            let mut packet = vec![n; 60 + usize::from(n) * 25];
            packet[12..14].copy_from_slice(&[0x88, 0xb5]);
            packet
        })
        .collect()
}

const BOTH: [Mode; 2] = [Mode::Linked, Mode::Separate];

fn changes_packets(probe: &Probe) {
    for mode in BOTH {
        let input = packets();
        let mut tagging = probe.start("tag", mode).unwrap();
        for (packet, (end, bytes)) in input.iter().zip(tagging.pass(&input).unwrap()) {
            assert_eq!(end, End::Through);
            assert_eq!(bytes, [&packet[..12], &[0x81, 0, 0, 7], &packet[12..]].concat());
        }
        let mut stripping = probe.start("strip", mode).unwrap();
        for (packet, (end, bytes)) in input.iter().zip(stripping.pass(&input).unwrap()) {
            assert_eq!((end, &bytes[..]), (End::Through, &packet[14..]));
        }
        let mut writing = probe.start("write", mode).unwrap();
        for (packet, (end, bytes)) in input.iter().zip(writing.pass(&input).unwrap()) {
            let verdict = Verdict::Drop(u32::try_from(packet.len()).unwrap());
            assert_eq!(end, End::Verdict { function: 0, verdict, whole_flow: false });
            assert_eq!(bytes, [&[2; 6], &packet[6..]].concat());
        }
    }
}

fn tells(probe: &Probe) {
    for mode in BOTH {
        let mut running = probe.start("count", mode).unwrap();
        for _ in 0..3 {
            running.pass(&packets()).unwrap();
        }
        let mut lent = Some(Plane::new(1));
        running.executor.tick(&mut lent, 8, Tick::All).unwrap();
        assert_eq!(running.spec.telemetry.counters()["packets"], 210);
        let log = running.log();
        assert!(has(&log, Level::Info, "printed by count"), "{log:?}");
        assert!(has(&log, Level::Warn, "ports a b c d, function probe"), "{log:?}");
    }
}

/// `frame` is what the trace has to name.
fn explains_faults(probe: &Probe, message: &str, frame: &str) {
    for mode in BOTH {
        let mut running = probe.start("throw", mode).unwrap();
        let fault = running.pass(&packets()).unwrap_err();
        assert_eq!((fault.kind, fault.function), (FaultKind::Trap, Some(0)));
        let log = running.log();
        assert!(has(&log, Level::Error, message), "{log:?}");
        assert!(has(&log, Level::Error, frame), "{log:?}");
        let Err(error) = probe.start("refuse", mode) else { panic!("it was to refuse") };
        assert!(matches!(*error, ChainError::Instance(InstanceError::Refused { .. })), "{error}");
        assert!(error.to_string().contains("configured to refuse"), "{error}");
    }
}

fn hands_state_over(probe: &Probe) {
    for mode in BOTH {
        let mut first = probe.start("count", mode).unwrap();
        first.pass(&packets()).unwrap();
        let saved = first.executor.save(0).unwrap().unwrap();
        assert_eq!(saved, b"70");
        let mut second = probe.start("count", mode).unwrap();
        second.executor.restore(0, &saved).unwrap();
        second.pass(&packets()).unwrap();
        assert_eq!(second.executor.save(0).unwrap().unwrap(), b"140");
        let error = second.executor.restore(0, b"many").unwrap_err();
        assert!(error.to_string().contains("many is no count"), "{error}");
    }
}

#[test]
fn javascript() {
    let probe = Probe::new("js");
    changes_packets(&probe);
    tells(&probe);
    explains_faults(&probe, "TypeError", "throws");
    hands_state_over(&probe);
}

#[test]
fn python() {
    let probe = Probe::new("python");
    changes_packets(&probe);
    tells(&probe);
    explains_faults(&probe, "AttributeError", "in throws: return packet.nothing");
    hands_state_over(&probe);
    keeps_packets(&probe);
    needs_no_more_memory_in_time(&probe);
}

/// What it has answered is freed: 16 MB here, by an instance that may grow by less than 2.
fn needs_no_more_memory_in_time(probe: &Probe) {
    let input = packets();
    let memory = usize::try_from(probe.admitted.memory_at_start).unwrap() + (2 << 20);
    let mut writing = probe.start_within(memory, "write", Mode::Linked).unwrap();
    for round in 0..250 {
        let passed = writing.pass(&input);
        assert!(passed.is_ok(), "in round {round}: {passed:?}");
    }
}

/// What a function keeps of a packet is not the next one's.
fn keeps_packets(probe: &Probe) {
    let datagrams: Vec<Vec<u8>> = (0..40_u8)
        .map(|n| {
            let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
            let builder =
                builder.ipv4([10, 0, 0, n], [10, 0, 1, n], 64).udp(1000 + u16::from(n), 53);
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &vec![n; 20 + usize::from(n)]).unwrap();
            bytes
        })
        .collect();
    for mode in BOTH {
        let mut keeping = probe.start("keep", mode).unwrap();
        for _ in 0..2 {
            for (n, (end, _)) in (0..).zip(keeping.pass(&datagrams).unwrap()) {
                let verdict = Verdict::Drop(1000 + n);
                assert_eq!(end, End::Verdict { function: 0, verdict, whole_flow: false });
            }
        }
    }
}

#[test]
fn go() {
    let probe = Probe::new("go");
    changes_packets(&probe);
    tells(&probe);
    explains_faults(&probe, "index out of range", "throws");
    hands_state_over(&probe);
    for mode in BOTH {
        // The collector runs, and asks for the time, whenever it likes.
        let mut running = probe.start("garbage", mode).unwrap();
        for _ in 0..300 {
            running.pass(&packets()).unwrap();
        }
    }
    has_what_the_adapter_has_of_wasi(&probe);
    // Not first when the host is told, after the first packets.
    assert!(probe.start("name", Mode::Linked).is_err(), "a name that the host does not take");
}

/// What C's library prints, and what is logged, are whole lines of UTF-8.
#[test]
fn c() {
    const SOURCE: &str = r#"
        #include <stdio.h>
        #include <string.h>
        #include <weir/packet.h>
        bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {
            (void)setup;
            weir_text mode;
            weir_json_string(weir_json_first(config).value, &mode);
            if (weir_text_is(mode, "refuse")) return weir_refuse(error, "refused \xff");
            printf("port %d", 23);
            printf(" blocked\nsecond\n\n");
            fprintf(stderr, "%s and %s\n", "one", "\xfe");
            for (int n = 0; n < 300; n++) printf("1234\u00e9");
            printf("\nnot ended");
            char line[1100] = "";
            memset(line, 'a', 1022);
            strcat(line, "\u00e9");
            weir_log(WEIR_WARN, "%s", line);
            weir_log(WEIR_WARN, "agent %s", "x\xed\xa0\x80y");
            return true;
        }
        void weir_process(weir_burst *burst) { (void)burst; }
    "#;
    let directory = tempfile::tempdir().unwrap();
    let changes = &[("main.c", "", SOURCE)];
    let wasm = built::changed_template("c", "packet", "probe", directory.path(), changes);
    let probe = Probe::of(&wasm);
    for mode in BOTH {
        let log = probe.start("print", mode).unwrap().log();
        let lines: Vec<(Level, &str)> = log.iter().map(|(at, line)| (*at, &line[..])).collect();
        let [first, second, error, begins, ends, cut, agent] = lines[..] else {
            panic!("{lines:?}")
        };
        assert_eq!(first, (Level::Info, "port 23 blocked"));
        assert_eq!(second, (Level::Info, "second"));
        assert_eq!(error, (Level::Error, "one and ?"));
        assert_eq!([begins.1, ends.1].concat(), "1234é".repeat(300));
        assert_eq!(cut, (Level::Warn, &*format!("{}?", "a".repeat(1022))));
        assert_eq!(agent, (Level::Warn, "agent x???y"));
        let error = probe.start("refuse", mode).err().expect("it refuses").to_string();
        assert!(error.contains("refused ?"), "{error}");
    }
}

fn has_what_the_adapter_has_of_wasi(probe: &Probe) {
    let mut random = Vec::new();
    for mode in BOTH {
        let running = probe.start("wasi", mode).unwrap();
        let log = running.log();
        assert!(has(&log, Level::Info, "printed by wasi"), "{log:?}");
        let line =
            log.iter().find(|(level, line)| *level == Level::Error && line.starts_with("random "));
        random.push(line.unwrap_or_else(|| panic!("{log:?}")).1.clone());
        // A line is told when it ends.
        assert!(!has(&log, Level::Info, "does not end"), "{log:?}");
    }
    // The same seed, the same sequence: a replay is the same each time.
    assert_eq!(random[0], random[1]);
    assert!(!random[0].contains("00000000"), "{random:?}");
}
