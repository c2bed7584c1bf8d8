//! A host with `dpdk` ports: through its configuration, its API and its metrics, and with real
//! hosts on both sides.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use weir_tests::wat_guest;

use crate::host::{Host, weir};

/// Interfaces to two hosts in namespaces of their own; everything goes with it.
struct Laboratory(Vec<std::process::Child>);

impl Laboratory {
    /// Moves this thread, and the host that it starts, to a namespace of its own. None without the
    /// rights for it.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        // SAFETY: changes which interfaces this thread sees, and nothing in memory.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
        let mut laboratory = Self(Vec::new());
        for (n, here) in ["wa", "wb"].into_iter().enumerate() {
            let child = Command::new("unshare")
                .args(["--net", "--kill-child", "sleep", "120"])
                .stdin(Stdio::null())
                .spawn()
                .expect("`unshare` (package util-linux)");
            let id = child.id();
            laboratory.0.push(child);
            let ours = std::fs::read_link("/proc/thread-self/ns/net").expect("ours");
            while std::fs::read_link(format!("/proc/{id}/ns/net"))
                .is_ok_and(|theirs| theirs == ours)
            {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            run(&format!("ip link add {here} type veth peer name eth0 netns {id}"));
            run(&format!("ip link set {here} up"));
            laboratory.on(n, &format!("ip address add 10.9.0.{}/24 dev eth0", n + 1));
            laboratory.on(n, "ip link set eth0 up");
        }
        Some(laboratory)
    }

    /// A command on one of the two hosts.
    fn on(&self, host: usize, command: &str) -> String {
        run(&format!("nsenter -t {} -n {command}", self.0[host].id()))
    }
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // They may have ended before.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output =
        Command::new(words.next().expect("a command")).args(words).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn config(ports: &str) -> String {
    format!("[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n{ports}")
}

const CHAIN: &str =
    "name = \"edge\"\nplane = \"packet\"\nfrom = \"a\"\nto = \"b\"\n[[function]]\nuse = \"null\"\n";

#[test]
fn netns_hosts_talk_through_dpdk_ports() {
    let Some(laboratory) = Laboratory::new() else { return };
    let port = |name: &str, n: u32, interface: &str| {
        format!(
            "[[port]]\nname = \"{name}\"\nkind = \"dpdk\"\ndevice = \"net_af_packet{n},iface={interface}\"\n"
        )
    };
    let host = Host::start(&config(&(port("a", 0, "wa") + &port("b", 1, "wb"))));
    // Lets every packet pass.
    let module = wat_guest::module(&wat_guest::each("      (local.set $verdict (i32.const 0))"));
    host.write("f.wasm", wat_guest::upload(&module, "packet-function"));
    host.ok(&["function", "push", "f.wasm", "--name", "null"]);
    host.write("edge.toml", CHAIN);
    host.ok(&["chain", "apply", "edge.toml"]);
    for round in 0..2 {
        let said = laboratory.on(0, "ping -n -c 20 -i 0.02 -W 5 10.9.0.2");
        assert!(said.contains(" 0% packet loss"), "{said}\n{}", host.log());
        if round == 0 {
            // The ports are given back, and opened anew for the same chain.
            host.ok(&["chain", "remove", "edge"]);
            host.ok(&["chain", "apply", "edge.toml"]);
        }
    }
    let ports = host.json(&["port", "list"]);
    assert_eq!(ports[0]["device"]["driver"], "net_af_packet");
    assert_eq!(ports[0]["device"]["memory"], "the pool");
    assert!(
        ports[0]["device"]["link"].as_str().is_some_and(|link| link.starts_with("up")),
        "{ports}"
    );
    assert!(ports[0]["rx_packets"].as_u64() >= Some(20), "{ports}");
    assert!(ports[0]["device_counters"]["rx_good_packets"].as_u64() >= Some(20), "{ports}");
    assert!(host.ok(&["port", "list"]).contains("up"));
    // The interface goes away: the host lives, and says which port it was.
    run("ip link delete wa");
    let mut host = host;
    host.wait_for("it notices", |host| {
        host.log().contains("the interface wa of its device net_af_packet0")
            && host.log().contains("is gone")
    });
    host.ok(&["status"]);
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
}

#[test]
fn what_a_dpdk_port_cannot_be_is_said_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = |port: &str, expected: &str| {
        let text = config(&format!("[[port]]\nname = \"wan\"\nkind = \"dpdk\"\n{port}\n"));
        std::fs::write(directory.path().join("weir.toml"), text).expect("written");
        let answer = weir(directory.path(), &["run"]);
        assert_eq!(answer.status, Some(1), "{}", answer.err);
        assert!(answer.err.contains(expected), "{port}:\n{}", answer.err);
    };
    refused("", "a port of kind \"dpdk\" needs `device`");
    refused("device = \"net_null0\"\nrx-descriptors = 7", "allowed: 32 to 32768");
    refused("device = \"net_null0\"\ninterface = \"eth0\"", "has no `interface`");
    refused("device = \"eth0\"", "is no device: allowed are a PCI address");
    refused(
        "device = \"01:10.0\"\n[[port]]\nname = \"x\"\nkind = \"dpdk\"\ndevice = \"0000:01:10.0,a=1\"",
        "the device 0000:01:10.0 is in use by another port, wan\n",
    );
    // What is not there may come.
    let away = [
        ("0000:ff:1f.7", "there is no PCI device 0000:ff:1f.7"),
        ("net_af_packet0,iface=nosuch", "there is no interface nosuch"),
        ("net_null0", ""),
    ];
    let ports = away.iter().enumerate().map(|(n, (device, _))| {
        format!("[[port]]\nname = \"p{n}\"\nkind = \"dpdk\"\ndevice = \"{device}\"\n")
    });
    let host = Host::start_in(directory, &config(&ports.collect::<String>()));
    let list = host.json(&["port", "list"]);
    for (n, (_, expected)) in away.iter().enumerate() {
        let problem = list[n]["problem"].as_str().unwrap_or_default();
        assert!(
            problem.starts_with(expected) && problem.is_empty() == expected.is_empty(),
            "{list}"
        );
    }
}
