//! A packet's bytes, and its Ethernet header.

use aya_ebpf::programs::XdpContext;

/// EtherTypes that announce a VLAN tag: 802.1Q, 802.1ad, and what 802.1ad had before it was one.
const TAGGED: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Addresses and type, behind at most two VLAN tags.
pub struct Ethernet {
    /// Destination, then source.
    pub macs: [[u8; 6]; 2],
    /// The outer VLAN; `u16::MAX` without a tag.
    pub vlan: u16,
    /// What it carries.
    pub ethertype: u16,
    /// Where that begins.
    pub payload: usize,
}

impl Ethernet {
    /// Reads it, if the packet is as long. A tag that is cut off is none.
    #[inline(always)]
    pub fn parse(context: &XdpContext) -> Option<Self> {
        let macs = read(context, 0)?;
        let kind = u16::from_be_bytes(read(context, 12)?);
        let mut frame = Self { macs, vlan: u16::MAX, ethertype: kind, payload: 14 };
        if !TAGGED.contains(&kind) {
            return Some(frame);
        }
        let Some([a, b, c, d]) = read::<[u8; 4]>(context, 14) else { return Some(frame) };
        frame.vlan = u16::from_be_bytes([a, b]) & 0xfff;
        (frame.ethertype, frame.payload) = (u16::from_be_bytes([c, d]), 18);
        if !TAGGED.contains(&frame.ethertype) {
            return Some(frame);
        }
        let Some([_, _, c, d]) = read::<[u8; 4]>(context, 18) else { return Some(frame) };
        (frame.ethertype, frame.payload) = (u16::from_be_bytes([c, d]), 22);
        Some(frame)
    }
}

/// Bytes of the packet, if it is long enough.
#[inline(always)]
pub fn read<T: Copy>(context: &XdpContext, offset: usize) -> Option<T> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: within the packet, as was just checked (and the verifier checks again); T is an array
    // of bytes.
    Some(unsafe { (start as *const T).read_unaligned() })
}
