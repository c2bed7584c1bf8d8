//! What a `dpdk` port is configured with.

/// What a port does while nothing comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Its worker asks it again and again, and uses its core.
    Poll,
    /// Its worker sleeps until the device wakes it, or, where it cannot, for short times.
    Sleep,
}

/// What a `dpdk` port is to be like. What is left out is the device's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DpdkConfig {
    /// A PCI address (`0000:01:10.0`) or a virtual device (`net_af_packet0,iface=veth1`), as DPDK
    /// writes them.
    pub device: String,
    /// Receive queues, and as many transmit queues; flows are spread over them by the device. 1 if
    /// left out.
    pub queues: Option<u16>,
    /// Descriptors of each receive queue.
    pub rx_descriptors: Option<u16>,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: Option<u16>,
    /// Longest IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Whether frames for any address are received; they are if left out, where the device can.
    pub promiscuous: Option<bool>,
    /// Whether frames for any multicast address are received; they are if left out, where the
    /// device can.
    pub multicast: Option<bool>,
    /// Whether the device verifies and fills in checksums of IPv4, TCP and UDP.
    pub checksum_offload: bool,
    /// What it does while nothing comes in. If left out it sleeps where the device's driver works
    /// with the kernel's sockets, which wake it, and polls otherwise.
    pub idle: Option<Idle>,
    /// Bytes of a room of the pools that the port will work with.
    pub room_bytes: u32,
}

impl DpdkConfig {
    /// This device, as it comes, and rooms of 2048 bytes.
    #[must_use]
    pub fn new(device: &str) -> Self {
        Self { device: device.to_owned(), room_bytes: 2048, ..Self::default() }
    }
}
