//! `weir-vm`: runs a command in a guest; see `scripts/vm`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use weir_vm::{Error, Event, Machine, Plug};

/// As `timeout` has it.
const TOO_LONG: u8 = 124;
/// As `docker run` has it: not the command failed.
const NO_GUEST: u8 = 125;
/// As shells have it.
const NO_COMMAND: u8 = 127;

/// Runs a command in a virtual machine with NICs that have virtual functions (SR-IOV) and an IOMMU.
///
/// The guest sees the files of this machine; what it writes is gone with it, but for directories
/// that are shared. It has no clock of its own and emulates its CPU: good for tests, not for
/// numbers. The command's exit status is the answer; 124: the time was over; 125: the guest did not
/// start or crashed; 127: there is no such command.
#[derive(Parser)]
#[command(name = "scripts/vm", version)]
struct Arguments {
    /// A NIC, and what it is plugged into: `tap:NAMESPACE/INTERFACE`, `tap:INTERFACE`, or what
    /// QEMU's -netdev takes. Once for each NIC; without, there is one that is plugged in nowhere
    #[arg(long = "nic", value_name = "PLUG")]
    nics: Vec<Plug>,
    /// MiB of memory
    #[arg(long, default_value_t = 1536, value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Cores
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    cores: u32,
    /// Huge pages of 2 MiB, out of the memory
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    huge_pages: u32,
    /// No IOMMU
    #[arg(long)]
    no_iommu: bool,
    /// A directory that the guest may write to, at the same place
    #[arg(long = "share", value_name = "DIRECTORY")]
    shares: Vec<PathBuf>,
    /// Seconds after which the guest is ended
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    limit: u64,
    /// Where the guest's kernel is, and this program
    #[arg(long, default_value = "target", hide = true)]
    target: PathBuf,
    /// The command. It runs as root, in this directory
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("__agent") {
        return match weir_vm::agent::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("agent: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(match error.downcast_ref() {
                Some(Error::TooLong { .. }) => TOO_LONG,
                Some(Error::Refused(_)) => NO_COMMAND,
                _ => NO_GUEST,
            })
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut machine = Machine::new(&arguments.target);
    if !arguments.nics.is_empty() {
        machine.nics = arguments.nics;
    }
    machine.memory = arguments.memory;
    machine.cores = arguments.cores;
    machine.huge_pages = arguments.huge_pages;
    machine.iommu = !arguments.no_iommu;
    machine.shares = arguments.shares;
    machine.limit = Duration::from_secs(arguments.limit);
    let directory = std::env::current_dir().context("this directory")?;
    let guest = machine.boot()?;
    let words: Vec<&str> = arguments.command.iter().map(String::as_str).collect();
    let process = guest.start(&directory.display().to_string(), &words)?;
    let status = loop {
        match process.next()? {
            Event::Stdout(bytes) => std::io::stdout().write_all(&bytes)?,
            Event::Stderr(bytes) => std::io::stderr().write_all(&bytes)?,
            Event::Ended(status) => break status,
        }
        std::io::stdout().flush()?;
    };
    guest.power_off()?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}
