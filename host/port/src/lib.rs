//! Places where packets enter and leave.
//!
//! Owns: the [`Port`] trait, its counters, and the kinds of port that need nothing but files and
//! memory: [`pcap`] (captures in, captures out) and [`memory`] (generator, sink, and a channel for
//! tests). Must not know: chains, functions, verdicts, or workers (what steering rules say of
//! chains it passes on as numbers); a port fills buffers of a pool with packets and takes filled
//! buffers back.
//!
//! ```text
//!   file, generator ──receive──> Vec<Packet> ──(chain)──> Vec<Packet> ──send──> file, sink
//!                        │ takes buffers                        gives buffers │
//!                        └──────────────────── Pool <─────────────────────────┘
//! ```

#![forbid(unsafe_code)]

mod clock;
mod details;
mod error;
pub mod memory;
mod pass_on;
pub mod pcap;
mod statistics;
mod steer;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub use clock::{BurstClock, monotonic};
pub use details::{Details, Inspect};
pub use error::PortError;
pub use statistics::{PortCounts, PortStatistics};
pub use steer::{OffloadedRules, Place, Steer};
#[doc(no_inline)]
pub use weir_layout::Metadata;
#[doc(no_inline)]
pub use weir_pool::{Packet, Pool};
#[doc(no_inline)]
pub use weir_steering::Key;

/// A place where packets enter and leave. Owned and driven by one worker.
pub trait Port: Send {
    /// The name the operator gave it.
    fn name(&self) -> &str;

    /// The kind of port: `pcap`, `memory`, ...
    fn kind(&self) -> &'static str;

    /// Makes the port ready to work with this pool, the only one that later calls name: a device
    /// that writes to memory by itself is told of the pool's memory here, and may take buffers to
    /// receive into. Called once, before everything else.
    ///
    /// # Errors
    /// When the device refuses the memory, or the pool has too few buffers for it.
    fn attach(&mut self, pool: &mut Pool) -> Result<(), PortError> {
        let _ = pool;
        Ok(())
    }

    /// Says what metadata the worker gives packets that come in by this port, but for their hash.
    /// The answer is whether the port does that by itself from now on.
    fn stamp(&mut self, metadata: Metadata) -> bool {
        let _ = metadata;
        false
    }

    /// Appends at most `max` packets that came in, in order, in buffers taken from the pool.
    /// Metadata is left at its default, except for a hash that is known, or is what [`Self::stamp`]
    /// was told. Allocates nothing if `into` has room for `max` more.
    ///
    /// # Errors
    /// When the port is broken. Packets that came in before were delivered by earlier calls; a
    /// later call gives [`Received::End`].
    fn receive(
        &mut self,
        pool: &mut Pool,
        into: &mut Vec<Packet>,
        max: usize,
    ) -> Result<Received, PortError>;

    /// When the packets that [`Self::receive`] has just given came in, in ns of the [`monotonic`]
    /// clock, if the port read it anyway.
    fn received_at(&self) -> Option<u64> {
        None
    }

    /// Sends all these packets, in order. Leaves the vector empty, and every buffer given back to
    /// the pool, whatever happens.
    ///
    /// # Errors
    /// When the port is broken; what could not be sent is counted.
    fn send(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError>;

    /// Does what is due although nothing comes in or leaves: pushes on what waits to be sent, takes
    /// back what was sent, looks after the device. Called when the worker has nothing else to do,
    /// before it sleeps. The answer is when it has to be called again, if that cannot wait for
    /// [`Self::readiness`].
    ///
    /// # Errors
    /// When the port is broken, as with [`Self::receive`].
    fn settle(&mut self, pool: &mut Pool) -> Result<Option<Duration>, PortError> {
        let _ = pool;
        Ok(None)
    }

    /// Appends the descriptors by which the port says that there is something to receive or to
    /// settle: they are readable then, and stay so until it was received. The worker sleeps on
    /// them.
    fn readiness<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) {
        let _ = fds;
    }

    /// Whether this is the kernel's own network stack: what is sent here comes in there, what is
    /// received the kernel sends.
    fn is_kernel(&self) -> bool {
        false
    }

    /// Whether the port has a way to the kernel's stack.
    fn reaches_kernel(&self) -> bool {
        false
    }

    /// Gives these packets to the kernel's stack, as if they had come in there by the port's
    /// device. As with [`Self::send`], the vector is left empty and every buffer given back. Only
    /// for ports with a way there ([`Self::reaches_kernel`]).
    ///
    /// # Errors
    /// When the port is broken; what could not be given is counted.
    fn to_kernel(&mut self, pool: &mut Pool, packets: &mut Vec<Packet>) -> Result<(), PortError> {
        packets.drain(..).for_each(|packet| pool.give(packet.buffer));
        Ok(())
    }

    /// Writes out what is still buffered, and gives back every buffer that the port has. Nothing
    /// may be received or sent afterwards.
    ///
    /// # Errors
    /// When writing fails.
    fn finish(&mut self, pool: &mut Pool) -> Result<(), PortError>;

    /// The port's counters; clone them to read them from another thread.
    fn statistics(&self) -> &PortStatistics;

    /// How packets come to this port and its likes, if they are for the lanes of one chain.
    fn spreading(&self) -> Spreading {
        Spreading::Anyhow
    }

    /// Which queue flows come to, if the port spreads by [`Spreading::Symmetric`] and that can be
    /// told.
    fn placement(&self) -> Option<Placement> {
        None
    }

    /// The device's hardware address, if the port knows it.
    fn hardware_address(&self) -> Option<[u8; 6]> {
        None
    }

    /// Takes steering rules from another thread, if something before the port can decide by them.
    fn steering(&self) -> Option<Arc<dyn Steer>> {
        None
    }

    /// A function has moved this flow (one direction of it, as it comes in by this port): whatever
    /// is before the port is to see to that from now on, until [`Self::forget_flows`], whatever the
    /// rules say, and for all packets of the flow: those with another code point or other hardware
    /// addresses, ICMP errors about it, and by whichever queue they come. Never waits. The answer
    /// is whether it will; if not, the flow's packets come in, or not, as the rules say.
    fn place_flow(&mut self, flow: &Key, to: Moved) -> bool {
        let _ = (flow, to);
        false
    }

    /// What functions have decided about flows is void: whatever is before the port forgets what
    /// [`Self::place_flow`] told it.
    fn forget_flows(&mut self) {}

    /// Tells from another thread how the device behind the port is, if there is one.
    fn inspector(&self) -> Option<Arc<dyn Inspect>> {
        None
    }
}

/// Where a function has moved a flow, as what is before a port knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// To the kernel's stack: its packets do not come in.
    ToKernel,
    /// To a chain: its packets come in.
    ToChain,
}

/// The queue into which a device puts a flow, in whichever direction; none: that is not known.
pub type Placement = Arc<dyn Fn(&Key) -> Option<u16> + Send + Sync>;

/// By which rule a device with several queues puts packets into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spreading {
    /// By one that nothing can be said about: the two directions of a flow may come to different
    /// queues.
    Anyhow,
    /// By a hash that is the same for both directions of a flow. Ports that spread alike put a flow
    /// into the queues of one number.
    Symmetric {
        /// The hash.
        rule: &'static str,
        /// How many queues there are.
        queues: u16,
        /// Whatever else the queue depends on.
        table: u16,
        /// What of packets is hashed, in the words of whoever hashes.
        fields: u64,
    },
    /// Answers come to the queue that sent what they answer.
    Follows,
    /// Nothing comes in by it.
    Nothing,
}

/// What a call of [`Port::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Packets came in: they were appended, or dropped and counted. There may be more.
    Packets,
    /// Nothing now.
    Idle {
        /// When to ask again, if the port knows.
        next: Option<Duration>,
    },
    /// Nothing now; [`Port::readiness`] tells when there is something.
    Waiting,
    /// Nothing, now and for ever.
    End,
}
