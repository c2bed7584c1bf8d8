//! Finds libdpdk by pkg-config and compiles the shim against it. Without libdpdk the crate is empty, and
//! says so to those that depend on it (`DEP_DPDK_FOUND`).

use std::process::Command;

/// Where the types that the shim uses have been as they are since.
const OLDEST: &str = "22.11";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(dpdk)");
    for file in ["shim/shim.c", "shim/shim.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let library = match pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk") {
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
    build.file("shim/shim.c").std("gnu11").warnings(true).includes(&library.include_paths);
    // Mapping memory for devices is not yet part of DPDK's stable interface.
    build.define("ALLOW_EXPERIMENTAL_API", None);
    // `-include rte_config.h` and `-march=...`, which the pkg-config crate leaves out.
    let program = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let flags = Command::new(program).args(["--cflags-only-other", "libdpdk"]).output();
    let flags = flags.expect("pkg-config ran a moment ago");
    for flag in String::from_utf8_lossy(&flags.stdout).split_whitespace() {
        build.flag(flag);
    }
    build.compile("weir_dpdk_shim");
    println!("cargo::rustc-cfg=dpdk");
    println!("cargo::metadata=found=1");
}
