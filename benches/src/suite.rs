//! Chains that benchmarks run, in Wasm and natively.

use std::net::Ipv4Addr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use weir_chain::{ChainSpec, Executor, FunctionSpec, Mode, Prepared};
use weir_packet_plane::FunctionPlan;
use weir_pool::{HugePages, Memory};
use weir_sandbox::{Sandbox, Shared, Telemetry, admit};
use weir_sdk::Function;
use weir_sdk::testing::{Native as SdkNative, Options};

use crate::driver::{Driver, Native};
use crate::lanes;

/// A function of a benchmark: its file, its configuration, its state, and how to make it natively.
pub struct Entry {
    name: &'static str,
    config: String,
    state: usize,
    writes: bool,
    native: fn(&Driver, &str, usize) -> Native,
}

impl Entry {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The function as a lane has it.
    ///
    /// # Panics
    /// When it has not been built (`scripts/build`).
    #[must_use]
    pub fn plan(&self, sandbox: &Sandbox) -> FunctionPlan {
        let wasm = lanes::wasm(self.name);
        let plan = lanes::function(sandbox, self.name, &wasm, &self.config, self.state);
        FunctionPlan { writes: self.writes, memory: 128 << 20, ..plan }
    }
}

/// The address that the six functions' flows are for, on port 80.
pub const VIP: [u8; 4] = [198, 51, 100, 1];

/// The chain of six real functions: a firewall with 1,000 rules, a router with 100,000 prefixes,
/// and so on.
#[must_use]
pub fn six() -> Vec<Entry> {
    let state = 16 << 20;
    let rules: Vec<String> = (0..999)
        .map(|n| {
            format!(
                r#"{{"action": "deny", "proto": "udp", "src": "10.{}.0.0/16", "dst": "192.0.{}.0/24", "dport": {}}}"#,
                n % 250,
                n / 250,
                1 + n % 7
            )
        })
        .chain([r#"{"action": "allow", "proto": "udp", "src": "10.0.0.0/8"}"#.to_owned()])
        .collect();
    let mut random = 1u64;
    let prefixes: Vec<String> = (0..100_000)
        .map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let length = 12 + (random >> 60).min(12);
            let address = (random >> 20) as u32 & (u32::MAX << (32 - length));
            format!(r#"["{}/{length}", "up"]"#, Ipv4Addr::from(address))
        })
        .chain([r#"["0.0.0.0/0", "up"]"#.to_owned()])
        .collect();
    let router = format!(
        r#"{{"addresses": [], "table": [{}],
            "hops": {{"up": {{"mac": "02:00:00:00:00:99", "source-mac": "02:00:00:00:00:02"}}}}}}"#,
        prefixes.join(",")
    );
    let firewall = format!(r#"{{"rules": [{}]}}"#, rules.join(","));
    let l4lb = r#"{"services": [{"vip": "198.51.100.1", "proto": "udp", "port": 80, "backends": [
        {"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}, {"ip": "10.1.0.3"}, {"ip": "10.1.0.4"}]}]}"#;
    vec![
        entry::<monitor::Monitor>("monitor", r#"{"report-every": 0}"#, state, false),
        entry::<firewall::Firewall>("firewall", firewall, state, false),
        entry::<nat::Nat>("nat", r#"{"external": ["203.0.113.1"]}"#, state, true),
        entry::<router::Router>("router", router, 0, true),
        entry::<ratelimit::RateLimit>(
            "ratelimit",
            r#"{"rules": [{"prefix": "0.0.0.0/0", "rate": "400Gbit", "burst": "1GiB"}]}"#,
            state,
            false,
        ),
        entry::<l4lb::LoadBalancer>("l4lb", l4lb, state, true),
    ]
}

/// An entry for this function.
#[must_use]
pub fn entry<F: Function>(
    name: &'static str,
    config: impl Into<String>,
    state: usize,
    writes: bool,
) -> Entry {
    Entry { name, config: config.into(), state, writes, native: native::<F> }
}

fn native<F: Function>(driver: &Driver, config: &str, state_bytes: usize) -> Native {
    let options =
        Options { room_bytes: driver.pool.room_bytes(), state_bytes, ..Options::default() };
    let memory = driver.pool.memory();
    let window = NonNull::new(memory.as_ptr()).expect("memory lies somewhere");
    let state = Memory::new("state", state_bytes.max(1), HugePages::Auto).expect("memory");
    let state_at = NonNull::new(state.as_ptr()).expect("memory lies somewhere");
    // SAFETY: the pool's memory is laid out as a window and outlives the function, which is dropped
    // before its driver; the driver fills in valid descriptors, and touches nothing while a
    // function runs. The state region's memory goes with the function, and is nobody else's.
    let made = unsafe { SdkNative::<F>::new(window, memory.len(), state_at, &options, config) };
    let mut function = made.unwrap_or_else(|error| panic!("{error}"));
    Box::new(move |count| {
        let _state = &state;
        function.process(count);
    })
}

/// The functions natively, over the driver's window.
#[must_use]
pub fn natives(driver: &Driver, entries: &[Entry]) -> Vec<Native> {
    entries.iter().map(|e| (e.native)(driver, &e.config, e.state)).collect()
}

/// The chain in Wasm, over the driver's window.
///
/// # Panics
/// When the functions have not been built (`scripts/build`), or do not take their configuration.
#[must_use]
pub fn wasm(
    sandbox: &Sandbox,
    driver: &Driver,
    entries: &[Entry],
    mode: Mode,
) -> Executor<Box<Driver>> {
    let functions = entries.iter().enumerate().map(|(place, entry)| {
        let name = format!("{}-{place}", entry.name);
        let wasm = lanes::wasm(entry.name);
        FunctionSpec {
            writes: entry.writes,
            ..specification(name, &wasm, &entry.config, entry.state)
        }
    });
    prepared(sandbox, functions.collect(), mode)
        .instantiate(
            sandbox,
            &Shared::new(driver.pool.memory()).expect("a handle"),
            driver.pool.room_bytes(),
        )
        .unwrap_or_else(|e| panic!("{e}"))
}

/// A function as a chain has it.
///
/// # Panics
/// When it is refused.
#[must_use]
pub fn specification(name: String, wasm: &[u8], config: &str, state: usize) -> FunctionSpec {
    let state = (state > 0).then(|| {
        let memory = Memory::new("state", state, HugePages::Auto).expect("memory");
        // The handle keeps the memory.
        Shared::new(&memory).expect("a handle")
    });
    FunctionSpec {
        admitted: Arc::new(admit(wasm).unwrap_or_else(|e| panic!("{name}: {e}"))),
        name,
        writes: false,
        memory: 128 << 20,
        deadline: Duration::from_secs(1),
        config: config.into(),
        state,
        state_kept: false,
        seed: 1,
        telemetry: Arc::new(Telemetry::default()),
    }
}

/// A chain of these, compiled and linked.
///
/// # Panics
/// When it cannot be.
#[must_use]
pub fn prepared(sandbox: &Sandbox, functions: Vec<FunctionSpec>, mode: Mode) -> Prepared {
    let spec = ChainSpec { functions, ports: vec!["in".into(), "out".into()], part_of: None };
    Prepared::new(sandbox, spec, mode).unwrap_or_else(|e| panic!("{e}"))
}
