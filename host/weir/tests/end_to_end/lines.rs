//! Faults name the line of source, in a host as its operator started it: in a function's log, in
//! events, in the host's log, in what is said of a trial, and where a function that cannot be made
//! ready is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::guests::TRAFFIC;
use crate::host::{Host, weir};
use crate::messages::{Server, address, curl};

/// A function with a fault in it, and where: `FILE:LINE`.
struct Faulty {
    wasm: PathBuf,
    place: String,
}

/// A new project, to be made faulty.
struct Project {
    directory: PathBuf,
    file: &'static str,
    source: String,
    built: u32,
}

impl Project {
    fn new(directory: &Path, arguments: &[&str], file: &'static str) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap();
        let made = weir(directory.parent().unwrap(), &[&["new", name], arguments].concat());
        assert_eq!(made.status, Some(0), "{}", made.err);
        if arguments.contains(&"rust") {
            // Rust's own library may have to be built, too, which takes a minute: once for all of
            // them.
            let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-projects");
            fs::create_dir_all(&built).unwrap();
            std::os::unix::fs::symlink(built, directory.join("build-output")).unwrap();
        }
        let source = fs::read_to_string(directory.join(file)).unwrap();
        Self { directory: directory.to_owned(), file, source, built: 0 }
    }

    /// With its export replaced by this, which has private state.
    fn saving(mut self, export: &str, by: &str) -> Self {
        assert!(self.source.contains(export));
        self.source = self.source.replace(export, by);
        let manifest = self.directory.join("function.toml");
        let told = fs::read_to_string(&manifest).unwrap();
        fs::write(manifest, told.replace("state = \"none\"", "state = \"save\"")).unwrap();
        self
    }

    /// With this line put behind the one that has `after` in it.
    fn faulty(&mut self, after: &str, line: &str) -> Faulty {
        let at = self.source.lines().position(|known| known.contains(after)).unwrap() + 1;
        let mut lines: Vec<&str> = self.source.lines().collect();
        lines.insert(at, line);
        fs::write(self.directory.join(self.file), lines.join("\n")).unwrap();
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/languages/bin");
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
        let mut build = Command::new(self.directory.join("build"));
        let build = build.env("WEIR", env!("CARGO_BIN_EXE_weir")).env("PATH", path);
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        self.built += 1;
        let wasm = self.directory.join(format!("faulty-{}.wasm", self.built));
        let name = self.directory.file_name().unwrap().to_str().unwrap();
        fs::copy(self.directory.join(format!("{name}.wasm")), &wasm).unwrap();
        Faulty { wasm, place: format!("{}:{}", self.file, at + 1) }
    }
}

impl Faulty {
    fn build(
        project: &Path,
        arguments: &[&str],
        file: &'static str,
        after: &str,
        line: &str,
    ) -> Self {
        Project::new(project, arguments, file).faulty(after, line)
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
fn packets(language: &str, file: &'static str, after: &str, line: &str) {
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
    let function = line.to_lowercase().contains("process");
    assert!(line.contains("fault: trap: ") && function, "{line}");
    assert!(!line.contains(" < "), "{line}");
    host.wait_for("the line is in the host's log", |host| host.log().contains(&faulty.place));

    // Without a host, too.
    faulty.is_told_in(&replayed(&faulty.wasm));
}

/// The function alone over a capture, without a host: what that says of its fault.
fn replayed(wasm: &Path) -> String {
    let directory = tempfile::tempdir().unwrap();
    let chain = format!("path = \"{}\"", wasm.display());
    fs::write(directory.path().join("c.toml"), BLOCK.replace("use = \"gate\"", &chain)).unwrap();
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/sample.pcap");
    let replay = ["replay", "--chain", "c.toml", "--in", capture, "--out", "out.pcap"];
    let replayed = weir(directory.path(), &replay);
    assert_eq!(replayed.status, Some(0), "{}", replayed.err);
    replayed.err
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

/// The SDK's function that panics is inlined into the author's.
#[test]
fn of_a_function_in_go() {
    let line = "\t\t_ = burst.Packet(i + burst.Len())";
    packets("go", "main.go", "packet := burst.Packet(i)", line);
}

/// In Go's library, in a function of the author's that another one calls, and in a loop that does
/// not end.
#[test]
fn of_other_faults_in_go() {
    let directory = tempfile::tempdir().unwrap();
    let mut gate = Project::new(&directory.path().join("gate"), &["--lang", "go"], "main.go");
    gate.source.push_str("\nfunc (f *portBlock) deep(n int) int {\n\treturn 1 / n\n}\n");
    let deep = gate.source.lines().position(|line| line == "\treturn 1 / n").unwrap() + 1;
    let process = "packet := burst.Packet(i)";
    for (line, more) in [
        ("\t\tvar none *portBlock; none.count = nil", None),
        ("\t\tf.deep(len(packet.Data()) - len(packet.Data()))", Some(deep)),
        ("\t\t_ = fmt.Sprint(f.blocked); var set map[int]int; set[i] = 1", None),
    ] {
        let faulty = gate.faulty(process, line);
        let told = replayed(&faulty.wasm);
        faulty.is_told_in(&told);
        let within = more.map(|line| {
            format!("main.(*portBlock).deep at gate/main.go:{} < main.(*port", line + 1)
        });
        assert!(told.contains(&within.unwrap_or_default()), "{told}");
    }
    // Out of time: the turns of a loop all pass the function's beginning.
    let faulty = gate.faulty(process, "\t\tfor n := i; ; n++ { if n < i { break } }");
    let begins = gate.source.lines().position(|line| line.contains(") Process(")).unwrap() + 1;
    let told = replayed(&faulty.wasm);
    let place = format!("in main.(*portBlock).Process at gate/main.go:{begins}\n");
    assert!(told.contains("deadline: ") && told.contains(&place), "{told}");
}

/// What hands private state over faults: `restore` of the first, `save` of the second.
fn handed_over(host: &Host, restore: &Faulty, save: &Faulty) {
    let swap = ["function", "swap", "gate", "--to"];
    restore.push(host, "1.0.0");
    host.ok(&["chain", "apply", "c.toml"]);
    restore.push(host, "1.1.0");
    restore.is_told_in(&host.fails(&[&swap[..], &["1.1.0"]].concat()));
    save.push(host, "2.0.0");
    host.ok(&[&swap[..], &["2.0.0"]].concat());
    save.is_told_in(&host.fails(&[&swap[..], &["1.0.0"]].concat()));
}

/// An export with private state, of which there is none.
fn saving(kind: &str, export: &str) -> String {
    format!(
        "impl weir_sdk::Snapshot for {kind} {{
    fn save(&self) -> Vec<u8> {{
        Vec::new()
    }}
    fn restore(&mut self, _: &[u8]) -> Result<(), String> {{
        Ok(())
    }}
}}
{export}!({kind}, snapshot);"
    )
}

#[test]
fn of_private_state_of_a_function_for_packets() {
    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().join("saving-gate");
    let project = Project::new(&project, &["--lang", "rust"], "src/lib.rs");
    let mut project = project.saving("export!(PortBlock);", &saving("PortBlock", "export"));
    let line = "        let _ = self.blocked[self.blocked.len() + 7];";
    let (restore, save) = (project.faulty("fn restore(", line), project.faulty("fn save(", line));
    let host = Host::start(TRAFFIC);
    host.write("c.toml", BLOCK);
    handed_over(&host, &restore, &save);
}

#[test]
fn of_a_function_in_zig() {
    let line = "        if (packet.data().len > 14) @trap();";
    packets("zig", "main.zig", "const packet = burst.packet(i);", line);
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
        faulty.is_told_in(&(tested.out + &tested.err));
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
    // What is still to be read holds up no status.
    host.wait_for("its line is told", |host| host.ok(&["status"]).lines().any(|l| bad.is_fault(l)));
    bad.is_told_in(&host.ok(&["status"]));
}

/// A gateway in this mode in front of this server.
fn gateway(mode: &str, server: &Server) -> String {
    format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\n[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"web\"\nupstream = [\"127.0.0.1:{}\"]\n",
        server.port
    )
}

/// A chain of path-guard, which refuses nothing.
const GUARD: &str = "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"gate\"\n[function.config]\nprivate = []\n";

const C: &[&str] = &["--lang", "c"];
const MESSAGES: &[&str] = &["--lang", "c", "--plane", "message"];

/// A function for messages, in this mode of the gateway: as a shadow, running, and one that cannot
/// be configured.
fn messages(mode: &str) {
    let directory = tempfile::tempdir().unwrap();
    let build = |name: &str, after: &str, line: &str| {
        Faulty::build(&directory.path().join(name), MESSAGES, "main.c", after, line)
    };
    // What reads prefixes is linked in projects for messages, too.
    let reads = "#include <weir/net.h>\nstatic weir_prefix ten;\n__attribute__((constructor)) static void read_ten(void) { \
                 if (!weir_prefix_read(\"10.0.0.0/8\", 10, &ten)) __builtin_trap(); }";
    let good = build("good", "#include <weir/message.h>", reads);
    let trap = "    if (weir_text_begins(weir_head_path(head), weir_text_of(\"/trap\"))) __builtin_trap();";
    let bad = build("bad", "weir_outcome weir_request_head(", trap);
    let configure = build("configure", "(void)setup;", "    __builtin_trap();");
    let start = build("start", "static weir_counter refused;", START);
    let server = Server::start();
    let mut host = Host::start(&gateway(mode, &server));
    good.push(&host, "1.0.0");
    host.write("c.toml", GUARD);
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));

    bad.push(&host, "2.0.0");
    host.ok(&["function", "swap", "gate", "--to", "2.0.0", "--shadow"]);
    host.wait_for("the shadow faults", |host| {
        assert_eq!(curl(&[&format!("{web}/trap")]).0, 200);
        host.ok(&["status"]).contains("fault: trap")
    });
    host.wait_for("its line is told", |host| host.ok(&["status"]).lines().any(|l| bad.is_fault(l)));
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

#[test]
fn of_private_state_of_a_function_for_messages() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--lang", "rust", "--plane", "message"];
    let project = Project::new(&directory.path().join("saving-guard"), &arguments, "src/lib.rs");
    let export = "weir_sdk::export_message";
    let mut project =
        project.saving(&format!("{export}!(PathGuard);"), &saving("PathGuard", export));
    let line = "        let _ = self.private[self.private.len() + 7].len();";
    let (restore, save) = (project.faulty("fn restore(", line), project.faulty("fn save(", line));
    let server = Server::start();
    for mode in ["thread", "process"] {
        let host = Host::start(&gateway(mode, &server));
        host.write("c.toml", GUARD);
        handed_over(&host, &restore, &save);
    }
}

/// A unit of `.debug_info` with this content; abbreviations are those of [`with_tables`].
fn unit(content: &[u8]) -> Vec<u8> {
    let mut unit = (content.len() as u32 + 7).to_le_bytes().to_vec();
    unit.extend([4, 0, 0, 0, 0, 0, 4]);
    unit.extend(content);
    unit
}

/// A function with DWARF of these units, and a line program of so many rows, which all are of
/// `crafted.c:7`; and a fault in it.
fn with_tables(units: &[u8], rows: usize) -> (Arc<weir_sandbox::Admitted>, String) {
    // Units without and with children that have a line program; a function that has a range; an
    // inlined one with children.
    let abbreviations = b"\x01\x11\x00\x10\x17\0\0\x02\x11\x01\x10\x17\0\0\
        \x03\x2e\x01\x11\x01\x12\x06\0\0\x04\x1d\x01\0\0\0";
    let header = b"\x01\x01\x01\x00\x01\x0a\0\x01\x01\x01\x01\0\0\0\x01\0crafted.c\0\0\0\0\0";
    let mut program = vec![4, 0];
    program.extend((header.len() as u32).to_le_bytes());
    program.extend(header);
    // Address 0, line 7, the rows, each for a byte of code, and their end.
    program.extend([0, 5, 2, 0, 0, 0, 0, 3, 6, 1]);
    program.resize(program.len() + rows, 0x0b);
    program.extend([0, 1, 1]);
    let lines = [&(program.len() as u32).to_le_bytes()[..], &program].concat();
    let text = weir_tests::wat_guest::module(weir_tests::wat_guest::NULL);
    let mut wasm = weir_tests::wat_guest::upload(&text, "packet-function");
    for (name, bytes) in
        [(".debug_abbrev", &abbreviations[..]), (".debug_info", units), (".debug_line", &lines)]
    {
        wasm.push(0);
        let mut size = name.len() + 1 + bytes.len();
        while size > 0x7f {
            wasm.push(size as u8 | 0x80);
            size >>= 7;
        }
        wasm.extend([size as u8, name.len() as u8]);
        wasm.extend(name.as_bytes());
        wasm.extend(bytes);
    }
    let sandbox = weir_sandbox::Sandbox::new(weir_sandbox::SandboxConfig::default()).unwrap();
    let admitted = sandbox.admit(&wasm).unwrap();
    let key: String = admitted.hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    (admitted, format!("trap: unreachable, in process [#8+0x1]; code {key}"))
}

#[test]
fn line_tables_that_would_take_all_memory_or_the_stack_take_no_more_than_a_child() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("weir");
    weir_sandbox::read_lines_in_children(program.clone(), vec!["__lines".to_owned()]);
    let small = unit(&[1, 0, 0, 0, 0]);
    let (_good, fault) = with_tables(&small, 1000);
    // No child can be started: it is asked again later.
    assert_eq!(weir_sandbox::explain(&fault), fault);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weir"), program).unwrap();
    let explained = weir_sandbox::explain(&fault);
    assert!(explained.starts_with("trap: unreachable, in process at crafted.c:7"), "{explained}");
    // Each unit has rows of its own: 24 bytes for each of the program's, which all of them name.
    let (_wide, fault) = with_tables(&small.repeat(40), 3 << 20);
    assert_eq!(weir_sandbox::explain(&fault), "trap: unreachable, in process");
    // One inlined function in another, a million times.
    let mut tower = vec![2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1];
    tower.resize(tower.len() + 1_000_000, 4);
    tower.resize(tower.len() + 1_000_002, 0);
    let (_high, fault) = with_tables(&unit(&tower), 1000);
    assert_eq!(weir_sandbox::explain(&fault), "trap: unreachable, in process");
}
