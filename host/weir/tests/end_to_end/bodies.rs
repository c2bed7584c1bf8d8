//! Large bodies through functions that look at every byte: whole, in both directions and framings,
//! and held back by whoever is slow.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use weir_tests::built::built_file;

use crate::host::Host;
use crate::messages::{Server, address, curl};
use crate::proxies::{SERVER, holds_back, pattern, peak, transferred};

/// A host with two functions that count bytes and lines. `gateway`: lines of its table.
fn host(server: &Server, gateway: &str) -> (Host, String) {
    let host = Host::start(&format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\n{gateway}\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nchain = \"web\"\n\
         upstream = [\"127.0.0.1:{}\"]\n",
        server.port
    ));
    let file = built_file("body-probe");
    host.ok(&["function", "push", file.to_str().expect("text")]);
    let function = |name| format!("[[function]]\nuse = \"body-probe\"\nname = \"{name}\"\n");
    let chain = format!("name = \"web\"\nplane = \"message\"\n{}{}", function("a"), function("b"));
    host.write("c.toml", chain);
    host.ok(&["chain", "apply", "c.toml"]);
    let web = format!("http://{}", address(&host, 0));
    (host, web)
}

/// What a function has counted.
fn counted(host: &Host, function: &str, counter: &str) -> u64 {
    let status = host.json(&["status"]);
    let functions = status["chains"][0]["functions"].as_array().expect("a list").clone();
    let function = functions.into_iter().find(|found| found["name"] == function);
    function.expect("it is there")["counters"][counter].as_u64().unwrap_or(0)
}

#[test]
fn every_byte_passes_and_is_seen_in_both_directions() {
    whole("mode = \"thread\"");
}

#[test]
fn in_processes_every_byte_passes_and_is_seen_in_both_directions() {
    whole("mode = \"process\"");
}

fn whole(gateway: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(&server, gateway);
    let bytes = pattern(5_000_001);
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    fs::write(host.path("sent"), &bytes).expect("a file");
    let mut times = 0;
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        for chunked in [true, false] {
            let (sent, got) = (host.path("sent"), host.path("got"));
            let mut command = Command::new("curl");
            command.args([protocol, "--silent", "--show-error", "--fail", "--max-time", "60"]);
            if chunked {
                command.args(["--header", "transfer-encoding: chunked"]);
            }
            command.arg("--data-binary").arg(format!("@{}", sent.display()));
            command.arg("--output").arg(&got).arg(format!("{web}/echo"));
            let output = command.output().expect("curl starts");
            assert!(output.status.success(), "{output:?}");
            assert!(fs::read(&got).expect("it is there") == bytes, "{protocol} {chunked}");
            times += 2;
        }
    }
    let all = (times * bytes.len() as u64, times * lines);
    for function in ["a", "b"] {
        host.wait_for("all is counted", |host| {
            (counted(host, function, "bytes"), counted(host, function, "lines")) == all
        });
    }
}

#[test]
fn whoever_is_slow_holds_bodies_back_instead_of_filling_memory() {
    held_back("mode = \"thread\"");
}

#[test]
fn in_processes_whoever_is_slow_holds_bodies_back_instead_of_filling_memory() {
    held_back("mode = \"process\"");
}

fn held_back(gateway: &str) {
    const BOUND: u64 = 16 << 20;
    let server = Server::of(SERVER);
    let (host, web) = host(&server, gateway);
    let warm = transferred(&format!("{web}/warm"), &["--max-time", "20"]);
    assert_eq!(warm.0, Some(0));
    let most = peak(&host) + BOUND;
    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        holds_back(&host, &web, &[protocol], "3", most);
    }
}

#[test]
fn clients_that_take_nothing_do_not_take_the_rooms_of_others() {
    rooms_of_others("mode = \"thread\"");
}

#[test]
fn in_processes_clients_that_take_nothing_do_not_take_the_rooms_of_others() {
    rooms_of_others("mode = \"process\"");
}

fn rooms_of_others(gateway: &str) {
    let server = Server::of(SERVER);
    let (mut host, web) = host(&server, &format!("{gateway}\nrooms = 16"));
    let address = address(&host, 0);
    let mut idle: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    for stream in &mut idle {
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is sent");
    }
    // All have as much as the kernel and the gateway keep for them, and nothing moves any more.
    let mut seen = 0;
    host.wait_for("nothing moves", |host| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = counted(host, "a", "bytes");
        std::mem::replace(&mut seen, now) == now && now > 40 << 16
    });
    for _ in 0..10 {
        let (status, text) = curl(&["--data", "some text", &format!("{web}/others")]);
        assert!(status == 200 && text.contains("body: 9"), "{text}");
    }
    let status = host.json(&["status"]);
    let drops = &status["chains"][0]["drops"];
    assert_eq!(drops["pool-exhausted"], serde_json::Value::Null, "somebody found no room: {drops}");
    // Those that took nothing were not cut off.
    for stream in &mut idle {
        let mut some = vec![0; 4 << 20];
        stream.read_exact(&mut some).expect("there is more");
    }
}
