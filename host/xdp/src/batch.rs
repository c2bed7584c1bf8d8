//! Entries of the table, many in one system call: bpf(2) with `BPF_MAP_UPDATE_BATCH` and `BPF_MAP_DELETE_BATCH` (Linux 5.6), which
//! aya does not have.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::maps::{HashMap, Map, MapData};
use weir_xdp_layout::Entry;

/// Key of an entry.
pub(crate) type Cell = [u64; 8];

const UPDATE: libc::c_long = 26;
const DELETE: libc::c_long = 27;
/// Entries in one call: others may want the table's buckets in between.
const MOST: usize = 4096;

/// The part of `union bpf_attr` that these two commands read.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: i32,
    element_flags: u64,
    flags: u64,
}

/// The table, for many entries at a time.
pub(crate) struct Batches(OwnedFd);

impl Batches {
    /// Of this map, if it is one of such keys and values: both are given.
    pub(crate) fn of(map: Map) -> Result<(HashMap<MapData, Cell, Entry>, Self), String> {
        let wrong =
            |error: &dyn std::fmt::Display| format!("the map cannot be written to: {error}");
        let file = match &map {
            Map::HashMap(data) => data.fd().as_fd().try_clone_to_owned(),
            _ => return Err(wrong(&"it is no hash map")),
        };
        // It looks at the sizes of keys and values.
        let table = HashMap::try_from(map).map_err(|error| wrong(&error))?;
        Ok((table, Self(file.map_err(|error| wrong(&error))?)))
    }

    /// Puts entries in.
    ///
    /// # Errors
    /// When the map has no room, or the kernel no memory. Some may be in it then.
    pub(crate) fn insert(&self, keys: &[Cell], values: &[Entry]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "each has one");
        let mut parts = keys.chunks(MOST).zip(values.chunks(MOST));
        parts.try_for_each(|(keys, values)| self.call(UPDATE, keys, values).1)
    }

    /// Takes entries out, those of them that are there.
    pub(crate) fn remove(&self, keys: &[Cell]) {
        for mut keys in keys.chunks(MOST) {
            // It stops at one that is not there.
            while let (done, Err(_)) = self.call(DELETE, keys, &[]) {
                let Some(rest) = keys.get(done + 1..) else { break };
                keys = rest;
            }
        }
    }

    /// How many entries were done, and why no more.
    fn call(
        &self,
        command: libc::c_long,
        keys: &[Cell],
        values: &[Entry],
    ) -> (usize, io::Result<()>) {
        let mut attributes = Attributes {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr().addr() as u64,
            values: values.as_ptr().addr() as u64,
            count: keys.len() as u32,
            map: self.0.as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys, and for an update as many values, of the sizes that the map has, which `of` has
        // looked at, and writes `count`. Both slices live until it is back.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>())
        };
        let done = attributes.count as usize;
        (done, if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) })
    }
}
