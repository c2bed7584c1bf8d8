//! Shared memory as the kernel sees it: sealed, mapped twice, the same physical pages.

use std::fs;
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat, ftruncate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use weir_layout::{CLOCK, DESCRIPTORS, Descriptor};
use weir_pool::{HUGE_PAGE, HugePages, Memory, PoolError};

/// Number of the physical page behind an address of this process, or `None` where the kernel hides
/// it (only root may see it). `Documentation/admin-guide/mm/pagemap.rst`.
fn physical_page(address: usize) -> Option<u64> {
    let map = fs::File::open("/proc/self/pagemap").expect("pagemap");
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, (address / 4096 * 8) as u64).expect("a page of this process");
    let entry = u64::from_le_bytes(entry);
    assert!(entry >> 63 == 1, "page {address:#x} is not present");
    let frame = entry & ((1 << 55) - 1);
    (frame != 0).then_some(frame)
}

#[test]
fn two_mappings_are_one_physical_page() {
    for huge in [HugePages::Never, HugePages::Auto] {
        let mut memory = Memory::new("test", 2 * HUGE_PAGE, huge).expect("memory");
        // SAFETY: a new mapping at an address of the kernel's choice.
        let other = unsafe {
            mmap(
                ptr::null_mut(),
                memory.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory.fd(),
                0,
            )
        }
        .expect("mmap");
        let word = other.cast::<u64>();
        for offset in (0..memory.len()).step_by(64 << 10) {
            memory.set(offset, offset as u64 ^ 0x5555);
            // SAFETY: within the mapping, aligned; nobody else writes.
            let seen = unsafe { word.byte_add(offset).read_volatile() };
            assert_eq!(seen, offset as u64 ^ 0x5555);
            // SAFETY: as above.
            unsafe { word.byte_add(offset).write_volatile(7) };
            assert_eq!(memory.get::<u64>(offset), 7);
            let here = physical_page(memory.as_ptr() as usize + offset);
            let there = physical_page(other as usize + offset);
            match (here, there) {
                (Some(here), Some(there)) => assert_eq!(here, there, "offset {offset:#x}"),
                _ => println!("not root: physical page numbers are hidden, contents compared only"),
            }
        }
        // SAFETY: the mapping made above, not used any more.
        unsafe { munmap(other, memory.len()) }.expect("munmap");
    }
}

#[test]
fn memory_is_zeroed_aligned_and_cannot_be_resized() {
    for (bytes, huge, page) in [
        (1, HugePages::Auto, 4096),
        (4096, HugePages::Never, 4096),
        (3 * HUGE_PAGE + 1, HugePages::Never, 4096),
        (3 * HUGE_PAGE + 1, HugePages::Auto, HUGE_PAGE),
    ] {
        let memory = Memory::new("test", bytes, huge).expect("memory");
        assert_eq!(memory.len(), bytes.next_multiple_of(4096));
        assert_eq!(memory.page_bytes(), page);
        assert_eq!(memory.as_ptr() as usize % page, 0);
        assert_eq!(fstat(memory.fd()).expect("stat").st_size as usize, memory.len());
        assert_eq!(memory.get::<u64>(memory.len() - 8), 0);

        let seals = fcntl_get_seals(memory.fd()).expect("seals");
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        assert!(ftruncate(memory.fd(), 0).is_err());
        assert!(ftruncate(memory.fd(), 1 << 30).is_err());
    }
}

/// The kernel's word for it, in `/proc/self/smaps`.
#[test]
fn huge_pages_are_huge() {
    let mut memory = Memory::new("huge", 2 * HUGE_PAGE, HugePages::Auto).expect("memory");
    memory.set(0, 1u8);
    memory.set(HUGE_PAGE, 1u8);
    let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
    let ours = smaps.split("VmFlags").find(|mapping| mapping.contains("memfd:huge")).expect("it");
    let huge = ours.lines().find(|line| line.starts_with("ShmemPmdMapped")).expect("a count");
    assert_eq!(huge.split_whitespace().nth(1), Some("4096"), "{ours}");
}

#[test]
fn memory_is_given_back() {
    let mappings = || {
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        maps.lines().filter(|line| line.contains("memfd:given-back")).count()
    };
    let memory = Memory::new("given-back", HUGE_PAGE, HugePages::Auto).expect("memory");
    assert_eq!(mappings(), 1);
    drop(memory);
    assert_eq!(mappings(), 0);
}

#[test]
fn values_lie_where_the_layout_says() {
    let mut memory = Memory::new("test", 0x1_0000, HugePages::Never).expect("memory");
    memory.set(DESCRIPTORS + 8, Descriptor { offset: 0x0102_0304, length: 0x0506_0708 });
    let mut bytes = [0u8; 16];
    memory.copy_out(DESCRIPTORS, &mut bytes);
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5]);
    memory.copy_in(CLOCK, &[1u64, 2]);
    assert_eq!((memory.get::<u64>(CLOCK), memory.get::<u32>(CLOCK + 8)), (1, 2));
}

#[test]
#[should_panic(expected = "outside 65536 bytes")]
fn a_value_may_not_leave_the_memory() {
    let memory = Memory::new("test", 0x1_0000, HugePages::Never).expect("memory");
    let _ = memory.get::<u64>(0xfffc);
}

#[test]
#[should_panic(expected = "misaligned")]
fn a_value_must_be_aligned() {
    let memory = Memory::new("test", 0x1_0000, HugePages::Never).expect("memory");
    let _ = memory.get::<u32>(2);
}

#[test]
#[should_panic(expected = "outside")]
fn counts_do_not_overflow() {
    let memory = Memory::new("test", 0x1_0000, HugePages::Never).expect("memory");
    let _ = memory.get::<u64>(usize::MAX - 7);
}

#[test]
fn what_cannot_be_made_is_an_error() {
    let huge = HugePages::Never;
    assert!(matches!(Memory::new("test", 0, huge), Err(PoolError::Empty { .. })));
    assert!(matches!(Memory::new("a\0b", 4096, huge), Err(PoolError::Name { .. })));
    assert!(matches!(Memory::new(&"x".repeat(300), 4096, huge), Err(PoolError::Name { .. })));
    let error = Memory::new("test", usize::MAX - 4096, huge).expect_err("more than there is");
    assert!(error.to_string().contains("ftruncate"), "{error}");
}
