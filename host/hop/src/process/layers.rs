//! What a worker is shut in by.

use std::fmt;

/// Namespaces of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// User: what it may as root in there it may nowhere else.
    pub user: bool,
    /// Processes: it sees and signals nobody.
    pub processes: bool,
    /// Mounts.
    pub mounts: bool,
    /// Network: no interface, no abstract Unix sockets of others.
    pub network: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub host_name: bool,
}

impl Namespaces {
    /// All of them.
    pub const ALL: Self = Self {
        user: true,
        processes: true,
        mounts: true,
        network: true,
        ipc: true,
        host_name: true,
    };

    /// With the flags of `clone(2)`.
    const FLAGS: [i32; 6] = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
    ];

    fn each(self) -> [bool; 6] {
        [self.user, self.processes, self.mounts, self.network, self.ipc, self.host_name]
    }

    /// As flags of `clone3(2)`.
    pub(crate) fn flags(self) -> u64 {
        let wanted = self.each().into_iter().zip(Self::FLAGS).filter(|(wanted, _)| *wanted);
        wanted.fold(0, |flags, (_, flag)| flags | flag as u64)
    }

    /// From flags.
    pub(crate) fn of_flags(flags: u64) -> Self {
        let [user, processes, mounts, network, ipc, host_name] =
            Self::FLAGS.map(|flag| flags & flag as u64 != 0);
        Self { user, processes, mounts, network, ipc, host_name }
    }
}

/// Which layers are in force. Displayed as a list, with what is missing behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// The root directory is empty and cannot be written.
    pub empty_root: bool,
    /// No program gives it more privileges.
    pub no_new_privileges: bool,
    /// It has no capabilities, also not in its own namespaces.
    pub no_capabilities: bool,
    /// Resource limits.
    pub limits: bool,
    /// Only the system calls of a worker.
    pub system_calls: bool,
}

impl Confined {
    /// Names of the layers that are not in force.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.names(false)
    }

    fn names(&self, in_force: bool) -> Vec<&'static str> {
        let of = self.namespaces;
        let layers = [
            ("user namespace", of.user),
            ("process namespace", of.processes),
            ("mount namespace", of.mounts),
            ("network namespace", of.network),
            ("IPC namespace", of.ipc),
            ("host name", of.host_name),
            ("empty root", self.empty_root),
            ("no new privileges", self.no_new_privileges),
            ("no capabilities", self.no_capabilities),
            ("limits", self.limits),
            ("system calls", self.system_calls),
        ];
        layers.into_iter().filter(|(_, is)| *is == in_force).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = self.names(true).join(", ");
        match self.missing() {
            missing if missing.is_empty() => f.write_str(&there),
            missing => write!(f, "{there}; without {}", missing.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_names_are_of_the_same_namespaces() {
        let of = Namespaces { user: false, ..Namespaces::ALL };
        assert_eq!(Namespaces::of_flags(of.flags()), of);
        let report = Confined { namespaces: of, ..Confined::default() }.to_string();
        assert!(report.starts_with("process namespace, mount namespace"), "{report}");
        assert!(report.ends_with("no capabilities, limits, system calls"), "{report}");
        assert!(report.contains("; without user namespace, empty root"), "{report}");
    }
}
