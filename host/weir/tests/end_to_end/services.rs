//! Services in languages without a component model of their own: the templates of `weir new` for
//! the world `wasi:http/proxy`, built as their authors would, and in a chain with curl on one side
//! and a server on the other. What they decide is shown by the tutorials.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_tests::built::workspace;

use crate::host::{Host, weir};
use crate::messages::{Server, address, curl};

/// A new project, built as its README says.
fn project(directory: &Path, language: &str) -> PathBuf {
    let made = weir(directory, &["new", "path-guard", "--lang", language, "--plane", "message"]);
    assert_eq!(made.status, Some(0), "{}", made.err);
    let project = directory.join("path-guard");
    let tools = workspace().join("target/languages/bin");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut build = Command::new(project.join("build"));
    let built = build.env("WEIR", env!("CARGO_BIN_EXE_weir")).env("PATH", path).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(String::from_utf8_lossy(&built.stdout), "");
    project
}

/// In a chain, between functions that see what it makes of requests and responses.
fn serves(language: &str) {
    let directory = tempfile::tempdir().unwrap();
    let wasm = project(directory.path(), language).join("path-guard.wasm");
    for mode in ["thread", "process"] {
        serves_in(language, mode, &wasm, directory.path());
    }
}

fn serves_in(language: &str, mode: &str, wasm: &Path, directory: &Path) {
    let server = Server::start();
    let host = Host::start(&format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\n[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         protocol = \"http\"\nchain = \"web\"\nupstream = [\"127.0.0.1:{}\"]\n",
        server.port
    ));
    host.ok(&["function", "push", wasm.to_str().unwrap()]);
    host.write(
        "c.toml",
        "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"path-guard\"\n[function.config]\nprivate = \"/admin\"\n",
    );
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, text) = curl(&[protocol, &format!("{web}/admin/users")]);
        assert!(status == 403 && text.ends_with("This is private.\n"), "{language}: {text}");
        // What a client says of itself does not count.
        let forged = ["--data", "hello", "--header", "x-guard: forged"];
        let (status, text) =
            curl(&[&[protocol], &forged[..], &[&format!("{web}/open?a=%20b")]].concat());
        assert_eq!(status, 200, "{language}: {text}");
        for part in
            ["[\"x-guard\", \"passed\"]", "\"path\": \"/open?a=%20b\"", "\"body\": \"hello\""]
        {
            assert!(text.to_lowercase().contains(part), "{language}: {part}\n{text}");
        }
        assert!(!text.contains("forged"), "{language}: {text}");
    }
    // A body that is longer than anything that is held on the way.
    let long = "x".repeat(3 << 20);
    fs::write(directory.join("long"), &long).unwrap();
    let file = format!("@{}", directory.join("long").display());
    let (status, text) =
        curl(&["--http1.1", "--header", "expect:", "--data-binary", &file, &format!("{web}/long")]);
    assert!(status == 200 && text.contains(&long), "{language}: {} bytes", text.len());
    let functions = host.json(&["status"])["chains"][0]["functions"].clone();
    assert_eq!(functions[0]["faults"], 0, "{functions}");
    serves_several(language, host, &web);
}

/// Instances that serve several requests: Python's do, and of JavaScript's each request has one
/// again after the first fault.
fn serves_several(language: &str, mut host: Host, web: &str) {
    host.write(
        "c.toml",
        "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"path-guard\"\nrequests-per-instance = 10\ninstance-idle = \"1m\"\n\
         [function.config]\nprivate = \"/admin\"\n",
    );
    host.ok(&["chain", "apply", "c.toml"]);
    let seen = |host: &Host| {
        let function = host.json(&["status"])["chains"][0]["functions"][0].clone();
        let of = |key: &str| function["instances"][key].as_u64().unwrap_or(0);
        (of("made"), of("reused"), function["faults"].as_u64().unwrap_or(0))
    };
    let (made, reused, _) = seen(&host);
    let mut statuses = Vec::new();
    for n in 1..=5 {
        // One without a body, and one with a body that is sent on.
        let (status, text) = match n {
            3 => curl(&["--data", "hello", &format!("{web}/open")]),
            _ => curl(&[&format!("{web}/admin")]),
        };
        assert!(n != 3 || status != 200 || text.to_lowercase().contains("x-guard"), "{text}");
        statuses.push(status);
        host.wait_for("it has ended", |host| {
            let (made_now, reused_now, _) = seen(host);
            made_now + reused_now == made + reused + n
        });
        // It is out of order for a moment after a fault.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let log = host.ok(&["function", "log", "path-guard"]);
    let now = seen(&host);
    if language == "python" {
        assert_eq!(statuses, [403, 403, 200, 403, 403], "{log}");
        assert_eq!(now, (made + 1, reused + 4, 0), "{log}");
    } else {
        assert_eq!(statuses, [403, 503, 200, 403, 403], "{log}");
        assert_eq!(now, (made + 4, reused + 1, 1), "{log}");
        assert!(log.contains("an instance that had served others faulted"), "{log}");
    }
}

#[test]
fn javascript() {
    serves("js");
}

#[test]
fn python() {
    serves("python");
}

/// The same engine as JavaScript's, behind another compiler.
#[test]
fn typescript() {
    let directory = tempfile::tempdir().unwrap();
    let project = project(directory.path(), "ts");
    let main = project.join("main.ts");
    let wrong = fs::read_to_string(&main).unwrap().replace("status: 403", "status: \"403\"");
    fs::write(main, wrong).unwrap();
    let tools = workspace().join("target/languages/bin");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let mut build = Command::new(project.join("build"));
    let built = build.env("WEIR", env!("CARGO_BIN_EXE_weir")).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&built.stdout);
    assert!(!built.status.success() && said.contains("main.ts(14,"), "{said}");
}
