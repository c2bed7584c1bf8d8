//! The least that forwarding in XDP can be: every frame goes to the interface that belongs to the
//! one it came in by. For `scripts/bench xdp_forward`, which compares ports with it; the host does
//! not have it.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::DevMapHash;
use aya_ebpf::programs::XdpContext;

/// Numbers of interfaces: of the one, the other.
#[map]
static OTHER: DevMapHash = DevMapHash::with_max_entries(2, 0);

#[xdp]
pub fn wire(context: XdpContext) -> u32 {
    // SAFETY: the kernel gives the program a valid `xdp_md`.
    let from = unsafe { (*context.ctx).ingress_ifindex };
    match OTHER.redirect(from, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
