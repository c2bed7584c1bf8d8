//! `weir sriov`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum SriovCommand {
    /// List physical functions, and their virtual functions with how they are set and who uses
    /// them.
    List {
        /// Only this one: its interface or PCI address.
        #[arg(value_name = "PF")]
        pf: Option<String>,
    },
    /// Create virtual functions. The kernel does that only while there are none.
    Create {
        /// The physical function: its interface or PCI address.
        #[arg(value_name = "PF")]
        pf: String,
        /// How many.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        number: u16,
    },
    /// Remove all virtual functions, unless somebody uses one.
    Remove {
        /// The physical function: its interface or PCI address.
        #[arg(value_name = "PF")]
        pf: String,
    },
    /// Set something of a virtual function, by its physical function. The rest stays as it is.
    Set(SriovSet),
    /// Give a virtual function to a driver, unless somebody uses it.
    Bind {
        /// The physical function: its interface or PCI address.
        #[arg(value_name = "PF")]
        pf: String,
        /// The virtual function's number.
        #[arg(value_name = "VF")]
        vf: u16,
        /// Whom it is for.
        #[arg(value_name = "DRIVER", value_enum)]
        to: SriovBinding,
        /// Also where no IOMMU keeps its user from all of the machine's memory. Weir's own ports
        /// cannot use that.
        #[arg(long)]
        no_iommu: bool,
        /// Take it from the driver first if it has it already: it then learns of a new MAC address.
        #[arg(long)]
        again: bool,
    },
    /// Undo what a host that crashed changed of network devices. The next start of the host does
    /// the same.
    Restore {
        /// The host's configuration, for its store; looked for as `weir run` does.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct SriovSet {
    /// The physical function: its interface or PCI address.
    #[arg(value_name = "PF")]
    pub(crate) pf: String,
    /// The virtual function's number.
    #[arg(value_name = "VF")]
    pub(crate) vf: u16,
    /// MAC address; 00:00:00:00:00:00 takes it away.
    #[arg(long, value_name = "MAC", group = "what")]
    pub(crate) mac: Option<weir_sriov::MacAddress>,
    /// The VLAN that it is in without knowing it; 0: none.
    #[arg(long, value_name = "VLAN", group = "what", value_parser = clap::value_parser!(u16).range(0..=4094))]
    pub(crate) vlan: Option<u16>,
    /// The priority of its frames in the VLAN.
    #[arg(long, value_name = "QOS", group = "what", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub(crate) qos: Option<u8>,
    /// Whether it may change its MAC address and see others' frames.
    #[arg(long, value_enum, group = "what")]
    pub(crate) trust: Option<OnOff>,
    /// Whether frames with others' source addresses are dropped.
    #[arg(long, value_enum, group = "what")]
    pub(crate) spoof_check: Option<OnOff>,
    /// Mbit/s that it may send at most; 0: no limit.
    #[arg(long, value_name = "MBIT", group = "what")]
    pub(crate) max_rate: Option<u32>,
    /// Mbit/s that it may send at least; 0: nothing is set aside.
    #[arg(long, value_name = "MBIT", group = "what")]
    pub(crate) min_rate: Option<u32>,
    /// How its link is; `auto`: as the physical function's.
    #[arg(long, value_enum, group = "what")]
    pub(crate) link: Option<SriovLink>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
}

impl OnOff {
    pub(crate) fn is_on(self) -> bool {
        self == Self::On
    }
}

/// How a virtual function's link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SriovLink {
    /// As the physical function's.
    Auto,
    /// Always up.
    Up,
    /// Always down.
    Down,
}

/// Whom a virtual function is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SriovBinding {
    /// User space: DPDK.
    VfioPci,
    /// Its driver in the kernel, which makes an interface of it.
    Kernel,
}
