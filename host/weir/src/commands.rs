//! What the commands do. Each gets its arguments and gives back what is to be shown, or shows it.

mod bench;
mod chain;
mod check;
mod component;
mod events;
mod function;
mod host;
mod listener;
mod log;
mod new;
mod replay;
mod run;
mod sriov;
mod steer;
mod tap;
mod tenant;
mod test;
mod top;
mod trace;
mod watch;

use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use weir_chain::ChainError;
use weir_packet_plane::PlaneError;
use weir_sandbox::{CodeCache, Given, InstanceError};
use weir_spec::{BenchReport, Chain, Document, Plane, ReplayReport};

use crate::cli::{ChildArgs, Cli, Command};
use crate::client::Client;
use crate::render::{self, Output};

/// Does what the command line says. The answer is whether it went well; a check that finds
/// something does not.
///
/// # Errors
/// When it cannot be done.
pub(crate) fn dispatch(cli: Cli) -> Result<bool> {
    let Cli { global, command } = cli;
    let output = Output::new(&global);
    match command {
        Command::Run(args) if args.check => run::check(&args, output)?,
        Command::Run(args) => run::run(&args, &global)?,
        Command::Replay(mut args) => {
            (args.quiet, args.verbose) = (global.quiet, global.verbose > 0);
            let format = args.report.unwrap_or(global.output);
            let report = replay::run(&args).map_err(|error| in_file(error, &args.chain))?;
            Output { format, ..output }.result(&report, replayed)?;
        }
        Command::Bench(mut args) => {
            args.quiet = global.quiet;
            let report = bench::run(&args).map_err(|error| in_file(error, &args.chain))?;
            output.result(&report, benched)?;
        }
        Command::Check(args) => return check::run(&args, output),
        Command::Component(args) => component::run(&args, output)?,
        Command::New(args) => new::run(&args, output)?,
        Command::Test(args) => return test::run(&args, output),
        Command::Function(command) => function::run(command, &Client::new(&global)?, output)?,
        Command::Chain(command) => chain::run(command, &Client::new(&global)?, output)?,
        Command::Steer(command) => steer::run(command, &Client::new(&global)?, output)?,
        Command::Port(_) => host::ports(&Client::new(&global)?, output)?,
        Command::Sriov(command) => sriov::run(command, output)?,
        Command::Tenant(command) => tenant::run(command, &Client::new(&global)?, output)?,
        Command::Token(command) => {
            let tenant = global.tenant.clone();
            tenant::tokens(command, tenant, &Client::new(&global)?, output)?;
        }
        Command::Status => host::status(&Client::new(&global)?, output)?,
        Command::Top(args) => top::run(&args, &Client::new(&global)?, output)?,
        Command::Trace(args) => trace::run(&args, &Client::new(&global)?, output)?,
        Command::Tap(args) => tap::run(&args, &Client::new(&global)?, output)?,
        Command::Events(args) => events::run(&args, &Client::new(&global)?, output)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut offered(), "weir", &mut script);
            render::print(&script)?;
        }
        Command::Man => render::print(&manual()?)?,
        Command::Compile(args) => compile(&args)?,
        Command::Admit(args) => admission(&args)?,
        Command::Lines(args) => lines(&args)?,
        Command::MessageWorker => weir_message_worker::serve().map_err(anyhow::Error::msg)?,
    }
    Ok(true)
}

/// The command without what only the host itself calls.
fn offered() -> clap::Command {
    let whole = Cli::command();
    let commands = whole.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
    clap::Command::new("weir")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(whole.get_arguments().cloned())
        .subcommands(commands)
}

/// Refuses what has no part for packets: there is nothing for this command to run.
fn check_for_packets(chain: &Chain, command: &str) -> Result<()> {
    anyhow::ensure!(
        chain.plane() != Plane::Message,
        "chain {} is for messages, and `weir {command}` runs chains for packets: `weir test` runs functions for messages",
        chain.name
    );
    Ok(())
}

/// A configuration that its function refused is shown where the chain's file has it.
fn in_file(error: anyhow::Error, file: &Path) -> anyhow::Error {
    let Some(PlaneError::Chain(ChainError::Instance(InstanceError::Refused {
        name,
        what: Given::Configuration,
        message,
    }))) = error.downcast_ref()
    else {
        return error;
    };
    match Document::<Chain>::read(file) {
        Ok(document) => {
            let invalid = document.value.refused_configuration(name, message);
            document.locate(invalid).into()
        }
        Err(_) => error,
    }
}

/// The manual: one page for the command, with a section for each subcommand.
fn manual() -> Result<Vec<u8>> {
    fn add(command: &clap::Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            let named = sub.clone().bin_name(&path);
            writeln!(page, ".SH \"{}\"", path.to_uppercase())?;
            let man = clap_mangen::Man::new(named);
            man.render_synopsis_section(page)?;
            man.render_description_section(page)?;
            man.render_options_section(page)?;
            add(sub, &path, page)?;
        }
        Ok(())
    }
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    add(&command, "weir", &mut page)?;
    Ok(page)
}

/// Bytes of address space for the compiling child: more than any component that is admitted needs.
const COMPILE_MEMORY: u64 = 8 << 30;
/// Seconds of CPU time for it, in case that nobody is left to kill it.
const COMPILE_TIME: u64 = 300;

/// The child of [`weir_sandbox::Compiler::Child`]: an upload that makes the compiler use up memory
/// or time, or crash, takes only this process with it.
fn compile(args: &ChildArgs) -> Result<()> {
    child(args, (COMPILE_MEMORY, COMPILE_TIME), |component, cores| {
        rayon::ThreadPoolBuilder::new().num_threads(cores).build_global()?;
        Ok(weir_sandbox::Sandbox::precompile(component)?)
    })
}

/// Bytes of address space for the child that looks at an upload, of which the allocator reserves
/// the first half at once, and seconds of CPU time.
const ADMISSION_MEMORY: u64 = 2 << 30;
const ADMISSION_TIME: u64 = 60;

/// The child of [`weir_sandbox::Compiler::Child`] that looks at an upload before it is compiled.
fn admission(args: &ChildArgs) -> Result<()> {
    child(args, (ADMISSION_MEMORY, ADMISSION_TIME), |upload, _| {
        Ok(weir_sandbox::answer_admission(upload))
    })
}

/// Bytes of address space for the child that reads line tables, of which the allocator reserves the
/// first half at once, and seconds of CPU time.
const LINES_MEMORY: u64 = 2 << 30;
const LINES_TIME: u64 = 5;

/// The child of [`weir_sandbox::read_lines_in_children`].
fn lines(args: &ChildArgs) -> Result<()> {
    child(args, (LINES_MEMORY, LINES_TIME), |question, _| {
        let answer = weir_sandbox::read_lines(question).context("that is no question")?;
        Ok(answer.into_bytes())
    })
}

/// A child of the host: it answers what it is asked, within these limits of memory and time, and
/// shut in. What of that cannot be had it says. The answer is told on how many cores it may work:
/// where that is written it cannot read any more.
fn child(
    args: &ChildArgs,
    (memory, time): (u64, u64),
    answer: impl FnOnce(&[u8], usize) -> Result<Vec<u8>>,
) -> Result<()> {
    limit(memory, time)?;
    step_back(&args.beside);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let missing = weir_confine::shut_in();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
        eprintln!("not shut in by {}", missing.join(", "));
    }
    let mut question = Vec::new();
    std::io::stdin().read_to_end(&mut question).context("reading what the host asks")?;
    std::io::stdout().write_all(&answer(&question, cores)?).context("writing the answer")?;
    Ok(())
}

/// Limits this process.
fn limit(memory: u64, time: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    for (resource, limit) in [(Resource::As, memory), (Resource::Cpu, time), (Resource::Core, 0)] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .with_context(|| format!("limiting {resource:?} to {limit}"))?;
    }
    Ok(())
}

/// Leaves the memory to the host where there is not enough for both, and these cores to its
/// workers. Neither has to be had. It is not nice: where all cores are busy, what may take a minute
/// would not come to an end in it.
fn step_back(workers: &[u16]) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let Ok(mut cores) = sched_getaffinity(None) else { return };
    for core in workers.iter().map(|core| usize::from(*core)) {
        if core < CpuSet::MAX_CPU {
            cores.unset(core);
        }
    }
    if cores.count() > 0 {
        let _ = sched_setaffinity(None, &cores);
    }
}

/// `name:count` of what is not zero.
fn counts<'a>(all: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    let text: Vec<_> =
        all.into_iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name}:{n}")).collect();
    if text.is_empty() { "-".to_owned() } else { text.join(" ") }
}

/// Where code that was compiled is kept, for `--cache`.
fn kept_code(directory: PathBuf) -> CodeCache {
    CodeCache::new(directory, weir_spec::Store::default().compiled.get(), 0)
}

/// What is not there, in a table.
fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

fn replayed(report: &ReplayReport) -> String {
    let functions = report.functions.iter().map(|function| {
        [
            function.name.clone(),
            or_dash(Some(&function.version).filter(|version| !version.is_empty())),
            function.packets.to_string(),
            counts(&function.verdicts),
            function.faults.to_string(),
        ]
    });
    let table =
        render::table(["function", "version", "#packets", "verdicts", "#faults"], functions);
    let facts = render::facts(&[
        ("packets in", report.packets_in.to_string()),
        ("packets out", report.packets_out.to_string()),
        ("drops", counts(&report.drops)),
    ]);
    let trace: String = report.trace.iter().map(trace::told).collect();
    format!("{trace}{table}\n{facts}")
}

fn benched(report: &BenchReport) -> String {
    render::facts(&[
        ("packets per second", format!("{:.0}", report.packets_per_second)),
        ("ns per packet", format!("{:.1}", report.ns_per_packet)),
        ("ns per packet, p99", format!("{:.1}", report.ns_per_packet_p99)),
        ("functions", report.functions.to_string()),
        ("burst", report.burst.to_string()),
        ("packet size", format!("{} bytes", report.size)),
        ("flows", report.flows.to_string()),
        ("cores", report.cores.to_string()),
    ])
}
