//! Whether an address may be one of a few: a Bloom filter with one hash (Bloom 1970), which lets
//! packets that are for nobody here pass for a nanosecond.

const WORDS: usize = 64;

/// A set of IPv4 addresses; it may say yes wrongly, but never no.
#[derive(Clone, Debug)]
pub(crate) struct Filter([u64; WORDS]);

impl Filter {
    pub(crate) fn of(addresses: impl Iterator<Item = u32>) -> Self {
        let mut filter = Self([0; WORDS]);
        for address in addresses {
            let (word, bit) = Self::place(address);
            filter.0[word] |= bit;
        }
        filter
    }

    #[inline]
    pub(crate) fn may_have(&self, address: u32) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }

    /// The upper 12 bits of a product (Knuth, TAOCP, volume 3, 6.4), of the address as it lies in a
    /// packet.
    #[inline]
    fn place(address: u32) -> (usize, u64) {
        let hash = address.to_be().wrapping_mul(0x9e37_79b1);
        ((hash >> 26) as usize % WORDS, 1 << (hash >> 20 & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_few_others() {
        let members = (0..64u32).map(|n| 0x0a00_0000 + n * 7);
        let filter = Filter::of(members.clone());
        assert!(members.clone().all(|address| filter.may_have(address)));
        let others = (0..100_000u32).map(|n| n.wrapping_mul(0x0101_4073));
        let wrong = others.filter(|address| filter.may_have(*address)).count();
        assert!(wrong < 100_000 / 64 * 2, "{wrong}");
    }
}
