//! What comes in by the ports, and leaves by them.

use std::time::Duration;

use weir_layout::{FLAG_REVERSE, Metadata};
use weir_port::{PortError, Received, monotonic};

use super::{Arrived, Clock, Context, Entry, FROM, Got, Pause};

/// When to ask a port again that does not say when it has something, or a reader of counters who
/// was in the way.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(1);

/// Of a packet that came in by this port.
pub(super) fn metadata(port: usize, hash: u32) -> Metadata {
    Metadata { port: port as u16, flags: if port == FROM { 0 } else { FLAG_REVERSE }, hash }
}

impl Context {
    /// Gives the ports what they have to send.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.count_out();
        self.counted.fill([0; 2]);
        for (port, packets) in self.ports.iter_mut().zip(&mut self.transmit) {
            if packets.is_empty() {
                continue;
            }
            if let Err(error) = port.send(&mut self.pool, packets) {
                self.port_errors.push(error);
            }
        }
        for (port, packets) in self.ports.iter_mut().zip(&mut self.to_kernel) {
            if packets.is_empty() {
                continue;
            }
            if let Err(error) = port.to_kernel(&mut self.pool, packets) {
                self.port_errors.push(error);
            }
        }
    }

    /// Counts the burst as come to the chain.
    #[inline]
    pub(crate) fn count_in(&mut self) {
        self.arrived = Arrived {
            first: self.burst.first().map(|packet| packet.buffer),
            packets: self.burst.len(),
            before: self.ledger.counters.packets_in,
        };
        self.ledger.counters.packets_in += self.burst.len() as u64;
        if self.ledger.observers.watch() {
            self.ledger.observers.came(self.pool.memory(), &self.burst);
        }
    }

    /// Which packet of those that came in is the one at this place of the burst, from 1. None if
    /// the burst is not as it came in.
    pub(super) fn number(&self, place: usize) -> Option<u64> {
        let Arrived { first, packets, before } = self.arrived;
        let same = first == Some(self.burst.first()?.buffer) && packets == self.burst.len();
        same.then_some(before + place as u64 + 1)
    }

    /// Counts what has to leave and was not counted yet: it is this ledger's.
    #[inline]
    pub(crate) fn count_out(&mut self) {
        let watched = self.ledger.observers.watch();
        let leaving = self.transmit.iter().zip(&self.to_kernel).zip(&mut self.counted);
        for (port, ((transmit, to_kernel), counted)) in leaving.enumerate() {
            let now = [transmit.len(), to_kernel.len()];
            if watched {
                let (observers, window) = (&mut self.ledger.observers, self.pool.memory());
                observers.leaving(port, false, window, &transmit[counted[0]..]);
                observers.leaving(port, true, window, &to_kernel[counted[1]..]);
            }
            self.ledger.counters.packets_out += (now[0] - counted[0]) as u64;
            self.ledger.counters.packets_to_kernel += (now[1] - counted[1]) as u64;
            *counted = now;
        }
    }

    /// Has the ports write out what they have, and give back their buffers.
    pub(crate) fn finish_ports(&mut self) -> Result<(), PortError> {
        let mut result = Ok(());
        for port in &mut self.ports {
            if let Err(error) = port.finish(&mut self.pool) {
                result = Err(error);
            }
        }
        if let Some(error) = self.port_errors.pop() {
            result = Err(error);
        }
        result
    }

    /// Has the ports do what is due before the worker sleeps; the answer is when they want to be
    /// asked again.
    pub(crate) fn settle(&mut self) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        for port in &mut self.ports {
            let again = port.settle(&mut self.pool).unwrap_or_else(|error| {
                self.port_errors.push(error);
                // At once: it has ended, and perhaps the lane with it.
                Some(Duration::ZERO)
            });
            next = match (next, again) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        next
    }

    /// Takes the next burst into `self.burst`; the answer is where it enters the chain. None:
    /// `pause` says why.
    #[inline]
    pub(crate) fn receive(&mut self) -> Option<usize> {
        if self.budget == 0 {
            self.pause = Pause::Turn;
            return None;
        }
        self.budget -= 1;
        if !self.ledger.entries.is_empty() {
            let start = self.take_entries();
            self.read_clock();
            return Some(start);
        }
        let mut got = if self.closed { Got::Nothing } else { self.receive_from_ports() };
        if got == Got::Burst && self.is_kernels() && self.ledger.upward.is_none() {
            self.send_for_kernel();
            got = Got::Others;
        }
        if got == Got::Burst {
            self.count_in();
            let start = self.start();
            if self.ledger.timer != 0 && self.ledger.timer <= self.now {
                // The functions' timers come first; the burst waits among the entries.
                let (reverse, moves) = (self.reverse, self.moved);
                for packet in self.burst.drain(..) {
                    self.ledger.entries.push_back(Entry { packet, start, reverse, moves });
                }
                self.pause = Pause::Timer;
                return None;
            }
            return Some(start);
        }
        if self.clock == Clock::Monotonic {
            self.read_clock();
        }
        let due = self.ledger.timer != 0 && self.ledger.timer <= self.now;
        self.pause = match (due, got) {
            (true, _) => Pause::Timer,
            (false, Got::Nothing) => Pause::Idle,
            _ => Pause::Turn,
        };
        None
    }

    /// Takes a burst of one port into `self.burst`, and the time.
    #[inline]
    pub(crate) fn receive_from_ports(&mut self) -> Got {
        let mut got = Got::Nothing;
        for turn in 0..self.asked {
            let mut port = self.first + turn;
            if port >= self.asked {
                port -= self.asked;
            }
            if self.ended[port] {
                continue;
            }
            match self.ports[port].receive(&mut self.pool, &mut self.burst, self.burst_max) {
                // Perhaps none for this lane, but the port has something to do.
                Ok(Received::Packets) => got = Got::Others,
                Ok(Received::Idle { next }) => {
                    let next = next.unwrap_or(ASK_AGAIN);
                    self.idle_for = Some(self.idle_for.map_or(next, |other| other.min(next)));
                }
                Ok(Received::Waiting) => {}
                Ok(Received::End) => self.ended[port] = true,
                Err(error) => {
                    self.port_errors.push(error);
                }
            }
            if self.burst.is_empty() {
                continue;
            }
            (self.reverse, self.came_by, self.moved) = (port != FROM, port, 0);
            if !self.stamped[port] {
                for packet in &mut self.burst {
                    packet.metadata = metadata(port, packet.metadata.hash);
                }
            }
            self.first = if port + 1 < self.asked { port + 1 } else { FROM };
            self.set_clock(self.ports[port].received_at());
            return Got::Burst;
        }
        got
    }

    /// Where a burst of this direction enters the chain.
    pub(crate) fn start(&self) -> usize {
        if self.reverse { self.ledger.functions - 1 } else { 0 }
    }

    /// Takes entries that belong together: same direction, same function, same port (what functions
    /// make of a burst's packets has the first one's), moved as often, at most a burst.
    fn take_entries(&mut self) -> usize {
        let Some(&Entry { start, reverse, packet, moves }) = self.ledger.entries.front() else {
            return 0;
        };
        let port = packet.metadata.port;
        while let Some(entry) = self.ledger.entries.front()
            && entry.start == start
            && entry.reverse == reverse
            && entry.packet.metadata.port == port
            && entry.moves == moves
            && self.burst.len() < self.burst_max
        {
            self.burst.push(entry.packet);
            self.ledger.entries.pop_front();
        }
        (self.reverse, self.moved) = (reverse, moves);
        start
    }

    /// Takes the time, which is else that of the last burst: a lane may have slept since.
    #[inline]
    pub(crate) fn read_clock(&mut self) {
        self.set_clock(None);
    }

    /// Takes this for the time, if somebody has read the monotonic clock a moment ago.
    #[inline]
    fn set_clock(&mut self, read: Option<u64>) {
        match self.clock {
            Clock::Monotonic => {
                // The machine's, as functions are told it while they are configured: timers that
                // they set there are in its time.
                self.now = read.unwrap_or_else(monotonic);
                self.wall = self.burst.first().map_or(self.wall, |packet| packet.time);
            }
            Clock::Capture => {
                if let Some(packet) = self.burst.first() {
                    self.now = self.now.max(packet.time);
                    self.wall = self.now;
                }
            }
        }
    }
}
