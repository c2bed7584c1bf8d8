//! Steering: which packets never come to the socket.
//!
//! Tuple space search over the queue's table, with two caches of flows in front of it. All that is found says under which
//! table it was made, so that another table makes it void at once.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::{
    Entry, FLOWS_MAX, Fields, QUEUES, Steering, TABLE_MAX, TO_SOCKET, TUPLES_MAX, Tuple, cell,
    decision_of, tuples_at, verdict, verdict_of,
};

use crate::fields;

#[map]
static STEERING: Array<u64> = Array::with_max_entries(QUEUES, 0);
#[map]
static TUPLES: Array<[Tuple; TUPLES_MAX]> = Array::with_max_entries(QUEUES * 2, 0);
#[map]
static TABLE: HashMap<[u64; 8], Entry> = HashMap::with_max_entries(TABLE_MAX, BPF_F_NO_PREALLOC);
#[map]
static PLACED: LruHashMap<Fields, u64> = LruHashMap::with_max_entries(FLOWS_MAX, 0);
#[map]
static FLOWS: LruHashMap<Fields, u64> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

/// The action for a packet that the queue claims.
#[inline(always)]
pub fn decide(context: &XdpContext, queue: u32) -> u16 {
    let Some(word) = STEERING.get(queue) else { return TO_SOCKET };
    let now = Steering::of(*word);
    if now.generation == 0 {
        return TO_SOCKET;
    }
    let Some(fields) = fields::of(context, queue) else { return TO_SOCKET };
    if let Some(action) = known(&PLACED, &fields, now.generation) {
        return action;
    }
    if now.tuples == 0 {
        return TO_SOCKET;
    }
    if let Some(action) = known(&FLOWS, &fields, now.generation) {
        return action;
    }
    let action = search(&fields, queue, now);
    // Without room it is searched again.
    let _ = FLOWS.insert(&fields, verdict(&fields, now.generation, action), 0);
    action
}

/// What was decided for this flow under this table.
#[inline(always)]
fn known(flows: &LruHashMap<Fields, u64>, fields: &Fields, generation: u32) -> Option<u16> {
    // SAFETY: one word, read once. Should it be another flow's by now, its trace is another.
    let word = unsafe { flows.get_ptr(fields)?.read_volatile() };
    verdict_of(word, fields, generation)
}

/// The action of the first rule that means the packet.
#[inline(always)]
fn search(fields: &Fields, queue: u32, now: Steering) -> u16 {
    let Some(tuples) = TUPLES.get(tuples_at(queue, now.list)) else { return TO_SOCKET };
    let (mut first, mut action, mut found) = (u32::MAX, TO_SOCKET, None);
    for n in 0..TUPLES_MAX {
        let tuple = &tuples[n];
        // In the order of their first rule.
        if n >= usize::from(now.tuples) || tuple[7] >= u64::from(first) {
            break;
        }
        let mut masked = *fields;
        for (word, mask) in masked.iter_mut().zip(tuple) {
            *word &= mask;
        }
        let key = cell(masked, now.generation, n as u32);
        let Some(entry) = TABLE.get_ptr_mut(key) else { continue };
        // SAFETY: entries go only when no program reads their table any more.
        let (number, its) = decision_of(unsafe { (*entry)[0] });
        if number < first {
            (first, action, found) = (number, its, Some(entry));
        }
    }
    if let Some(entry) = found {
        // SAFETY: as above, and a word of a map is aligned. A queue's packets may come on several CPUs at once, which add one after the
        // other. (The target has no compare-and-swap before its third version, so that `AtomicU64` has no `fetch_add`.)
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*entry)[1], 1) };
    }
    action
}
