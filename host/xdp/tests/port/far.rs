//! A network namespace with veth pairs, and the far end of a pair.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::{Port, PortCounts, PortError, Received};
use weir_xdp::{XdpConfig, XdpPort};

/// Longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Takes this thread into a network namespace that ends with it.
pub(crate) fn namespace() {
    // SAFETY: changes the calling thread's namespace only, which nothing here depends on.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    let error = io::Error::last_os_error();
    assert_eq!(unshared, 0, "this test makes a network namespace, which needs root: {error}");
    // The kernel's own packets (router solicitations, duplicate address detection) would disturb
    // the counts.
    for what in ["all", "default"] {
        let path = format!("/proc/thread-self/net/../../../sys/net/ipv6/conf/{what}/disable_ipv6");
        let _ = std::fs::write(path, "1");
    }
}

/// Runs `ip` in the namespace.
pub(crate) fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().expect("`ip`");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until an interface is up, which the kernel brings about in the background; what is sent
/// before is lost.
pub(crate) fn wait_until_up(interface: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let shown = Command::new("ip").args(["link", "show", "dev", interface]).output();
        if String::from_utf8_lossy(&shown.expect("`ip`").stdout).contains("state UP") {
            return;
        }
        assert!(Instant::now() < until, "{interface} does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A pair, up: `NAME` for the port, `NAME-far`.
pub(crate) fn pair(name: &str) {
    pair_of(name, 1);
}

/// A pair of so many queues each.
pub(crate) fn pair_of(name: &str, queues: u32) {
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add name {name} {queues} type veth peer name {name}-far {queues}"));
    for end in [name.to_owned(), format!("{name}-far")] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
        ip(&format!("link set dev {end} arp off up"));
    }
}

pub(crate) fn pool(rooms: u32, room_bytes: u32) -> Pool {
    Pool::new("test", &PoolConfig { rooms, room_bytes, huge: HugePages::Never }).unwrap()
}

/// A port that is attached.
pub(crate) fn port(config: XdpConfig, pool: &mut Pool) -> Result<XdpPort, PortError> {
    let mut port = XdpPort::open("lan", config)?;
    port.attach(pool)?;
    Ok(port)
}

/// Ends a port; every buffer has to be back.
pub(crate) fn finish(mut port: XdpPort, pool: &mut Pool) -> PortCounts {
    port.finish(pool).unwrap();
    port.statistics().counts()
}

/// Receives until there are so many packets, as a worker does.
pub(crate) fn receive(port: &mut XdpPort, pool: &mut Pool, wanted: usize) -> Vec<Packet> {
    let until = Instant::now() + PATIENCE;
    let mut packets = Vec::new();
    while packets.len() < wanted && Instant::now() < until {
        if port.receive(pool, &mut packets, 64).unwrap() == Received::Waiting {
            port.settle(pool).unwrap();
        }
    }
    assert_eq!(packets.len(), wanted, "{:?}", port.statistics().counts());
    packets
}

/// An Ethernet frame of an EtherType for experiments, with a number, and bytes that depend on it.
pub(crate) fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend((bytes.len()..length).map(|n| (n as u32 ^ number) as u8));
    bytes
}

/// An AF_PACKET socket.
pub(crate) struct Far(OwnedFd);

impl Far {
    pub(crate) fn on(interface: &str) -> Self {
        const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: a new descriptor, that nobody else has; `name` and `address` live through the
        // calls.
        unsafe {
            let fd =
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(ALL));
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = ALL;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            let bound = libc::bind(fd, (&raw const address).cast(), length);
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            for (option, value) in
                [(libc::SO_RCVBUFFORCE, 64 << 20), (libc::SO_SNDBUFFORCE, 64 << 20)]
            {
                let value: i32 = value;
                libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), 4);
            }
            let timeout = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
            let length = size_of::<libc::timeval>() as u32;
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                length,
            );
            Self(OwnedFd::from_raw_fd(fd))
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the bytes live through the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that came in.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        loop {
            let mut from = std::mem::MaybeUninit::<libc::sockaddr_ll>::zeroed();
            let mut length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: buffer and address live through the call, and are as long as is said.
            let (received, kind) = unsafe {
                let received = libc::recvfrom(
                    self.0.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    0,
                    from.as_mut_ptr().cast(),
                    &raw mut length,
                );
                (received, from.assume_init().sll_pkttype)
            };
            assert!(received >= 0, "{}", io::Error::last_os_error());
            // Not what was sent here.
            if kind != libc::PACKET_OUTGOING {
                bytes.truncate(received as usize);
                return bytes;
            }
        }
    }
}
