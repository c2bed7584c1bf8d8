//! The physical page that a port wrote is the page that the guest reads and the page that leaves.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use weir_chain::{Mode, Prepared, board};
use weir_layout::Metadata;
use weir_pool::Packet;
use weir_sandbox::{Sandbox, SandboxConfig, Shared};
use weir_tests::bench_plane::{Plane, chain, function};
use weir_tests::wat_guest::{self, each};

const PAGE: u64 = 4096;

/// All mappings of the pool's memfd in this process: first address and the file offset there.
fn mappings(name: &str) -> Vec<(u64, u64, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    maps.lines()
        .filter(|line| line.contains(&format!("memfd:{name}")))
        .map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            (hex(start), hex(end), hex(fields.nth(1).unwrap()))
        })
        .collect()
}

/// The physical frame behind an address; none if it was never touched there. 0 without the
/// privilege to see it.
fn frame_of(address: u64) -> Option<u64> {
    let mut entry = [0; 8];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut entry, address / PAGE * 8).unwrap();
    let entry = u64::from_le_bytes(entry);
    (entry >> 63 == 1).then_some(entry & ((1 << 55) - 1))
}

#[test]
fn one_physical_page_from_port_to_port() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let mut plane = Plane::new(64);
    let window = Shared::new(plane.pool.memory()).unwrap();
    // Two functions, one after the other: the first adds 1 to every byte it sees, the second 2.
    let add = |n: u8| {
        wat_guest::admitted(&each(&format!(
            "(i32.store8 (local.get $p) (i32.add (i32.load8_u (local.get $p)) (i32.const {n})))"
        )))
    };
    let functions = vec![function("a", add(1), true), function("b", add(2), true)];
    let prepared = Prepared::new(&sandbox, chain(functions), Mode::Linked).unwrap();
    let mut executor = prepared.instantiate::<Plane>(&sandbox, &window, 2048).unwrap();
    let buffer = plane.pool.take().unwrap();
    let descriptor = plane.pool.place(buffer, &[40; 64]).unwrap();
    let packet = Packet { descriptor, metadata: Metadata::default(), time: 0, buffer, cut: 0 };
    board::fill(executor.board_mut(), plane.pool.memory_mut(), &[packet], 0, 0);
    let mut lent = Some(plane);
    executor.run(&mut lent, 1, 0, false).unwrap();
    let plane = lent.unwrap();
    // What leaves is read from the pool, at the place the port wrote it to.
    let mut left = None;
    board::ends(executor.board(), |_, descriptor, _| left = Some(descriptor));
    assert_eq!(left, Some(descriptor));
    assert_eq!(plane.pool.bytes(descriptor).unwrap()[..2], [43, 40]);

    let file_page = u64::from(descriptor.offset) / PAGE * PAGE;
    let places: Vec<u64> = mappings("test")
        .into_iter()
        .filter(|(start, end, offset)| (*offset..offset + (end - start)).contains(&file_page))
        .map(|(start, _, offset)| start + (file_page - offset))
        .collect();
    assert_eq!(places.len(), 3, "the host and two functions have it mapped: {places:x?}");
    let frames: Vec<Option<u64>> = places.iter().map(|address| frame_of(*address)).collect();
    assert!(frames.iter().all(Option::is_some), "all three touched it: {frames:?}");
    if frames[0] == Some(0) {
        println!("SKIPPED the comparison of physical pages: only root may see them");
        return;
    }
    assert_eq!(frames[0], frames[1]);
    assert_eq!(frames[0], frames[2]);
}
