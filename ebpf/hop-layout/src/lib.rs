//! What the program `message-hop` and the host both know: the 16 bytes of a descriptor, the names
//! of the maps, and the plain data in them.
//!
//! Owns: these layouts. Must not know: how either side reads or writes them, or what a descriptor's
//! kind means to its reader.

#![no_std]
#![forbid(unsafe_code)]

/// Name of the `sk_msg` program in its object file.
pub const PROGRAM: &str = "weir_hop";
/// Name of the `sk_skb` program that joins two connections.
pub const JOIN_PROGRAM: &str = "weir_join";
/// Name of the SOCKHASH of ends, by the end's key.
pub const SOCKETS: &str = "SOCKETS";
/// Name of the socket storage that says which key a socket has.
pub const KEYS: &str = "KEYS";
/// Name of the map of [`End`]s, by key.
pub const ENDS: &str = "ENDS";
/// Name of the map of routes: the number of a hop to the key of the socket that it leads to.
pub const ROUTES: &str = "ROUTES";
/// Name of the map of [`Counts`], by the sender's key, for each CPU.
pub const COUNTS: &str = "COUNTS";
/// Name of the SOCKHASH of joined sockets, by their own cookie: the program runs for what they
/// receive.
pub const JOINED: &str = "JOINED";
/// Name of the SOCKHASH of where it goes: the cookie of the one socket to the other socket. No
/// program runs for it, so that both are here before either is in [`JOINED`].
pub const OTHERS: &str = "OTHERS";
/// Name of the map of bytes that came from a joined socket, by its cookie.
pub const JOINED_BYTES: &str = "JOINED_BYTES";

/// Ends at one time, in a hub: each worker has two.
pub const ENDS_MAX: u32 = 4096;
/// Routes at one time.
pub const ROUTES_MAX: u32 = 4096;
/// Sockets that are joined at one time, in a process.
pub const JOINED_MAX: u32 = 16384;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;
/// Descriptors in a message at most.
pub const BATCH: usize = 64;
/// Descriptors that are under way in one direction at most: sent, and not yet granted back by
/// whoever reads them.
pub const WINDOW: u32 = 1024;
/// How many grants may be under way beyond [`WINDOW`].
pub const GRANTS: u32 = 64;

/// [`Descriptor::kind`] that the hop itself uses: the sender of this has read
/// [`Descriptor::length`] descriptors. It is the first of its message.
pub const KIND_GRANT: u8 = 0xff;

/// What goes from process to process: a word about bytes that lie in shared memory.
///
/// ```text
/// byte  0        4      6   7   8        12       16
///       | exchange | hop | g | k | offset | length |     all in little-endian order
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Which exchange this is about; the gateway's number, opaque here.
    pub exchange: u32,
    /// The route it takes. Ends write their own number here.
    pub hop: u16,
    /// The lower eight bits of the worker's generation. Ends write it.
    pub generation: u8,
    /// What it says: 0 to 254 mean what the two owners agreed on; see [`KIND_GRANT`].
    pub kind: u8,
    /// Where the bytes begin, in the shared memory.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
}

impl Descriptor {
    /// As it is sent.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let ([a, b, c, d], [e, f]) = (self.exchange.to_le_bytes(), self.hop.to_le_bytes());
        let ([i, j, k, l], [m, n, o, p]) = (self.offset.to_le_bytes(), self.length.to_le_bytes());
        [a, b, c, d, e, f, self.generation, self.kind, i, j, k, l, m, n, o, p]
    }

    /// From what was received. Every 16 bytes are a descriptor; whether it makes sense is for its
    /// reader to say.
    #[must_use]
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; DESCRIPTOR]) -> Self {
        let [a, b, c, d, e, f, generation, kind, i, j, k, l, m, n, o, p] = bytes;
        Self {
            exchange: u32::from_le_bytes([a, b, c, d]),
            hop: u16::from_le_bytes([e, f]),
            generation,
            kind,
            offset: u32::from_le_bytes([i, j, k, l]),
            length: u32::from_le_bytes([m, n, o, p]),
        }
    }
}

/// [`End::role`]: it sends to wherever the route of its descriptors leads.
pub const ROLE_GATEWAY: u32 = 1;
/// [`End::role`]: it sends to [`End::peer`] and to nobody else.
pub const ROLE_WORKER: u32 = 2;

/// What the program knows about an end: who it is, and what it may.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// [`ROLE_GATEWAY`], [`ROLE_WORKER`], or 0: nobody, who may nothing.
    pub role: u32,
    /// The key of the end at the other side.
    pub peer: u32,
    /// The worker's number.
    pub hop: u32,
    /// The worker's generation, the lower eight bits.
    pub generation: u32,
    /// Descriptors it has sent so far; of workers only.
    pub sent: u64,
    /// How many of these its gateway has granted back.
    pub granted: u64,
}

impl End {
    /// As it lies in the map: words in the machine's byte order.
    #[must_use]
    pub const fn words(&self) -> [u64; 4] {
        let low = self.role.to_ne_bytes();
        let high = self.peer.to_ne_bytes();
        let first = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
        let low = self.hop.to_ne_bytes();
        let high = self.generation.to_ne_bytes();
        let second = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
        [u64::from_ne_bytes(first), u64::from_ne_bytes(second), self.sent, self.granted]
    }
}

/// What became of the messages that an end sent, as one CPU saw them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were redirected.
    pub messages: u64,
    /// Descriptors in them.
    pub descriptors: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages dropped because no route has this number, or its socket is gone.
    pub no_route: u64,
    /// Messages dropped because they are of another generation than the worker.
    pub stale: u64,
    /// Messages dropped because the sender may not say this: a worker under another's number.
    pub refused: u64,
    /// Messages dropped because they are not 1 to [`BATCH`] descriptors.
    pub malformed: u64,
    /// Messages dropped because the worker sent more than was granted.
    pub flooded: u64,
}

/// Words of [`Counts`] in the map, in its order.
pub const COUNTS_WORDS: usize = size_of::<Counts>() / size_of::<u64>();
