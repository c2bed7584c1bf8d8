//! Two functions of a NIC on one lane, of which one goes.

use crate::rig::{Rig, VF};

const CONFIG: &str = r#"
[[nic]]
pf = "eth0"
vfs = 3
[[nic.vf]]
index = 0
mac = "02:00:00:00:77:00"
spoof-check = false
[[nic.vf]]
index = 2
mac = "02:00:00:00:77:02"
spoof-check = false
[[port]]
name = "vf0"
kind = "dpdk"
device = "vf:eth0/0"
[[port]]
name = "vf2"
kind = "dpdk"
device = "vf:eth0/2"
"#;

// The deadline is for an emulated CPU on a busy machine.
const EDGE: &str = "name = \"edge\"\nfrom = \"vf0\"\nto = \"vf2\"\n[[function]]\nuse = \"macswap\"\ndeadline = \"1s\"\n";

/// Sends frames to the first function: how many came to its port, and how many came back.
fn sent(rig: &Rig, padding: u32) -> (u64, usize) {
    let received = || rig.port("vf0")["rx_packets"].as_u64().expect("a number");
    let before = received();
    let frames = rig.padded_frames(VF[0], 20, 0.02, ["10.89.0.1", "10.90.0.1"], padding);
    let back = frames.during(|| {});
    (received() - before, back.len())
}

/// No device wrote where it must not.
fn no_fault(rig: &Rig) {
    let said = rig.sh("dmesg");
    assert!(!said.contains("fault addr"), "{said}");
}

#[test]
fn guest_a_function_goes_and_the_other_of_its_lane_goes_on() {
    let rig = Rig::plugged();
    let host = rig.guest.host(CONFIG);
    rig.push("macswap", "1.0.0");
    rig.chain(EDGE);
    rig.keep_compiled();
    // Of this NIC's buffers, which are whole KiB, long frames take two, until there is room for
    // them in one.
    assert_eq!(sent(&rig, 1400), (20, 20), "{}", rig.log());
    assert_eq!(rig.port("vf0")["device"]["memory"], "the pool, long frames copied");
    rig.end(host);
    let host = rig.guest.host(&format!("[pool]\nroom = \"4KiB\"\n{CONFIG}"));
    rig.wait("the chain is back", |rig| rig.port("vf0")["chain"] == "edge");
    assert_eq!(sent(&rig, 1400), (20, 20), "{}", rig.log());
    assert_eq!(rig.port("vf0")["device"]["memory"], "the pool");
    rig.sh("timeout 60 sh -c 'echo 0000:01:10.4 > /sys/bus/pci/drivers/vfio-pci/unbind'");
    rig.wait("its port is down", |rig| rig.port("vf2")["problem"].is_string());
    assert_eq!(sent(&rig, 30), (20, 0), "{}", rig.log());
    no_fault(&rig);
    rig.end(host);
    no_fault(&rig);
    rig.guest.power_off();
}
