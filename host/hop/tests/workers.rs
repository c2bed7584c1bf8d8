//! Workers as processes: what they are shut in by, seen from inside and from outside, and what is
//! left of one that is killed.
//!
//! This program is its own worker: with an argument it is one. Namespaces, the program and `/proc`
//! of others need root; what cannot be had is said.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::time::Timespec;
use weir_hop::{
    Descriptor, End, Hub, Inherited, Limits, Namespaces, Plan, ProcessError, Restart, Supervisor,
    WorkerEvent, WorkerProcess,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Buffers that are shared with the worker, of one word each.
const BUFFERS: usize = 256;

const TESTS: &[(&str, fn())] = &[
    ("a_worker_has_no_files_no_network_and_no_programs", no_files_no_network_no_programs),
    ("a_worker_is_confined_as_the_kernel_sees_it", as_the_kernel_sees_it),
    ("a_worker_inherits_its_memories_and_nothing_else", inherits_nothing_else),
    ("a_memory_that_a_worker_could_shrink_is_not_shared", not_sealed),
    ("a_worker_without_root_is_confined_by_what_there_is", without_root),
    ("a_worker_without_namespaces_says_so_and_is_nobody", without_namespaces),
    ("each_message_is_answered_once_when_workers_are_killed", killed_under_load),
    ("the_same_by_unix_sockets", killed_under_load_by_unix_sockets),
    ("a_confined_worker_that_panics_or_aborts_dies", panics_or_aborts),
    ("a_worker_that_dies_at_once_is_started_less_and_less_often", dies_at_once),
    ("a_worker_goes_with_whoever_started_it", goes_with_its_starter),
    (
        "a_worker_with_file_capabilities_goes_with_whoever_started_it",
        goes_with_its_starter_whatever_its_program_may,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("worker") => worker(&arguments[1]),
        Some("starter") => starter(&arguments[1]),
        // What test runners ask of every test program: which tests there are, and which of them to
        // leave out.
        Some("--list") if arguments.iter().any(|argument| argument == "--ignored") => {}
        Some("--list") => {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
        }
        _ => {
            let named = arguments.iter().find(|argument| !argument.starts_with('-'));
            for (name, test) in TESTS {
                if named.is_none_or(|named| name.contains(named.as_str())) {
                    println!("{name}");
                    test();
                }
            }
        }
    }
}

// ---- the worker ----

/// The shared words.
fn map(memory: impl AsFd) -> &'static [AtomicU64] {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping of a memory of this size, which nobody shrinks; atomics may be shared
    // with other processes.
    unsafe {
        let at = mmap(std::ptr::null_mut(), BUFFERS * 8, prot, flags, memory, 0).unwrap();
        std::slice::from_raw_parts(at.cast::<AtomicU64>(), BUFFERS)
    }
}

fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}

fn worker(what: &str) {
    let inherited = Inherited::take().unwrap();
    let interfaces = std::fs::read_to_string("/proc/self/net/dev").map_or(0, |text| {
        text.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count()
    });
    if what == "exit" {
        return;
    }
    let memory = inherited.memories.first().map(map);
    let memories = inherited.memories.len();
    let confined = inherited.confine(&Limits::default(), &[]).unwrap();
    let mut end = inherited.end;
    match what {
        "probe" => probe(&mut end, interfaces, memories, &confined.to_string()),
        "serve" => serve(&mut end, memory.unwrap()),
        "abort" => std::process::abort(),
        "panic" => panic!("as the test wants it"),
        "spin" => {
            // It is shut in.
            end.send(&[Descriptor::default()]).unwrap();
            end.flush().unwrap();
            loop {
                std::hint::spin_loop();
            }
        }
        other => panic!("worker: what is {other}?"),
    }
}

/// What it tried, by the number of the exchange; 0: it worked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tried {
    OpenFile,
    OpenRoot,
    Socket,
    UnixSocket,
    Program,
    Process,
    Signal,
    Namespace,
    Mount,
    Capability,
    // What has to work.
    Thread,
    Code,
    Interfaces,
    OpenFiles,
    Report,
}

fn probe(end: &mut End, interfaces: usize, memories: usize, report: &str) {
    eprintln!("worker: {report}");
    let errno = |result: io::Result<()>| match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1) as u32,
    };
    let number = |result: rustix::io::Result<()>| errno(result.map_err(io::Error::from));
    let (prot, flags) = (ProtFlags::READ | ProtFlags::EXEC, MapFlags::PRIVATE);
    // SAFETY: a new mapping that nobody uses; `kill`, `unshare` and `fork` as the tests say: they
    // are refused, or the child ends at once.
    let (code, signal, namespace, process) = unsafe {
        let code = rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, prot, flags).map(drop);
        let done = |result: i32| if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        let signal = done(libc::kill(1, 0));
        let namespace = done(libc::unshare(libc::CLONE_NEWUSER));
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        (code, signal, namespace, done(child))
    };
    let files = (3..64).filter(|fd| {
        // SAFETY: takes a number.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 }
    });
    let tried = [
        (Tried::OpenFile, errno(std::fs::File::open("/etc/passwd").map(drop))),
        (Tried::OpenRoot, errno(std::fs::read_dir("/").map(drop))),
        (Tried::Socket, errno(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop))),
        (Tried::UnixSocket, errno(UnixStream::pair().map(drop))),
        (Tried::Program, errno(Err(exec("/bin/true")))),
        (Tried::Process, errno(process)),
        (Tried::Signal, errno(signal)),
        (Tried::Namespace, errno(namespace)),
        (Tried::Mount, number(rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH))),
        (Tried::Capability, number(rustix::system::sethostname(b"weir"))),
        (
            Tried::Thread,
            errno(std::thread::Builder::new().spawn(|| ()).map(|of| of.join().unwrap())),
        ),
        (Tried::Code, number(code)),
        (Tried::Interfaces, interfaces as u32),
        (Tried::OpenFiles, files.count() as u32 - 1 - memories as u32),
        (Tried::Report, u32::from(report.contains("without"))),
    ];
    for (what, result) in tried {
        let (exchange, offset) = (what as u32, result);
        end.send(&[Descriptor { exchange, offset, ..Descriptor::default() }]).unwrap();
    }
    end.flush().unwrap();
    // Until the gateway has looked from outside.
    while readable(&*end, PATIENCE) && end.receive(&mut Vec::new()).is_ok() {}
}

fn exec(program: &str) -> io::Error {
    use std::os::unix::process::CommandExt as _;
    Command::new(program).exec()
}

/// Inverts the word at each offset, and answers.
fn serve(end: &mut End, words: &[AtomicU64]) {
    let mut work = Vec::new();
    let mut todo: Vec<Descriptor> = Vec::new();
    while readable(&*end, PATIENCE) {
        match end.receive(&mut work) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        for descriptor in work.drain(..) {
            let word = &words[descriptor.offset as usize];
            word.store(!word.load(Ordering::Relaxed), Ordering::Relaxed);
            todo.push(descriptor);
        }
        let sent = end.send(&todo).unwrap_or(0);
        todo.drain(..sent);
        if end.flush().is_err() {
            return;
        }
    }
}

// ---- the gateway ----

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unsealed() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("words", flags).unwrap();
    ftruncate(&memory, BUFFERS as u64 * 8).unwrap();
    memory
}

fn memory() -> Arc<OwnedFd> {
    let memory = unsealed();
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    Arc::new(memory)
}

fn plan(what: &str, memories: Vec<Arc<OwnedFd>>) -> Plan {
    Plan {
        arguments: vec!["worker".into(), what.into()],
        memories,
        ..Plan::new(std::env::current_exe().unwrap())
    }
}

/// What a worker that tries things has found.
fn probed(plan: &Plan, look: impl FnOnce(&WorkerProcess)) -> Vec<u32> {
    let (mut end, socket) = Hub::new().connect_worker(1, 1).unwrap();
    let worker = WorkerProcess::spawn(plan, &socket).unwrap();
    drop(socket);
    let mut found = Vec::new();
    let wanted = Tried::Report as usize + 1;
    while found.len() < wanted {
        assert!(readable(&end, PATIENCE), "the worker is silent");
        end.receive(&mut found).expect("the worker has died");
    }
    look(&worker);
    found.into_iter().map(|descriptor| descriptor.offset).collect()
}

fn refused(found: &[u32]) {
    let allowed: Vec<_> = (0..Tried::Thread as usize).filter(|n| found[*n] == 0).collect();
    assert!(allowed.is_empty(), "these worked (see Tried): {allowed:?}; all: {found:?}");
    assert_eq!(found[Tried::Thread as usize], 0, "a thread");
    assert_eq!(found[Tried::Code as usize], 0, "executable memory");
    assert_eq!(found[Tried::OpenFiles as usize], 0, "files that are open");
}

fn no_files_no_network_no_programs() {
    let found = probed(&plan("probe", vec![memory()]), |_| {});
    refused(&found);
    if root() {
        assert_eq!(found[Tried::Interfaces as usize], 0, "interfaces but for its own loopback");
        assert_eq!(found[Tried::Report as usize], 0, "a layer is missing");
    } else {
        eprintln!("skipped: not all layers without root");
    }
}

fn as_the_kernel_sees_it() {
    if !root() {
        eprintln!("skipped: needs root");
        return;
    }
    let (reads, writes) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let plan = Plan { output: Some(Arc::new(writes)), ..plan("probe", vec![memory()]) };
    probed(&plan, |worker| {
        let proc = format!("/proc/{}", worker.id());
        assert_eq!(worker.namespaces(), Namespaces::ALL);
        // What it writes to is a pipe, and nothing that this process has.
        let pipe = std::fs::read_link(format!("/proc/self/fd/{}", reads.as_raw_fd())).unwrap();
        for fd in [1, 2] {
            assert_eq!(std::fs::read_link(format!("{proc}/fd/{fd}")).unwrap(), pipe);
        }
        let first_to_go = std::fs::read_to_string(format!("{proc}/oom_score_adj")).unwrap();
        assert_eq!(first_to_go.trim(), "1000");
        for namespace in ["user", "mnt", "net", "ipc", "uts", "pid"] {
            let of = |proc: &str| std::fs::read_link(format!("{proc}/ns/{namespace}")).unwrap();
            assert_ne!(of(&proc), of("/proc/self"), "{namespace}");
        }
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!((field("Seccomp:"), field("Seccomp_filters:")), ("2".into(), "2".into()));
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Gid:"), "65534\t65534\t65534\t65534");
        assert_eq!(field("Groups:"), "");
        assert!(field("NSpid:").ends_with("\t1"));
        let files = std::fs::read_dir(format!("{proc}/root/")).unwrap().count();
        assert_eq!(files, 0, "files in its root");
        let mounts = std::fs::read_to_string(format!("{proc}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" ro,"), "{mounts}");
        let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
        assert!(limits.lines().any(|line| line.starts_with("Max open files            64 ")));
    });
    drop(plan);
    let mut written = String::new();
    std::fs::File::from(reads).read_to_string(&mut written).unwrap();
    assert!(written.starts_with("worker: user namespace, "), "{written}");
}

fn inherits_nothing_else() {
    // Files that a program started in the usual way would have.
    let open: Vec<OwnedFd> =
        (0..20).map(|_| memfd_create("left", MemfdFlags::empty()).unwrap()).collect();
    let found = probed(&plan("probe", vec![memory(), memory(), memory()]), |worker| {
        if root() {
            let files = std::fs::read_dir(format!("/proc/{}/fd", worker.id())).unwrap().count();
            assert_eq!(files, 3 + 1 + 3);
        }
    });
    drop(open);
    assert_eq!(found[Tried::OpenFiles as usize], 0);
}

fn not_sealed() {
    let (_end, socket) = Hub::unix().connect_worker(1, 1).unwrap();
    let error = WorkerProcess::spawn(&plan("exit", vec![memory(), Arc::new(unsealed())]), &socket);
    assert!(matches!(error, Err(ProcessError::NotSealed { number: 1, .. })), "{error:?}");
    let file = Arc::new(tempfile::tempfile().unwrap().into());
    let error = WorkerProcess::spawn(&plan("exit", vec![file]), &socket);
    assert!(matches!(error, Err(ProcessError::NotSealed { number: 0, .. })), "{error:?}");
}

fn without_namespaces() {
    if !root() {
        eprintln!("skipped: needs root");
        return;
    }
    let namespaces = Namespaces::default();
    let found = probed(&Plan { namespaces, ..plan("probe", vec![memory()]) }, |worker| {
        assert_eq!(worker.namespaces(), namespaces);
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    });
    refused(&found);
    assert_eq!(found[Tried::Report as usize], 1);
}

/// This program in a place where everybody may read it.
fn for_everybody() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("workers");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    (directory, program)
}

/// Runs it as somebody else.
fn as_somebody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

fn without_root() {
    if !root() || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: needs root and setpriv");
        return;
    }
    let (_directory, program) = for_everybody();
    let output = as_somebody(&program).args(["starter", "probe"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let report = text.lines().find_map(|line| line.strip_prefix("worker: ")).expect(&text);
    let wanted = ["no new privileges", "no capabilities", "system calls"];
    assert!(wanted.iter().all(|layer| report.contains(layer)), "{report}");
    if std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|most| most != "0\n")
    {
        assert!(!report.contains("without"), "{report}");
    }
}

/// What starts a worker, in a process of its own.
fn starter(what: &str) {
    match what {
        "probe" => refused(&probed(&plan("probe", vec![memory()]), |_| {})),
        "spin" | "spin without namespaces" => {
            let (end, socket) = Hub::unix().connect_worker(1, 1).unwrap();
            let mut plan = plan("spin", Vec::new());
            if what != "spin" {
                plan.namespaces = Namespaces::default();
            }
            let worker = WorkerProcess::spawn(&plan, &socket).unwrap();
            assert!(readable(&end, PATIENCE), "the worker is silent");
            println!("{}", worker.id());
            io::stdout().flush().unwrap();
            std::thread::sleep(PATIENCE);
        }
        other => panic!("starter: what is {other}?"),
    }
}

fn goes_with_its_starter() {
    goes_with(Command::new(std::env::current_exe().unwrap()).args(["starter", "spin"]));
}

/// As an operator has it who does not want to run the host as root, where there are no user
/// namespaces.
fn goes_with_its_starter_whatever_its_program_may() {
    if !root() || Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: needs root and setpriv");
        return;
    }
    let (_directory, program) = for_everybody();
    // CAP_NET_RAW, permitted and in effect, as setcap(8) writes it (VFS_CAP_REVISION_2).
    let capabilities = [0x0200_0001_u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    let (name, flags) = ("security.capability", rustix::fs::XattrFlags::empty());
    rustix::fs::setxattr(&program, name, &capabilities, flags).unwrap();
    goes_with(as_somebody(&program).args(["starter", "spin without namespaces"]));
}

fn goes_with(starter: &mut Command) {
    use std::io::BufRead as _;
    let mut starter = starter.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    io::BufReader::new(starter.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let id = rustix::process::Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let worker = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).unwrap();
    starter.kill().unwrap();
    starter.wait().unwrap();
    let gone = readable(&worker, PATIENCE);
    if !gone {
        rustix::process::pidfd_send_signal(&worker, rustix::process::Signal::KILL).unwrap();
    }
    assert!(gone, "the worker lives on");
}

fn panics_or_aborts() {
    for (what, exit, signals) in [
        ("panic", Some(101), &[][..]),
        // It is the first process of its namespace, which no SIGABRT of its own ends: then an
        // instruction does.
        ("abort", None, &[libc::SIGABRT, libc::SIGSEGV, libc::SIGILL]),
    ] {
        let (_end, socket) = Hub::new().connect_worker(1, 1).unwrap();
        let mut worker = WorkerProcess::spawn(&plan(what, Vec::new()), &socket).unwrap();
        assert!(readable(&worker, PATIENCE), "{what}: it lives on");
        let death = worker.died().unwrap().expect("it is dead");
        assert_eq!(death.exit, exit, "{what}: {death:?}");
        assert!(death.signal.is_none_or(|signal| signals.contains(&signal)), "{what}: {death:?}");
    }
}

fn dies_at_once() {
    let restart = Restart {
        first: Duration::from_millis(1),
        most: Duration::from_millis(64),
        lived: PATIENCE,
    };
    let now = Instant::now();
    let mut supervisor = Supervisor::new(Hub::new(), 1, plan("exit", Vec::new()), restart, now);
    let (mut starts, mut deaths) = (0, 0);
    let mut waits = Vec::new();
    while deaths < 6 {
        assert!(now.elapsed() < PATIENCE);
        let now = Instant::now();
        match supervisor.turn(now) {
            WorkerEvent::Started(_) => starts += 1,
            WorkerEvent::Died(death) => {
                assert_eq!((death.exit, death.signal), (Some(0), None));
                assert_eq!(u64::from(death.generation), supervisor.generation());
                deaths += 1;
                waits.push(supervisor.due().unwrap() - now);
            }
            WorkerEvent::Nothing => match supervisor.process() {
                Some(process) => assert!(readable(process, PATIENCE)),
                None => std::thread::sleep(supervisor.due().unwrap() - now),
            },
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((starts, supervisor.generation(), supervisor.restarts()), (6, 6, 5));
    assert_eq!(waits, [1, 2, 4, 8, 16, 32].map(Duration::from_millis));
}

fn killed_under_load() {
    kill_under_load(&Hub::new());
}

fn killed_under_load_by_unix_sockets() {
    kill_under_load(&Hub::unix());
}

/// Keeps 64 messages under way while workers are killed, 20 of them, at moments that differ. The
/// policy for those that a dead worker leaves is to answer them at once; each takes a buffer, and
/// gives it back with its answer.
fn kill_under_load(hub: &Hub) {
    const KILLS: u64 = 20;
    let memory = memory();
    let words = map(&memory);
    let mut free: BTreeSet<u32> = (0..BUFFERS as u32).collect();
    // The buffer of each exchange that is under way.
    let mut ledger: BTreeMap<u32, u32> = BTreeMap::new();
    let mut answered: Vec<u8> = Vec::new();
    let (mut served, mut reclaimed) = (0_u64, 0_u64);
    let restart = Restart {
        first: Duration::from_millis(1),
        most: Duration::from_millis(1),
        lived: PATIENCE,
    };
    let start = Instant::now();
    let mut supervisor =
        Supervisor::new(hub.clone(), 9, plan("serve", vec![memory]), restart, start);
    let mut end: Option<Box<End>> = None;
    let mut work = Vec::new();
    let mut since = 0;
    let mut kills = 0;
    let mut settle = |got: &mut Vec<Descriptor>,
                      ledger: &mut BTreeMap<u32, u32>,
                      free: &mut BTreeSet<u32>,
                      answered: &mut Vec<u8>| {
        for descriptor in got.drain(..) {
            let buffer = ledger.remove(&descriptor.exchange).expect("an answer nobody waits for");
            assert_eq!(buffer, descriptor.offset, "another's buffer");
            let word = words[buffer as usize].load(Ordering::Relaxed);
            assert_eq!(word, !u64::from(descriptor.exchange), "another's bytes");
            answered[descriptor.exchange as usize] += 1;
            assert!(free.insert(buffer));
            served += 1;
        }
    };
    while kills < KILLS || !ledger.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{kills} kills, {} under way", ledger.len());
        match supervisor.turn(Instant::now()) {
            WorkerEvent::Started(new) => (end, since) = (Some(new), 0),
            WorkerEvent::Died(death) => {
                assert_eq!(death.signal, Some(9));
                let mut old = end.take().expect("it had an end");
                while old.receive(&mut work).is_ok() {}
                settle(&mut work, &mut ledger, &mut free, &mut answered);
                for (exchange, buffer) in std::mem::take(&mut ledger) {
                    answered[exchange as usize] += 1;
                    assert!(free.insert(buffer));
                    reclaimed += 1;
                }
            }
            WorkerEvent::Nothing => {}
            other => panic!("{other:?}"),
        }
        let Some(end) = &mut end else { continue };
        while kills < KILLS && ledger.len() < 64 && end.room() > 0 {
            let exchange = answered.len() as u32;
            let buffer = free.pop_first().expect("a free buffer");
            words[buffer as usize].store(u64::from(exchange), Ordering::Relaxed);
            ledger.insert(exchange, buffer);
            answered.push(0);
            let offset = buffer;
            end.send(&[Descriptor { exchange, offset, ..Descriptor::default() }]).unwrap();
        }
        // It may be dead: the supervisor says so.
        let _ = end.flush();
        readable(&**end, Duration::from_millis(1));
        if let Ok(received) = end.receive(&mut work) {
            since += received as u64;
        }
        settle(&mut work, &mut ledger, &mut free, &mut answered);
        if let Some(worker) = supervisor.worker()
            && kills < KILLS
            && since > 100 + 37 * kills
        {
            worker.kill();
            kills += 1;
            since = 0;
        }
    }
    assert!(answered.iter().all(|times| *times == 1), "each message is answered once");
    assert_eq!(free.len(), BUFFERS, "no buffer is lost");
    println!("{}: {served} served, {reclaimed} reclaimed, {kills} kills", hub.carrier());
    assert!(served > 100 * KILLS);
}
