//! Components of the world `wasi:http/proxy` whose instances serve several requests, one after the
//! other: what an instance keeps is seen by the next request of it, and of no other, and by none
//! after something went wrong.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use weir_tests::built::workspace;

use crate::host::Host;
use crate::messages::{Server, address, curl};
use crate::proxies::{SERVER, chain, config, host, in_both_modes, pattern, probe, push};

in_both_modes! {
    an_instance_serves_as_many_as_it_may,
    what_goes_wrong_is_the_end_of_an_instance,
    what_it_keeps_is_the_end_of_an_instance,
    no_instance_of_another_version_serves,
    one_that_serves_nobody_leaves_after_a_while,
    no_instance_serves_two_at_once,
    one_in_python_keeps_its_state,
}

/// Requests that had an instance made for them, and those that had one which had served others.
fn instances(host: &Host) -> (u64, u64) {
    let instances = probe(host)["instances"].clone();
    (instances["made"].as_u64().unwrap_or(0), instances["reused"].as_u64().unwrap_or(0))
}

/// A host with a component, and a client that asks for one thing after the other.
struct Asked {
    host: Host,
    web: String,
}

impl Asked {
    fn new(mode: &str, server: &Server, keys: &str) -> Self {
        let (host, web) = host(mode, server, &chain("", keys, ""));
        Self { host, web }
    }

    /// A response's status and text, when its guest has ended, too.
    fn ask(&mut self, path: &str, arguments: &[&str]) -> (u16, String) {
        let (made, reused) = instances(&self.host);
        let url = format!("{}{path}", self.web);
        let answer = curl(&[arguments, &[&url]].concat());
        self.host.wait_for("its guest has ended", |host| {
            let (made_now, reused_now) = instances(host);
            made_now + reused_now > made + reused
        });
        answer
    }

    /// How many the instance has counted, with this one.
    fn count(&mut self, path: &str) -> u32 {
        let (status, text) = self.ask(path, &[]);
        let counted = text.rsplit_once("counted ").and_then(|(_, n)| n.parse().ok());
        counted.unwrap_or_else(|| panic!("{path}: {status} {text}"))
    }

    fn counts(&mut self, expected: &[u32]) {
        for n in expected {
            assert_eq!(self.count("/count"), *n, "{expected:?}");
        }
    }
}

fn an_instance_serves_as_many_as_it_may(mode: &str) {
    let server = Server::of(SERVER);
    let mut asked = Asked::new(mode, &server, "");
    asked.counts(&[1, 1, 1]);
    assert_eq!(instances(&asked.host), (3, 0));

    let mut asked =
        Asked::new(mode, &server, "requests-per-instance = 3\ninstance-idle = \"1m\"\n");
    asked.counts(&[1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(instances(&asked.host), (3, 4));
    // Bodies, and requests that it sends on, are no obstacle.
    asked.host.write("sent", pattern(1 << 20));
    let sent = format!("@{}", asked.host.path("sent").display());
    let sends_on = asked.ask("/there", &["--data-binary", &sent]);
    assert!(sends_on.0 == 200 && sends_on.1.contains("body: 1048576"), "{}", sends_on.1);
    asked.counts(&[2]);
    assert_eq!(instances(&asked.host), (3, 6));
    let socket = asked.host.path("api.sock");
    let (_, metrics) = curl(&["--unix-socket", socket.to_str().expect("text"), "http://x/metrics"]);
    let told = metrics.lines().any(|line| {
        line.starts_with("weir_function_instances_total{")
            && line.contains("instance=\"reused\"")
            && line.ends_with(" 6")
    });
    assert!(told, "{metrics}");

    // The chain goes before the manifest.
    let manifest = "requests-per-instance = 5\n";
    asked.host.write("probe.toml", manifest);
    let file = weir_tests::built::built_file("proxy-probe");
    let file = file.to_str().expect("text");
    let push = ["function", "push", file, "--name", "probe", "--version", "2.0.0"];
    asked.host.ok(&[&push[..], &["--manifest", "probe.toml"]].concat());
    asked.host.write("c.toml", chain("", "version = \"2.0.0\"\ninstance-idle = \"1m\"\n", ""));
    asked.host.ok(&["chain", "apply", "c.toml"]);
    asked.counts(&[1, 2, 3, 4, 5, 1]);
}

/// Without a fault: something broke off, or could not be had.
fn what_goes_wrong_is_the_end_of_an_instance(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "requests-per-instance = 100\ninstance-idle = \"1m\"\ndeadline = \"100ms\"\ntimeout = \"1500ms\"\nmemory = \"32MiB\"\n";
    let mut asked = Asked::new(mode, &server, keys);
    for path in ["/trap", "/spin", "/memory", "/silent"] {
        asked.counts(&[1, 2]);
        assert_eq!(asked.ask(path, &[]).0, 503, "{path}");
        let url = format!("{}/answer", asked.web);
        asked.host.wait_for("it is back", |_| curl(&[&url]).0 == 200);
        asked.counts(&[1]);
        // A new deployment forgets faults, and has instances of its own.
        asked.host.ok(&["chain", "apply", "c.toml"]);
    }
    for (path, status) in [("/error", 502), ("/sleep", 504)] {
        asked.counts(&[1, 2]);
        assert_eq!(asked.ask(path, &[]).0, status, "{path}");
        asked.counts(&[1]);
        asked.host.ok(&["chain", "apply", "c.toml"]);
    }
    // The client goes in the middle of a response.
    asked.counts(&[1]);
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "1", "--limit-rate", "1M", "--output", "/dev/null"]);
    let output = command.arg(format!("{}/big", asked.web)).output().expect("curl starts");
    assert_eq!(output.status.code(), Some(28), "{output:?}");
    asked
        .host
        .wait_for("it has ended", |host| probe(host)["verdicts"]["reset"].as_u64() >= Some(1));
    asked.counts(&[1, 2]);
    // The upstream is gone: it is told so, and answers.
    drop(server);
    assert_eq!(asked.ask("/there", &[]).0, 502);
    asked.counts(&[1, 2]);
}

fn what_it_keeps_is_the_end_of_an_instance(mode: &str) {
    let server = Server::of(SERVER);
    let keys = "requests-per-instance = 100\ninstance-idle = \"1m\"\nmemory = \"16MiB\"\n";
    let mut asked = Asked::new(mode, &server, keys);
    asked.counts(&[1]);
    // More memory, and nothing that is connected to anybody.
    assert_eq!(asked.count("/grow"), 2);
    asked.counts(&[1]);
    // A request without a body is but a number.
    assert_eq!(asked.count("/keep"), 2);
    asked.counts(&[3]);
    // One with a body is a connection that has not been read.
    let (status, text) = asked.ask("/keep", &["--data", "some text"]);
    assert!(status == 200 && text.ends_with("counted 4"), "{text}");
    asked.counts(&[1]);
}

fn no_instance_of_another_version_serves(mode: &str) {
    let server = Server::of(SERVER);
    let mut asked =
        Asked::new(mode, &server, "requests-per-instance = 100\ninstance-idle = \"1m\"\n");
    push(&asked.host, "1.1.0");
    asked.counts(&[1, 2]);
    asked.host.ok(&["function", "swap", "probe", "--to", "1.1.0"]);
    asked.counts(&[1, 2, 3]);
    asked.host.ok(&["function", "rollback", "probe"]);
    asked.counts(&[1, 2]);
    // A version that faults soon after its swap is taken back, and has nothing to go on with.
    asked.host.ok(&["function", "swap", "probe", "--to", "1.1.0"]);
    asked.counts(&[1]);
    assert_eq!(asked.ask("/trap", &[]).0, 503);
    asked.host.wait_for("the version before runs", |host| host.running() == "1.0.0");
    asked.counts(&[1, 2]);
    // A canary has its own; those of the version that runs stay.
    asked.host.ok(&["function", "swap", "probe", "--to", "1.1.0", "--canary", "99"]);
    asked.counts(&[1, 2]);
    asked.host.ok(&["function", "rollback", "probe"]);
    asked.counts(&[3]);
    asked.host.ok(&["function", "swap", "probe", "--to", "1.1.0", "--canary", "99"]);
    asked.counts(&[1]);
}

fn one_that_serves_nobody_leaves_after_a_while(mode: &str) {
    let server = Server::of(SERVER);
    let mut asked =
        Asked::new(mode, &server, "requests-per-instance = 100\ninstance-idle = \"200ms\"\n");
    asked.counts(&[1]);
    std::thread::sleep(Duration::from_millis(700));
    asked.counts(&[1]);
}

fn no_instance_serves_two_at_once(mode: &str) {
    const CLIENTS: u32 = 8;
    const EACH: u32 = 25;
    let server = Server::of(SERVER);
    let keys = "requests-per-instance = 7\ninstances = 3\ninstance-idle = \"1m\"\n";
    let mut asked = Asked::new(mode, &server, keys);
    let url = format!("{}/count", asked.web);
    let texts: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| (0..EACH).map(|_| curl(&[&url]).1).collect::<Vec<_>>()))
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("it asked")).collect()
    });
    let mut seen = BTreeMap::<u32, u64>::new();
    for text in &texts {
        let n = text.rsplit_once("counted ").and_then(|(_, n)| n.parse().ok());
        *seen.entry(n.unwrap_or_else(|| panic!("{text}"))).or_default() += 1;
    }
    let all = u64::from(CLIENTS * EACH);
    asked.host.wait_for("all have ended", |host| {
        let (made, reused) = instances(host);
        made + reused == all
    });
    // Each instance counts from 1, and none leaves out or says a number twice.
    let (made, reused) = instances(&asked.host);
    assert!(reused > made, "{made} {reused}");
    assert_eq!(seen[&1], made, "{seen:?}");
    let falls = seen.values().zip(seen.values().skip(1)).all(|(one, next)| one >= next);
    assert!(falls && seen.keys().all(|n| (1..=7).contains(n)), "{seen:?}");
}

fn one_in_python_keeps_its_state(mode: &str) {
    let built = Command::new(workspace().join("scripts/build-proxy-python")).status();
    assert!(built.expect("a shell").success(), "scripts/build-proxy-python failed");
    let file = workspace().join("target/functions/proxy-python.wasm");
    let server = Server::of(SERVER);
    let host = Host::start(&config(mode, "http", &[server.port]));
    host.ok(&["function", "push", file.to_str().expect("text"), "--name", "probe"]);
    let keys = "requests-per-instance = 100\ninstance-idle = \"1m\"\n";
    host.write("c.toml", chain("", keys, ""));
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    let mut asked = Asked { host, web };
    asked.counts(&[1, 2]);
    let (status, text) = asked.ask("/there", &["--data", "some text"]);
    assert!(status == 200 && text.contains("body: 9"), "{text}");
    asked.counts(&[3]);
    assert_eq!(instances(&asked.host), (1, 3));
}
