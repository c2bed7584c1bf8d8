//! What the XDP program `xdp-redirect` and the host both know: the names of its maps, and the plain
//! data in them.
//!
//! Owns: the layout of rules, of steering tables and of counts. Must not know: how either side
//! reads or writes them.

#![no_std]
#![forbid(unsafe_code)]

mod steering;

use core::ops::{AddAssign, Sub};

pub use steering::{
    Entry, FLOWS, FLOWS_MAX, Fields, PLACED, PLACED_MAX, Placing, STEERING, Steering, TABLE,
    TABLE_MAX, TUPLES, TUPLES_MAX, Tuple, cell, decision, decision_of, placed_by, placement,
    placement_of, tuples_at, verdict, verdict_of,
};

/// Name of the program in its object file.
pub const PROGRAM: &str = "weir_xdp";
/// Name of the map of AF_XDP sockets, by receive queue.
pub const SOCKETS: &str = "SOCKETS";
/// Name of the map of [`Rules`], by [`place_of`].
pub const RULES: &str = "RULES";
/// Name of the map of [`Counts`], by [`place_of`], for each CPU.
pub const COUNTS: &str = "COUNTS";

/// Receive queues of an interface that can have rules and a socket.
pub const QUEUES: u32 = 64;
/// Places in maps for what each queue has: all queues behind those share the last.
pub const PLACES: u32 = QUEUES + 1;
/// Rules of a queue at most.
pub const RULES_MAX: usize = 16;

/// [`Rule::fields`]: the EtherType has to be equal.
pub const FIELD_ETHERTYPE: u16 = 1;
/// [`Rule::fields`]: the outer VLAN's number has to be equal.
pub const FIELD_VLAN: u16 = 1 << 1;
/// [`Rule::fields`]: the destination's MAC address has to be equal.
pub const FIELD_DESTINATION: u16 = 1 << 2;

/// [`Rules::otherwise`] and [`Rule::action`]: the packet goes on to the kernel's network stack.
pub const TO_KERNEL: u16 = 0;
/// [`Rules::otherwise`] and [`Rule::action`]: the packet goes to the queue's socket, if steering
/// has nothing against it.
pub const TO_SOCKET: u16 = 1;
/// An action of steering only: the packet goes nowhere.
pub const TO_NOWHERE: u16 = 2;

/// The place of what a receive queue has.
#[must_use]
#[inline(always)]
pub const fn place_of(queue: u32) -> u32 {
    if queue < QUEUES { queue } else { QUEUES }
}

/// What is done with packets that look so. All named fields have to be equal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Which of the fields below count.
    pub fields: u16,
    /// What is done.
    pub action: u16,
    /// The EtherType behind the VLAN tags (at most two), in the host's byte order.
    pub ethertype: u16,
    /// The outer VLAN's number, 0 to 4095; packets without a tag match no number.
    pub vlan: u16,
    /// The destination's MAC address.
    pub destination: [u8; 6],
    /// Zero.
    pub unused: u16,
}

/// The rules of a queue: the first that matches decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How many there are.
    pub count: u16,
    /// What is done with packets that none matches.
    pub otherwise: u16,
    /// The rules.
    pub rules: [Rule; RULES_MAX],
}

/// What became of a queue's packets, as one CPU saw them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to the socket. The socket counts what it could not take.
    pub redirected: u64,
    /// Left to the kernel, as a rule says.
    pub unclaimed: u64,
    /// Left to the kernel, because the queue has no socket.
    pub no_socket: u64,
    /// Left to the kernel, as steering says.
    pub steered: u64,
    /// Dropped, as steering says.
    pub dropped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.redirected += more.redirected;
        self.unclaimed += more.unclaimed;
        self.no_socket += more.no_socket;
        self.steered += more.steered;
        self.dropped += more.dropped;
    }
}

/// Since an earlier look at the same counters.
impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            redirected: self.redirected.saturating_sub(before.redirected),
            unclaimed: self.unclaimed.saturating_sub(before.unclaimed),
            no_socket: self.no_socket.saturating_sub(before.no_socket),
            steered: self.steered.saturating_sub(before.steered),
            dropped: self.dropped.saturating_sub(before.dropped),
        }
    }
}

/// Words of [`Counts`] in the map, in its order.
pub const COUNTS_WORDS: usize = size_of::<Counts>() / size_of::<u64>();

/// Words of [`Rules`] in the map.
pub const RULES_WORDS: usize = size_of::<Rules>() / size_of::<u16>();

impl Rules {
    /// As they lie in the map: words in the machine's byte order.
    #[must_use]
    pub fn words(&self) -> [u16; RULES_WORDS] {
        let mut words = [0; RULES_WORDS];
        words[0] = self.count;
        words[1] = self.otherwise;
        for (rule, words) in self.rules.iter().zip(words[2..].chunks_exact_mut(8)) {
            let [a, b, c, d, e, f] = rule.destination;
            words.copy_from_slice(&[
                rule.fields,
                rule.action,
                rule.ethertype,
                rule.vlan,
                u16::from_ne_bytes([a, b]),
                u16::from_ne_bytes([c, d]),
                u16::from_ne_bytes([e, f]),
                rule.unused,
            ]);
        }
        words
    }
}
