//! The host's log, when whoever reads it stalls or is gone: the host goes on, and ends when it is
//! told to.

use std::io::{BufRead as _, BufReader, Read as _};

use rustix::process::Signal;

use crate::host::Host;

const CONFIG: &str = "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n";
/// Less than the changes below log.
const PIPE: usize = 4096;

/// A host whose log was read until it was ready.
fn ready() -> (Host, BufReader<std::io::PipeReader>) {
    let (host, pipe) = Host::begin_with_pipe(CONFIG);
    rustix::pipe::fcntl_setpipe_size(&pipe, PIPE).expect("it is ours");
    let mut log = BufReader::with_capacity(1, pipe);
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("text"), 0, "it ended");
    }
    host.write("none.toml", "");
    (host, log)
}

fn change(host: &Host) {
    for _ in 0..60 {
        host.ok(&["steer", "apply", "none.toml"]);
    }
    host.ok(&["status"]);
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let (host, mut log) = ready();
    change(&host);
    let (status, ..) = host.end(Signal::TERM);
    assert!(status.success(), "{status}");
    // What fits into the pipe had been written.
    let mut text = String::new();
    log.read_to_string(&mut text).expect("text");
    assert!(text.contains("steering"), "{text}");
}

#[test]
fn a_log_whose_reader_is_gone_stops_nothing() {
    let (host, log) = ready();
    drop(log);
    change(&host);
    let (status, ..) = host.end(Signal::TERM);
    assert!(status.success(), "{status}");
}
