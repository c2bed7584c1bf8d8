//! A port's counters: written by the port's worker, read by anybody.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Declares the counters once: the atomics, their readings, and their names.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        struct Counters {
            $($name: AtomicU64,)*
        }

        /// Readings of a port's counters since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct PortCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl PortCounts {
            /// All counters with their names, for metrics and reports.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl PortStatistics {
            /// Reads the counters; each is exact, together they may straddle a burst.
            #[must_use]
            pub fn counts(&self) -> PortCounts {
                let counters = &self.0.counters;
                let own = PortCounts { $($name: counters.$name.load(Relaxed),)* };
                let device = self.device().also.as_ref().map(|also| also()).unwrap_or_default();
                PortCounts { $($name: own.$name + device.$name,)* }
            }

            /// Adds a burst's counts. Only the port's own worker may call this: it loads and
            /// stores, which is cheaper than an atomic addition and right for one writer.
            pub fn add(&self, burst: &PortCounts) {
                $(
                    if burst.$name != 0 {
                        let sum = self.0.counters.$name.load(Relaxed).wrapping_add(burst.$name);
                        self.0.counters.$name.store(sum, Relaxed);
                    }
                )*
            }
        }
    };
}

counters! {
    /// Packets handed to the worker.
    rx_packets,
    /// Their bytes.
    rx_bytes,
    /// Packets among them that the capture had cut off.
    rx_truncated,
    /// Packets dropped because they are longer than a room holds.
    rx_dropped_too_large,
    /// Packets dropped because the pool had no free buffer.
    rx_dropped_no_buffer,
    /// Packets that the device dropped because the worker did not take them in time.
    rx_dropped_overrun,
    /// Packets that no rule claimed, and that went on to the kernel's network stack.
    rx_to_kernel,
    /// Times that receiving failed.
    rx_errors,
    /// Packets that left.
    tx_packets,
    /// Their bytes.
    tx_bytes,
    /// Packets dropped because the port has no output.
    tx_dropped_no_output,
    /// Packets dropped because they are longer than the interface may send.
    tx_dropped_too_large,
    /// Packets dropped because the device did not take them in time.
    tx_dropped_full,
    /// Packets dropped because the link was down or the device gone.
    tx_dropped_down,
    /// Packets dropped because sending failed.
    tx_errors,
}

impl PortCounts {
    /// Packets that were dropped on their way in, by the reason that operators are told.
    fn rx_drops(&self) -> [(&'static str, u64); 3] {
        [
            ("too-large", self.rx_dropped_too_large),
            ("no-buffer", self.rx_dropped_no_buffer),
            ("overrun", self.rx_dropped_overrun),
        ]
    }

    /// As [`Self::rx_drops`], on their way out.
    fn tx_drops(&self) -> [(&'static str, u64); 5] {
        [
            ("no-output", self.tx_dropped_no_output),
            ("tx-too-large", self.tx_dropped_too_large),
            ("tx-full", self.tx_dropped_full),
            ("tx-down", self.tx_dropped_down),
            ("tx-error", self.tx_errors),
        ]
    }

    /// Packets that the port or its device dropped, by the reason that operators are told.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.rx_drops().into_iter().chain(self.tx_drops())
    }

    /// Packets that came to the port and were dropped by it or its device.
    #[must_use]
    pub fn rx_dropped(&self) -> u64 {
        self.rx_drops().iter().map(|(_, n)| n).sum()
    }

    /// Packets that were to leave by the port and did not.
    #[must_use]
    pub fn tx_dropped(&self) -> u64 {
        self.tx_drops().iter().map(|(_, n)| n).sum()
    }
}

/// A port's counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct PortStatistics(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    device: Mutex<Device>,
}

/// What a device says about itself. Written when a port is attached, read by whoever looks.
#[derive(Default)]
struct Device {
    description: Option<String>,
    also: Option<Box<dyn Fn() -> PortCounts + Send>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("description", &self.description).finish_non_exhaustive()
    }
}

impl PortStatistics {
    /// Says what the device is like and how it is driven, for operators.
    pub fn describe(&self, description: impl Into<String>) {
        self.device().description = Some(description.into());
    }

    /// What the device is like, once the port has told.
    #[must_use]
    pub fn description(&self) -> Option<String> {
        self.device().description.clone()
    }

    /// Names who keeps further counts, which are asked for whenever counters are read: for what a device counts while
    /// its worker sleeps.
    pub fn also(&self, counts: impl Fn() -> PortCounts + Send + 'static) {
        self.device().also = Some(Box::new(counts));
    }

    fn device(&self) -> std::sync::MutexGuard<'_, Device> {
        self.0.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_what_the_port_counts() {
        let port = PortStatistics::default();
        let reader = port.clone();
        port.add(&PortCounts { rx_packets: 2, rx_bytes: 128, ..PortCounts::default() });
        port.add(&PortCounts { rx_packets: 1, tx_errors: 5, ..PortCounts::default() });
        let counts = reader.counts();
        assert_eq!((counts.rx_packets, counts.rx_bytes, counts.tx_errors), (3, 128, 5));
        assert!(counts.each().any(|counter| counter == ("tx_errors", 5)));
        assert_eq!((counts.rx_dropped(), counts.tx_dropped()), (0, 5));
        port.also(|| PortCounts { rx_packets: 10, rx_to_kernel: 7, ..PortCounts::default() });
        port.describe("fast");
        let counts = reader.counts();
        assert_eq!((counts.rx_packets, counts.rx_to_kernel), (13, 7));
        assert_eq!(reader.description().as_deref(), Some("fast"));
    }
}
