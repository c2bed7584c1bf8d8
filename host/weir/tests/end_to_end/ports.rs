//! Ports that cannot be, and ports that break while they are used.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::guests::{self, pass, refuse};
use crate::host::{Host, weir};

const HEAD: &str = "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n";

/// A capture of UDP packets, one a millisecond.
fn capture(packets: u32) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1_u32] {
        file.extend(word.to_le_bytes());
    }
    let frame = [
        &[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00][..],
        &[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
        &[0x04, 0xd2, 0x16, 0x2e, 0, 26, 0, 0],
        &[0; 18],
    ]
    .concat();
    for packet in 0..packets {
        for word in [1, packet * 1000, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&frame);
    }
    file
}

#[test]
fn impossible_ports_are_refused_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    for (keys, expected) in [
        (
            "kind = \"pcap\"\nfile = \"text\"\noutput = \"text\"",
            "`output` is the file that is read",
        ),
        ("kind = \"memory\"\ngenerate = { flows = 0 }", "allowed: 1 to 1000000"),
        ("kind = \"memory\"\ngenerate = { size = 9000 }", "raise `room` in [pool]"),
        ("kind = \"memory\"\nrounds = 2", "a port of kind \"memory\" has no `rounds`"),
    ] {
        let text = format!("{HEAD}[[port]]\nname = \"in\"\n{keys}\n");
        fs::write(directory.path().join("weir.toml"), text).unwrap();
        let answer = weir(directory.path(), &["run"]);
        assert_eq!(answer.status, Some(1), "{keys}: {}", answer.err);
        assert!(answer.err.contains(expected), "{keys}: {}", answer.err);
        assert!(answer.err.contains(" --> weir.toml:"), "{keys}: {}", answer.err);
        assert!(answer.err.contains("= key: port[0]"), "{keys}: {}", answer.err);
    }
}

#[test]
fn ports_whose_files_are_not_there_are_down_and_the_host_starts() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("text"), "no capture at all, but long enough to be one")
        .unwrap();
    fs::write(directory.path().join("cut.pcap"), &capture(1)[..20]).unwrap();
    let mut cooked = capture(1);
    cooked[20] = 113;
    fs::write(directory.path().join("cooked.pcap"), cooked).unwrap();
    let all = [
        ("file = \"none.pcap\"", "cannot open the capture none.pcap"),
        ("file = \"text\"", "text is not a capture"),
        ("file = \"cut.pcap\"", "cut.pcap is not a capture"),
        ("file = \"cooked.pcap\"", "holds packets of link type 113"),
        ("file = \".\"", "reading the capture . failed"),
        ("output = \"no/out.pcap\"", "cannot create the capture no/out.pcap"),
    ];
    let ports = all
        .iter()
        .enumerate()
        .map(|(n, (keys, _))| format!("[[port]]\nname = \"p{n}\"\nkind = \"pcap\"\n{keys}\n"));
    let host = Host::start_in(directory, &format!("{HEAD}{}", ports.collect::<String>()));
    let check = weir(host.directory.path(), &["run", "--check"]);
    assert_eq!(check.status, Some(0), "{}", check.err);
    let list = host.json(&["port", "list"]);
    for (n, (_, expected)) in all.iter().enumerate() {
        let problem = list[n]["problem"].as_str().unwrap_or_default();
        assert!(problem.contains(expected), "{n}: {list}");
        assert_eq!(list[n]["device"]["link"], "down");
        let told = format!("down at the start: port p{n}: {problem}\n");
        assert!(check.out.contains(&told), "{told}: {}", check.out);
    }
}

#[test]
fn a_chain_waits_for_a_capture_that_is_missing_at_the_start_and_others_do_not() {
    let host = two_chains(&capture(10), "copy.pcap");
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    let at = directory.path().to_owned();
    fs::remove_file(at.join("in.pcap")).unwrap();
    let config = fs::read_to_string(at.join("weir.toml")).unwrap();
    let mut host = Host::start_in(directory, &config);
    let failed = |host: &Host, why: &str| {
        let status = host.json(&["status"]);
        let failed = status["failed"]["default/offline"].as_str().unwrap_or_default().to_owned();
        failed.contains(why) && failed.ends_with("and the chain is deployed then")
    };
    assert!(failed(&host, "cannot open the capture in.pcap: No such file"), "{}", host.log());
    let text = host.ok(&["status"]);
    assert!(text.contains("\nport file is down: cannot open the capture in.pcap"), "{text}");
    assert!(text.contains("\nchain default/offline does not run: port file is down: "), "{text}");
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    // It is not written at once.
    let write = |content: &[u8]| {
        fs::write(at.join("new"), content).unwrap();
        fs::rename(at.join("new"), at.join("in.pcap")).unwrap();
    };
    write(&capture(1)[..20]);
    host.wait_for("the reason is another", |host| failed(host, "in.pcap is not a capture"));
    write(&capture(10));
    host.wait_for("it runs by itself", |host| host.packets_out("offline") == 10);
    host.wait_for("that is told", |host| host.ok(&["events"]).contains("chain-applied"));
    assert_eq!(host.json(&["status"])["failed"], serde_json::json!({}));
    let events = host.ok(&["events"]);
    for told in [
        "port-down      default    port file is down: cannot open the capture in.pcap",
        "port-down      default    port file is down: in.pcap is not a capture",
        "port-up        default    port file is no longer down: it could be opened",
        "chain-applied  default    chain offline was deployed: port file is there",
    ] {
        assert_eq!(events.matches(told).count(), 1, "{told}: {events}");
    }
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
}

/// Two chains: one between ports in memory, the other with this capture.
fn two_chains(capture: &[u8], output: &str) -> Host {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in.pcap"), capture).unwrap();
    let ports = format!(
        "[[port]]\nname = \"file\"\nkind = \"pcap\"\nfile = \"in.pcap\"\n\
         [[port]]\nname = \"copy\"\nkind = \"pcap\"\noutput = \"{output}\"\n"
    );
    let host = Host::start_in(directory, &format!("{}{ports}", guests::TRAFFIC));
    guests::deploy(&host, "1.0.0", &pass(1));
    let chain = guests::CHAIN.replace("edge", "offline").replace("\"in\"", "\"file\"");
    host.write("o.toml", chain.replace("\"out\"", "\"copy\""));
    host.ok(&["chain", "apply", "o.toml"]);
    host
}

#[test]
fn a_capture_that_breaks_off_is_named_and_other_chains_go_on() {
    let whole = capture(1000);
    let mut host = two_chains(&whole[..whole.len() - 30], "copy.pcap");
    host.wait_for("what can be read was read", |host| host.packets_out("offline") == 999);
    host.wait_for("the damage is told", |host| {
        let events = host.ok(&["events"]);
        events.contains("note")
            && events.contains("in.pcap is damaged at byte")
            && events.contains("packet 1000")
    });
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    let port = &host.json(&["port", "list"])[2];
    assert_eq!((&port["name"], &port["rx_packets"]), (&"file".into(), &999.into()), "{port}");
    // The chain is as good as any: swapped, and taken down in order.
    guests::push(&host, "2.0.0", &pass(2));
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    let written = fs::read(directory.path().join("copy.pcap")).unwrap();
    assert_eq!(written.len(), 24 + 999 * (16 + 60));
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_other_chains_go_on() {
    let mut host = two_chains(&capture(5000), "/dev/full");
    host.wait_for("the failure is told", |host| {
        host.ok(&["events"]).contains("writing the capture /dev/full failed")
    });
    host.wait_for("all was received", |host| host.json(&["port", "list"])[2]["rx_packets"] == 5000);
    let port = &host.json(&["port", "list"])[3];
    let (sent, dropped) = (port["tx_packets"].as_u64(), port["tx_dropped"].as_u64());
    assert!(dropped > Some(0), "{port}");
    assert_eq!(sent.zip(dropped).map(|(sent, dropped)| sent + dropped), Some(5000), "{port}");
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    host.fails(&["chain", "remove", "offline"]);
}

/// A chain between `in` and `out`, with packets, and the capture `file` in a folder that can be
/// away.
fn beside_a_capture() -> Host {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("there")).unwrap();
    let port = "[[port]]\nname = \"file\"\nkind = \"pcap\"\noutput = \"there/copy.pcap\"\n";
    let mut host = Host::start_in(directory, &format!("{}{port}", guests::TRAFFIC));
    guests::deploy(&host, "1.0.0", &pass(1));
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    host
}

fn to_file(keys: &str) -> String {
    let chain = guests::CHAIN.replace("\"out\"", &format!("\"file\"\n{keys}"));
    chain + "version = \"1.0.0\"\n"
}

#[test]
fn a_chain_that_is_refused_its_new_ports_runs_on_between_the_old_ones() {
    let mut host = beside_a_capture();
    // A port that a chain has had is opened anew for the next one.
    host.write("c.toml", to_file(""));
    host.ok(&["chain", "apply", "c.toml"]);
    host.write("c.toml", guests::CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    guests::push(&host, "2.0.0", &refuse());
    let runs_on = |host: &mut Host| {
        let view = host.json(&["chain", "show", "edge"]);
        assert_eq!(
            (&view["failed"], &view["chain"]["to"]),
            (&Value::Null, &"out".into()),
            "{view}"
        );
        let before = host.packets_out("edge");
        host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    };
    host.write("c.toml", guests::CHAIN.replace("\"out\"", "\"file\""));
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("function gate refused its configuration: no  [2Jway"), "{error:?}");
    runs_on(&mut host);
    fs::rename(host.path("there"), host.path("away")).unwrap();
    host.write("c.toml", to_file(""));
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("cannot create the capture there/copy.pcap"), "{error}");
    runs_on(&mut host);
    fs::rename(host.path("away"), host.path("there")).unwrap();
    assert_eq!(host.json(&["chain", "apply", "c.toml"])["new"], false);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert!(fs::read(directory.path().join("there/copy.pcap")).unwrap().len() > 24);
}

#[test]
fn a_port_is_not_lost_with_the_other_one_that_cannot_be_opened() {
    let mut host = beside_a_capture();
    host.write("c.toml", to_file(""));
    host.ok(&["chain", "apply", "c.toml"]);
    host.ok(&["chain", "remove", "edge"]);
    let away = |host: &Host| fs::rename(host.path("there"), host.path("away")).unwrap();
    let back = |host: &Host| fs::rename(host.path("away"), host.path("there")).unwrap();
    away(&host);
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("cannot create the capture there/copy.pcap"), "{error}");
    back(&host);
    host.ok(&["chain", "apply", "c.toml"]);
    // One that the chain itself has can be opened only when it was given back; then it is known
    // that the chain does not run.
    away(&host);
    host.write("c.toml", to_file("symmetric = false"));
    let error = host.fails(&["chain", "apply", "c.toml"]);
    assert!(error.contains("cannot create the capture there/copy.pcap"), "{error}");
    let failed = host.json(&["status"])["failed"]["default/edge"].to_string();
    assert!(failed.contains("cannot create the capture there/copy.pcap"), "{failed}");
    assert!(host.ok(&["events"]).contains("chain edge is not as the store says"));
    back(&host);
    host.ok(&["chain", "apply", "c.toml"]);
    assert_eq!(host.json(&["chain", "show", "edge"])["failed"], Value::Null);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
}
