//! Commands that need no host: what they print where, and their exit statuses.

use std::fs;
use std::process::Command;

use weir_tests::built::workspace;

use crate::host::{Answer, weir};

#[test]
fn without_a_host_the_message_says_where_it_was_looked_for_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let answer = weir(directory.path(), &["--api", "unix:none.sock", "status"]);
    assert_eq!(answer.status, Some(1));
    assert_eq!(
        answer.err,
        "error: no host answers at unix:none.sock: No such file or directory (os error 2); \
         start it with `weir run`, or say with --api where it is\n"
    );
    assert_eq!(answer.out, "");
}

#[test]
fn wrong_usage_is_status_2_and_help_status_0() {
    let directory = tempfile::tempdir().unwrap();
    let answer = weir(directory.path(), &["function", "swap", "fw"]);
    assert_eq!(answer.status, Some(2));
    assert!(answer.err.contains("--to <VERSION>"), "{}", answer.err);
    for wrong in [["--api", "tcp://x"], ["--api", "https://x"], ["--token", "two\nlines"]] {
        let answer = weir(directory.path(), &[&wrong[..], &["status"]].concat());
        assert_eq!(answer.status, Some(2), "{}", answer.err);
        assert!(answer.err.starts_with(&format!("error: {}", wrong[0])), "{}", answer.err);
    }
    let answer = weir(directory.path(), &["--help"]);
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""));
    // A variable that is empty says nothing.
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["--api", "unix:none.sock", "status"]).current_dir(directory.path());
    let output = command.env("WEIR_API", "").env("WEIR_TENANT", "").env("WEIR_TOKEN", "").output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.starts_with("error: no host answers at unix:none.sock"), "{error}");
}

#[test]
fn a_wrong_configuration_is_shown_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weir.toml");
    for (text, expected) in [
        (
            "[api]\nsoket = \"x\"\n",
            "error: unknown key `soket`\n --> weir.toml:2:1\n  |\n2 | soket = \"x\"\n  | ^^^^^\n  = key: api.soket\n  = did you mean `socket`? allowed: socket, listen, token, max-upload, timeout, compile-timeout\n",
        ),
        (
            "[gateway]\nthreads = 0\n",
            "error: 0 threads\n --> weir.toml:2:11\n  |\n2 | threads = 0\n  |           ^\n  = key: gateway.threads\n  = allowed: 1 to 256\n",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let answer = weir(directory.path(), &["run", "--config", "weir.toml"]);
        assert_eq!((answer.status, answer.err.as_str()), (Some(1), expected));
    }
    let answer = weir(directory.path(), &["run", "--config", "no.toml"]);
    assert_eq!(answer.status, Some(1));
    assert!(answer.err.contains("no.toml"), "{}", answer.err);
}

#[test]
fn check_tells_why_and_fails_when_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("x.wasm"), "MZ no wasm").unwrap();
    let answer = weir(directory.path(), &["check", "x.wasm", "--output", "json"]);
    assert_eq!(answer.status, Some(1));
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(report["accepted"], false);
    assert_eq!(report["world"], serde_json::Value::Null);
    assert!(report["reasons"][0].as_str().unwrap().contains("not WebAssembly"), "{report}");
    let module = weir_tests::wat_guest::module(weir_tests::wat_guest::NULL);
    let good = weir_tests::wat_guest::upload(&module, "packet-function");
    fs::write(directory.path().join("x.wasm"), &good).unwrap();
    let answer = weir(directory.path(), &["check", "x.wasm", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((answer.status, &report["accepted"]), (Some(0), &true.into()));
    assert_eq!(report["world"], "packet-function");
    // A manifest that is too long, as the first section (the last one is another) and as the last.
    let (long, short) = ("#".repeat(weir_spec::Manifest::MAX + 1), "name = \"f\"");
    let (header, rest) = good.split_at(8);
    let first = [weir_spec::Manifest::embed(header, &long), rest.to_vec()].concat();
    let last = weir_spec::Manifest::embed(&good, &long);
    for wasm in [weir_spec::Manifest::embed(&first, short), last] {
        fs::write(directory.path().join("x.wasm"), wasm).unwrap();
        let answer = weir(directory.path(), &["check", "x.wasm", "--output", "json"]);
        let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        assert_eq!((answer.status, &report["accepted"]), (Some(1), &false.into()));
        assert_eq!(report["reasons"][0], "its manifest has 65537 bytes; allowed are 65536");
    }
}

#[test]
fn the_compiling_child_refuses_what_is_no_component() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("__compile")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"nonsense").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("it does not compile"));
}

#[test]
fn a_child_leaves_memory_and_the_workers_cores_to_the_host() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["__admit", "--beside=0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has done so before it reads.
    let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let cores = || {
        let status = of("status");
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let alone = own.lines().any(|line| line == "Cpus_allowed_list:\t0");
    let stepped_back =
        || of("oom_score_adj").trim() == "1000" && (alone || !cores().starts_with('0'));
    while !stepped_back() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn completions_and_the_manual_name_the_commands_but_not_the_hidden_one() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["completions", "bash"][..], &["completions", "zsh"], &["man"]] {
        let answer = weir(directory.path(), arguments);
        assert_eq!(answer.status, Some(0));
        assert!(answer.out.contains("rollback") && answer.out.contains("canary"), "{arguments:?}");
        for hidden in ["__compile", "__lines", "__message-worker", "message__worker"] {
            assert!(!answer.out.contains(hidden), "{arguments:?}: {hidden}");
        }
    }
}

#[test]
fn a_core_module_becomes_a_component_with_its_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let text = weir_tests::wat_guest::module(weir_tests::wat_guest::NULL);
    fs::write(directory.path().join("core.wasm"), wat::parse_str(text).unwrap()).unwrap();
    fs::write(directory.path().join("function.toml"), "name = \"nothing\"\nversion = \"1.2.0\"\n")
        .unwrap();
    let make = ["component", "core.wasm", "--world", "packet-function"];
    let answer = weir(
        directory.path(),
        &[&make[..], &["--manifest", "function.toml", "-o", "x.wasm"]].concat(),
    );
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""));
    assert!(answer.out.starts_with("x.wasm: packet-function, "), "{}", answer.out);
    let answer = weir(directory.path(), &["check", "x.wasm", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&report["accepted"], &report["world"]), (&true.into(), &"packet-function".into()));
    assert!(report["manifest"].as_str().unwrap().contains("nothing"), "{report}");
    for (arguments, expected) in [
        (&["component", "core.wasm"][..], "--world"),
        (&["component", "x.wasm"], "a component already"),
        (&["component", "no.wasm"], "cannot read no.wasm"),
        (&["component", "core.wasm", "--world", "message-function"], "#request-head"),
    ] {
        let answer = weir(directory.path(), arguments);
        assert_eq!(answer.status, Some(1), "{arguments:?}");
        assert!(answer.err.contains(expected), "{arguments:?}: {}", answer.err);
    }
    fs::write(directory.path().join("function.toml"), "nam = \"nothing\"\n").unwrap();
    let answer = weir(directory.path(), &[&make[..], &["--manifest", "function.toml"]].concat());
    assert!(answer.err.contains("function.toml:1:1"), "{}", answer.err);
    assert_eq!(weir(directory.path(), &["component", "core.wasm", "--world", "x"]).status, Some(2));
}

/// What a replay says of a chain of one function with this start code.
fn started(code: &str, tables: &str) -> Answer {
    let directory = tempfile::tempdir().unwrap();
    let module = weir_tests::wat_guest::module(&format!(
        "{tables} (func $constructors {code}) (start $constructors)
         (func (export \"weir:net/packet@0.1.0#process\") (param i32))",
    ));
    fs::write(directory.path().join("main.wat"), module).unwrap();
    let make = ["component", "main.wat", "--world", "packet-function", "-o", "x.wasm"];
    assert_eq!(weir(directory.path(), &make).status, Some(0));
    let chain = "name = \"c\"\n[[function]]\npath = \"x.wasm\"\n";
    fs::write(directory.path().join("c.toml"), chain).unwrap();
    let capture =
        [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    fs::write(directory.path().join("in.pcap"), capture).unwrap();
    let replay = ["replay", "--chain", "c.toml", "--in", "in.pcap", "--out", "out.pcap"];
    weir(directory.path(), &replay)
}

#[test]
fn a_function_whose_start_code_traps_or_does_not_end_is_told_what_to_do() {
    for (code, failed) in [("unreachable", "trapped"), ("(loop (br 0))", "did not end")] {
        let answer = started(code, "");
        assert_eq!(answer.status, Some(1));
        let expected = format!("the start code of x {failed}, before `configure`");
        assert!(answer.err.contains(&expected), "{}", answer.err);
        assert!(answer.err.contains("constructors"), "{}", answer.err);
    }
}

#[test]
fn start_code_gets_no_more_memory_than_its_function_may_have() {
    // Takes all it can get, and traps if that was 64 MiB or more.
    let answer = started(
        "(loop $more (br_if $more (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0))))
         (if (i32.ge_u (memory.size) (i32.const 1024)) (then unreachable))",
        "",
    );
    assert_eq!(answer.status, Some(0), "{}", answer.err);
    // The same with ten tables, whose elements have eight bytes.
    let each = |what: fn(usize) -> String| (0..10).map(what).collect::<String>();
    let sizes = (1..10).fold("(table.size $t0)".to_owned(), |sum, n| {
        format!("(i32.add {sum} (table.size $t{n}))")
    });
    let grown = each(|n| {
        format!(
            "(loop $m{n} (br_if $m{n} (i32.ge_s (table.grow $t{n} (ref.null func) (i32.const 65536)) (i32.const 0))))"
        )
    });
    let answer = started(
        &format!("{grown} (if (i32.ge_u {sizes} (i32.const 8388608)) (then unreachable))"),
        &each(|n| format!("(table $t{n} 1 funcref)")),
    );
    assert_eq!(answer.status, Some(0), "{}", answer.err);
}

/// The capture is the SDKs' sample: the second packet is TCP to port 443, the third to port 23,
/// from 10.0.0.1.
#[test]
fn a_trace_shows_what_each_function_did() {
    let directory = tempfile::tempdir().unwrap();
    let chain = "name = \"c\"\n[[function]]\nuse = \"monitor\"\n[[function]]\nuse = \"firewall\"\n\
                 [function.config]\ndefault = \"deny\"\nrules = [ { action = \"allow\", proto = \"tcp\", dport = 443 } ]\n\
                 [[function]]\nuse = \"nat\"\n[function.config]\nexternal = [\"203.0.113.1\"]\n";
    fs::write(directory.path().join("c.toml"), chain).unwrap();
    let capture = workspace().join("guest-sdk/sample.pcap");
    let functions = workspace().join("target/functions");
    let replay = [
        &["replay", "--chain", "c.toml", "--out", "out.pcap", "--in"][..],
        &[capture.to_str().unwrap(), "--functions", functions.to_str().unwrap()],
    ]
    .concat();
    let traced = [&replay[..], &["--trace", "2-3"]].concat();
    let answer = weir(directory.path(), &traced);
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""));
    let expected = "packet 2: 10.0.0.1 → 10.0.0.2 TCP 40001 → 443 [SYN] Seq=0 Win=8192 Len=0\n  \
                    monitor   next\n  firewall  next\n  nat       next\n        Ethernet II, ";
    assert!(answer.out.starts_with(expected), "{}", answer.out);
    for line in
        ["      -     Source Address: 10.0.0.1\n", "      +     Source Address: 203.0.113.1\n"]
    {
        assert!(answer.out.contains(line), "{line} is not in\n{}", answer.out);
    }
    let third = "\npacket 3: 10.0.0.1 → 10.0.0.2 TCP 40002 → 23 [SYN] Seq=0 Win=8192 Len=0\n  \
                 monitor   next\n  firewall  drop 1\n\nFUNCTION";
    assert!(answer.out.contains(third), "{}", answer.out);
    let written = fs::read(directory.path().join("out.pcap")).unwrap();

    let json = [&traced[..], &["--output", "json"]].concat();
    let report: serde_json::Value =
        serde_json::from_str(&weir(directory.path(), &json).out).unwrap();
    assert_eq!(report["trace"][1]["steps"][1]["verdict"], "drop 1");
    // Whether somebody looks makes no difference.
    assert_eq!(weir(directory.path(), &replay).status, Some(0));
    assert_eq!(fs::read(directory.path().join("out.pcap")).unwrap(), written);
    let beyond = weir(directory.path(), &[&replay[..], &["--trace", "1000-1001"]].concat());
    assert_eq!(beyond.status, Some(0), "{}", beyond.err);
    assert!(beyond.err.ends_with(" packets, none of 1000-1001 to be traced\n"), "{}", beyond.err);
    let nowhere = replay[..replay.len() - 1].iter().chain(&["nowhere"]).copied();
    let nowhere = weir(directory.path(), &nowhere.collect::<Vec<_>>());
    assert!(nowhere.err.contains("it is looked for in nowhere (`--functions`)"), "{}", nowhere.err);
    for wrong in ["0", "3-2", "x"] {
        let answer = weir(directory.path(), &[&replay[..], &["--trace", wrong]].concat());
        assert_eq!(answer.status, Some(2), "{}", answer.err);
        assert!(answer.err.contains("FROM-TO"), "{}", answer.err);
    }
}

#[test]
fn a_replay_runs_what_the_first_worker_would_and_says_which_version_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let capture = workspace().join("guest-sdk/sample.pcap");
    let functions = workspace().join("target/functions");
    let replayed = |function: &str, keys: &str| {
        let config = "[function.config]\ndefault = \"deny\"\n";
        let chain = format!("name = \"c\"\n[[function]]\n{function}\n{keys}\n{config}");
        fs::write(directory.path().join("c.toml"), chain).unwrap();
        let replay =
            ["replay", "--chain", "c.toml", "--out", "out.pcap", "--output", "json", "--in"];
        let files = [capture.to_str().unwrap(), "--functions", functions.to_str().unwrap()];
        weir(directory.path(), &[&replay[..], &files].concat())
    };
    let report = |answer: Answer| -> serde_json::Value {
        assert_eq!(answer.status, Some(0), "{}", answer.err);
        serde_json::from_str(&answer.out).unwrap()
    };
    let plain = report(replayed("use = \"firewall\"", ""));
    let own = report(replayed("use = \"firewall\"", "per-worker = [{ default = \"allow\" }]"));
    assert_eq!(own["packets_out"], own["packets_in"]);
    assert!(plain["packets_out"].as_u64() < own["packets_out"].as_u64(), "{plain}");
    // The file is what runs: it is not of a version that it does not say.
    let version = plain["functions"][0]["version"].as_str().unwrap();
    report(replayed("use = \"firewall\"", &format!("version = \"{version}\"")));
    for (function, keys, told) in [
        ("use = \"firewall\"", "version = \"9.0.0\"", "c.toml:4:11"),
        ("use = \"nope\"", "", "c.toml:3:7"),
        ("path = \"nope.wasm\"", "", "c.toml:3:8"),
    ] {
        let answer = replayed(function, keys);
        assert_eq!(answer.status, Some(1));
        assert!(answer.err.contains(told), "{}", answer.err);
    }
    let error = replayed("use = \"nope\"", "").err;
    assert!(error.contains(&format!("looked for in {}", functions.display())), "{error}");
}

#[test]
fn a_chain_for_messages_is_neither_replayed_nor_measured_and_what_runs_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let chain = "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"http-ratelimit\"\n";
    fs::write(directory.path().join("web.toml"), chain).unwrap();
    let functions = workspace().join("target/functions");
    let functions = functions.to_str().unwrap();
    for command in
        [&["replay", "--in", "in.pcap", "--out", "out.pcap"][..], &["bench", "--seconds", "1"][..]]
    {
        let chain = ["--chain", "web.toml", "--functions", functions];
        let answer = weir(directory.path(), &[command, &chain].concat());
        assert_eq!(answer.status, Some(1), "{}", answer.err);
        assert!(answer.err.contains("chain web is for messages"), "{}", answer.err);
        assert!(answer.err.contains("`weir test`"), "{}", answer.err);
    }
}

#[test]
fn wrong_wat_is_shown_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("main.wat"), "(module\n  (fnc))").unwrap();
    let answer = weir(directory.path(), &["component", "main.wat", "--world", "packet-function"]);
    assert_eq!(answer.status, Some(1));
    assert!(
        answer.err.contains("not valid WAT") && answer.err.contains("main.wat:2:4"),
        "{}",
        answer.err
    );
}
