//! What the kernel is asked and told: files below `/sys`, and links by netlink.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::functions::VfSettings;
use crate::netlink;
use crate::setting::VfValue;

/// An interface, as it was when asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Set up by the operator.
    pub up: bool,
    /// It is a part of a bridge, a bond or the like.
    pub enslaved: bool,
    /// An XDP program runs on it.
    pub has_xdp: bool,
    /// Its virtual functions, if it is a physical one.
    pub vfs: Vec<VfSettings>,
}

/// The kernel, or in tests a model of it.
pub trait Kernel: Send + Sync {
    /// Where sysfs is.
    fn sys(&self) -> &Path;

    /// Where procfs is.
    fn proc(&self) -> &Path;

    /// How long to wait for what the kernel does a moment after it was asked: modules are loaded,
    /// interfaces named.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Writes a file below [`Self::sys`].
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;

    /// How an interface is; none if there is no such interface.
    ///
    /// # Errors
    /// What the kernel says.
    fn link(&self, interface: &str) -> io::Result<Option<Link>>;

    /// The addresses of an interface, with the lengths of their prefixes.
    ///
    /// # Errors
    /// What the kernel says.
    fn addresses(&self, interface: &str) -> io::Result<Vec<(IpAddr, u8)>>;

    /// Sets something of a virtual function of this interface's.
    ///
    /// # Errors
    /// What the kernel or the driver says.
    fn set_vf(&self, interface: &str, index: u16, value: &VfValue) -> io::Result<()>;

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_up(&self, interface: &str, up: bool) -> io::Result<()>;

    /// Gives an interface an address, or takes it away.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
        present: bool,
    ) -> io::Result<()>;
}

/// The kernel itself.
#[derive(Clone, Debug)]
pub struct Live {
    sys: PathBuf,
    proc: PathBuf,
}

impl Live {
    /// The kernel whose sysfs and procfs are mounted here. Netlink is that of the caller's network
    /// namespace.
    pub fn at(sys: impl Into<PathBuf>, proc: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into(), proc: proc.into() }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::at("/sys", "/proc")
    }
}

impl Kernel for Live {
    fn sys(&self) -> &Path {
        &self.sys
    }

    fn proc(&self) -> &Path {
        &self.proc
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        use std::io::Write as _;
        // Not created, and in one call: sysfs takes a value whole.
        fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
    }

    fn link(&self, interface: &str) -> io::Result<Option<Link>> {
        netlink::link(interface)
    }

    fn addresses(&self, interface: &str) -> io::Result<Vec<(IpAddr, u8)>> {
        netlink::addresses(interface)
    }

    fn set_vf(&self, interface: &str, index: u16, value: &VfValue) -> io::Result<()> {
        netlink::set_vf(interface, index, value)
    }

    fn set_up(&self, interface: &str, up: bool) -> io::Result<()> {
        netlink::set_up(interface, up)
    }

    fn set_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
        present: bool,
    ) -> io::Result<()> {
        netlink::set_address(interface, address, prefix, present)
    }
}
