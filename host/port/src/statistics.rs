//! A port's counters: written by the port's worker, read by anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
                PortCounts { $($name: self.0.$name.load(Relaxed),)* }
            }

            /// Adds a burst's counts. Only the port's own worker may call this: it loads and
            /// stores, which is cheaper than an atomic addition and right for one writer.
            pub fn add(&self, burst: &PortCounts) {
                $(
                    if burst.$name != 0 {
                        increase(&self.0.$name, burst.$name);
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
    /// Packets that the kernel dropped because the worker did not take them in time.
    rx_dropped_overrun,
    /// Times that receiving failed.
    rx_errors,
    /// Packets that left.
    tx_packets,
    /// Their bytes.
    tx_bytes,
    /// Packets dropped because the port has no output.
    tx_dropped_no_output,
    /// Packets dropped because sending failed.
    tx_errors,
    /// Packets dropped because the device took no more of them, also not after some tries.
    tx_dropped_full,
    /// Packets dropped because the device cannot send frames that long or that short.
    tx_dropped_length,
    /// Times that the device found no free buffer to receive into: its packets wait, and what it
    /// cannot keep it drops and counts itself.
    rx_waits_for_buffer,
    /// Packets in which the device found a checksum wrong.
    rx_bad_checksum,
    /// Those among them that were dropped, because a device that fills in checksums would have made
    /// them right.
    rx_dropped_bad_checksum,
    /// Packets dropped because the link was down or the device gone.
    tx_dropped_down,
    /// Packets given to the kernel's stack by the port's way there.
    kernel_received,
    /// Packets sent for the kernel.
    kernel_sent,
    /// Packets dropped because the kernel did not take them: its queue was full, or the interface
    /// down.
    kernel_dropped_full,
    /// Packets of the kernel dropped because the pool had no free buffer.
    kernel_dropped_no_buffer,
    /// Packets of the kernel dropped because they are longer than a room holds.
    kernel_dropped_too_large,
    /// Packets among `rx_packets` that were handed over to the worker whose flows they belong to.
    rx_handed_over,
    /// Packets that other workers' queues received and handed over to this one.
    rx_taken_over,
    /// Packets dropped because the worker whose flows they belong to had no room for them.
    rx_dropped_handoff_full,
    /// Packets dropped because who sent them is not the kernel, the only neighbour that the port
    /// has.
    rx_dropped_not_peer,
    /// Packets of the kernel dropped because the host that they are for was not heard on the wire.
    rx_dropped_no_neighbour,
}

/// A port's counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct PortStatistics(Arc<Counters>);

impl PortStatistics {
    /// As [`Self::add`] for a burst that came in, with nothing else to say about it.
    #[inline]
    pub fn add_received(&self, packets: u64, bytes: u64) {
        increase(&self.0.rx_packets, packets);
        increase(&self.0.rx_bytes, bytes);
    }

    /// As [`Self::add`] for packets that left.
    #[inline]
    pub fn add_sent(&self, packets: u64, bytes: u64) {
        increase(&self.0.tx_packets, packets);
        increase(&self.0.tx_bytes, bytes);
    }
}

#[inline]
fn increase(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
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
        port.add_received(2, 100);
        port.add_sent(4, 300);
        let counts = reader.counts();
        assert_eq!((counts.rx_packets, counts.rx_bytes, counts.tx_errors), (5, 228, 5));
        assert_eq!((counts.tx_packets, counts.tx_bytes), (4, 300));
        assert!(counts.each().any(|counter| counter == ("tx_errors", 5)));
    }
}
