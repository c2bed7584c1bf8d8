//! What a guest has taken of memory, beside what it may have.
//!
//! Owns: the count of bytes in linear memories and tables. Must not know: whose they are, and where
//! the limit comes from.

/// Bytes of an element of a table.
pub(crate) const TABLE_ELEMENT: usize = 8;

/// Memories and tables that a guest has taken.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    bytes: usize,
    refused: bool,
}

impl MemoryLedger {
    /// So many bytes from the start.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { bytes, refused: false }
    }

    /// Takes so many bytes more of a memory, if the guest then has no more than `limit`. Of what is
    /// more than the memory says itself that it may have, nothing is taken: wasmtime refuses that
    /// once it has asked here.
    pub fn memory(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        limit: usize,
    ) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return true;
        }
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        let allowed = bytes <= limit;
        if allowed {
            self.bytes = bytes;
        } else {
            self.refused = true;
        }
        allowed
    }

    /// The same for elements of a table.
    pub fn table(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        limit: usize,
    ) -> bool {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT);
        self.memory(bytes(current), bytes(desired), maximum.map(bytes), limit)
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// It was refused more.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}
