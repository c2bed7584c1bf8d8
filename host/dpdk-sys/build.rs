//! Finds libdpdk by pkg-config and makes the shim a shared library against it, for the program to
//! have within. Without libdpdk the crate is empty, and says so to those that depend on it
//! (`DEP_DPDK_FOUND`).

use std::path::PathBuf;
use std::process::Command;

/// Where the types that the shim uses have been as they are since.
const OLDEST: &str = "22.11";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(dpdk)");
    for file in ["shim/shim.c", "shim/shim.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut config = pkg_config::Config::new();
    // The program itself is not linked against it.
    config.atleast_version(OLDEST).cargo_metadata(false);
    let library = match config.probe("libdpdk") {
        Ok(library) => library,
        Err(_) => {
            println!(
                "cargo::warning=pkg-config finds no libdpdk {OLDEST} or newer: building without DPDK"
            );
            println!("cargo::metadata=found=0");
            return;
        }
    };
    let mut build = cc::Build::new();
    build
        .file("shim/shim.c")
        .std("gnu11")
        .pic(true)
        .cargo_metadata(false)
        .warnings(true)
        .includes(&library.include_paths);
    // Mapping memory for devices is not yet part of DPDK's stable interface.
    build.define("ALLOW_EXPERIMENTAL_API", None);
    // `-include rte_config.h` and `-march=...`, which the pkg-config crate leaves out.
    let program = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let flags = Command::new(program).args(["--cflags-only-other", "libdpdk"]).output();
    let flags = flags.expect("pkg-config ran a moment ago");
    for flag in String::from_utf8_lossy(&flags.stdout).split_whitespace() {
        build.flag(flag);
    }
    let shim = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
        .join("weir_dpdk_shim.so");
    let mut link = build.get_compiler().to_command();
    link.arg("-shared").arg("-o").arg(&shim).args(build.compile_intermediates());
    // What it does not use is not loaded; what it uses has to be there.
    link.args(["-Wl,--as-needed", "-Wl,-z,defs", "-Wl,-z,relro", "-Wl,-z,now"]);
    link.args(library.link_paths.iter().map(|path| format!("-L{}", path.display())));
    link.args(library.libs.iter().map(|name| format!("-l{name}")));
    let linked = link.status().expect("the compiler ran a moment ago");
    assert!(linked.success(), "the shim cannot be linked against libdpdk");
    println!("cargo::rustc-cfg=dpdk");
    println!("cargo::metadata=found=1");
}
