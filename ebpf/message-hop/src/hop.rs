//! The `sk_msg` program: runs in the sender's `sendmsg`, decides by who the sender is and what its
//! first descriptor says.

use core::ptr;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{bpf_msg_pull_data, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, map, sk_msg};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, SockHash};
use aya_ebpf::programs::SkMsgContext;
use weir_hop_layout::{
    BATCH, Counts, DESCRIPTOR, Descriptor, ENDS_MAX, End, GRANTS, KIND_GRANT, ROLE_GATEWAY,
    ROLE_WORKER, ROUTES_MAX, WINDOW,
};

#[map]
static SOCKETS: SockHash<u32> = SockHash::with_max_entries(ENDS_MAX, 0);
#[btf_map]
static KEYS: SkStorage<u32> = SkStorage::new();
#[map]
static ENDS: Array<End> = Array::with_max_entries(ENDS_MAX, 0);
#[map]
static ROUTES: HashMap<u32, u32> = HashMap::with_max_entries(ROUTES_MAX, BPF_F_NO_PREALLOC);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(ENDS_MAX, 0);

#[sk_msg]
pub fn weir_hop(context: SkMsgContext) -> u32 {
    let Some(key) = key(&context) else { return SK_DROP };
    let Some(counts) = COUNTS.get_ptr_mut(key) else { return SK_DROP };
    // SAFETY: an element of a per-CPU map is this CPU's alone while the program runs on it.
    let counts = unsafe { &mut *counts };
    let Some(end) = ENDS.get_ptr_mut(key) else { return SK_DROP };
    let size = context.size();
    let Some(first) = first(&context, size) else {
        counts.malformed += 1;
        return SK_DROP;
    };
    let descriptors = size / DESCRIPTOR as u32;
    // SAFETY: an element of an array map is there as long as the program runs. `sent` and `granted`
    // change under the lock of one socket each: that of the worker and that of its gateway.
    let (role, peer) = unsafe { ((*end).role, (*end).peer) };
    let to = match role {
        ROLE_WORKER => {
            // SAFETY: as above.
            let end = unsafe { &mut *end };
            if u32::from(first.hop) != end.hop {
                counts.refused += 1;
                return SK_DROP;
            }
            if u32::from(first.generation) != end.generation {
                counts.stale += 1;
                return SK_DROP;
            }
            let under_way = end.sent.wrapping_sub(end.granted);
            if under_way + u64::from(descriptors) > u64::from(WINDOW + GRANTS) {
                counts.flooded += 1;
                return SK_DROP;
            }
            end.sent += u64::from(descriptors);
            peer
        }
        ROLE_GATEWAY => {
            // SAFETY: the number is read once, in one piece; the host writes entries in one piece
            // too.
            let Some(&to) = (unsafe { ROUTES.get(u32::from(first.hop)) }) else {
                counts.no_route += 1;
                return SK_DROP;
            };
            let Some(worker) = ENDS.get_ptr_mut(to) else { return SK_DROP };
            // SAFETY: as above.
            let worker = unsafe { &mut *worker };
            if u32::from(first.generation) != worker.generation {
                counts.stale += 1;
                return SK_DROP;
            }
            // Only the gateway of this very worker, or else another's grant would be counted here.
            if first.kind == KIND_GRANT && to == peer {
                worker.granted += u64::from(first.length);
            }
            to
        }
        _ => {
            counts.refused += 1;
            return SK_DROP;
        }
    };
    if SOCKETS.redirect_msg(&context, to, u64::from(BPF_F_INGRESS)) != i64::from(SK_PASS) {
        counts.no_route += 1;
        return SK_DROP;
    }
    counts.messages += 1;
    counts.descriptors += u64::from(descriptors);
    counts.bytes += u64::from(size);
    SK_PASS
}

/// The key of the sending socket, which the host wrote at the socket itself.
#[inline(always)]
fn key(context: &SkMsgContext) -> Option<u32> {
    // SAFETY: the kernel gives the program a valid `sk_msg_md`, whose `sk` is the sender; the
    // helper takes both as they are.
    let key = unsafe {
        let socket = (*context.msg).__bindgen_anon_3.sk;
        let map = ptr::from_ref(&KEYS).cast_mut();
        bpf_sk_storage_get(map.cast(), socket.cast(), ptr::null_mut(), 0).cast::<u32>()
    };
    // SAFETY: what is not null is a storage that lives as long as the program runs.
    (!key.is_null()).then(|| unsafe { *key })
}

/// The first descriptor, if the message is one to [`BATCH`] whole descriptors.
#[inline(always)]
fn first(context: &SkMsgContext, size: u32) -> Option<Descriptor> {
    if size == 0 || size as usize % DESCRIPTOR != 0 || size as usize > BATCH * DESCRIPTOR {
        return None;
    }
    if context.data() + DESCRIPTOR > context.data_end() {
        // SAFETY: the helper takes the context as it is.
        if unsafe { bpf_msg_pull_data(context.msg, 0, DESCRIPTOR as u32, 0) } != 0 {
            return None;
        }
    }
    let data = context.data();
    if data + DESCRIPTOR > context.data_end() {
        return None;
    }
    // SAFETY: these bytes lie before the message's end.
    Some(Descriptor::from_bytes(unsafe { ptr::read_unaligned(data as *const [u8; DESCRIPTOR]) }))
}
