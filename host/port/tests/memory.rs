//! The memory port: what it generates is right, bounded and cheap, and nothing is lost on the way.

mod common;

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{all_free, drain, pool, run};
use tempfile::tempdir;
use weir_pool::Pool;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates, channel};
use weir_port::pcap::{CaptureFormat, CaptureWriter};
use weir_port::{Port, PortError, Received};

fn shape(flows: u32, frame_bytes: usize, protocol: Protocol) -> Shape {
    Shape { flows, frame_bytes, protocol }
}

fn frames(count: u8) -> Templates {
    Templates::frames((0..count).map(|i| vec![i; 60 + usize::from(i)])).expect("templates")
}

/// Receives and sends until the port ends.
fn run_through(port: &mut dyn Port, pool: &mut Pool, burst: usize) {
    let mut packets = Vec::with_capacity(burst);
    loop {
        match port.receive(pool, &mut packets, burst).expect("packets") {
            Received::Packets => port.send(pool, &mut packets).expect("sent"),
            Received::Idle { next } => std::thread::sleep(next.expect("a time")),
            Received::Waiting => panic!("memory has nothing that could wake anybody"),
            Received::End => break,
        }
    }
    all_free(pool);
}

#[test]
fn generated_frames_are_right_and_distinct() {
    let directory = tempdir().expect("directory");
    for (protocol, bytes) in
        [(Protocol::Udp, 42), (Protocol::Udp, 60), (Protocol::Tcp, 54), (Protocol::Tcp, 1514)]
    {
        let templates = Templates::flows(shape(2000, bytes, protocol)).expect("templates");
        let path = directory.path().join("templates.pcap");
        let mut writer = CaptureWriter::create(&path, CaptureFormat::Ng).expect("capture");
        for frame in templates.iter() {
            assert_eq!(frame.len(), bytes);
            writer.write(0, frame, 0).expect("written");
        }
        writer.finish().expect("written");
        let layer = if protocol == Protocol::Udp { "udp" } else { "tcp" };
        let mut tshark = Command::new("tshark");
        tshark.arg("-nr").arg(&path).args(["-T", "fields"]);
        for check in ["ip", layer] {
            tshark.args(["-o", &format!("{check}.check_checksum:TRUE")]);
            tshark.args(["-e", &format!("{check}.checksum.status")]);
        }
        for field in ["ip.src", "ip.dst"] {
            tshark.args(["-e", field]);
        }
        for end in ["srcport", "dstport"] {
            tshark.args(["-e", &format!("{layer}.{end}")]);
        }
        let seen = run(&mut tshark);
        // Status 1 is "good".
        assert!(seen.lines().all(|line| line.starts_with("1\t1\t10.")), "{seen}");
        assert_eq!(seen.lines().collect::<HashSet<_>>().len(), 2000);
    }
}

#[test]
fn impossible_shapes_are_refused() {
    for shape in [
        shape(0, 60, Protocol::Udp),
        shape((1 << 24) + 1, 60, Protocol::Udp),
        shape(1, 41, Protocol::Udp),
        shape(1, 53, Protocol::Tcp),
        shape(1, 65_550, Protocol::Tcp),
    ] {
        assert!(matches!(Templates::flows(shape), Err(PortError::Configuration { .. })));
    }
    assert!(Templates::frames(Vec::<Vec<u8>>::new()).is_err());

    let templates = Templates::flows(shape(1, 1514, Protocol::Udp)).expect("templates");
    let mut port = MemoryPort::new("gen", Some(GeneratorConfig::new(templates)), Keep::Nothing);
    let error = port.receive(&mut pool(4, 1024), &mut Vec::new(), 1).expect_err("too long");
    assert!(error.to_string().contains("port \"gen\"") && error.to_string().contains("1024"));
}

#[test]
fn frames_come_in_turn_and_are_counted() {
    for copy in [true, false] {
        let config = GeneratorConfig { count: Some(1000), copy, ..GeneratorConfig::new(frames(7)) };
        let mut port = MemoryPort::new("gen", Some(config), Keep::All);
        let kept = port.kept();
        let mut pool = pool(7, 512);
        run_through(&mut port, &mut pool, 7);
        let sent = kept.take();
        assert_eq!(sent.len(), 1000);
        for (i, frame) in sent.iter().take(7).enumerate() {
            assert_eq!(frame, &vec![i as u8; 60 + i]);
        }
        let bytes: usize = sent.iter().map(Vec::len).sum();
        let counts = port.statistics().counts();
        assert_eq!((counts.rx_packets, counts.tx_packets), (1000, 1000));
        assert_eq!((counts.rx_bytes, counts.tx_bytes), (bytes as u64, bytes as u64));
        if copy {
            let in_turn = |(i, frame): (usize, &Vec<u8>)| frame.len() == 60 + i % 7;
            assert!(sent.iter().enumerate().all(in_turn));
        }
    }
}

#[test]
fn what_functions_did_stays_without_copying() {
    for copy in [true, false] {
        let config = GeneratorConfig { copy, ..GeneratorConfig::new(frames(1)) };
        let mut port = MemoryPort::new("gen", Some(config), Keep::Last(1));
        let kept = port.kept();
        let mut pool = pool(2, 512);
        let mut packets = Vec::new();
        for round in 1..=5 {
            port.receive(&mut pool, &mut packets, 1).expect("a packet");
            pool.bytes_mut(packets[0].descriptor).expect("bytes")[0] += 1;
            port.send(&mut pool, &mut packets).expect("sent");
            assert_eq!(kept.count(), 1);
            assert_eq!(kept.take()[0][0], if copy { 1 } else { round });
        }
        all_free(&pool);
    }
}

#[test]
fn time_and_rate_are_bounds() {
    let config = GeneratorConfig {
        duration: Some(Duration::from_millis(200)),
        rate: Some(5000),
        ..GeneratorConfig::new(frames(1))
    };
    let mut port = MemoryPort::new("gen", Some(config), Keep::Nothing);
    let start = Instant::now();
    run_through(&mut port, &mut pool(64, 512), 32);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let made = port.statistics().counts().rx_packets;
    assert!(made <= 1001, "{made}");
    // A busy machine may make fewer, hardly less than half.
    assert!(made >= 500, "{made}");
}

#[test]
fn an_empty_pool_makes_the_generator_wait() {
    let config = GeneratorConfig { count: Some(6), ..GeneratorConfig::new(frames(1)) };
    let mut port = MemoryPort::new("gen", Some(config), Keep::Nothing);
    let mut pool = pool(4, 512);
    let mut packets = Vec::new();
    assert_eq!(port.receive(&mut pool, &mut packets, 32).expect("four"), Received::Packets);
    assert_eq!(packets.len(), 4);
    let waits = port.receive(&mut pool, &mut packets, 32).expect("none");
    assert!(matches!(waits, Received::Idle { next: Some(_) }), "{waits:?}");
    port.send(&mut pool, &mut packets).expect("sent");
    let (rest, _) = drain(&mut port, &mut pool);
    assert_eq!(rest.len(), 2);
    all_free(&pool);
}

#[test]
fn templates_come_from_captures() {
    let directory = tempdir().expect("directory");
    let path = directory.path().join("some.pcap");
    let format = CaptureFormat::Classic { nanoseconds: true, link_type_field: 1 };
    let mut writer = CaptureWriter::create(&path, format).expect("capture");
    for i in 0..10_u8 {
        writer.write(i.into(), &[i; 130], 0).expect("written");
    }
    writer.finish().expect("written");
    let templates = Templates::from_capture(&path, 3).expect("templates");
    assert_eq!((templates.len(), templates.longest()), (3, 130));
    assert_eq!(templates.iter().last(), Some(&[2; 130][..]));
    assert!(Templates::from_capture(&path, 0).is_err());
}

#[test]
fn a_channel_loses_nothing() {
    let (mut port, mut wire) = channel("wire");
    let worker = std::thread::spawn(move || {
        let mut pool = pool(8, 512);
        let mut packets = Vec::with_capacity(32);
        loop {
            match port.receive(&mut pool, &mut packets, 32).expect("packets") {
                Received::Packets => port.send(&mut pool, &mut packets).expect("sent"),
                Received::Idle { .. } | Received::Waiting => std::thread::yield_now(),
                Received::End => break,
            }
        }
        all_free(&pool);
        port.statistics().counts()
    });
    for i in 0..5000_u32 {
        assert!(wire.push(i.to_be_bytes()));
    }
    assert!(wire.push([0; 400]));
    wire.close();
    assert!(!wire.push([1]));
    for i in 0..5000_u32 {
        let frame = wire.take(Duration::from_secs(10)).expect("a frame");
        assert_eq!(frame, i.to_be_bytes());
    }
    let counts = worker.join().expect("worker");
    assert_eq!((counts.rx_packets, counts.tx_packets), (5000, 5000));
    assert_eq!(counts.rx_dropped_too_large, 1);
    assert_eq!(wire.take(Duration::ZERO), None);
}
