//! `weir tap`: packets of a chain that runs.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use weir_tests::wat_guest;

use crate::guests::{self, pass};
use crate::host::Host;

/// Drops every other packet of a burst with reason 3, and gives the others another hop limit.
fn every_other() -> Vec<u8> {
    let body = "(i32.store8 offset=22 (local.get $p) (i32.const 9))
        (if (i32.and (local.get $i) (i32.const 1)) (then (local.set $verdict (i32.const 0x301))))";
    wat_guest::upload(&wat_guest::module(&wat_guest::each(body)), "packet-function")
}

fn host() -> Host {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &every_other());
    host
}

/// What tshark says of a capture: for each packet these fields.
fn tshark(host: &Host, file: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-r"]).arg(host.path(file));
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.output().expect("tshark is installed where tests are run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// `weir tap` with this host, in the background; what it says goes to the file `said`.
fn tap(host: &Host, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("--api").arg(host.path("api.sock")).arg("tap").args(arguments);
    command.current_dir(host.directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(host.path("said")).expect("a file"));
    command.spawn().expect("weir starts")
}

fn said(host: &Host) -> String {
    std::fs::read_to_string(host.path("said")).expect("it was made")
}

fn signal(child: &Child, signal: Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("it lives");
}

#[test]
fn a_capture_of_a_chain_has_what_comes_and_what_leaves() {
    let host = host();
    host.ok(&["tap", "edge", "-w", "a.pcapng", "-n", "1000"]);
    let fields = ["frame.interface_name", "frame.packet_flags_direction", "ip.ttl", "udp.dstport"];
    let packets = tshark(&host, "a.pcapng", &fields);
    assert_eq!(packets.len(), 1000);
    let of = |interface: &str, direction: &str, ttl: &str| {
        let wanted = [interface, direction, ttl];
        packets.iter().filter(|packet| packet[..3] == wanted).count()
    };
    let (came, left) = (of("in", "0x00000001", "64"), of("out", "0x00000002", "9"));
    assert_eq!(came + left, 1000, "{packets:?}");
    // Half of each burst is dropped; the capture may begin or end within a burst.
    assert!(came > left && left > came / 3, "{came} came, {left} left");
    assert!(packets.iter().all(|packet| !packet[3].is_empty()));

    // One side, one flow, the first bytes only.
    let flow = &packets[0][3];
    let one = ["tap", "edge", "-w", "b.pcapng", "-n", "5", "-Q", "in", "-s", "60", "--dport", flow];
    let one = [&one[..], &["--proto", "udp"]].concat();
    host.ok(&one);
    let fields = ["frame.packet_flags_direction", "udp.dstport", "frame.cap_len"];
    for packet in tshark(&host, "b.pcapng", &fields) {
        assert_eq!(packet, ["0x00000001", flow, "60"]);
    }
}

#[test]
fn a_function_shows_what_it_decides() {
    let host = host();
    let shown = host.ok(&["tap", "edge:gate", "-n", "64"]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 64, "{shown}");
    let given = lines.iter().filter(|line| line.contains("Z  in   in  10.0.0.")).count();
    let dropped = lines.iter().filter(|line| line.ends_with("bytes  drop 3")).count();
    let passed = lines.iter().filter(|line| line.ends_with("bytes  next")).count();
    assert!(given > 0 && passed > 0 && dropped > 0, "{shown}");
    assert_eq!(given + passed + dropped, 64, "{shown}");
    assert!(lines[0].contains(" UDP ") && lines[0].contains(" → "), "{shown}");

    // The numbers say what became of what.
    let json = host.ok(&["--output", "json", "tap", "edge:gate", "-n", "200"]);
    let packets: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let came = |id: &Value| {
        packets.iter().find(|packet| packet["id"] == *id && packet["direction"] == "in")
    };
    let left: Vec<_> = packets.iter().filter(|packet| packet["direction"] == "out").collect();
    assert!(!left.is_empty());
    for packet in left {
        let before = came(&packet["id"]).expect("it came before");
        assert_ne!(before["bytes"], packet["bytes"]);
        assert_eq!(before["length"], packet["length"]);
    }

    host.ok(&["tap", "edge:gate", "-w", "c.pcapng", "-n", "64", "-Q", "out"]);
    let comments = tshark(&host, "c.pcapng", &["frame.comment", "frame.packet_id"]);
    assert!(comments.iter().any(|packet| packet[0] == "drop 3"), "{comments:?}");
    assert!(comments.iter().all(|packet| packet[1].parse::<u64>().is_ok()), "{comments:?}");
}

/// Whether a tap writes into this file: it begins with what tells what it is.
fn begun(host: &Host, file: &str) -> bool {
    std::fs::metadata(host.path(file)).is_ok_and(|file| file.len() > 0)
}

#[test]
fn a_tap_ends_with_its_client_and_leaves_a_whole_capture() {
    let mut host = host();
    let mut child = tap(&host, &["edge", "-w", "d.pcapng"]);
    let has_some = |host: &Host| {
        std::fs::metadata(host.path("d.pcapng")).is_ok_and(|file| file.len() > 100_000)
    };
    host.wait_for("packets are written", has_some);
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("it is our child").code(), Some(0), "{}", said(&host));
    let packets = tshark(&host, "d.pcapng", &["frame.number"]).len();
    assert_eq!(said(&host), format!("{packets} packets\n"));

    // Four at a time; those of clients that were killed end.
    let files = ["1.pcapng", "2.pcapng", "3.pcapng", "4.pcapng"];
    let mut taps: Vec<Child> = files.iter().map(|file| tap(&host, &["edge", "-w", file])).collect();
    host.wait_for("there are four", |host| files.iter().all(|file| begun(host, file)));
    assert!(host.fails(&["tap", "edge", "-n", "1"]).contains("chain edge has 4 taps"));
    for tap in &mut taps {
        tap.kill().expect("it lives");
        tap.wait().expect("it is our child");
    }
    host.wait_for("they have ended", |host| {
        host.weir(&["tap", "edge", "-n", "1"]).status == Some(0)
    });
}

#[test]
fn a_tap_ends_with_its_chain_and_not_with_a_version() {
    let mut host = host();
    let mut child = tap(&host, &["edge", "-w", "t.pcapng"]);
    host.wait_for("it is there", |host| begun(host, "t.pcapng"));
    guests::push(&host, "2.0.0", &pass(2));
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("it is our child").is_none(), "{}", said(&host));
    let after = host.ok(&["tap", "edge:gate", "-n", "100", "-Q", "out"]);
    assert!(after.lines().all(|line| line.ends_with("  next")), "{after}");
    host.ok(&["chain", "remove", "edge"]);
    assert_eq!(child.wait().expect("it is our child").code(), Some(1));
    assert!(said(&host).ends_with(
        " packets\nerror: the tap ended early: the chain was taken down or has other functions now, or the host stops\n"
    ));
}

#[test]
fn the_host_stops_in_spite_of_a_tap() {
    let mut host = host();
    let mut child = tap(&host, &["edge", "--dst", "192.0.2.77", "-w", "t.pcapng"]);
    host.wait_for("it is there", |host| begun(host, "t.pcapng"));
    let started = Instant::now();
    let (status, _, log) = host.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("cut off"), "{log}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(child.wait().expect("it is our child").code(), Some(1));
}

#[test]
fn what_cannot_be_tapped_is_said() {
    let host = host();
    // Before it is known that there is such a chain, a capture of before is left alone.
    host.write("kept.pcapng", "of before");
    let refused = host.fails(&["tap", "other", "-n", "1", "-w", "kept.pcapng"]);
    assert!(refused.contains("other"), "{refused}");
    assert_eq!(std::fs::read(host.path("kept.pcapng")).unwrap(), b"of before");
    let refused = host.fails(&["tap", "edge:nat", "-n", "1"]);
    assert!(refused.contains("no function nat for packets; it has gate"), "{refused}");
    let refused = host.fails(&["tap", "edge", "--port", "elsewhere"]);
    assert!(refused.contains("no port elsewhere; it has in, out"), "{refused}");
    assert_eq!(host.weir(&["tap", "Edge:gate"]).status, Some(2));
    let refused = host.fails(&["tap", "edge", "-n", "1", "-w", "/nowhere/a.pcapng"]);
    assert!(refused.contains("/nowhere/a.pcapng"), "{refused}");
    // With a limit of time it ends without packets, too.
    let nothing = host.weir(&["tap", "edge", "--seconds", "1", "--dst", "192.0.2.77"]);
    assert_eq!((nothing.status, nothing.out.as_str()), (Some(0), ""));
    assert_eq!(nothing.err, "0 packets\n");
}
