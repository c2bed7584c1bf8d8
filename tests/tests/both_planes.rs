//! One chain on both planes, end to end: real clients on the left, packets through `firewall` and
//! `nat`, requests through `waf` and `http-cache`, a server behind; other packets of the same wire
//! go on to the right.
//!
//! ```text
//!   left ──[ firewall nat ]──┬── right                 [ waf http-cache ]── 127.0.0.1:9000
//!                            └── weir-left ── kernel ── gateway ──┘
//! ```

use std::fs;
use std::process::Output;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use weir_tests::lab::{Lab, Namespace, PortKind, Running};

/// Bytes of the file that is downloaded, and of it each second while functions are replaced.
const FILE: usize = 3_000_000;
const RATE: &str = "1500k";
const STEP: Duration = Duration::from_millis(300);
const FUNCTIONS: [&str; 4] = ["firewall", "nat", "waf", "http-cache"];

/// The address of the middle's kernel, where the listener is.
const GATEWAY: &str = "10.77.0.9";

const TABLES: &str = r#"
[[listener]]
name = "web"
address = "10.77.0.9:80"
protocol = "http"
chain = "edge"
upstream = ["127.0.0.1:9000"]
[[listener]]
name = "inspected"
address = "0.0.0.0:80"
transparent = true
protocol = "http"
chain = "edge"
upstream = ["127.0.0.1:9000"]
"#;

/// The chain's file; what is for the right's port 80 gets this action. Workers give out ports of
/// their own, if there are several.
fn chain(action: &str, workers: u8) -> String {
    let (of_chain, of_nat) = match workers {
        1 => (String::new(), ""),
        _ => (
            format!("workers = {workers}"),
            r#"per-worker = [{ ports = "20000-29999" }, { ports = "30000-39999" }]"#,
        ),
    };
    format!(
        r#"name = "edge"
from = "left"
to = "right"
{of_chain}
[[function]]
use = "firewall"
version = "1.0.0"
[function.config]
default = "deny"
rules = [
    {{ action = "allow", proto = "icmp", direction = "out" }},
    {{ action = "{action}", proto = "tcp", dst = "10.77.0.1", dport = "80" }},
    {{ action = "allow", proto = "tcp", dst = "10.77.0.9", dport = "80", direction = "out" }},
]
[[function]]
use = "nat"
version = "1.0.0"
state = "8MiB"
{of_nat}
[function.config]
external = ["203.0.113.1"]
internal = ["10.77.0.0/24"]
[[function]]
use = "waf"
version = "1.0.0"
[[function]]
use = "http-cache"
version = "1.0.0"
"#
    )
}

fn mac(host: &Namespace, interface: &str) -> String {
    host.sh(&format!("cat /sys/class/net/{interface}/address")).trim().to_owned()
}

/// What the way to the kernel is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A TAP interface.
    Tap,
    /// Another port, whose link ends at an interface of the kernel's.
    Link,
}

/// The laboratory with a way to the kernel, servers and all functions, and who keeps the middle's
/// server.
fn lab(ports: PortKind, way: Way, workers: u8) -> (Lab, Running) {
    let mut lab = Lab::wired_with(workers);
    let mut tables = TABLES.to_owned();
    // A queue for each worker.
    let queues = if workers > 1 { format!("queues = {workers}\n") } else { String::new() };
    if workers > 1 {
        tables += &format!("[workers]\ncount = {workers}\n");
    }
    match way {
        Way::Tap => {
            let several = if workers > 1 { "multi_queue" } else { "" };
            lab.middle.sh(&format!("ip tuntap add dev weir-left mode tap {several}"));
            lab.configure(ports, &format!("{queues}kernel = \"weir-SIDE\""), &tables);
        }
        Way::Link => {
            for side in ["left", "right"] {
                let (up, peer) = (format!("up-{side}"), format!("weir-{side}"));
                // As many queues as the port has; the kernel spreads what it sends over them.
                let each = format!("numtxqueues {workers} numrxqueues {workers}");
                lab.middle
                    .sh(&format!("ip link add name {up} {each} type veth peer name {peer} {each}"));
                lab.middle.sh(&format!("ip link set dev {up} addrgenmode none up"));
                lab.middle.sh(&format!("ethtool -K {peer} tx off txvlan off gro off"));
                tables += &format!(
                    "[[port]]\nname = \"{up}\"\nkind = \"xdp\"\ninterface = \"{up}\"\npeer = \"{peer}\"\n{queues}"
                );
            }
            lab.configure(ports, &format!("{queues}kernel-port = \"up-SIDE\""), &tables);
        }
    }
    lab.middle.sh("ip link set dev weir-left addrgenmode none up");
    lab.middle.sh(&format!("ip address add {GATEWAY}/24 dev weir-left"));
    lab.serve(FILE);
    // What the middle serves has been there for long, so that it may be kept.
    let www = lab.path("middle");
    fs::create_dir_all(&www).expect("a directory");
    fs::copy(lab.path("www/file"), www.join("file")).expect("a copy");
    fs::write(lab.path("www/who"), "right").expect("a file");
    fs::write(www.join("who"), "middle").expect("a file");
    let old = SystemTime::now() - Duration::from_secs(864_000);
    for name in ["file", "who"] {
        let file = fs::File::options().append(true).open(www.join(name)).expect("the file");
        file.set_modified(old).expect("its time is set");
    }
    let server =
        format!("python3 -m http.server --bind 127.0.0.1 --directory {} 9000", www.display());
    let server = lab.middle.start(&server);
    lab.start();
    lab.wait("the middle's server listens", |lab| {
        lab.middle.sh("ss --listening --tcp --numeric --no-header").contains(":9000 ")
    });
    // The other side of the translation: whoever answers it finds its way back.
    let left = mac(&lab.left, "eth0");
    for (host, interface) in [(&lab.middle, "weir-left"), (&lab.right, "eth0")] {
        host.sh(&format!("ip route add 203.0.113.1/32 dev {interface}"));
        host.sh(&format!("ip neighbour add 203.0.113.1 lladdr {left} dev {interface}"));
    }
    for function in FUNCTIONS {
        lab.push(function, "1.0.0");
        lab.push(function, "2.0.0");
    }
    (lab, server)
}

fn apply(lab: &Lab, action: &str, workers: u8) -> Value {
    lab.write("edge.toml", chain(action, workers));
    lab.weir(&["chain", "apply", "edge.toml"])
}

/// What curl says from the left: head and body.
fn curl(lab: &Lab, arguments: &str) -> Output {
    let curl = "curl --silent --show-error --globoff --include --connect-timeout 2 --max-time 20";
    lab.left.start(&format!("{curl} {arguments}")).output()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn function<'a>(status: &'a Value, name: &str) -> &'a Value {
    let functions = status["functions"].as_array().expect("functions");
    functions.iter().find(|function| function["name"] == name).expect("the function")
}

fn counter(lab: &Lab, name: &str, counter: &str) -> u64 {
    function(&lab.status(), name)["counters"][counter].as_u64().unwrap_or(0)
}

fn pass(ports: PortKind, way: Way) {
    pass_on(ports, way, 1);
}

/// The same with so many workers.
fn pass_on(ports: PortKind, way: Way, workers: u8) {
    let (mut lab, server) = lab(ports, way, workers);
    let applied = apply(&lab, "allow", workers);
    assert_eq!(applied["chain"]["plane"], "both", "{applied}");
    // The kernel at the chain's end, and the host behind it.
    lab.ping(GATEWAY);
    lab.ping("10.77.0.1");
    // Through all functions, from the server and then from the cache.
    let first = text(&curl(&lab, &format!("http://{GATEWAY}/who")));
    assert!(first.contains("200 OK") && first.ends_with("middle"), "{first}\n{}", lab.log());
    assert!(first.contains("cache-status: weir; fwd=uri-miss"), "{first}");
    let again = text(&curl(&lab, &format!("http://{GATEWAY}/who")));
    assert!(again.contains("cache-status: weir; hit") && again.contains("age: "), "{again}");
    lab.wait("nat tells what it has translated", |lab| counter(lab, "nat", "translated") > 0);
    // The firewall's no, and the other's.
    let blocked = curl(&lab, &format!("http://{GATEWAY}:81/who"));
    assert!(!blocked.status.success());
    lab.wait("the firewall tells what it has denied", |lab| counter(lab, "firewall", "denied") > 0);
    let attack =
        text(&curl(&lab, &format!("http://{GATEWAY}/who?q=%3Cscript%3Ealert(1)%3C/script%3E")));
    assert!(attack.contains("403 Forbidden"), "{attack}");
    // What is for others goes on to them.
    let right = text(&curl(&lab, "http://10.77.0.1/who"));
    assert!(right.ends_with("right"), "{right}");
    one_chain(&lab);
    replace_under_load(&lab);
    inspect(&lab, workers);
    if workers > 1 {
        both_work(&lab);
    }
    lab.weir(&["chain", "remove", "edge"]);
    let status = lab.weir(&["status"]);
    assert_eq!(status["chains"].as_array().map(Vec::len), Some(0), "{status}");
    lab.stop();
    assert!(!lab.log().contains("were lost"), "{}", lab.log());
    drop(server);
}

/// `weir status` shows one chain with all functions; a copy of what it counted is in the metrics.
fn one_chain(lab: &Lab) {
    let status = lab.weir(&["status"]);
    assert_eq!(status["chains"].as_array().map(Vec::len), Some(1), "{status}");
    let chain = &status["chains"][0];
    assert_eq!((&chain["name"], &chain["plane"]), (&"edge".into(), &"both".into()), "{chain}");
    let names = chain["functions"].as_array().expect("functions").iter();
    assert!(names.map(|function| function["name"].as_str()).eq(FUNCTIONS.map(Some)), "{chain}");
    assert!(chain["exchanges"]["opened"].as_u64() >= Some(3), "{chain}");
    for name in FUNCTIONS {
        assert!(function(chain, name)["packets"].as_u64() > Some(0), "{name}: {chain}");
    }
    assert!(chain["packets_made"].as_u64() > Some(0), "what is for all leaves twice: {chain}");
    lab.wait("all packets are accounted for", |lab| adds_up(&lab.status()));
}

/// What came in, or was made, is what left or was dropped.
fn adds_up(chain: &Value) -> bool {
    let count = |key: &str| chain[key].as_u64().expect("a count");
    let drops = chain["drops"].as_object().expect("drops").iter();
    // Others are the ports'.
    let own = drops.filter(|(reason, _)| reason.contains(':')).filter_map(|(_, n)| n.as_u64());
    let gone: u64 =
        own.chain(["packets_out", "packets_to_kernel", "packets_moved"].map(count)).sum();
    count("packets_in") + count("packets_made") == gone
}

/// Every function is replaced while a download goes on; one by a canary that is made the running
/// version, one goes back.
fn replace_under_load(lab: &Lab) {
    let download = lab.start_fetch(GATEWAY, RATE);
    for name in FUNCTIONS {
        std::thread::sleep(STEP);
        let swap = lab.weir(&["function", "swap", name, "--to", "2.0.0"]);
        assert_eq!(
            (&swap["packets_lost"], &swap["chains"][0]),
            (&0.into(), &"edge".into()),
            "{swap}"
        );
    }
    lab.finish_fetch(download);
    let download = lab.start_fetch(GATEWAY, RATE);
    for name in FUNCTIONS {
        std::thread::sleep(STEP);
        lab.weir(&["function", "rollback", name]);
        lab.push(name, "3.0.0");
        lab.weir(&["function", "swap", name, "--to", "3.0.0", "--canary", "50"]);
        let other = if name == "waf" { "firewall" } else { "waf" };
        let refused = lab.refused(&["function", "swap", other, "--to", "1.0.0", "--canary", "50"]);
        assert!(refused.contains("being tried"), "{refused}");
        lab.weir(&["function", "swap", name, "--to", "3.0.0"]);
    }
    lab.finish_fetch(download);
    let status = lab.status();
    for name in FUNCTIONS {
        let function = function(&status, name);
        assert_eq!(function["version"], "3.0.0", "{function}");
        assert_eq!(function["faults"], 0, "{function}");
    }
}

/// The firewall sends flows to the message plane that are for somebody else, and stops doing so.
fn inspect(lab: &Lab, workers: u8) {
    lab.middle.sh("ip rule add iif weir-left ipproto tcp dport 80 lookup 100");
    lab.middle.sh("ip route add local default dev lo table 100");
    apply(lab, "inspect", workers);
    let seen = text(&curl(lab, "http://10.77.0.1/who"));
    assert!(seen.ends_with("middle") && seen.contains("cache-status"), "{seen}\n{}", lab.status());
    let attack = text(&curl(lab, "http://10.77.0.1/who?q=%3Cscript%3Ealert(1)%3C/script%3E"));
    assert!(attack.contains("403 Forbidden"), "{attack}");
    lab.wait("the firewall tells what it has sent up", |lab| {
        counter(lab, "firewall", "inspected") > 0
    });
    lab.ping("10.77.0.1");
    apply(lab, "allow", workers);
    let right = text(&curl(lab, "http://10.77.0.1/who"));
    assert!(right.ends_with("right"), "{right}");
}

/// Many connections: each worker has some of them, and each is complete.
fn both_work(lab: &Lab) {
    for n in 0..24 {
        let host = if n % 3 == 0 { "10.77.0.1" } else { GATEWAY };
        let answer = text(&curl(lab, &format!("http://{host}/who")));
        assert!(answer.contains("200 OK"), "{answer}\n{}", lab.status());
    }
    let status = lab.status();
    let workers = status["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 2, "{status}");
    for worker in workers {
        assert!(worker["packets_in"].as_u64() > Some(100), "{status}");
    }
    let sum = |key: &str| workers.iter().filter_map(|worker| worker[key].as_u64()).sum::<u64>();
    assert_eq!(Some(sum("packets_in")), status["packets_in"].as_u64(), "{status}");
    assert_eq!(function(&status, "nat")["faults"], 0, "{status}");
}

#[test]
fn netns_what_a_chain_of_both_planes_misses_is_told_where_the_file_has_it() {
    let mut lab = Lab::wired();
    lab.configure(PortKind::Xdp, "", "");
    lab.start();
    for function in FUNCTIONS {
        lab.push(function, "1.0.0");
    }
    let refused = |lab: &Lab, keys: &str, functions: [&str; 2]| {
        let functions = functions.map(|name| format!("[[function]]\nuse = \"{name}\"\n")).concat();
        lab.write("chain.toml", format!("name = \"edge\"\n{keys}\n{functions}"));
        lab.refused(&["chain", "apply", "chain.toml"])
    };
    let ports = "from = \"left\"\nto = \"right\"";
    let told = refused(&lab, ports, ["waf", "nat"]);
    assert!(told.contains("stands behind waf") && told.contains("chain.toml:7:7"), "{told}");
    let told = refused(&lab, "", ["nat", "waf"]);
    assert!(told.contains("has no `from`") && told.contains("chain.toml:1"), "{told}");
    let told = refused(&lab, ports, ["nat", "waf"]);
    assert!(
        told.contains("no listener has chain edge") && told.contains("chain.toml:1:8"),
        "{told}"
    );
    lab.stop();
    lab.configure(PortKind::Xdp, "", &TABLES.replace(GATEWAY, "127.0.0.1"));
    lab.start();
    let told = refused(&lab, ports, ["nat", "waf"]);
    assert!(
        told.contains("no way to the kernel's stack") && told.contains("chain.toml:2:8"),
        "{told}"
    );
    assert_eq!(lab.weir(&["status"])["chains"].as_array().map(Vec::len), Some(0));
    lab.stop();
}

#[test]
fn netns_a_chain_of_both_planes_on_xdp_ports() {
    pass(PortKind::Xdp, Way::Tap);
}

#[test]
fn netns_a_chain_of_both_planes_on_dpdk_ports_over_af_packet() {
    pass(PortKind::DpdkAfPacket, Way::Tap);
}

#[test]
fn netns_a_chain_of_both_planes_on_dpdk_ports_over_af_xdp() {
    pass(PortKind::DpdkAfXdp, Way::Tap);
}

#[test]
fn netns_a_chain_of_both_planes_goes_up_by_a_link() {
    pass(PortKind::Xdp, Way::Link);
}

/// By AF_XDP: of what an AF_PACKET socket gets the kernel has its copy, which here has the address
/// that it listens to.
#[test]
fn netns_a_chain_of_both_planes_goes_up_by_a_link_from_a_dpdk_port() {
    pass(PortKind::DpdkAfXdp, Way::Link);
}

#[test]
fn netns_a_chain_of_both_planes_on_two_workers() {
    pass_on(PortKind::Xdp, Way::Tap, 2);
}

#[test]
fn netns_a_chain_of_both_planes_on_two_workers_goes_up_by_a_link() {
    pass_on(PortKind::Xdp, Way::Link, 2);
}
