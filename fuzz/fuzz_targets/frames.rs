//! Frames: hashing never panics, is never 0, and is the same in both directions of a flow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_steering::flow_hash;

fuzz_target!(|data: &[u8]| {
    assert_ne!(flow_hash(data, 1), 0);
    if data.len() >= 12 && (data.len() < 14 || data[12..14] == [0x88, 0xb5]) {
        let mut back = data.to_vec();
        back[..6].copy_from_slice(&data[6..12]);
        back[6..12].copy_from_slice(&data[..6]);
        assert_eq!(flow_hash(&back, 1), flow_hash(data, 1));
    }
});
