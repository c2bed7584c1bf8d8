//! The eBPF object: what is built in, and how it is loaded.

use aya::Ebpf;

/// What `scripts/build-ebpf` made; empty if it had not run when this was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/message-hop.o"));

/// Loads maps and programs, or says why not and what to do.
pub(crate) fn load() -> Result<Ebpf, String> {
    if OBJECT.is_empty() {
        return Err("message-hop.o was not there when this was built; run scripts/build-ebpf, then build again".into());
    }
    Ebpf::load(OBJECT).map_err(|error| format!("the kernel refuses its maps: {}", chain(&error)))
}

/// An error with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
