//! `weir component`

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use weir_spec::{Document, Manifest};

use crate::cli::ComponentArgs;
use crate::render::Output;

/// Makes a component of a core module, in its binary or its text form, and writes it if a host
/// would take it.
pub(super) fn run(args: &ComponentArgs, output: Output) -> Result<()> {
    let file = args.file.display();
    let bytes = fs::read(&args.file).with_context(|| format!("cannot read {file}"))?;
    // Its text form, if the name says so.
    let module = if args.file.extension().is_some_and(|extension| extension == "wat") {
        wat::Parser::new()
            .parse_bytes(Some(&args.file), &bytes)
            .map(std::borrow::Cow::into_owned)
            .map_err(|error| anyhow::anyhow!("it is not valid WAT: {error}"))?
    } else {
        bytes
    };
    let mut component = match weir_component::encode(&module, args.world.as_deref()) {
        // There is still its manifest to be put in.
        Err(weir_component::Error::Already) if args.manifest.is_some() => module,
        encoded => encoded.map_err(|error| anyhow::anyhow!("{file}: {error}"))?,
    };
    if let Some(path) = &args.manifest {
        if weir_sandbox::embedded_manifest(&component).is_some() {
            bail!("{file} carries a manifest already: leave --manifest out");
        }
        let file = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
        Document::<Manifest>::parse(&file, &text)?;
        component = Manifest::embed(&component, &text);
    }
    let admitted = weir_sandbox::admit(&component).map_err(|refused| {
        anyhow::anyhow!("{file}: a host would refuse it: {}", refused.reasons.join("; "))
    })?;
    let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("component.wasm"));
    fs::write(&out, &component).with_context(|| format!("cannot write {}", out.display()))?;
    let world = admitted.world.name();
    let report = json!({"component": out, "world": world, "saves": admitted.saves, "bytes": component.len()});
    output.outcome(&report, |_| format!("{}: {world}, {} bytes", out.display(), component.len()))
}
