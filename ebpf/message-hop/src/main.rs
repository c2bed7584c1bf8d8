//! The programs of the message plane's hops: [`weir_hop`] takes descriptors from the sender's
//! socket into the socket of the next hop, without the TCP stack between; [`weir_join`] passes what
//! one TCP connection brings on to another.
//!
//! Fails closed: what a sender may not say, or what leads nowhere, is dropped and counted, and the
//! sender's system call says `EACCES`. Only the first descriptor of a message is looked at; its
//! reader checks all of them.

#![no_std]
#![no_main]

mod hop;
mod join;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
