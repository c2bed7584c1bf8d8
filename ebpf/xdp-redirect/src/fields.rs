//! What steering looks at, as `weir_steering::Key` has it.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::Fields;

use crate::packet::{Ethernet, read};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocols that have ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// What stands between IPv6 and its payload.
const EXTENSIONS: [u8; 6] = [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY];
/// Most extension headers that are followed.
const EXTENSIONS_MAX: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes in front of what an ICMP error quotes.
const ICMP_HEADER: usize = 8;

/// Bits of an offset in front of the payload.
const OFFSET_MAX: usize = 0x7fff;

/// For [`forget`].
#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `weir_steering::Key`, field by field.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct Key {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    dscp: u8,
    pub vlan: u16,
    pub ethertype: u16,
    pub port: u16,
    macs: [[u8; 6]; 2],
}

impl Key {
    /// With these fields alone.
    #[inline(always)]
    pub fn new(ethertype: u16, vlan: u16, port: u16) -> Self {
        Self { ethertype, vlan, port, ..Self::default() }
    }

    /// All of it.
    #[inline(always)]
    pub fn words(&self) -> &Fields {
        // SAFETY: both are 56 bytes and aligned alike, every byte of the key is a field's, and any
        // bytes are words.
        unsafe { &*(&raw const *self).cast() }
    }

    /// Leaves what all packets of its flow have in this direction (`weir_steering::Key::plain`),
    /// with the number of the port's first queue. The answer is what was taken away, for
    /// [`Self::restore`]: the stack has no room for two keys.
    #[inline(always)]
    pub fn make_plain(&mut self, first: u8) -> Taken {
        let taken = Taken { dscp: self.dscp, port: self.port, macs: self.macs };
        self.dscp = 0;
        self.port = u16::from(first);
        if self.ethertype == IPV4 || self.ethertype == IPV6 {
            self.macs = [[0; 6]; 2];
        }
        taken
    }

    /// Has the verifier forget how each field came there: it would go on with each way apart.
    #[inline(always)]
    pub fn forget(&mut self) {
        let words: *mut u64 = (&raw mut *self).cast();
        for n in 0..size_of::<Fields>() / size_of::<u64>() {
            // SAFETY: within the key, whose bytes are words ([`Self::words`]).
            unsafe { words.add(n).write_volatile(words.add(n).read_volatile()) };
        }
    }

    /// Takes that back.
    #[inline(always)]
    pub fn restore(&mut self, Taken { dscp, port, macs }: Taken) {
        (self.dscp, self.port, self.macs) = (dscp, port, macs);
    }
}

/// See [`Key::make_plain`].
pub struct Taken {
    dscp: u8,
    port: u16,
    macs: [[u8; 6]; 2],
}

/// Reads them into `key`; the answer is where the payload is of what is no fragment and has no
/// extension headers, and else 0. None for what is looked at more closely behind the socket: what
/// is cut off or malformed.
#[inline(always)]
pub fn read_into(key: &mut Key, context: &XdpContext, queue: u32) -> Option<usize> {
    let Ethernet { macs, vlan, ethertype, payload } = Ethernet::parse(context)?;
    (key.vlan, key.ethertype, key.port, key.macs) = (vlan, ethertype, queue as u16, macs);
    ip(context, payload, key)
}

/// Where an ICMP error is, if there is one at this place.
#[inline(always)]
pub fn error(context: &XdpContext, key: &Key, payload: usize) -> Option<usize> {
    let v4 = key.ethertype == IPV4 && key.protocol == ICMP;
    let v6 = key.ethertype == IPV6 && key.protocol == ICMPV6;
    if payload == 0 || !(v4 || v6) {
        return None;
    }
    let [kind, _, _, _] = read::<[u8; 4]>(context, payload)?;
    // Unreachable, source quench, redirect, time exceeded, parameter problem; RFC 4443, section
    // 2.1: the upper half is not about errors.
    let is_error = if v4 { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { kind < 128 };
    if !is_error {
        return None;
    }
    let scratch = SCRATCH.get_ptr_mut(0)?;
    Some(forget(scratch, payload as u64) as usize & OFFSET_MAX)
}

/// Reads the flow that an ICMP error of this type and VLAN quotes, as its packets come in where the
/// error does (`weir_steering::quoted`).
#[inline(always)]
pub fn read_quoted(key: &mut Key, context: &XdpContext, error: usize) -> Option<()> {
    ip(context, error + ICMP_HEADER, key)?;
    // It goes to who sent what it quotes.
    core::mem::swap(&mut key.source, &mut key.destination);
    core::mem::swap(&mut key.source_port, &mut key.destination_port);
    Some(())
}

/// Reads what the key's type says that there is. The answer is as that of [`read_into`].
#[inline(always)]
fn ip(context: &XdpContext, at: usize, key: &mut Key) -> Option<usize> {
    let (behind, whole) = match key.ethertype {
        IPV4 => v4(context, at, key)?,
        IPV6 => v6(context, at, key)?,
        _ => return Some(0),
    };
    if whole && WITH_PORTS.contains(&key.protocol) {
        // Too short for ports: there are none.
        if let Some([a, b, c, d]) = read::<[u8; 4]>(context, behind) {
            key.source_port = u16::from_be_bytes([a, b]);
            key.destination_port = u16::from_be_bytes([c, d]);
        }
    }
    let plain = whole && (key.ethertype == IPV4 || behind == at + 40);
    Some(if plain { behind } else { 0 })
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
    if a >> 4 != 6 {
        return None;
    }
    key.source = read(context, at + 8)?;
    key.destination = read(context, at + 24)?;
    key.dscp = (a & 0xf) << 2 | b >> 6;
    key.protocol = next;
    if !EXTENSIONS.contains(&next) {
        return Some((at + 40, true));
    }
    let scratch = SCRATCH.get_ptr_mut(0)?;
    let (mut protocol, mut behind, mut whole) = (next, at + 40, true);
    for _ in 0..EXTENSIONS_MAX {
        behind = forget(scratch, behind as u64) as usize & OFFSET_MAX;
        // What one unit of its length is; a fragment's header has none.
        let unit = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => break,
        };
        let Some([next, length, c, d, _, _, _, _]) = read::<[u8; 8]>(context, behind) else {
            break;
        };
        behind += 8 + usize::from(length) * unit;
        // An atomic fragment (RFC 6946) is the whole packet.
        whole = protocol != FRAGMENT || u16::from_be_bytes([c, d]) & 0xfff9 == 0;
        protocol = next;
        if !whole {
            // What follows is only in the first one.
            break;
        }
    }
    let found = behind as u64 | u64::from(protocol) << 32 | u64::from(whole) << 40;
    let found = forget(scratch, found);
    key.protocol = (found >> 32) as u8;
    Some((found as usize & OFFSET_MAX, found >> 40 != 0))
}

/// Has the verifier forget what it knows of a value: it would go on with each way to get here
/// apart, and they are too many.
#[inline(always)]
fn forget(scratch: *mut u64, value: u64) -> u64 {
    // SAFETY: one word, aligned, of an element that other CPUs do not have. On kernels with
    // PREEMPT_RT another packet's run may come between on this CPU, and leave its own word: whoever
    // goes on with it checks it against this packet's end, as the verifier wants of any word.
    unsafe {
        scratch.write_volatile(value);
        scratch.read_volatile()
    }
}

/// An IPv4 address as IPv6 has it (RFC 4291, 2.5.5.2).
#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
