//! A port with a TAP interface beside it, in a network namespace of the test's own. Needs root.

use std::ffi::CString;
use std::io;
use std::process::Command;
use std::time::Duration;

use weir_kernel_port::{KernelPort, TapDevice};
use weir_layout::Metadata;
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::Port as _;
use weir_port::memory::channel;

/// An Ethernet frame of an EtherType for experiments.
const FRAME: [u8; 60] = {
    let mut frame = [7; 60];
    (frame[0], frame[12], frame[13]) = (2, 0x88, 0xb5);
    frame
};

/// Has the kernel send a frame by an interface.
fn kernel_sends(interface: &str, frame: &[u8]) {
    let name = CString::new(interface).expect("a name");
    // SAFETY: `name`, `address` and the bytes live through the calls, and the descriptor is closed
    // once.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let address = (&raw const address).cast();
        let sent = libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, length);
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
        libc::close(fd);
    }
}

#[test]
fn netns_what_the_kernel_sends_leaves_by_a_port_that_is_only_sent_to() {
    // SAFETY: changes the calling thread's namespace only, which nothing here depends on.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    let error = io::Error::last_os_error();
    assert_eq!(unshared, 0, "this test makes a network namespace, which needs root: {error}");
    let config = PoolConfig { rooms: 64, room_bytes: 2048, huge: HugePages::Never };
    let mut pool = Pool::new("test", &config).expect("memory");
    let (wire, end) = channel("to");
    let tap = TapDevice::open("weir-to", None, 1).expect("a TAP interface").remove(0);
    let mut port = KernelPort::new(Box::new(wire), tap);
    port.attach(&mut pool).expect("a wire");
    kernel_sends("weir-to", &FRAME);
    let mut came = false;
    // Under load, and nobody asks the port for packets.
    for _ in 0..100 {
        let buffer = pool.take().expect("a room");
        let descriptor = pool.place(buffer, &[9; 60]).expect("it fits");
        let metadata = Metadata::default();
        let mut packets = vec![Packet { descriptor, metadata, time: 0, buffer, cut: 0 }];
        port.send(&mut pool, &mut packets).expect("it works");
        while let Some(frame) = end.take(Duration::ZERO) {
            came |= frame == FRAME;
        }
    }
    assert!(came, "{:?}", port.statistics().counts());
    port.finish(&mut pool).expect("it ends");
    assert_eq!(pool.accounting().out, 0);
}

#[test]
fn netns_an_interface_that_was_made_before_is_had_for_one_queue_however_it_was_made() {
    // SAFETY: changes the calling thread's namespace only, which nothing here depends on.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    let error = io::Error::last_os_error();
    assert_eq!(unshared, 0, "this test makes a network namespace, which needs root: {error}");
    for (name, made_with, several) in
        [("weir-one", &[][..], false), ("weir-two", &["multi_queue"], true)]
    {
        let mut add = Command::new("ip");
        add.args(["tuntap", "add", "dev", name, "mode", "tap"]).args(made_with);
        let made = add.status().expect("`ip` (package iproute2)");
        assert!(made.success(), "{name}: {made}");
        for (queues, can_be) in [(1, true), (2, several), (1, true)] {
            let taps = TapDevice::open(name, None, queues);
            assert_eq!(
                taps.as_ref().ok().map(Vec::len),
                can_be.then_some(queues),
                "{name}: {taps:?}"
            );
        }
    }
}
