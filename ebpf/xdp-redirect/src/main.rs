//! The XDP program of `xdp` ports: packets that the rules of their receive queue claim go to the queue's AF_XDP
//! socket, all others on to the kernel's network stack, as if the program were not there.
//!
//! Fails open: a queue without rules, without a socket (a port that nobody reads), or packets too short to be looked at,
//! are left to the kernel. So nothing is lost while ports are opened and closed.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::{
    Counts, FIELD_DESTINATION, FIELD_ETHERTYPE, FIELD_VLAN, QUEUES, RULES_MAX, Rule, Rules,
    TO_SOCKET,
};

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES, 0);
#[map]
static RULES: Array<Rules> = Array::with_max_entries(QUEUES, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(QUEUES, 0);

/// Bytes of an Ethernet header, of a VLAN tag.
const ETHERNET: usize = 14;
const TAG: usize = 4;
/// EtherTypes that announce a VLAN tag: 802.1Q, 802.1ad.
const TAGGED: [u16; 2] = [0x8100, 0x88a8];

#[xdp]
pub fn weir_xdp(context: XdpContext) -> u32 {
    // SAFETY: the kernel gives the program a valid `xdp_md`.
    let queue = unsafe { (*context.ctx).rx_queue_index };
    let Some(rules) = RULES.get(queue) else { return XDP_PASS };
    let action = decide(&context, rules);
    let counts = COUNTS.get_ptr_mut(queue);
    let (result, place) = if action == TO_SOCKET {
        // The lower bits are what it returns when there is no socket.
        match SOCKETS.redirect(queue, u64::from(XDP_PASS)) {
            Ok(redirect) => (redirect, Place::Redirected),
            Err(pass) => (pass, Place::NoSocket),
        }
    } else {
        (XDP_PASS, Place::Unclaimed)
    };
    if let Some(counts) = counts {
        // SAFETY: an element of a per-CPU map is this CPU's alone while the program runs on it.
        let counts = unsafe { &mut *counts };
        match place {
            Place::Redirected => counts.redirected += 1,
            Place::NoSocket => counts.no_socket += 1,
            Place::Unclaimed => counts.unclaimed += 1,
        }
    }
    debug_assert!(result == XDP_PASS || result == XDP_REDIRECT);
    result
}

enum Place {
    Redirected,
    NoSocket,
    Unclaimed,
}

/// The action of the first rule that matches.
#[inline(always)]
fn decide(context: &XdpContext, rules: &Rules) -> u16 {
    if rules.count == 0 {
        return rules.otherwise;
    }
    let Some(frame) = Frame::parse(context) else { return rules.otherwise };
    for n in 0..RULES_MAX {
        if n >= usize::from(rules.count) {
            break;
        }
        if frame.matches(&rules.rules[n]) {
            return rules.rules[n].action;
        }
    }
    rules.otherwise
}

/// What rules look at.
struct Frame {
    destination: [u8; 6],
    /// `u16::MAX` without a tag.
    vlan: u16,
    ethertype: u16,
}

impl Frame {
    #[inline(always)]
    fn parse(context: &XdpContext) -> Option<Self> {
        let destination = read::<[u8; 6]>(context, 0)?;
        let mut ethertype = u16::from_be_bytes(read(context, ETHERNET - 2)?);
        let mut vlan = u16::MAX;
        if TAGGED.contains(&ethertype) {
            vlan = u16::from_be_bytes(read(context, ETHERNET)?) & 0xfff;
            ethertype = u16::from_be_bytes(read(context, ETHERNET + 2)?);
            if TAGGED.contains(&ethertype) {
                ethertype = u16::from_be_bytes(read(context, ETHERNET + TAG + 2)?);
            }
        }
        Some(Self { destination, vlan, ethertype })
    }

    #[inline(always)]
    fn matches(&self, rule: &Rule) -> bool {
        let fields = rule.fields;
        (fields & FIELD_ETHERTYPE == 0 || rule.ethertype == self.ethertype)
            && (fields & FIELD_VLAN == 0 || rule.vlan == self.vlan)
            && (fields & FIELD_DESTINATION == 0 || rule.destination == self.destination)
    }
}

/// Bytes of the packet, if it is long enough.
#[inline(always)]
fn read<T: Copy>(context: &XdpContext, offset: usize) -> Option<T> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: within the packet, as was just checked (and the verifier checks again); T is an array of bytes.
    Some(unsafe { (start as *const T).read_unaligned() })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
