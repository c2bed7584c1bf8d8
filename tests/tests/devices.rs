//! Ports on interfaces when nothing comes in, when the interface goes away, and when frames are
//! long: for each kind.

use std::fs;
use std::time::{Duration, Instant};

use weir_tests::lab::{Lab, PortKind};

/// A test for each kind of port.
macro_rules! for_each_kind {
    ($($name:ident)*) => {
        mod netns {
            $(mod $name {
                use super::super::{$name, PortKind};
                #[test]
                fn xdp() {
                    $name(PortKind::Xdp);
                }
                #[test]
                fn dpdk_af_packet() {
                    $name(PortKind::DpdkAfPacket);
                }
                #[test]
                fn dpdk_af_xdp() {
                    $name(PortKind::DpdkAfXdp);
                }
            })*
        }
    };
}

for_each_kind! {
    an_idle_host_uses_no_cpu_and_wakes_for_the_first_packet
    an_interface_that_goes_away_or_comes_late_is_told_and_the_host_lives
    long_frames_pass_where_rooms_hold_them
}

fn lab(ports: PortKind) -> Lab {
    let lab = Lab::new(ports, "");
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

/// Whether a packet gets through and back.
fn flows(lab: &Lab) -> bool {
    lab.left.command("ping -c 1 -W 1 10.77.0.1").output().unwrap().status.success()
}

fn an_idle_host_uses_no_cpu_and_wakes_for_the_first_packet(ports: PortKind) {
    let lab = lab(ports);
    lab.left.sh("ping -c 2 -i 0.1 10.77.0.1");
    // Neighbours are not asked again while it is idle.
    for (host, far, address) in
        [(&lab.left, &lab.right, "10.77.0.1"), (&lab.right, &lab.left, "10.77.0.2")]
    {
        let link = far.sh("cat /sys/class/net/eth0/address");
        host.sh(&format!(
            "ip neighbour replace {address} lladdr {} dev eth0 nud permanent",
            link.trim()
        ));
    }
    std::thread::sleep(Duration::from_millis(500));
    let before = ticks(lab.host());
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks(lab.host()) - before;
    assert!(used <= 1, "an idle host used {} ms of CPU in 3 s", used * 10);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        // Fails without an answer.
        lab.left.sh("ping -c 1 -W 2 10.77.0.1");
    }
}

/// Whether an event of this kind says this of the port on the right.
fn told(lab: &Lab, kind: &str, text: &str) -> bool {
    times_told(lab, kind, text) > 0
}

/// How many do.
fn times_told(lab: &Lab, kind: &str, text: &str) -> usize {
    let events = lab.events();
    let those = events.iter().filter(|event| {
        event["kind"] == kind
            && event["subject"] == "right"
            && event["message"].as_str().is_some_and(|message| message.contains(text))
    });
    those.count()
}

/// The port on the right works no more, whoever is asked.
fn is_down(lab: &Lab) {
    let port = lab.port("right");
    let problem = port["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("interface right ") && problem.contains("is gone"), "{port}");
    assert_eq!(port["device"]["link"], "gone");
    let socket = lab.path("api.sock");
    let metrics = lab
        .middle
        .sh(&format!("curl --silent --unix-socket {} http://weir/metrics", socket.display()));
    for line in ["weir_port_link_up{port=\"right\"} 0.0", "weir_ports_down 1.0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

/// Two more ports, and a chain between them.
const BESIDE: &str = "[[port]]\nname = \"source\"\nkind = \"memory\"\ngenerate = { flows = 1, rate = 1000 }\n[[port]]\nname = \"sink\"\nkind = \"memory\"\n";
const CHAIN_BESIDE: &str =
    "name = \"beside\"\nfrom = \"source\"\nto = \"sink\"\n[[function]]\nuse = \"null\"\n";
/// One that has the ports of the chain `edge`, too, where a rule sends it something.
const CHAIN_AT_EDGE: &str = "name = \"more\"\nfrom = \"left\"\nto = \"right\"\nsteered = true\n[[function]]\nuse = \"null\"\n";

/// A host that starts without the interface of the port on the right has all else; what has that
/// port comes when it does.
fn starts_without_an_interface(lab: &mut Lab) {
    lab.stop();
    lab.right.sh("ip link delete dev eth0");
    lab.start();
    let why = "port right is down: there is no interface right";
    lab.wait("it is told", |lab| told(lab, "port-down", why));
    let log = lab.log();
    assert!(log.contains("ready without ports that are down: right"), "{log}");
    let status = lab.weir(&["status"]);
    let failed = status["failed"].as_object().unwrap();
    assert!(failed.contains_key("default/edge") && !failed.contains_key("default/beside"));
    for failed in failed.values().map(|failed| failed.as_str().unwrap()) {
        assert!(failed.starts_with(why), "{status}");
        assert!(failed.ends_with("and the chain is deployed then"), "{status}");
    }
    let port = lab.port("right");
    assert!(
        port["problem"].as_str().is_some_and(|why| why.contains("no interface right")),
        "{port}"
    );
    let passed = |lab: &Lab| {
        let status = lab.weir(&["status"]);
        let chains = status["chains"].as_array().unwrap();
        let beside = chains.iter().find(|chain| chain["name"] == "beside");
        beside.and_then(|chain| chain["packets_out"].as_u64()).unwrap_or(0)
    };
    let before = passed(lab);
    lab.wait("another chain carries packets", |lab| passed(lab) > before);
    let refused = lab.refused(&["chain", "apply", "edge.toml"]);
    assert!(refused.contains(why), "{refused}");
    lab.rewire_right();
    lab.wait("it flows by itself", flows);
    assert!(told(lab, "port-up", "port right is no longer down"), "{:?}", lab.events());
    let status = lab.weir(&["status"]);
    assert_eq!(status["failed"], serde_json::json!({}), "{status}");
}

fn an_interface_that_goes_away_or_comes_late_is_told_and_the_host_lives(ports: PortKind) {
    let mut lab = Lab::configured(ports, "", BESIDE);
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    lab.write("beside.toml", CHAIN_BESIDE);
    lab.weir(&["chain", "apply", "beside.toml"]);
    lab.left.sh("ping -c 3 -i 0.05 10.77.0.1");
    lab.write("more.toml", CHAIN_AT_EDGE);
    lab.weir(&["chain", "apply", "more.toml"]);
    lab.right.sh("ip link set dev eth0 down");
    lab.wait("a link that is down is told", |lab| told(lab, "port-down", "link of right is down"));
    assert_ne!(lab.port("right")["device"]["link"], "up");
    lab.right.sh("ip link set dev eth0 up");
    lab.wait("and that it is up again", |lab| told(lab, "port-up", "right"));
    lab.wait("it flows", flows);
    lab.right.sh("ip link delete dev eth0");
    lab.wait("the log says so", |lab| {
        lab.log().lines().any(|line| line.contains("right") && line.contains("is gone"))
    });
    // Somebody still sends.
    let started = Instant::now();
    let _ = lab.left.command("ping -c 3 -i 0.05 -W 1 10.77.0.1").output();
    assert!(started.elapsed() < Duration::from_secs(10));
    lab.wait("what cannot leave is counted", |lab| {
        let drops = &lab.port("right")["drops"];
        ["tx-down", "tx-error"].iter().any(|reason| drops[*reason].as_u64() > Some(0))
    });
    lab.wait("it is told", |lab| told(lab, "port-down", "no interface right"));
    is_down(&lab);
    let refused = lab.refused(&["chain", "apply", "edge.toml"]);
    assert!(refused.contains("port right works no more"), "{refused}");
    // It comes back, and so do the chains.
    let [ups, downs] = ["port-up", "port-down"].map(|kind| times_told(&lab, kind, "right"));
    lab.rewire_right();
    lab.wait("it flows again", flows);
    let again = "there is an interface right again: port right is opened on it";
    assert!(told(&lab, "port-up", again));
    assert_eq!(times_told(&lab, "port-up", "right"), ups + 1, "{:?}", lab.events());
    assert_eq!(times_told(&lab, "port-down", "right"), downs, "{:?}", lab.events());
    lab.wait("the other chain there is back", |lab| {
        lab.weir(&["status"])["failed"] == serde_json::json!({})
    });
    assert_eq!(lab.port("right")["problem"], serde_json::Value::Null);
    // Another one of the name, before anybody has looked.
    lab.right.sh("ip link delete dev eth0");
    lab.rewire_right();
    lab.wait("it flows by the other one", flows);
    starts_without_an_interface(&mut lab);
    lab.stop();
}

fn long_frames_pass_where_rooms_hold_them(ports: PortKind) {
    const MTU: u32 = 3000;
    let mut lab = Lab::wired();
    for (namespace, interface) in
        [(&lab.left, "eth0"), (&lab.middle, "left"), (&lab.middle, "right"), (&lab.right, "eth0")]
    {
        namespace.sh(&format!("ip link set dev {interface} mtu {MTU}"));
    }
    lab.configure(ports, "", "[pool]\nroom = \"4KiB\"\n");
    lab.start();
    lab.push("null", "1.0.0");
    lab.chain("null", "");
    let longest = MTU - 28;
    let said = lab.left.sh(&format!("ping -M do -c 5 -i 0.05 -W 2 -s {longest} 10.77.0.1"));
    assert!(said.contains(" 0% packet loss"), "{said}");
    lab.stop();
}
