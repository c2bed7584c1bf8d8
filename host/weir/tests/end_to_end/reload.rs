//! A configuration that is read again while requests come: listeners come, change and go.

use std::net::TcpStream;

use rustix::process::Signal;
use weir_tests::built::built_file;

use crate::host::Host;
use crate::messages::{Server, curl};

const CHAIN: &str = "name = \"web\"\nplane = \"message\"\n[[function]]\nuse = \"http-ratelimit\"\n[function.config]\n\
                     rules = [ { name = \"few\", rate = \"3/d\", path-prefix = \"/few\" } ]\n";

fn listener(name: &str, port: u16, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nprotocol = \"http\"\n{more}\n"
    )
}

fn config(mode: &str, listeners: &[String]) -> String {
    format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[gateway]\nmode = \"{mode}\"\n{}",
        listeners.concat()
    )
}

/// Has the host read this configuration; true if it took it.
fn read_again(host: &mut Host, config: &str) -> bool {
    // Each is told once.
    let outcomes = |host: &Host| {
        let log = host.log();
        let of = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        (of("the configuration was read again"), of("the configuration was not taken"))
    };
    let before = outcomes(host);
    host.write("weir.toml", config);
    host.signal(Signal::HUP);
    host.wait_for("it has read again", |host| outcomes(host) != before);
    let after = outcomes(host);
    assert_eq!(after.0 + after.1, before.0 + before.1 + 1, "{}", host.log());
    after.0 > before.0
}

fn listeners(host: &Host) -> Vec<(String, u16)> {
    let status = host.json(&["status"]);
    let all = status["listeners"].as_array().expect("listeners").iter();
    all.map(|listener| {
        let address = listener["addresses"][0].as_str().expect("an address");
        let (_, port) = address.rsplit_once(':').expect("a port");
        (listener["name"].as_str().expect("a name").to_owned(), port.parse().expect("a number"))
    })
    .collect()
}

fn get(port: u16, path: &str) -> (u16, String) {
    curl(&[&format!("http://127.0.0.1:{port}{path}")])
}

/// Whether this server answered.
fn by(answer: &(u16, String), server: &Server) -> bool {
    answer.0 == 200 && answer.1.contains(&format!("\"server\": {}", server.port))
}

#[test]
fn listeners_come_change_and_go_with_the_file() {
    let (one, two) = (Server::start(), Server::start());
    let to = |server: &Server| format!("upstream = [\"127.0.0.1:{}\"]", server.port);
    let with_chain = |server: &Server| format!("chain = \"web\"\n{}", to(server));
    // A host without listeners, which has no gateway yet.
    let mut host = Host::start(&config("thread", &[]));
    host.ok(&["function", "push", built_file("http-ratelimit").to_str().expect("text")]);
    host.write("web.toml", CHAIN);
    host.ok(&["chain", "apply", "web.toml"]);
    let web = listener("web", 0, &with_chain(&one));
    assert!(read_again(&mut host, &config("thread", std::slice::from_ref(&web))), "{}", host.log());
    let port = listeners(&host)[0].1;
    for _ in 0..2 {
        let answer = get(port, "/few");
        assert!(by(&answer, &one), "{answer:?}");
    }

    // Another upstream. The socket stays, and what the function knew: one more, and no other.
    let web = listener("web", 0, &with_chain(&two));
    let plain = listener("plain", 0, &to(&one));
    assert!(read_again(&mut host, &config("thread", &[web.clone(), plain])), "{}", host.log());
    let now = listeners(&host);
    assert_eq!(now[0], ("web".to_owned(), port));
    let answer = get(port, "/few");
    assert!(by(&answer, &two), "{answer:?}");
    assert_eq!(get(port, "/few").0, 429);
    // Counters reach the host ten times a second, with the next request.
    host.wait_for("its counters go on", |host| {
        get(port, "/");
        let status = host.json(&["status"]);
        let counters = &status["chains"][0]["functions"][0]["counters"];
        counters["limited"] == 1 && counters["allowed"].as_u64().is_some_and(|n| n >= 3)
    });
    let (name, other) = &now[1];
    assert_eq!(name, "plain");
    assert!(by(&get(*other, "/"), &one));

    // A listener that cannot be had: nothing changes, not even what could, and did.
    let changed =
        [listener("web", 0, &with_chain(&one)), listener("no", two.port, &with_chain(&one))];
    assert!(!read_again(&mut host, &config("thread", &changed)));
    assert!(host.log().contains(&format!("cannot listen at 127.0.0.1:{}", two.port)));
    // With its place, and what to do.
    let problem = host.json(&["status"])["config_problem"].to_string();
    for part in ["listeners are as they were", "weir.toml:", "key: listener[1].address", "ss -ltnp"]
    {
        assert!(problem.contains(part), "{problem}");
    }
    let tls = "[[listener.tls]]\ncertificate = \"no.pem\"\nkey = \"no.key\"";
    let no = listener("no", 0, &format!("{}\n{tls}", with_chain(&one)));
    assert!(!read_again(&mut host, &config("thread", &[web.clone(), no])));
    let problem = host.json(&["status"])["config_problem"].to_string();
    assert!(problem.contains("key: listener[1].tls[0].certificate"), "{problem}");
    assert_eq!(listeners(&host), now);
    assert!(by(&get(port, "/"), &two) && by(&get(*other, "/"), &one));
    assert_eq!(get(port, "/few").0, 429);

    // Another name for a listener: the same address.
    let plain = listener("renamed", *other, &to(&one));
    let renamed = [listener("web", 0, &with_chain(&two)), plain];
    assert!(read_again(&mut host, &config("thread", &renamed)), "{}", host.log());
    assert_eq!(listeners(&host)[1], ("renamed".to_owned(), *other));
    assert!(by(&get(*other, "/"), &one));

    // While a version is being tried, its chain has the listeners that it has.
    host.ok(&[
        "function",
        "push",
        built_file("http-ratelimit").to_str().expect("text"),
        "--version",
        "9.0.0",
    ]);
    host.ok(&["function", "swap", "http-ratelimit", "--to", "9.0.0", "--shadow"]);
    assert!(!read_again(&mut host, &config("thread", &[listener("web", 0, &with_chain(&one))])));
    assert!(host.log().contains("a version is being tried in chain web"), "{}", host.log());
    assert!(by(&get(port, "/"), &two));
    host.ok(&["function", "rollback", "http-ratelimit"]);

    // One goes; what waits for the next start is named, and the rest of the file holds.
    let more = format!("[pool]\nrooms = 128\n{}", listener("web", 0, &with_chain(&one)));
    assert!(read_again(&mut host, &config("thread", &[more])), "{}", host.log());
    assert!(by(&get(port, "/"), &one));
    host.wait_for("its socket is closed", |_| TcpStream::connect(("127.0.0.1", *other)).is_err());
    assert_eq!(listeners(&host).len(), 1);
    assert!(host.log().contains("was read again; not taken: [pool]"), "{}", host.log());
    let events = host.ok(&["events"]);
    assert!(events.contains("was read again; not taken: [pool]"), "{events}");
}

#[test]
fn in_processes_listeners_follow_the_file() {
    let (one, two) = (Server::start(), Server::start());
    let web = |server: &Server| {
        listener("web", 0, &format!("chain = \"web\"\nupstream = [\"127.0.0.1:{}\"]", server.port))
    };
    let mut host = Host::start(&config("process", &[web(&one)]));
    host.ok(&["function", "push", built_file("http-ratelimit").to_str().expect("text")]);
    host.write("web.toml", CHAIN);
    host.ok(&["chain", "apply", "web.toml"]);
    let port = listeners(&host)[0].1;
    for _ in 0..3 {
        assert!(by(&get(port, "/few"), &one));
    }
    // What cannot be had leaves the process that there is, and what it knows.
    let processes = host.children();
    let no = listener("no", two.port, &format!("upstream = [\"127.0.0.1:{}\"]", one.port));
    assert!(!read_again(&mut host, &config("process", &[web(&two), no])));
    assert_eq!(host.children(), processes);
    assert_eq!(get(port, "/few").0, 429);
    assert!(read_again(&mut host, &config("process", &[web(&two)])), "{}", host.log());
    let answer = get(port, "/few");
    assert!(by(&answer, &two), "{answer:?}");
    // The process of before ends with its last exchange. Whoever took its place counts on, what
    // nobody has asked it for, too.
    host.wait_for("there is one process", |host| host.children().len() == 1);
    host.wait_for("all that was counted is there", |host| {
        let chain = host.json(&["status"])["chains"][0].clone();
        let function = &chain["functions"][0];
        chain["packets_in"] == 5 && chain["packets_out"] == 5 && function["verdicts"]["answer"] == 1
    });
}
