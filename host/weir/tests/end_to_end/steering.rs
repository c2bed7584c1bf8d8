//! Steering rules with the command, as operators and scripts use it.

use rustix::process::Signal;
use serde_json::json;

use crate::guests::{self, pass};
use crate::host::Host;

const RULES: &str = "[[rule]]\nname = \"voip\"\nport = \"in\"\nproto = \"udp\"\ndscp = 46\nchain = \"edge\"\n\
    [[rule]]\ndport = 22\nto = \"kernel\"\n[[rule]]\nsrc = \"192.0.2.0/24\"\nto = \"drop\"\n";

#[test]
fn rules_are_applied_from_a_file_listed_and_survive_a_kill() {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    let before = host.ok(&["steer", "list"]);
    assert_eq!(
        before,
        "PORT  CHAIN  TENANT   DIRECTION  RULE  PACKETS  AT  FLOWS  IN DEVICE\n\
         in    edge   default  forward    -     others   -       -          -\n\
         out   edge   default  reverse    -     others   -       -          -\n"
    );
    host.write("s.toml", RULES);
    let told = host.ok(&["steer", "apply", "s.toml"]);
    assert!(told.starts_with("3 steering rules of tenant default are in force; pause "), "{told}");
    let no_way =
        "port in has no way to the kernel: set `kernel` for it in the host's configuration";
    assert!(told.contains(&format!("\nrule 2 drops its packets at port in: {no_way}\n")), "{told}");
    let list = host.ok(&["steer", "list"]);
    let packets: Vec<Vec<&str>> = list
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|f| !f.is_empty()).collect())
        .collect();
    assert_eq!(
        packets[1][..7],
        ["in", "edge", "default", "-", "1 voip", "port=in proto=udp dscp=46", "software"]
    );
    assert_eq!(packets[2][..7], ["-", "(kernel)", "default", "-", "2", "dport=22", "software"]);
    assert_eq!(
        packets[3][..7],
        ["-", "(drop)", "default", "-", "3", "src=192.0.2.0/24", "software"]
    );
    assert_eq!(packets.len(), 8);
    assert!(list.contains(&format!("\ndropped at port in of tenant default: rule 2: {no_way}\n")));
    let json = host.json(&["steer", "list"]);
    assert_eq!(json[0]["rule"]["name"], "voip");
    assert_eq!(json[0]["places"], json!([{"port": "in", "at": "software"}]));
    let both = json!([{"port": "in", "at": "software"}, {"port": "out", "at": "software"}]);
    assert_eq!(json[2]["places"], both);
    assert_eq!(json[1]["places"][0]["dropped"], no_way);
    // What scripts read before there were rules is there as it was.
    assert_eq!((&json[3]["port"], &json[3]["chain"]), (&"in".into(), &"edge".into()));
    assert_eq!(json[3]["rule"], serde_json::Value::Null);
    assert!(host.ok(&["events"]).contains("steering-applied"));

    let (_, directory, _) = host.end(Signal::KILL);
    let host = Host::start_in(directory, guests::TRAFFIC);
    assert_eq!(host.json(&["steer", "list"]), json);
    let refused = host.fails(&["chain", "remove", "edge"]);
    assert!(refused.contains("rule 1 (voip) sends packets to it"), "{refused}");
    host.write("none.toml", "");
    host.ok(&["steer", "apply", "none.toml"]);
    assert_eq!(host.ok(&["steer", "list"]), before);
    host.ok(&["chain", "remove", "edge"]);
}

#[test]
fn what_is_wrong_with_a_rule_is_shown_in_its_file() {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    host.write("s.toml", "[[rule]]\nto = \"drop\"\n[[rule]]\ndport = 80\nchain = \"nope\"\n");
    let refused = host.fails(&["steer", "apply", "s.toml"]);
    assert!(refused.contains("there is no chain nope: tenant default has edge"), "{refused}");
    assert!(refused.contains(" --> s.toml:5:9"), "{refused}");
    assert!(refused.contains("= key: rule[1].chain"), "{refused}");
    host.write("s.toml", "[[rule]]\nto = \"drop\"\ndport = \"80-70\"\n");
    let refused = host.fails(&["steer", "apply", "s.toml"]);
    assert!(refused.contains(" --> s.toml:3:9"), "{refused}");
}

/// Rules behind one that means more of the same: not refused, since the first one decides, but
/// told.
#[test]
fn rules_that_decide_nothing_are_told() {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    let rules = "[[rule]]\nname = \"ten\"\nsrc = \"10.0.0.0/8\"\nto = \"drop\"\n\
        [[rule]]\nsrc = \"10.1.0.0/16\"\nproto = \"tcp\"\nchain = \"edge\"\n\
        [[rule]]\nsrc = \"10.0.0.0/7\"\nto = \"drop\"\n\
        [[rule]]\nport = \"in\"\nsrc = \"10.2.0.1\"\nto = \"drop\"\n";
    host.write("s.toml", rules);
    let told = host.ok(&["steer", "apply", "s.toml"]);
    let lines: Vec<_> = told.lines().skip(1).collect();
    let contradicts =
        "decides nothing: rule 1 (ten) means all of its packets, and sends them elsewhere";
    let more = "decides nothing: rule 1 (ten) means all of its packets";
    assert_eq!(lines, [format!("rule 2 {contradicts}"), format!("rule 4 {more}")]);
    let list = host.ok(&["steer", "list"]);
    assert!(list.contains(&format!("\nrule 2 of tenant default {contradicts}\n")), "{list}");
    assert!(list.contains(&format!("\nrule 4 of tenant default {more}\n")), "{list}");
    let json = host.json(&["steer", "list"]);
    let covered = [0, 1, 2, 3].map(|place| json[place]["covered_by"].as_u64());
    assert_eq!(covered, [None, Some(1), None, Some(1)], "{json}");
}
