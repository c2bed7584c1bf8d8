//! `xdp` ports end to end: idle, in trouble, and after a crash. What passes them is in `laboratory.rs`.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::lab::{Lab, PortKind};

/// Whether a packet gets through and back.
fn flows(lab: &Lab) -> bool {
    lab.left.command("ping -c 1 -W 1 10.77.0.1").output().unwrap().status.success()
}

fn lab() -> Lab {
    lab_with("")
}

fn lab_with(keys: &str) -> Lab {
    let lab = Lab::new(PortKind::Xdp, keys);
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    lab
}

/// CPU time of a process so far, in ticks of 10 ms.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn netns_an_idle_host_uses_no_cpu_and_wakes_for_the_first_packet() {
    let lab = lab();
    lab.left.sh("ping -c 2 -i 0.1 10.77.0.1");
    // Neighbours are not asked again while it is idle.
    for (host, far) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        let address = if std::ptr::eq(host, &lab.left) { "10.77.0.1" } else { "10.77.0.2" };
        let link = far.sh("cat /sys/class/net/eth0/address");
        host.sh(&format!(
            "ip neighbour replace {address} lladdr {} dev eth0 nud permanent",
            link.trim()
        ));
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks(lab.host());
    std::thread::sleep(Duration::from_secs(4));
    let used = ticks(lab.host()) - before;
    assert!(used <= 1, "an idle host used {} ms of CPU in 4 s", used * 10);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        // Fails without an answer.
        lab.left.sh("ping -c 1 -W 2 10.77.0.1");
    }
}

#[test]
fn netns_a_crash_leaves_nothing_behind_and_the_next_host_takes_over() {
    // Pinned, it leaves its decisions: host/xdp/tests/pinned.rs.
    let mut lab = lab_with("pin = false");
    lab.left.sh("ping -c 3 -i 0.05 10.77.0.1");
    assert!(lab.middle.sh("ip link show dev left").contains("prog/xdp"));
    lab.crash();
    let link = lab.middle.sh("ip link show dev left");
    assert!(!link.contains("prog/xdp"), "{link}");
    lab.start();
    lab.wait("the chain is back", flows);
    lab.stop();
}

#[test]
fn netns_an_interface_that_goes_away_is_told_and_the_host_lives() {
    let mut lab = lab();
    lab.left.sh("ping -c 3 -i 0.05 10.77.0.1");
    lab.right.sh("ip link delete dev eth0");
    lab.wait("the port says so", |lab| lab.port("right")["device"]["link"] == "gone");
    lab.wait("the log says so", |lab| lab.log().contains("interface right is gone"));
    // Somebody still sends.
    let started = Instant::now();
    let _ = lab.left.command("ping -c 3 -i 0.05 -W 1 10.77.0.1").output();
    assert!(started.elapsed() < Duration::from_secs(10));
    let dropped = |lab: &Lab| lab.port("right")["drops"]["tx-down"].as_u64().unwrap_or(0);
    lab.wait("what cannot leave is counted", |lab| dropped(lab) > 0);
    // It comes back, and so does the chain.
    lab.rewire_right();
    lab.weir(&["chain", "remove", "edge"]);
    lab.chain("null", "");
    lab.wait("it flows again", flows);
    lab.stop();
}

#[test]
fn netns_a_host_that_cannot_have_its_interface_says_why() {
    let mut lab = Lab::new(PortKind::Xdp, "");
    lab.stop();
    lab.middle.sh("ip link set dev right down");
    let output = lab.try_run();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = "error: port right: interface right is down: `ip link set dev right up`\n";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("weir.toml:13:13\n") && text.contains("key: port[1].interface"),
        "{text}"
    );
}

#[test]
fn netns_reasons_for_drops_are_told_by_name() {
    let lab = lab();
    lab.left.sh("ping -c 1 10.77.0.1");
    lab.middle.sh("ip link set dev right down");
    let _ = lab.left.command("ping -c 3 -i 0.05 -W 1 10.77.0.1").output();
    lab.wait("the drops are counted", |lab| {
        let drops: Value = lab.status()["drops"].clone();
        drops["tx-down"].as_u64().unwrap_or(0) > 0
    });
    lab.middle.sh("ip link set dev right up");
    lab.wait("it flows again", flows);
}
