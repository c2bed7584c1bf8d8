//! `weir bench`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_assembly::BenchOptions;
use weir_chain::Mode;
use weir_sandbox::{Sandbox, SandboxConfig};
use weir_spec::BenchReport;

use crate::cli::{BenchArgs, BenchMode};

/// Measures the chain.
pub(super) fn run(args: &BenchArgs) -> Result<BenchReport> {
    let sandbox = Arc::new(Sandbox::new(SandboxConfig::default())?);
    let (chain, functions) = weir_assembly::load_chain(&sandbox, &args.chain, &args.functions)?;
    super::check_for_packets(&chain, "bench")?;
    let mode = match args.mode {
        BenchMode::Linked => Mode::Linked,
        BenchMode::Separate => Mode::Separate,
    };
    let options = BenchOptions {
        size: args.size,
        flows: args.flows,
        burst: args.burst,
        duration: Duration::from_secs(args.seconds.into()),
        cores: args.cores,
        ..BenchOptions::default()
    };
    // On fewer workers than it says nothing else is different for each of them.
    let tables = functions.iter().map(|(function, _)| function.per_worker.len()).max();
    ensure!(
        tables.is_none_or(|tables| tables == 0 || args.cores as usize <= tables),
        "--cores {}: `per-worker` in {} has fewer tables",
        args.cores,
        args.chain.display()
    );
    let plan = |worker| weir_assembly::plan_of(&chain, &functions, mode, worker);
    weir_assembly::bench(&sandbox, plan, &options)
}
