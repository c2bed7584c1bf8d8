//! Functions and chains over a host's whole life: pushed, deployed, swapped, tried, rolled back,
//! found again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use weir_tests::built::built_file;
use weir_tests::wat_guest;

use crate::guests::{CHAIN, TRAFFIC, pass, push, trap};
use crate::host::Host;

fn apply(host: &Host) -> serde_json::Value {
    host.write("c.toml", CHAIN);
    host.json(&["chain", "apply", "c.toml"])
}

#[test]
fn a_version_is_swapped_under_traffic_rolled_back_and_there_after_a_crash() {
    let mut host = Host::start(TRAFFIC);
    assert_eq!(push(&host, "1.0.0", &pass(1))["new"], true);
    assert_eq!(push(&host, "1.0.0", &pass(1))["new"], false);
    push(&host, "1.1.0", &pass(2));
    host.write("f.wasm", pass(3));
    let twice = ["function", "push", "f.wasm", "--name", "gate", "--version", "1.1.0"];
    assert!(host.fails(&twice).contains("versions do not change"));

    assert_eq!(apply(&host)["new"], true);
    assert_eq!(host.running(), "1.1.0");
    host.wait_for("packets flow", |host| host.packets_out("edge") > 100);
    let swap = host.json(&["function", "swap", "gate", "--to", "1.0.0"]);
    assert_eq!((swap["from"].as_str(), swap["to"].as_str()), (Some("1.1.0"), Some("1.0.0")));
    assert_eq!(swap["packets_lost"], 0);
    assert!(swap["pause_us"].as_f64().unwrap() > 0.0, "{swap}");
    let back = host.json(&["function", "rollback", "gate"]);
    assert_eq!(back["to"], "1.1.0");
    assert!(host.fails(&["function", "rollback", "gate"]).contains("no version before"));
    assert!(host.fails(&["function", "remove", "gate"]).contains("used by chain edge"));

    let (_, directory, _) = host.end(Signal::KILL);
    let mut host = Host::start_in(directory, TRAFFIC);
    assert_eq!(host.running(), "1.1.0");
    host.wait_for("packets flow again", |host| host.packets_out("edge") > 0);
    host.ok(&["chain", "remove", "edge"]);
    host.ok(&["function", "remove", "gate"]);
    assert_eq!(host.json(&["function", "list"]), serde_json::json!([]));
}

#[test]
fn a_version_that_faults_after_its_swap_is_taken_back_by_itself() {
    let mut host = Host::start(TRAFFIC);
    push(&host, "1.0.0", &pass(1));
    apply(&host);
    push(&host, "1.1.0", &trap());
    host.ok(&["function", "swap", "gate", "--to", "1.1.0"]);
    host.wait_for("the old version runs again", |host| host.running() == "1.0.0");
    host.wait_for("the store says so", |host| {
        let function = host.json(&["function", "show", "gate"]);
        function["versions"][1]["withdrawn"].is_string()
            && function["chains"][0]["version"] == "1.0.0"
    });
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
}

#[test]
fn a_chain_whose_instances_take_long_to_make_comes_back_after_a_fault() {
    let once = wat_guest::each(
        "(if (i32.eqz (i32.load (global.get $state))) (then
           (i32.store (global.get $state) (i32.const 1)) unreachable))",
    );
    let module = wat_guest::module_configured(&once, wat_guest::SLOW_AGAIN);
    let mut host = Host::start(TRAFFIC);
    push(&host, "1.0.0", &wat_guest::upload(&module, "packet-function"));
    host.write("c.toml", format!("{CHAIN}state = \"64KiB\"\n"));
    host.ok(&["chain", "apply", "c.toml"]);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 100);
    let chain = &host.json(&["status"])["chains"][0];
    assert_eq!(
        (&chain["functions"][0]["faults"], &chain["functions"][0]["state"]),
        (&1.into(), &"running".into())
    );
    assert!(chain["drops"]["out-of-order"].as_u64().unwrap() > 0, "{chain}");
}

#[test]
fn a_canary_gets_a_share_and_becomes_the_running_version() {
    let mut host = Host::start(TRAFFIC);
    push(&host, "1.0.0", &pass(1));
    apply(&host);
    push(&host, "2.0.0", &pass(2));
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--canary", "50"]);
    host.wait_for("the canary gets packets", |host| {
        host.json(&["status"])["chains"][0]["trial"]["packets"].as_u64().is_some_and(|n| n > 100)
    });
    assert_eq!(host.running(), "1.0.0");
    let other = host.fails(&["function", "swap", "gate", "--to", "1.0.0"]);
    assert!(other.contains("is being tried"), "{other}");
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    assert_eq!(host.running(), "2.0.0");
    assert_eq!(host.json(&["status"])["chains"][0]["trial"], serde_json::Value::Null);
}

#[test]
fn a_refused_change_leaves_what_runs() {
    let theirs = "[[port]]\nname = \"theirs\"\nkind = \"memory\"\ntenant = \"acme\"\n";
    let mut host = Host::start(&format!("{TRAFFIC}{theirs}"));
    push(&host, "1.0.0", &pass(1));
    apply(&host);
    for (text, expected) in [
        (CHAIN.replace("gate", "gat"), "= key: function[0].use\n  = did you mean `gate`?"),
        (format!("workers = 4\n{CHAIN}"), " --> c.toml:1:11"),
        (CHAIN.replace("\"in\"", "\"lan\""), "there is no port lan: tenant default has in, out"),
        (CHAIN.replace("use", "uses"), "did you mean `use`?"),
        (CHAIN.replace("edge", "edge2"), "port in belongs to chain edge"),
    ] {
        host.write("c.toml", text);
        let error = host.fails(&["chain", "apply", "c.toml"]);
        assert!(error.contains(expected), "{error}");
    }
    // Whoever was not there finds in the log why.
    let told = r#"status=409 code="conflict" detail="from: port in belongs to chain edge"#;
    assert!(host.log().contains(told), "{}", host.log());
    // The administrator easily forgets whose the port is.
    host.write("c.toml", CHAIN.replace("\"in\"", "\"theirs\""));
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("= port theirs is tenant acme's: `--tenant acme`"), "{error}");
    let large = format!("{CHAIN}[function.config]\ntext = \"{}\"\n", "x".repeat(16 << 20));
    host.write("c.toml", large);
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("c.toml: chain edge has 16777"), "{error}");
    assert!(error.contains(" bytes as JSON, and 16777216 (16 MiB) are allowed"), "{error}");
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
}

#[test]
fn a_chain_file_pushes_the_files_it_names() {
    let host = Host::start(TRAFFIC);
    fs::create_dir(host.path("sub")).unwrap();
    host.write("sub/gate.wasm", pass(1));
    host.write("sub/c.toml", "name = \"edge\"\n[[function]]\npath = \"gate.wasm\"\n");
    let text = host.ok(&["chain", "apply", "sub/c.toml"]);
    assert!(text.contains("function gate: version 0.1.0 was pushed"), "{text}");
    assert!(text.contains("chain edge was deployed"), "{text}");
    let chain = host.json(&["chain", "show", "edge"]);
    assert_eq!(chain["chain"]["function"][0]["use"], "gate");
    assert_eq!(chain["running"][0]["version"], "0.1.0");
    // A tenant's chain has its own functions.
    host.ok(&["tenant", "add", "acme"]);
    let text = fs::read_to_string(host.path("sub/c.toml")).unwrap();
    host.write("sub/c.toml", format!("tenant = \"acme\"\n{}", text.replace("gate", "lock")));
    fs::rename(host.path("sub/gate.wasm"), host.path("sub/lock.wasm")).unwrap();
    host.ok(&["chain", "apply", "sub/c.toml"]);
    let functions = host.json(&["function", "list"]);
    let of = |name| functions.as_array().unwrap().iter().find(|function| function["name"] == name);
    assert_eq!(of("lock").unwrap()["tenant"], "acme", "{functions}");
    // So has it tokens, which whoever sees all tenants is shown.
    host.ok(&["--tenant", "acme", "token", "add", "--role", "viewer"]);
    let tokens = host.json(&["token", "list"]);
    assert_eq!((tokens.as_array().unwrap().len(), &tokens[0]["tenant"]), (1, &"acme".into()));
    assert_eq!(host.json(&["--tenant", "default", "token", "list"]), serde_json::json!([]));
    // Who has it is told, if that is what is missing.
    let error = host.fails(&["function", "swap", "lock", "--to", "9.9.9"]);
    assert!(error.contains("tenant acme has one: `--tenant acme`"), "{error}");
    let error = host.fails(&["function", "swap", "gate", "--to", "9.9.9"]);
    assert!(error.contains("no function version") && !error.contains("--tenant"), "{error}");
    host.write("n.toml", "tenant = \"nobody\"\nname = \"edge\"\n[[function]]\nuse = \"gate\"\n");
    let error = host.fails(&["chain", "apply", "n.toml"]);
    assert!(error.contains("there is no tenant nobody") && !error.contains("--tenant"), "{error}");
}

/// Counts a packet under its own name, logs its first one, and lets all pass.
fn counting(drops: bool) -> Vec<u8> {
    let body = format!(
        "      (call $counter-add (i32.const 0x8000) (i32.const 4) (i64.const 1))
      (if (i32.eqz (global.get $state)) (then (global.set $state (i32.const 1))
        (call $log (i32.const 2) (i32.const 0x8000) (i32.const 4))))
      (local.set $verdict (i32.const {}))",
        u32::from(drops)
    );
    wat_guest::upload(&wat_guest::module(&wat_guest::each(&body)), "packet-function")
}

#[test]
fn a_shadow_changes_no_count_and_then_gets_growing_shares_of_the_flows() {
    let mut host = Host::start(TRAFFIC);
    push(&host, "1.0.0", &counting(false));
    apply(&host);
    push(&host, "2.0.0", &counting(true));
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--shadow"]);
    let trial = |host: &Host, key: &str| {
        host.json(&["status"])["chains"][0]["trial"][key].as_u64().unwrap_or(0)
    };
    host.wait_for("the shadow decides otherwise", |host| trial(host, "verdicts_differ") > 10_000);
    let log = host.ok(&["function", "log", "gate"]);
    assert!(log.contains("edge:gate (shadow) name"), "{log}");
    assert!(log.contains("edge:gate name"), "{log}");
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--canary", "10"]);
    host.wait_for("the canary drops packets", |host| trial(host, "packets") > 100);
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--canary", "90"]);
    let status = host.json(&["status"]);
    assert_eq!(status["chains"][0]["trial"]["canary"], 90);
    let told = host.ok(&["function", "rollback", "gate"]);
    assert_eq!(told, "function gate: the trial of 2.0.0 in edge is over, 1.0.0 runs on\n");
    // Counters reach the host ten times a second.
    host.wait_for("what the function counted is what passed it", |host| {
        let chain = host.json(&["status"])["chains"][0].take();
        let function = &chain["functions"][0];
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        let (own, packets) = (number(&function["counters"]["name"]), number(&function["packets"]));
        // The two are not read at the same moment.
        assert!(own <= packets + 5000, "{chain}");
        own >= packets * 9 / 10
    });
    let shown = host.ok(&["function", "show", "gate"]);
    assert!(shown.contains("COUNTERS") && shown.contains("name:"), "{shown}");
}

#[test]
fn what_a_function_logs_is_followed_while_it_logs() {
    // Always some new flows, of which the firewall writes ten lines a second at most.
    let mut host =
        Host::start(&TRAFFIC.replace("flows = 100, rate = 20000", "flows = 1000000, rate = 500"));
    host.ok(&["function", "push", built_file("firewall").to_str().unwrap()]);
    let chain = CHAIN.split("[[function]]").next().unwrap();
    let function = "[[function]]\nuse = \"firewall\"\n[function.config]\nrules = [{ action = \"allow\", log = true }]\n";
    host.write("c.toml", format!("{chain}{function}"));
    host.ok(&["chain", "apply", "c.toml"]);
    let lines = |host: &Host, more: &[&str]| {
        let log = host.json(&[&["function", "log", "firewall"], more].concat());
        log["lines"].as_array().unwrap().len()
    };
    host.wait_for("it has logged", |host| lines(host, &[]) >= 4);
    assert_eq!(lines(&host, &["--tail", "2"]), 2);
    assert!(lines(&host, &["--since", "1h"]) >= 4);
    let mut follows = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["--output", "json", "--api", host.path("api.sock").to_str().unwrap()])
        .args(["function", "log", "firewall", "-f", "--tail", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(follows.stdout.take().unwrap());
    let followed: Vec<serde_json::Value> =
        out.lines().take(6).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    follows.kill().unwrap();
    follows.wait().unwrap();
    // What came was not there before, and none is there twice: all that the host has from the first
    // of them on.
    let log = host.json(&["function", "log", "firewall"]);
    let all = log["lines"].as_array().unwrap();
    let first = all.iter().rposition(|line| *line == followed[0]).unwrap();
    assert_eq!(all[first..first + followed.len()], followed);
}

#[test]
fn a_timer_that_was_set_in_configure_is_due_when_it_says() {
    let mut host = Host::start(TRAFFIC);
    host.ok(&["function", "push", built_file("monitor").to_str().unwrap()]);
    let chain = CHAIN.split("[[function]]").next().unwrap();
    let function = "[[function]]\nuse = \"monitor\"\n[function.config]\nreport-every = 1\n";
    host.write("c.toml", format!("{chain}{function}"));
    host.ok(&["chain", "apply", "c.toml"]);
    host.wait_for("reports", |host| {
        host.json(&["function", "log", "monitor"])["lines"].as_array().unwrap().len() > 1
    });
}
