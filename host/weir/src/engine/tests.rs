use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weir_control::engine::{ChainId, Deployment, Engine as _, EngineError};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_spec::{Chain, HostConfig, Manifest};

use super::PlaneEngine;
use crate::nics::VfMacs;

/// A host with two ports that write to files, `a` and `b`.
fn engine(directory: &Path) -> PlaneEngine {
    let port = |name| {
        let output = directory.join(name);
        format!("[[port]]\nname = \"{name}\"\nkind = \"pcap\"\noutput = \"{}\"\n", output.display())
    };
    let text = format!("{}{}", port("a"), port("b"));
    let config = weir_spec::Document::<HostConfig>::parse("weir.toml", &text).unwrap().value;
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
    PlaneEngine::start(&config, sandbox, VfMacs::default()).unwrap()
}

fn deployment(name: &str, from: &str) -> Deployment {
    let text = format!("name = \"{name}\"\nfrom = \"{from}\"\n[[function]]\nuse = \"pass\"\n");
    let chain = weir_spec::Document::<Chain>::parse("c.toml", &text).unwrap().value;
    let wasm = weir_tests::wat_guest::module(weir_tests::wat_guest::NULL);
    let wasm = weir_tests::wat_guest::upload(&wasm, "packet-function");
    let function = chain.functions[0].resolve(&Manifest::default(), None, wasm.into()).unwrap();
    let (tenant, name) = ("default".parse().unwrap(), name.parse().unwrap());
    Deployment { id: ChainId { tenant, name }, chain, functions: vec![function] }
}

/// Files in this directory that the process has open.
fn open_in(directory: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    open.filter(|file| file.starts_with(directory)).count()
}

/// Whoever undoes what the host changed of devices must not find that the host itself has them.
#[test]
fn a_change_that_is_under_way_when_the_host_stops_keeps_no_device() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path());
    engine.deploy(deployment("one", "a")).unwrap();
    assert_eq!(open_in(directory.path()), 2, "one is the chain's, the other nobody's");
    let one = engine.plane.deployed(&deployment("one", "a").id).unwrap();
    // Somebody changes it.
    let turn = one.turn();
    let drained = engine.drain(Duration::ZERO);
    assert_eq!((drained.chains, drained.problems), (1, Vec::new()));
    assert_eq!(open_in(directory.path()), 0);
    drop(turn);
    // As if they had been made ready before.
    for late in [deployment("one", "b"), deployment("two", "b")] {
        let EngineError::Conflict(why) = engine.deploy(late).unwrap_err() else { panic!() };
        assert!(why.contains("the host stops"), "{why}");
    }
    assert!(engine.plane.chains().is_empty() && engine.plane.crossings().is_empty());
    assert_eq!(open_in(directory.path()), 0);
}
