//! Chains on several workers: what is done to them is done on all, and what goes wrong on one ends
//! on all.

use serde_json::Value;
use weir_tests::wat_guest::{each, module, upload};

use crate::guests::{CHAIN, TRAFFIC, pass, push, trap};
use crate::host::Host;

const WORKERS: &str = "[workers]\ncount = 2\n";

fn host() -> Host {
    Host::start(&format!("{WORKERS}{TRAFFIC}"))
}

fn apply(host: &Host, keys: &str) -> Value {
    host.write("c.toml", format!("{keys}\n{CHAIN}"));
    host.json(&["chain", "apply", "c.toml"])
}

fn chain(host: &Host) -> Value {
    host.json(&["status"])["chains"][0].clone()
}

fn sum(list: &Value, key: &str) -> u64 {
    list.as_array().expect("a list").iter().map(|one| one[key].as_u64().expect("a number")).sum()
}

/// Each worker has had some packets more than it has now.
fn wait_for_traffic(host: &mut Host) {
    let of = |host: &Host| {
        let workers = chain(host)["workers"].as_array().cloned().unwrap_or_default();
        workers.iter().map(|worker| worker["packets_out"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = of(host);
    host.wait_for("packets pass every worker", |host| {
        let now = of(host);
        now.len() == 2 && now.iter().zip(&before).all(|(now, before)| now > before)
    });
}

#[test]
fn a_chain_has_a_lane_on_each_of_its_workers() {
    let mut host = host();
    push(&host, "1.0.0", &pass(1));
    for workers in ["workers = 2", "workers = \"all\""] {
        apply(&host, workers);
        wait_for_traffic(&mut host);
        let chain = chain(&host);
        let workers = &chain["workers"];
        assert_eq!((&workers[0]["worker"], &workers[1]["worker"]), (&0.into(), &1.into()));
        for key in ["packets_in", "packets_out"] {
            assert_eq!(sum(workers, key), chain[key].as_u64().unwrap(), "{chain}");
        }
        assert_eq!(chain["pool"]["total"], 8192);
        assert_eq!(chain["functions"][0]["packets"], chain["packets_in"]);
        host.wait_for("the port's queues add up", |host| {
            let port = &host.json(&["port", "list"])[0];
            port["queues"].as_array().is_some_and(|queues| queues.len() == 2)
                && sum(&port["queues"], "rx_packets") == port["rx_packets"].as_u64().unwrap()
        });
    }
    // One worker again, and none.
    apply(&host, "");
    host.wait_for("packets flow", |host| host.packets_out("edge") > 100);
    assert_eq!(chain(&host)["workers"].as_array().unwrap().len(), 1);
    host.ok(&["chain", "remove", "edge"]);
    let (status, _, log) = host.end(rustix::process::Signal::TERM);
    assert!(status.success() && !log.contains("were lost"), "{log}");
}

#[test]
fn what_cannot_be_on_so_many_workers_is_refused_in_words() {
    let pcap = "[[port]]\nname = \"file\"\nkind = \"pcap\"\noutput = \"out.pcap\"\n\
                [[port]]\nname = \"few\"\nkind = \"memory\"\ngenerate = { flows = 1 }\n";
    let host = Host::start(&format!("{WORKERS}{TRAFFIC}{pcap}"));
    push(&host, "1.0.0", &pass(1));
    for (keys, from, to, expected) in [
        ("workers = 3", "in", "out", "the chain wants 3 workers, and the host has 2"),
        ("workers = 0", "in", "out", "expected a number of workers from 1 to 1024, or \"all\""),
        ("workers = \"many\"", "in", "out", "c.toml:1:11"),
        ("workers = 2", "in", "file", "port file is of kind \"pcap\", which has one queue"),
        (
            "workers = 2",
            "few",
            "out",
            "port few generates fewer flows than the chain wants workers",
        ),
    ] {
        let chain = CHAIN.replace("\"in\"", &format!("\"{from}\""));
        let chain = chain.replace("\"out\"", &format!("\"{to}\""));
        host.write("c.toml", format!("{keys}\n{chain}"));
        let error = host.fails(&["chain", "apply", "c.toml"]);
        assert!(error.contains(expected), "{keys}: {error}");
    }
    let tables = format!("workers = 2\n{CHAIN}per-worker = [{{ a = 1 }}]\n");
    host.write("c.toml", tables);
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("1 table for 2 workers"), "{error}");
    assert!(error.contains("key: function[0].per-worker"), "{error}");
}

#[test]
fn versions_change_on_all_workers() {
    let mut host = host();
    push(&host, "1.0.0", &pass(1));
    apply(&host, "workers = 2");
    push(&host, "2.0.0", &pass(2));
    wait_for_traffic(&mut host);
    let swap = host.json(&["function", "swap", "gate", "--to", "2.0.0"]);
    assert_eq!((swap["to"].as_str(), swap["packets_lost"].as_u64()), (Some("2.0.0"), Some(0)));
    assert_eq!(host.running(), "2.0.0");
    host.ok(&["function", "rollback", "gate"]);
    assert_eq!(host.running(), "1.0.0");
    wait_for_traffic(&mut host);
    push(&host, "3.0.0", &pass(3));
    for trial in [&["--canary", "40"][..], &["--shadow"]] {
        let swap = [&["function", "swap", "gate", "--to", "3.0.0"], trial].concat();
        host.ok(&swap);
        host.wait_for("the trial sees packets", |host| {
            chain(host)["trial"]["packets"].as_u64() > Some(100)
        });
        wait_for_traffic(&mut host);
        if trial.len() > 1 {
            host.ok(&["function", "rollback", "gate"]);
            assert!(chain(&host)["trial"].is_null());
        }
    }
    // The shadow's version is made the running one.
    host.ok(&["function", "swap", "gate", "--to", "3.0.0"]);
    assert_eq!(host.running(), "3.0.0");
    // And a canary is promoted.
    host.ok(&["function", "swap", "gate", "--to", "1.0.0", "--canary", "50"]);
    host.ok(&["function", "swap", "gate", "--to", "1.0.0"]);
    assert_eq!(host.running(), "1.0.0");
    wait_for_traffic(&mut host);
    let chain = chain(&host);
    assert_eq!(chain["functions"][0]["faults"], 0, "{chain}");
    assert_eq!(chain["packets_in"], chain["packets_out"], "{chain}");
}

/// Traps on packets of flows with an odd number in the last byte of their source's address: they
/// are all the second worker's.
fn traps_on_the_second_worker() -> Vec<u8> {
    let body =
        "(if (i32.and (i32.load8_u offset=29 (local.get $p)) (i32.const 1)) (then unreachable))";
    upload(&module(&each(body)), "packet-function")
}

#[test]
fn a_version_that_faults_on_one_worker_is_taken_back_on_all() {
    let mut host = host();
    push(&host, "1.0.0", &pass(1));
    apply(&host, "workers = 2");
    wait_for_traffic(&mut host);
    push(&host, "2.0.0", &traps_on_the_second_worker());
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    host.wait_for("the old version runs again", |host| host.running() == "1.0.0");
    host.wait_for("the store says so", |host| {
        let function = host.json(&["function", "show", "gate"]);
        function["versions"][1]["withdrawn"].is_string()
            && function["chains"][0]["version"] == "1.0.0"
    });
    let faults = chain(&host)["workers"].clone();
    assert_eq!((&faults[0]["faults"], &faults[1]["faults"]), (&0.into(), &1.into()), "{faults}");
    wait_for_traffic(&mut host);
    // The same as a canary.
    push(&host, "3.0.0", &trap());
    host.ok(&["function", "swap", "gate", "--to", "3.0.0", "--canary", "50"]);
    host.wait_for("the canary is gone", |host| chain(host)["trial"].is_null());
    assert_eq!(host.running(), "1.0.0");
    wait_for_traffic(&mut host);
    assert_eq!(chain(&host)["functions"][0]["state"], "running");
}

#[test]
fn a_function_that_faults_on_one_worker_is_out_of_order_there_and_says_so() {
    let mut host = host();
    push(&host, "1.0.0", &traps_on_the_second_worker());
    apply(&host, "workers = 2");
    host.wait_for("it is quarantined", |host| {
        chain(host)["functions"][0]["state"] == "quarantined"
    });
    let chain = chain(&host);
    assert_eq!(chain["workers"][0]["faults"], 0, "{chain}");
    assert!(chain["workers"][1]["faults"].as_u64() >= Some(5), "{chain}");
    assert!(chain["drops"]["out-of-order"].as_u64() > Some(0), "{chain}");
    // The other worker's flows pass.
    let before = chain["workers"][0]["packets_out"].as_u64();
    host.wait_for("packets flow", |host| {
        self::chain(host)["workers"][0]["packets_out"].as_u64() > before
    });
}
