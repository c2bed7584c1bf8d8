//! The API as a stranger's generator sees it: Schemathesis reads `/openapi.json` and makes requests
//! from it, good and bad, one by one and in chains, over TCP. No answer may be a server's error, or
//! another than the document says.
//!
//! Bounded by a number of examples and a seed, so that it is the same each time;
//! `WEIR_SCHEMA_EXAMPLES` and `WEIR_SCHEMA_SEED` ask for more, or for others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guests::{self, pass};
use crate::host::Host;

/// Examples for each operation and phase.
const EXAMPLES: &str = "15";

fn config() -> String {
    let tokens = "listen = \"127.0.0.1:0\"\n\
        [[api.token]]\nname = \"admin\"\nrole = \"admin\"\ntoken = \"0123456789abcdef-admin\"\n\
        [[api.token]]\nname = \"acme\"\nrole = \"operator\"\ntenant = \"acme\"\ntoken = \"0123456789abcdef-acme\"\n";
    guests::TRAFFIC.replace("[store]", &format!("{tokens}[store]"))
}

fn setting(variable: &str, otherwise: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned())
}

/// The program, from where scripts/setup installs it: beside the build's other results.
fn schemathesis() -> PathBuf {
    let build = Path::new(env!("CARGO_BIN_EXE_weir")).ancestors().nth(2).expect("target/release");
    let program = build.join("python/bin/schemathesis");
    assert!(program.exists(), "{} is not there: run scripts/setup", program.display());
    program
}

/// Lets it loose on the host with this token; gives back how often each operation answered what.
fn generate(host: &Host, url: &str, token: &str) -> BTreeMap<String, BTreeMap<u16, u32>> {
    let uploads: Vec<String> = (1..=3)
        .map(|number| {
            let name = format!("upload{number}.wasm");
            host.write(&name, pass(number));
            host.path(&name).display().to_string()
        })
        .collect();
    let answers = host.path("answers");
    drop(fs::remove_file(&answers));
    let output = Command::new(schemathesis())
        .args(["run", &format!("{url}/openapi.json"), "--no-color", "--continue-on-failure"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--checks", "all", "--request-timeout", "60", "--generation-database", "none"])
        .args(["--max-examples", &setting("WEIR_SCHEMA_EXAMPLES", EXAMPLES)])
        .args(["--seed", &setting("WEIR_SCHEMA_SEED", "1")])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("WEIR_SCHEMA_WASM", uploads.join(":"))
        .env("WEIR_SCHEMA_ANSWERS", &answers)
        .current_dir(host.directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}\n{}", host.log());
    let mut counts = BTreeMap::<String, BTreeMap<u16, u32>>::new();
    for line in fs::read_to_string(&answers).unwrap().lines() {
        let (operation, status) = line.rsplit_once(' ').unwrap();
        let statuses = counts.entry(operation.to_owned()).or_default();
        *statuses.entry(status.parse().unwrap()).or_default() += 1;
    }
    counts
}

#[test]
fn the_api_is_as_its_document_says() {
    let mut host = Host::start(&config());
    host.wait_for("it says its address", |host| host.log().contains("address="));
    let log = host.log();
    let address = log.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = format!("http://{address}");
    for tenant in ["default", "acme", "spare"] {
        host.ok(&["tenant", "add", tenant]);
    }
    for (number, version) in [(1, "1.0.0"), (2, "2.0.0")] {
        host.write("f.wasm", pass(number));
        for (tenant, name) in [("default", "gate"), ("default", "spare"), ("acme", "gate")] {
            let push = ["function", "push", "f.wasm", "--name", name, "--version", version];
            host.ok(&[&["--tenant", tenant][..], &push].concat());
        }
    }
    host.write("c.toml", guests::CHAIN);
    host.ok(&["chain", "apply", "c.toml"]);

    let counts = generate(&host, &url, "0123456789abcdef-admin");
    // It got through to where things are done, too, and not only to what is refused. Whether there
    // is something to remove or to go back to when it asks for that is chance.
    let went_well = |(_, answers): &(&String, &BTreeMap<u16, u32>)| {
        answers.keys().any(|status| (200..300).contains(status))
    };
    let good: Vec<&String> = counts.iter().filter(went_well).map(|(name, _)| name).collect();
    assert!(good.len() >= 23, "{good:?} of {counts:?}");
    for must in ["PUT /v1/chains/{name}", "PUT /v1/steering", "POST /v1/functions/{name}/swap"] {
        assert!(good.iter().any(|operation| *operation == must), "{must}: {counts:?}");
    }

    generate(&host, &url, "0123456789abcdef-acme");
    // Nothing of it disturbed what ran, and nothing went on.
    let before = host.packets_out("edge");
    host.wait_for("packets flow", |host| host.packets_out("edge") > before);
    assert_eq!(host.children(), Vec::<String>::new());
    assert!(!host.log().contains("panicked"), "{}", host.log());
}
