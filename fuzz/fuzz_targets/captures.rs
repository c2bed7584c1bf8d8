//! Captures: whatever the bytes, packets come out or an error does.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weir_port::pcap::CaptureReader;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = CaptureReader::new(data, Path::new("fuzzed")) else { return };
    while let Ok(Some(captured)) = reader.next() {
        assert_eq!(reader.data().len(), captured.length as usize);
        reader.pass();
    }
});
