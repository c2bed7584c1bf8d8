//! Faults name the line of source, in a host as its operator started it: in a function's log, in events, in the host's log, in what is said of a
//! trial, and where a function that cannot be made ready is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guests::TRAFFIC;
use crate::host::{Host, weir};
use crate::messages::{Server, address, curl};

/// A function with a fault in it, and where: `FILE:LINE`.
struct Faulty {
    wasm: PathBuf,
    place: String,
}

impl Faulty {
    /// A new project with this line put behind the one that has `after` in it.
    fn build(project: &Path, arguments: &[&str], file: &str, after: &str, line: &str) -> Self {
        let name = project.file_name().unwrap().to_str().unwrap();
        let made = weir(project.parent().unwrap(), &[&["new", name], arguments].concat());
        assert_eq!(made.status, Some(0), "{}", made.err);
        let source = fs::read_to_string(project.join(file)).unwrap();
        let at = source.lines().position(|known| known.contains(after)).unwrap() + 1;
        let mut lines: Vec<&str> = source.lines().collect();
        lines.insert(at, line);
        fs::write(project.join(file), lines.join("\n")).unwrap();
        let mut build = Command::new(project.join("build"));
        let built = build.env("WEIR", env!("CARGO_BIN_EXE_weir")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let wasm = project.join(format!("{name}.wasm"));
        Self { wasm, place: format!("{file}:{}", at + 1) }
    }

    fn push(&self, host: &Host, version: &str) {
        let wasm = self.wasm.to_str().unwrap();
        host.ok(&["function", "push", wasm, "--name", "gate", "--version", version]);
    }

    fn is_fault(&self, line: &str) -> bool {
        line.contains("unreachable") && line.contains(&self.place)
    }

    /// A text tells the fault with its place, by its function's name, and nothing of the machinery.
    fn is_told_in(&self, text: &str) {
        let line = text.lines().find(|line| self.is_fault(line));
        let line = line.unwrap_or_else(|| panic!("{} is not in: {text}", self.place));
        assert!(line.contains(", in "), "{line}");
        for machinery in ["/rustc/", "sdk/", "weir_sdk::export", "; code ", "+0x", "export!"] {
            assert!(!line.contains(machinery), "{machinery} in: {line}");
        }
    }
}

/// A function for packets faults on the first one.
fn packets(language: &str, file: &str, after: &str, line: &str) {
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let faulty = Faulty::build(&gate, &["--lang", language], file, after, line);
    let mut host = Host::start(TRAFFIC);
    faulty.push(&host, "1.0.0");
    host.write("c.toml", BLOCK);
    host.ok(&["chain", "apply", "c.toml"]);
    host.wait_for("the line is in the function's log", |host| {
        host.ok(&["function", "log", "gate"]).lines().any(|line| faulty.is_fault(line))
    });
    let log = host.ok(&["function", "log", "gate"]);
    let line = log.lines().find(|line| faulty.is_fault(line)).unwrap();
    faulty.is_told_in(line);
    // No frame but the author's function.
    assert!(line.contains("fault: trap: ") && line.contains("process"), "{line}");
    assert!(!line.contains(" < "), "{line}");
    host.wait_for("the line is in the host's log", |host| host.log().contains(&faulty.place));
}

/// A chain of port-block, which blocks nothing.
const BLOCK: &str = "name = \"edge\"\nfrom = \"in\"\nto = \"out\"\n[[function]]\nuse = \"gate\"\n[function.config]\nblocked = []\n";

#[test]
fn of_a_function_in_rust() {
    let line = "            let _ = self.blocked[usize::from(headers.destination_port) + 7];";
    packets("rust", "src/lib.rs", "            };", line);
}

#[test]
fn of_a_function_in_c() {
    packets("c", "main.c", "weir_headers headers;", FIRST_PACKET);
}

const FIRST_PACKET: &str = "        if (packet.length > 14) __builtin_trap();";
const START: &str = "__attribute__((constructor)) static void early(void) { __builtin_trap(); }";

#[test]
fn of_what_cannot_be_made_ready() {
    let directory = tempfile::tempdir().unwrap();
    let build = |name: &str, after: &str, line: &str| {
        Faulty::build(&directory.path().join(name), &["--lang", "c"], "main.c", after, line)
    };
    let configure = build("configure", "(void)setup;", "    __builtin_trap();");
    let start = build("start", "static weir_counter count;", START);
    let host = Host::start(TRAFFIC);
    host.write("c.toml", BLOCK);
    for (faulty, version) in [(&configure, "1.0.0"), (&start, "2.0.0")] {
        faulty.push(&host, version);
        faulty.is_told_in(&host.fails(&["chain", "apply", "c.toml"]));
        // In a test of the project as well.
        let project = faulty.wasm.parent().unwrap();
        let tested = weir(project, &["test", "--measure", "0"]);
        faulty.is_told_in(&tested.err);
    }
}

#[test]
fn of_a_shadow() {
    let directory = tempfile::tempdir().unwrap();
    let good = Faulty::build(&directory.path().join("good"), C, "main.c", "(void)setup;", "");
    let bad = directory.path().join("bad");
    let bad = Faulty::build(&bad, C, "main.c", "weir_headers headers;", FIRST_PACKET);
    let mut host = Host::start(TRAFFIC);
    good.push(&host, "1.0.0");
    host.write("c.toml", BLOCK);
    host.ok(&["chain", "apply", "c.toml"]);
    bad.push(&host, "2.0.0");
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--shadow"]);
    host.wait_for("the shadow faults", |host| host.ok(&["status"]).contains("it faulted"));
    bad.is_told_in(&host.ok(&["status"]));
}

const C: &[&str] = &["--lang", "c"];
const MESSAGES: &[&str] = &["--lang", "c", "--plane", "message"];

/// A function for messages, in this mode of the gateway: as a shadow, running, and one that cannot be configured.
fn messages(mode: &str) {
    let directory = tempfile::tempdir().unwrap();
    let build = |name: &str, after: &str, line: &str| {
        Faulty::build(&directory.path().join(name), MESSAGES, "main.c", after, line)
    };
    let good = build("good", "(void)setup;", "");
    let trap = "    if (weir_text_begins(weir_head_path(head), weir_text_of(\"/trap\"))) __builtin_trap();";
    let bad = build("bad", "weir_outcome weir_request_head(", trap);
    let configure = build("configure", "(void)setup;", "    __builtin_trap();");
    let start = build("start", "static weir_counter refused;", START);
    let server = Server::start();
    let mut host = Host::start(&format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\n[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"web\"\nupstream = [\"127.0.0.1:{}\"]\n",
        server.port
    ));
    good.push(&host, "1.0.0");
    host.write(
        "c.toml",
        "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"gate\"\n[function.config]\nprivate = []\n",
    );
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));

    bad.push(&host, "2.0.0");
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--shadow"]);
    host.wait_for("the shadow faults", |host| {
        assert_eq!(curl(&[&format!("{web}/trap")]).0, 200);
        host.ok(&["status"]).contains("fault: trap")
    });
    bad.is_told_in(&host.ok(&["status"]));
    host.ok(&["function", "rollback", "gate"]);

    for (faulty, version) in [(&configure, "3.0.0"), (&start, "4.0.0")] {
        faulty.push(&host, version);
        faulty.is_told_in(&host.fails(&["function", "swap", "gate", "--to", version]));
    }

    // What faults just after a swap is taken back, which is told, too.
    host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
    assert_eq!(curl(&[&web]).0, 200);
    assert_eq!(curl(&[&format!("{web}/trap")]).0, 503);
    host.wait_for("the line is in the function's log", |host| {
        host.ok(&["function", "log", "gate"]).lines().any(|line| bad.is_fault(line))
    });
    bad.is_told_in(&host.ok(&["function", "log", "gate"]));
    host.wait_for("the line is in the host's log", |host| host.log().contains(&bad.place));
}

#[test]
fn of_a_function_for_messages_in_a_thread() {
    messages("thread");
}

#[test]
fn of_a_function_for_messages_in_a_process() {
    messages("process");
}
