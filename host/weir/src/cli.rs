//! The command line, as types. Names and flags are a promise to scripts.

mod sriov;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use semver::Version;
use weir_spec::{InvalidName, IpPrefix, IpProtocol, Name, Period, PortRange};

pub(crate) use sriov::{OnOff, SriovBinding, SriovCommand, SriovLink, SriovSet};

/// Runs network functions as sandboxed WebAssembly components.
///
/// `weir run` is the host. The other commands either talk to it (`--api`), or need none: `new`,
/// `test`, `replay`, `check`, `bench`.
///
/// Exit status: 0 done, 1 it failed (one message on standard error says why), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the host is: a Unix socket (`unix:/run/weir/api.sock`, or its path), or
    /// `http://ADDRESS:PORT`.
    #[arg(long, global = true, value_name = "URL", env = "WEIR_API", hide_env_values = true, default_value = DEFAULT_API)]
    pub(crate) api: String,
    /// Token for a host that is reached by HTTP.
    #[arg(long, global = true, value_name = "TOKEN", env = "WEIR_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Whose things are meant; without it the token's tenant, or `default`.
    #[arg(long, global = true, value_name = "NAME", env = "WEIR_TENANT", hide_env_values = true)]
    pub(crate) tenant: Option<Name>,
    /// How results are written to standard output.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Say less: no progress, no notes, nothing about what was done; errors and what was asked for
    /// only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Be more verbose: the host logs more (`-vv`: everything), `replay` shows what functions log,
    /// other commands tell what they ask the host.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Whether to use colours; `auto`: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// The socket of a host with the default configuration.
const DEFAULT_API: &str = "unix:/run/weir/api.sock";

/// Forms of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the host in the foreground. SIGTERM drains and ends it, SIGHUP reads the file again.
    Run(RunArgs),
    /// Run a chain over a capture: the host's own engine, without a host and without root.
    Replay(ReplayArgs),
    /// Say what the host would say on upload: the world, imports and limits, or why it is refused.
    Check(CheckArgs),
    /// Make a component of a core module, as compilers for languages without component tools give
    /// it.
    Component(ComponentArgs),
    /// Write a project for a function: a template that works, with its tests, its build script and
    /// the SDK.
    #[command(override_usage = "weir new [OPTIONS] --lang <LANGUAGE> [NAME]")]
    New(NewArgs),
    /// Test a function with captures or requests: the host's own engine, without a host and without
    /// root.
    Test(TestArgs),
    /// Functions: push, list, show, remove, swap, roll back, log.
    #[command(subcommand)]
    Function(FunctionCommand),
    /// Chains: apply, list, show, remove.
    #[command(subcommand)]
    Chain(ChainCommand),
    /// Which packets go to which chain, to the kernel, or nowhere.
    #[command(subcommand)]
    Steer(SteerCommand),
    /// The host's ports.
    #[command(subcommand)]
    Port(PortCommand),
    /// Virtual functions of this machine's network devices (SR-IOV). Needs no host, but root to
    /// change anything.
    #[command(subcommand)]
    Sriov(SriovCommand),
    /// Tenants: list, add, remove. Adding and removing is for the administrator alone.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Tokens of a tenant (`--tenant`): list, add, remove. For the administrator alone.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show the host's chains, with their functions and counters.
    Status,
    /// Show live packet rates of chains, functions and ports.
    Top(TopArgs),
    /// Follow packets through a chain while it runs: which functions saw them, what each decided,
    /// and what it changed. Headers are shown as tshark shows them, if it is installed here.
    Trace(TraceArgs),
    /// Copy packets of a chain while it runs, to a capture or as text: those that come to it and
    /// leave it, or to and from one of its functions, with what that decided.
    Tap(TapArgs),
    /// Show what happened: pushes, swaps, faults, roll-backs.
    Events(EventsArgs),
    /// Measure a chain between a generator and a sink in memory.
    Bench(BenchArgs),
    /// Write completions for a shell to standard output.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the manual page to standard output (`weir man | man -l -`).
    Man,
    /// Compile a component from standard input to standard output, for the host.
    #[command(name = "__compile", hide = true)]
    Compile(ChildArgs),
    /// Say of an upload from standard input whether it may be compiled, for the host.
    #[command(name = "__admit", hide = true)]
    Admit(ChildArgs),
    /// Find lines of source in a component, both from standard input, for the host.
    #[command(name = "__lines", hide = true)]
    Lines(ChildArgs),
    /// Run a chain of message functions, for the host.
    #[command(name = "__message-worker", hide = true)]
    MessageWorker,
}

/// What a child of the host has to know.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Cores that are the host's workers'.
    #[arg(long, value_delimiter = ',')]
    pub(crate) beside: Vec<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration. Without it: `weir.toml`, else `/etc/weir/weir.toml`, else the defaults.
    /// Paths in it are relative to it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Check the configuration and what it names (certificates, captures, interfaces, directories),
    /// then exit. Starts nothing, and may be used beside a running host.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The chain.
    #[arg(long, value_name = "FILE")]
    pub(crate) chain: PathBuf,
    /// The capture to read: pcap or pcapng.
    #[arg(id = "in", long = "in", value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The capture to write: pcapng if the name ends so, else as the input.
    #[arg(id = "out", long = "out", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Form of the report; without it that of `--output`.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) report: Option<Format>,
    /// Where functions that the chain names with `use` are.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/functions")]
    pub(crate) functions: PathBuf,
    /// Where compiled code is kept from one replay to the next, which saves seconds with functions
    /// in Python or JavaScript. Must be writable by nobody else: what lies there is executed.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) cache: Option<PathBuf>,
    /// Follow packets from function to function, and show what each did to them: the first so many,
    /// or those with the numbers FROM-TO. Headers are shown as tshark shows them, if it is
    /// installed.
    #[arg(long, value_name = "PACKETS", value_parser = numbers)]
    pub(crate) trace: Option<RangeInclusive<u64>>,
    /// Draw no progress bar; set from `--quiet`.
    #[arg(skip)]
    pub(crate) quiet: bool,
    /// Show what functions log; set from `--verbose`.
    #[arg(skip)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A component, or a core module that carries its component type.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ComponentArgs {
    /// The core module; WAT if its name ends in `.wat`.
    #[arg(value_name = "CORE")]
    pub(crate) file: PathBuf,
    /// The world of `weir:net` that it implements; may be left out when the module says it (a
    /// `component-type` section).
    #[arg(long, value_name = "WORLD", value_parser = clap::builder::PossibleValuesParser::new(weir_component::WORLDS))]
    pub(crate) world: Option<String>,
    /// A manifest (`function.toml`) for the component to carry.
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// The component to write; without it the core module's name with `.component.wasm`.
    #[arg(short = 'o', long = "out", value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The directory to make; its last part is the function's name.
    #[arg(value_name = "NAME")]
    pub(crate) directory: Option<PathBuf>,
    /// The language, such as `rust` or `c`; `list` (without NAME) lists those that there are.
    #[arg(long, value_name = "LANGUAGE")]
    pub(crate) lang: String,
    /// What it is for.
    #[arg(long, value_name = "PLANE", value_enum, default_value_t)]
    pub(crate) plane: PlaneArg,
}

/// A plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlaneArg {
    /// Packets (L2/L3).
    #[default]
    Packet,
    /// Requests, responses, connections (L4/L7).
    Message,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// A project, or a component or core module that carries its component type.
    #[arg(value_name = "FILE", default_value = ".")]
    pub(crate) file: PathBuf,
    /// A capture to give it, in place of the tests in `weir-test.toml`.
    #[arg(id = "in", long = "in", value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// A capture of what has to leave, byte for byte.
    #[arg(long, value_name = "FILE", requires = "in")]
    pub(crate) expect: Option<PathBuf>,
    /// Its configuration: a TOML or JSON file, or JSON itself.
    #[arg(long, value_name = "CONFIG", requires = "in")]
    pub(crate) config: Option<String>,
    /// Where compiled code is kept from one run to the next, as for `weir replay`. Must be writable
    /// by nobody else: what lies there is executed.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) cache: Option<PathBuf>,
    /// Do not build the project, even if its sources are newer than what was built.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// How long to measure what a packet costs; 0 for not at all.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(crate) measure: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The chain.
    #[arg(long, value_name = "FILE")]
    pub(crate) chain: PathBuf,
    /// Bytes of a packet.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(60..=9216))]
    pub(crate) size: u32,
    /// Flows.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) flows: u32,
    /// Packets in a burst.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) burst: u32,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Cores; each runs the whole chain.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) cores: u32,
    /// How the chain is run.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mode: BenchMode,
    /// Where functions that the chain names with `use` are.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/functions")]
    pub(crate) functions: PathBuf,
    /// Draw no progress; set from `--quiet`.
    #[arg(skip)]
    pub(crate) quiet: bool,
}

/// How a chain is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchMode {
    /// As one component: a burst enters the sandbox once.
    #[default]
    Linked,
    /// One component for each function.
    Separate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FunctionCommand {
    /// Upload a version of a function.
    Push(PushArgs),
    /// List functions.
    List,
    /// Show a function: its versions, and where they run.
    Show(FunctionArgs),
    /// Remove a function, or one version of it, unless it is in use.
    Remove {
        #[command(flatten)]
        function: FunctionArgs,
        /// Only this version.
        #[arg(long, value_name = "VERSION", value_parser = version)]
        version: Option<Version>,
    },
    /// Replace the running version in all chains that use the function, with no packet lost.
    Swap(SwapArgs),
    /// End the trial of a version, or bring back the version before the running one.
    Rollback(RollbackArgs),
    /// Show what a function logged.
    Log(LogArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The function.
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    /// Go on with what it logs from now on, until interrupted.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only so many lines, the newest.
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Only lines that are no older than this: "10m".
    #[arg(long, value_name = "PERIOD")]
    pub(crate) since: Option<Period>,
}

#[derive(Debug, Args)]
pub(crate) struct FunctionArgs {
    /// The function.
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// A component, or a core module that carries its component type; with `--watch` also a
    /// project.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Go on: build, push and swap it each time that a file of the project is saved, until
    /// interrupted.
    #[arg(long, conflicts_with = "version")]
    pub(crate) watch: bool,
    /// The function's name; without it that of its manifest.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Its version; without it that of its manifest, or the patch after the highest.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) version: Option<Version>,
    /// A manifest (`function.toml`) to use instead of the one that it carries.
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SwapArgs {
    /// The function.
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    /// The version to switch to.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) to: Version,
    /// Send it only this share of the flows, 1 to 99 %. To change the share, swap again; to promote
    /// it, swap without `--canary`; to end it, roll back.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) canary: Option<u8>,
    /// Show it copies only, and report where its verdicts differ.
    #[arg(long, conflicts_with = "canary")]
    pub(crate) shadow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The function.
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
    /// Only from this version: when it neither is being tried nor runs, nothing changes. For
    /// scripts, and whoever may come too late.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) from: Option<Version>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Deploy a chain, or change the one of that name. Functions given as `path` are pushed first.
    Apply {
        /// The chain.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List chains.
    List,
    /// Show a chain.
    Show(ChainArgs),
    /// Take a chain down and forget it.
    Remove(ChainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    /// The chain.
    #[arg(value_name = "NAME")]
    pub(crate) name: Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SteerCommand {
    /// Replace all rules by those of a file, while traffic flows. An empty file removes them.
    Apply {
        /// The rules.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the rules with the flows that they decided, and what follows from the chains' `from`,
    /// `to` and `symmetric` for other packets.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List the ports with their counts.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// List tenants.
    List,
    /// Make a tenant, or change what is said of it.
    Add {
        /// The tenant.
        #[arg(value_name = "NAME")]
        name: Name,
        /// One sentence for people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Remove a tenant that has no functions and chains any more, and its tokens.
    Remove {
        /// The tenant.
        #[arg(value_name = "NAME")]
        name: Name,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the tokens that were made with `add`.
    List,
    /// Make a token, and write it to standard output: this once, it is not kept.
    Add {
        /// What its holder may do.
        #[arg(long, value_enum, value_name = "ROLE")]
        role: TokenRole,
        /// For people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Make a token worthless.
    Remove {
        /// Its id, as `list` shows it.
        #[arg(value_name = "ID")]
        id: Name,
    },
}

/// Roles of a tenant's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// Change what belongs to the tenant.
    Operator,
    /// See what belongs to the tenant.
    Viewer,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Whole seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) interval: u32,
    /// Looks after which it ends; without it, when interrupted.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The chain.
    #[arg(value_name = "CHAIN")]
    pub(crate) chain: Name,
    /// Packets to follow, 1000 at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) packets: u32,
    /// Seconds to wait for them, 60 at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,
    #[command(flatten)]
    pub(crate) only: ConditionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    /// The chain, or one of its functions.
    #[arg(value_name = "CHAIN[:FUNCTION]")]
    pub(crate) place: TapPlace,
    /// Write them to this file, as a capture (pcapng); `-` is standard output. Without it they are
    /// shown, one a line.
    #[arg(short = 'w', long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Packets after which it ends; without it, when interrupted.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) packets: Option<u32>,
    /// Seconds after which it ends, a day at most.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: Option<u32>,
    /// Only packets that go to the chain or function, or from it.
    #[arg(short = 'Q', long, value_name = "DIRECTION")]
    pub(crate) direction: Option<TapSide>,
    /// Bytes of each packet at most.
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) snap_length: u32,
    #[command(flatten)]
    pub(crate) only: ConditionArgs,
}

/// Where `weir tap` looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TapPlace {
    pub(crate) chain: Name,
    pub(crate) function: Option<Name>,
}

impl FromStr for TapPlace {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (chain, function) = match text.split_once(':') {
            Some((chain, function)) => (chain, Some(function.parse()?)),
            None => (text, None),
        };
        Ok(Self { chain: chain.parse()?, function })
    }
}

/// Which way packets of a tap go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapSide {
    /// To the chain or function.
    In,
    /// From it.
    Out,
}

/// What is named of a packet has to be so, as in a steering rule.
#[derive(Debug, Args)]
pub(crate) struct ConditionArgs {
    /// Only packets that come in by this port.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<Name>,
    /// Only packets from this address, or with this prefix of it.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) src: Option<IpPrefix>,
    /// Only packets to this address, or with this prefix of it.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dst: Option<IpPrefix>,
    /// Only packets of this protocol behind IP's headers: `tcp`, `udp`, `icmp`, ..., or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) proto: Option<IpProtocol>,
    /// Only packets with this source port, or one of a range FROM-TO.
    #[arg(long, value_name = "PORTS")]
    pub(crate) sport: Option<PortRange>,
    /// Only packets with this destination port, or one of a range FROM-TO.
    #[arg(long, value_name = "PORTS")]
    pub(crate) dport: Option<PortRange>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on, until interrupted.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events after this number.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) after: u64,
}

/// Numbers of packets: the first so many, or from one to another.
fn numbers(text: &str) -> Result<RangeInclusive<u64>, String> {
    let wrong = || "allowed: a number, for the first so many, or FROM-TO, from 1".to_owned();
    let number = |text: &str| text.parse().ok().filter(|n| *n > 0).ok_or_else(wrong);
    let (from, to) = match text.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (1, number(text)?),
    };
    if from > to { Err(wrong()) } else { Ok(from..=to) }
}

/// A version, with what is allowed when it is none.
fn version(text: &str) -> Result<Version, String> {
    Version::parse(text)
        .map_err(|error| format!("{error}; allowed is MAJOR.MINOR.PATCH, such as 1.2.0"))
}
