//! `xdp` ports end to end: in trouble, and after a crash. What passes them is in `laboratory.rs`;
//! what they have in common with `dpdk` ports is in `devices.rs`.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

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

/// Between the opening of a port and a chain's having it, interfaces go and links fall.
#[test]
fn netns_a_port_that_was_opened_and_cannot_be_given_to_a_chain_is_opened_once_more() {
    let lab = Lab::new(PortKind::Xdp, "");
    lab.push("null", "1.0.0");
    lab.middle.sh("ip link set dev right down");
    lab.write_edge("", "[[function]]\nuse = \"null\"\n");
    let refused = lab.refused(&["chain", "apply", "edge.toml"]);
    assert!(refused.contains("it is opened as soon as it can be"), "{refused}");
    lab.middle.sh("ip link set dev right up");
    lab.wait("it is opened", |lab| lab.log().contains("port right is no longer down"));
    lab.chain("null", "");
    lab.wait("it flows", flows);
}

/// What comes for the host itself is dropped by a rule, whatever becomes of the chain and of the
/// port on the other side.
#[test]
fn netns_what_rules_drop_does_not_pass_while_ports_are_opened_anew() {
    let mut lab = lab();
    lab.middle.sh("ip address add 10.77.0.9/24 dev left");
    lab.write(
        "rules.toml",
        "[[rule]]\nport = \"left\"\nproto = \"icmp\"\ndst = \"10.77.0.9/32\"\nto = \"drop\"\n",
    );
    lab.weir(&["steer", "apply", "rules.toml"]);
    let mac = lab.middle.sh("cat /sys/class/net/left/address");
    lab.left.sh(&format!("ip neighbor replace 10.77.0.9 lladdr {} dev eth0", mac.trim()));
    let mac = lab.left.sh("cat /sys/class/net/eth0/address");
    lab.middle.sh(&format!("ip neighbor replace 10.77.0.2 lladdr {} dev left", mac.trim()));
    let mut ping = lab.left.command("ping -q -i 0.002 -w 8 10.77.0.9");
    let ping = ping.stdout(std::process::Stdio::piped()).spawn().expect("ping");
    lab.deploy_with("symmetric = false", "[[function]]\nuse = \"null\"\n");
    lab.weir(&["chain", "remove", "edge"]);
    lab.chain("null", "");
    lab.right.sh("ip link delete dev eth0");
    lab.rewire_right();
    lab.wait("it flows again", flows);
    let said = ping.wait_with_output().expect("ping");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(" 0 received"), "{said}");
    // It does not outlive the rules, nor the host.
    lab.weir(&["chain", "remove", "edge"]);
    let has_program = |lab: &Lab| lab.middle.sh("ip link show dev left").contains("prog/xdp");
    assert!(has_program(&lab));
    lab.write("rules.toml", "");
    lab.weir(&["steer", "apply", "rules.toml"]);
    assert!(!has_program(&lab));
    lab.stop();
}

/// Flows to the host itself come to both queues of the interface, of which the port has one.
#[test]
fn netns_what_rules_drop_does_not_pass_at_queues_without_a_port() {
    const FLOWS: u16 = 200;
    let mut lab = Lab::with_queues(2, PortKind::Xdp, "pin = false", "");
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    lab.middle.sh("ip address add 10.77.0.9/24 dev left");
    let mac = lab.middle.sh("cat /sys/class/net/left/address");
    lab.left.sh(&format!("ip neighbor replace 10.77.0.9 lladdr {} dev eth0", mac.trim()));
    let rule = "[[rule]]\nproto = \"udp\"\ndport = 7\nto = \"drop\"\n";
    // How many flows to this port come to the host.
    let come = |lab: &Lab, to: u16| {
        let (ready, is_ready) = mpsc::channel();
        let server = lab.middle.thread(move || {
            let socket = UdpSocket::bind(("10.77.0.9", to)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            ready.send(()).unwrap();
            std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count()
        });
        is_ready.recv().unwrap();
        let client = lab.left.thread(move || {
            for from in 10_000..10_000 + FLOWS {
                let socket = UdpSocket::bind(("10.77.0.2", from)).unwrap();
                socket.send_to(b"weir", ("10.77.0.9", to)).unwrap();
            }
        });
        client.join().unwrap();
        server.join().unwrap()
    };
    let counted = |lab: &Lab, name: &str| lab.port("left")["device_counters"][name].as_u64();
    let passed = come(&lab, 7);
    assert!(
        passed > 0 && passed < FLOWS.into(),
        "what comes to the port's queue is the chain's: {passed}"
    );
    lab.write("rules.toml", rule);
    lab.weir(&["steer", "apply", "rules.toml"]);
    assert_eq!(come(&lab, 7), 0);
    assert_eq!(counted(&lab, "xdp_dropped_steered"), Some(FLOWS.into()));
    assert_eq!(lab.weir(&["steer", "list"])[0]["flows"], FLOWS);
    let others = counted(&lab, "xdp_to_kernel_no_socket");
    let passed = come(&lab, 8);
    assert!(
        passed > 0 && counted(&lab, "xdp_to_kernel_no_socket") >= others.map(|n| n + passed as u64)
    );
    // Without a chain, too, and not when there are no rules any more.
    lab.weir(&["chain", "remove", "edge"]);
    assert_eq!(come(&lab, 7), 0);
    lab.write("rules.toml", "");
    lab.weir(&["steer", "apply", "rules.toml"]);
    assert_eq!(come(&lab, 7), usize::from(FLOWS));
    lab.stop();
}

/// A file system for BPF of its own, in a host's directory.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new(directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "-o", "mode=0700", "bpf"]).arg(&directory);
        assert!(mount.status().expect("mount").success());
        Self(directory)
    }

    fn pins(&self) -> usize {
        std::fs::read_dir(self.0.join("weir")).map_or(0, Iterator::count)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What comes for the host itself is dropped by a rule without any chain, also behind a crash; and
/// by nothing when there is no such rule, no such port, or no host.
#[test]
fn netns_what_rules_drop_is_dropped_at_ports_that_no_chain_has() {
    let mut lab = Lab::wired();
    let bpffs = Bpffs::new(lab.path("bpf"));
    let pin = format!("pin = \"{}\"", bpffs.0.display());
    lab.configure(PortKind::Xdp, &pin, "");
    lab.middle.sh("ip address add 10.77.0.9/24 dev left");
    lab.start();
    let reaches = |lab: &Lab| {
        lab.left.command("ping -c 2 -i 0.05 -W 1 10.77.0.9").output().unwrap().status.success()
    };
    assert!(reaches(&lab));
    let drop = |lab: &Lab| {
        lab.write("rules.toml", "[[rule]]\nport = \"left\"\nproto = \"icmp\"\nto = \"drop\"\n");
        lab.weir(&["steer", "apply", "rules.toml"])
    };
    let allow = |lab: &Lab| {
        lab.write("rules.toml", "");
        lab.weir(&["steer", "apply", "rules.toml"])
    };
    let applied = drop(&lab);
    assert!(applied["idle_ports"].is_null(), "{applied}");
    assert!(!reaches(&lab));
    let rules = lab.weir(&["steer", "list"]);
    assert_eq!(rules[0]["places"][0]["at"], "xdp", "{rules}");
    assert!(rules[0]["flows"].as_u64() > Some(0), "{rules}");
    // It is the rules that do it, again and again.
    allow(&lab);
    assert!(reaches(&lab));
    drop(&lab);
    assert!(!reaches(&lab));
    lab.crash();
    assert!(!reaches(&lab));
    lab.start();
    assert!(!reaches(&lab));
    allow(&lab);
    assert!(reaches(&lab));
    drop(&lab);
    lab.stop();
    assert!(reaches(&lab));
    assert_eq!(bpffs.pins(), 0);
    // The next host has no such port, and another one on this file system.
    lab.start();
    assert!(!reaches(&lab));
    lab.crash();
    assert!(!reaches(&lab));
    let other =
        format!("[[port]]\nname = \"right\"\nkind = \"xdp\"\ninterface = \"right\"\n{pin}\n");
    lab.write(
        "weir.toml",
        format!("[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n{other}"),
    );
    lab.start();
    assert!(reaches(&lab), "{}", lab.log());
    assert!(
        lab.log().contains("the XDP program of a host that crashed is removed"),
        "{}",
        lab.log()
    );
    assert_eq!(bpffs.pins(), 0);
    lab.stop();
}

#[test]
fn netns_a_way_to_the_kernel_that_was_made_for_one_queue_is_told_and_had_when_it_is_made_anew() {
    let mut lab = Lab::wired_with(2);
    let make = |lab: &Lab, several: &str| {
        for side in ["left", "right"] {
            lab.middle.sh(&format!("ip tuntap add dev weir-{side} mode tap {several}"));
        }
    };
    make(&lab, "");
    lab.configure(PortKind::Xdp, "queues = 2\nkernel = \"weir-SIDE\"", "");
    lab.start();
    let told = "the TAP interface weir-left (`kernel`) cannot be had: it was made for one queue, and the port has 2 (`ip link delete \
                weir-left`, then `ip tuntap add dev weir-left mode tap multi_queue`)";
    let problem = lab.weir(&["status"])["ports"][0]["problem"].to_string();
    assert!(problem.contains(told), "{problem}");
    for side in ["left", "right"] {
        lab.middle.sh(&format!("ip link delete weir-{side}"));
    }
    make(&lab, "multi_queue");
    lab.wait("the port is opened", |lab| lab.weir(&["status"])["ports"][0]["problem"].is_null());
    lab.stop();
}

#[test]
fn netns_queues_without_a_port_are_told() {
    let lab = Lab::with_queues(2, PortKind::Xdp, "", "");
    lab.push("null", "1.0.0");
    lab.write_edge("", "[[function]]\nuse = \"null\"\n");
    let applied = lab.weir(&["chain", "apply", "edge.toml"]);
    let notes: Vec<&str> =
        applied["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_eq!(notes.len(), 2, "{applied}");
    let told = "port left: left has 2 receive queues, and ports have 1 of them: ";
    assert!(notes[0].starts_with(told), "{notes:?}");
    let events = Value::from(lab.events()).to_string();
    assert!(events.contains(told), "{events}");
    let weir = weir_tests::built::workspace().join("target/release/weir");
    let (weir, config) = (weir.display(), lab.path("weir.toml"));
    let checked = lab.middle.sh(&format!("{weir} run --check --config {}", config.display()));
    assert!(checked.contains(&format!("note: {told}")), "{checked}");
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
