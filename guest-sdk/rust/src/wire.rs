//! Typed views of headers, in the manner of smoltcp: a view wraps bytes, is checked once, and reads
//! and writes fields where they lie. It begins at its header's first byte and may have more bytes
//! behind it than the packet.
//!
//! Owns: the layout of single headers. Must not know: which header follows which; for that see
//! [`parse`](crate::parse).
//!
//! ```
//! use weir_sdk::wire::{Ipv4, Udp};
//! # let mut frame = Vec::new();
//! # etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
//! #     .udp(1000, 53).write(&mut frame, b"query").unwrap();
//! let mut ip = Ipv4::new_checked(&mut frame[14..])?;
//! ip.set_destination(0x0a00_0009);
//! ip.fill_checksum();
//! let pseudo = ip.pseudo_header();
//! let mut udp = Udp::new_checked(ip.payload_mut())?;
//! udp.set_destination_port(5353);
//! udp.fill_checksum(pseudo);
//! # assert!(etherparse::PacketHeaders::from_ethernet_slice(&frame).is_ok());
//! # Ok::<(), weir_sdk::wire::Error>(())
//! ```

use std::fmt;

mod arp;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use arp::Arp;
pub use ethernet::{Ethernet, Vlan};
pub use icmp::{Icmpv4, Icmpv6};
pub use ipv4::Ipv4;
pub use ipv6::{Extension, Extensions, Ipv6};
pub use tcp::Tcp;
pub use udp::Udp;

/// Why bytes are not the header that they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There are fewer bytes than the header has, or says that it and its payload have.
    Truncated {
        /// Which header.
        header: &'static str,
        /// Bytes that it takes.
        needed: usize,
        /// Bytes that there are.
        found: usize,
    },
    /// A field has a value that this header cannot have.
    Malformed {
        /// Which header.
        header: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { header, needed, found } => {
                write!(f, "{header}: {found} bytes where there should be {needed}")
            }
            Self::Malformed { header, reason } => write!(f, "{header}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// A number or address as headers have it: big-endian.
trait Field: Sized {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Field for $number {
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<Self>()];
                raw.copy_from_slice(&bytes[..size_of::<Self>()]);
                Self::from_be_bytes(raw)
            }
            #[inline]
            fn write(self, bytes: &mut [u8]) {
                bytes[..size_of::<Self>()].copy_from_slice(&self.to_be_bytes());
            }
        }
    )* };
}
numbers!(u8, u16, u32, u128);

impl Field for [u8; 6] {
    #[inline]
    fn read(bytes: &[u8]) -> Self {
        [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]
    }
    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..6].copy_from_slice(&self);
    }
}

/// A view: its name, its shortest header, and its whole fields with their offsets.
macro_rules! view {
    ($(#[$meta:meta])* $name:ident, $least:literal bytes, {
        $($(#[$field_meta:meta])* $get:ident, $set:ident: $kind:ty = $at:literal;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<T>(T);

        impl<T: AsRef<[u8]>> $name<T> {
            /// Bytes of the shortest header.
            pub const LEAST: usize = $least;

            /// A view of bytes that begin with this header.
            ///
            /// # Errors
            /// What about the bytes is not as this header has it.
            #[inline]
            pub fn new_checked(bytes: T) -> Result<Self, $crate::wire::Error> {
                let found = bytes.as_ref().len();
                if found < $least {
                    return Err($crate::wire::Error::Truncated {
                        header: stringify!($name),
                        needed: $least,
                        found,
                    });
                }
                let view = Self(bytes);
                view.check()?;
                Ok(view)
            }

            /// The bytes, from the header's first.
            #[must_use]
            #[inline]
            pub fn into_inner(self) -> T {
                self.0
            }

            $(
                $(#[$field_meta])*
                #[must_use]
                #[inline]
                pub fn $get(&self) -> $kind {
                    $crate::wire::Field::read(&self.0.as_ref()[$at..])
                }
            )*
        }

        impl<T: AsRef<[u8]> + AsMut<[u8]>> $name<T> {
            $(
                /// Writes what the function of the same name reads.
                #[inline]
                pub fn $set(&mut self, value: $kind) {
                    $crate::wire::Field::write(value, &mut self.0.as_mut()[$at..]);
                }
            )*
        }
    };
}
use view;

/// Checks that a header which says that it and its payload have `needed` bytes has them.
fn fits(header: &'static str, needed: usize, found: usize) -> Result<(), Error> {
    if needed <= found { Ok(()) } else { Err(Error::Truncated { header, needed, found }) }
}
