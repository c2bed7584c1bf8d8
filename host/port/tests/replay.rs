//! How a capture is played: bursts, pace, rounds, and what happens to packets that do not fit.

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Endian, all_free, drain, file, pool};
use tempfile::{TempDir, tempdir};
use weir_port::pcap::{BURST_SPAN, Pace, PcapConfig, PcapPort};
use weir_port::{Port, Received};

const LITTLE: Endian = Endian { big: false };

/// A capture with packets at these nanoseconds, of these lengths.
fn capture(directory: &TempDir, packets: &[(u32, usize)]) -> PathBuf {
    let mut bytes = LITTLE.classic(0xa1b2_3c4d, 1);
    for &(time, length) in packets {
        bytes.extend(LITTLE.record(1, time, &vec![7; length], length as u32));
    }
    file(directory, "in.pcap", &bytes)
}

fn port(input: PathBuf, pace: Pace, rounds: u64) -> PcapPort {
    let config = PcapConfig { input: Some(input), output: None, pace, rounds };
    PcapPort::open("in", &config).expect("port")
}

#[test]
fn a_burst_spans_little_time() {
    let directory = tempdir().expect("directory");
    let times = [0, 50_000, 100_000, 100_001, 200_001, 150_000, 99_999_999, 99_999_998, 5, 6];
    let path = capture(&directory, &times.map(|time| (time, 60)));
    let mut port = port(path, Pace::Full, 1);
    let mut pool = pool(16, 512);
    let mut bursts = Vec::new();
    let mut packets = Vec::with_capacity(4);
    while port.receive(&mut pool, &mut packets, 4).expect("packets") != Received::End {
        bursts.push(packets.iter().map(|packet| packet.time - 1_000_000_000).collect::<Vec<_>>());
        packets.drain(..).for_each(|packet| pool.give(packet.buffer));
    }
    assert_eq!(
        bursts,
        [
            &[0, 50_000, 100_000][..],
            &[100_001, 200_001, 150_000],
            &[99_999_999, 99_999_998],
            &[5, 6],
        ]
    );
    for burst in bursts {
        assert!(burst.iter().all(|time| time.abs_diff(burst[0]) <= BURST_SPAN));
    }
    all_free(&pool);
}

#[test]
fn packets_that_do_not_fit_are_counted() {
    let directory = tempdir().expect("directory");
    let path = capture(&directory, &[(0, 384), (1, 385), (2, 9000), (3, 0)]);
    let mut port = port(path, Pace::Full, 1);
    let mut pool = pool(4, 512);
    let (packets, error) = drain(&mut port, &mut pool);
    assert!(error.is_none());
    assert_eq!(packets.iter().map(|packet| packet.data.len()).collect::<Vec<_>>(), [384, 0]);
    let counts = port.statistics().counts();
    assert_eq!((counts.rx_packets, counts.rx_bytes, counts.rx_dropped_too_large), (2, 384, 2));
    all_free(&pool);
}

#[test]
fn a_pool_that_runs_dry_loses_only_counted_packets() {
    let directory = tempdir().expect("directory");
    let path = capture(&directory, &[(0, 60); 10]);
    let mut port = port(path, Pace::Full, 1);
    let mut pool = pool(4, 512);
    let mut held = Vec::with_capacity(16);
    // As many as there are buffers, although more were asked for.
    assert_eq!(port.receive(&mut pool, &mut held, 8).expect("packets"), Received::Packets);
    assert_eq!(held.len(), 4);
    assert_eq!(port.receive(&mut pool, &mut held, 3).expect("dropped"), Received::Packets);
    assert_eq!((held.len(), port.statistics().counts().rx_dropped_no_buffer), (4, 3));
    held.drain(..).for_each(|packet| pool.give(packet.buffer));
    let (rest, _) = drain(&mut port, &mut pool);
    assert_eq!(rest.len(), 3);
    all_free(&pool);
}

#[test]
fn the_recorded_pace_is_kept() {
    let directory = tempdir().expect("directory");
    let path =
        capture(&directory, &[(0, 60), (30_000_000, 60), (30_000_001, 60), (60_000_000, 60)]);
    let mut port = port(path, Pace::Recorded, 1);
    let mut pool = pool(4, 512);
    let start = Instant::now();
    let mut packets = Vec::with_capacity(8);
    assert_eq!(port.receive(&mut pool, &mut packets, 8).expect("first"), Received::Packets);
    assert_eq!(packets.len(), 1);
    match port.receive(&mut pool, &mut packets, 8).expect("wait") {
        Received::Idle { next: Some(wait) } => {
            assert!(wait <= Duration::from_millis(30), "{wait:?}");
        }
        other => panic!("{other:?} after {:?}", start.elapsed()),
    }
    packets.drain(..).for_each(|packet| pool.give(packet.buffer));
    let (rest, _) = drain(&mut port, &mut pool);
    assert_eq!(rest.len(), 3);
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
    all_free(&pool);
}

#[test]
fn rounds_go_on_in_time() {
    let directory = tempdir().expect("directory");
    let path = capture(&directory, &[(100, 60), (900, 61)]);
    let mut pool = pool(64, 512);
    let (packets, _) = drain(&mut port(path.clone(), Pace::Full, 3), &mut pool);
    let times: Vec<u64> = packets.iter().map(|packet| packet.time - 1_000_000_000).collect();
    assert_eq!(times, [100, 900, 1900, 2700, 3700, 4500]);

    let mut endless = port(path, Pace::Full, 0);
    let mut packets = Vec::with_capacity(32);
    for _ in 0..100 {
        assert_eq!(endless.receive(&mut pool, &mut packets, 32).expect("more"), Received::Packets);
        packets.drain(..).for_each(|packet| pool.give(packet.buffer));
    }
    assert_eq!(endless.statistics().counts().rx_packets, 3200);

    // A capture without packets ends, however often it is to be read.
    let (none, _) = drain(&mut port(capture(&directory, &[]), Pace::Full, 0), &mut pool);
    assert!(none.is_empty());
    all_free(&pool);
}

#[test]
fn a_port_without_output_drops_and_counts() {
    let directory = tempdir().expect("directory");
    let mut port = port(capture(&directory, &[(0, 60)]), Pace::Full, 1);
    let mut pool = pool(4, 512);
    let mut packets = Vec::with_capacity(4);
    port.receive(&mut pool, &mut packets, 4).expect("a packet");
    port.send(&mut pool, &mut packets).expect("dropped");
    port.finish(&mut pool).expect("nothing to write");
    assert_eq!(port.statistics().counts().tx_dropped_no_output, 1);
    all_free(&pool);
}

#[test]
fn a_full_disk_is_told_and_costs_no_buffer() {
    let directory = tempdir().expect("directory");
    let path = capture(&directory, &[(0, 1500); 400]);
    let output = Some(PathBuf::from("/dev/full"));
    let config = PcapConfig { input: Some(path), output, ..PcapConfig::default() };
    let mut port = PcapPort::open("out", &config).expect("port");
    let mut pool = pool(256, 2048);
    let mut packets = Vec::with_capacity(256);
    let mut message = String::new();
    while port.receive(&mut pool, &mut packets, 256).expect("packets") != Received::End {
        if let Err(error) = port.send(&mut pool, &mut packets) {
            message = error.to_string();
        }
        all_free(&pool);
        assert!(packets.is_empty());
    }
    assert!(message.contains("/dev/full") && message.contains("No space left"), "{message}");
    let counts = port.statistics().counts();
    assert_eq!(counts.tx_packets + counts.tx_errors, 400);
    assert!(counts.tx_errors > 0);
}

#[test]
fn what_was_sent_is_seen_in_the_file_before_more_comes() {
    let directory = tempdir().expect("directory");
    let input = capture(&directory, &[(0, 60)]);
    let output = directory.path().join("out.pcap");
    let config = PcapConfig {
        input: Some(input.clone()),
        output: Some(output.clone()),
        ..PcapConfig::default()
    };
    let mut port = PcapPort::open("out", &config).expect("port");
    let mut pool = pool(4, 512);
    let mut packets = Vec::with_capacity(4);
    port.receive(&mut pool, &mut packets, 4).expect("a packet");
    port.send(&mut pool, &mut packets).expect("written");
    while let Some(next) = port.settle(&mut pool).expect("written") {
        std::thread::sleep(next);
    }
    // Behind the headers, which differ in the longest packet.
    let record = |path| std::fs::read(path).expect("a capture")[24..].to_vec();
    assert_eq!(record(&output), record(&input));
}
