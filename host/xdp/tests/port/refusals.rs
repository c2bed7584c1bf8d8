//! What cannot be: each is refused with what is wrong and what to do.

use std::process::Command;

use aya::programs::{Xdp, XdpMode};
use weir_xdp::{Match, Mode, XdpConfig, XdpPort};

use weir_port::Port as _;
use weir_steering::{Rule, Target};

use crate::far::{Far, finish, frame, ip, namespace, pair_of, pool, port, receive};

fn refusal(config: XdpConfig) -> String {
    port(config, &mut pool(256, 2048)).unwrap_err().to_string()
}

#[test]
fn netns_interfaces_that_cannot_be_used_are_named_with_what_to_do() {
    namespace();
    let error = refusal(XdpConfig::new("none"));
    assert_eq!(
        error,
        "port \"lan\": there is no interface none in this network namespace: `ip link` lists them"
    );
    pair_of("a", 2);
    ip("link set dev a down");
    let error = refusal(XdpConfig::new("a"));
    assert_eq!(error, "port \"lan\": interface a is down: `ip link set dev a up`");
    ip("link set dev a up");
    let error = refusal(XdpConfig { queue: 2, ..XdpConfig::new("a") });
    assert_eq!(error, "port \"lan\": a has no queue 2: its queues are 0 to 1");
    ip("link set dev a mtu 9000");
    let error = refusal(XdpConfig::new("a"));
    assert!(error.contains("a has an MTU of 9000, and a room of 2048 bytes holds 1770"), "{error}");
    assert!(
        error.ends_with("raise [pool] room to 4096, or `ip link set dev a mtu 1770`"),
        "{error}"
    );
    ip("link set dev a mtu 1500");
    let error = port(XdpConfig::new("a"), &mut pool(256, 1024)).unwrap_err().to_string();
    assert!(error.contains("rooms of 2048 or 4096 bytes, the pool's have 1024"), "{error}");
    port(XdpConfig::new("a"), &mut pool(256, 4096)).unwrap();
    let error = refusal(XdpConfig { claim: vec![Match::default(); 17], ..XdpConfig::new("a") });
    assert!(error.contains("16 are allowed"), "{error}");
    ip("link set dev lo mtu 1500 up");
    let error = refusal(XdpConfig { mode: Mode::Native, ..XdpConfig::new("lo") });
    assert!(error.contains("lo cannot run XDP programs in its driver"), "{error}");
    // By itself it takes what there is.
    let mut pool = pool(256, 2048);
    let port = port(XdpConfig::new("lo"), &mut pool).unwrap();
    assert!(
        weir_port::Port::inspector(&port)
            .unwrap()
            .inspect()
            .fact("driver")
            .unwrap()
            .contains("generic")
    );
}

#[test]
fn netns_an_interface_or_queue_in_use_says_whose_it_is() {
    namespace();
    pair_of("a", 2);
    let mut pool = pool(256, 2048);
    let first = port(XdpConfig::new("a"), &mut pool).unwrap();
    let error = refusal(XdpConfig::new("a"));
    assert!(error.contains("queue 0 of a is in use by another port of this host"), "{error}");
    let error = refusal(XdpConfig { mode: Mode::Generic, queue: 1, ..XdpConfig::new("a") });
    assert!(error.contains("another port has a in mode \"native\""), "{error}");
    drop(first);
    // Somebody else's program.
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/ebpf/xdp-redirect.o");
    let mut other = aya::Ebpf::load_file(object).unwrap();
    let program: &mut Xdp = other.program_mut("weir_xdp").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach("a", XdpMode::Driver).unwrap();
    let error = XdpPort::open("lan", XdpConfig::new("a")).unwrap_err().to_string();
    assert!(error.contains("another XDP program is on a (number "), "{error}");
    assert!(error.contains("\"weir_xdp\")"), "{error}");
    assert!(error.contains("`ip link set dev a xdp off` removes"), "{error}");
    assert!(error.contains("`bpftool link`") && error.contains("/sys/fs/bpf/weir"), "{error}");
    drop(other);
    port(XdpConfig::new("a"), &mut pool).unwrap();
}

#[test]
fn netns_a_port_that_is_refused_takes_nothing_from_the_one_that_has_the_queue() {
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let mut first = port(XdpConfig::new("a"), &mut pool).unwrap();
    first.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    let mut second = XdpPort::open("other", XdpConfig::new("a")).unwrap();
    second.steering().unwrap().replace(&[Rule::all(Target::Kernel)], 0).unwrap();
    let mut others = self::pool(256, 2048);
    let error = second.attach(&mut others).unwrap_err().to_string();
    assert!(error.contains("in use by another port"), "{error}");
    drop(second);
    far.send(&frame(1, 60));
    let packets = receive(&mut first, &mut pool, 1);
    pool.give_all(packets.iter().map(|packet| packet.buffer));
    finish(first, &mut pool);
    // Now the queue is free.
    let again = port(XdpConfig::new("a"), &mut others).unwrap();
    finish(again, &mut others);
}

/// As a user without privileges: this test runs itself again.
#[test]
fn netns_without_privileges_the_message_says_which() {
    const INNER: &str = "WEIR_XDP_UNPRIVILEGED";
    if std::env::var_os(INNER).is_some() {
        println!("refused: {}", refusal(XdpConfig::new("lo")));
        return;
    }
    let test = "refusals::netns_without_privileges_the_message_says_which";
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INNER, "1")
        .output()
        .expect("`setpriv` (package util-linux)");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        out.contains(
            "no privilege to open an AF_XDP socket: run the host as root, or give it CAP_NET_RAW"
        ),
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
