//! DPDK's environment abstraction layer: memory, buses, drivers. Started once in a process, never
//! ended.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::sync::OnceLock;

use dpdk_sys as sys;

use crate::log;

/// Free huge pages, in bytes, from which on they are used: less would do for a port or two and then
/// fail.
const HUGE_ENOUGH: u64 = 64 << 20;

/// Where DPDK has its own memory from: mbuf headers, rings, its bookkeeping. Packets lie elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EalMemory {
    /// Huge pages if at least 64 MiB of them are free, ordinary ones otherwise.
    #[default]
    Auto,
    /// Huge pages.
    Huge,
    /// Ordinary pages.
    Ordinary,
}

/// What DPDK is started with.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// PCI devices, with arguments for their drivers. No others are touched.
    pub pci: Vec<String>,
    /// Its memory.
    pub memory: EalMemory,
    /// MiB of ordinary memory. Huge pages are taken as they are needed.
    pub mebibytes: u32,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self { pci: Vec::new(), memory: EalMemory::Auto, mebibytes: 256 }
    }
}

/// DPDK, running.
#[derive(Debug)]
pub struct Eal {
    huge: bool,
}

/// The one of this process, once somebody has started it.
static EAL: OnceLock<Result<Eal, String>> = OnceLock::new();

impl Eal {
    /// Starts DPDK with this configuration if it does not run yet.
    ///
    /// # Errors
    /// When DPDK did not start, now or before: it tries once in a process.
    pub fn start(config: &EalConfig) -> Result<&'static Self, String> {
        EAL.get_or_init(|| {
            let config = config.clone();
            // DPDK pins the thread that starts it, and keeps it as its own main thread.
            let started = std::thread::Builder::new()
                .name("weir-eal".to_owned())
                .spawn(move || init(&config));
            match started.map(std::thread::JoinHandle::join) {
                Ok(Ok(result)) => result.map_err(|why| {
                    format!("{why} (it is tried once: when that is mended, start the host again)")
                }),
                Ok(Err(_)) => Err("starting DPDK ended in a bug".to_owned()),
                Err(error) => Err(format!("DPDK cannot be started: no thread for it: {error}")),
            }
        })
        .as_ref()
        .map_err(Clone::clone)
    }

    /// Whether it runs.
    pub(crate) fn runs() -> bool {
        matches!(EAL.get(), Some(Ok(_)))
    }

    /// Whether its own memory lies in huge pages.
    #[must_use]
    pub fn has_huge_pages(&self) -> bool {
        self.huge
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &'static str {
        // SAFETY: DPDK is loaded, and gives the address of a constant.
        unsafe { CStr::from_ptr(sys::weir_dpdk_version()) }.to_str().unwrap_or("DPDK")
    }
}

fn init(config: &EalConfig) -> Result<Eal, String> {
    sys::load().map_err(|error| {
        format!("{error} (dpdk ports need the libraries that the host was built with: Debian's package is libdpdk-dev)")
    })?;
    let huge = match config.memory {
        EalMemory::Auto => free_huge_bytes() >= HUGE_ENOUGH,
        EalMemory::Huge => true,
        EalMemory::Ordinary => false,
    };
    let arguments = arguments(config, huge, &cores());
    tracing::debug!(target: "dpdk", "starting with {}", arguments.join(" "));
    let arguments: Vec<CString> = arguments
        .into_iter()
        .map(|argument| CString::new(argument).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    // DPDK keeps the strings, and exchanges their places.
    let arguments: &'static mut Vec<CString> = Box::leak(Box::new(arguments));
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let pointers: &'static mut Vec<*mut c_char> = Box::leak(Box::new(pointers));
    let count = i32::try_from(arguments.len()).map_err(|e| e.to_string())?;
    log::forget();
    // SAFETY: the strings and their vector live for ever, end with a zero and a null, and are
    // nobody else's; the caller's OnceLock lets this happen once.
    let result = unsafe { sys::weir_dpdk_init(count, pointers.as_mut_ptr(), log::sink) };
    if result < 0 {
        let what = if huge {
            "with huge pages (are some free? `sysctl vm.nr_hugepages=256` reserves 512 MiB)"
        } else {
            "with ordinary pages"
        };
        return Err(format!("DPDK did not start {what}: {}", log::explain(result)));
    }
    let eal = Eal { huge };
    tracing::info!(target: "dpdk", huge_pages = huge, "{} runs", eal.version());
    Ok(eal)
}

fn arguments(config: &EalConfig, huge: bool, cores: &str) -> Vec<String> {
    // No files, no sockets, no other processes; addresses of devices are the process's own.
    let mut arguments: Vec<String> =
        ["weir", "--iova-mode=va", "--no-telemetry", "--no-shconf"].map(str::to_owned).into();
    // One thread of DPDK's own, free to be where the process may be: workers are Weir's.
    arguments.push(format!("--lcores=0@({cores})"));
    if huge {
        arguments.push("--in-memory".to_owned());
    } else {
        arguments.extend(["--no-huge".to_owned(), "-m".to_owned(), config.mebibytes.to_string()]);
    }
    if config.pci.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    for device in &config.pci {
        arguments.extend(["-a".to_owned(), device.clone()]);
    }
    arguments
}

/// The cores that the process may use, as DPDK writes sets.
fn cores() -> String {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return "0".to_owned() };
    let cores: Vec<String> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .map(|core| core.to_string())
        .collect();
    cores.join(",")
}

fn free_huge_bytes() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free = sizes.filter_map(|size| {
        let size = size.ok()?;
        let name = size.file_name().into_string().ok()?;
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        Some(kilobytes * 1024 * pages.trim().parse::<u64>().ok()?)
    });
    free.sum()
}

/// Whether a thread is known to DPDK.
struct Registered(Cell<Option<bool>>);

thread_local!(static THREAD: Registered = const { Registered(Cell::new(None)) });

impl Drop for Registered {
    fn drop(&mut self) {
        if self.0.get() == Some(true) {
            // SAFETY: this thread was registered by `register`, and does nothing with DPDK any
            // more.
            unsafe { sys::weir_dpdk_thread_unregister() };
        }
    }
}

/// Makes the calling thread known to DPDK, which then keeps a cache for it; until the thread ends.
#[inline]
pub(crate) fn register_thread() {
    THREAD.with(|thread| {
        if thread.0.get().is_none() {
            register(thread);
        }
    });
}

#[cold]
fn register(thread: &Registered) {
    log::forget();
    // SAFETY: DPDK runs, because there is a port; the thread is not registered yet.
    let result = unsafe { sys::weir_dpdk_thread_register() };
    if result < 0 {
        let why = log::explain(result);
        tracing::warn!("this thread works without DPDK's caches, which is slower: {why}");
    }
    thread.0.set(Some(result == 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_pci_devices_are_touched() {
        let mut config = EalConfig::default();
        let text = arguments(&config, true, "0,1").join(" ");
        assert_eq!(
            text,
            "weir --iova-mode=va --no-telemetry --no-shconf --lcores=0@(0,1) --in-memory --no-pci"
        );
        config.pci = vec!["0000:01:10.0".to_owned()];
        let text = arguments(&config, false, "1").join(" ");
        assert!(text.ends_with("--lcores=0@(1) --no-huge -m 256 -a 0000:01:10.0"), "{text}");
    }
}
