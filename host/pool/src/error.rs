//! What can go wrong when a pool is made. Nothing on the hot path returns one of these.

use std::io;

/// Why shared memory or a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The kernel refused a step of making the memory.
    #[error("cannot make {bytes} bytes of shared memory \"{name}\": {step} failed: {source}")]
    System {
        /// Name the memory was to have.
        name: String,
        /// Bytes asked for.
        bytes: usize,
        /// The system call that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Shared memory of no bytes.
    #[error("shared memory \"{name}\" of 0 bytes: ask for at least one page (4096)")]
    Empty {
        /// Name the memory was to have.
        name: String,
    },
    /// Names go to the kernel and to logs.
    #[error("shared memory name {name:?} contains a zero byte or is longer than 200 bytes")]
    Name {
        /// The name as given.
        name: String,
    },
    /// A room size that windows cannot have.
    #[error(
        "room-bytes is {room_bytes}, it must be a power of two from 512 to 65536 (2048 suits 1500-byte MTUs)"
    )]
    RoomBytes {
        /// The size as given.
        room_bytes: u32,
    },
    /// No rooms, or more than a window can hold.
    #[error(
        "{rooms} rooms of {room_bytes} bytes: a pool has at least one room and at most {most} of this size (2 GiB in all)"
    )]
    Rooms {
        /// The number as given.
        rooms: u32,
        /// Bytes of each.
        room_bytes: u32,
        /// The most rooms of this size.
        most: u32,
    },
}
