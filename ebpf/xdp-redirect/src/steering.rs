//! Steering: which packets never come to the socket.
//!
//! Flows that functions have moved, and behind them tuple space search over the queue's table, with
//! a cache in front of it. All that is found says when it was made, so that one word makes it void
//! at once.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, xdp_md};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::XdpContext;
use weir_xdp_layout::{
    Entry, FLOWS_MAX, Fields, PLACED_MAX, PLACES, Placing, QUEUES, Steering, TABLE_MAX, TO_SOCKET,
    TUPLES_MAX, Tuple, cell, decision_of, place_of, placed_by, placement_of, tuples_at, verdict,
    verdict_of,
};

use crate::fields::{self, Key};

/// No action: no function has moved the flow.
const NOT_MOVED: u16 = u16::MAX;

#[map]
static STEERING: Array<[u64; 2]> = Array::with_max_entries(PLACES, 0);
#[map]
static TUPLES: Array<[Tuple; TUPLES_MAX]> = Array::with_max_entries(QUEUES * 2, 0);
#[map]
static TABLE: HashMap<[u64; 8], Entry> = HashMap::with_max_entries(TABLE_MAX, BPF_F_NO_PREALLOC);
#[map]
static PLACED: LruHashMap<Fields, u64> = LruHashMap::with_max_entries(PLACED_MAX, 0);
#[map]
static FLOWS: LruHashMap<Fields, u64> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

/// What is in force at a queue.
#[derive(Clone, Copy)]
pub struct InForce {
    /// The queue whose rules, and whose list of tuples, are.
    pub queue: u32,
    now: Steering,
    placing: Placing,
}

/// What is in force at a receive queue.
#[inline(always)]
pub fn in_force(queue: u32) -> Option<InForce> {
    let place = place_of(queue);
    let words: *const u64 = STEERING.get_ptr(place)?.cast();
    // SAFETY: the element is two words, aligned. Each is read once: who changes one while this
    // packet is decided changes nothing for it.
    let (now, placing) = unsafe { (words.read_volatile(), words.add(1).read_volatile()) };
    let now = Steering::of(now);
    let queue = now.of.map_or(place, u32::from);
    Some(InForce { queue, now, placing: Placing::of(placing) })
}

/// The action for a packet that the queue claims.
#[inline(always)]
pub fn decide(context: &XdpContext, queue: u32, in_force: InForce) -> u16 {
    let InForce { queue: whose, now, placing } = in_force;
    if now.tuples == 0 && !placing.any {
        return TO_SOCKET;
    }
    let mut key = Key::default();
    let Some(payload) = fields::read_into(&mut key, context, queue) else { return TO_SOCKET };
    key.forget();
    if placing.any {
        let taken = key.make_plain(placing.first);
        // An error goes with the flow that it quotes; its own key is that of all ICMP between the
        // two.
        if let Some(error) = fields::error(context, &key, payload) {
            let action = moved_with_quoted(context.ctx, error, key.ethertype, key.vlan, key.port);
            if action != NOT_MOVED {
                return action;
            }
        }
        let action = moved(&key);
        if action != NOT_MOVED {
            return action;
        }
        key.restore(taken);
        key.forget();
    }
    if now.tuples == 0 {
        return TO_SOCKET;
    }
    let fields = key.words();
    if let Some(action) = known(fields, now.generation) {
        return action;
    }
    let action = search(fields, whose, now);
    // Without room it is searched again.
    let _ = FLOWS.insert(fields, verdict(fields, now.generation, action), 0);
    action
}

/// Where a function has moved this flow, at whichever queue of the port; or [`NOT_MOVED`]. The key
/// is plain.
#[inline(always)]
fn moved(key: &Key) -> u16 {
    let fields = key.words();
    let Some(place) = PLACED.get_ptr(fields) else { return NOT_MOVED };
    // SAFETY: one word, read once. Should it be another flow's by now, its trace is another.
    let word = unsafe { place.read_volatile() };
    let Some([_, placing]) = STEERING.get(placed_by(word)) else { return NOT_MOVED };
    placement_of(word, fields, Placing::of(*placing).number).unwrap_or(NOT_MOVED)
}

/// The same of the flow that the ICMP error in the packet quotes. A function of its own, in the
/// kernel too: a stack has no room for two keys.
#[inline(never)]
fn moved_with_quoted(
    context: *mut xdp_md,
    error: usize,
    ethertype: u16,
    vlan: u16,
    port: u16,
) -> u16 {
    let context = XdpContext::new(context);
    let mut key = Key::new(ethertype, vlan, port);
    match fields::read_quoted(&mut key, &context, error) {
        Some(()) => {
            key.make_plain(port as u8);
            key.forget();
            moved(&key)
        }
        None => NOT_MOVED,
    }
}

/// What was decided for this flow under this table.
#[inline(always)]
fn known(fields: &Fields, generation: u32) -> Option<u16> {
    // SAFETY: one word, read once. Should it be another flow's by now, its trace is another.
    let word = unsafe { FLOWS.get_ptr(fields)?.read_volatile() };
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
        let mut key = cell(*fields, now.generation, n as u32);
        for (word, mask) in key.iter_mut().zip(&tuple[..fields.len()]) {
            *word &= mask;
        }
        let Some(entry) = TABLE.get_ptr_mut(key) else { continue };
        // SAFETY: entries go only when no program reads their table any more.
        let (number, its) = decision_of(unsafe { (*entry)[0] });
        if number < first {
            (first, action, found) = (number, its, Some(entry));
        }
    }
    if let Some(entry) = found {
        // SAFETY: as above, and a word of a map is aligned. A queue's packets may come on several
        // CPUs at once, which add one after the other. (The target has no compare-and-swap before
        // its third version, so that `AtomicU64` has no `fetch_add`.)
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*entry)[1], 1) };
    }
    action
}
