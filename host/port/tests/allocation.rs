//! The hot path allocates nothing: counted by an allocator of the test's own.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Endian, file, pool};
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_port::pcap::{PcapConfig, PcapPort};
use weir_port::{Port, Received};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is the system's allocator; counting touches a thread-local without a
// destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of 1,000 bursts, after 10 to warm up.
fn allocations(port: &mut dyn Port) -> u64 {
    let mut pool = pool(64, 2048);
    let mut packets = Vec::with_capacity(32);
    let mut before = 0;
    for burst in 0..1010 {
        if burst == 10 {
            before = ALLOCATIONS.get();
        }
        assert_eq!(port.receive(&mut pool, &mut packets, 32).expect("more"), Received::Packets);
        assert_eq!(packets.len(), 32);
        port.send(&mut pool, &mut packets).expect("sent");
    }
    ALLOCATIONS.get() - before
}

#[test]
fn bursts_cost_no_allocation() {
    let shape = Shape { flows: 100, frame_bytes: 60, protocol: Protocol::Udp };
    let templates = Templates::flows(shape).expect("templates");
    for copy in [true, false] {
        let config = GeneratorConfig { copy, ..GeneratorConfig::new(templates.clone()) };
        assert_eq!(allocations(&mut MemoryPort::new("memory", Some(config), Keep::Nothing)), 0);
    }

    let directory = tempfile::tempdir().expect("directory");
    let endian = Endian { big: false };
    let classic =
        [endian.classic(0xa1b2_c3d4, 1), endian.record(1, 2, &[7; 60], 60).repeat(33_000)];
    let ng = [
        endian.section(),
        endian.interface(1, 0, None, 0),
        // With options.
        endian.enhanced(0, 5, &[7; 60], 60).repeat(33_000),
    ];
    for (input, output, bytes) in
        [("a.pcap", "b.pcapng", classic.concat()), ("a.pcapng", "b.pcap", ng.concat())]
    {
        let input = Some(file(&directory, input, &bytes));
        let output = Some(directory.path().join(output));
        let config = PcapConfig { input, output, ..PcapConfig::default() };
        assert_eq!(allocations(&mut PcapPort::open("pcap", &config).expect("port")), 0);
    }
}
