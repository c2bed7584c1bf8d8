use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_control::engine::{
    ChainId, Deployment, EngineError, RulePlace, RuleStatus, SwapDirection,
};
use weir_packet_plane::{Lane, States};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_spec::{Chain, FunctionUse, HostConfig, Manifest, Name, Steering, SteeringRule};

use super::Packets;
use crate::nics::VfMacs;

/// A host with two ports that write to files, `a` and `b`.
fn engine(directory: &Path) -> Packets {
    let port = |name| {
        let output = directory.join(name);
        format!("[[port]]\nname = \"{name}\"\nkind = \"pcap\"\noutput = \"{}\"\n", output.display())
    };
    configured(&format!("{}{}", port("a"), port("b")))
}

fn configured(text: &str) -> Packets {
    let config = weir_spec::Document::<HostConfig>::parse("weir.toml", text).unwrap().value;
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default()).unwrap());
    Packets::start(&config, sandbox, VfMacs::default()).unwrap()
}

fn deployment(name: &str, from: &str) -> Deployment {
    deployment_of(&format!("name = \"{name}\"\nfrom = \"{from}\"\n[[function]]\nuse = \"pass\"\n"))
}

fn deployment_of(text: &str) -> Deployment {
    let chain = weir_spec::Document::<Chain>::parse("c.toml", text).unwrap().value;
    let wasm = weir_tests::wat_guest::module(weir_tests::wat_guest::NULL);
    let wasm: Arc<[u8]> = weir_tests::wat_guest::upload(&wasm, "packet-function").into();
    let resolve = |used: &FunctionUse| {
        used.resolve(&Manifest::default(), "1.0.0".parse().ok(), Arc::clone(&wasm)).unwrap()
    };
    let functions = chain.functions.iter().map(resolve).collect();
    let id = ChainId { tenant: "default".parse().unwrap(), name: chain.name.clone() };
    Deployment { id, chain, functions }
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
    engine.deploy(&deployment("one", "a"), None).unwrap();
    assert_eq!(open_in(directory.path()), 2, "one is the chain's, the other nobody's");
    let one = engine.lanes.deployed(&deployment("one", "a").id).unwrap();
    // Somebody changes it.
    let turn = one.turn();
    let drained = engine.drain(Duration::ZERO);
    assert_eq!((drained.chains, drained.problems), (1, Vec::new()));
    assert_eq!(open_in(directory.path()), 0);
    drop(turn);
    // As if they had been made ready before.
    for late in [deployment("one", "b"), deployment("two", "b")] {
        let EngineError::Conflict(why) = engine.deploy(&late, None).unwrap_err() else { panic!() };
        assert!(why.contains("the host stops"), "{why}");
    }
    assert!(engine.lanes.chains().is_empty() && engine.lanes.crossings().is_empty());
    assert_eq!(open_in(directory.path()), 0);
}

/// A chain of the functions `f` and `g` on two workers.
fn on_two_workers() -> (Packets, ChainId) {
    let ports = "[workers]\ncount = 2\n[[port]]\nname = \"in\"\nkind = \"memory\"\n[[port]]\nname = \"out\"\nkind = \"memory\"\n";
    let engine = configured(ports);
    let chain = deployment_of(
        "name = \"c\"\nfrom = \"in\"\nto = \"out\"\nworkers = 2\n[[function]]\nuse = \"f\"\n[[function]]\nuse = \"g\"\n",
    );
    let id = chain.id.clone();
    engine.deploy(&chain, None).unwrap();
    (engine, id)
}

#[test]
fn what_a_lane_refuses_leaves_the_others_on_their_probation() {
    let (engine, id) = on_two_workers();
    let chain = engine.lanes.deployed(&id).unwrap();
    let swap = |version: &str, second_refuses: bool| {
        let mut plans = engine.lanes.plans(&chain).unwrap();
        plans.iter_mut().for_each(|plan| plan.functions[0].version = version.into());
        if second_refuses {
            plans[1].functions[1].version = "another".into();
        }
        let staged = engine.lanes.stage(&chain, plans).unwrap();
        engine.lanes.publish(&chain, staged, Some((0, SwapDirection::Forward)))
    };
    swap("2.0.0", false).unwrap();
    let EngineError::Conflict(why) = swap("3.0.0", true).unwrap_err() else { panic!() };
    assert!(why.contains("changed meanwhile"), "{why}");
    let before = engine.lanes.with_lanes(&chain, |lane| lane.before_swap("f", "2.0.0")).unwrap();
    let before: Vec<_> =
        before.into_iter().map(|plan| plan.unwrap().functions[0].version.clone()).collect();
    assert_eq!(before, ["1.0.0", "1.0.0"]);
    drop(engine.drain(Duration::ZERO));
}

#[test]
fn a_lane_that_cannot_follow_another_one_back_is_told_of() {
    let (engine, id) = on_two_workers();
    let chain = engine.lanes.deployed(&id).unwrap();
    // The second lane comes to run another version than the first.
    let mut plan = engine.lanes.plans(&chain).unwrap().swap_remove(1);
    plan.functions[0].version = "2.0.0".into();
    let staged = engine.lanes.stage_one(&chain, 1, plan, &States::default()).unwrap();
    let put = move |lane: &mut Lane| lane.publish_back(staged, None).map(|(_, retired)| retired);
    let retired = engine.lanes.with_lane(&chain, 1, put).unwrap().unwrap();
    retired.end(&engine.lanes.sandbox);
    let notes = engine.lanes.follow_back(&id, 0, "f", "2.0.0");
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert!(note.contains("chain c did not go back on worker 1: it runs f 2.0.0"), "{note}");
    drop(engine.drain(Duration::ZERO));
}

/// The port `in` generates, `out` and `b` take what comes.
fn generating(keys: &str) -> Packets {
    let others =
        "[[port]]\nname = \"out\"\nkind = \"memory\"\n[[port]]\nname = \"b\"\nkind = \"memory\"\n";
    configured(&format!(
        "[[port]]\nname = \"in\"\nkind = \"memory\"\ngenerate = {{ {keys} }}\n{others}"
    ))
}

fn rules(text: &str) -> Vec<SteeringRule> {
    weir_spec::Document::<Steering>::parse("s.toml", text).unwrap().value.rules
}

fn tenant() -> Name {
    "default".parse().unwrap()
}

fn chain_between(name: &str, from: &str, steered: bool) -> Deployment {
    deployment_of(&format!(
        "name = \"{name}\"\nfrom = \"{from}\"\nto = \"out\"\nsteered = {steered}\n[[function]]\nuse = \"pass\"\n"
    ))
}

fn came_to(engine: &Packets, chain: &str) -> u64 {
    let chains = engine.status().chains;
    chains.iter().find(|status| status.name.as_str() == chain).map_or(0, |chain| chain.packets_in)
}

/// Packets that the port `in` dropped for this reason.
fn dropped(engine: &Packets, reason: &str) -> u64 {
    let ports = engine.status().ports;
    let port = ports.iter().find(|port| port.name.as_str() == "in").unwrap();
    port.drops.get(reason).copied().unwrap_or(0)
}

#[track_caller]
fn until(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// However long it takes to make a table of them.
#[test]
fn rules_are_in_force_from_a_chains_first_packet_on() {
    const PACKETS: u64 = 20_000;
    let engine = generating(&format!("flows = 1000, count = {PACKETS}"));
    let mut all = rules("[[rule]]\nto = \"drop\"\n");
    let others = (0..20_000).map(|n| SteeringRule {
        src: format!("198.18.{}.{}", n >> 8, n & 255).parse().ok(),
        ..all[0].clone()
    });
    let others: Vec<_> = others.collect();
    all.splice(0..0, others);
    engine.steer(&tenant(), &all).unwrap();
    engine.deploy(&chain_between("edge", "in", false), None).unwrap();
    until("all of them came", || dropped(&engine, "rx-steering") == PACKETS);
    assert_eq!(came_to(&engine, "edge"), 0);
    drop(engine.drain(Duration::ZERO));
}

#[test]
fn what_rules_send_to_a_chain_that_is_not_deployed_is_nobody_elses() {
    let engine = generating("flows = 100, rate = 20000");
    let (edge, voice) = (chain_between("edge", "in", false), chain_between("voice", "in", true));
    engine.expect(&[(&edge.id, &edge.chain), (&voice.id, &voice.chain)]);
    engine.steer(&tenant(), &rules("[[rule]]\nchain = \"voice\"\n")).unwrap();
    engine.deploy(&edge, None).unwrap();
    until("it is dropped", || dropped(&engine, "rx-no-chain") > 0);
    let place = |port: &str, dropped: Option<&str>| RulePlace {
        port: port.parse().unwrap(),
        at: "software".to_owned(),
        reason: None,
        packets: None,
        dropped: dropped.map(str::to_owned),
    };
    let places = |engine: &Packets| {
        let [RuleStatus { places, .. }] = &engine.steering(&tenant())[..] else { panic!() };
        places.clone()
    };
    let why = Some("chain voice is not deployed");
    assert_eq!(places(&engine), [place("in", why), place("out", why)]);
    engine.deploy(&voice, None).unwrap();
    until("it has them", || came_to(&engine, "voice") > 0);
    assert_eq!(places(&engine), [place("in", None), place("out", None)]);
    assert_eq!(came_to(&engine, "edge"), 0);
    // Between other ports it does not want them any more.
    let elsewhere = deployment_of("name = \"voice\"\nfrom = \"b\"\n[[function]]\nuse = \"pass\"\n");
    engine.deploy(&elsewhere, None).unwrap();
    until("the neighbour has them", || came_to(&engine, "edge") > 0);
    drop(engine.drain(Duration::ZERO));
}

/// As the operator has numbered them, whatever concerns other ports.
#[test]
fn the_rule_that_keeps_another_from_a_device_has_the_number_that_it_was_given() {
    if weir_dpdk::ABSENT.is_some() {
        return;
    }
    let port = "[[port]]\nname = \"a\"\nkind = \"dpdk\"\ndevice = \"net_null0\"\n";
    let engine = configured(&format!("{port}[[port]]\nname = \"b\"\nkind = \"memory\"\n"));
    engine.deploy(&deployment("edge", "a"), None).unwrap();
    let text = "[[rule]]\nport = \"b\"\nto = \"drop\"\n[[rule]]\nproto = \"tcp\"\nchain = \"edge\"\n\
                [[rule]]\nport = \"a\"\ndst = \"192.0.2.1\"\nto = \"drop\"\n";
    engine.steer(&tenant(), &rules(text)).unwrap();
    let statuses = engine.steering(&tenant());
    let why = statuses[2].places[0].reason.clone();
    assert_eq!(why.as_deref(), Some("rule 2 sends some of its packets elsewhere"));
    drop(engine.drain(Duration::ZERO));
}
