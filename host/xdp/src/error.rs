//! What the kernel's refusals mean for an operator, and what to do about them. Knows the words, not
//! the steps.

use std::io;

use weir_pool::Pool;
use weir_port::PortError;

use crate::config::{Mode, XdpConfig};
use crate::interface::Interface;
use crate::program::{self, Refused};
use crate::socket::{Failed, Step};

/// All that a port takes, whatever was missed first. Without CAP_PERFMON the kernel's verifier
/// refuses the program.
const PRIVILEGE: &str =
    "run the host as root, or give it CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON";

/// Names a problem after its port.
pub(crate) fn configuration(port: &str, problem: impl Into<String>) -> PortError {
    PortError::Configuration { port: port.to_owned(), problem: problem.into() }
}

/// Names a problem of a device that worked before.
pub(crate) fn device(port: &str, problem: impl Into<String>) -> PortError {
    PortError::Device { port: port.to_owned(), problem: problem.into() }
}

/// Why the kernel gave no AF_XDP socket.
pub(crate) fn of_socket(failed: &Failed, config: &XdpConfig, pool: Option<&Pool>) -> String {
    let XdpConfig { interface, queue, .. } = config;
    let error = &failed.error;
    let number = error.raw_os_error().unwrap_or(0);
    match (failed.step, number) {
        (Step::Open, libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => {
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use a kernel that has it, or another kind of port".into()
        }
        (Step::Open, libc::EPERM | libc::EACCES) => {
            format!("no privilege to open an AF_XDP socket: {PRIVILEGE}")
        }
        (Step::Umem, libc::ENOBUFS | libc::ENOMEM) => {
            let bytes = pool.map_or(0, |p| u64::from(p.rooms()) * u64::from(p.room_bytes()));
            format!(
                "the kernel does not lock the pool's {} MiB for this port: raise the limit (`ulimit -l`, systemd's LimitMEMLOCK=), \
                 give the host CAP_IPC_LOCK, or lower [pool] rooms",
                bytes.div_ceil(1 << 20)
            )
        }
        (Step::Bind, libc::EBUSY) => format!(
            "queue {queue} of {interface} is in use by another AF_XDP socket: `ss --xdp --processes` names its owner; take \
             another queue, or stop that program"
        ),
        (Step::Bind, libc::EINVAL) => format!(
            "{interface} has no queue {queue} that can be used: `ethtool --show-channels {interface}` tells how many it has in \
             use, counted from 0"
        ),
        (Step::Bind, libc::ENETDOWN) => down(interface),
        (Step::Bind, libc::ENODEV | libc::ENXIO) => gone(interface),
        (step, _) => {
            let what = match step {
                Step::Open => "opening an AF_XDP socket",
                Step::Umem => "registering the pool's memory",
                Step::Rings => "making the rings",
                Step::BusyPoll => "setting `busy-poll` (Linux 5.11 and newer have it)",
                Step::Bind => "binding the socket",
            };
            format!("{what} failed on {interface}, queue {queue}: {error}")
        }
    }
}

/// Why the XDP program is not on the interface.
pub(crate) fn of_program(refused: &Refused, name: &str, interface: &Interface) -> String {
    match refused {
        Refused::NotBuilt => "this host was built without its XDP program: run scripts/build-ebpf, then build the host again".into(),
        Refused::Load(Some(error), _) if is_permission(error) => {
            format!("no privilege to load an XDP program: {PRIVILEGE}")
        }
        Refused::Load(error, log) => {
            let error = error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            format!("the kernel refuses the XDP program{error}: {log}")
        }
        Refused::Attach(_, error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let now = Interface::find(name).ok().flatten().and_then(|i| i.program);
            let owner = match now.or(interface.program) {
                Some(id) => match program::name_of(id) {
                    Some(program) => format!("number {id}, \"{program}\""),
                    None => format!("number {id}"),
                },
                None => "it has ended by now".into(),
            };
            format!(
                "another XDP program is on {name} ({owner}): `ip -details link show dev {name}` and `bpftool net` tell more, \
                 `ip link set dev {name} xdp off` removes one \
                 that was set that way; one of a link (`bpftool link`) goes with who holds it, or with its pin: a host of Weir's that crashed may have \
                 left one in /sys/fs/bpf/weir, which a port without `pin = false` takes over"
            )
        }
        Refused::Attach(_, error) if is_permission(error) => {
            format!("no privilege to put an XDP program on {name}: {PRIVILEGE}")
        }
        Refused::Attach(Mode::Native, error) => format!(
            "{name} cannot run XDP programs in its driver ({error}): use `mode = \"generic\"`, or \"auto\", which takes what there is"
        ),
        Refused::Attach(_, error) => format!("the XDP program cannot be put on {name}: {error}"),
        Refused::OldKernel => "this kernel has no XDP links: Linux 5.9 or newer is needed".into(),
        Refused::Pin(problem) => format!("the XDP program cannot be pinned (`pin`): {problem}"),
        Refused::Held => format!(
            "another host has the XDP program on {name}: stop that one, or give the port another interface"
        ),
        Refused::Queue(queue) => {
            format!("queue {queue} of {name} is in use by another port of this host: give each port its own queues")
        }
        Refused::OtherMode(mode) => format!(
            "another port has {name} in mode \"{}\": ports of one interface have one mode",
            mode_name(*mode)
        ),
    }
}

pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

pub(crate) fn down(interface: &str) -> String {
    format!("interface {interface} is down: `ip link set dev {interface} up`")
}

pub(crate) fn gone(interface: &str) -> String {
    format!("interface {interface} is gone: it was deleted, or moved to another network namespace")
}

fn is_permission(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this machine cannot show: other kernels, other privileges.
    #[test]
    fn refusals_say_what_to_do() {
        let config = XdpConfig::new("eth0");
        let socket = |step, number| {
            of_socket(&Failed { step, error: io::Error::from_raw_os_error(number) }, &config, None)
        };
        for (text, expected) in [
            (socket(Step::Open, libc::EAFNOSUPPORT), "CONFIG_XDP_SOCKETS"),
            (socket(Step::Open, libc::EPERM), "CAP_NET_RAW"),
            (socket(Step::Umem, libc::ENOBUFS), "LimitMEMLOCK"),
            (socket(Step::Bind, libc::EBUSY), "another AF_XDP socket"),
            (socket(Step::Bind, libc::EINVAL), "no queue 0"),
            (socket(Step::Bind, libc::EIO), "binding the socket failed on eth0, queue 0"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let eth0 = Interface::default();
        let error = |number| io::Error::from_raw_os_error(number);
        for (refused, expected) in [
            (Refused::NotBuilt, "scripts/build-ebpf"),
            (Refused::Load(Some(error(libc::EPERM)), String::new()), "CAP_PERFMON"),
            (Refused::Load(None, "R1 invalid".into()), "R1 invalid"),
            (Refused::Attach(Mode::Native, error(libc::EOPNOTSUPP)), "mode = \"generic\""),
            (Refused::OldKernel, "5.9"),
            (Refused::OtherMode(Mode::Generic), "one mode"),
        ] {
            let text = of_program(&refused, "eth0", &eth0);
            assert!(text.contains(expected), "{text}");
        }
    }
}
