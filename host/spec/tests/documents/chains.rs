//! Chains and manifests.

use super::*;

const CHAIN: &str = r#"
name = "edge"
plane = "packet"                 # or "message"

[[function]]
use = "firewall"                 # a pushed function, or path = "target/functions/firewall.wasm"
version = "1.2.0"                # optional: the newest
access = "read-write"            # or "read-only" (enforced)
on-fault = "fail-closed"         # or "fail-open"
memory = "16MiB"                 # limits; defaults are sane
deadline = "1ms"                 # per burst
state = "4MiB"                   # size of the state region; none by default
[function.config]                # any table; handed to the function as JSON
default = "deny"
rules = [ { action = "allow", proto = "tcp", dst = "10.0.0.0/8", dport = "443" } ]
"#;

#[test]
fn the_documented_chain_is_read() {
    let chain = Document::<Chain>::parse("edge.toml", CHAIN).unwrap().value;
    assert_eq!(chain.name.as_str(), "edge");
    assert!(chain.symmetric);
    let firewall = &chain.functions[0];
    assert_eq!(firewall.label(), "firewall");
    assert_eq!(firewall.version.as_ref().unwrap().to_string(), "1.2.0");
    assert_eq!(firewall.access, Some(Access::ReadWrite));
    assert_eq!(firewall.on_fault, Some(OnFault::FailClosed));
    assert_eq!(firewall.memory, Some(Size::mebibytes(16)));
    assert_eq!(firewall.deadline, Some(Period::milliseconds(1)));
    assert_eq!(firewall.state, Some(Size::mebibytes(4)));
    assert_eq!(firewall.config.map()["rules"][0]["dport"], "443");
}

#[test]
fn a_chain_survives_json() {
    let chain = Document::<Chain>::parse("edge.toml", CHAIN).unwrap().value;
    let json = serde_json::to_string(&chain).unwrap();
    assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain);
}

/// Serde takes the values of a model without their keys, too.
#[test]
fn a_list_is_no_table() {
    let read = |functions: &str| {
        let text = format!(r#"{{"name": "c", "function": {functions}}}"#);
        serde_json::from_str::<Chain>(&text).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(read(r#"[{"use": "f"}]"#), Ok(()));
    assert!(read(r#"[["f"]]"#).unwrap_err().starts_with("invalid type: sequence, expected a map"));
    assert!(serde_json::from_str::<Steering>(r#"{"rule": [{}]}"#).is_ok());
    assert!(serde_json::from_str::<Steering>(r#"{"rule": [[]]}"#).is_err());
    assert!(serde_json::from_str::<Keyed<Steering>>("[]").is_err());
}

#[test]
fn dates_in_a_configuration_become_texts() {
    let text =
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[function.config]\nsince = [1979-05-27]\n";
    let chain = Document::<Chain>::parse("edge.toml", text).unwrap().value;
    assert_eq!(chain.functions[0].config.map()["since"][0], "1979-05-27");
}

#[test]
fn a_chain_for_messages_has_nothing_of_packets() {
    let chain = |keys: &str| {
        let text =
            format!("name = \"c\"\nplane = \"message\"\n{keys}\n[[function]]\nuse = \"f\"\n");
        Document::<Chain>::parse("chain.toml", &text).map_err(|error| error.to_string())
    };
    chain("").unwrap();
    for key in ["from = \"a\"", "workers = 2"] {
        let error = chain(key).unwrap_err();
        assert!(error.contains("a chain of the message plane has no"), "{error}");
    }
}

#[test]
fn the_plane_of_a_chain_is_that_of_its_functions() {
    let settled = |keys: &str, messages: &[bool]| {
        let functions: String =
            ["a", "b", "c"].map(|name| format!("[[function]]\nuse = \"{name}\"\n")).concat();
        let text = format!("name = \"c\"\n{keys}\n{functions}");
        let document = Document::<Chain>::parse("chain.toml", &text).map_err(|e| e.to_string())?;
        let mut chain = document.value.clone();
        chain.settle(&worlds(messages)).map_err(|invalid| document.locate(invalid).to_string())?;
        chain.check().map_err(|invalid| document.locate(invalid).to_string())?;
        Ok::<_, String>(chain.plane())
    };
    assert_eq!(settled("", &[false; 3]), Ok(Plane::Packet));
    assert_eq!(settled("plane = \"packet\"", &[false; 3]), Ok(Plane::Packet));
    assert_eq!(settled("", &[true; 3]), Ok(Plane::Message));
    assert_eq!(settled("from = \"p\"", &[false, false, true]), Ok(Plane::Both));
    assert_eq!(settled("plane = \"both\"\nfrom = \"p\"", &[false, true, true]), Ok(Plane::Both));
    let refused = [
        (
            "from = \"p\"",
            [false, true, false],
            "c is for packets, and stands behind b",
            "chain.toml:8:7",
        ),
        ("plane = \"packet\"", [false, false, true], "c is for messages", "chain.toml:8:7"),
        ("plane = \"message\"", [false, true, true], "a is for packets", "chain.toml:4:7"),
        ("plane = \"both\"\nfrom = \"p\"", [false; 3], "for one plane", "chain.toml:2:9"),
        ("", [false, true, true], "has no `from`", "chain.toml:1"),
        ("from = \"p\"\nsymmetric = false", [false, true, true], "is symmetric", "chain.toml:3:13"),
        ("from = \"p\"", [true; 3], "a chain of the message plane has no `from`", "chain.toml:2:8"),
    ];
    for (keys, messages, told, place) in refused {
        let error = settled(keys, &messages).unwrap_err();
        assert!(error.contains(told) && error.contains(place), "{keys}: {error}");
    }
    let text = "name = \"c\"\nfrom = \"p\"\n[[function]]\nuse = \"a\"\ntargets = [\"x\"]\n[[function]]\nuse = \"b\"\ntargets = [\"x\"]\n";
    let mut chain = Document::<Chain>::parse("chain.toml", text).unwrap().value;
    let invalid = chain.settle(&worlds(&[false, true])).unwrap_err();
    assert_eq!(invalid.key(), "function[1].targets");
}

fn worlds(messages: &[bool]) -> Vec<Option<World>> {
    let world = |of: &bool| if *of { World::MessageFunction } else { World::PacketFunction };
    messages.iter().map(|of| Some(world(of))).collect()
}

#[test]
fn keys_of_services_are_for_services() {
    for key in
        ["timeout = \"1s\"", "instances = 1", "requests-per-instance = 7", "instance-idle = \"1s\""]
    {
        let text = format!("name = \"c\"\n[[function]]\nuse = \"a\"\n{key}\n");
        let chain = Document::<Chain>::parse("chain.toml", &text).unwrap().value;
        chain.clone().settle(&[Some(World::WasiHttpProxy)]).unwrap();
        for world in [World::PacketFunction, World::MessageFunction, World::ConnectionFunction] {
            let invalid = chain.clone().settle(&[Some(world)]).unwrap_err();
            let name = key.split(' ').next().unwrap();
            assert_eq!(invalid.key(), format!("function[0].{name}"));
            assert!(invalid.message.contains("wasi:http"), "{invalid}");
        }
    }
}

#[test]
fn manifests_are_read() {
    let text = r#"
name = "nat"
version = "0.1.0"
description = "NAPT44"
access = "read-write"
state = "region"
state-bytes = "8MiB"
layout = "nat-1"
memory = "2MiB"
deadline = "2ms"
on-fault = "fail-closed"
"#;
    let manifest = Document::<Manifest>::parse("function.toml", text).unwrap().value;
    assert_eq!((manifest.state, manifest.state_bytes), (State::Region, Some(Size::mebibytes(8))));
    assert_eq!(
        Document::<Manifest>::parse("function.toml", "").unwrap().value,
        Manifest::default()
    );
}
