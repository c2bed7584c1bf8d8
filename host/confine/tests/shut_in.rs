//! Runs itself once more, shut in, and tries what it should not be able to do.

use std::fs::File;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, exit};

/// Set in the process that is shut in.
const INSIDE: &str = "WEIR_TEST_INSIDE";

#[test]
fn who_is_shut_in_computes_and_does_nothing_else() {
    if std::env::var_os(INSIDE).is_some() {
        inside();
    }
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(["--exact", "who_is_shut_in_computes_and_does_nothing_else", "--nocapture"]);
    let output = again.env(INSIDE, "1").output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.ends_with(b"shut in, and well\n"), "it did not come to its end");
}

/// What is tried, by name, and whether it went well.
type Attempt = (&'static str, fn() -> bool);

fn inside() -> ! {
    let file = File::open("/dev/null").expect("not yet");
    let missing = weir_confine::shut_in();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(file.metadata().is_err(), "files that were open are closed");
    let attempts: [Attempt; 6] = [
        ("open a file", || File::open("/dev/null").is_ok()),
        ("make a socket", || UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("connect", || TcpStream::connect("127.0.0.1:1").is_ok()),
        ("make a pair of sockets", || UnixStream::pair().is_ok()),
        ("start a program", || Command::new("/bin/true").spawn().is_ok()),
        ("signal others", || rustix::process::test_kill_current_process_group().is_ok()),
    ];
    for (what, attempt) in attempts {
        assert!(!attempt(), "it can {what}");
    }
    let threads: Vec<_> = (0..4_u64)
        .map(|n| std::thread::spawn(move || vec![n; 1 << 20].iter().sum::<u64>()))
        .collect();
    let sum: u64 = threads.into_iter().map(|thread| thread.join().expect("a thread")).sum();
    assert_eq!(sum, 6 << 20);
    println!("shut in, and well");
    // The file's number is nobody's any more.
    std::mem::forget(file);
    exit(0);
}
