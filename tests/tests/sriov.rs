//! Virtual functions of an emulated Intel 82576 in a guest (`tests/vm`): by hand, and by the host,
//! which leaves them as it found them: when it ends, and after it was killed. And what becomes of a
//! port whose function is removed under traffic.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use weir_tests::in_guest::{InGuest, target};

const MAC: &str = "02:00:00:00:77:00";
const DEVICES: [&str; 3] = ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4"];

fn boot(iommu: bool) -> InGuest {
    InGuest::plugged(|machine| {
        machine.iommu = iommu;
        machine.limit = Duration::from_secs(420);
    })
}

/// All that the host may change, as tools that are not Weir's show it.
fn devices(rig: &InGuest) -> String {
    rig.sh(
        "(ip link show eth0 | grep ' vf ' || true); cd /sys/bus/pci/devices; \
         cat 0000:01:00.0/sriov_numvfs 0000:01:00.0/sriov_drivers_autoprobe; \
         for d in 0000:01:1*; do [ -e $d ] || continue; echo $d $(readlink $d/driver) $(cat $d/driver_override) $(ls $d/net 2>/dev/null); \
         for i in $(ls $d/net 2>/dev/null); do ip -o address show dev $i; cat $d/net/$i/flags $d/net/$i/address; done; done",
    )
}

#[test]
fn guest_functions_are_created_set_bound_and_removed_by_hand() {
    let rig = boot(true);
    assert!(rig.weir("sriov list").contains("0000:01:00.0"));
    rig.refused("sriov list lo", &["lo is not an SR-IOV device", "SR-IOV devices here: eth0"]);
    rig.refused("sriov list eth7", &["no interface or PCI device eth7"]);
    rig.refused("sriov create eth0 9", &["allowed: 1 to 7 (sriov_totalvfs)"]);
    rig.refused("sriov bind eth0 0 vfio-pci", &["`weir sriov create eth0 N`"]);
    rig.weir("sriov create eth0 2");
    rig.refused(
        "sriov create 01:00.0 3",
        &["has 2 virtual functions already", "weir sriov remove eth0"],
    );
    rig.weir(&format!(
        "sriov set eth0 0 --mac {MAC} --vlan 100 --qos 3 --spoof-check off --trust on"
    ));
    let kernel = rig.sh("ip link show eth0");
    assert!(kernel.contains(&format!("vf 0     link/ether {MAC}")), "{kernel}");
    assert!(
        kernel.contains("vlan 100, qos 3, spoof checking off, link-state auto, trust on"),
        "{kernel}"
    );
    rig.refused("sriov set eth0 0 --link up", &["set link up", "driver cannot do that"]);
    rig.refused("sriov set eth0 2 --vlan 1", &["has no virtual function 2, only 0 to 1"]);
    let name =
        |n: usize| rig.sh(&format!("ls /sys/bus/pci/devices/{}/net", DEVICES[n])).trim().to_owned();
    rig.weir("sriov bind eth0 0 kernel --again");
    let address = rig.sh(&format!("cat /sys/class/net/{}/address", name(0)));
    assert_eq!(address.trim(), MAC, "the driver has taken the address");
    rig.weir("sriov bind eth0 0 vfio-pci");
    rig.sh(&format!("ip address add 192.0.2.1/24 dev {0}; ip link set {0} up", name(1)));
    let list = rig.json("sriov list eth0");
    let vf = |n: usize| &list[0]["vfs"][n];
    assert_eq!(
        (&list[0]["numvfs"], &list[0]["totalvfs"], &list[0]["driver"]),
        (&2.into(), &7.into(), &"igb".into())
    );
    assert_eq!((&vf(0)["address"], &vf(0)["driver"]), (&DEVICES[0].into(), &"vfio-pci".into()));
    assert_eq!(
        (&vf(0)["mac"], &vf(0)["vlan"], &vf(0)["trust"]),
        (&MAC.into(), &100.into(), &true.into())
    );
    assert!(vf(0)["iommu_group"].is_u64(), "{list}");
    assert_eq!(vf(1)["driver"], "igbvf");
    let users = vf(1)["users"][0].as_str().unwrap_or_default();
    assert_eq!(users, format!("the interface {} is up with 192.0.2.1/24", name(1)));
    rig.refused("sriov remove eth0", &["virtual function 1 of eth0", "is up with 192.0.2.1/24"]);
    rig.refused("sriov bind eth0 1 vfio-pci", &["is in use"]);
    rig.sh(&format!("ip address flush dev {}", name(1)));
    // So is one without an address of its own that another interface lies on.
    rig.sh(&format!("ip link add link {0} name on-it type vlan id 7", name(1)));
    rig.refused("sriov bind eth0 1 vfio-pci", &["is in use", "on-it lies on the interface"]);
    rig.refused(
        "sriov remove eth0",
        &["virtual function 1 of eth0", "on-it lies on the interface"],
    );
    rig.sh("ip link delete on-it");
    // Somebody has the other one by vfio.
    let group = vf(0)["iommu_group"].as_u64().expect("a number");
    let holder = format!("sleep 100 < /dev/vfio/{group}");
    let holder =
        rig.guest.start("/", &["bash", "-c", &format!("exec {holder}")]).expect("it starts");
    rig.wait("it is open", |rig| rig.weir("sriov list").contains("(sleep) has /dev/vfio/"));
    rig.refused("sriov remove eth0", &["virtual function 0 of eth0", "(sleep) has /dev/vfio/"]);
    holder.signal(Signal::TERM).expect("the guest is there");
    holder.output().expect("it ends");
    // Without the rights.
    let user = "setpriv --reuid 65534 --clear-groups";
    for (arguments, right) in
        [("set eth0 0 --vlan 5", "CAP_NET_ADMIN"), ("remove eth0", "this needs root")]
    {
        let script =
            format!("{user} {} sriov {arguments}", target().join("release/weir").display());
        let output = rig.run(&script);
        assert!(
            output.status == 1 && output.stderr.contains(right),
            "{arguments}: {}",
            output.stderr
        );
    }
    rig.weir("sriov bind eth0 0 kernel");
    rig.weir("sriov remove eth0");
    assert_eq!(rig.sh("cat /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs"), "0\n");
    rig.power_off();
}

#[test]
fn guest_without_an_iommu_vfio_is_refused() {
    let rig = boot(false);
    rig.weir("sriov create eth0 1");
    rig.refused("sriov bind eth0 0 vfio-pci", &["the IOMMU is off", "intel_iommu=on iommu=pt"]);
    rig.refused("sriov bind eth0 0 vfio-pci --no-iommu", &["enable_unsafe_noiommu_mode=1"]);
    rig.write("weir.toml", "[[port]]\nname = \"a\"\nkind = \"dpdk\"\ndevice = \"vf:eth0/0\"\n");
    rig.refused("run --check", &["the IOMMU is off", "weir.toml:4", "= key: port[0].device"]);
    // By its address the host leaves it as it is, and DPDK cannot have it.
    let host = rig.host("[[port]]\nname = \"a\"\nkind = \"dpdk\"\ndevice = \"0000:01:10.0\"\n");
    let problem = rig.port("a")["problem"].to_string();
    assert!(problem.contains("has no IOMMU"), "{problem}");
    rig.end(host);
    rig.power_off();
}

const CONFIG: &str = r#"
[[nic]]
pf = "eth0"
vfs = 3
[[nic.vf]]
index = 0
mac = "02:00:00:00:77:00"
vlan = 100
spoof-check = false
[[port]]
name = "vf0"
kind = "dpdk"
device = "vf:eth0/0"
[[port]]
name = "vf1"
kind = "xdp"
interface = "vf:eth0/1"
mode = "generic"
[[port]]
name = "in"
kind = "memory"
generate = { rate = 100 }
[[listener]]
name = "web"
device = "vf:eth0/2"
address = "10.88.0.2:8080"
prefix = 24
protocol = "http"
upstream = ["127.0.0.1:9"]
"#;

/// Sends a frame in VLAN 100 to a function, and waits for the answer there: what it gets comes
/// back. The kernel tells the tag of what is received beside the frame (packet(7),
/// `PACKET_AUXDATA`).
const SWAPPED: &str = r#"
import socket, struct, sys
to = bytes.fromhex(sys.argv[1].replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[2], 3))
s.setsockopt(263, 8, 1)
s.settimeout(0.5)
own = s.getsockname()[4]
for n in range(60):
    s.send(to + own + b"\x81\x00\x00\x64\x88\xb5" + b"weir" * 16)
    try:
        for m in range(20):
            frame, auxiliary, _, _ = s.recvmsg(2000, 100)
            tags = [struct.unpack_from("H", data, 16)[0] & 0xfff for _, _, data in auxiliary]
            if frame[:6] == own and frame[6:12] == to and tags == [100]:
                sys.exit(0)
    except socket.timeout:
        pass
sys.exit(1)
"#;

/// Frames in VLAN 100 to a function, five hundred a second, until somebody ends it.
const FLOOD: &str = r#"
import socket, sys, time
to = bytes.fromhex(sys.argv[1].replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[2], 0))
own = s.getsockname()[4]
for n in range(100_000):
    s.send(to + own + b"\x81\x00\x00\x64\x88\xb5" + b"weir" * 16)
    time.sleep(0.002)
"#;

fn swap_on(rig: &InGuest, port: &str) {
    let functions = target().join("functions");
    let chain = format!(
        "name = \"{port}\"\nsymmetric = false\nfrom = \"{port}\"\nto = \"{port}\"\n[[function]]\npath = \"{}\"\n",
        functions.join("macswap.wasm").display()
    );
    rig.chain(&chain);
}

#[test]
fn guest_the_host_leaves_functions_as_it_found_them() {
    let rig = boot(true);
    let found = devices(&rig);
    // One that cannot start takes everything back, though DPDK has opened its device.
    let failing = "[store]\npath = \"/run/failing\"\n[[listener]]\nname = \"nowhere\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\nupstream = [\"127.0.0.1:1\"]\n";
    rig.write("weir.toml", &format!("{failing}{CONFIG}"));
    rig.refused("run", &["listener nowhere: cannot listen at 192.0.2.1:80"]);
    assert_eq!(devices(&rig), found);
    let host = rig.host(CONFIG);
    let made = devices(&rig);
    for part in
        [MAC, "vlan 100", "spoof checking off", "0000:01:10.0 ../../../../bus/pci/drivers/vfio-pci"]
    {
        assert!(made.contains(part), "{part}: {made}");
    }
    assert!(made.contains("10.88.0.2/24"), "{made}");
    // Killed, the host has changed nothing back; the next one does, and is told to end in order.
    rig.kill(host);
    assert_eq!(devices(&rig), made);
    let again = rig.host(CONFIG);
    assert!(
        rig.log().contains("restored: remove the virtual functions of 0000:01:00.0"),
        "{}",
        rig.log()
    );
    rig.refused("sriov restore --config weir.toml", &["belongs to a host that runs"]);
    rig.end(again);
    assert_eq!(devices(&rig), found, "{}", rig.log());
    // Functions that were there keep what they had; by hand this time.
    rig.sh("echo 3 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs; ip link set eth0 vf 0 mac 02:00:00:00:66:00 vlan 7");
    rig.sh(&format!("name=$(ls /sys/bus/pci/devices/{}/net); ip link set $name up", DEVICES[1]));
    rig.weir("sriov bind eth0 0 kernel --again");
    let found = devices(&rig);
    let host = rig.host(CONFIG);
    rig.kill(host);
    rig.sh("ip link set eth0 vf 0 vlan 9");
    let told = rig.weir("sriov restore --config weir.toml");
    assert!(
        told.contains("somebody else changed it meanwhile, to what this does: set vlan 9"),
        "{told}"
    );
    rig.sh("ip link set eth0 vf 0 vlan 7");
    assert_eq!(devices(&rig), found, "{told}");
    assert!(rig.weir("sriov restore --config weir.toml").contains("nothing to restore"));
    rig.power_off();
}

#[test]
fn guest_a_function_that_is_removed_takes_its_port_along_and_nothing_else() {
    let rig = boot(true);
    let host = rig.host(CONFIG);
    swap_on(&rig, "vf0");
    swap_on(&rig, "in");
    rig.keep_compiled();
    // Its frames are in its VLAN, outside of it.
    rig.outside().sh("ip link set wire up");
    rig.write("swapped.py", SWAPPED);
    let script = rig.path("swapped.py");
    rig.outside().sh(&format!("python3 {} {MAC} wire", script.display()));
    let port = |name: &str| rig.port(name);
    assert_eq!(
        (&port("vf0")["device"]["vf"], &port("vf0")["problem"]),
        (&"vf:eth0/0".into(), &Value::Null)
    );
    rig.write("flood.py", FLOOD);
    let flood = format!("python3 {} {MAC} wire", rig.path("flood.py").display());
    let flood = rig.outside().start(&flood);
    let received = || port("vf0")["rx_packets"].as_u64().expect("a number");
    let before = received();
    rig.wait("its traffic comes", |_| received() > before + 50);
    // The kernel waits for who has a function by vfio: it must let go, in time.
    rig.sh("timeout 60 sh -c 'echo 0 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs'");
    rig.wait("the port is down", |_| port("vf0")["problem"].is_string());
    let problem = port("vf0")["problem"].to_string();
    assert!(problem.contains("vf:eth0/0 (0000:01:10.0) is lost: it was removed"), "{problem}");
    assert!(port("vf1")["problem"].is_string());
    rig.wait("it is told", |rig| {
        rig.weir("events").contains("port vf0 is down: its device vf:eth0/0")
    });
    let status = rig.weir("status");
    assert!(status.contains("listener web is down: its device vf:eth0/2"), "{status}");
    let packets = || port("in")["rx_packets"].as_u64().expect("a number");
    let before = packets();
    rig.wait("other ports go on", |_| packets() > before);
    drop(flood);
    rig.end(host);
    assert_eq!(rig.sh("cat /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs"), "0\n");
    rig.power_off();
}
