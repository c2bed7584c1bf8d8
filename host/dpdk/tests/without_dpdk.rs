//! A build that did not find libdpdk has a port that says so.

#![cfg(not(dpdk))]

use weir_dpdk::{DpdkConfig, DpdkPort};

#[test]
fn a_port_says_that_the_host_was_built_without_dpdk() {
    let error = DpdkPort::open("wan", &DpdkConfig::new("net_null0")).expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "port \"wan\": this host was built without DPDK (libdpdk was not found by pkg-config when it was built): \
         install libdpdk-dev and pkg-config, and build it again"
    );
}
