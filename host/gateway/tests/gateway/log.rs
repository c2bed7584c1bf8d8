//! The log of requests.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use weir_gateway::Protocol;

use crate::support::{self, Server, curl, curl_text, gateway_with, until};

/// The file's lines, each of which must be whole.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn wait_for(file: &Path, count: usize) -> Vec<Value> {
    until("they are written down", || lines(file).len() >= count);
    lines(file)
}

#[test]
fn each_request_is_a_line_that_says_what_curl_saw() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    let server = Server::echo();
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let url = format!("http://{address}/a?b=%22");
    let out = "%{local_port} %{size_download} %{response_code} %{time_total}";
    let seen = curl_text(&[
        "-o",
        "/dev/null",
        "-w",
        out,
        "-A",
        "quote\"d",
        "-e",
        "http://before/",
        "-d",
        "twelve bytes",
        &url,
    ]);
    let seen: Vec<&str> = seen.split(' ').collect();
    curl_text(&["--http2-prior-knowledge", "-I", &url]);
    let lines = wait_for(&file, 2);
    let (post, head) = (&lines[0], &lines[1]);
    assert_eq!(post["client"], format!("127.0.0.1:{}", seen[0]));
    assert_eq!(post["sent"].to_string(), seen[1]);
    assert_eq!(post["status"].to_string(), seen[2]);
    let (total, ours) = (seen[3].parse::<f64>().unwrap(), post["seconds"].as_f64().unwrap());
    let to_head = post["head-seconds"].as_f64().unwrap();
    assert!(0.0 < to_head && to_head <= ours && ours < total, "{post} {total}");
    assert_eq!(post["received"], 12);
    for (key, value) in [
        ("listener", "test"),
        ("method", "POST"),
        ("target", "/a?b=%22"),
        ("protocol", "HTTP/1.1"),
        ("host", &address.to_string()),
        ("user-agent", "quote\"d"),
        ("referer", "http://before/"),
        ("upstream", &server.address.to_string()),
        ("ended", "delivered"),
    ] {
        assert_eq!(post[key], value, "{key}: {post}");
    }
    assert!(post.get("failure").is_none() && head.get("referer").is_none(), "{lines:?}");
    let time = humantime::parse_rfc3339(post["time"].as_str().unwrap()).unwrap();
    assert!(SystemTime::now().duration_since(time).unwrap() < Duration::from_secs(60));
    assert_eq!(
        (&head["method"], &head["protocol"], &head["host"], &head["sent"]),
        (&"HEAD".into(), &"HTTP/2".into(), &address.to_string().into(), &0.into())
    );
}

#[test]
fn what_fails_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_gateway, address) = gateway_with(&[nobody], |config| {
        config.log = Some(file.clone());
    });
    curl(&[&format!("http://{address}/")]);
    let line = &wait_for(&file, 1)[0];
    assert_eq!((&line["status"], &line["failure"]), (&502.into(), &"connect".into()), "{line}");
}

#[test]
fn a_request_that_could_not_be_read_is_a_line_that_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.log = Some(file.clone());
        config.limits.head = 10_000;
    });
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let cases = [("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400, "header"), (&long, 431, "too large")];
    for (request, status, _) in cases {
        let answer = support::talk(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // HTTP/2: DATA on stream 0.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let data = "\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0x";
    support::talk(address, [preface, data].concat());
    let lines = wait_for(&file, 3);
    for (line, (_, status, why)) in lines.iter().zip(cases) {
        assert_eq!((&line["status"], &line["failure"]), (&status.into(), &"refused".into()));
        assert_eq!((&line["ended"], line.get("method")), (&"answered".into(), None), "{line}");
        assert!(line["error"].as_str().unwrap().contains(why), "{line}");
    }
    assert_eq!((lines[2].get("status"), &lines[2]["ended"]), (None, &"reset".into()));
    let statistics = gateway.statistics().listeners.remove(0);
    assert_eq!((statistics.requests, statistics.responses[3]), (2, 2));
    assert_eq!(statistics.failed(weir_gateway::Failure::Refused), 3);
}

#[test]
fn a_connection_that_carries_no_requests_is_a_line_with_all_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcp.log");
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.protocol = Protocol::Tcp;
        config.log = Some(file.clone());
    });
    let out = "%{size_request} %{size_header} %{size_download}";
    let seen = curl_text(&["-o", "/dev/null", "-w", out, &format!("http://{address}/")]);
    let seen: Vec<u64> = seen.split(' ').map(|bytes| bytes.parse().unwrap()).collect();
    let line = &wait_for(&file, 1)[0];
    assert_eq!((&line["received"], &line["sent"]), (&seen[0].into(), &(seen[1] + seen[2]).into()));
    assert!(line.get("method").is_none() && line.get("status").is_none(), "{line}");
    assert_eq!(line["upstream"], server.address.to_string());
}

#[test]
fn a_file_that_is_rotated_is_made_anew_and_none_is_lost_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (file, old) = (directory.path().join("web.log"), directory.path().join("web.log.1"));
    fs::write(&file, "{\"before\":1}\n").unwrap();
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let url = format!("http://{address}/");
    curl_text(&[&url]);
    assert_eq!(wait_for(&file, 2)[0]["before"], 1);
    fs::rename(&file, &old).unwrap();
    curl_text(&[&url]);
    wait_for(&file, 1);
    assert_eq!(lines(&old).len(), 2);
    for _ in 0..20 {
        curl_text(&[&url]);
    }
    gateway.drain(Duration::from_secs(10));
    assert_eq!(lines(&file).len(), 21);
}

#[test]
fn a_full_disk_holds_nobody_up_and_is_counted() {
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some("/dev/full".into()));
    for _ in 0..3 {
        curl_text(&[&format!("http://{address}/")]);
    }
    until("they are counted", || gateway.statistics().listeners[0].log_lost == 3);
}

#[test]
fn without_its_directory_a_listener_starts_and_writes_as_soon_as_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log/web.log");
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let url = format!("http://{address}/");
    let of_listener = || gateway.statistics().listeners.remove(0);
    until("it is told", || !of_listener().not_taken.is_empty());
    assert!(of_listener().not_taken[0].contains("web.log: requests are not written down: No such"));
    curl_text(&[&url]);
    until("it is counted", || of_listener().log_lost == 1);
    fs::create_dir(file.parent().unwrap()).unwrap();
    until("it is found", || of_listener().not_taken.is_empty());
    curl_text(&[&url]);
    assert_eq!(wait_for(&file, 1).len(), 1);
    assert_eq!(of_listener().log_lost, 1);
}

#[test]
fn a_fifo_that_nobody_reads_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let url = format!("http://{address}/");
    curl_text(&[&url]);
    until("it is counted", || gateway.statistics().listeners[0].log_lost == 1);
    let why = gateway.statistics().listeners[0].not_taken.remove(0);
    assert!(why.contains("nobody reads from it"), "{why}");
    let mut reader =
        Command::new("cat").arg(&file).stdout(std::process::Stdio::piped()).spawn().unwrap();
    until("it is opened", || gateway.statistics().listeners[0].not_taken.is_empty());
    curl_text(&[&url]);
    let mut line = String::new();
    BufReader::new(reader.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"method\":\"GET\""), "{line}");
    drop(gateway);
    reader.wait().unwrap();
}

#[test]
fn a_line_that_was_cut_off_does_not_take_the_next_one_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    fs::write(&file, "{\"before\":1}\n{\"target\":\"/cut").unwrap();
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    curl_text(&[&format!("http://{address}/")]);
    gateway.drain(Duration::from_secs(10));
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["{\"before\":1}", "{\"target\":\"/cut"]);
    assert_eq!(serde_json::from_str::<Value>(lines[2]).expect(lines[2])["status"], 200);
}

#[test]
fn only_its_group_may_read_a_new_file_and_one_behind_another_has_the_rights_of_that() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    let server = Server::echo();
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let url = format!("http://{address}/");
    let rights = || fs::metadata(&file).map(|meta| meta.permissions().mode() & 0o777);
    until("it is made", || rights().is_ok());
    assert_eq!(rights().unwrap() & !0o640, 0);
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    fs::rename(&file, directory.path().join("web.log.1")).unwrap();
    curl_text(&[&url]);
    wait_for(&file, 1);
    assert_eq!(rights().unwrap(), 0o664);
}

#[test]
fn a_websocket_is_one_line_when_it_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.log");
    let server = Server::start(|mut stream, _| {
        let Some(_) = support::read_request(&mut stream) else { return };
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(&word).unwrap();
    });
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.log = Some(file.clone()));
    let mut client = support::connect(address);
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    support::read_head(&mut client).unwrap();
    assert!(lines(&file).is_empty());
    client.write_all(b"hello").unwrap();
    let mut echoed = String::new();
    client.read_to_string(&mut echoed).unwrap();
    assert_eq!(echoed, "hello");
    drop(client);
    let line = &wait_for(&file, 1)[0];
    assert_eq!((&line["status"], &line["target"]), (&101.into(), &"/ws".into()));
    // With the head of the response, which leaves when it is the connection's already.
    assert_eq!(line["received"], 5, "{line}");
    assert!(line["sent"].as_u64().unwrap() >= 5, "{line}");
}
