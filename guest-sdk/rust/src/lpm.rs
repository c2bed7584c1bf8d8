//! Longest prefix match over IPv4 and IPv6.
//!
//! Owns: a table from prefixes to numbers, built at once and then only read. Must not know: what
//! the numbers mean, how prefixes are written.
//!
//! The table is a Poptrie (Asai and Ohara, "Poptrie: A Compressed Trie with Population Count for
//! Fast and Scalable Software IP Routing Table Lookup", SIGCOMM 2015): the first 18 bits of an IPv4
//! address (16 of IPv6) index an array; what is longer hangs below in nodes of 64 children, that
//! say by two bitmaps which children are nodes and where a new value begins. A /24 takes two loads
//! and a population count, and a hundred thousand of them a few megabytes.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use weir_sdk::lpm::Lpm;
//!
//! let address = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
//! let table = Lpm::build([
//!     (address("0.0.0.0"), 0, 1),
//!     (address("10.0.0.0"), 8, 2),
//!     (address("10.1.0.0"), 16, 3),
//! ])?;
//! assert_eq!(table.lookup(address("10.1.2.3")), Some(3));
//! assert_eq!(table.lookup(address("10.2.2.3")), Some(2));
//! assert_eq!(table.lookup(address("192.0.2.1")), Some(1));
//! # Ok::<(), weir_sdk::lpm::Error>(())
//! ```

use std::fmt;

/// Bits that a node decides.
const STRIDE: u32 = 6;
const CHILDREN: usize = 1 << STRIDE;
/// In the array: this is a value and not a node.
const VALUE: u32 = 1 << 31;
/// Stands for no value; values are stored plus one.
const NONE: u32 = 0;
/// Largest number that a prefix can lead to.
pub const VALUE_MAX: u32 = VALUE - 2;

/// An address: `u32` for IPv4, `u128` for IPv6.
pub trait Address: Copy + Ord + sealed::Sealed {
    /// Bits of an address.
    const BITS: u32;
    /// Leading bits that the array decides.
    #[doc(hidden)]
    const DIRECT: u32;
    /// The leading bits.
    #[doc(hidden)]
    fn direct(self) -> usize;
    /// Six bits from this one on, counted from the most significant; zeros behind the last.
    #[doc(hidden)]
    fn chunk(self, at: u32) -> usize;
    /// Only so many leading bits.
    #[doc(hidden)]
    fn masked(self, bits: u32) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u128 {}
}

impl Address for u32 {
    const BITS: u32 = 32;
    const DIRECT: u32 = 18;

    #[inline]
    fn direct(self) -> usize {
        (self >> (Self::BITS - Self::DIRECT)) as usize
    }

    #[inline]
    fn chunk(self, at: u32) -> usize {
        (self.wrapping_shl(at) >> (Self::BITS - STRIDE)) as usize
    }

    fn masked(self, bits: u32) -> Self {
        self & Self::MAX.checked_shl(Self::BITS - bits).unwrap_or(0)
    }
}

impl Address for u128 {
    const BITS: u32 = 128;
    /// So that no six bits lie in both halves.
    const DIRECT: u32 = 16;

    #[inline]
    fn direct(self) -> usize {
        (self >> (Self::BITS - Self::DIRECT)) as usize
    }

    #[inline]
    fn chunk(self, at: u32) -> usize {
        let half = if at < 64 { (self >> 64) as u64 } else { self as u64 };
        (half.wrapping_shl(at) >> (64 - STRIDE)) as usize
    }

    fn masked(self, bits: u32) -> Self {
        self & Self::MAX.checked_shl(Self::BITS - bits).unwrap_or(0)
    }
}

/// A prefix that cannot be in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is longer than an address.
    Length {
        /// The length given.
        length: u8,
        /// The most there is.
        most: u32,
    },
    /// Its number is above [`VALUE_MAX`].
    Value(u32),
    /// The table would need more than 2³¹ nodes or values.
    TooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { length, most } => {
                write!(f, "a prefix of {length} bits; an address has {most}")
            }
            Self::Value(value) => write!(f, "the number {value} is above {VALUE_MAX}"),
            Self::TooLarge => f.write_str("more prefixes than a table can hold"),
        }
    }
}

impl std::error::Error for Error {}

/// Below the array: decides six bits.
#[derive(Clone, Copy, Default)]
struct Node {
    /// Bit per child: it is a node.
    inner: u64,
    /// Bit per child that is a value: it is another one than that of the child before it.
    changes: u64,
    /// Place of the first child that is a node.
    nodes: u32,
    /// Place of the first value.
    values: u32,
}

/// A table from prefixes to numbers.
#[derive(Clone)]
pub struct Lpm<A> {
    direct: Box<[u32]>,
    nodes: Vec<Node>,
    values: Vec<u32>,
    _address: std::marker::PhantomData<A>,
}

impl<A: Address> Lpm<A> {
    /// A table of prefixes, each with its address, length and number. Bits behind the length do not
    /// count; of two equal prefixes the later one does.
    ///
    /// # Errors
    /// What is wrong with the first prefix that cannot be in a table.
    pub fn build(prefixes: impl IntoIterator<Item = (A, u8, u32)>) -> Result<Self, Error> {
        let mut sorted = Vec::new();
        for (address, length, value) in prefixes {
            if u32::from(length) > A::BITS {
                return Err(Error::Length { length, most: A::BITS });
            }
            if value > VALUE_MAX {
                return Err(Error::Value(value));
            }
            sorted.push((address.masked(length.into()), u32::from(length), value + 1));
        }
        sorted.sort_by_key(|&(address, length, _)| (address, length));
        let mut table = Self {
            direct: Box::default(),
            nodes: Vec::new(),
            values: Vec::new(),
            _address: std::marker::PhantomData,
        };
        let mut slots = vec![NONE; 1 << A::DIRECT];
        let below = spread(&sorted, 0, A::DIRECT, A::direct, &mut slots);
        for slot in &mut slots {
            *slot |= VALUE;
        }
        for (slot, range) in below {
            let inherited = slots[slot] & !VALUE;
            slots[slot] = table.reserve(1)?;
            table.fill(slots[slot], &sorted[range], A::DIRECT, inherited)?;
        }
        table.direct = slots.into();
        Ok(table)
    }

    /// The number of the longest prefix that this address begins with.
    #[must_use]
    #[inline(always)]
    pub fn lookup(&self, address: A) -> Option<u32> {
        let mut entry = self.direct[address.direct()];
        let mut at = A::DIRECT;
        while entry & VALUE == 0 {
            let node = &self.nodes[entry as usize];
            let child = address.chunk(at);
            // This child and those before it.
            let upto = u64::MAX >> (CHILDREN - 1 - child);
            if node.inner >> child & 1 == 0 {
                let value = node.values + (node.changes & upto).count_ones() - 1;
                entry = self.values[value as usize] | VALUE;
            } else {
                entry = node.nodes + (node.inner & upto).count_ones() - 1;
                at += STRIDE;
            }
        }
        (entry & !VALUE).checked_sub(1)
    }

    /// Bytes of the table.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.direct) + size_of_val(&*self.nodes) + size_of_val(&*self.values)
    }

    /// So many nodes, side by side.
    fn reserve(&mut self, count: usize) -> Result<u32, Error> {
        let first = u32::try_from(self.nodes.len()).map_err(|_| Error::TooLarge)?;
        self.nodes.resize(self.nodes.len() + count, Node::default());
        if self.nodes.len() < VALUE as usize { Ok(first) } else { Err(Error::TooLarge) }
    }

    /// Fills the node that decides the bits from `at` on. All prefixes begin with the bits that
    /// lead to it and are longer; `inherited` is the value of the longest one that is not.
    fn fill(
        &mut self,
        place: u32,
        prefixes: &[(A, u32, u32)],
        at: u32,
        inherited: u32,
    ) -> Result<(), Error> {
        let mut slots = [inherited; CHILDREN];
        let below = spread(prefixes, at, STRIDE, |address| address.chunk(at), &mut slots);
        let mut node = Node {
            nodes: self.reserve(below.len())?,
            values: u32::try_from(self.values.len()).map_err(|_| Error::TooLarge)?,
            ..Node::default()
        };
        for (child, _) in &below {
            node.inner |= 1 << child;
        }
        let mut last = None;
        for (child, value) in slots.iter().enumerate() {
            if node.inner >> child & 1 == 0 && last != Some(value) {
                node.changes |= 1 << child;
                self.values.push(*value);
                last = Some(value);
            }
        }
        self.nodes[place as usize] = node;
        for ((child, range), place) in below.into_iter().zip(node.nodes..) {
            self.fill(place, &prefixes[range], at + STRIDE, slots[child])?;
        }
        Ok(())
    }
}

/// Writes the values of those prefixes that end within the `bits` bits from `at` on into their
/// slots, and gives the ranges of longer ones, each with its slot. Prefixes are sorted by address
/// and then length, so that a longer one comes after those that it lies in, and the longer ones of
/// a slot side by side.
fn spread<A: Address>(
    prefixes: &[(A, u32, u32)],
    at: u32,
    bits: u32,
    slot_of: impl Fn(A) -> usize,
    slots: &mut [u32],
) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut below: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for (i, &(address, length, value)) in prefixes.iter().enumerate() {
        let slot = slot_of(address);
        if length <= at + bits {
            slots[slot..slot + (1 << (at + bits - length))].fill(value);
        } else {
            match below.last_mut() {
                Some((last, range)) if *last == slot => range.end = i + 1,
                _ => below.push((slot, i..i + 1)),
            }
        }
    }
    below
}

impl<A> fmt::Debug for Lpm<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lpm")
            .field("nodes", &self.nodes.len())
            .field("values", &self.values.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition.
    fn slow<A: Address>(prefixes: &[(A, u8, u32)], address: A) -> Option<u32> {
        let matching = prefixes.iter().filter(|(prefix, length, _)| {
            prefix.masked((*length).into()) == address.masked((*length).into())
        });
        matching.max_by_key(|(_, length, _)| *length).map(|(_, _, value)| *value)
    }

    fn check<A: Address>(prefixes: &[(A, u8, u32)], probes: impl Iterator<Item = A>) {
        let table = Lpm::build(prefixes.iter().copied()).unwrap();
        for probe in probes {
            assert_eq!(table.lookup(probe), slow(prefixes, probe));
        }
    }

    proptest! {
        /// Few different bits, so that prefixes lie in each other.
        #[test]
        fn v4_as_defined(
            prefixes in prop::collection::vec((any::<u32>(), 0_u8..=32, 0_u32..5), 0..60),
            probes in prop::collection::vec(any::<u32>(), 20), mask in any::<u32>(),
        ) {
            let prefixes: Vec<_> = prefixes.into_iter().map(|(a, l, v)| (a & mask, l, v)).collect();
            let near = prefixes.iter().flat_map(|(a, _, _)| [*a, a ^ 1, a.wrapping_sub(1), a ^ 0x4000, a | 0xff]);
            check(&prefixes, near.chain(probes).chain([0, u32::MAX]));
        }

        #[test]
        fn v6_as_defined(
            prefixes in prop::collection::vec((any::<u128>(), 0_u8..=128, 0_u32..5), 0..60),
            probes in prop::collection::vec(any::<u128>(), 20), mask in any::<u128>(), low in any::<bool>(),
        ) {
            let mask = if low { mask >> 100 << 3 } else { mask };
            let prefixes: Vec<_> = prefixes.into_iter().map(|(a, l, v)| (a & mask, l, v)).collect();
            let near = prefixes.iter().flat_map(|(a, _, _)| [*a, a ^ 1, a.wrapping_sub(1), a ^ (1 << 70), a | 0xffff]);
            check(&prefixes, near.chain(probes).chain([0, u128::MAX]));
        }
    }

    #[test]
    fn every_length_is_found() {
        let v4: Vec<_> =
            (0..=32).map(|length| (0xaaaa_aaaa_u32, length, u32::from(length))).collect();
        let v6: Vec<_> =
            (0..=128).map(|length| (u128::MAX / 3 * 2, length, u32::from(length))).collect();
        // Differs from them at each bit.
        check(&v4, (0..32).map(|bit| 0xaaaa_aaaa ^ (1 << bit)).chain([0xaaaa_aaaa]));
        check(&v6, (0..128).map(|bit| (u128::MAX / 3 * 2) ^ (1 << bit)).chain([u128::MAX / 3 * 2]));
    }

    #[test]
    fn the_later_of_two_equal_prefixes_counts() {
        let table = Lpm::build([(0x0a00_0000_u32, 8, 1), (0x0a01_0000, 8, 2)]).unwrap();
        assert_eq!(table.lookup(0x0aff_ffff), Some(2));
    }

    #[test]
    fn an_empty_table_knows_nothing() {
        let table = Lpm::<u32>::build([]).unwrap();
        assert_eq!(table.lookup(0), None);
        assert_eq!(Lpm::<u128>::build([]).unwrap().lookup(1), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = Lpm::build([(0_u32, 33, 1)]).unwrap_err();
        assert_eq!(error.to_string(), "a prefix of 33 bits; an address has 32");
        assert_eq!(
            Lpm::build([(0_u128, 129, 1)]).unwrap_err(),
            Error::Length { length: 129, most: 128 }
        );
        assert_eq!(
            Lpm::build([(0_u32, 0, VALUE_MAX + 1)]).unwrap_err(),
            Error::Value(VALUE_MAX + 1)
        );
        let table = Lpm::build([(0_u32, 0, VALUE_MAX)]).unwrap();
        assert_eq!(table.lookup(7), Some(VALUE_MAX));
    }
}
