//! Versions of `wasi:http` components in the shadow of the one that runs: asked what that one was
//! asked, answered what that one was answered, and heard by nobody.

use std::fs;
use std::process::Command;

use weir_tests::built::built_file;

use crate::host::Host;
use crate::messages::{Server, curl};
use crate::proxies::{REWRITE, SERVER, chain, host, in_both_modes, pattern, push};

in_both_modes! {
    the_same_code_does_the_same_and_reaches_nobody,
    other_answers_and_other_requests_are_told,
    a_shadow_that_faults_is_told_and_disturbs_nobody,
    what_is_too_much_to_keep_is_not_compared,
}

/// Pushes the component with some of its strings replaced by others of the same length, and begins
/// its shadow.
fn shadow(host: &Host, version: &str, words: &[(&str, &str)]) {
    let mut bytes = fs::read(built_file("proxy-probe")).expect("it is built");
    for (word, other) in words {
        assert_eq!(word.len(), other.len());
        let places: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(word.as_bytes())).collect();
        assert!(!places.is_empty(), "{word}");
        for at in places {
            bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
        }
    }
    host.write("other.wasm", &bytes);
    host.ok(&["function", "push", "other.wasm", "--name", "probe", "--version", version]);
    host.ok(&["function", "swap", "probe", "--to", version, "--shadow"]);
}

fn trial(host: &Host, key: &str) -> u64 {
    host.json(&["status"])["chains"][0]["trial"][key].as_u64().unwrap_or(0)
}

/// Waits until so many visits were compared; how many differed in what was done, and in what was
/// said.
fn compared(host: &mut Host, visits: u64) -> (u64, u64) {
    host.wait_for("the shadow has seen all", |host| trial(host, "packets") >= visits);
    assert_eq!(trial(host, "packets"), visits, "{}", host.json(&["status"]));
    (trial(host, "verdicts_differ"), trial(host, "bytes_differ"))
}

/// The number of requests that the server had before this one.
fn served(server: &Server) -> u64 {
    let (_, text) = curl(&[&format!("http://127.0.0.1:{}/served", server.port)]);
    let number = text.split("number ").nth(1).and_then(|rest| rest.lines().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn the_same_code_does_the_same_and_reaches_nobody(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain(REWRITE, "", ""));
    push(&host, "1.1.0");
    host.ok(&["function", "swap", "probe", "--to", "1.1.0", "--shadow"]);
    let before = served(&server);
    host.write("sent", pattern(50_000));
    let data = format!("@{}", host.path("sent").display());
    // It answers; sends on with a body, and without; twice; a body that streams both ways; what is
    // refused to it; no upstream's fault.
    for (arguments, requests) in [
        (vec!["/answer"], 0),
        (vec!["/there?a=b", "--data", "some text"], 1),
        (vec!["/there", "--http2-prior-knowledge"], 1),
        (vec!["/twice"], 2),
        (vec!["/echo", "--data-binary", &data], 0),
        (vec!["/to/example.org/"], 0),
        (vec!["/fail"], 1),
        (vec!["/error"], 0),
    ] {
        let from = served(&server);
        let url = format!("{web}{}", arguments[0]);
        let mut command = arguments[1..].to_vec();
        command.push(&url);
        curl(&command);
        assert_eq!(served(&server) - from - 1, requests, "{arguments:?}");
    }
    // An error is no response: there is nothing to compare it with.
    assert_eq!(compared(&mut host, 7), (0, 0), "{}", host.ok(&["status"]));
    // 5 by the running version, 16 of this test's own and the next: nothing came later.
    assert_eq!(served(&server) - before, 5 + 16 + 1);
    let log = host.ok(&["function", "log", "probe"]);
    assert!(log.contains("(shadow)"), "{log}");
    host.ok(&["function", "rollback", "probe"]);
    assert_eq!(curl(&[&format!("{web}/x")]).0, 200);
}

fn other_answers_and_other_requests_are_told(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain("", "", ""));
    shadow(&host, "2.0.0", &[("no greeting", "NO GREETING")]);
    let (_, text) = curl(&[&format!("{web}/answer")]);
    assert!(text.contains("no greeting"), "{text}");
    assert_eq!(compared(&mut host, 1), (0, 1));
    assert!(host.ok(&["status"]).contains("another body"), "{}", host.ok(&["status"]));
    curl(&[&format!("{web}/x")]);
    assert_eq!(compared(&mut host, 2), (0, 1));
    host.ok(&["function", "rollback", "probe"]);

    // Another head, of what it sends on and of what it gives back.
    shadow(&host, "3.0.0", &[("x-probe", "x-other")]);
    let from = served(&server);
    let (_, text) = curl(&[&format!("{web}/x")]);
    assert!(text.contains("sent-x-probe: passed"), "{text}");
    assert_eq!(compared(&mut host, 1), (1, 0));
    assert_eq!(served(&server) - from, 2, "what the shadow asks for goes nowhere");
    let status = host.ok(&["status"]);
    assert!(status.contains("sends on GET /x (") && status.contains("did not"), "{status}");
    host.ok(&["function", "rollback", "probe"]);

    // Another path.
    shadow(&host, "4.0.0", &[("/counted", "/mounted")]);
    let (_, text) = curl(&[&format!("{web}/twice")]);
    assert!(text.ends_with("200 200"), "{text}");
    assert_eq!(compared(&mut host, 1), (1, 0));
    assert!(host.ok(&["status"]).contains("/mounted"), "{}", host.ok(&["status"]));
}

fn a_shadow_that_faults_is_told_and_disturbs_nobody(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain("", "", ""));
    // A field's name that is none is a panic.
    shadow(&host, "2.0.0", &[("x-probe", "x probe")]);
    for _ in 0..3 {
        let (status, text) = curl(&[&format!("{web}/x")]);
        assert!(status == 200 && text.contains("x-probe-response: passed"), "{text}");
    }
    host.wait_for("the fault is told", |host| trial(host, "verdicts_differ") == 1);
    let status = host.ok(&["status"]);
    assert!(status.contains("fault:"), "{status}");
    let running = crate::proxies::probe(&host);
    assert_eq!(running["faults"], 0, "{running}");
}

fn what_is_too_much_to_keep_is_not_compared(mode: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(mode, &server, &chain("", "", ""));
    push(&host, "1.1.0");
    host.ok(&["function", "swap", "probe", "--to", "1.1.0", "--shadow"]);
    host.write("sent", pattern(1 << 20));
    let data = format!("@{}", host.path("sent").display());
    let url = format!("{web}/echo");
    assert_eq!(curl(&["--data-binary", &data, &url]).0, 200);
    curl(&[&format!("{web}/answer")]);
    assert_eq!(compared(&mut host, 1), (0, 0));
    // A client that goes in the middle leaves nothing to compare.
    let url = format!("{web}/lazy");
    let gone = Command::new("curl").args(["--silent", "--max-time", "1", &url]).status();
    assert!(!gone.expect("curl starts").success());
    curl(&[&format!("{web}/answer")]);
    assert_eq!(compared(&mut host, 2), (0, 0));
}
