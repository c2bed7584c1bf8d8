//! A virtual machine with NICs that have virtual functions (SR-IOV) and an IOMMU, all emulated by
//! QEMU, for tests.
//!
//! ```text
//!   machine                                      guest
//!   namespace ──tap──┬── NIC (igb) ─ PCIe ─ IOMMU ── igb, igbvf, vfio-pci
//!   /  ──9p, read-only──┴── under a file system in memory: what is built here runs there
//!   Guest ══ virtio-serial ══ agent: runs commands, streams what they write
//! ```
//!
//! Owns: the guest's command line and first process, the words between [`Guest`] and the agent.
//! Must not know: Weir. `scripts/setup` makes what it needs: QEMU, and a kernel in `target/vm`.

#![forbid(unsafe_code)]

pub mod agent;
mod error;
mod guest;
mod initramfs;
mod machine;
mod wire;

pub use error::Error;
pub use guest::{Event, Guest, Output, Process};
pub use machine::{Machine, Plug};
