//! The memory packets lie in: memfd-backed pools, their buffers, and who has them.
//!
//! Owns: creating and mapping shared memory ([`Memory`]), dividing it into rooms and handing rooms
//! out ([`Pool`]), and the host's record of a packet ([`Packet`]). Must not know: Wasm, ports,
//! chains, or what the bytes of a packet mean. The bookkeeping (which buffer is out) lies in
//! ordinary host memory that is never mapped into a guest.
//!
//! ```text
//!            one memfd, as wit/window.md lays it out
//!  +------------+--------+--------+--------+-----
//!  | burst area | room 0 | room 1 | room 2 | ...      Memory: mapped once here, and again into
//!  +------------+--------+--------+--------+-----     the windows of the guests that share it
//!   descriptors  <-headroom-><packet><tailroom>
//!                     Pool: a stack of free rooms, a table of those that are out
//! ```
//!
//! # Who may touch the bytes when
//!
//! The same pages are mapped in guests, which write them while they run. Rust references to the
//! bytes ([`Pool::bytes`], [`Pool::bytes_mut`]) borrow the pool; so whoever maps a pool into a
//! guest (an `unsafe` act of its own) must let that guest run only while it holds the `Pool` by
//! `&mut`, or map it read-only for as long as that is not so (a packet function that is being
//! configured): then no reference to bytes is alive when they change. [`Memory::get`] and
//! [`Memory::set`] never form a reference and are volatile.
//!
//! A message function writes to rooms while it is configured, beside its chain on another thread.
//! So who uses [`Rooms`] copies what functions left there before it looks at it, or hands bytes on
//! without a look.
//!
//! A room that is lent ([`Pool::lend`]) is written by another thread: the pool forms no reference
//! to its bytes as long, and the other thread writes by atomic stores, so that guests which look
//! there meanwhile see some bytes or others, and nothing worse.

mod error;
mod loan;
mod memory;
mod packet;
mod pool;
mod rooms;

pub use error::PoolError;
pub use loan::{Loan, RemoteRooms};
pub use memory::{HUGE_PAGE, HugePages, Memory, Pod};
pub use packet::{BufferIndex, Packet};
pub use pool::{Accounting, Layout, Pool, PoolConfig};
pub use rooms::{Part, Room, Rooms};
