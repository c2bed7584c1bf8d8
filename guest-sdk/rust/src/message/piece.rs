//! A piece of a body as a function sees it.

use crate::window::Window;

/// A piece of a body, or of what a connection carries. Its bytes can be changed in place, and it
/// can become shorter, or longer as far as its room goes.
#[derive(Debug)]
pub struct Piece<'a> {
    /// All bytes from the piece's first to its room's end.
    room: &'a mut [u8],
    len: usize,
    was: usize,
    last: bool,
    left_out: bool,
}

/// The piece's room ends before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceFull;

impl<'a> Piece<'a> {
    /// The piece at this offset of the window.
    ///
    /// # Safety
    /// The bytes, and the rest of their room, must be this side's for `'a`, and no other reference
    /// to them may be used meanwhile.
    pub(crate) unsafe fn at(window: &Window, offset: u32, length: u32, last: bool) -> Self {
        let length = length as usize;
        // An empty last piece may have no room at all.
        let room = if length == 0 && offset == 0 {
            &mut []
        } else {
            // SAFETY: as promised by the caller.
            unsafe { window.rest_of_room(offset) }
        };
        Self { len: length.min(room.len()), was: length, last, left_out: false, room }
    }

    pub(crate) fn new_length(&self) -> Option<u32> {
        // A room is smaller.
        (self.len != self.was).then_some(self.len as u32)
    }

    pub(crate) fn was_left_out(&self) -> bool {
        self.left_out
    }

    /// Goes on as it was left by an earlier view.
    pub(crate) fn again(&mut self, length: usize, left_out: bool) {
        self.len = length.min(self.room.len());
        self.left_out = left_out;
    }

    /// Bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none, as it may be with the last one.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is none after it.
    #[must_use]
    #[inline]
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Maximum size, in bytes.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.room.len()
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Its bytes, to be changed in place.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.len]
    }

    /// Makes it so long; what comes in at its end is left over from others, and has to be written.
    ///
    /// # Errors
    /// When its room ends before that; it stays as it was.
    pub fn set_len(&mut self, len: usize) -> Result<(), PieceFull> {
        if len > self.room.len() {
            return Err(PieceFull);
        }
        self.len = len;
        Ok(())
    }

    /// Makes these its bytes.
    ///
    /// # Errors
    /// When they do not fit into its room; it stays as it was.
    pub fn replace(&mut self, bytes: &[u8]) -> Result<(), PieceFull> {
        self.set_len(bytes.len())?;
        self.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// Leaves it out: nothing of it goes on. The last one still ends the body.
    pub fn leave_out(&mut self) {
        self.left_out = true;
    }
}
