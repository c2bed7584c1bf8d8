//! A guest that does what it is told, and what is told of one that does not: a command that fails,
//! one that is not there, a kernel that dies, and time that is over are four things.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use weir_vm::{Error, Event, Machine};

fn machine() -> Machine {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let mut machine = Machine::new(&target.canonicalize().expect("a target directory"));
    machine.agent = PathBuf::from(env!("CARGO_BIN_EXE_weir-vm"));
    machine
}

#[test]
fn guest_failures_are_told_apart() {
    let share = tempfile::tempdir().expect("a directory");
    let mut machine = machine();
    machine.shares = vec![share.path().to_owned()];
    let guest = machine.boot().unwrap_or_else(|error| panic!("{error}"));

    let output = guest.run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).expect("it runs");
    assert_eq!((output.status, &*output.stdout, &*output.stderr), (7, "out\n", "err\n"));
    let refused = guest.run(&["no-such-command"]).expect_err("there is none");
    assert!(
        matches!(&refused, Error::Refused(why) if why.contains("no-such-command")),
        "{refused}"
    );

    // What it writes is gone with it, but for what is shared.
    let file = share.path().join("kept");
    let script = format!("echo kept > {}; echo lost > /lost; cat /lost", file.display());
    assert_eq!(guest.run(&["sh", "-c", &script]).expect("it runs").stdout, "lost\n");
    assert_eq!(fs::read_to_string(file).expect("the file"), "kept\n");
    assert!(!Path::new("/lost").exists());

    // Several processes at a time; a signal ends one.
    let sleeping = guest.start("/", &["sleep", "1000"]).expect("it starts");
    let talking = guest.start("/", &["echo", "hello"]).expect("it starts");
    assert!(matches!(talking.next().expect("it talks"), Event::Stdout(text) if text == b"hello\n"));
    sleeping.signal(Signal::TERM).expect("the guest is there");
    assert_eq!(sleeping.output().expect("it ended").status, 128 + 15);
    // What a command leaves behind does not hold it up.
    let left = guest.run(&["sh", "-c", "sleep 1000 & exit 3"]).expect("it runs");
    assert_eq!(left.status, 3);

    let crash = guest.run(&["sh", "-c", "echo c > /proc/sysrq-trigger"]);
    let crashed = crash.expect_err("the kernel is dead");
    assert!(
        matches!(&crashed, Error::Crashed { what, .. } if what.contains("sysrq triggered crash")
            || what.contains("Kernel panic")),
        "{crashed}"
    );
}

#[test]
fn guest_time_is_over() {
    let mut machine = machine();
    machine.limit = Duration::from_secs(3);
    let late = match machine.boot() {
        Ok(guest) => guest.run(&["sleep", "1000"]).expect_err("it is over"),
        Err(error) => error,
    };
    assert!(matches!(late, Error::TooLong { .. }), "{late}");
}

#[test]
fn what_cannot_be_is_refused_before_a_guest_is_there() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-vm")).args(arguments).output();
        let output = output.expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = run(&["--nic", "tap:outside/a-name-that-is-too-long", "true"]);
    assert!(status == Some(2) && said.contains("no name of an interface"), "{said}");
    let (status, said) = run(&["--target", "/nowhere", "true"]);
    assert!(status == Some(125) && said.contains("/nowhere/vm (run scripts/setup)"), "{said}");
}
