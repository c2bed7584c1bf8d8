//! Each kind of mistake, in whichever file.

use proptest::prelude::*;

use super::*;
use crate::hosts::HOST;

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
  = did you mean `version`? allowed: use, path, name, version, access, on-fault, memory, deadline, timeout, instances, requests-per-instance, instance-idle, state, flow-verdicts, targets, state-shared, config, per-worker
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
        "name = \"edge\"\n[function]\nuse = \"firewall\"\n",
        r#"
wrong type: map, expected an array
 --> file.toml:2:1
  |
2 | [function]
  | ^^^^^^^^^^
  = key: function
  = each entry begins with `[[function]]`
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
fn numbers_that_configurations_cannot_be_handed_on_with() {
    refused::<Chain>(
        "name = \"edge\"\n[[function]]\nuse = \"a\"\n[function.config]\nrules = [ { rate = 1.5 }, { rate = nan } ]\n",
        r"
NaN is no number
 --> file.toml:5:36
  |
5 | rules = [ { rate = 1.5 }, { rate = nan } ]
  |                                    ^^^
  = key: function[0].config.rules[1].rate
  = allowed: finite ones
",
    );
}

#[test]
fn files_that_are_no_utf_8() {
    let path = std::env::temp_dir().join(format!("weir-spec-{}.toml", std::process::id()));
    std::fs::write(&path, b"name = \"edge\"\n# gro\xdf\n").unwrap();
    let read = Document::<Chain>::read(&path);
    std::fs::remove_file(&path).unwrap();
    let error = read.unwrap_err();
    assert_eq!((error.line, error.column, error.message.as_str()), (2, 6, "this is no UTF-8"));
    assert!(error.to_string().contains("2 | # gro\u{fffd}\n"), "{error}");
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
        ("[quota]\nchains = 0\n", "allowed: 1 and more"),
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
  = leave `to` out if packets go back where they came from, or set `symmetric = false`: a packet's direction cannot be told by its port
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
  = allowed: name, kind, tenant, kernel, kernel-port, generate
"#,
    );
    // What other kinds have is no help.
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"memory\"\n[[port]]\nname = \"b\"\niface = \"eth0\"\nkind = \"xdp\"\n",
        r#"
unknown key `iface`
 --> file.toml:6:1
  |
6 | iface = "eth0"
  | ^^^^^
  = key: port[1].iface
  = allowed: name, kind, tenant, kernel, kernel-port, interface, queue, queues, mode, pin, busy-poll, rx-ring, tx-ring, leave, claim, peer
"#,
    );
    refused::<HostConfig>(
        "[[port]]\nname = \"a\"\nkind = \"dpdk\"\nqueue = 2\ndevise = \"x\"\n",
        r#"
unknown key `devise`
 --> file.toml:5:1
  |
5 | devise = "x"
  | ^^^^^^
  = key: port[0].devise
  = did you mean `device`? allowed: name, kind, tenant, kernel, kernel-port, device, queues, peer, rx-descriptors, tx-descriptors, mtu, promiscuous, multicast, checksum-offload, idle
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
