//! Examples in the functions' READMEs are taken as they stand.

use std::fs;

use weir_tests::built::{built_file, workspace};

use crate::host::Host;

/// Ports and upstreams have the names that the examples have.
const CONFIG: &str = r#"
[api]
socket = "api.sock"
[store]
path = "store"
[[port]]
name = "lan"
kind = "memory"
[[port]]
name = "wan"
kind = "memory"
[[listener]]
name = "http"
address = "127.0.0.1:0"
protocol = "http"
chain = "http"
upstream = ["10.0.0.1:8080", "10.0.0.2:8080", "auth:443"]
[[listener]]
name = "tcp"
address = "127.0.0.1:0"
protocol = "tcp"
chain = "tcp"
upstream = ["10.0.0.7:5432"]
"#;

/// Functions for packets; all others are for messages.
const PACKETS: [&str; 8] =
    ["firewall", "l4lb", "macswap", "monitor", "nat", "null", "ratelimit", "router"];

#[test]
fn the_readmes_examples_are_taken_as_they_stand() {
    let host = Host::start(CONFIG);
    let mut names: Vec<String> = fs::read_dir(workspace().join("functions"))
        .expect("the functions")
        .map(|entry| entry.expect("a function").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let readme = workspace().join("functions").join(&name).join("README.md");
        let readme = fs::read_to_string(readme).expect("it has a README");
        assert!(readme.contains("\n## Limits\n"), "{name} has no limits");
        let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let example = example.unwrap_or_else(|| panic!("{name} has no example"));
        host.ok(&["function", "push", built_file(&name).to_str().expect("text")]);
        let (chain, head) = match name.as_str() {
            "tcp-policy" => ("tcp", "plane = \"message\""),
            packets if PACKETS.contains(&packets) => ("packets", "from = \"lan\"\nto = \"wan\""),
            _ => ("http", "plane = \"message\""),
        };
        host.write("chain.toml", format!("name = \"{chain}\"\n{head}\n{example}"));
        let answer = host.weir(&["chain", "apply", "chain.toml"]);
        assert_eq!(answer.status, Some(0), "{name}: {}", answer.err);
        host.ok(&["chain", "remove", chain]);
    }
}
