//! Starting, reloading and ending a host.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::guests::{self, pass, slow_to_compile, slow_to_configure};
use crate::host::{Host, WEIR, weir};
use crate::messages::address;

/// A host with its socket and store in its directory.
const CONFIG: &str = "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n";

#[test]
fn sigterm_ends_a_host_with_status_0_and_its_socket_is_gone() {
    let host = Host::start(CONFIG);
    let mode = fs::metadata(host.path("api.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the host's user may open the socket");
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert!(log.contains("drained"), "{log}");
    assert!(!directory.path().join("api.sock").exists());
}

#[test]
fn a_host_may_open_as_many_files_as_its_administrator_allows() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = [\"127.0.0.1:9\"]\n\
                    [listener.limits]\nconnections = 500\n";
    let host = Host::start(&format!("{CONFIG}{listener}"));
    let limits = host.kernel_says("limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = files.split_whitespace();
    let (soft, hard) = (words.next(), words.next());
    assert_eq!(soft, hard, "a thousand chains have some files open each");
    // It says what that is too few for; and then that there is another host.
    let few = Command::new("sh")
        .args(["-c", "ulimit -Hn 2000 && exec \"$0\" run", WEIR])
        .current_dir(host.directory.path())
        .output()
        .unwrap();
    let told = String::from_utf8(few.stderr).unwrap();
    assert!(told.contains("at most 2000 files can be open"), "{told}");
}

#[test]
fn whoever_follows_events_does_not_hold_up_the_end() {
    let host = Host::start(CONFIG);
    let mut stream = UnixStream::connect(host.path("api.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: weir\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.any(|line| line.unwrap() == "event: started"));
    let begun = Instant::now();
    let (status, _, log) = host.end(Signal::INT);
    assert!(status.success(), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let told: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(told.iter().any(|line| line == "event: draining"), "{told:?}");
}

#[test]
fn a_second_host_is_refused_and_the_first_lives_on() {
    let host = Host::start(CONFIG);
    let second = weir(host.directory.path(), &["run"]);
    assert_eq!(second.status, Some(1));
    assert!(second.err.contains("is in use by another host (process "), "{}", second.err);
    host.write("other.toml", CONFIG.replace("store\"", "other\""));
    let second = weir(host.directory.path(), &["run", "--config", "other.toml"]);
    assert_eq!(second.status, Some(1));
    assert!(second.err.contains("api.sock is in use by another host"), "{}", second.err);
    host.ok(&["status"]);
}

#[test]
fn what_a_dead_host_left_behind_is_replaced_and_what_is_no_socket_is_not() {
    let directory = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(directory.path().join("api.sock")).unwrap());
    let host = Host::start_in(directory, CONFIG);
    host.ok(&["status"]);
    let (_, directory, _) = host.end(Signal::KILL);
    fs::remove_file(directory.path().join("api.sock")).unwrap();
    fs::write(directory.path().join("api.sock"), "mine").unwrap();
    let answer = weir(directory.path(), &["run"]);
    assert_eq!(answer.status, Some(1));
    assert!(answer.err.contains("is there and is no socket"), "{}", answer.err);
    assert_eq!(fs::read(directory.path().join("api.sock")).unwrap(), b"mine");
}

#[test]
fn sighup_takes_new_tokens_and_refuses_a_wrong_file() {
    let token = |text: &str| {
        format!(
            "[api]\nsocket = \"api.sock\"\nlisten = \"127.0.0.1:0\"\n[[api.token]]\nname = \"ops\"\n\
             token = \"{text}\"\nrole = \"admin\"\n[store]\npath = \"store\"\n"
        )
    };
    let mut host = Host::start(&token("0123456789abcdef-old"));
    host.wait_for("it says its address", |host| host.log().contains("address="));
    let log = host.log();
    let address = log.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = format!("http://{address}");
    let status = |token: &str| {
        weir(host.directory.path(), &["--api", &url, "--token", token, "status"]).status
    };
    assert_eq!(status("0123456789abcdef-old"), Some(0));
    assert_eq!(status("0123456789abcdef-new"), Some(1));
    let bare = weir(host.directory.path(), &["--api", &url, "status"]);
    assert_eq!(bare.status, Some(1));
    assert!(bare.err.contains("token"), "{}", bare.err);
    let follows = Command::new(WEIR)
        .args(["--api", &url, "--token", "0123456789abcdef-old", "events", "--follow"])
        .current_dir(host.directory.path())
        .stdout(fs::File::create(host.path("followed")).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    host.wait_for("its events are followed", |host| {
        fs::read_to_string(host.path("followed")).unwrap().contains("started")
    });
    host.write("weir.toml", token("0123456789abcdef-new"));
    host.signal(Signal::HUP);
    host.wait_for("it has read again", |host| host.log().contains("was read again"));
    let status = |token: &str| {
        weir(host.directory.path(), &["--api", &url, "--token", token, "status"]).status
    };
    assert_eq!(status("0123456789abcdef-old"), Some(1));
    assert_eq!(status("0123456789abcdef-new"), Some(0));
    let followed = follows.wait_with_output().unwrap();
    let told = String::from_utf8(followed.stderr).unwrap();
    assert_eq!(followed.status.code(), Some(1), "{told}");
    let expected = "error: the host has ended the stream: it does not know the token any more\n";
    assert_eq!(told, expected);
    host.write("weir.toml", "nonsense = 1\n");
    host.signal(Signal::HUP);
    host.wait_for("it has refused", |host| host.log().contains("unknown key `nonsense`"));
    let status =
        weir(host.directory.path(), &["--api", &url, "--token", "0123456789abcdef-new", "status"]);
    assert_eq!(status.status, Some(0));
    // It is told to those who do not read the log, too.
    let told = "the configuration is not in force as it is written: unknown key `nonsense`";
    assert!(status.out.contains(told), "{}", status.out);
    assert!(host.ok(&["events"]).contains("reload-refused"));
    // A file that is away for a moment does not stand for the defaults, which know no tokens.
    fs::rename(host.path("weir.toml"), host.path("away.toml")).unwrap();
    host.signal(Signal::HUP);
    host.wait_for("it has refused", |host| host.log().contains("cannot read the file"));
    let status =
        weir(host.directory.path(), &["--api", &url, "--token", "0123456789abcdef-new", "status"]);
    assert_eq!(status.status, Some(0));
}

/// It finds out before it touches anything, also when the socket of the first is not there any
/// more.
#[test]
fn a_host_whose_socket_another_one_has_does_not_start() {
    let first = Host::start(CONFIG);
    let directory = tempfile::tempdir().unwrap();
    let socket = first.path("api.sock").display().to_string();
    fs::write(directory.path().join("weir.toml"), CONFIG.replace("api.sock", &socket)).unwrap();
    fs::remove_file(&socket).unwrap();
    let second = weir(directory.path(), &["run"]);
    assert_eq!(second.status, Some(1));
    assert!(second.err.contains("api.sock is in use by another host"), "{}", second.err);
}

/// A SIGHUP has listeners wait for a change that takes long; the next one takes a token away
/// meanwhile.
#[test]
fn a_token_is_taken_away_at_once_whatever_is_being_changed() {
    let file = |token: &str, upstream: u16| {
        format!(
            "[api]\nsocket = \"api.sock\"\nlisten = \"127.0.0.1:0\"\n[[api.token]]\nname = \"beta\"\n\
             token = \"{token}\"\nrole = \"viewer\"\ntenant = \"beta\"\n[store]\npath = \"store\"\n\
             [[listener]]\nname = \"web\"\ntenant = \"acme\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             upstream = [\"127.0.0.1:{upstream}\"]\n"
        )
    };
    let mut host = Host::start(&file("0123456789abcdef-old", 9));
    host.wait_for("it says its address", |host| host.log().contains("address="));
    let log = host.log();
    let address = log.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = format!("http://{address}");
    host.write("f.wasm", slow_to_configure());
    host.ok(&["--tenant", "acme", "function", "push", "f.wasm", "--name", "gate"]);
    let function = |n: u32| format!("[[function]]\nuse = \"gate\"\nname = \"gate{n}\"\n");
    let functions: String = (0..8).map(function).collect();
    host.write("slow.toml", format!("name = \"slow\"\n{functions}"));
    let ticks = |host: &Host| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", host.pid())).unwrap();
        let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.nth(11).unwrap().parse::<u64>().unwrap()
    };
    let before = ticks(&host);
    let mut applying = Command::new(WEIR)
        .args(["--api", "unix:api.sock", "--tenant", "acme", "chain", "apply", "slow.toml"])
        .current_dir(host.directory.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    host.wait_for("it configures", |host| ticks(host) > before + 30);
    host.write("weir.toml", file("0123456789abcdef-old", 10));
    host.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    host.write("weir.toml", file("0123456789abcdef-new", 10));
    host.signal(Signal::HUP);
    let knows = |host: &Host, token: &str| {
        let asks = ["--api", &url, "--token", token, "status"];
        weir(host.directory.path(), &asks).status == Some(0)
    };
    host.wait_for("the old token is gone", |host| !knows(host, "0123456789abcdef-old"));
    assert!(knows(&host, "0123456789abcdef-new"));
    let log = host.log();
    assert!(!log.contains("the configuration was"), "the listeners had not to wait:\n{log}");
    // Both are told when it is over, in their order.
    assert!(applying.wait().unwrap().success());
    let read = |host: &Host| host.log().matches("the configuration was read again").count();
    host.wait_for("both are taken", |host| read(host) == 2);
}

#[test]
fn the_api_and_signals_do_not_wait_for_chains_that_are_slow_to_come_back() {
    let host = Host::start(guests::TRAFFIC);
    guests::push(&host, "1.0.0", &slow_to_configure());
    let one = |n: u32| format!("[[function]]\nuse = \"gate\"\nname = \"gate{n}\"\n");
    host.write("slow.toml", format!("name = \"slow\"\n{}{}", one(1), one(2)));
    host.ok(&["chain", "apply", "slow.toml"]);
    let (_, directory, _) = host.end(Signal::KILL);
    let mut host = Host::begin_in(directory, guests::TRAFFIC);
    let mut first = None;
    host.wait_for("the API answers", |host| {
        let answer = host.weir(&["--output", "json", "status"]);
        let status = || serde_json::from_str::<serde_json::Value>(&answer.out).unwrap();
        first = (answer.status == Some(0)).then(status);
        first.is_some()
    });
    let why = "it is not deployed yet: the host is starting";
    assert_eq!(first.unwrap()["failed"], json!({ "default/slow": why }));
    host.wait_for("it is ready", |host| host.log().contains("ready"));
    assert_eq!(host.json(&["status"])["failed"], json!({}));
    // Told to stop before it is ready it stops in order.
    let (_, directory, _) = host.end(Signal::KILL);
    let mut host = Host::begin_in(directory, guests::TRAFFIC);
    host.wait_for("it starts", |host| host.weir(&["status"]).status == Some(0));
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert!(log.contains("drained"), "{log}");
}

/// A host with an upload that compiles, by a process with this number.
fn compiling() -> (Host, i32) {
    let mut host = Host::start(&CONFIG.replace("[store]", "compile-timeout = \"10m\"\n[store]"));
    host.write("slow.wasm", slow_to_compile(1));
    let directory = host.directory.path().to_owned();
    // It is told that the connection broke, if there is still somebody to be told.
    std::thread::spawn(move || {
        weir(
            &directory,
            &["--api", "unix:api.sock", "function", "push", "slow.wasm", "--name", "slow"],
        )
    });
    // One has looked at it before.
    let compiler = |host: &Host| {
        let compiles = |child: &String| {
            let words = fs::read_to_string(format!("/proc/{child}/cmdline"));
            words.is_ok_and(|words| words.contains("__compile"))
        };
        host.children().into_iter().find(compiles)
    };
    host.wait_for("it compiles", |host| compiler(host).is_some());
    let compiler = compiler(&host).expect("it takes minutes").parse().unwrap();
    (host, compiler)
}

/// Whether this process is still there; it is ended.
fn was_there(process: i32) -> bool {
    let was_there = Path::new(&format!("/proc/{process}")).exists();
    // It may end by itself.
    let _ = kill_process(Pid::from_raw(process).unwrap(), Signal::KILL);
    was_there
}

#[test]
fn an_upload_that_compiles_does_not_hold_up_the_end() {
    let (host, compiler) = compiling();
    let (status, _, log) = host.end(Signal::TERM);
    assert!(was_there(compiler), "it was waited for:\n{log}");
    assert!(status.success(), "{log}");
    assert!(log.contains("still under way are cut off"), "{log}");
}

#[test]
fn a_second_signal_ends_a_host_at_once() {
    let (mut host, compiler) = compiling();
    host.signal(Signal::TERM);
    // Now it waits some seconds for the request.
    host.wait_for("it stops", |host| host.log().contains("drained"));
    let (status, _, log) = host.end(Signal::TERM);
    assert!(was_there(compiler), "it was waited for:\n{log}");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("stopped before requests under way were answered"), "{log}");
}

#[test]
fn a_client_that_stays_leaves_packet_chains_time_to_end() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut host = Host::start(&format!(
        "{}[[listener]]\nname = \"raw\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = [\"{}\"]\n",
        guests::TRAFFIC,
        upstream.local_addr().unwrap()
    ));
    guests::deploy(&host, "1.0.0", &pass(1));
    let mut client = TcpStream::connect(address(&host, 0)).unwrap();
    client.write_all(b"hello").unwrap();
    let server = upstream.accept().unwrap();
    host.wait_for("it has a client", |host| host.json(&["status"])["listeners"][0]["open"] == 1);
    let (status, _, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert!(log.contains("drained chains=1"), "{log}");
    assert!(!log.contains("in time"), "{log}");
    drop((client, server));
}

/// What systemd sees of a service with `Type=notify`.
#[test]
fn a_service_manager_is_told_when_the_host_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(directory.path().join("notify.sock")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = || {
        let mut text = [0; 128];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let socket = [("NOTIFY_SOCKET", "notify.sock")];
    let host = Host::start_with(directory, CONFIG, &socket);
    assert_eq!(told(), "READY=1");
    host.ok(&["status"]);
    let (status, directory, log) = host.end(Signal::TERM);
    assert!(status.success(), "{log}");
    assert_eq!(told(), "STOPPING=1");
    let without = format!("{CONFIG}[[port]]\nname = \"in\"\nkind = \"pcap\"\nfile = \"no.pcap\"\n");
    let _host = Host::start_with(directory, &without, &socket);
    assert_eq!(told(), "READY=1\nSTATUS=started without ports that were down: in");
}

#[test]
fn a_configuration_is_checked_beside_a_running_host_and_starts_nothing() {
    let host = Host::start(CONFIG);
    let check = |arguments: &[&str]| {
        weir(host.directory.path(), &[&["run", "--check"], arguments].concat())
    };
    let answer = check(&[]);
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), "weir.toml: all right\n"));
    host.write("wrong.toml", "[workers]\ncores = [0, 1000]\n");
    let answer = check(&["--config", "wrong.toml"]);
    assert_eq!((answer.status, answer.out.as_str()), (Some(1), ""));
    assert!(answer.err.contains(" --> wrong.toml:2:13"), "{}", answer.err);
    assert!(answer.err.contains("= key: workers.cores[1]\n  = allowed here: "), "{}", answer.err);
    let token = "[[api.token]]\nname = \"a\"\nrole = \"admin\"\ntoken-file = \"none\"\n";
    host.write("wrong.toml", token);
    let answer = check(&["--config", "wrong.toml"]);
    assert!(answer.err.contains("cannot read none: "), "{}", answer.err);
    assert!(answer.err.contains(" --> wrong.toml:4:14"), "{}", answer.err);
    // What a host with it would find at its start.
    let long = "x".repeat(120);
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = [\"127.0.0.1:1\"]\n";
    for (text, place, key, part) in [
        (format!("[api]\nsocket = \"{long}\"\n"), "2:10", "api.socket", "has 120 bytes"),
        ("[store]\npath = \"weir.toml/s\"\n".into(), "2:8", "store.path", "weir.toml/s"),
        (
            format!("{listener}[[listener.tls]]\ncertificate = \"no.pem\"\nkey = \"no.key\"\n"),
            "7:15",
            "listener[0].tls[0].certificate",
            "no.pem: cannot be read: No such file",
        ),
    ] {
        let store = if text.contains("[store]") { "" } else { "[store]\npath = \"store\"\n" };
        host.write("wrong.toml", format!("{text}{store}"));
        let answer = check(&["--config", "wrong.toml", "--output", "json"]);
        assert_eq!(answer.status, Some(1), "{text}");
        for part in [format!(" --> wrong.toml:{place}"), format!("= key: {key}"), part.into()] {
            assert!(answer.err.contains(&part), "{part}: {}", answer.err);
        }
        let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        assert_eq!(report["accepted"], false);
        assert_eq!(report["problem"]["key"], key);
    }
    let report = |arguments: &[&str]| -> serde_json::Value {
        let answer = check(&[&["--output", "json"], arguments].concat());
        assert_eq!(answer.status, Some(0), "{}", answer.err);
        serde_json::from_str(&answer.out).unwrap()
    };
    let right = report(&[]);
    assert_eq!((&right["accepted"], &right["file"]), (&true.into(), &"weir.toml".into()));
    assert_eq!(right["down"], json!([]));
    // With what is not there it would start.
    let ports = "[[port]]\nname = \"in\"\nkind = \"pcap\"\nfile = \"no.pcap\"\n\
                 [[port]]\nname = \"out\"\nkind = \"xdp\"\ninterface = \"weir-none\"\n";
    host.write("away.toml", format!("[store]\npath = \"store\"\n{ports}"));
    let away = report(&["--config", "away.toml"]);
    assert_eq!(away["accepted"], true);
    for (place, line, key, part) in [
        (0, 6, "port[0].file", "port in: cannot open the capture no.pcap"),
        (1, 10, "port[1].interface", "port out: there is no interface weir-none"),
    ] {
        let port = &away["down"][place];
        assert_eq!((&port["line"], &port["key"]), (&line.into(), &key.into()), "{away}");
        assert!(port["message"].as_str().is_some_and(|text| text.starts_with(part)), "{away}");
    }
    host.ok(&["status"]);
}
