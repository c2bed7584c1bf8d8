//! Chains on several workers end to end: real hosts talk through veth pairs with two queues, and
//! the two directions of a flow come to different ones.

use std::time::Duration;

use serde_json::Value;
use weir_tests::lab::{Lab, PortKind, Running};

const FIREWALL: &str = r#"
[function.config]
default = "deny"
rules = [
    { action = "allow", proto = "icmp" },
    { action = "allow", proto = "icmpv6" },
    { action = "allow", proto = "tcp", dport = "80, 5201" },
    { action = "allow", proto = "udp", dport = "5201" },
]
"#;

/// Each worker gives out ports of its own.
const NAT: &str = r#"
state = "8MiB"
per-worker = [{ ports = "20000-29999" }, { ports = "30000-39999" }]
[function.config]
external = ["203.0.113.1"]
internal = ["10.77.0.0/24"]
"#;

const WORKERS: &str = "[workers]\ncount = 2\n";

fn lab(function: &str, config: &str) -> Lab {
    started(Lab::with_queues(2, PortKind::Xdp, "queues = 2", WORKERS), function, config)
}

fn started(mut lab: Lab, function: &str, config: &str) -> Lab {
    lab.push(function, "1.0.0");
    lab.deploy_with("workers = 2", &format!("[[function]]\nuse = \"{function}\"\n{config}\n"));
    lab.serve(1_000_000);
    lab
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// What is true while traffic flows and after it: both workers have a share, together they have it
/// all, and packets that came to the wrong queue are where they belong.
fn shared_between_workers(lab: &Lab) {
    let status = lab.status();
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{status}");
    for worker in workers {
        assert!(number(worker, "packets_in") > 100, "{status}");
    }
    for key in ["packets_in", "packets_out"] {
        let sum: u64 = workers.iter().map(|worker| number(worker, key)).sum();
        assert_eq!(sum, number(&status, key), "{status}");
    }
    // A late packet may come between two of the answers.
    lab.wait("ports, queues and chain have counted the same packets", |lab| {
        let (mut received, mut full, mut handed, mut taken) = (0, 0, 0, 0);
        for side in ["left", "right"] {
            let port = lab.port(side);
            let queues = port["queues"].as_array().unwrap();
            assert_eq!(queues.len(), 2, "{port}");
            let sum = |key: &str| queues.iter().map(|queue| number(queue, key)).sum::<u64>();
            assert_eq!(sum("rx_packets"), number(&port, "rx_packets"), "{port}");
            assert!(sum("handed_over") > 0, "{port}");
            (handed, taken) = (handed + sum("handed_over"), taken + sum("taken_over"));
            received += number(&port, "rx_packets");
            full += port["drops"]["rx-handoff-full"].as_u64().unwrap_or(0);
        }
        handed == taken && received == number(&lab.status(), "packets_in") + full
    });
}

/// Many connections in both directions, each complete.
fn clients(lab: &Lab) {
    // For its last answer `ping` waits for its interval: long enough on a machine that others use
    // as well.
    let ping = lab.left.sh("ping -c 10 -i 0.2 -W 2 -s 1400 10.77.0.1");
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    for _ in 0..8 {
        lab.fetch("10.77.0.1");
    }
    for reverse in ["", "--reverse"] {
        let tcp = lab.iperf(&format!("--client 10.77.0.1 --parallel 8 --bytes 40M {reverse}"));
        assert!(tcp["sum_received"]["bytes"].as_u64() > Some(10_000_000), "{tcp}");
    }
}

/// The end of iperf3's report.
fn report(client: Running) -> Value {
    let output = client.output();
    let mut report: Value = serde_json::from_slice(&output.stdout).expect("a report of iperf3");
    assert!(report["error"].is_null(), "{report}");
    report["end"].take()
}

/// Established connections go on while the function is replaced on both workers, twice.
fn swap(lab: &Lab, function: &str) {
    lab.push(function, "2.0.0");
    let stream =
        lab.left.start("iperf3 --json --client 10.77.0.1 --parallel 4 --time 4 --bitrate 10M");
    std::thread::sleep(Duration::from_secs(1));
    for version in ["2.0.0", "1.0.0"] {
        let swap = lab.weir(&["function", "swap", function, "--to", version]);
        assert_eq!(swap["packets_lost"], 0, "{swap}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let report = report(stream);
    for stream in report["streams"].as_array().unwrap() {
        assert!(stream["receiver"]["bytes"].as_u64() > Some(2_000_000), "{report}");
    }
}

#[test]
fn netns_flows_stay_on_their_worker_with_a_stateful_firewall() {
    let mut lab = lab("firewall", FIREWALL);
    clients(&lab);
    swap(&lab, "firewall");
    shared_between_workers(&lab);
    let status = lab.status();
    assert_eq!(status["functions"][0]["faults"], 0, "{status}");
    // Answers of a flow that its worker does not know are not let in.
    let denied = status["drops"].as_object().unwrap();
    assert!(!denied.keys().any(|reason| reason.starts_with("firewall:")), "{status}");
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}

#[test]
fn netns_translated_flows_come_back_to_the_worker_that_translated_them() {
    let mut lab = lab("nat", NAT);
    // The right side knows the address that the left one appears under.
    lab.right.sh("ip route add 203.0.113.1 dev eth0");
    let mac = lab.left.sh("cat /sys/class/net/eth0/address");
    lab.right.sh(&format!("ip neighbour add 203.0.113.1 lladdr {} dev eth0", mac.trim()));
    clients(&lab);
    swap(&lab, "nat");
    // Pings of their own identifiers, at the same time, to one address.
    let pings: Vec<_> =
        (0..8).map(|_| lab.left.start("ping -c 10 -i 0.2 -W 2 10.77.0.1")).collect();
    for ping in pings {
        let out = String::from_utf8(ping.output().stdout).unwrap();
        assert!(out.contains(" 0% packet loss"), "{out}");
    }
    // What the second worker's instance refuses changes nothing on the first.
    let bad = NAT.replace("30000-39999", "30000-0").replace("20000-29999", "40000-49999");
    let bad = format!(
        "name = \"edge\"\nfrom = \"left\"\nto = \"right\"\nworkers = 2\n[[function]]\nuse = \"nat\"\n{bad}\n"
    );
    lab.write("bad.toml", bad);
    let why = lab.refused(&["chain", "apply", "bad.toml"]);
    assert!(why.contains("ports"), "{why}");
    let stream =
        lab.left.start("iperf3 --json --client 10.77.0.1 --parallel 16 --time 2 --bitrate 1M");
    std::thread::sleep(Duration::from_secs(1));
    let sockets = lab.right.sh("ss --numeric --no-header --tcp state established");
    let ports: Vec<u16> = sockets
        .split_whitespace()
        .filter(|word| word.contains("203.0.113.1"))
        .map(|word| word.rsplit(':').next().unwrap().parse().unwrap())
        .collect();
    let first = ports.iter().filter(|port| (20_000..30_000).contains(*port)).count();
    let second = ports.iter().filter(|port| (30_000..40_000).contains(*port)).count();
    assert!(first > 0 && second > 0 && first + second == ports.len(), "{ports:?}");
    assert!(report(stream)["sum_received"]["bytes"].as_u64() > Some(0));
    shared_between_workers(&lab);
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}

/// DPDK's AF_PACKET driver with two sockets for each interface, over which the kernel spreads flows
/// by a hash of its own.
#[test]
fn netns_two_queues_of_dpdk_devices_share_the_flows() {
    let lab = Lab::with_queues(2, PortKind::DpdkAfPacket, "queues = 2", WORKERS);
    let mut lab = started(lab, "firewall", FIREWALL);
    assert_eq!(lab.port("left")["device"]["rss"], "none");
    clients(&lab);
    shared_between_workers(&lab);
    let status = lab.status();
    assert_eq!(status["functions"][0]["faults"], 0, "{status}");
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}
