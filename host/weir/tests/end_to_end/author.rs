//! The loop of a function's author: a project, its tests, and a host that follows what is saved.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::guests::{CHAIN, TRAFFIC, log_and_trap, pass, trap};
use crate::host::{Host, weir};

/// A project whose source is what it makes.
fn project(directory: &Path, source: &[u8]) {
    fs::create_dir(directory).unwrap();
    fs::write(directory.join("function.toml"), "name = \"gate\"\nversion = \"0.1.0\"\n").unwrap();
    let build = "#!/bin/sh\nset -e\nif [ -e broken ]; then echo 'line 1: it does not parse' >&2; exit 1; fi\n\
                 cp source.bin gate.wasm\n";
    fs::write(directory.join("build"), build).unwrap();
    fs::set_permissions(directory.join("build"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("source.bin"), source).unwrap();
}

/// `weir function push --watch`; ended when dropped.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn watch(host: &Host, what: &str) -> Watch {
    let log = fs::File::create(host.path("watch.log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["--api", "./api.sock", "function", "push", "--watch", what])
        .current_dir(host.directory.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Watch(child)
}

#[test]
fn what_is_saved_runs_in_the_host_while_packets_flow() {
    let mut host = Host::start(TRAFFIC);
    let gate = host.path("gate");
    let save = |source: &[u8]| fs::write(gate.join("source.bin"), source).unwrap();
    let told = |host: &Host| fs::read_to_string(host.path("watch.log")).unwrap();
    project(&gate, &pass(1));
    let session = watch(&host, "gate");
    host.wait_for("it is pushed", |host| told(host).contains("no chain has it yet"));
    host.write("c.toml", CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 100);
    let first = host.running();
    assert!(first.starts_with("0.1.0-dev.h"), "{first}");

    save(&pass(2));
    host.wait_for("it is swapped", |host| host.running() != first);
    let second = host.running();
    host.wait_for("that is told", |host| told(host).contains(&format!("{first} -> {second}")));
    assert!(told(&host).contains("0 packets lost"), "{}", told(&host));

    fs::write(gate.join("broken"), "").unwrap();
    host.wait_for("the build fails", |host| told(host).contains("the build failed"));
    assert!(told(&host).contains("line 1: it does not parse"), "{}", told(&host));
    fs::remove_file(gate.join("broken")).unwrap();
    save(b"this is no Wasm");
    host.wait_for("it is refused", |host| told(host).contains("it is refused: "));
    assert_eq!(host.running(), second);

    save(&trap());
    host.wait_for("it is taken back", |host| told(host).contains("went back from version"));
    host.wait_for("what ran before runs", |host| host.running() == second);
    let before = host.packets_out("edge");
    host.wait_for("packets flow still", |host| host.packets_out("edge") > before);

    save(&pass(3));
    host.wait_for("the next one runs", |host| {
        ![&first, &second].contains(&&host.running())
            && told(host).matches("0 packets lost").count() >= 2
    });
    let dump = told(&host);
    assert_eq!(dump.matches("the build failed").count(), 1, "{dump}");

    // The manifest is read again, too, though the module has none. All but the last two versions
    // are gone, the one that faulted first.
    let versions = |host: &Host| {
        let shown = host.json(&["function", "show", "gate"]);
        shown["versions"].as_array().map_or(0, Vec::len)
    };
    fs::write(gate.join("function.toml"), "name = \"gate\"\nversion = \"0.2.0\"\n").unwrap();
    host.wait_for("the manifest is taken", |host| {
        host.running().starts_with("0.2.0-dev.h") && versions(host) == 2
    });
    // Also those of an earlier session.
    drop(session);
    save(&pass(4));
    let before = host.running();
    let _session = watch(&host, "gate");
    host.wait_for("the next session pushes", |host| {
        host.running() != before && versions(host) == 2
    });
}

#[test]
fn projects_that_cannot_be_are_refused_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str]| {
        let answer = weir(directory.path(), arguments);
        assert_eq!(answer.status, Some(1), "{arguments:?}: {}", answer.out);
        answer.err
    };
    let languages = weir(directory.path(), &["new", "--lang", "list"]);
    assert_eq!((languages.status, languages.err.as_str()), (Some(0), ""));
    assert!(languages.out.contains("\nrust            packet, message\n"), "{}", languages.out);
    let there_are = weir(directory.path(), &["new", "x", "--lang", "cobol"]).err;
    assert!(there_are.contains("there are: ") && there_are.contains("rust (packet, message)"));
    assert!(!there_are.contains("(packet)"), "each is for both planes: {there_are}");
    assert!(fails(&["new", "No", "--lang", "rust"]).contains("is not a name"));
    for wrong in [&["new", "x"][..], &["new", "--lang", "rust"], &["new", "x", "--lang", "cobol"]] {
        assert_eq!(weir(directory.path(), wrong).status, Some(2), "{wrong:?}");
    }
    // What variables say nobody has to write.
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["test", "x.wasm", "--config", "{}"]).env("WEIR_TOKEN", "t").env("WEIR_API", "u");
    let wrong = command.output().expect("weir starts");
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{told}");
    assert!(told.contains("Usage: weir test") && !told.contains("--token"), "{told}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(fails(&["test"]).contains("no function.toml"));
    assert!(fails(&["function", "push", "--watch", "."]).contains("no function.toml"));
}

/// A project with these tests around a function that lets everything pass.
fn tested(tests: &str) -> (tempfile::TempDir, crate::host::Answer) {
    let directory = tempfile::tempdir().unwrap();
    project(&directory.path().join("gate"), &pass(1));
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/sample.pcap");
    fs::copy(sample, directory.path().join("gate/in.pcap")).unwrap();
    fs::write(directory.path().join("gate/weir-test.toml"), tests).unwrap();
    let answer = weir(directory.path(), &["test", "gate", "--measure", "0"]);
    (directory, answer)
}

#[test]
fn a_project_is_built_and_its_tests_tell_what_is_not_as_expected() {
    let (directory, answer) = tested(
        "[[test]]\nname = \"all pass\"\nin = \"in.pcap\"\nexpect.out = 10\nexpect.capture = \"in.pcap\"\n",
    );
    assert_eq!(answer.status, Some(0), "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("ok    all pass  10 packets, 10 out"), "{}", answer.out);
    assert!(answer.out.contains("verdicts:  next:10"), "{}", answer.out);
    let json = weir(directory.path(), &["--output", "json", "test", "gate"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &0.into()));
    assert!(json["ns_per_packet"].as_f64().unwrap() > 0.0, "{json}");

    let (directory, answer) = tested(
        "[[test]]\nname = \"wrong\"\nin = \"in.pcap\"\nexpect.drop = [3, 99]\nexpect.counters = { blocked = 4 }\nexpect.gauges = { flows = 1.5 }\n\
         [[test]]\nname = \"refused\"\nexpect.refused = \"no\"\n[[test]]\nname = \"fine\"\nin = \"in.pcap\"\n",
    );
    assert_eq!(answer.status, Some(1), "{}", answer.err);
    for text in [
        "packet 3 was to be dropped, and leaves: 10.0.0.1 → 10.0.0.2 TCP 40002 → 23 [SYN]",
        "packet 99 was to be dropped, and leaves: the capture has no such packet",
        "counter blocked: expected 4, but nothing was counted under it; counters: none",
        "gauge flows: expected 1.5, but it was not set; gauges: none",
        "the configuration was not refused",
        "1 passed, 2 failed",
    ] {
        assert!(answer.out.contains(text), "{text:?} is missing in\n{}", answer.out);
    }

    // The same by hand: one byte of the capture is another one.
    let gate = directory.path().join("gate");
    let mut other = fs::read(gate.join("in.pcap")).unwrap();
    // The fifth packet's TTL: behind the file's header, four packets with theirs, and the own
    // header.
    let ttl = 24 + 16 * 5 + 42 + 54 + 54 + 71 + 14 + 8;
    assert_eq!(other[ttl], 64);
    other[ttl] = 63;
    fs::write(gate.join("other.pcap"), other).unwrap();
    let answer = weir(
        &gate,
        &["test", "gate.wasm", "--in", "in.pcap", "--expect", "other.pcap", "--config", "{}"],
    );
    assert_eq!(answer.status, Some(1), "{}", answer.err);
    assert!(answer.out.contains("packet 5 of other.pcap leaves otherwise"), "{}", answer.out);
    assert!(answer.out.contains("-     Time to Live: 63"), "{}", answer.out);
    assert!(answer.out.contains("+     Time to Live: 64"), "{}", answer.out);
    let same = weir(&gate, &["test", "gate.wasm", "--in", "in.pcap", "--expect", "in.pcap"]);
    assert_eq!(same.status, Some(0), "{}{}", same.out, same.err);
}

#[test]
fn a_fault_is_a_failure_and_mistakes_in_the_file_are_shown_in_place() {
    let directory = tempfile::tempdir().unwrap();
    project(&directory.path().join("gate"), &trap());
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/sample.pcap");
    fs::copy(sample, directory.path().join("gate/in.pcap")).unwrap();
    let tests = directory.path().join("gate/weir-test.toml");
    let run = |text: &str| {
        fs::write(&tests, text).unwrap();
        weir(directory.path(), &["test", "gate"])
    };
    let faulted = run("[[test]]\nname = \"x\"\nin = \"in.pcap\"\n");
    assert_eq!(faulted.status, Some(1));
    assert!(faulted.out.contains("faults: expected 0, got "), "{}", faulted.out);
    assert!(faulted.out.contains("unreachable"), "{}", faulted.out);
    // What it logged is told, and other tests run.
    let logs = directory.path().join("logs");
    project(&logs, &log_and_trap(true));
    fs::write(
        logs.join("weir-test.toml"),
        "[[test]]\nname = \"x\"\nin = \"../gate/in.pcap\"\n".repeat(2),
    )
    .unwrap();
    let failed = weir(directory.path(), &["test", "logs"]);
    assert_eq!((failed.status, failed.err.contains("error")), (Some(1), false), "{}", failed.err);
    for shown in
        ["gate failed in `configure`: trap: it logged \"name_in_memory\"; ", "0 passed, 2 failed"]
    {
        assert!(failed.out.contains(shown), "{shown:?} is missing in\n{}", failed.out);
    }
    let failed = weir(directory.path(), &["--output", "json", "test", "logs"]);
    let report: serde_json::Value = serde_json::from_str(&failed.out).unwrap();
    assert_eq!(report["tests"][0]["log"], serde_json::json!(["name_in_memory"]), "{report}");
    fs::write(logs.join("gate.wasm"), log_and_trap(false)).unwrap();
    fs::write(
        logs.join("c.toml"),
        "name = \"c\"\n[[function]]\npath = \"gate.wasm\"\nname = \"gate\"\n",
    )
    .unwrap();
    let replay = ["replay", "--chain", "logs/c.toml", "--in", "gate/in.pcap", "--out", "out.pcap"];
    let log = "log: gate: error: name_in_memory";
    let told = weir(directory.path(), &[&replay[..], &["-v"]].concat()).err;
    assert!(told.contains(log), "{told}");
    let told = weir(directory.path(), &replay).err;
    assert!(
        !told.contains(log) && told.contains("note: gate logged 1 line: -v shows it"),
        "{told}"
    );
    for (text, shown) in [
        ("[[test]]\nname = \"x\"\nin = \"in.pcap\"\nexpect.owt = 1\n", "did you mean `out`?"),
        ("[[test]]\nname = \"x\"\n", "the test gives the function nothing"),
        ("[[test]]\nname = \"x\"\nin = \"none.pcap\"\n", "weir-test.toml:3:6"),
        (
            "[[test]]\nname = \"x\"\nin = \"in.pcap\"\nexpect.verdicts = { nxt = 1 }\n",
            "there is no such verdict",
        ),
        (
            "[[test]]\nname = \"x\"\n[[test.exchange]]\nexpect.status = 200\n",
            "the function is for packets",
        ),
        ("test = []\n", "there are no tests"),
    ] {
        let answer = run(text);
        assert_eq!((answer.status, answer.out.as_str()), (Some(1), ""), "{text}");
        assert!(answer.err.contains(shown), "{shown:?} is missing in\n{}", answer.err);
    }
}
