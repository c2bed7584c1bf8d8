//! Sets `cfg(dpdk)` when `dpdk-sys` found libdpdk.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(dpdk)");
    println!("cargo::rerun-if-env-changed=DEP_DPDK_FOUND");
    if std::env::var("DEP_DPDK_FOUND").is_ok_and(|found| found == "1") {
        println!("cargo::rustc-cfg=dpdk");
    }
}
