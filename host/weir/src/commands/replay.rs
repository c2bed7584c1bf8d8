//! `weir replay`

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use weir_assembly::ReplayOptions;
use weir_author::trace;
use weir_chain::Mode;
use weir_packet_plane::{Observer, Trace};
use weir_sandbox::{LogLine, Sandbox, SandboxConfig};
use weir_spec::ReplayReport;

use crate::cli::ReplayArgs;

/// Runs the chain over the capture. What is notable on the way goes to standard error.
pub(super) fn run(args: &ReplayArgs) -> Result<ReplayReport> {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig {
        cache: args.cache.clone().map(super::kept_code),
        ..SandboxConfig::default()
    })?);
    let (chain, functions) = weir_assembly::load_chain(&sandbox, &args.chain, &args.functions)?;
    super::check_for_packets(&chain, "replay")?;
    // Packets come one after the other, to the first of the chain's workers.
    let plan = weir_assembly::plan_of(&chain, &functions, Mode::Linked, 0);
    let names: Vec<_> = plan.functions.iter().map(|function| function.name.clone()).collect();
    let bar = if args.quiet || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} packets {eta}");
        ProgressBar::no_length().with_style(style.expect("the template is right"))
    };
    let options = ReplayOptions::default();
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let trace = args.trace.clone().map(|which| {
        // What a function makes while these come in is of interest too.
        Trace::new(usize::MAX, names.len(), Box::new(move |it| which.contains(&it.number)))
    });
    let observer = trace.as_ref().map(|trace| |room| trace.observer(room));
    let observer = observer.as_ref().map(|observer| observer as &dyn Fn(u32) -> Box<dyn Observer>);
    let outcome = weir_assembly::replay(
        &sandbox,
        plan,
        &args.input,
        &args.output,
        &options,
        observer,
        progress,
    );
    bar.finish_and_clear();
    let mut outcome = outcome?;
    if let Some(trace) = trace {
        outcome.report.trace = trace::told(&weir_assembly::ways(trace.recorded().0, &names))?;
    }
    if !args.quiet {
        let read = outcome.report.packets_in;
        if let Some(which) = args.trace.as_ref().filter(|which| *which.start() > read) {
            let (from, to) = which.clone().into_inner();
            eprintln!("note: the capture has {read} packets, none of {from}-{to} to be traced");
        }
        // What is wrong with the capture is told below.
        let told = |event: &&String| outcome.damage.as_ref().is_none_or(|d| !event.contains(d));
        for event in outcome.events.iter().filter(told) {
            eprintln!("note: {event}");
        }
        // Faults, of which the engine writes into the log too, are told above.
        let own = |line: &&LogLine| !line.message.starts_with("fault: ");
        for (function, lines) in &outcome.logs {
            let lines: Vec<_> = lines.iter().filter(own).collect();
            if args.verbose {
                for LogLine { level, message, .. } in lines {
                    let level = format!("{level:?}").to_lowercase();
                    eprintln!("log: {function}: {level}: {message}");
                }
            } else if !outcome.events.is_empty() && !lines.is_empty() {
                let shown = match lines.len() {
                    1 => "1 line: -v shows it".to_owned(),
                    n => format!("{n} lines: -v shows them"),
                };
                eprintln!("note: {function} logged {shown}");
            }
        }
    }
    if let Some(damage) = &outcome.damage {
        eprintln!("warning: {damage}");
    }
    Ok(outcome.report)
}
