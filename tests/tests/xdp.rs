//! `xdp` ports end to end: in trouble, and after a crash. What passes them is in `laboratory.rs`; what they have in common with
//! `dpdk` ports is in `devices.rs`.

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
fn netns_an_interface_that_is_down_at_the_start_is_told_and_opened_when_it_is_up() {
    let mut lab = lab();
    lab.stop();
    lab.middle.sh("ip link set dev right down");
    lab.start();
    let why = "port right is down: interface right is down: `ip link set dev right up`; it is opened as soon as it can be";
    lab.wait("it is told", |lab| lab.log().contains(why));
    let status = lab.weir(&["status"]);
    let failed = format!("{why}, and the chain is deployed then");
    assert_eq!(status["failed"]["default/edge"], failed, "{status}");
    assert_eq!(status["ports"][1]["device"]["link"], "down", "{status}");
    lab.middle.sh("ip link set dev right up");
    lab.wait("it flows", flows);
    assert_eq!(lab.weir(&["status"])["failed"], serde_json::json!({}));
    lab.stop();
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
