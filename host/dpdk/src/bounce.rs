//! Memory for drivers that insist on their own.

use dpdk_sys as sys;

use crate::log;

/// A mempool of DPDK's, freed when dropped.
#[derive(Debug)]
pub(crate) struct Bounce(*mut sys::Bounce);

// SAFETY: the mempool belongs to this value; DPDK's mempools are made for many threads.
unsafe impl Send for Bounce {}
// SAFETY: all that is done with a shared one is to give its address to the shim, which hands it to
// a device.
unsafe impl Sync for Bounce {}

impl Bounce {
    /// So many buffers of so many bytes.
    pub(crate) fn new(buffers: u32, bytes: u32) -> Result<Self, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: DPDK runs, because a device was added; `raw` is there for what the call writes.
        match unsafe { sys::weir_dpdk_bounce_new(buffers, bytes, &raw mut raw) } {
            0.. => Ok(Self(raw)),
            error => Err(format!(
                "DPDK has no memory for {buffers} buffers of {bytes} bytes: {}",
                log::explain(error)
            )),
        }
    }

    pub(crate) fn raw(&self) -> *mut sys::Bounce {
        self.0
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and the device that had it is closed: its part, which
        // keeps this, goes after that.
        unsafe { sys::weir_dpdk_bounce_free(self.0) };
    }
}
