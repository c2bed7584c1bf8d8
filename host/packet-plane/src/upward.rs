//! What at the end of a chain is for this machine's own stack, where the message plane goes on.

use std::collections::HashSet;
use std::net::SocketAddr;

use weir_pool::Packet;
use weir_steering::{Key, octets};

use crate::context::{Context, FROM, copy_of};
use crate::counters::DropReason;

/// Numbers of the protocol behind IP's headers.
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Where a frame's destination lies.
const DESTINATION: std::ops::Range<usize> = 0..6;

/// The kernel as one more host at the end of a chain: what has its hardware address goes there,
/// what is for everybody goes there too, and so does what is for a listener, whosever hardware
/// address it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upward {
    /// The kernel's hardware address.
    address: [u8; 6],
    /// Addresses and ports of listeners.
    listeners: HashSet<([u8; 16], u16)>,
    /// The addresses alone.
    hosts: HashSet<[u8; 16]>,
}

/// Where a frame goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Out.
    Onward,
    /// Up.
    Up,
    /// Up, where it must have the kernel's hardware address.
    Readdressed,
    /// Both ways.
    Both,
}

impl Upward {
    /// The kernel's interface has this hardware address; the chain's listeners listen there. Of
    /// listeners on all addresses only the kernel knows which those are: for them the hardware
    /// address alone counts.
    #[must_use]
    pub fn new(address: [u8; 6], listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        let named = listeners.into_iter().filter(|listener| !listener.ip().is_unspecified());
        let listeners: HashSet<_> =
            named.map(|listener| (octets(listener.ip()), listener.port())).collect();
        let hosts = listeners.iter().map(|(host, _)| *host).collect();
        Self { address, listeners, hosts }
    }

    /// Where a frame at the chain's end goes on.
    pub(crate) fn side(&self, frame: &[u8]) -> Side {
        match frame.get(DESTINATION) {
            Some(destination) if destination == self.address => return Side::Up,
            Some([first, ..]) if first & 1 != 0 => return Side::Both,
            _ => {}
        }
        let key = Key::read(frame, 0);
        if !self.hosts.contains(&key.destination) {
            return Side::Onward;
        }
        let listens = self.listeners.contains(&(key.destination, key.destination_port));
        // Errors about a listener's packets; a fragment has no ports, and is the kernel's to put
        // together.
        let related = matches!(key.protocol, ICMP | ICMPV6)
            || key.protocol == TCP && key.destination_port == 0;
        if key.protocol == TCP && listens || related { Side::Readdressed } else { Side::Onward }
    }

    /// Gives a frame the kernel's hardware address, so that the kernel takes it for its own. Frames
    /// for many stay so.
    pub(crate) fn readdress(&self, frame: &mut [u8]) {
        if let Some(destination) = frame.get_mut(DESTINATION)
            && destination[0] & 1 == 0
        {
            destination.copy_from_slice(&self.address);
        }
    }
}

impl Context {
    /// A packet at the end of a chain whose other part is on the message plane.
    pub(crate) fn leave_or_go_up(&mut self, packet: Packet) {
        let frame = self.pool.bytes_mut(packet.descriptor).unwrap_or_default();
        let side = match &self.ledger.upward {
            Some(upward) => {
                let side = upward.side(frame);
                if side == Side::Readdressed {
                    upward.readdress(frame);
                }
                side
            }
            None => Side::Onward,
        };
        // Without a port to leave by the kernel has it all, and drops what is not for it.
        match (side, self.kernel) {
            (Side::Onward, Some(kernel)) if self.to == FROM => self.transmit[kernel].push(packet),
            (Side::Onward, _) | (_, None) => self.transmit[self.to].push(packet),
            (Side::Both, Some(kernel)) if self.to != FROM => {
                match copy_of(&mut self.pool, packet) {
                    Some(copy) => self.transmit[kernel].push(copy),
                    None => self.ledger.counters.drop(DropReason::NoBuffer),
                }
                self.ledger.counters.packets_made += 1;
                self.transmit[self.to].push(packet);
            }
            (_, Some(kernel)) => {
                self.note_answer(packet, kernel);
                self.transmit[kernel].push(packet);
            }
        }
    }

    /// The kernel's answers belong to what the packet belongs to.
    pub(crate) fn note_answer(&mut self, packet: Packet, kernel: usize) {
        if self.notes_answers {
            let frame = self.pool.bytes(packet.descriptor).unwrap_or_default();
            self.answers.push(Key::read(frame, FROM as u16).reversed(kernel as u16));
        }
    }

    /// Whether the burst is the kernel's.
    pub(crate) fn is_kernels(&self) -> bool {
        self.kernel == Some(self.came_by)
    }

    /// What the kernel sends leaves as it is: no chain has it.
    pub(crate) fn send_for_kernel(&mut self) {
        if let Err(error) = self.ports[FROM].send(&mut self.pool, &mut self.burst) {
            self.port_errors.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn upward() -> Upward {
        let listeners = ["10.0.0.9:80", "0.0.0.0:443", "[2001:db8::9]:80"];
        Upward::new(KERNEL, listeners.map(|text| text.parse().expect("an address")))
    }

    /// IPv4 to this address; the protocol's header begins with these bytes.
    fn frame(mac: [u8; 6], to: [u8; 4], protocol: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut bytes =
            [&mac[..], &OTHER, &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]].concat();
        bytes.extend([10, 0, 0, 2]);
        bytes.extend(to);
        bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        bytes.resize(60, 0);
        bytes
    }

    #[test]
    fn what_is_for_the_kernel_goes_up_and_the_rest_out() {
        let side = |mac, to, protocol, port| upward().side(&frame(mac, to, protocol, [1024, port]));
        assert_eq!(side(KERNEL, [10, 0, 0, 1], 17, 53), Side::Up, "its hardware address");
        assert_eq!(side(OTHER, [10, 0, 0, 9], TCP, 80), Side::Readdressed, "a listener's");
        assert_eq!(side(OTHER, [10, 0, 0, 9], ICMP, 0), Side::Readdressed);
        assert_eq!(side(OTHER, [10, 0, 0, 9], TCP, 81), Side::Onward, "another port");
        assert_eq!(side(OTHER, [10, 0, 0, 9], 17, 80), Side::Onward, "listeners speak TCP");
        assert_eq!(side(OTHER, [10, 0, 0, 1], TCP, 80), Side::Onward, "another host");
        assert_eq!(
            side(OTHER, [10, 0, 0, 1], TCP, 443),
            Side::Onward,
            "all addresses are not all hosts"
        );
        assert_eq!(side([0xff; 6], [10, 0, 0, 255], 17, 67), Side::Both);
        assert_eq!(side([1, 0, 0x5e, 0, 0, 1], [224, 0, 0, 1], 2, 0), Side::Both);
        for short in 0..14 {
            assert_eq!(upward().side(&vec![0; short]), Side::Onward);
        }
    }

    #[test]
    fn a_frame_is_readdressed_unless_it_is_for_many() {
        let mut one = frame(OTHER, [10, 0, 0, 9], TCP, [1, 80]);
        upward().readdress(&mut one);
        assert_eq!(one, frame(KERNEL, [10, 0, 0, 9], TCP, [1, 80]));
        let mut many = frame([0xff; 6], [10, 0, 0, 9], TCP, [1, 80]);
        upward().readdress(&mut many);
        assert_eq!(many[..6], [0xff; 6]);
        upward().readdress(&mut []);
    }
}
