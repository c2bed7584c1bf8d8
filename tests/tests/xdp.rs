//! `xdp` ports end to end: real hosts talk through a real host of Weir's, which is a bump in the wire between them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::lab::Lab;

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

const NAT: &str = r#"
state = "8MiB"
[function.config]
external = ["203.0.113.1"]
internal = ["10.77.0.0/24"]
"#;

/// What has to be true at the end: nothing was dropped by ports, every room is back.
fn healthy(lab: &mut Lab) {
    for name in ["left", "right"] {
        let port = lab.port(name);
        for way in ["rx_packets", "tx_packets"] {
            assert!(port[way].as_u64().unwrap() > 100, "{port}");
        }
        assert_eq!(port["tx_dropped"], 0, "{port}");
        assert!(port["device"]["driver"].as_str().unwrap().contains("copy"), "{port}");
    }
    let status = lab.status();
    assert_eq!(status["functions"][0]["faults"], 0, "{status}");
    lab.stop();
}

fn clients(lab: &Lab, v6: bool) {
    let mut families = vec![("10.77.0.1", "http://10.77.0.1/file", "-4")];
    if v6 {
        families.push(("fd77::1", "http://[fd77::1]/file", "-6"));
    }
    for (address, url, family) in families {
        let ping = lab.left.sh(&format!("ping -c 20 -i 0.02 -W 2 -s 1400 {address}"));
        assert!(ping.contains(" 0% packet loss"), "{ping}");
        lab.fetch(url);
        let tcp = lab.iperf(&format!("{family} --client {address} --bytes 20M"));
        assert!(tcp["sum_received"]["bytes"].as_u64().unwrap() > 10_000_000, "{tcp}");
        let back = lab.iperf(&format!("{family} --client {address} --bytes 20M --reverse"));
        assert!(back["sum_received"]["bytes"].as_u64().unwrap() > 10_000_000, "{back}");
        let udp = lab.iperf(&format!(
            "{family} --client {address} --bytes 2M --udp --bitrate 20M --length 1200 --window 1M"
        ));
        assert!(udp["sum"]["packets"].as_u64().unwrap() > 1700, "{udp}");
        assert!(udp["sum"]["lost_percent"].as_f64().unwrap() < 5.0, "{udp}");
    }
}

/// An established connection, a download and a ping go on while the function is replaced, twice.
fn swap(lab: &Lab, function: &str) {
    lab.push(function, "2.0.0");
    let stream = lab.left.start("iperf3 --json --client 10.77.0.1 --time 4 --bitrate 100M");
    let ping = lab.left.start("ping -c 190 -i 0.02 -W 2 10.77.0.1");
    std::thread::sleep(Duration::from_secs(1));
    for version in ["2.0.0", "1.0.0"] {
        let swap = lab.weir(&["function", "swap", function, "--to", version]);
        assert_eq!(swap["packets_lost"], 0, "{swap}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let report = Lab::report(stream);
    assert!(report["sum_received"]["bytes"].as_u64().unwrap() > 10_000_000, "{report}");
    assert!(report["sum_received"]["seconds"].as_f64().unwrap() > 3.9, "{report}");
    let ping = String::from_utf8(ping.output().stdout).unwrap();
    // On a machine that others use as well, a queue may overflow now and then.
    let received = ping.split(" received").next().and_then(|text| text.rsplit(' ').next());
    assert!(received.unwrap().parse::<u32>().unwrap() >= 185, "{ping}");
}

/// Whether a packet gets through and back.
fn flows(lab: &Lab) -> bool {
    lab.left.command("ping -c 1 -W 1 10.77.0.1").output().unwrap().status.success()
}

fn lab(function: &str, config: &str, keys: &str) -> Lab {
    let mut lab = Lab::new("xdp", keys);
    lab.push(function, "1.0.0");
    lab.chain(function, config);
    lab.serve(3_000_000);
    lab
}

#[test]
fn netns_real_clients_pass_null_in_both_modes() {
    for (keys, expected) in [("", "native, copy"), ("mode = \"generic\"", "generic, copy")] {
        let mut lab = lab("null", "", keys);
        assert_eq!(lab.port("left")["device"]["driver"], expected);
        clients(&lab, true);
        swap(&lab, "null");
        healthy(&mut lab);
    }
}

#[test]
fn netns_real_clients_pass_the_firewall_and_keep_their_flows_over_a_swap() {
    let mut lab = lab("firewall", FIREWALL, "");
    clients(&lab, true);
    let refused =
        lab.left.command("curl --silent --max-time 1 http://10.77.0.1:8080/").status().unwrap();
    assert_eq!(refused.code(), Some(28), "denied: it waits for nothing");
    swap(&lab, "firewall");
    let status = lab.status();
    assert!(
        status["drops"].as_object().unwrap().keys().any(|reason| reason.starts_with("firewall:")),
        "{status}"
    );
    healthy(&mut lab);
}

#[test]
fn netns_real_clients_pass_nat_and_keep_their_translations_over_a_swap() {
    let mut lab = lab("nat", NAT, "");
    let link = lab.left.sh("cat /sys/class/net/eth0/address");
    lab.right.sh(&format!("ip neighbour add 203.0.113.1 lladdr {} dev eth0", link.trim()));
    lab.right.sh("ip route add 203.0.113.1/32 dev eth0");
    clients(&lab, false);
    let peers = lab.left.start(
        "curl --silent --max-time 3 --limit-rate 300k --output /dev/null http://10.77.0.1/file",
    );
    lab.wait("the server sees the translated address", |lab| {
        lab.right.sh("ss --tcp --numeric --no-header state established").contains("203.0.113.1]:")
            || lab
                .right
                .sh("ss --tcp --numeric --no-header state established")
                .contains("203.0.113.1:")
    });
    drop(peers);
    swap(&lab, "nat");
    healthy(&mut lab);
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
    let lab = lab("null", "", "");
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
    let mut lab = lab("null", "", "pin = false");
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
    let mut lab = lab("null", "", "");
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
    let mut lab = Lab::new("xdp", "");
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
    let lab = lab("null", "", "");
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
