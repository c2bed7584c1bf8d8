//! Uploads: admission never panics, and what it admits it admits again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_sandbox::admit;

fuzz_target!(|data: &[u8]| {
    if let Ok(admitted) = admit(data) {
        let again = admit(&admitted.component).expect("what was made of an upload is admissible");
        assert_eq!(again.hash, admitted.hash);
    }
});
