//! Steering in the XDP program: a table of rules by tuple space search (docs/adr/0012-steering.md),
//! and two caches of flows in front of it. Everything in the maps is words, so that both sides need
//! no unsafe code to make them.
//!
//! A queue without a port may be steered as another one is, by that one's table: so what rules drop
//! is dropped at all queues.

/// Name of the map of [`Steering`] and [`Placing`], by [`place_of`](crate::place_of): a word of
/// each, whose exchange puts another table in force, and makes placed flows void.
pub const STEERING: &str = "STEERING";
/// Name of the map of lists of [`Tuple`]s, by [`tuples_at`].
pub const TUPLES: &str = "TUPLES";
/// Name of the map of rules: a [`cell`] to an [`Entry`].
pub const TABLE: &str = "TABLE";
/// Name of the map of flows that a function has moved: [`Fields`] without code point and, of IP,
/// hardware addresses, and with the number of the port's first queue, to a [`placement`].
pub const PLACED: &str = "PLACED";
/// Name of the map of flows that the table has decided: [`Fields`] to a [`verdict`].
pub const FLOWS: &str = "FLOWS";

/// Different sets of fields that the rules of a queue look at, at most.
pub const TUPLES_MAX: usize = 64;
/// Entries of the table of an interface with one queue: rules in force, and as many that are to
/// replace them. The host makes it larger for more queues.
pub const TABLE_MAX: u32 = 1 << 18;
/// Entries of the cache of what the table has decided.
pub const FLOWS_MAX: u32 = 1 << 15;
/// Flows of an interface with one queue that functions have moved: twice as many as a worker has of
/// a port, because the kernel begins to reuse places before there is none. The host makes room for
/// more with more queues.
pub const PLACED_MAX: u32 = 1 << 16;

/// The fields of a packet that steering looks at, as the words of `weir_steering::Key`; its port is
/// the receive queue.
pub type Fields = [u64; 7];
/// What rules of one kind look at: a mask over the fields, and the number of the first of these
/// rules.
pub type Tuple = [u64; 8];

/// A rule in the map: its [`decision`], and how often the table was searched and this was found:
/// about once for each flow.
pub type Entry = [u64; 2];

/// What steers a queue now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Which of all tables there were; 0: none.
    pub generation: u32,
    /// Its tuples; 0: it has no rules.
    pub tuples: u8,
    /// Which of the queue's two lists of tuples is its.
    pub list: u8,
    /// The queue whose table and rules these are; none: the queue's own.
    pub of: Option<u8>,
}

impl Steering {
    /// As it lies in the map.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u64 {
        let of = match self.of {
            None => 0,
            Some(queue) => queue as u64 + 1,
        };
        self.generation as u64 | (self.tuples as u64) << 32 | (self.list as u64) << 40 | of << 48
    }

    /// From the map.
    #[must_use]
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        let of = match (word >> 48) as u8 {
            0 => None,
            queue => Some(queue - 1),
        };
        let (tuples, list) = ((word >> 32) as u8, (word >> 40) as u8 & 1);
        Self { generation: word as u32, tuples, list, of }
    }
}

/// Which moved flows count for a queue now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// Of those that this queue's worker has placed: what they are numbered with. Others are void.
    pub number: u32,
    /// The first queue of the port that this one belongs to: all of them know each other's flows.
    pub first: u8,
    /// Whether there may be any.
    pub any: bool,
}

impl Placing {
    /// As it lies in the map.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.number as u64 | (self.first as u64) << 32 | (self.any as u64) << 40
    }

    /// From the map.
    #[must_use]
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        Self { number: word as u32, first: (word >> 32) as u8, any: word >> 40 & 1 != 0 }
    }
}

/// Where a queue's list of tuples lies.
#[must_use]
#[inline(always)]
pub const fn tuples_at(queue: u32, list: u8) -> u32 {
    queue * 2 + list as u32
}

/// Key of a rule: the fields that its tuple looks at, and which table and tuple it belongs to.
#[must_use]
#[inline(always)]
pub const fn cell(fields: Fields, generation: u32, tuple: u32) -> [u64; 8] {
    let [a, b, c, d, e, f, g] = fields;
    [a, b, c, d, e, f, g, generation as u64 | (tuple as u64) << 32]
}

/// What a rule says: its number (the least wins), and its action.
#[must_use]
#[inline(always)]
pub const fn decision(number: u32, action: u16) -> u64 {
    number as u64 | (action as u64) << 32
}

/// Number and action.
#[must_use]
#[inline(always)]
pub const fn decision_of(word: u64) -> (u32, u16) {
    (word as u32, (word >> 32) as u16)
}

/// What was decided for a flow, under which table. It carries a trace of the flow: the kernel may
/// give the place of an entry to another flow while it is read.
#[must_use]
#[inline(always)]
pub const fn verdict(fields: &Fields, generation: u32, action: u16) -> u64 {
    generation as u64 | (action as u64 & 0xff) << 32 | trace(fields) << 40
}

/// The action, if this was decided for this flow and under this table.
#[must_use]
#[inline(always)]
pub const fn verdict_of(word: u64, fields: &Fields, generation: u32) -> Option<u16> {
    let action = (word >> 32) as u16 & 0xff;
    if word == verdict(fields, generation, action) { Some(action) } else { None }
}

/// Where a flow was moved, and by which queue's worker when that had which number. It carries a
/// trace, as a [`verdict`] does.
#[must_use]
#[inline(always)]
pub const fn placement(fields: &Fields, number: u32, queue: u32, action: u16) -> u64 {
    number as u64 | (action as u64 & 3) << 32 | (queue as u64 & 63) << 34 | trace(fields) << 40
}

/// The queue whose worker placed it.
#[must_use]
#[inline(always)]
pub const fn placed_by(word: u64) -> u32 {
    (word >> 34) as u32 & 63
}

/// The action, if this was placed for this flow, and that queue has this number.
#[must_use]
#[inline(always)]
pub const fn placement_of(word: u64, fields: &Fields, number: u32) -> Option<u16> {
    let action = (word >> 32) as u16 & 3;
    if word == placement(fields, number, placed_by(word), action) { Some(action) } else { None }
}

/// 24 bits of a hash.
#[inline(always)]
const fn trace(fields: &Fields) -> u64 {
    let [a, b, c, d, e, f, g] = *fields;
    let mut mixed = a ^ b.rotate_left(9) ^ c.rotate_left(18) ^ d.rotate_left(27);
    mixed ^= e.rotate_left(36) ^ f.rotate_left(45) ^ g.rotate_left(54);
    mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> 40
}
