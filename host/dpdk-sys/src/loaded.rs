//! Loading the shim, and calls of its functions.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::fs::{MemfdFlags, memfd_create};

/// The shim, linked against the system's DPDK.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weir_dpdk_shim.so"));

/// Declares functions of the shim: a table of their addresses, and for each a function of the same
/// name that calls it.
///
/// # Safety
/// Of the functions that this makes: what `shim/shim.h` says. They panic when the shim is not
/// loaded.
macro_rules! shim_functions {
    ($(pub fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        pub(crate) struct Functions {
            $($name: unsafe extern "C" fn($($kind),*) $(-> $result)?,)*
        }

        impl Functions {
            /// # Safety
            /// The library is the shim, and stays loaded.
            pub(crate) unsafe fn of(shim: &libloading::os::unix::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: the shim has a function of this name and kind, by `shim/shim.h`.
                        $name: unsafe { *shim.get(stringify!($name))? },
                    )*
                })
            }
        }

        $(
            /// # Safety
            /// What `shim/shim.h` says at this function: a letter in brackets is one of the
            /// contracts at its top.
            #[inline]
            #[allow(clippy::too_many_arguments, reason = "as the shim has it")]
            pub unsafe fn $name($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the caller's.
                unsafe { (crate::loaded::functions().$name)($($argument),*) }
            }
        )*
    };
}

pub(crate) use shim_functions;

/// Where they are, once they are loaded.
static LOADED: OnceLock<Result<crate::shim::Functions, String>> = OnceLock::new();

#[inline]
pub(crate) fn functions() -> &'static crate::shim::Functions {
    match LOADED.get() {
        Some(Ok(functions)) => functions,
        _ => not_loaded(),
    }
}

#[cold]
fn not_loaded() -> ! {
    panic!("a function of DPDK was called before `dpdk_sys::load`")
}

/// Loads the shim and DPDK, once in a process. Everything else in this crate may be called only
/// after it went well.
///
/// # Errors
/// What the system's loader said: most likely which library is not there.
pub fn load() -> Result<(), String> {
    LOADED.get_or_init(load_once).as_ref().map(drop).map_err(Clone::clone)
}

fn load_once() -> Result<crate::shim::Functions, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let memory = memfd_create("weir-dpdk", MemfdFlags::CLOEXEC);
    let mut file = std::fs::File::from(memory.map_err(|e| failed("memory for DPDK's shim", &e))?);
    file.write_all(SHIM).map_err(|e| failed("memory for DPDK's shim", &e))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: what runs on loading is DPDK's own: its parts make themselves known to each other.
    let shim = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let shim = shim.map_err(|e| failed("the system's DPDK cannot be loaded", &e))?;
    // SAFETY: it is the shim, and is never unloaded.
    let functions = unsafe { crate::shim::Functions::of(&shim) };
    std::mem::forget(shim);
    functions.map_err(|e| failed("DPDK's shim is not as it was built", &e))
}
