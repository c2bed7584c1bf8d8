//! The XDP program of `xdp` ports: packets that the rules of their receive queue claim, and that
//! steering does not give to the kernel or drops, go to the queue's AF_XDP socket, all others on to
//! the kernel's network stack, as if the program were not there.
//!
//! Fails open: a queue without rules, without a socket (a port that nobody reads, a host that
//! crashed), or packets too short to be looked at, are left to the kernel. So nothing is lost while
//! ports are opened and closed. What steering cannot decide here goes to the socket: whoever reads
//! that knows all rules. A queue without a port may have the rules and the steering of one that a
//! port has: what is dropped there is dropped here, and what is for that one's socket goes to the
//! kernel.

#![no_std]
// Additions that are atomic in the kernel's sense; built by a compiler that allows it anyway
// (scripts/build-ebpf).
#![allow(internal_features, reason = "`core_intrinsics` is one")]
#![feature(core_intrinsics)]
#![no_main]

mod fields;
mod packet;
mod steering;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::{
    Counts, FIELD_DESTINATION, FIELD_ETHERTYPE, FIELD_VLAN, PLACES, QUEUES, RULES_MAX, Rule, Rules,
    TO_NOWHERE, TO_SOCKET, place_of,
};

use packet::Ethernet;

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES, 0);
#[map]
static RULES: Array<Rules> = Array::with_max_entries(PLACES, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(PLACES, 0);

#[xdp]
pub fn weir_xdp(context: XdpContext) -> u32 {
    // SAFETY: the kernel gives the program a valid `xdp_md`.
    let queue = unsafe { (*context.ctx).rx_queue_index };
    let Some(in_force) = steering::in_force(queue) else { return XDP_PASS };
    let Some(rules) = RULES.get(in_force.queue) else { return XDP_PASS };
    let Some(counts) = COUNTS.get_ptr_mut(place_of(queue)) else { return XDP_PASS };
    // SAFETY: other CPUs do not have this element. On kernels with PREEMPT_RT another packet's run
    // may come between on this CPU, whose increment is then lost: these are counts, of which any
    // value is one.
    let counts = unsafe { &mut *counts };
    if claimed(&context, rules) != TO_SOCKET {
        counts.unclaimed += 1;
        return XDP_PASS;
    }
    match steering::decide(&context, queue, in_force) {
        TO_SOCKET => {}
        TO_NOWHERE => {
            counts.dropped += 1;
            return XDP_DROP;
        }
        _ => {
            counts.steered += 1;
            return XDP_PASS;
        }
    }
    // The lower bits are what it returns when there is no socket.
    match SOCKETS.redirect(queue, u64::from(XDP_PASS)) {
        Ok(redirect) => {
            counts.redirected += 1;
            redirect
        }
        Err(pass) => {
            counts.no_socket += 1;
            pass
        }
    }
}

/// The action of the first rule that matches.
#[inline(always)]
fn claimed(context: &XdpContext, rules: &Rules) -> u16 {
    if rules.count == 0 {
        return rules.otherwise;
    }
    let Some(frame) = Ethernet::parse(context) else { return rules.otherwise };
    for n in 0..RULES_MAX {
        if n >= usize::from(rules.count) {
            break;
        }
        if matches(&frame, &rules.rules[n]) {
            return rules.rules[n].action;
        }
    }
    rules.otherwise
}

#[inline(always)]
fn matches(frame: &Ethernet, rule: &Rule) -> bool {
    let fields = rule.fields;
    (fields & FIELD_ETHERTYPE == 0 || rule.ethertype == frame.ethertype)
        && (fields & FIELD_VLAN == 0 || rule.vlan == frame.vlan)
        && (fields & FIELD_DESTINATION == 0 || rule.destination == frame.macs[0])
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
