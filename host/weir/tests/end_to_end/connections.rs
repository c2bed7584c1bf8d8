//! Connections that carry requests, and the functions for connections that know of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use weir_tests::built::built_file;
use weir_tests::wat_guest::for_connections;

use crate::host::Host;
use crate::messages::{Server, address, curl};
use crate::proxies::{REWRITE, SERVER, begin, chain, config, in_both_modes};

in_both_modes! {
    who_is_out_of_order_ends_them_only_if_nothing_may_go_past_it,
    they_end_with_their_next_response_when_the_chain_has_changed,
    bodies_of_their_requests_keep_their_length,
}

/// `opened` and `data`.
const ALL: u32 = 96;

fn apply(host: &Host, functions: &str) {
    host.write("c.toml", format!("name = \"web\"\n{functions}"));
    host.ok(&["chain", "apply", "c.toml"]);
}

fn push_policy(host: &Host) {
    host.ok(&["function", "push", built_file("tcp-policy").to_str().expect("text")]);
}

fn who_is_out_of_order_ends_them_only_if_nothing_may_go_past_it(mode: &str) {
    let server = Server::start();
    let host = Host::start(&config(mode, "http", &[server.port]));
    host.write("door.wasm", for_connections(ALL, "(unreachable)"));
    host.ok(&["function", "push", "door.wasm", "--name", "door"]);
    let url = format!("http://{}/x", address(&host, 0));
    let status_of = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--output", "/dev/null"]);
        let output = curl.args(["--write-out", "%{http_code}", url]).output();
        String::from_utf8(output.expect("curl starts").stdout).expect("text")
    };
    for (on_fault, status) in [("fail-open", "200"), ("fail-closed", "000")] {
        apply(&host, &format!("[[function]]\nuse = \"door\"\non-fault = \"{on_fault}\"\n"));
        // It faults, and then is out of order.
        for _ in 0..4 {
            assert_eq!(status_of(&url), status, "{on_fault}");
        }
        let function = &host.json(&["status"])["chains"][0]["functions"][0];
        assert!(function["faults"].as_u64() >= Some(1), "{function}");
    }
}

/// A request by this connection: whether the response says that it is the last one.
fn ask(stream: &mut TcpStream) -> bool {
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length = length.and_then(|length| length.parse().ok()).expect("a length");
    stream.read_exact(&mut vec![0; length]).expect("a body");
    head.contains("connection: close")
}

fn they_end_with_their_next_response_when_the_chain_has_changed(mode: &str) {
    let server = Server::start();
    let mut host = Host::start(&config(mode, "http", &[server.port]));
    push_policy(&host);
    let policy = |concurrent: u32| {
        format!("[[function]]\nuse = \"tcp-policy\"\nconfig.limits.concurrent = {concurrent}\n")
    };
    apply(&host, &policy(10));
    let connect = |host: &Host| {
        let stream = TcpStream::connect(address(host, 0)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        stream
    };
    let mut all = [connect(&host), connect(&host)];
    assert!(all.iter_mut().all(|stream| !ask(stream) && !ask(stream)));
    apply(&host, &policy(11));
    for stream in &mut all {
        // In a process it is heard of a little later.
        host.wait_for("it ends", |_| ask(stream));
        assert_eq!(stream.read(&mut [0]).expect("no reset"), 0);
    }
    let mut new = connect(&host);
    assert!(!ask(&mut new) && !ask(&mut new));
    // Their requests are what is counted, and as many have ended.
    host.wait_for("none is under way", |host| {
        let chain = &host.json(&["status"])["chains"][0];
        let requests = host.json(&["status"])["listeners"][0]["requests"].clone();
        chain["packets_in"] == requests && chain["packets_out"] == requests
    });
}

fn bodies_of_their_requests_keep_their_length(mode: &str) {
    let server = Server::of(SERVER);
    let host = Host::start(&config(mode, "http", &[server.port]));
    push_policy(&host);
    // It wants bytes, of other connections.
    let policy = "[[function]]\nuse = \"tcp-policy\"\n[function.config]\nrules = [ { action = \"allow\", client = [\"127.0.0.0/8\"] }, \
                  { action = \"deny\", protocol = [\"ssh\"] } ]\n";
    let web = begin(&host, &chain(&format!("{policy}{REWRITE}"), "", ""));
    let (status, text) = curl(&["--data", "some text", &format!("{web}/there")]);
    assert!(status == 200 && text.contains("body: 9"), "{text}");
    assert!(text.contains("sent-content-length: 9"), "{text}");
}
