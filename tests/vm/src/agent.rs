//! The agent, inside of the guest: starts processes, and passes on what they write and how they
//! end.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wire::{Frame, Kind, Start};

/// The port's name, as QEMU was told it.
pub(crate) const PORT: &str = "weir-agent";

/// Time for what a process wrote to be read when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The way to the machine, for all threads.
#[derive(Clone)]
struct Machine(Arc<Mutex<File>>);

impl Machine {
    fn tell(&self, kind: Kind, process: u32, bytes: impl Into<Vec<u8>>) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = Frame::new(kind, process, bytes).write(&mut *port) {
            eprintln!("agent: the machine does not listen: {error}");
        }
    }
}

/// Obeys the machine until it says that all is done.
///
/// # Errors
/// When there is no port to the machine, or it breaks.
pub fn run() -> io::Result<()> {
    let path = port()?;
    let mut orders = OpenOptions::new().read(true).write(true).open(path)?;
    let machine = Machine(Arc::new(Mutex::new(orders.try_clone()?)));
    let processes = Arc::new(Mutex::new(HashMap::<u32, Pid>::new()));
    machine.tell(Kind::Ready, 0, []);
    loop {
        let order = Frame::read(&mut orders)?;
        match order.kind {
            Kind::Off => return Ok(()),
            Kind::Start => match start(&order.bytes) {
                Ok(child) => {
                    let mut known = processes.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(order.process, Pid::from_child(&child));
                    let (machine, processes) = (machine.clone(), Arc::clone(&processes));
                    thread::spawn(move || {
                        let status = follow(child, order.process, &machine);
                        let mut known = processes.lock().unwrap_or_else(PoisonError::into_inner);
                        known.remove(&order.process);
                        machine.tell(Kind::Ended, order.process, status.to_le_bytes());
                    });
                }
                Err(error) => machine.tell(Kind::Refused, order.process, error.to_string()),
            },
            Kind::Signal => {
                let known = processes.lock().unwrap_or_else(PoisonError::into_inner);
                let signal = order.bytes.first().and_then(|n| Signal::from_named_raw((*n).into()));
                if let (Some(pid), Some(signal)) = (known.get(&order.process), signal) {
                    // It may have ended meanwhile.
                    let _ = kill_process(*pid, signal);
                }
            }
            _ => {}
        }
    }
}

/// There is no udev that would give the port its name.
fn port() -> io::Result<PathBuf> {
    for port in std::fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == PORT {
            return Ok(PathBuf::from("/dev").join(port.file_name()));
        }
    }
    Err(io::Error::other("there is no port to the machine: this runs inside of a guest only"))
}

fn start(order: &[u8]) -> io::Result<Child> {
    let order: Start = serde_json::from_slice(order)?;
    let (program, arguments) =
        order.words.split_first().ok_or_else(|| io::Error::other("there is no command"))?;
    Command::new(program)
        .args(arguments)
        .current_dir(&order.directory)
        .env_clear()
        .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("TERM", "dumb")])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::other(format!("{program} in {}: {error}", order.directory)))
}

/// Passes on what it writes, until it has ended.
fn follow(mut child: Child, process: u32, machine: &Machine) -> i32 {
    let (done, passed) = channel();
    let pass = |kind, from: Option<Box<dyn Read + Send>>| {
        let (machine, done) = (machine.clone(), done.clone());
        thread::spawn(move || {
            let mut from = from?;
            let mut bytes = vec![0; 1 << 14];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                machine.tell(kind, process, &bytes[..length]);
            }
            done.send(()).ok()
        });
    };
    pass(Kind::Stdout, child.stdout.take().map(|out| Box::new(out) as _));
    pass(Kind::Stderr, child.stderr.take().map(|err| Box::new(err) as _));
    let status = child.wait();
    // All that it wrote, but not what children write that it has left behind.
    for _ in 0..2 {
        if passed.recv_timeout(LAST_WORDS).is_err() {
            break;
        }
    }
    status.map_or(-1, |status| status.code().or(status.signal().map(|n| 128 + n)).unwrap_or(-1))
}
