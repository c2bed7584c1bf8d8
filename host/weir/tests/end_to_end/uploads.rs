//! Uploads that must not run: what is said of them, and that nobody else notices.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_tests::wat_guest;

use crate::guests::{self, pass, slow_to_compile};
use crate::host::{Host, WEIR};

/// Time for a compilation; what is slow takes far longer, what is not far less.
const COMPILE: Duration = Duration::from_secs(4);

fn config() -> String {
    guests::TRAFFIC.replace("[store]", "compile-timeout = \"4s\"\n[store]")
}

#[test]
fn what_cannot_run_is_refused_with_its_reason_and_traffic_goes_on() {
    let mut host = Host::start(&config());
    guests::deploy(&host, "1.0.0", &pass(1));
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    let forbidden = wat_guest::module(wat_guest::NULL).replace(
        "\"weir:net/host@0.1.0\" \"set-timer\"",
        "\"wasi:clocks/wall-clock@0.2.0\" \"now\"",
    );
    let uploads: [(&str, Vec<u8>, &str); 6] = [
        ("nothing", Vec::new(), "it is not WebAssembly"),
        ("elf", b"\x7fELF\x02\x01\x01".to_vec(), "it is not WebAssembly"),
        ("cut", pass(2)[..300].to_vec(), "the upload is refused: "),
        ("bare", wat::parse_str("(module (memory 1))").unwrap(), "the upload is refused: "),
        ("nosy", wat::parse_str(&forbidden).unwrap(), "the upload is refused: "),
        ("huge", vec![0; (64 << 20) + 1], "the body is too large: allowed are 67108864 bytes"),
    ];
    for (name, wasm, expected) in uploads {
        let before = host.packets_out("edge");
        host.write("f.wasm", wasm);
        let error = host.fails(&["function", "push", "f.wasm", "--name", name]);
        assert!(error.contains(expected), "{name}: {error}");
        host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    }
    let functions = host.json(&["function", "list"]);
    assert_eq!(functions.as_array().unwrap().len(), 1, "{functions}");
    assert_eq!(functions[0]["name"], "gate");
    assert_eq!(host.running(), "1.0.0");
}

/// A component of a megabyte with so many instances of a component that it imports, of three bytes
/// each: of each, a validator keeps all the 100,000 exports that the type has.
fn large_to_validate(instances: usize) -> Vec<u8> {
    fn number(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n > 0x7f {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }
    const EXPORTS: usize = 100_000;
    let mut kind = vec![1, 0x41];
    kind.extend(number(1 + EXPORTS));
    kind.extend(b"\x01\x40\x00\x01\x00");
    for n in 0..EXPORTS {
        let name = format!("a{n}");
        kind.extend([4, 0, name.len() as u8]);
        kind.extend(name.as_bytes());
        kind.extend([1, 0]);
    }
    let instances = [number(instances), [0, 0, 0].repeat(instances)].concat();
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    for (id, section) in [(7, kind), (10, b"\x01\x00\x01c\x04\x00".to_vec()), (5, instances)] {
        component.push(id);
        component.extend(number(section.len()));
        component.extend(section);
    }
    component
}

#[test]
fn what_takes_gigabytes_to_validate_takes_them_from_a_child() {
    let host = Host::start(&config());
    let peak = || {
        let status = host.kernel_says("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak();
    host.write("f.wasm", large_to_validate(100));
    let error = host.fails(&["function", "push", "f.wasm", "--name", "many"]);
    assert!(error.contains("the upload is refused:"), "{error}");
    let more = peak() - before;
    assert!(more < 200 << 10, "the host has {more} KiB more");
}

#[test]
fn what_takes_forever_to_compile_is_given_up_and_holds_up_no_other_tenant() {
    let host = Host::start(&config());
    host.ok(&["tenant", "add", "acme"]);
    guests::deploy(&host, "1.0.0", &pass(1));
    for number in 0..4 {
        host.write(&format!("slow{number}.wasm"), slow_to_compile(number));
    }
    host.write("next.wasm", pass(2));
    let before = host.packets_out("edge");
    std::thread::scope(|scope| {
        let host = &host;
        let slow: Vec<_> = (0..4)
            .map(|number| {
                let file = format!("slow{number}.wasm");
                let push = move || {
                    host.fails(&["--tenant", "acme", "function", "push", &file, "--name", "slow"])
                };
                scope.spawn(push)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        host.ok(&["function", "push", "next.wasm", "--name", "gate", "--version", "2.0.0"]);
        host.ok(&["function", "swap", "gate", "--to", "2.0.0"]);
        assert!(begun.elapsed() < COMPILE, "{:?}", begun.elapsed());
        assert!(slow.iter().any(|push| !push.is_finished()), "they were not slow");
        for push in slow {
            let error = push.join().unwrap();
            assert!(error.contains("compiling it took longer than 4s: make it smaller"), "{error}");
        }
    });
    assert!(host.packets_out("edge") > before);
    assert_eq!(host.json(&["--tenant", "acme", "function", "list"]), serde_json::json!([]));
    assert_eq!(host.children(), Vec::<String>::new(), "nothing goes on compiling");
}

#[test]
fn a_swap_to_what_fails_while_it_is_made_ready_leaves_what_runs() {
    let mut host = Host::start(&config());
    guests::deploy(&host, "1.0.0", &pass(1));
    host.write("f.wasm", guests::log_and_trap(true));
    host.ok(&["function", "push", "f.wasm", "--name", "gate", "--version", "2.0.0"]);
    for how in [&["--canary", "10"][..], &["--shadow"], &[]] {
        let swap = [&["function", "swap", "gate", "--to", "2.0.0"][..], how].concat();
        let error = host.fails(&swap);
        assert!(error.contains("chain edge: function gate failed in `configure`"), "{error}");
        assert!(error.contains("trap: it logged \"name_in_memory\"; wasm `unr"), "{error}");
    }
    assert!(host.ok(&["function", "log", "gate"]).contains("name_in_memory"));
    // What is no component at all is told before it is asked how it is called.
    host.write("main.c", "int main;");
    assert!(host.fails(&["function", "push", "main.c"]).contains("main.c is not WebAssembly"));
    // Nor is what was cut off on its way.
    let module = wat::parse_str(wat_guest::module(wat_guest::NULL)).unwrap();
    host.write("cut.wasm", &module[..module.len() / 2]);
    for name in [&[][..], &["--name", "cut"]] {
        let error = host.fails(&[&["function", "push", "cut.wasm"], name].concat());
        assert!(error.contains("it is damaged, or was cut off: "), "{error}");
    }
    assert!(host.fails(&["function", "push", "."]).contains(". is a directory: push"));
    assert_eq!(host.running(), "1.0.0");
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
}

#[test]
fn what_takes_long_to_configure_holds_up_no_other_tenant() {
    let host = Host::start(&config());
    host.ok(&["tenant", "add", "acme"]);
    guests::deploy(&host, "1.0.0", &pass(1));
    let text = wat_guest::module(wat_guest::NULL)
        .replace("(local $region i32)\n", "(local $region i32) (loop $again (br $again))\n");
    host.write("f.wasm", wat_guest::upload(&text, "packet-function"));
    host.ok(&["--tenant", "acme", "function", "push", "f.wasm", "--name", "spin"]);
    host.write("spin.toml", "name = \"spin\"\n[[function]]\nuse = \"spin\"\n");
    let mut cycles = 0;
    std::thread::scope(|scope| {
        let host = &host;
        let spin =
            scope.spawn(move || host.fails(&["--tenant", "acme", "chain", "apply", "spin.toml"]));
        // It uses 10 s of CPU time, and these do not.
        while !spin.is_finished() {
            host.ok(&["chain", "remove", "edge"]);
            host.ok(&["chain", "apply", "c.toml"]);
            cycles += 1;
        }
        let error = spin.join().unwrap();
        assert!(error.contains("function spin failed in `configure`: deadline"), "{error}");
    });
    assert!(cycles > 5, "chains came and went {cycles} times meanwhile");
}

#[test]
fn what_was_uploaded_before_the_code_was_lost_runs_alone_and_linked() {
    let host = Host::start(guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    host.write("f.wasm", pass(2));
    host.ok(&["function", "push", "f.wasm", "--name", "next"]);
    let (_, directory, _) = host.end(rustix::process::Signal::KILL);
    std::fs::remove_dir_all(directory.path().join("store/cache")).unwrap();
    let mut host = Host::start_in(directory, guests::TRAFFIC);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    host.write("c.toml", format!("{}[[function]]\nuse = \"next\"\n", guests::CHAIN));
    assert!(host.json(&["chain", "apply", "c.toml"])["compile_ms"].as_f64() > Some(0.0));
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    assert_eq!(host.json(&["status"])["failed"], serde_json::json!({}));
}

#[test]
fn uploads_are_compiled_by_the_program_that_runs_whatever_lies_at_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let [program, next] = ["weir", "next"].map(|name| directory.path().join(name));
    std::fs::copy(WEIR, &program).unwrap();
    let host = Host::start_program(&program, directory, guests::TRAFFIC);
    // As an upgrade does.
    std::fs::copy("/bin/false", &next).unwrap();
    std::fs::rename(&next, &program).unwrap();
    guests::deploy(&host, "1.0.0", &pass(1));
    std::fs::remove_file(&program).unwrap();
    guests::push(&host, "2.0.0", &pass(2));
}

/// Whether a child of this host's has ended: the kernel counts the pages that those touched.
fn had_children(host: &Host) -> bool {
    let stat = host.kernel_says("stat");
    let fields = stat.rsplit_once(')').unwrap().1;
    // `cminflt` of proc_pid_stat(5), which is the eleventh; the first here is the third.
    fields.split_whitespace().nth(8).unwrap() != "0"
}

/// A copy of the program with another build ID.
fn another_build(path: &Path) {
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut program = std::fs::read(WEIR).unwrap();
    let note = program.windows(NOTE.len()).position(|bytes| bytes == NOTE).unwrap();
    program[note + NOTE.len()] ^= 1;
    std::fs::copy(WEIR, path).unwrap();
    std::fs::write(path, program).unwrap();
}

#[test]
fn what_runs_needs_no_child_at_the_next_start_of_the_same_build() {
    let host = Host::start(guests::TRAFFIC);
    assert!(!had_children(&host));
    guests::deploy(&host, "1.0.0", &pass(1));
    assert!(had_children(&host));
    let mut directory = host.end(rustix::process::Signal::TERM).1;
    let entries = |directory: &Path| {
        let cache = std::fs::read_dir(directory.join("store/cache")).unwrap();
        let paths = cache.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension() == Some("admitted".as_ref())).collect::<Vec<_>>()
    };
    assert_eq!(entries(directory.path()).len(), 1);
    let runs_after = |mut host: Host, children: bool| {
        host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
        assert_eq!(had_children(&host), children);
        assert_eq!(host.json(&["status"])["failed"], serde_json::json!({}));
        host.end(rustix::process::Signal::TERM).1
    };
    directory = runs_after(Host::start_in(directory, guests::TRAFFIC), false);
    for path in entries(directory.path()) {
        std::fs::File::options().write(true).open(path).unwrap().set_len(300).unwrap();
    }
    directory = runs_after(Host::start_in(directory, guests::TRAFFIC), true);
    directory = runs_after(Host::start_in(directory, guests::TRAFFIC), false);
    let program = directory.path().join("weir");
    another_build(&program);
    directory = runs_after(Host::start_program(&program, directory, guests::TRAFFIC), true);
    assert_eq!(entries(directory.path()).len(), 2);
    directory = runs_after(Host::start_program(&program, directory, guests::TRAFFIC), false);
    runs_after(Host::start_in(directory, guests::TRAFFIC), false);
}

#[test]
fn a_chain_for_which_no_child_can_be_had_at_the_start_comes_when_there_is_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("weir");
    std::fs::copy(WEIR, &program).unwrap();
    let host = Host::start_program(&program, directory, guests::TRAFFIC);
    guests::deploy(&host, "1.0.0", &pass(1));
    let directory = host.end(rustix::process::Signal::KILL).1;
    std::fs::remove_dir_all(directory.path().join("store/cache")).unwrap();
    // It waits for its configuration until it may not be executed any more.
    let config = directory.path().join("weir.toml");
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let mut command = Command::new(&program);
    command.arg("run");
    let mut host = Host::begun(directory, command);
    let may = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program, permissions).unwrap();
    };
    may(0o600);
    std::fs::write(&config, guests::TRAFFIC).unwrap();
    host.wait_for("it is ready", |host| host.log().contains("ready"));
    let failed = host.json(&["status"])["failed"]["default/edge"].to_string();
    assert!(failed.contains("function gate: refused: nobody can look at it now: "), "{failed}");
    may(0o700);
    host.wait_for("packets flow", |host| host.packets_out("edge") > 0);
    assert_eq!(host.json(&["status"])["failed"], serde_json::json!({}));
    assert!(host.ok(&["events"]).contains("chain edge was deployed: what it lacked is there"));
}

#[test]
fn names_in_an_upload_command_no_terminal() {
    let mut host = Host::start(guests::TRAFFIC);
    let module = wat_guest::module(&wat_guest::each("      unreachable")).replace(
        "(func (export \"weir:net/packet@0.1.0#process\")",
        "(func (@name \"\\1b[2Jcls\\0aid\") (export \"weir:net/packet@0.1.0#process\")",
    );
    guests::deploy(&host, "1.0.0", &wat_guest::upload(&module, "packet-function"));
    host.wait_for("the fault is told", |host| host.ok(&["events"]).contains("[2Jcls id"));
    let events = host.ok(&["--output", "json", "events"]);
    assert!(events.contains("[2Jcls id") && !events.contains("\\u001b"), "{events}");
    assert!(events.contains(" 1.0.0 in chain edge faulted: trap: wasm `unreachable`"), "{events}");
}
