//! Heads: whatever a function writes into one, the host does not panic, and what would be sent is
//! one message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_tests::heads::abuse;

fuzz_target!(|data: &[u8]| abuse(data));
