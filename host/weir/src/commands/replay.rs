//! `weir replay`

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use weir_assembly::ReplayOptions;
use weir_chain::Mode;
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
    let plan = weir_assembly::plan_of(&chain, &functions, Mode::Linked);
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
    let outcome =
        weir_assembly::replay(&sandbox, plan, &args.input, &args.output, &options, progress);
    bar.finish_and_clear();
    let outcome = outcome?;
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
