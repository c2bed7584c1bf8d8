//! Ports around other ports that send at a rate and measure how long packets take from one to the
//! other.
//!
//! Owns: pacing, stamps in packets, and the times that they took. Must not know: what is between
//! the two ports.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_pool::{Packet, Pool};
use weir_port::{Port, PortError, Received, pass_on};

/// Where in a packet its stamp lies: behind the Ethernet header.
const STAMP: std::ops::Range<usize> = 16..24;

/// Times that packets took, in ns. Written by one thread.
#[derive(Clone, Debug)]
pub struct Latency {
    times: Arc<Mutex<Vec<f64>>>,
    started: Instant,
}

impl Default for Latency {
    fn default() -> Self {
        Self { times: Arc::new(Mutex::new(Vec::with_capacity(1 << 20))), started: Instant::now() }
    }
}

impl Latency {
    /// Forgets what was measured.
    ///
    /// # Panics
    /// When a port panicked.
    pub fn forget(&self) {
        self.times.lock().expect("nobody panicked").clear();
    }

    /// All times, the shortest first.
    ///
    /// # Panics
    /// When a port panicked.
    #[must_use]
    pub fn sorted(&self) -> Vec<f64> {
        let mut times = self.times.lock().expect("nobody panicked").clone();
        times.sort_by(f64::total_cmp);
        times
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

/// Receives from a port that always has packets, a burst at a time, at a rate. The first packet of
/// each carries the time.
pub struct PacedSource {
    inner: Box<dyn Port>,
    rate: u64,
    due: u64,
    latency: Latency,
}

impl PacedSource {
    /// At most so many packets a second.
    #[must_use]
    pub fn new(inner: Box<dyn Port>, rate: u64, latency: &Latency) -> Self {
        Self { inner, rate, due: 0, latency: latency.clone() }
    }
}

/// Sends by a port, and notes how long packets with a stamp took.
pub struct StampedSink {
    inner: Box<dyn Port>,
    latency: Latency,
}

impl StampedSink {
    /// Around this port.
    #[must_use]
    pub fn new(inner: Box<dyn Port>, latency: &Latency) -> Self {
        Self { inner, latency: latency.clone() }
    }
}

impl Port for PacedSource {
    pass_on!(inner: name, kind, attach, send, finish, statistics);

    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError> {
        let now = self.latency.now();
        if now < self.due {
            return Ok(Received::Idle { next: Some(Duration::ZERO) });
        }
        // What was missed is not made up for.
        self.due = (self.due + max as u64 * 1_000_000_000 / self.rate).max(now);
        let before = into.len();
        let received = self.inner.receive(pool, into, max)?;
        for (place, packet) in into[before..].iter().enumerate() {
            let stamp = if place == 0 { now } else { 0 };
            if let Some(bytes) = pool.bytes_mut(packet.descriptor).and_then(|b| b.get_mut(STAMP)) {
                bytes.copy_from_slice(&stamp.to_ne_bytes());
            }
        }
        Ok(received)
    }
}

impl Port for StampedSink {
    pass_on!(inner: name, kind, attach, finish, statistics);

    fn receive(
        &mut self,
        _: &mut Pool,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Result<Received, PortError> {
        Ok(Received::Waiting)
    }
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        let now = self.latency.now();
        for packet in packets.iter() {
            let bytes = pool.bytes(packet.descriptor).and_then(|bytes| bytes.get(STAMP));
            let stamp = bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
            if stamp != 0 {
                let mut times = self.latency.times.lock().expect("nobody panicked");
                times.push(now.saturating_sub(stamp) as f64);
            }
        }
        self.inner.send(pool, packets)
    }
}
