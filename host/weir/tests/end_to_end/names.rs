//! Upstreams that are named, with a DNS server of the test's own in a network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use weir_tests::lab::Namespace;

use crate::host::Host;

/// Says who it is; one for each address.
const SERVERS: &str = r#"
import http.server, socket, sys, threading
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer = self.server.server_address[0].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100
for address in sys.argv[1:]:
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    threading.Thread(target=Server((address, 8000), Answers).serve_forever).start()
print("ready", flush=True)
"#;

/// A program of the test's, ended with it.
struct Running(Child);

impl Running {
    fn start(namespace: &Namespace, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name(), program]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().expect("`ip` (package iproute2)"))
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("it lives");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the namespace's programs read in place of `/etc/resolv.conf`.
struct Resolver(PathBuf);

impl Resolver {
    fn of(namespace: &Namespace) -> Self {
        let directory = Path::new("/etc/netns").join(namespace.name());
        fs::create_dir_all(&directory).expect("a directory");
        let text = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        fs::write(directory.join("resolv.conf"), text).expect("a file");
        Self(directory)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn dns(namespace: &Namespace, records: &Path) -> Running {
    let records = format!("--addn-hosts={}", records.display());
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--local=/example/",
        &records,
    ];
    Running::start(namespace, "dnsmasq", &arguments)
}

#[test]
fn netns_the_addresses_of_a_name_are_members_that_come_and_go_while_requests_flow() {
    let namespace = Namespace::new("names");
    namespace.sh("ip link set lo up");
    let _resolver = Resolver::of(&namespace);
    let addresses = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "::1"];
    let mut servers =
        Running::start(&namespace, "python3", &[&["-c", SERVERS][..], &addresses].concat());
    let mut ready = [0; 5];
    let out = servers.0.stdout.as_mut().expect("it is piped");
    std::io::Read::read_exact(out, &mut ready).expect("they listen");

    // Nobody answers questions yet: the host starts all the same, and says so.
    let config = "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[[listener]]\nname = \"web\"\n\
                  address = \"127.0.0.1:8080\"\nprotocol = \"http\"\nresolve = \"200ms\"\nupstream = [\"api.example:8000\"]\n";
    let mut host = Host::start_in_namespace(namespace.name(), tempfile::tempdir().unwrap(), config);
    let upstream = |host: &Host| host.json(&["status"])["listeners"][0]["upstreams"][0].clone();
    let members = |host: &Host| -> Vec<String> {
        let upstream = upstream(host);
        let members = upstream["members"].as_array().expect("a list");
        members.iter().map(|m| m["address"].as_str().expect("text").to_owned()).collect()
    };
    // Who answered, of so many requests.
    let ask = |count: usize| -> Vec<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name(), "curl", "--silent", "--write-out"]);
        let url = format!("http://127.0.0.1:8080/[1-{count}]");
        let output = command.args([" %{http_code}\\n", &url]).output().expect("`ip`");
        let said = String::from_utf8(output.stdout).expect("text");
        said.lines().filter_map(|line| line.strip_suffix(" 200")).map(str::to_owned).collect()
    };
    host.wait_for("it says what is wrong", |host| {
        upstream(host)["problem"].as_str().is_some_and(|p| p.contains("api.example:8000"))
    });
    assert_eq!(upstream(&host)["healthy"], false);
    assert!(ask(1).is_empty());

    let records = host.path("records");
    let write = |text: &str| fs::write(&records, text).expect("a file");
    write("127.0.1.1 api.example\n127.0.1.2 api.example\n::1 api.example\n");
    let server = dns(&namespace, &records);
    host.wait_for("there are three", |host| members(host).len() == 3);
    assert!(upstream(&host)["problem"].is_null());
    let said = ask(30);
    for address in ["127.0.1.1", "127.0.1.2", "::1"] {
        let share = said.iter().filter(|said| *said == address).count();
        assert_eq!(share, 10, "{address}: {said:?}");
    }

    // Records change while requests flow, of which each is answered.
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = || {
            let mut count = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(ask(20).len(), 20, "each is answered");
                count += 20;
            }
            count
        };
        let loads: Vec<_> = (0..2).map(|_| scope.spawn(load)).collect();
        for (text, count) in [
            ("127.0.1.2 api.example\n127.0.1.3 api.example\n", 2),
            ("127.0.1.3 api.example\n", 1),
            ("127.0.1.1 api.example\n127.0.1.2 api.example\n127.0.1.3 api.example\n", 3),
            ("127.0.1.3 api.example\n127.0.1.2 api.example\n", 2),
        ] {
            write(text);
            server.signal(Signal::HUP);
            host.wait_for("they are others", |host| members(host).len() == count);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let all: Vec<usize> = loads.into_iter().map(|load| load.join().expect("good")).collect();
        assert!(all.iter().all(|count| *count > 0), "{all:?}");
    });
    let said = ask(10);
    assert!(
        said.len() == 10 && said.iter().all(|s| s == "127.0.1.2" || s == "127.0.1.3"),
        "{said:?}"
    );

    // Without a server, what was found last is kept. So it is when the name is no more.
    drop(server);
    let before = upstream(&host)["lookup_failures"].as_u64().unwrap();
    host.wait_for("it cannot be looked up", |host| {
        upstream(host)["lookup_failures"].as_u64() > Some(before)
    });
    assert_eq!((members(&host).len(), ask(10).len()), (2, 10));
    assert_eq!(upstream(&host)["healthy"], true);
    assert!(host.log().contains("cannot be looked up"), "{}", host.log());
    assert!(host.ok(&["status"]).contains("cannot be looked up"));
    let socket = host.path("api.sock");
    let metrics =
        namespace.sh(&format!("curl --silent --unix-socket {} http://x/metrics", socket.display()));
    assert!(metrics.contains("weir_upstream_lookup_failures_total{"), "{metrics}");
    let well =
        "weir_upstream_members{listener=\"web\",upstream=\"api.example:8000\",state=\"healthy\"} 2";
    assert!(metrics.contains(well), "{metrics}");
    write("127.0.1.1 other.example\n");
    let server = dns(&namespace, &records);
    let before = upstream(&host)["lookup_failures"].as_u64().unwrap();
    host.wait_for("it is no more", |host| {
        upstream(host)["lookup_failures"].as_u64() > Some(before + 2)
    });
    assert_eq!((members(&host).len(), ask(10).len()), (2, 10));
    write("127.0.1.1 api.example\n");
    server.signal(Signal::HUP);
    host.wait_for("it is there again", |host| members(host) == ["127.0.1.1:8000"]);
    assert!(upstream(&host)["problem"].is_null());
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
}
