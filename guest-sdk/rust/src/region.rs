//! The state region: memory of the host that outlives the instance.
//!
//! Owns: carving typed containers out of it, one after the other, and finding them again. Must not
//! know: what they are for. Each begins with a 64-byte header that names it; opening one whose
//! header agrees writes nothing, since the earlier instance may still be at work in the region
//! (`wit/net.wit`, `attach-state`). One that does not agree is written at once, on which the host
//! starts the function again with a fresh region: so a successor either takes over everything, or
//! nothing. All that changes lies in the region, nothing is cached in handles.
//!
//! Contents may be garbage (another program's, a torn write of an instance that was stopped): types
//! are plain bytes for which every value is valid (`zerocopy`), sizes and indices come from the
//! caller and never from the region.

mod array;
mod map;

use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use array::StateArray;
pub use map::{Full, Probe, StateMap};

use crate::memory::Chunk;

/// Alignment of containers and their parts: a cache line.
const LINE: usize = 64;
/// Bytes of a container's header.
const HEADER: usize = LINE;

/// A stretch of memory from which containers are carved.
#[derive(Debug)]
pub struct StateRegion {
    /// `None`: containers come from the heap, each on its own.
    memory: Option<Chunk>,
    used: usize,
    kept: bool,
}

/// What must agree for a container to be taken over.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
struct Shape {
    /// Kind and version of the container's layout.
    kind: [u8; 8],
    /// Hash of its name.
    name: u64,
    /// Elements.
    capacity: u64,
    /// Bytes of a key, and of a value.
    sizes: [u32; 2],
}

impl Shape {
    fn new(kind: &[u8; 8], name: &str, capacity: usize, sizes: [usize; 2]) -> Self {
        // No type has 4 GiB.
        let sizes = sizes.map(|size| size as u32);
        Self { kind: *kind, name: fnv(name), capacity: capacity as u64, sizes }
    }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl StateRegion {
    /// A region of ordinary memory, as large as needed, in which nothing is kept.
    #[must_use]
    pub fn heap() -> Self {
        Self { memory: None, used: 0, kept: false }
    }

    /// The host's region.
    pub(crate) fn attached(memory: Chunk, kept: bool) -> Self {
        Self { memory: Some(memory), used: 0, kept }
    }

    /// True when it holds what an earlier instance left there. Until `configure` returns it can
    /// only be read then.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.kept
    }

    /// Bytes left; `usize::MAX` on the heap.
    #[must_use]
    pub fn free(&self) -> usize {
        self.memory.as_ref().map_or(usize::MAX, |memory| memory.len() - self.used)
    }

    /// A hash map with room for `capacity` entries, found again as it was if name, capacity and
    /// sizes agree.
    ///
    /// # Errors
    /// When the region has no room for it; says how much is needed.
    pub fn map<K, V>(&mut self, name: &str, capacity: usize) -> Result<StateMap<K, V>, String>
    where
        K: FromBytes + IntoBytes + Immutable + Eq,
        V: FromBytes + IntoBytes + Immutable,
    {
        StateMap::open(self, name, capacity)
    }

    /// An array of `len` elements, all bytes 0 at first, found again as it was if name, length and
    /// size agree.
    ///
    /// # Errors
    /// When the region has no room for it; says how much is needed.
    pub fn array<T>(&mut self, name: &str, len: usize) -> Result<StateArray<T>, String>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        StateArray::open(self, name, len)
    }

    /// Bytes behind the header of the next container, whose header comes to say `shape`.
    fn carve(&mut self, name: &str, shape: Shape, bytes: Option<usize>) -> Result<Chunk, String> {
        let whole = bytes
            .and_then(|bytes| bytes.checked_add(HEADER)?.checked_next_multiple_of(LINE))
            .filter(|whole| *whole < isize::MAX as usize / 2)
            .ok_or_else(|| format!("state `{name}`: it would be larger than memory can be"))?;
        let chunk = match &self.memory {
            None => Chunk::zeroed(whole),
            Some(memory) => memory.part(self.used, whole).ok_or_else(|| {
                format!(
                    "state `{name}` takes {whole} bytes, but of the state region's {} only {} are \
                     left: raise `state` (in a function.toml `state-bytes`), or ask for less",
                    memory.len(),
                    memory.len() - self.used,
                )
            })?,
        };
        self.used += whole;
        // SAFETY: the chunk has at least a header's bytes, aligned to `LINE`; every value is valid.
        let found = unsafe { chunk.start().cast::<Shape>().read() };
        if found != shape {
            if self.kept {
                // SAFETY: the chunk is this container's alone, and longer than its header.
                unsafe {
                    // On Wasm this traps. It is an ordinary store, so that it does: wasmtime runs
                    // `memory.fill` in the host, where a fault is not the function's.
                    chunk.start().cast::<u64>().write_volatile(0);
                    chunk.start().write_bytes(0, whole);
                }
            }
            // SAFETY: as for the read.
            unsafe { chunk.start().cast::<Shape>().write(shape) };
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests;
