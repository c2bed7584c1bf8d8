//! `weir check`

use std::fs;

use anyhow::{Context as _, Result};
use weir_spec::CheckReport;

use crate::cli::CheckArgs;
use crate::render::{self, Output};

/// Says what a host would say. The answer is whether it would take the upload.
pub(super) fn run(args: &CheckArgs, output: Output) -> Result<bool> {
    let wasm =
        fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let report = weir_assembly::check(&wasm);
    output.result(&report, |report| text(report, &args.file.display().to_string()))?;
    Ok(report.accepted)
}

fn text(report: &CheckReport, file: &str) -> String {
    let mut text = format!("{file}: {}\n", if report.accepted { "accepted" } else { "refused" });
    for reason in &report.reasons {
        text.push_str(&format!("  - {reason}\n"));
    }
    let list = |items: &[String]| {
        if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
    };
    let mut facts =
        vec![("world", report.world.map_or_else(|| "unknown".to_owned(), |w| w.name().to_owned()))];
    facts.push(("imports", list(&report.imports)));
    if report.accepted {
        facts.push(("memory at start", format!("{} KiB", report.memory_bytes >> 10)));
        facts.push(("saves its state", if report.saves { "yes" } else { "no" }.to_owned()));
        let manifest = if report.manifest.is_some() { "embedded" } else { "none" };
        facts.push(("manifest", manifest.to_owned()));
    }
    text.push_str(&render::facts(&facts));
    text
}
