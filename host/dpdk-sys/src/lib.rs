//! Bindings to the system's DPDK (22.11 or newer, found by pkg-config), as far as Weir uses it.
//!
//! Owns: the shim in C (`shim/`), which hides DPDK's inline functions and its structures, and the
//! declarations of the shim's functions. Must not know: what any of it is for; the safe layer is
//! `weir-dpdk`.
//!
//! The declarations are written by hand: they are few, they are of our own header, and a build
//! needs no libclang. Without libdpdk this crate is empty, and `DEP_DPDK_FOUND` is `0` for the
//! build scripts of its dependents.
//!
//! The shim is a shared library in the program, which [`load`] loads, and DPDK with it: a program
//! that does not use DPDK starts without its libraries, and where they are not installed.

#[cfg(dpdk)]
mod loaded;

#[cfg(dpdk)]
pub use loaded::load;
#[cfg(dpdk)]
pub use shim::*;

#[cfg(dpdk)]
#[expect(missing_docs, reason = "shim/shim.h says what each one is")]
mod shim {
    use core::ffi::{c_char, c_int, c_void};

    /// `WEIR_DPDK_BURST`
    pub const BURST: usize = 256;
    /// `WEIR_DPDK_REMOVED`
    pub const REMOVED: u8 = 1;
    /// `WEIR_DPDK_RESET`
    pub const RESET: u8 = 2;

    pub type Log = unsafe extern "C" fn(level: u32, text: *const c_char, length: usize);
    pub type Value = unsafe extern "C" fn(context: *mut c_void, name: *const c_char, value: u64);
    pub type Take =
        unsafe extern "C" fn(context: *mut c_void, offsets: *mut u32, count: u32) -> bool;
    pub type Give = unsafe extern "C" fn(context: *mut c_void, offsets: *const u32, count: u32);

    /// `struct weir_dpdk_pool`, opaque.
    #[repr(C)]
    #[derive(Debug)]
    pub struct Pool([u8; 0]);

    /// `struct weir_dpdk_bounce`, opaque.
    #[repr(C)]
    #[derive(Debug)]
    pub struct Bounce([u8; 0]);

    /// `struct weir_dpdk_flow`, opaque.
    #[repr(C)]
    #[derive(Debug)]
    pub struct Flow([u8; 0]);

    /// `struct weir_dpdk_match`
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Match {
        pub has_destination_mac: bool,
        pub has_source_mac: bool,
        pub has_vlan: bool,
        pub has_ethertype: bool,
        pub has_protocol: bool,
        pub has_dscp: bool,
        pub no_fragment: bool,
        pub destination_mac: [u8; 6],
        pub source_mac: [u8; 6],
        pub protocol: u8,
        pub dscp: u8,
        pub vlan: u16,
        pub ethertype: u16,
        pub source_port: u16,
        pub source_port_mask: u16,
        pub destination_port: u16,
        pub destination_port_mask: u16,
        pub source: [u8; 16],
        pub source_mask: [u8; 16],
        pub destination: [u8; 16],
        pub destination_mask: [u8; 16],
    }

    /// `struct rte_mbuf`, opaque.
    #[repr(C)]
    #[derive(Debug)]
    pub struct Frame([u8; 0]);

    #[repr(C)]
    #[derive(Debug)]
    pub struct Owner {
        pub context: *mut c_void,
        pub take: Take,
        pub give: Give,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub struct Info {
        pub driver: [c_char; 64],
        pub min_rx_bytes: u32,
        pub max_rx_bytes: u32,
        pub min_mtu: u32,
        pub max_mtu: u32,
        pub max_rx_queues: u32,
        pub max_tx_queues: u32,
        pub rx_descriptors_min: u16,
        pub rx_descriptors_max: u16,
        pub rx_descriptors_align: u16,
        pub rx_descriptors_default: u16,
        pub tx_descriptors_min: u16,
        pub tx_descriptors_max: u16,
        pub tx_descriptors_align: u16,
        pub tx_descriptors_default: u16,
        pub rss_table: u16,
        pub rx_checksums: bool,
        pub tx_checksums: bool,
        pub rss_fields: u64,
        pub mac: [u8; 6],
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Setup {
        pub mtu: u32,
        pub queues: u16,
        pub checksums: bool,
        pub interrupts: bool,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Link {
        pub mbit: u32,
        pub up: bool,
        pub full_duplex: bool,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Stats {
        pub rx_missed: u64,
        pub rx_errors: u64,
        pub rx_no_buffer: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Packet {
        pub offset: u32,
        pub length: u32,
        pub metadata: u64,
        pub time: u64,
        pub room: u32,
        pub cut: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub struct Sending {
        pub shortest: u32,
        pub longest: u32,
        pub retries: u32,
        pub checksums: bool,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Said {
        pub bytes: u64,
        pub too_large: u32,
        pub no_room: u32,
        pub bad_checksum: u32,
    }

    crate::loaded::shim_functions! {
        pub fn weir_dpdk_version() -> *const c_char;
        pub fn weir_dpdk_init(argc: c_int, argv: *mut *mut c_char, log: Log) -> c_int;
        pub fn weir_dpdk_thread_register() -> c_int;
        pub fn weir_dpdk_thread_unregister();

        pub fn weir_dpdk_pool_new(
            window: *mut u8,
            rooms_start: u32,
            rooms: u32,
            room_bytes: u32,
            headroom: u32,
            cache: u32,
            owner: *const Owner,
            made: *mut *mut Pool,
        ) -> c_int;
        pub fn weir_dpdk_pool_flush(pool: *mut Pool);
        pub fn weir_dpdk_pool_free(pool: *mut Pool);
        pub fn weir_dpdk_bounce_new(
            buffers: u32,
            buffer_bytes: u32,
            made: *mut *mut Bounce,
        ) -> c_int;
        pub fn weir_dpdk_bounce_free(bounce: *mut Bounce);

        pub fn weir_dpdk_probe(
            bus: *const c_char,
            name: *const c_char,
            arguments: *const c_char,
            port: *mut u16,
        ) -> c_int;
        pub fn weir_dpdk_remove(bus: *const c_char, name: *const c_char, port: u16) -> c_int;
        pub fn weir_dpdk_info(port: u16, info: *mut Info) -> c_int;
        pub fn weir_dpdk_configure(port: u16, setup: *const Setup) -> c_int;
        pub fn weir_dpdk_spread(port: u16, queues: u16) -> c_int;
        pub fn weir_dpdk_adjust_descriptors(port: u16, rx: *mut u16, tx: *mut u16) -> c_int;
        pub fn weir_dpdk_rx_queue(
            port: u16,
            queue: u16,
            descriptors: u16,
            pool: *mut Pool,
            bounce: *mut Bounce,
        ) -> c_int;
        pub fn weir_dpdk_tx_queue(port: u16, queue: u16, descriptors: u16) -> c_int;
        pub fn weir_dpdk_start(port: u16) -> c_int;
        pub fn weir_dpdk_stop(port: u16) -> c_int;
        pub fn weir_dpdk_scatters(port: u16, queue: u16) -> bool;
        pub fn weir_dpdk_dma_map(port: u16, start: *mut u8, bytes: usize) -> c_int;
        pub fn weir_dpdk_dma_unmap(port: u16, start: *mut u8, bytes: usize) -> c_int;
        pub fn weir_dpdk_set_promiscuous(port: u16, on: bool) -> c_int;
        pub fn weir_dpdk_set_multicast(port: u16, on: bool) -> c_int;
        pub fn weir_dpdk_is_promiscuous(port: u16) -> bool;
        pub fn weir_dpdk_set_mtu(port: u16, mtu: u16) -> c_int;
        pub fn weir_dpdk_mtu(port: u16, mtu: *mut u16) -> c_int;
        pub fn weir_dpdk_link(port: u16, link: *mut Link) -> c_int;
        pub fn weir_dpdk_stats(port: u16, stats: *mut Stats) -> c_int;
        pub fn weir_dpdk_xstats(port: u16, context: *mut c_void, each: Value) -> c_int;
        pub fn weir_dpdk_is_removed(port: u16) -> bool;
        pub fn weir_dpdk_watch(port: u16, flag: *mut u8) -> c_int;
        pub fn weir_dpdk_unwatch(port: u16, flag: *mut u8);

        pub fn weir_dpdk_interrupt_add(port: u16, queue: u16, epoll: c_int) -> c_int;
        pub fn weir_dpdk_interrupt_remove(port: u16, queue: u16, epoll: c_int) -> c_int;
        pub fn weir_dpdk_interrupt_on(port: u16, queue: u16) -> c_int;
        pub fn weir_dpdk_interrupt_off(port: u16, queue: u16) -> c_int;
        pub fn weir_dpdk_interrupts_clear(epoll: c_int) -> c_int;

        pub fn weir_dpdk_flow_drop(
            port: u16,
            matching: *const Match,
            count: bool,
            made: *mut *mut Flow,
            message: *mut c_char,
            bytes: usize,
        ) -> c_int;
        pub fn weir_dpdk_flow_remove(port: u16, flow: *mut Flow) -> c_int;
        pub fn weir_dpdk_flow_packets(port: u16, flow: *mut Flow, packets: *mut u64) -> c_int;

        pub fn weir_dpdk_receive(port: u16, queue: u16, frames: *mut *mut Frame, max: u16) -> u16;
        pub fn weir_dpdk_take(
            pool: *mut Pool,
            frames: *mut *mut Frame,
            count: u16,
            metadata: u64,
            time: u64,
            verify: bool,
            packets: *mut Packet,
            said: *mut Said,
        ) -> u16;
        pub fn weir_dpdk_send(
            port: u16,
            queue: u16,
            pool: *mut Pool,
            packets: *const Packet,
            count: u16,
            how: *const Sending,
            bytes: *mut u64,
        ) -> i32;
        pub fn weir_dpdk_take_back(port: u16, queue: u16);
        pub fn weir_dpdk_send_copies(
            port: u16,
            queue: u16,
            pool: *mut Pool,
            bounce: *mut Bounce,
            packets: *const Packet,
            count: u16,
            how: *const Sending,
            bytes: *mut u64,
        ) -> i32;
    }
}
