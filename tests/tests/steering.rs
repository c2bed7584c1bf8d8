//! Steering end to end: a real host between real hosts, rules that choose between two chains, the
//! kernel and nothing.

use serde_json::Value;
use weir_tests::lab::{Lab, Namespace, PortKind};

/// `edge` lets everything pass, `inspect` only what is for port 7001; it has what rules send there.
fn lab(ports: PortKind, keys: &str) -> Lab {
    let lab = Lab::new(ports, keys);
    lab.push("null", "1.0.0");
    lab.push("firewall", "1.0.0");
    lab.chain("null", "");
    lab.write(
        "inspect.toml",
        r#"
name = "inspect"
from = "left"
to = "right"
steered = true
[[function]]
use = "firewall"
[function.config]
default = "deny"
rules = [{ action = "allow", proto = "udp", dport = "7001" }]
"#,
    );
    lab.weir(&["chain", "apply", "inspect.toml"]);
    lab
}

fn steer(lab: &Lab, rules: &str) -> Value {
    lab.write("steer.toml", rules);
    lab.weir(&["steer", "apply", "steer.toml"])
}

fn pings(lab: &Lab, address: &str) -> bool {
    lab.left.command(&format!("ping -c 2 -i 0.1 -W 1 {address}")).output().unwrap().status.success()
}

/// Packets that came to a chain.
fn packets_in(lab: &Lab, chain: &str) -> u64 {
    let status = lab.weir(&["status"]);
    let chains = status["chains"].as_array().unwrap();
    let chain = chains.iter().find(|status| status["name"] == chain);
    chain.unwrap_or_else(|| panic!("{status}"))["packets_in"].as_u64().unwrap()
}

fn rules_choose(ports: PortKind) {
    let mut lab = lab(ports, "");
    assert!(pings(&lab, "10.77.0.1"));
    assert_eq!(packets_in(&lab, "inspect"), 0);
    let applied = steer(
        &lab,
        "[[rule]]\nproto = \"udp\"\ndport = \"7000-7999\"\nchain = \"inspect\"\n\
         [[rule]]\nport = \"left\"\nproto = \"icmp\"\nto = \"drop\"\n",
    );
    assert!(!applied.is_null());
    assert!(!pings(&lab, "10.77.0.1"), "a rule says drop");
    assert!(pings(&lab, "fd77::1"), "it is for IPv4's ICMP only");
    for port in [7001, 7002, 6999] {
        lab.datagram("10.77.0.1", port);
    }
    lab.wait("both datagrams are inspected", |lab| packets_in(lab, "inspect") == 2);
    let status = lab.weir(&["status"]);
    let inspect = status["chains"].as_array().unwrap().iter().find(|c| c["name"] == "inspect");
    assert_eq!(inspect.unwrap()["packets_out"], 1, "{status}");
    // Other rules hold at once, none lets everything pass by the first chain again.
    steer(&lab, "");
    assert!(pings(&lab, "10.77.0.1"));
    lab.datagram("10.77.0.1", 7002);
    assert!(pings(&lab, "10.77.0.1"));
    assert_eq!(packets_in(&lab, "inspect"), 2);
    // A chain that goes leaves the other's packets alone.
    lab.weir(&["chain", "remove", "inspect"]);
    assert!(pings(&lab, "10.77.0.1"));
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}

#[test]
fn netns_rules_choose_the_chain_on_xdp_ports() {
    rules_choose(PortKind::Xdp);
}

#[test]
fn netns_rules_choose_the_chain_on_dpdk_ports() {
    rules_choose(PortKind::DpdkAfPacket);
}

#[test]
fn netns_what_is_for_the_kernel_never_leaves_it_on_xdp_ports() {
    let mut lab = lab(PortKind::Xdp, "");
    // Hosts that announce nothing by themselves: every packet that is counted here is the test's.
    for host in [&lab.left, &lab.right, &lab.middle] {
        host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    // An address of the middle's own, on the port's interface.
    lab.middle.sh("ip address add 10.77.0.9/24 dev left");
    let mac = lab.middle.sh("cat /sys/class/net/left/address");
    lab.left.sh(&format!("ip neighbour add 10.77.0.9 lladdr {} dev eth0", mac.trim()));
    let mac = lab.left.sh("cat /sys/class/net/eth0/address");
    lab.middle.sh(&format!("ip neighbour add 10.77.0.2 lladdr {} dev left", mac.trim()));
    assert!(
        !pings(&lab, "10.77.0.9"),
        "the chain takes it to the right, where nobody has that address"
    );
    steer(&lab, "[[rule]]\ndst = \"10.77.0.9\"\nto = \"kernel\"\n");
    let before = packets_in(&lab, "edge");
    assert!(pings(&lab, "10.77.0.9"));
    assert_eq!(packets_in(&lab, "edge"), before);
    assert!(pings(&lab, "10.77.0.1"));
    // A chain that goes begins no count anew.
    let flows = |lab: &Lab| lab.weir(&["steer", "list"])[0]["flows"].as_u64().unwrap();
    let decided = flows(&lab);
    assert!(decided > 0);
    lab.weir(&["chain", "remove", "inspect"]);
    assert!(flows(&lab) >= decided, "{} of {decided}", flows(&lab));
    lab.stop();
}

#[test]
fn netns_what_no_rule_claims_is_the_kernels_on_xdp_ports_whose_chains_are_all_steered() {
    let mut lab = Lab::new(PortKind::Xdp, "");
    lab.push("null", "1.0.0");
    let null = "[[function]]\nuse = \"null\"\n";
    lab.deploy_with("steered = true", null);
    lab.middle.sh("ip address add 10.77.0.9/24 dev left");
    assert!(pings(&lab, "10.77.0.9"), "there are no rules yet");
    // Questions for hardware addresses are claimed by nobody either.
    let mac = |host: &Namespace| host.sh("cat /sys/class/net/eth0/address").trim().to_owned();
    lab.left.sh(&format!("ip neighbour add 10.77.0.1 lladdr {} dev eth0", mac(&lab.right)));
    lab.right.sh(&format!("ip neighbour add 10.77.0.2 lladdr {} dev eth0", mac(&lab.left)));
    assert!(!pings(&lab, "10.77.0.1"), "nobody carries it to the right");
    assert_eq!(packets_in(&lab, "edge"), 0);
    steer(
        &lab,
        "[[rule]]\ndst = \"10.77.0.1\"\nchain = \"edge\"\n[[rule]]\nsrc = \"10.77.0.1\"\nchain = \"edge\"\n",
    );
    assert!(pings(&lab, "10.77.0.1"));
    lab.wait("the chain had what is for it", |lab| packets_in(lab, "edge") == 4);
    assert!(pings(&lab, "10.77.0.9"));
    assert_eq!(packets_in(&lab, "edge"), 4);
    // A chain that takes the rest has it from now on, and gives it back.
    lab.deploy(null);
    assert!(!pings(&lab, "10.77.0.9"));
    lab.deploy_with("steered = true", null);
    assert!(pings(&lab, "10.77.0.9"));
    assert!(pings(&lab, "10.77.0.1"));
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}

#[test]
fn netns_a_tap_interface_is_the_way_to_the_kernel_of_dpdk_ports() {
    let mut lab = Lab::wired();
    lab.configure(PortKind::DpdkAfPacket, "kernel = \"weir-SIDE\"", "");
    lab.start();
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    lab.middle.sh("ip address add 10.77.0.9/24 dev weir-left");
    let mac = lab.middle.sh("cat /sys/class/net/weir-left/address");
    lab.left.sh(&format!("ip neighbour add 10.77.0.9 lladdr {} dev eth0", mac.trim()));
    steer(
        &lab,
        &format!("[[rule]]\nport = \"left\"\ndst-mac = \"{}\"\nto = \"kernel\"\n", mac.trim()),
    );
    // The answer to the kernel's question for the address of the left host comes this way too.
    assert!(pings(&lab, "10.77.0.9"));
    assert!(pings(&lab, "10.77.0.1"));
    let port = lab.port("left");
    assert!(!port["drops"].as_object().unwrap().contains_key("rx-to-kernel"), "{port}");
    // All that came in is in the chain, or went to the kernel, which answered.
    assert!(port["from_kernel_packets"].as_u64() > Some(1), "{port}");
    lab.wait("all packets are accounted for", |lab| {
        let of = |port: &str, what: &str| lab.port(port)[what].as_u64().unwrap();
        let both = |what: &str| of("left", what) + of("right", what);
        let to_kernel = both("to_kernel_packets");
        to_kernel > 1 && both("rx_packets") == packets_in(lab, "edge") + to_kernel
    });
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
}

#[test]
fn netns_two_chains_that_want_the_same_packets_are_refused_with_both_names() {
    let lab = lab(PortKind::Xdp, "");
    lab.write(
        "greedy.toml",
        "name = \"greedy\"\nfrom = \"left\"\nto = \"right\"\n[[function]]\nuse = \"null\"\n",
    );
    let said = lab.refused(&["chain", "apply", "greedy.toml"]);
    assert!(said.contains("edge") && said.contains("steered = true"), "{said}");
    assert!(pings(&lab, "10.77.0.1"));
}
