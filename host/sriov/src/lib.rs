//! Physical and virtual functions of PCI network devices (SR-IOV;
//! `Documentation/PCI/pci-iov-howto.rst`).
//!
//! Owns: which functions there are, who uses them, how they are set (number, MAC, VLAN, driver,
//! ...), and undoing what was set. Must not know: chains, ports and listeners, nor the
//! configuration file; whoever asks says what is wanted as [`Wish`]es.
//!
//! ```text
//!   Wish -> plan -> Change -> Journal (on disk) -> Kernel          and on exit, or after a crash:
//!                                                                  Journal -> undo, last change first -> Kernel
//! ```
//!
//! All that can be set is a [`Setting`]: a place and its value. It is read and written by a
//! [`Kernel`]: files below `/sys` and netlink ([`Live`]), or a model of them in tests. A [`Change`]
//! has the setting as it was found and as it is wanted, so that undoing can tell whether somebody
//! else changed it meanwhile.

mod address;
mod drivers;
mod error;
mod functions;
mod iommu;
mod journal;
mod kernel;
mod kernel_log;
mod lent;
mod message;
mod netlink;
mod operations;
mod plan;
mod setting;
mod sysfs;
mod undo;
mod users;
mod watch;

pub use address::{InvalidMac, InvalidPciAddress, MacAddress, PciAddress};
pub use error::SriovError;
pub use functions::{PhysicalFunction, VfSettings, VirtualFunction, find, list, lost};
pub use journal::{Journal, JournalError};
pub use kernel::{Kernel, Link, Live};
pub use lent::{LentAddress, LentError, lend_mac, return_mac};
pub use operations::{BindTo, Bound, NewSettings, bind, create, remove, set};
pub use plan::{
    Done, Found, InterfaceWish, NicWish, Planned, Purpose, UnfulfilledWish, VfName, VfWish, Wish,
    apply, plan,
};
pub use setting::{Change, Interface, LinkState, Setting, VfValue};
pub use undo::{Outcome, UndoneChange, Unwritten, undo};
pub use watch::watch;
