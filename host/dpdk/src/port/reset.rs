//! A device whose driver says that it was reset, as those of virtual functions do.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;

use weir_pool::{HugePages, Pool, PoolConfig};

use super::*;
use crate::DpdkConfig;

/// `RTE_ETH_EVENT_INTR_RESET`
const INTR_RESET: c_int = 3;

/// Says of this device what a driver says.
fn tell(device: &CStr, event: c_int) {
    type Find = unsafe extern "C" fn(*const c_char) -> *mut c_void;
    type Process = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;
    let maps = fs::read_to_string("/proc/self/maps").expect("proc");
    let loaded = maps.split_whitespace().find(|word| word.contains("/librte_ethdev.so"));
    let loaded = CString::new(loaded.expect("DPDK is loaded")).expect("a path");
    // SAFETY: a library that is loaded, and stays so, and two functions for drivers, of these kinds
    // since DPDK 17.11.
    unsafe {
        let library = libc::dlopen(loaded.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        let find = libc::dlsym(library, c"rte_eth_dev_allocated".as_ptr());
        let process = libc::dlsym(library, c"rte_eth_dev_callback_process".as_ptr());
        assert!(!find.is_null() && !process.is_null(), "functions of DPDK's");
        let find = std::mem::transmute::<*mut c_void, Find>(find);
        let process = std::mem::transmute::<*mut c_void, Process>(process);
        process(find(device.as_ptr()), event, std::ptr::null_mut());
    }
}

#[test]
fn a_device_that_was_reset_ends_its_ports_and_can_be_opened_again() {
    let config = DpdkConfig { queues: Some(2), ..DpdkConfig::new("net_null0") };
    for _ in 0..2 {
        let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
        let mut lanes: Vec<(DpdkPort, Pool)> = Vec::new();
        for mut port in port.divided(2) {
            let pool = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Never };
            let mut pool = Pool::new("test", &pool).expect("memory");
            port.attach(&mut pool).unwrap_or_else(|error| panic!("{error}"));
            lanes.push((port, pool));
        }
        let mut packets = Vec::new();
        for (port, pool) in &mut lanes {
            assert_eq!(port.receive(pool, &mut packets, 32).expect("it works"), Received::Packets);
            pool.give_all(packets.drain(..).map(|packet| packet.buffer));
        }
        tell(c"net_null0", INTR_RESET);
        let [(one, pool), (other, its_pool)] = &mut lanes[..] else { panic!("two lanes") };
        let error = one.receive(pool, &mut packets, 32).expect_err("it was reset").to_string();
        assert!(error.contains("net_null0 was reset") && error.contains("remove the chain"));
        assert_eq!(one.receive(pool, &mut packets, 32).expect("it ended"), Received::End);
        assert_eq!(other.receive(its_pool, &mut packets, 32).expect("it ended"), Received::End);
        let details = one.inspector().expect("a device").inspect();
        assert_eq!(details.fact("link"), Some("reset"));
        assert!(details.problem.is_some_and(|problem| error.ends_with(&problem)), "{error}");
        for (port, pool) in &mut lanes {
            port.finish(pool).expect("it ended");
            assert_eq!(pool.accounting().out, 0);
        }
    }
}
