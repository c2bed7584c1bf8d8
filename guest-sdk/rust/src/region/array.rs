//! An array in the state region.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{HEADER, LINE, Shape, StateRegion};
use crate::memory::Chunk;

/// A slice of plain values that outlives the instance; use it as `[T]`.
pub struct StateArray<T> {
    first: NonNull<T>,
    len: usize,
    _memory: Chunk,
    _values: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> StateArray<T> {
    pub(super) fn open(region: &mut StateRegion, name: &str, len: usize) -> Result<Self, String> {
        const { assert!(align_of::<T>() <= LINE, "at most a cache line's alignment") };
        let shape = Shape::new(b"weirarr1", name, len, [0, size_of::<T>()]);
        let memory = region.carve(name, shape, size_of::<T>().checked_mul(len))?;
        // SAFETY: the chunk is longer than its header.
        let first = unsafe { memory.start().add(HEADER) }.cast();
        Ok(Self { first, len, _memory: memory, _values: PhantomData })
    }
}

impl<T> Deref for StateArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `open`, the only constructor, carved `len` values here, aligned to a line; every
        // bit pattern is a value, and only this handle reaches them.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for StateArray<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: fmt::Debug> fmt::Debug for StateArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
