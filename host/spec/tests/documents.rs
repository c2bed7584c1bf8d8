//! Every way in which a file can be wrong, with the whole message that its author gets; and the examples of
//! the documentation, which must be right.

use proptest::prelude::*;
use weir_spec::{
    Access, Chain, Check, Document, HostConfig, Manifest, Name, OnFault, Period, Plane, PortKind,
    Size, State, SteerTo, Steering, XdpMode, XdpPin,
};

#[track_caller]
fn refused<T>(text: &str, expected: &str)
where
    T: serde::de::DeserializeOwned + Check + std::fmt::Debug,
{
    let error = Document::<T>::parse("file.toml", text).expect_err("accepted").to_string();
    assert_eq!(error.trim(), expected.trim(), "\n--- got:\n{error}\n");
}

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
    assert_eq!(firewall.config["rules"][0]["dport"], "443");
}

#[test]
fn a_chain_survives_json_and_toml() {
    let chain = Document::<Chain>::parse("edge.toml", CHAIN).unwrap().value;
    let json = serde_json::to_string(&chain).unwrap();
    assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain);
    let toml = toml::to_string(&chain).unwrap();
    assert_eq!(Document::<Chain>::parse("again.toml", &toml).unwrap().value, chain);
}

#[test]
fn dates_in_a_configuration_become_texts() {
    let text =
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[function.config]\nsince = [1979-05-27]\n";
    let chain = Document::<Chain>::parse("edge.toml", text).unwrap().value;
    assert_eq!(chain.functions[0].config["since"][0], "1979-05-27");
}

const HOST: &str = r#"
[api]
socket = "/run/weir/api.sock"    # and/or listen = "127.0.0.1:7300" with tokens
[store]
path = "/var/lib/weir"
[[port]]
name = "in"
kind = "pcap"                    # pcap | xdp | dpdk | memory
file = "in.pcap"
[[port]]
name = "wan"
kind = "xdp"
interface = "veth0"
queue = 0
[[port]]
name = "vf0"
kind = "dpdk"
device = "0000:01:10.0"          # or a vdev: "net_af_packet0,iface=veth1"
[[listener]]                     # message plane
name = "web"
address = "0.0.0.0:8080"
protocol = "http"                # or "tcp"
chain = "web-chain"
upstream = ["127.0.0.1:9000"]
"#;

#[test]
fn the_documented_host_is_read() {
    let host = Document::<HostConfig>::parse("weir.toml", HOST).unwrap();
    assert_eq!(host.value.ports[2].kind, PortKind::Dpdk);
    assert_eq!(host.value.api.max_upload, Size::mebibytes(64));
    let listener = &host.value.listeners[0];
    assert_eq!(listener.upstream[0].address, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(listener.chain.as_ref().map(Name::as_str), Some("web-chain"));
}

#[test]
fn a_listener_says_what_it_takes_and_impossible_ones_are_refused() {
    let listener = |keys: &str| {
        let text = format!(
            "[[listener]]\nname = \"web\"\nprotocol = \"http\"\naddress = \"127.0.0.1:80\"\n{keys}\n"
        );
        Document::<HostConfig>::parse("weir.toml", &text)
            .map(|document| document.value.listeners[0].clone())
            .map_err(|error| error.to_string())
    };
    let full = listener(
        r#"upstream = ["127.0.0.1:1", { address = "[::1]:2", weight = 3, tls = true, server-name = "a.example" }]
proxy-protocol = true
[[listener.tls]]
certificate = "c.pem"
key = "k.pem"
[listener.retry]
on = ["connect", 502]
[listener.health]
path = "/up"
interval = "1s""#,
    )
    .unwrap();
    assert_eq!((full.upstream[0].weight, full.upstream[1].weight), (1, 3));
    assert_eq!(full.retry.on.len(), 2);
    assert_eq!(full.resolve, Period::milliseconds(30_000));
    let named = listener("upstream = [\"API.example:8080\"]\nresolve = \"5s\"").unwrap();
    let name = weir_spec::Target::Name { host: "api.example".into(), port: 8080 };
    assert_eq!(
        (named.upstream[0].address.clone(), named.resolve),
        (name, Period::milliseconds(5000))
    );
    assert_eq!(full.health.unwrap().timeout, Period::milliseconds(2000));
    for (keys, message) in [
        ("", "neither an upstream nor a chain"),
        ("upstream = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "named twice"),
        ("upstream = [{ address = \"127.0.0.1:1\", tls = true }]", "no name to expect"),
        ("upstream = [\"nonsense\"]", "expected an address"),
        ("upstream = [\"10.0.0.300:80\"]", "expected an address"),
        ("upstream = [\"a.example:80\", \"A.example:80\"]", "named twice"),
        ("resolve = \"1ms\"\nupstream = [\"a.example:80\"]", "allowed: 100ms to 24h"),
        ("chain = \"c\"\n[gateway]\nworker-timeout = \"1ms\"", "allowed: 100ms to 10min"),
        ("chain = \"c\"\n[listener.timeouts]\nheader = \"0s\"", "period is 0"),
        ("chain = \"c\"\n[listener.retry]\non = [200]", "400 to 599"),
        ("chain = \"c\"\n[listener.limits]\nfeilds = 3", "feilds"),
    ] {
        let error = listener(keys).unwrap_err();
        assert!(error.contains(message), "{keys}: {error}");
    }
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
        chain.settle(messages).map_err(|invalid| document.locate(invalid).to_string())?;
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
    let invalid = chain.settle(&[false, true]).unwrap_err();
    assert_eq!(invalid.key(), "function[1].targets");
}

#[test]
fn an_xdp_port_says_what_it_takes_and_impossible_ones_are_refused() {
    let port = |keys: &str| {
        let text = format!("[[port]]\nname = \"wan\"\nkind = \"xdp\"\n{keys}\n");
        Document::<HostConfig>::parse("weir.toml", &text)
            .map(|document| document.value.ports[0].clone())
    };
    let full = port(
        "interface = \"eth0\"\nqueue = 3\nmode = \"native\"\npin = \"/sys/fs/bpf\"\nbusy-poll = \"20us\"\nrx-ring = 2048\ntx-ring = 512\n\
         leave = [{ ethertype = \"lldp\" }]\nclaim = [{ vlan = 100 }, { destination = \"02:00:00:00:00:01\", ethertype = \"0x88b5\" }]",
    )
    .unwrap();
    assert_eq!((full.mode, full.rx_ring, full.claim.len()), (Some(XdpMode::Native), Some(2048), 2));
    assert_eq!(full.leave[0].ethertype.unwrap().get(), 0x88cc);
    assert_eq!(full.pin, Some(XdpPin::At("/sys/fs/bpf".into())));
    let never = port("interface = \"eth0\"\npin = false").unwrap();
    assert_eq!(never.pin, Some(XdpPin::Never));
    let json = serde_json::to_string(&[&full, &never]).unwrap();
    assert_eq!(serde_json::from_str::<Vec<weir_spec::Port>>(&json).unwrap(), [full, never]);
    for (keys, key, line, message) in [
        ("", "port[0].interface", 1, "needs `interface`"),
        ("interface = \"a/b\"", "port[0].interface", 4, "is not an interface's name"),
        ("interface = \"e\"\nmode = \"fast\"", "port[0].mode", 5, "unknown value `fast`"),
        ("interface = \"e\"\npin = true", "port[0].pin", 5, "expected false, or the path"),
        ("interface = \"e\"\npin = \"bpf\"", "port[0].pin", 5, "not an absolute path"),
        ("interface = \"e\"\nrx-ring = 1000", "port[0].rx-ring", 5, "a ring of 1000"),
        ("interface = \"e\"\nbusy-poll = \"1s\"", "port[0].busy-poll", 5, "1s is out of range"),
        ("interface = \"e\"\nleave = [{}]", "port[0].leave[0]", 5, "nothing is named"),
        (
            "interface = \"e\"\nclaim = [{ vlan = 4095 }]",
            "port[0].claim[0].vlan",
            5,
            "no VLAN 4095",
        ),
        (
            "interface = \"e\"\nclaim = [{ ethertype = \"ip\" }]",
            "port[0].claim[0].ethertype",
            5,
            "not an EtherType",
        ),
        ("interface = \"e\"\nfile = \"x\"", "port[0].file", 5, "has no `file`"),
    ] {
        let error = port(keys).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(message) && text.lines().any(|l| l.ends_with(&format!("= key: {key}"))),
            "{text}"
        );
        assert!(text.contains(&format!("weir.toml:{line}:")), "{text}");
    }
}

#[test]
fn an_empty_host_file_is_a_host_with_the_defaults() {
    let host = Document::<HostConfig>::parse("weir.toml", "").unwrap().value;
    assert_eq!(host, HostConfig::default());
    assert_eq!(host.workers.number(), 1);
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

#[test]
fn workers_are_a_number_or_all() {
    let chain = |workers: &str| {
        let text = format!("name = \"edge\"\n{workers}\n[[function]]\nuse = \"a\"\n");
        Document::<Chain>::parse("edge.toml", &text).map(|document| document.value)
    };
    for (text, of_four) in
        [("", 1), ("workers = 1", 1), ("workers = 3", 3), ("workers = \"all\"", 4)]
    {
        let chain = chain(text).unwrap();
        assert_eq!(chain.workers.of(4), of_four, "{text}");
        let again = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&again).unwrap(), chain);
        assert_eq!(again.contains("workers"), of_four > 1, "{again}");
    }
    for wrong in ["0", "-1", "1025", "1.5", "true", "\"some\"", "[2]"] {
        let error = chain(&format!("workers = {wrong}")).unwrap_err().to_string();
        assert!(
            error.contains("expected a number of workers from 1 to 1024, or \"all\""),
            "{error}"
        );
        assert!(error.contains("edge.toml:2:11"), "{error}");
    }
    refused::<Chain>(
        "name = \"edge\"\nworkers = 2\n[[function]]\nuse = \"a\"\nper-worker = [{ slot = 0 }]\n",
        r"
there are 1 tables for 2 workers
 --> file.toml:5:14
  |
5 | per-worker = [{ slot = 0 }]
  |              ^^^^^^^^^^^^^^
  = key: function[0].per-worker
  = allowed: one for each of the chain's `workers`, or none
",
    );
    refused::<Manifest>(
        "state-shared = true\n",
        r#"
the function has no state region to share
 --> file.toml:1:16
  |
1 | state-shared = true
  |                ^^^^
  = key: state-shared
  = set `state = "region"`, or leave this key out
"#,
    );
}

#[test]
fn several_queues_are_for_xdp_and_dpdk() {
    let port = |keys: &str| format!("[[port]]\nname = \"a\"\n{keys}\nqueues = 2\n");
    let parse = |text: &str| Document::<HostConfig>::parse("weir.toml", text);
    for keys in ["kind = \"xdp\"\ninterface = \"eth0\"", "kind = \"dpdk\"\ndevice = \"net_null0\""]
    {
        assert_eq!(parse(&port(keys)).unwrap().value.ports[0].queues, Some(2));
    }
    let error = parse(&port("kind = \"memory\"")).unwrap_err().to_string();
    assert!(error.contains("a port of kind \"memory\" has no `queues`"), "{error}");
    let none = port("kind = \"xdp\"\ninterface = \"eth0\"").replace("= 2", "= 0");
    assert!(parse(&none).unwrap_err().to_string().contains("allowed: 1 to 1024"));
}

#[test]
fn unknown_keys() {
    refused::<Chain>(
        "name = \"edge\"\n\n[[function]]\nuse = \"firewall\"\nverison = \"1.2.0\"\n",
        r#"
unknown key `verison`
 --> file.toml:5:1
  |
5 | verison = "1.2.0"
  | ^^^^^^^
  = key: function[0].verison
  = did you mean `version`? allowed: use, path, name, version, access, on-fault, memory, deadline, timeout, instances, state, flow-verdicts, targets, state-shared, config, per-worker
"#,
    );
    refused::<HostConfig>(
        "[api]\nsoket = \"x\"\n",
        r#"
unknown key `soket`
 --> file.toml:2:1
  |
2 | soket = "x"
  | ^^^^^
  = key: api.soket
  = did you mean `socket`? allowed: socket, listen, token, max-upload, timeout, compile-timeout
"#,
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"memory\"\ngenerate = { quickly = true }\n",
        r#"
unknown key `quickly`
 --> file.toml:4:14
  |
4 | generate = { quickly = true }
  |              ^^^^^^^
  = key: port[0].generate.quickly
  = allowed: size, flows, rate, count
"#,
    );
}

#[test]
fn wrong_types() {
    refused::<Chain>(
        "name = 3\n",
        r"
wrong type: integer `3`, expected a name
 --> file.toml:1:8
  |
1 | name = 3
  |        ^
  = key: name
",
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[[function]]\nuse = \"b\"\nmemory = 5\n",
        r#"
wrong type: integer `5`, expected a size such as "16MiB"
 --> file.toml:6:10
  |
6 | memory = 5
  |          ^
  = key: function[1].memory
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\nfunction = \"firewall\"\n",
        r#"
wrong type: string "firewall", expected an array
 --> file.toml:2:12
  |
2 | function = "firewall"
  |            ^^^^^^^^^^
  = key: function
"#,
    );
    refused::<HostConfig>(
        "[workers]\ncount = -1\n",
        r"
wrong value: integer `-1`, expected a whole number from 0 to 65535
 --> file.toml:2:9
  |
2 | count = -1
  |         ^^
  = key: workers.count
",
    );
}

#[test]
fn impossible_values() {
    refused::<Chain>(
        "name = \"Edge 1\"\n",
        r#"
"Edge 1" is not a name
 --> file.toml:1:8
  |
1 | name = "Edge 1"
  |        ^^^^^^^^
  = key: name
  = allowed are 1 to 63 characters a-z, 0-9, `-` and `_`, beginning with a letter or digit
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\nplane = \"frame\"\n",
        r#"
unknown value `frame`
 --> file.toml:2:9
  |
2 | plane = "frame"
  |         ^^^^^^^
  = key: plane
  = allowed: packet, message, both
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\nversion = \"1\"\n",
        r#"
"1" is not a version: unexpected end of input while parsing major version number
 --> file.toml:4:11
  |
4 | version = "1"
  |           ^^^
  = key: function[0].version
  = allowed is MAJOR.MINOR.PATCH, such as "1.2.0"
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\ndeadline = \"1 day\"\n",
        r#"
"1 day" is not a period
 --> file.toml:4:12
  |
4 | deadline = "1 day"
  |            ^^^^^^^
  = key: function[0].deadline
  = allowed is a whole number with one of the units ns, us, ms, s, m, h, such as "1ms"
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[[function]]\nuse = \"b\"\nstate = \"1B\"\n",
        r#"
1B is out of range
 --> file.toml:6:9
  |
6 | state = "1B"
  |         ^^^^
  = key: function[1].state
  = allowed: 64KiB to 1GiB
"#,
    );
    refused::<HostConfig>(
        "[api]\nlisten = \"nowhere\"\n",
        r#"
"nowhere" is not an address
 --> file.toml:2:10
  |
2 | listen = "nowhere"
  |          ^^^^^^^^^
  = key: api.listen
  = allowed is IP:PORT, such as "127.0.0.1:7300" or "[::1]:7300"
"#,
    );
    refused::<HostConfig>(
        "[pool]\nroom = \"2000B\"\n",
        r#"
rooms of 2000B
 --> file.toml:2:8
  |
2 | room = "2000B"
  |        ^^^^^^^
  = key: pool.room
  = allowed: a power of two from 512B to 64KiB
"#,
    );
    refused::<HostConfig>(
        "[workers]\ncount = 3\ncores = [0, 1]\n",
        r"
2 cores for 3 workers
 --> file.toml:3:9
  |
3 | cores = [0, 1]
  |         ^^^^^^
  = key: workers.cores
  = name one core for each worker
",
    );
    refused::<HostConfig>(
        "[workers]\ncores = [0, 0]\n",
        r"
core 0 is named twice
 --> file.toml:2:13
  |
2 | cores = [0, 0]
  |             ^
  = key: workers.cores[1]
  = name one core for each worker
",
    );
}

#[test]
fn missing_keys() {
    refused::<Chain>(
        "[[function]]\nuse = \"a\"\n",
        r"
missing key `name`
 --> file.toml:1:1
  |
1 | [[function]]
  | ^
",
    );
    refused::<Chain>(
        "name = \"edge\"\n",
        r#"
missing key `function`
 --> file.toml:1:1
  |
1 | name = "edge"
  | ^
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\nfunction = []\n",
        r"
the chain has 0 functions
 --> file.toml:2:12
  |
2 | function = []
  |            ^^
  = key: function
  = allowed are 1 to 64
",
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[[function]]\n",
        r#"
the entry names no function
 --> file.toml:4:1
  |
4 | [[function]]
  | ^^^^^^^^^^^^
  = key: function[1]
  = add `use = "NAME"` (a pushed function) or `path = "FILE.wasm"`
"#,
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\n",
        r"
missing key `kind`
 --> file.toml:1:1
  |
1 | [[port]]
  | ^^^^^^^^
  = key: port[0]
",
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"pcap\"\n",
        r#"
a port of kind "pcap" needs `file`, `output`, or both
 --> file.toml:1:1
  |
1 | [[port]]
  | ^^^^^^^^
  = key: port[0].file
  = `file` is read, `output` is written
"#,
    );
}

#[test]
fn impossible_hosts() {
    let port = "[[port]]\nname = \"a\"\nkind = \"memory\"\n";
    for (text, expected) in [
        ("[api]\nlisten = \"localhost:7300\"\n", "allowed is IP:PORT"),
        ("[api]\ncompile-timeout = \"1ms\"\n", "allowed: 1s to 10m"),
        ("[rollout]\nwatch = \"1s\"\n", "allowed: 10s to 1h"),
        (&format!("{port}generate = {{ rate = 0 }}\n"), "leave it out for no limit"),
        (&format!("{port}generate = {{ size = 1921 }}\n"), "raise `room` in [pool]"),
        (&format!("{port}generate = {{ size = 10 }}\n"), "allowed: 60 to 9216"),
    ] {
        let error = Document::<HostConfig>::parse("file.toml", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.contains(" --> file.toml:") && error.contains("= key: "), "{error}");
    }
    let fits = format!("{port}generate = {{ size = 9000 }}\n[pool]\nroom = \"16KiB\"\n");
    Document::<HostConfig>::parse("file.toml", &fits).unwrap();
}

#[test]
fn contradictions() {
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\npath = \"a.wasm\"\n",
        r#"
`use` and `path` exclude each other
 --> file.toml:4:8
  |
4 | path = "a.wasm"
  |        ^^^^^^^^
  = key: function[0].path
  = keep one of them
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[[function]]\npath = \"x/a.wasm\"\n",
        r#"
the chain has two functions named "a"
 --> file.toml:4:1
  |
4 | [[function]]
  | ^^^^^^^^^^^^
  = key: function[1]
  = give one of them a `name` of its own
"#,
    );
    refused::<Chain>(
        "name = \"edge\"\nfrom = \"a\"\nto = \"a\"\n[[function]]\nuse = \"a\"\n",
        r#"
`to` is the same port as `from`
 --> file.toml:3:6
  |
3 | to = "a"
  |      ^^^
  = key: to
  = set `symmetric = false`: a packet's direction cannot be told by its port
"#,
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"memory\"\nfile = \"in.pcap\"\n",
        r#"
a port of kind "memory" has no `file`
 --> file.toml:4:8
  |
4 | file = "in.pcap"
  |        ^^^^^^^^^
  = key: port[0].file
  = allowed: name, kind, tenant, kernel, generate
"#,
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"memory\"\n[[port]]\nname = \"a\"\nkind = \"memory\"\n",
        r#"
there are two ports named "a"
 --> file.toml:5:8
  |
5 | name = "a"
  |        ^^^
  = key: port[1].name
  = names are unique
"#,
    );
    refused::<HostConfig>(
        "[[api.token]]\nname = \"ci\"\nrole = \"operator\"\ntoken = \"0123456789abcdef\"\n",
        r#"
the token has a role for one tenant, but no tenant
 --> file.toml:3:8
  |
3 | role = "operator"
  |        ^^^^^^^^^^
  = key: api.token[0].role
  = add `tenant = "NAME"`
"#,
    );
    refused::<HostConfig>(
        "[[api.token]]\nname = \"ci\"\nrole = \"admin\"\ntoken = \"short\"\n",
        r#"
the token has 5 characters
 --> file.toml:4:9
  |
4 | token = "short"
  |         ^^^^^^^
  = key: api.token[0].token
  = allowed: at least 16, better 32 random ones
"#,
    );
    refused::<Manifest>(
        "state-bytes = \"1MiB\"\n",
        r#"
the function has no state region
 --> file.toml:1:15
  |
1 | state-bytes = "1MiB"
  |               ^^^^^^
  = key: state-bytes
  = set `state = "region"`, or leave this key out
"#,
    );
}

#[test]
fn what_is_no_toml() {
    refused::<Chain>(
        "name = \"edge\n",
        r#"
invalid basic string, expected `"`
 --> file.toml:1:13
  |
1 | name = "edge
  |             ^
"#,
    );
    refused::<Chain>(
        "name = \"a\"\nname = \"b\"\n",
        r#"
duplicate key
 --> file.toml:2:1
  |
2 | name = "b"
  | ^^^^
"#,
    );
}

#[test]
fn a_file_that_is_not_there() {
    let error = Document::<Chain>::read("/nonexistent/chain.toml".as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the file: No such file or directory (os error 2)\n --> /nonexistent/chain.toml"
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]a-z=\"#\n.{}0-9ä \t,']{0,200}") {
        if let Err(error) = Document::<Chain>::parse("f", &text) {
            let _ = error.to_string();
        }
        if let Err(error) = Document::<HostConfig>::parse("f", &text) {
            let _ = error.to_string();
        }
        if let Err(error) = Document::<Steering>::parse("f", &text) {
            let _ = error.to_string();
        }
    }

    /// A good file with a piece cut out, so that deeper code is reached.
    #[test]
    fn no_damaged_file_panics(from in 0..HOST.len(), length in 0usize..40) {
        let mut text = HOST.to_owned();
        text.replace_range(from..(from + length).min(HOST.len()), "");
        if let Err(error) = Document::<HostConfig>::parse("f", &text) {
            prop_assert!(error.line >= 1 && error.to_string().contains("f:"));
        }
    }
}

const STEERING: &str = r#"
[[rule]]
name = "voip"               # optional, for people
port = "wan"                # optional: where the packet comes in
src = "10.0.0.0/8"          # prefix or address, IPv4 or IPv6
dst = "192.0.2.0/24"
proto = "tcp"               # or number
sport = "1024-65535"
dport = "443"
vlan = 100
dscp = 46
ethertype = "ipv4"
src-mac = "02:00:00:00:00:01"
dst-mac = "02:00:00:00:00:02"
chain = "inspect"           # exactly one of: chain = NAME | to = "kernel" | to = "drop"
[[rule]]
proto = 47
dst = "2001:db8::1"
to = "kernel"
[[rule]]
dport = 80
to = "drop"
"#;

#[test]
fn the_documented_rules_are_read_and_survive_json_and_toml() {
    let steering = Document::<Steering>::parse("steer.toml", STEERING).unwrap().value;
    let [voip, tunnel, web] = &steering.rules[..] else { panic!("{steering:?}") };
    assert_eq!(voip.src.unwrap().length(), 8);
    assert_eq!((voip.sport.unwrap().first(), voip.sport.unwrap().last()), (1024, 65535));
    assert_eq!(voip.chain.as_ref().unwrap().as_str(), "inspect");
    assert_eq!(tunnel.proto.unwrap().get(), 47);
    assert_eq!((tunnel.to, web.to), (Some(SteerTo::Kernel), Some(SteerTo::Drop)));
    assert_eq!(
        voip.conditions(),
        "port=wan vlan=100 ethertype=ipv4 src-mac=02:00:00:00:00:01 dst-mac=02:00:00:00:00:02 src=10.0.0.0/8 dst=192.0.2.0/24 proto=tcp sport=1024-65535 dport=443 dscp=46"
    );
    assert_eq!((voip.label(0), web.label(2)), ("rule 1 (voip)".to_owned(), "rule 3".to_owned()));
    let json = serde_json::to_string(&steering).unwrap();
    assert_eq!(serde_json::from_str::<Steering>(&json).unwrap(), steering);
    let toml = toml::to_string(&steering).unwrap();
    assert_eq!(Document::<Steering>::parse("again.toml", &toml).unwrap().value, steering);
    assert_eq!(Document::<Steering>::parse("none.toml", "").unwrap().value, Steering::default());
}

#[test]
fn rules_that_cannot_be_are_shown_where_they_stand() {
    let rule = |keys: &str| {
        let text = format!("[[rule]]\nto = \"drop\"\n[[rule]]\n{keys}\n");
        Document::<Steering>::parse("steer.toml", &text).map(|document| document.value)
    };
    for (keys, key, line, message) in [
        ("dport = \"443\"", "rule[1]", 3, "does not say where packets go"),
        ("chain = \"a\"\nto = \"drop\"", "rule[1].to", 5, "exclude each other"),
        ("to = \"host\"", "rule[1].to", 4, "unknown value `host`"),
        ("to = \"drop\"\nsrc-ip = \"::1\"", "rule[1].src-ip", 5, "unknown key `src-ip`"),
        ("to = \"drop\"\nsrc = \"10.0.0.1/8\"", "rule[1].src", 5, "bits behind its length"),
        ("to = \"drop\"\ndst = \"10.0.0.0/40\"", "rule[1].dst", 5, "ADDRESS/LENGTH"),
        ("to = \"drop\"\ndst = 10", "rule[1].dst", 5, "expected a prefix"),
        ("to = \"drop\"\nproto = 0", "rule[1].proto", 5, "a number from 1 to 255"),
        ("to = \"drop\"\nproto = true", "rule[1].proto", 5, "expected a protocol"),
        ("to = \"drop\"\nsport = \"9-1\"", "rule[1].sport", 5, "numbers from 1 to 65535"),
        ("to = \"drop\"\ndport = 65536", "rule[1].dport", 5, "numbers from 1 to 65535"),
        ("to = \"drop\"\ndport = \"1\"\nproto = \"icmp\"", "rule[1].dport", 5, "have no ports"),
        ("to = \"drop\"\nvlan = 70000", "rule[1].vlan", 5, "70000 is too large"),
        ("to = \"drop\"\nvlan = -1", "rule[1].vlan", 5, "expected a whole number"),
        ("to = \"drop\"\nvlan = 4095", "rule[1].vlan", 5, "no VLAN 4095"),
        ("to = \"drop\"\ndscp = 64", "rule[1].dscp", 5, "no code point 64"),
        ("to = \"drop\"\nethertype = \"ip\"", "rule[1].ethertype", 5, "not an EtherType"),
        (
            "to = \"drop\"\nsrc = \"::1\"\nethertype = \"ipv4\"",
            "rule[1].ethertype",
            6,
            "an address of IPv6",
        ),
        ("to = \"drop\"\nethertype = \"arp\"\ndscp = 1", "rule[1].ethertype", 5, "have no `dscp`"),
        ("to = \"drop\"\nsrc = \"::1\"\ndst = \"10.0.0.1\"", "rule[1].dst", 6, "`src` is IPv6"),
        ("to = \"drop\"\nsrc-mac = \"2\"", "rule[1].src-mac", 5, "not a MAC address"),
        ("chain = \"No\"", "rule[1].chain", 4, "is not a name"),
    ] {
        let text = rule(keys).unwrap_err().to_string();
        assert!(
            text.contains(message) && text.lines().any(|l| l.ends_with(&format!("= key: {key}"))),
            "{keys}: {text}"
        );
        assert!(text.contains(&format!("steer.toml:{line}:")), "{keys}: {text}");
    }
    rule("to = \"drop\"\nproto = \"udplite\"\ndport = 9\nvlan = 4094\ndscp = 63").unwrap();
}

#[test]
fn more_rules_than_there_can_be_are_refused() {
    let many = |count| {
        Document::<Steering>::parse("steer.toml", &"[[rule]]\nto = \"drop\"\n".repeat(count))
    };
    assert_eq!(many(131_072).unwrap().value.rules.len(), 131_072);
    let error = many(131_073).unwrap_err();
    assert!(error.message.contains("131073 rules"), "{error}");
}

#[test]
fn a_steered_chain_has_ports() {
    let text = "name = \"a\"\nsteered = true\n[[function]]\nuse = \"f\"\n";
    let error = Document::<Chain>::parse("c.toml", text).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (2, "steered"));
    let chain = Document::<Chain>::parse("c.toml", &format!("from = \"in\"\n{text}")).unwrap();
    assert!(chain.value.steered);
    let json = serde_json::to_string(&chain.value).unwrap();
    assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain.value);
}

const NIC: &str = r#"
[[nic]]
pf = "ens1f0"
vfs = 2
[[nic.vf]]
index = 0
mac = "02:00:00:00:00:01"
vlan = 100
qos = 3
trust = false
spoof-check = true
max-rate = 1000
link = "up"
[[port]]
name = "wan"
kind = "dpdk"
device = "vf:ens1f0/0,arg=1"
[[listener]]
name = "web"
device = "vf:ens1f0/1"
address = "192.0.2.1:8080"
prefix = 24
protocol = "http"
upstream = ["127.0.0.1:9000"]
"#;

#[test]
fn virtual_functions_are_named_and_set() {
    let host = Document::<HostConfig>::parse("weir.toml", NIC).unwrap().value;
    assert_eq!(host.nics[0].functions[0].max_rate, Some(1000));
    assert_eq!((host.listeners[0].prefix, host.nics[0].vfs), (Some(24), Some(2)));
    for (from, to, key, expected) in [
        ("vfs = 2", "vfs = 0", "nic[0].vfs", "0 virtual functions"),
        ("index = 0", "index = 2", "nic[0].vf[0].index", "allowed: 0 to 1"),
        ("02:00", "03:00", "nic[0].vf[0].mac", "first byte is even"),
        ("vlan = 100", "vlan = 4095", "nic[0].vf[0].vlan", "there is no VLAN 4095"),
        ("qos = 3", "qos = 8", "nic[0].vf[0].qos", "allowed: 0 to 7"),
        ("vlan = 100\n", "", "nic[0].vf[0].qos", "a priority without a VLAN"),
        ("max-rate", "min-rate = 2000\nmax-rate", "nic[0].vf[0].min-rate", "more than `max-rate`"),
        ("link = \"up\"", "link = \"on\"", "nic[0].vf[0].link", "allowed: auto, up, down"),
        ("ens1f0/0,", "ens1f0/2,", "port[0].device", "raise `vfs` in [[nic]]"),
        ("ens1f0/0,", "ens1f0,", "port[0].device", "names no virtual function"),
        ("ens1f0/1", "ens1f0/0", "listener[0].device", "is port[0]'s already"),
        ("prefix = 24", "prefix = 33", "listener[0].prefix", "allowed: 0 to 32"),
        ("192.0.2.1", "0.0.0.0", "listener[0].address", "cannot be given 0.0.0.0"),
        ("device = \"vf:ens1f0/1\"\n", "", "listener[0].prefix", "add `device`"),
        ("[[port]]", "[[nic]]\npf = \"ens1f0\"\n[[port]]", "nic[1].pf", "named twice"),
    ] {
        let text = NIC.replacen(from, to, 1);
        assert_ne!(text, NIC, "{from}");
        let error = Document::<HostConfig>::parse("weir.toml", &text).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(&format!("= key: {key}")),
            "{to}: {error}"
        );
    }
}
