//! One function over a window that somebody else fills.

use std::fmt;
use std::ptr::NonNull;

use super::Options;
use crate::burst::Burst;
use crate::function::{Function, read_config};
use crate::memory::Chunk;
use crate::{host, window::Window};

/// A function over a window that somebody else lays out, fills and reads: what benchmarks compare
/// Wasm with. A burst runs the same code as there, and nothing besides.
///
/// All such functions of a thread share the thread's test host: their counters of one name are one,
/// and nobody looks at what they send, log, or want to be called for.
pub struct Native<F> {
    function: F,
    burst: Burst,
}

impl<F: Function> Native<F> {
    /// Configures a function over the window of `bytes` bytes at `window`, which must be laid out
    /// as `wit/window.md` says, with rooms of [`Options::room_bytes`], and over the state region of
    /// [`Options::state_bytes`] bytes at `state`; `config` is a JSON object. Of the other options,
    /// those that say something of window or clock do not count.
    ///
    /// # Errors
    /// What the function, or the reader of its configuration, says.
    ///
    /// # Panics
    /// When `bytes` is no multiple of 65,536, or a room's size no power of two.
    ///
    /// # Safety
    /// For as long as this lives, the bytes of both must be initialised, writable and in their
    /// place, and nobody else may access the state region, which begins at a page. Whenever
    /// [`Native::process`] is called, the first `count` descriptors must name bytes of the window,
    /// no two in one room, and nobody else may access these or the burst area until it returns.
    pub unsafe fn new(
        window: NonNull<u8>,
        bytes: usize,
        state: NonNull<u8>,
        options: &Options,
        config: impl fmt::Display,
    ) -> Result<Self, String> {
        // SAFETY: as promised by the caller.
        let window = unsafe { Window::new(Chunk::permanent(window, bytes), options.room_bytes) };
        let state = (options.state_bytes > 0).then(|| {
            // SAFETY: as promised by the caller.
            unsafe { Chunk::permanent(state, options.state_bytes) }
        });
        let config = read_config::<F::Config>(&config.to_string())?;
        let function = F::configure(options.setup(state, false), config)?;
        host::after_configure();
        // SAFETY: the burst is empty until `process` says how long it is.
        let burst = unsafe { Burst::new(window, 0) };
        Ok(Self { function, burst })
    }

    /// Handles the burst of `count` packets, at most 256, that lies in the window.
    #[inline]
    pub fn process(&mut self, count: usize) {
        // SAFETY: as promised by who made this.
        unsafe { self.burst.set_len(count) };
        self.function.process(&mut self.burst);
        self.burst.finish();
    }
}

impl<F> fmt::Debug for Native<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Native").field("burst", &self.burst).finish_non_exhaustive()
    }
}
