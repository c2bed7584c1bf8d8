//! What steering looks at, as `weir_steering::Key` has it.

use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::Fields;

use crate::packet::{Ethernet, read};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocols that have ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// What stands between IPv6 and its payload: hop by hop, routing, fragment, authentication, destination, mobility.
const EXTENSIONS: [u8; 6] = [0, 43, 44, 51, 60, 135];

/// `weir_steering::Key`, field by field.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Key {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    dscp: u8,
    vlan: u16,
    ethertype: u16,
    port: u16,
    macs: [[u8; 6]; 2],
}

/// Reads them. None for what is looked at more closely behind the socket: IPv6 with extension headers, and what is cut off or
/// malformed.
#[inline(always)]
pub fn of(context: &XdpContext, queue: u32) -> Option<Fields> {
    let Ethernet { macs, vlan, ethertype, payload } = Ethernet::parse(context)?;
    let mut key = Key {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        dscp: 0,
        vlan,
        ethertype,
        port: queue as u16,
        macs,
    };
    let (behind, whole) = match ethertype {
        IPV4 => v4(context, payload, &mut key)?,
        IPV6 => v6(context, payload, &mut key)?,
        _ => return Some(words(key)),
    };
    if whole && WITH_PORTS.contains(&key.protocol) {
        // Too short for ports: there are none.
        if let Some([a, b, c, d]) = read::<[u8; 4]>(context, behind) {
            key.source_port = u16::from_be_bytes([a, b]);
            key.destination_port = u16::from_be_bytes([c, d]);
        }
    }
    Some(words(key))
}

/// The answer is where the payload begins, and whether it is no fragment.
#[inline(always)]
fn v4(context: &XdpContext, at: usize, key: &mut Key) -> Option<(usize, bool)> {
    let header = read::<[u8; 20]>(context, at)?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return None;
    }
    key.source = mapped([header[12], header[13], header[14], header[15]]);
    key.destination = mapped([header[16], header[17], header[18], header[19]]);
    (key.protocol, key.dscp) = (header[9], header[1] >> 2);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    Some((at + length, !fragment))
}

#[inline(always)]
fn v6(context: &XdpContext, at: usize, key: &mut Key) -> Option<(usize, bool)> {
    let [a, b, _, _, _, _, next, _] = read::<[u8; 8]>(context, at)?;
    if a >> 4 != 6 || EXTENSIONS.contains(&next) {
        return None;
    }
    key.source = read(context, at + 8)?;
    key.destination = read(context, at + 24)?;
    (key.protocol, key.dscp) = (next, (a & 0xf) << 2 | b >> 6);
    Some((at + 40, true))
}

/// An IPv4 address as IPv6 has it (RFC 4291, 2.5.5.2).
#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
fn words(key: Key) -> Fields {
    // SAFETY: both are 56 bytes, every byte of the key is a field's, and any bytes are words.
    unsafe { core::mem::transmute(key) }
}
