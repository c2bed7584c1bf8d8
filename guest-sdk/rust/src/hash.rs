//! A fast hash of bytes, for tables and consistent hashing.
//!
//! Owns: the function, which is the same on every host and in every version. Must not know: what is
//! hashed. With a secret seed ([`Setup::seed`](crate::Setup::seed)) strangers cannot make keys
//! collide on purpose; it is no cryptographic hash. After wyhash's folding multiplication.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are hashes already, and are not hashed again.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<AsIs>>;

/// Hashes a number to itself. See [`ByHash`].
#[derive(Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of these bytes under this seed.
#[must_use]
#[inline]
pub fn bytes(bytes: &[u8], seed: u64) -> u64 {
    let length = (bytes.len() as u64).wrapping_mul(0x8ebc_6af0_9c88_c6e3);
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15 ^ length;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.try_into().map_or(0, u64::from_le_bytes);
        state = fold(state ^ word, 0xa076_1d64_78bd_642f);
    }
    let mut tail = [0; 8];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(fold(state ^ u64::from_le_bytes(tail), 0xe703_7ed1_a0b4_28db))
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Spreads a number's bits over all bits: the finalizer of splitmix64 (Steele, Lea, Flood, 2014).
#[must_use]
#[inline]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_that_differ_a_little_have_different_hashes() {
        let mut seen = HashSet::new();
        for length in 0..40 {
            let mut text = vec![0; length];
            assert!(seen.insert(bytes(&text, 1)));
            for at in 0..length {
                for bit in 0..8 {
                    text[at] ^= 1 << bit;
                    assert!(seen.insert(bytes(&text, 1)));
                    text[at] ^= 1 << bit;
                }
            }
        }
        assert_ne!(bytes(b"a", 1), bytes(b"a", 2));
    }
}
