//! Bursts and packets: the window as a function sees it.
//!
//! Owns: reading descriptors and metadata, writing verdicts, moving a packet's ends within its
//! room. Must not know: protocols, and which packets are held. Layout: `wit/window.md`.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;

use weir_layout::{
    BURST_MAX, CLOCK, DESCRIPTORS, Descriptor, FLAG_MADE, FLAG_REVERSE, METADATA, Metadata,
    VERDICT_FINAL, VERDICTS, WALL,
};

use crate::{Verdict, buffer, host, window::Window};

pub use crate::buffer::Buffer;

/// The packets that came at once, 1 to [`BURST_MAX`](crate::BURST_MAX) of them.
pub struct Burst {
    window: Window,
    len: usize,
}

impl Burst {
    /// The burst of `len` packets that lies in the window.
    ///
    /// # Safety
    /// The first `len` descriptors must name packets that this side owns, no two in one room, and
    /// no other `Burst` of the window may be alive.
    pub(crate) unsafe fn new(window: Window, len: usize) -> Self {
        Self { window, len: len.min(BURST_MAX) }
    }

    /// Another burst lies in the window now.
    ///
    /// # Safety
    /// As [`Burst::new`].
    #[inline]
    pub(crate) unsafe fn set_len(&mut self, len: usize) {
        self.len = len.min(BURST_MAX);
    }

    /// The function has decided. What it holds stays held, whatever verdict it set afterwards: from
    /// now on the packets' bytes are reached through [`Buffer`]s.
    #[inline]
    pub(crate) fn finish(&mut self) {
        buffer::finish(|index, verdict| {
            write_verdict(self.window.base(), index, verdict.encode());
            self.descriptor(index)
        });
        host::after_burst(self.now());
    }

    /// Packets in it.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none; the host never calls with that.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The burst's time: monotonic nanoseconds; in a replay the capture's own.
    #[must_use]
    #[inline]
    pub fn now(&self) -> u64 {
        // SAFETY: the clock lies within the burst area, aligned to 8.
        unsafe { self.window.base().add(CLOCK).cast::<u64>().read() }
    }

    /// The same moment in nanoseconds since 1970, or 0 if the host does not know.
    #[must_use]
    #[inline]
    pub fn wall(&self) -> u64 {
        // SAFETY: as for `now`.
        unsafe { self.window.base().add(WALL).cast::<u64>().read() }
    }

    /// A packet's bytes, read only; unlike with [`Burst::packet`], several may be looked at.
    ///
    /// # Panics
    /// When there is no such packet.
    #[must_use]
    #[inline]
    pub fn data(&self, index: usize) -> &[u8] {
        let descriptor = self.descriptor(index);
        // SAFETY: the host promises that descriptors name bytes within the window, and `Packet`
        // keeps that true; a `Packet` would borrow `self` mutably, so nobody writes meanwhile.
        unsafe {
            let start = self.window.base().add(descriptor.offset as usize);
            slice::from_raw_parts(start.as_ptr(), descriptor.length as usize)
        }
    }

    /// All packets' bytes in order, read only: a first look at a burst, for less than
    /// [`Burst::data`] for each.
    #[inline]
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let base = self.window.base();
        // SAFETY: `len` is at most `BURST_MAX`, the vector's length; it is aligned to 8,
        // initialised, and not written while the burst is borrowed.
        let descriptors = unsafe {
            slice::from_raw_parts(base.add(DESCRIPTORS).cast::<Descriptor>().as_ptr(), self.len)
        };
        // SAFETY: as in `data`.
        descriptors.iter().map(move |descriptor| unsafe {
            let start = base.add(descriptor.offset as usize);
            slice::from_raw_parts(start.as_ptr(), descriptor.length as usize)
        })
    }

    /// What the host says about a packet beside its bytes.
    ///
    /// # Panics
    /// When there is no such packet.
    #[must_use]
    #[inline]
    pub fn metadata(&self, index: usize) -> Metadata {
        self.check(index);
        // SAFETY: `len` is at most `BURST_MAX`, the vector's length; it is aligned to 8.
        unsafe { self.window.base().add(METADATA).cast::<Metadata>().add(index).read() }
    }

    /// True when a packet travels from the chain's `to` to its `from`; as [`Packet::reverse`].
    ///
    /// # Panics
    /// When there is no such packet.
    #[must_use]
    #[inline]
    pub fn reverse(&self, index: usize) -> bool {
        self.metadata(index).flags & FLAG_REVERSE != 0
    }

    /// Decides about a packet; as [`Packet::set_verdict`].
    ///
    /// # Panics
    /// When there is no such packet.
    #[inline]
    pub fn set_verdict(&mut self, index: usize, verdict: Verdict) {
        self.check(index);
        write_verdict(self.window.base(), index, verdict.encode());
    }

    /// Decides about a packet and all further ones of its flow in this direction; as
    /// [`Packet::set_flow_verdict`].
    ///
    /// # Panics
    /// When there is no such packet.
    #[inline]
    pub fn set_flow_verdict(&mut self, index: usize, verdict: Verdict) {
        self.check(index);
        write_verdict(self.window.base(), index, for_flow(verdict));
    }

    /// A packet.
    ///
    /// # Panics
    /// When there is no such packet.
    #[must_use]
    #[inline]
    pub fn packet(&mut self, index: usize) -> Packet<'_> {
        let descriptor = self.descriptor(index);
        let base = self.window.base();
        Packet { window: &self.window, base, index, descriptor, _burst: PhantomData }
    }

    /// All packets in order, for less than [`Burst::packet`] for each.
    #[inline]
    pub fn packets(&mut self) -> impl ExactSizeIterator<Item = Packet<'_>> {
        let (window, base) = (&self.window, self.window.base());
        (0..self.len).map(move |index| {
            // SAFETY: as in `descriptor`. No two packets share a room or a place in the vectors, so
            // that each may be had beside the others.
            let descriptor =
                unsafe { base.add(DESCRIPTORS).cast::<Descriptor>().add(index).read() };
            Packet { window, base, index, descriptor, _burst: PhantomData }
        })
    }

    #[inline]
    fn check(&self, index: usize) {
        if index >= self.len {
            no_packet(index, self.len);
        }
    }

    #[inline]
    fn descriptor(&self, index: usize) -> Descriptor {
        self.check(index);
        // SAFETY: `len` is at most `BURST_MAX`, the vector's length; it is aligned to 8.
        unsafe { self.window.base().add(DESCRIPTORS).cast::<Descriptor>().add(index).read() }
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").field("len", &self.len).field("now", &self.now()).finish()
    }
}

/// Out of the way, and with numbers that need not lie in memory for it.
#[cold]
#[inline(never)]
fn no_packet(index: usize, len: usize) -> ! {
    panic!("packet {index} of {len}")
}

/// `index` must be below `BURST_MAX`.
#[inline]
fn write_verdict(base: NonNull<u8>, index: usize, word: u32) {
    debug_assert!(index < BURST_MAX);
    // SAFETY: all callers checked the index against the burst's length; the vector is aligned to 4
    // and written by nobody else during a burst.
    unsafe { base.add(VERDICTS).cast::<u32>().add(index).write(word) }
}

/// The verdict for a whole flow, where there is such a thing.
#[inline]
fn for_flow(verdict: Verdict) -> u32 {
    let whole = if verdict.kind() <= Verdict::ToKernel.kind() { VERDICT_FINAL } else { 0 };
    verdict.encode() | whole
}

/// The packet would leave its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet would leave the room that it lies in")
    }
}

impl std::error::Error for NoRoom {}

/// One packet of a burst. Changing it takes `access = "read-write"` in `function.toml`; without, a
/// store is a fault.
pub struct Packet<'a> {
    window: &'a Window,
    /// Where the window begins.
    base: NonNull<u8>,
    index: usize,
    /// A copy of what lies in the window.
    descriptor: Descriptor,
    _burst: PhantomData<&'a mut Burst>,
}

impl<'a> Packet<'a> {
    /// Its bytes, from the link layer's header on.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: as in `Burst::data`; `&self` keeps `data_mut` away.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len()) }
    }

    /// Its bytes, to be changed.
    #[must_use]
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `Burst::data`; this `Packet` borrows the burst mutably and is itself
        // borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.len()) }
    }

    /// Its bytes, to be changed for as long as the burst is borrowed.
    #[must_use]
    #[inline]
    pub fn into_data(self) -> &'a mut [u8] {
        // SAFETY: as in `data_mut`; the borrow of the burst lasts for 'a.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.len()) }
    }

    /// Bytes in it.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.descriptor.length as usize
    }

    /// True when it has no bytes.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.descriptor.length == 0
    }

    /// Number of the port it came in by, a place in [`Setup::ports`](crate::Setup::ports).
    #[must_use]
    #[inline]
    pub fn port(&self) -> u16 {
        self.metadata().port
    }

    /// True when it travels from the chain's `to` to its `from`.
    #[must_use]
    #[inline]
    pub fn reverse(&self) -> bool {
        self.metadata().flags & FLAG_REVERSE != 0
    }

    /// True when a function made it, so that it came in by no port.
    #[must_use]
    #[inline]
    pub fn made(&self) -> bool {
        self.metadata().flags & FLAG_MADE != 0
    }

    /// The host's flow hash of the packet as it arrived: the same for both directions, 0 if the
    /// host did not need one. [`flow::Hasher`](crate::flow::Hasher) makes one that is always there.
    #[must_use]
    #[inline]
    pub fn hash(&self) -> u32 {
        self.metadata().hash
    }

    /// Decides about it; the last decision counts, none is [`Verdict::Next`]. Not
    /// [`Verdict::Hold`], which loses the packet: only [`Packet::hold`] gives what it can be sent
    /// or freed by.
    #[inline]
    pub fn set_verdict(&mut self, verdict: Verdict) {
        write_verdict(self.base, self.index, verdict.encode());
    }

    /// Decides about it and all further packets of its flow in this direction: the host may apply
    /// the decision without showing them to the function, as long as this version runs and the flow
    /// is remembered. It shows them again afterwards, so the function has to be able to decide
    /// again. Of [`Verdict::Next`], [`Verdict::Drop`], [`Verdict::Reply`], [`Verdict::Forward`] and
    /// [`Verdict::ToKernel`]; others count for the packet alone.
    ///
    /// The host tells flows apart by the outer VLAN, addresses, protocol and ports (and hardware
    /// addresses and code point). Fragments, and protocols without ports, are told apart by
    /// addresses and protocol alone, what is not IP by hardware addresses and type: do not decide
    /// for the flow by an inner VLAN, a tunnel's or a session's number, or anything else that is
    /// behind those.
    #[inline]
    pub fn set_flow_verdict(&mut self, verdict: Verdict) {
        write_verdict(self.base, self.index, for_flow(verdict));
    }

    /// Puts `bytes` in front of it and gives them to be filled; what is in them is left over from
    /// earlier packets. Ports leave 128 bytes free.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing is changed.
    #[inline]
    pub fn prepend(&mut self, bytes: usize) -> Result<&mut [u8], NoRoom> {
        if bytes > self.headroom() {
            return Err(NoRoom);
        }
        // At most a room.
        let count = bytes as u32;
        self.descriptor.offset -= count;
        self.descriptor.length += count;
        self.write_descriptor();
        Ok(&mut self.data_mut()[..bytes])
    }

    /// Takes `bytes` away from its front.
    ///
    /// # Errors
    /// [`NoRoom`] when it has not so many, or when nothing would be left at a room's very end;
    /// nothing is changed.
    #[inline]
    pub fn strip_front(&mut self, bytes: usize) -> Result<(), NoRoom> {
        // A descriptor's offset must itself lie within the room.
        if bytes > self.len() || self.headroom() + bytes >= self.window.room_bytes() as usize {
            return Err(NoRoom);
        }
        // At most the length.
        let count = bytes as u32;
        self.descriptor.offset += count;
        self.descriptor.length -= count;
        self.write_descriptor();
        Ok(())
    }

    /// Makes it so long by moving its end; new bytes are left over from earlier packets.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing is changed.
    #[inline]
    pub fn set_len(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes > self.window.room_bytes() as usize - self.headroom() {
            return Err(NoRoom);
        }
        // At most a room.
        let count = bytes as u32;
        self.descriptor.length = count;
        self.write_descriptor();
        Ok(())
    }

    /// Bytes free in front of it.
    #[must_use]
    #[inline]
    pub fn headroom(&self) -> usize {
        (self.descriptor.offset & (self.window.room_bytes() - 1)) as usize
    }

    /// Keeps it beyond the burst; verdicts that are set afterwards do not count.
    ///
    /// A function may own a quarter of the pool's buffers. The host drops what is held beyond that
    /// (`hold-limit`), which [`Buffer::is_owned`] tells when the burst is over.
    ///
    /// # Panics
    /// When it is held already.
    #[must_use = "a held packet that is dropped is freed"]
    pub fn hold(self) -> Buffer {
        Buffer::hold(self.window.clone(), self.descriptor, self.index)
    }

    #[inline]
    fn metadata(&self) -> Metadata {
        // SAFETY: the index was checked by `Burst::packet`; the vector is aligned to 8.
        unsafe { self.base.add(METADATA).cast::<Metadata>().add(self.index).read() }
    }

    #[inline]
    fn start(&self) -> NonNull<u8> {
        // SAFETY: descriptors name bytes within the window.
        unsafe { self.base.add(self.descriptor.offset as usize) }
    }

    #[inline]
    fn write_descriptor(&mut self) {
        // SAFETY: as for `metadata`; this `Packet` borrows the burst mutably.
        unsafe {
            let vector = self.base.add(DESCRIPTORS).cast::<Descriptor>();
            vector.add(self.index).write(self.descriptor);
        }
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("index", &self.index).field("data", &self.data()).finish()
    }
}
