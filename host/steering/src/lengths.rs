//! How long the prefixes are with which an address begins.

use std::collections::HashSet;

use crate::hash::Fold;
use crate::rule::Prefix;

/// Prefixes of rules, by their length in bits.
#[derive(Debug)]
pub(crate) struct Lengths {
    hasher: Fold,
    /// In the order in which they came.
    prefixes: Vec<(u32, HashSet<u128, Fold>)>,
}

/// A set of lengths. Zero is in all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set(u128);

impl Set {
    #[inline]
    pub(crate) const fn has(self, length: u32) -> bool {
        length == 0 || self.0 >> (length - 1) & 1 != 0
    }
}

impl Lengths {
    pub(crate) const fn new(hasher: Fold) -> Self {
        Self { hasher, prefixes: Vec::new() }
    }

    /// Remembers a prefix. The answer is its length; 0: it says nothing about the address.
    pub(crate) fn add(&mut self, prefix: Option<Prefix>) -> u32 {
        let Some(prefix) = prefix.filter(|prefix| prefix.bits() > 0) else { return 0 };
        let length = prefix.bits();
        let known = self.prefixes.iter().position(|(known, _)| *known == length);
        let index = known.unwrap_or_else(|| {
            self.prefixes.push((length, HashSet::with_hasher(self.hasher)));
            self.prefixes.len() - 1
        });
        self.prefixes[index].1.insert(leading(prefix.octets(), length));
        length
    }

    /// The lengths of those with which an address begins.
    #[inline]
    pub(crate) fn of(&self, address: [u8; 16]) -> Set {
        let mut set = 0;
        for (length, prefixes) in &self.prefixes {
            if prefixes.contains(&leading(address, *length)) {
                set |= 1 << (length - 1);
            }
        }
        Set(set)
    }

    /// Bytes of the heap, about.
    pub(crate) fn bytes(&self) -> usize {
        self.prefixes.iter().map(|(_, prefixes)| prefixes.capacity() * 17).sum()
    }
}

/// So many bits of an address, at least 1.
#[inline]
const fn leading(address: [u8; 16], bits: u32) -> u128 {
    u128::from_be_bytes(address) >> (128 - bits)
}
