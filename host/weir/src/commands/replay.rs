//! `weir replay`

use std::cell::OnceCell;
use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use weir_assembly::ReplayOptions;
use weir_author::trace::Trace;
use weir_chain::{Mode, Observer};
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_spec::ReplayReport;

use crate::cli::ReplayArgs;

/// Runs the chain over the capture. What is notable on the way goes to standard error.
pub(super) fn run(args: &ReplayArgs) -> Result<ReplayReport> {
    let (chain, functions) = weir_assembly::load_chain(&args.chain, &args.functions)?;
    let sandbox = Arc::new(Sandbox::new(SandboxConfig {
        cache: args.cache.clone(),
        ..SandboxConfig::default()
    })?);
    // Between the functions of a linked chain nobody can look.
    let mode = if args.trace.is_some() { Mode::Separate } else { Mode::Linked };
    let plan = weir_assembly::plan_of(&chain, &functions, mode);
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
    let trace = OnceCell::new();
    let observer = args.trace.clone().map(|which| {
        let (trace, functions) = (&trace, names.len());
        move |room| {
            let (kept, observer) = Trace::new(which.clone(), functions, room);
            // A replay asks once.
            trace.get_or_init(|| kept);
            observer
        }
    });
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
    if let Some(trace) = trace.get() {
        outcome.report.trace = trace.packets(&names)?;
    }
    if !args.quiet {
        // What is wrong with the capture is told below.
        let told = |event: &&String| outcome.damage.as_ref().is_none_or(|d| !event.contains(d));
        for event in outcome.events.iter().filter(told) {
            eprintln!("note: {event}");
        }
    }
    if let Some(damage) = &outcome.damage {
        eprintln!("warning: {damage}");
    }
    Ok(outcome.report)
}
