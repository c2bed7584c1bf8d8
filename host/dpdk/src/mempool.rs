//! The mempool that is a lane's pool: headers in DPDK's memory, rooms and free rooms the pool's.
//!
//! # Who may touch the pool when
//!
//! A lane's [`Pool`] is one worker's, who has it by `&mut`. DPDK takes rooms (a receive queue is
//! filled) and gives them back (a frame was sent) only while a driver runs, and a driver runs
//! because the port called it. So the port *lends* the pool for the time of the call
//! ([`SplitPool::lend`]): its address is put where the mempool's functions find it, together with
//! which thread lent it, and is taken away behind the call. A driver that frees a frame at another
//! time, or on a thread of its own (a memif peer went away), finds nothing lent: the room is noted
//! as a stray, and given back at the next lending.
//!
//! A device that several lanes share is started, and closed, by one of them. What it then takes of
//! the others' pools are rooms that these set apart before ([`SplitPool::set_apart`]); what it
//! gives back are strays.
//!
//! # Devices that reach it by themselves
//!
//! All devices on `vfio-pci` of a process share one IOMMU domain: what one is given all others
//! reach, and what is taken from one is taken from all. So the mempool is mapped with the first
//! such device ([`SplitPool::map`]) and unmapped with the last.

use std::ffi::c_void;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dpdk_sys as sys;
use weir_layout::{BURST_AREA, HEADROOM};
use weir_pool::Pool;

use crate::log;

/// Buffers in the cache that DPDK keeps for each thread; up to half as many more may lie there.
/// They count as out. Without one a driver that frees frames one by one (most virtual ones) pays a
/// call through a pointer for each.
const CACHE: u32 = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct SplitPool {
    raw: *mut sys::Pool,
    /// Where the pool has its window: what tells pools apart.
    window: *mut u8,
    /// Bytes of the window.
    bytes: usize,
    /// Devices that reach it by themselves.
    mapped: Mutex<u32>,
    /// Rooms that devices may have in their rings at a time: as long as there is the pool.
    promised: AtomicU32,
    /// Its address is known to the mempool.
    lender: Box<Lender>,
}

// SAFETY: the mempool is made for many threads; `lend` needs the pool by `&mut`, so that it is one
// at a time, and the rest of the shim is called by the port that is the last owner.
unsafe impl Send for SplitPool {}
// SAFETY: as for `Send`: what a shared one offers is `lend`, and the rest is for the last owner.
unsafe impl Sync for SplitPool {}

#[derive(Debug, Default)]
struct Lender {
    /// The pool while it is lent, null otherwise.
    pool: AtomicPtr<Pool>,
    /// The thread that lent it.
    thread: AtomicUsize,
    /// Times that a driver found the pool empty.
    empty: AtomicU64,
    /// It did a moment ago, and has not asked again.
    refused: AtomicBool,
    has_strays: AtomicBool,
    /// Rooms that came back while nothing was lent.
    strays: Mutex<Vec<u32>>,
    /// Rooms that may be taken while nothing is lent.
    apart: Mutex<Vec<u32>>,
}

/// While it lives the pool is lent: also a call that unwinds leaves no address of a pool behind.
struct Lent<'l>(&'l Lender);

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.pool.store(std::ptr::null_mut(), Relaxed);
        // A thread that lent the pool once is not mistaken for one that lends it now.
        self.0.thread.store(0, Relaxed);
    }
}

/// All that exist, so that the ports of a lane find theirs.
static ALL: Mutex<Vec<Weak<SplitPool>>> = Mutex::new(Vec::new());

impl SplitPool {
    /// The mempool of this pool, which is made for the first port of a lane.
    pub(crate) fn of(pool: &mut Pool) -> Result<Arc<Self>, String> {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        let window = pool.memory().as_ptr();
        if let Some(known) = all.iter().filter_map(Weak::upgrade).find(|p| p.window == window) {
            return Ok(known);
        }
        let lender = Box::<Lender>::default();
        let owner = sys::Owner {
            context: (&raw const *lender).cast_mut().cast(),
            take: Lender::take,
            give: Lender::give,
        };
        // A cache may be two thirds of a pool at most; a sixteenth leaves the rest to the lane.
        let cache = CACHE.min(pool.rooms() / 16);
        let mut raw = std::ptr::null_mut();
        log::forget();
        // SAFETY: the window has the pool's rooms behind its burst area; the lender lives in a box
        // that goes after the mempool.
        let made = unsafe {
            sys::weir_dpdk_pool_new(
                window,
                BURST_AREA as u32,
                pool.rooms(),
                pool.room_bytes(),
                HEADROOM as u32,
                cache,
                &raw const owner,
                &raw mut raw,
            )
        };
        if made < 0 {
            return Err(format!(
                "DPDK has no memory for the headers of {} buffers: {}",
                pool.rooms(),
                log::explain(made)
            ));
        }
        let bytes = pool.memory().len();
        let (mapped, promised) = (Mutex::default(), AtomicU32::new(0));
        let this = Arc::new(Self { raw, window, bytes, mapped, promised, lender });
        all.push(Arc::downgrade(&this));
        Ok(this)
    }

    /// See the field.
    pub(crate) fn promised(&self) -> u32 {
        self.promised.load(Relaxed)
    }

    /// A device may have so many more.
    pub(crate) fn promise(&self, rooms: u32) {
        self.promised.fetch_add(rooms, Relaxed);
    }

    /// Lets the device of this port write to the memory by itself, until [`Self::unmap`]. The
    /// answer is DPDK's.
    pub(crate) fn map(&self, port: u16) -> i32 {
        let mut devices = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if *devices == 0 {
            // SAFETY: [S]: the port is being set up. The window stays until `unmap`, which the last
            // of those that have it calls before the pool goes; the device writes to rooms that are
            // out to it only.
            let result = unsafe { sys::weir_dpdk_dma_map(port, self.window, self.bytes) };
            if result < 0 {
                return result;
            }
        }
        *devices += 1;
        0
    }

    /// Takes the memory from a device that is stopped, but not closed: mappings go with the last
    /// device.
    pub(crate) fn unmap(&self, port: u16) {
        let mut devices = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        *devices -= 1;
        if *devices == 0 {
            // SAFETY: [S]: what `map` mapped, with its bounds; every device that had it is stopped.
            unsafe { sys::weir_dpdk_dma_unmap(port, self.window, self.bytes) };
        }
    }

    /// Lends the pool for the time of a call to a driver.
    ///
    /// # Panics
    /// When it is another pool: a host bug.
    #[inline]
    pub(crate) fn lend<R>(&self, pool: &mut Pool, call: impl FnOnce(*mut sys::Pool) -> R) -> R {
        assert_eq!(
            pool.memory().as_ptr(),
            self.window,
            "host bug: a port is called with another lane's pool"
        );
        if self.lender.has_strays.load(Relaxed) {
            self.lender.collect(pool);
        }
        self.lender.thread.store(this_thread(), Relaxed);
        self.lender.pool.store(pool, Relaxed);
        let _lent = Lent(&self.lender);
        call(self.raw)
    }

    /// The mempool, for a call by somebody who does not have the pool: it takes what was set apart.
    pub(crate) fn raw(&self) -> *mut sys::Pool {
        self.raw
    }

    /// Sets so many rooms apart for a device that is started when the pool is not lent.
    pub(crate) fn set_apart(&self, pool: &mut Pool, rooms: u32) {
        let mut apart = self.lender.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.extend((0..rooms).map_while(|_| pool.take().map(|buffer| pool.room_offset(buffer))));
    }

    /// Gives back what was set apart and not taken.
    pub(crate) fn put_back(&self, pool: &mut Pool) {
        let mut apart = self.lender.apart.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(pool, &apart);
        apart.clear();
    }

    /// Notes rooms that came back while nothing was lent.
    pub(crate) fn stray(&self, offsets: impl Iterator<Item = u32>) {
        self.lender.strays.lock().unwrap_or_else(PoisonError::into_inner).extend(offsets);
        self.lender.has_strays.store(true, Relaxed);
    }

    /// Gives back what lies in DPDK's caches. No worker may have the lane now.
    pub(crate) fn flush(&self, pool: &mut Pool) {
        // SAFETY: [P]: this has the mempool; the caller has the pool by `&mut`, so no other thread
        // is in a call that uses its caches.
        self.lend(pool, |raw| unsafe { sys::weir_dpdk_pool_flush(raw) });
        self.lender.collect(pool);
        self.put_back(pool);
    }

    /// Times that a driver found no free buffer since this was last asked.
    #[inline]
    pub(crate) fn found_empty(&self) -> u64 {
        match self.lender.empty.load(Relaxed) {
            0 => 0,
            _ => {
                self.lender.refused.store(false, Relaxed);
                self.lender.empty.swap(0, Relaxed)
            }
        }
    }
}

impl Drop for SplitPool {
    fn drop(&mut self) {
        // SAFETY: [P]: this is the last owner; every port that had the mempool closed its device
        // before it let go of it.
        unsafe { sys::weir_dpdk_pool_free(self.raw) };
    }
}

impl Lender {
    /// The pool, if this thread lent it.
    fn lent(&self) -> *mut Pool {
        if self.thread.load(Relaxed) == this_thread() {
            self.pool.load(Relaxed)
        } else {
            std::ptr::null_mut()
        }
    }

    /// `take` of the shim's owner.
    unsafe extern "C" fn take(context: *mut c_void, offsets: *mut u32, count: u32) -> bool {
        // SAFETY: the context is the lender of a mempool that exists.
        let this = unsafe { &*context.cast::<Self>() };
        // SAFETY: this thread lent the pool and is in the call that it was lent for, so this is the
        // only reference.
        let Some(pool) = (unsafe { this.lent().as_mut() }) else {
            // SAFETY: the shim has room for `count` offsets.
            return unsafe { this.take_apart(offsets, count as usize) };
        };
        // DPDK asks for enough to fill its cache, too, and once more without that if it gets
        // nothing: only then there was none.
        let again = this.refused.load(Relaxed);
        if pool.available() < count {
            this.refused.store(!again, Relaxed);
            this.empty.fetch_add(u64::from(!again), Relaxed);
            return false;
        }
        if again {
            this.refused.store(false, Relaxed);
            this.empty.fetch_sub(1, Relaxed);
        }
        for place in 0..count as usize {
            let Some(buffer) = pool.take() else { return false };
            // SAFETY: the shim has room for `count` offsets.
            unsafe { offsets.add(place).write(pool.room_offset(buffer)) };
        }
        true
    }

    /// The same of what was set apart, and of what a start that failed gave back.
    ///
    /// # Safety
    /// There must be room for `count` offsets.
    #[cold]
    unsafe fn take_apart(&self, offsets: *mut u32, count: usize) -> bool {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        if apart.len() < count {
            apart.append(&mut self.strays.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let Some(rest) = apart.len().checked_sub(count) else { return false };
        for (place, offset) in apart.drain(rest..).enumerate() {
            // SAFETY: the caller has room for `count` offsets, and no more are drained.
            unsafe { offsets.add(place).write(offset) };
        }
        true
    }

    /// `give` of the shim's owner. A room that is not out is a host bug, and ends the process.
    unsafe extern "C" fn give(context: *mut c_void, offsets: *const u32, count: u32) {
        // SAFETY: the context is the lender of a mempool that exists.
        let this = unsafe { &*context.cast::<Self>() };
        // SAFETY: the shim gives `count` offsets.
        let offsets = unsafe { std::slice::from_raw_parts(offsets, count as usize) };
        // SAFETY: this thread lent the pool and is in the call that it was lent for, so this is the
        // only reference.
        match unsafe { this.lent().as_mut() } {
            Some(pool) => give_back(pool, offsets),
            None => {
                let mut strays = this.strays.lock().unwrap_or_else(PoisonError::into_inner);
                strays.extend_from_slice(offsets);
                this.has_strays.store(true, Relaxed);
            }
        }
    }

    #[cold]
    fn collect(&self, pool: &mut Pool) {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(pool, &strays);
        strays.clear();
        self.has_strays.store(false, Relaxed);
    }
}

fn give_back(pool: &mut Pool, offsets: &[u32]) {
    for offset in offsets {
        let buffer = pool.index_of(*offset).expect("the mempool's rooms are the pool's");
        pool.give(buffer);
    }
}

/// Tells threads apart: the address of something that each has of its own.
#[inline]
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}
