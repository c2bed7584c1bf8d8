//! Takes the XDP program that `scripts/build-ebpf` built into this crate. Without it the crate
//! builds too, and says at run time what is missing: whoever only looks at the code needs no BPF
//! toolchain.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let object = root.join("target/ebpf/xdp-redirect.o");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let program = fs::read(&object).unwrap_or_else(|error| {
        println!("cargo::warning={}: {error}: xdp ports will not work; run scripts/build-ebpf, then build again", object.display());
        Vec::new()
    });
    fs::write(out.join("xdp-redirect.o"), program).expect("OUT_DIR can be written");
}
