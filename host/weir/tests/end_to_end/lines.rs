//! Faults name the line of source, in a host as its operator started it: in a function's log, in events and in the host's log.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::guests::TRAFFIC;
use crate::host::{Host, weir};
use crate::messages::{Server, address, curl};

/// A new project with this line put behind the one that has `after` in it. The answer is where it is: `FILE:LINE`.
fn faulty(directory: &Path, arguments: &[&str], file: &str, after: &str, line: &str) -> String {
    let made = weir(directory, &[&["new", "gate"], arguments].concat());
    assert_eq!(made.status, Some(0), "{}", made.err);
    let project = directory.join("gate");
    let source = fs::read_to_string(project.join(file)).unwrap();
    let at = source.lines().position(|known| known.contains(after)).unwrap() + 1;
    let mut lines: Vec<&str> = source.lines().collect();
    lines.insert(at, line);
    fs::write(project.join(file), lines.join("\n")).unwrap();
    let mut build = Command::new(project.join("build"));
    let built = build.env("WEIR", env!("CARGO_BIN_EXE_weir")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    format!("{file}:{}", at + 1)
}

/// A function for packets faults on the first one.
fn packets(language: &str, file: &str, after: &str, line: &str) {
    let directory = tempfile::tempdir().unwrap();
    let place = faulty(directory.path(), &["--lang", language], file, after, line);
    let mut host = Host::start(TRAFFIC);
    host.ok(&["function", "push", directory.path().join("gate/gate.wasm").to_str().unwrap()]);
    host.write(
        "c.toml",
        "name = \"edge\"\nfrom = \"in\"\nto = \"out\"\n[[function]]\nuse = \"gate\"\n[function.config]\nblocked = []\n",
    );
    host.ok(&["chain", "apply", "c.toml"]);
    let is_fault = |line: &&str| line.contains("fault: trap: ") && line.contains(&place);
    host.wait_for("the line is in the function's log", |host| {
        host.ok(&["function", "log", "gate"]).lines().any(|line| is_fault(&line))
    });
    // The first own line, by its function's name, and nothing of the machinery.
    let log = host.ok(&["function", "log", "gate"]);
    let line = log.lines().find(is_fault).unwrap();
    assert!(line.contains(", in ") && line.contains("process"), "{line}");
    assert!(!line.contains("/rustc/") && !line.contains("; code "), "{line}");
    host.wait_for("the line is in the host's log", |host| host.log().contains(&place));
}

#[test]
fn of_a_function_in_rust() {
    let line = "            let _ = self.blocked[usize::from(headers.destination_port) + 7];";
    packets("rust", "src/lib.rs", "            };", line);
}

#[test]
fn of_a_function_in_c() {
    packets(
        "c",
        "main.c",
        "weir_headers headers;",
        "        if (packet.length > 14) __builtin_trap();",
    );
}

#[test]
fn of_a_function_for_messages() {
    let directory = tempfile::tempdir().unwrap();
    let place = faulty(
        directory.path(),
        &["--lang", "c", "--plane", "message"],
        "main.c",
        "weir_outcome weir_request_head(",
        "    if (weir_text_begins(weir_head_path(head), weir_text_of(\"/trap\"))) __builtin_trap();",
    );
    let server = Server::start();
    let mut host = Host::start(&format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"web\"\nupstream = [\"127.0.0.1:{}\"]\n",
        server.port
    ));
    host.ok(&["function", "push", directory.path().join("gate/gate.wasm").to_str().unwrap()]);
    host.write(
        "c.toml",
        "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"gate\"\n[function.config]\nprivate = []\n",
    );
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    assert_eq!(curl(&[&web]).0, 200);
    assert_eq!(curl(&[&format!("{web}/trap")]).0, 503);
    host.wait_for("the line is in the function's log", |host| {
        host.ok(&["function", "log", "gate"]).contains(&place)
    });
    host.wait_for("the line is in the host's log", |host| host.log().contains(&place));
}
