//! Both planes on the virtual functions of one NIC, in a guest (`tests/vm`): real frames and real
//! requests from outside of it.

mod reset;
mod rig;
mod switch;

use rig::{Rig, VF};
use serde_json::Value;

const CONFIG: &str = r#"
[[nic]]
pf = "eth0"
vfs = 4
# What passes a chain of packets keeps the address of the function by which it came.
[[nic.vf]]
index = 0
mac = "02:00:00:00:77:00"
spoof-check = false
[[nic.vf]]
index = 1
mac = "02:00:00:00:77:01"
[[nic.vf]]
index = 2
mac = "02:00:00:00:77:02"
spoof-check = false
[[nic.vf]]
index = 3
mac = "02:00:00:00:77:03"
[[port]]
name = "vf0"
kind = "dpdk"
device = "vf:eth0/0"
kernel = "weir-vf0"
[[port]]
name = "vf2"
kind = "dpdk"
device = "vf:eth0/2"
[[port]]
name = "vf3"
kind = "dpdk"
device = "vf:eth0/3"
kernel = "weir-vf3"
[[listener]]
name = "function"
device = "vf:eth0/1"
address = "10.88.0.2:8080"
prefix = 24
protocol = "http"
chain = "web"
upstream = ["10.88.0.1:9000"]
[[listener]]
name = "steered"
address = "0.0.0.0:8081"
protocol = "http"
chain = "web"
upstream = ["10.88.0.1:9000"]
[[listener]]
name = "inspected"
address = "0.0.0.0:8082"
transparent = true
protocol = "http"
chain = "guard"
upstream = ["10.88.0.1:9000"]
"#;

// Deadlines are for an emulated CPU on a busy machine.
const WEB: &str = r#"
name = "web"
plane = "message"
[[function]]
use = "waf"
deadline = "1s"
version = "1.0.0"
[[function]]
use = "http-cache"
deadline = "1s"
"#;

/// From the first function to the third: what the firewall lets through is translated, and goes
/// back to its sender's hardware address.
const EDGE: &str = r#"
name = "edge"
from = "vf0"
to = "vf2"
[[function]]
use = "firewall"
deadline = "1s"
version = "1.0.0"
[function.config]
default = "deny"
rules = [ { action = "allow", proto = "udp", dport = 7 } ]
[[function]]
use = "nat"
deadline = "1s"
state = "8MiB"
[function.config]
external = ["203.0.113.1"]
internal = ["10.89.0.0/24"]
max-flows = 1024
[[function]]
use = "macswap"
deadline = "1s"
"#;

/// One chain of both planes on the fourth function; connections to a foreign server get this
/// action.
fn guard(action: &str) -> String {
    format!(
        r#"
name = "guard"
from = "vf3"
[[function]]
use = "firewall"
version = "1.0.0"
deadline = "1s"
[function.config]
default = "deny"
rules = [ {{ action = "{action}", proto = "tcp", dst = "10.90.0.1", dport = 8082 }} ]
[[function]]
use = "waf"
version = "1.0.0"
deadline = "1s"
[[function]]
use = "http-cache"
deadline = "1s"
"#
    )
}

/// What is asked of the way to the kernel beside the first function.
const TO_KERNEL: &str = r#"
[[rule]]
port = "vf0"
ethertype = "arp"
to = "kernel"
[[rule]]
port = "vf0"
proto = "tcp"
dport = 8081
to = "kernel"
"#;

const ATTACK: &str = "?q=1%27%20or%20%271%27=%271%27%20union%20select%20password%20from%20users--";

fn chain<'a>(status: &'a Value, name: &str) -> &'a Value {
    let chains = status["chains"].as_array().expect("chains");
    chains.iter().find(|chain| chain["name"] == name).expect("the chain")
}

/// How many different ones of these came back; each was changed as the chain has it.
fn changed(frames: &[Value]) -> usize {
    let mut numbers = Vec::new();
    for frame in frames {
        assert_eq!(frame["source"], "203.0.113.1", "{frame}");
        assert_eq!(frame["destination"], "10.90.0.1", "{frame}");
        assert_eq!(frame["from"], VF[0], "{frame}");
        assert_eq!(frame["sums"], true, "{frame}");
        numbers.push(frame["number"].as_u64().expect("a number"));
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), frames.len(), "frames came twice");
    numbers.len()
}

/// The page by this address, as the message plane's chain gives it.
fn served(rig: &Rig, address: &str) {
    let (code, text) = rig.get(&format!("http://{address}/page"));
    assert_eq!(code, 200, "{text}\n{}", rig.log());
    assert!(text.contains("hello") && text.contains("cache-status"), "{text}");
    let (code, text) = rig.get(&format!("http://{address}/page{ATTACK}"));
    assert_eq!(code, 403, "{text}");
}

#[test]
fn guest_both_planes_on_the_functions_of_one_nic() {
    const FROM_TO: [&str; 2] = ["10.89.0.1", "10.90.0.1"];
    let mut rig = Rig::boot();
    rig.serve();
    let host = rig.host(CONFIG);
    for (function, versions) in
        [("firewall", 2), ("nat", 1), ("macswap", 1), ("waf", 2), ("http-cache", 1)]
    {
        for version in 1..=versions {
            rig.push(function, &format!("{version}.0.0"));
        }
    }
    rig.chain(EDGE);
    rig.chain(WEB);
    rig.keep_compiled();

    // Packets by the first function, requests by the second one.
    assert_eq!(changed(&rig.frames(VF[0], 20, 0.02, FROM_TO).during(|| {})), 20, "{}", rig.log());
    served(&rig, "10.88.0.2:8080");

    // A function is replaced in each plane, while both have something to do.
    let frames = rig.frames(VF[0], 400, 0.01, FROM_TO).during(|| {
        let clients = std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let codes = (0..20).map(|_| rig.get("http://10.88.0.2:8080/page").0);
                codes.collect::<Vec<u16>>()
            });
            for function in ["firewall", "waf"] {
                let swap = rig.json(&format!("function swap {function} --to 2.0.0"));
                assert_eq!(swap["packets_lost"], 0, "{swap}");
            }
            clients.join().expect("curl")
        });
        assert_eq!(clients, [200; 20]);
    });
    let status = rig.json("status");
    let edge = chain(&status, "edge");
    // What the emulated NIC loses it loses before the chain has it.
    assert_eq!(edge["packets_in"], edge["packets_out"], "{status}");
    assert_eq!(edge["packets_out"].as_u64(), Some(changed(&frames) as u64 + 20), "{status}");
    assert!(frames.len() > 360, "{} of 400 frames", frames.len());

    // Connections to an address on the first function: the packet chain denies them, until a rule
    // moves them to the other plane.
    assert_eq!(rig.get("http://10.89.0.3:8081/page").0, 0);
    rig.steer(TO_KERNEL);
    served(&rig, "10.89.0.3:8081");
    // Packets go on as before, and the connections go back with the rule.
    assert_eq!(changed(&rig.frames(VF[0], 20, 0.02, FROM_TO).during(|| {})), 20, "{}", rig.log());
    rig.steer("");
    assert_eq!(rig.get("http://10.89.0.3:8081/page").0, 0);

    // A function moves connections: the firewall has them inspected, and they are the other
    // plane's, answers and all.
    rig.chain(&guard("deny"));
    assert_eq!(rig.get("http://10.90.0.1:8082/page").0, 0);
    rig.chain(&guard("inspect"));
    rig.keep_compiled();
    served(&rig, "10.90.0.1:8082");
    let status = rig.json("status");
    let firewall = &chain(&status, "guard")["functions"][0];
    assert!(firewall["counters"]["inspected"].as_u64() > Some(8), "{status}");

    rig.end(host);
}

/// Ports without addresses of their own: rules say for what addresses they are.
const NAMELESS: &str = r#"
[[nic]]
pf = "eth0"
vfs = 2
[[port]]
name = "vf0"
kind = "dpdk"
device = "vf:eth0/0"
[[listener]]
name = "function"
device = "vf:eth0/1"
address = "10.88.0.2:8080"
prefix = 24
protocol = "http"
upstream = ["10.88.0.1:9000"]
"#;

const SINK: &str =
    "name = \"edge\"\nfrom = \"vf0\"\n[[function]]\nuse = \"macswap\"\ndeadline = \"1s\"\n";
const STEERED: &str = "02:00:00:00:77:aa";

/// Sends frames to an address that no function has by itself; how many came to the port.
fn brought(rig: &Rig) -> u64 {
    let count = || rig.port("vf0")["rx_packets"].as_u64().expect("a number");
    let before = count();
    rig.frames(STEERED, 20, 0.02, ["10.89.0.1", "10.90.0.1"]).during(|| {});
    count() - before
}

fn addresses(rig: &Rig) -> String {
    rig.sh("ip link show eth0")
}

#[test]
fn guest_a_rule_has_the_nic_bring_an_address_to_a_function() {
    let rig = Rig::boot();
    let host = rig.host(NAMELESS);
    rig.push("macswap", "1.0.0");
    rig.chain(SINK);
    rig.keep_compiled();
    let found = addresses(&rig);
    assert!(!found.contains(STEERED), "{found}");
    assert_eq!(brought(&rig), 0);
    // By its address alone; what more is asked of packets only software can tell.
    let second = "[[rule]]\ndst-mac = \"02:00:00:00:77:bb\"\nchain = \"edge\"\n";
    let third = format!("[[rule]]\ndst-mac = \"{STEERED}\"\nproto = \"udp\"\nchain = \"edge\"\n");
    let rules = format!("[[rule]]\ndst-mac = \"{STEERED}\"\nchain = \"edge\"\n{second}{third}");
    rig.steer(&rules);
    let list = rig.json("steer list");
    assert_eq!(list[0]["places"], serde_json::json!([{"port": "vf0", "at": "vf-mac"}]));
    assert_eq!(list[1]["places"][0]["at"], "software");
    let why = list[1]["places"][0]["reason"].as_str().expect("a reason");
    assert!(why.contains("one address"), "{why}");
    assert_eq!(list[2]["places"], serde_json::json!([{"port": "vf0", "at": "software"}]));
    assert!(addresses(&rig).contains(&format!("vf 0     link/ether {STEERED}")));
    assert_eq!(brought(&rig), 20, "{}", rig.log());
    rig.steer("");
    assert_eq!(addresses(&rig), found);
    assert_eq!(brought(&rig), 0);

    // Killed, it leaves the address; who comes next takes it back, and has the rules.
    rig.steer(&rules);
    rig.kill(host);
    let host = rig.host(NAMELESS);
    rig.wait("the chain is back", |rig| rig.port("vf0")["chain"] == "edge");
    assert_eq!(brought(&rig), 20, "{}", rig.log());
    rig.end(host);
    assert!(!addresses(&rig).contains(STEERED), "{}", addresses(&rig));
}
