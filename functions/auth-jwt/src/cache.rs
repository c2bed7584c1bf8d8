//! Tokens that were verified before.
//!
//! Owns: finding them again, in bounded memory. Must not know: what made them valid. Verifying a
//! signature takes from some to some hundred microseconds, looking here less than one. A token is
//! found only if all of its bytes are the same.

use weir_sdk::hash;

/// Tokens of a row.
const ROW: usize = 4;

/// What is remembered of a token.
#[derive(Debug)]
pub(crate) struct Verified {
    token: Vec<u8>,
    /// Second since 1970 from which on it is not valid.
    expires: u64,
    /// Fields that go on with the request: place in the configuration, and value.
    pub(crate) fields: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) struct Cache {
    rows: Vec<[Option<Verified>; ROW]>,
    seed: u64,
    /// Place of a row that is replaced next.
    next: usize,
}

impl Cache {
    pub(crate) fn new(tokens: usize, seed: u64) -> Self {
        let rows = tokens.div_ceil(ROW);
        Self { rows: (0..rows).map(|_| Default::default()).collect(), seed, next: 0 }
    }

    fn row(&self, token: &[u8]) -> usize {
        (hash::bytes(token, self.seed) % self.rows.len().max(1) as u64) as usize
    }

    /// A token that is valid in this second.
    pub(crate) fn find(&self, token: &[u8], now: u64) -> Option<&Verified> {
        let row = self.rows.get(self.row(token))?;
        row.iter().flatten().find(|known| known.token == token && now < known.expires)
    }

    /// Remembers a token.
    pub(crate) fn insert(
        &mut self,
        token: &[u8],
        expires: u64,
        fields: Vec<(usize, Vec<u8>)>,
        now: u64,
    ) {
        let at = self.row(token);
        let Some(row) = self.rows.get_mut(at) else { return };
        let useless = |known: &Option<Verified>| {
            known.as_ref().is_none_or(|known| known.expires <= now || known.token == token)
        };
        let place = row.iter().position(useless).unwrap_or_else(|| {
            self.next = (self.next + 1) % ROW;
            self.next
        });
        row[place] = Some(Verified { token: token.to_vec(), expires, fields });
    }

    /// Forgets all: keys have changed.
    pub(crate) fn clear(&mut self) {
        self.rows.iter_mut().for_each(|row| *row = Default::default());
    }
}
