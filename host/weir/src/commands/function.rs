//! `weir function`

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use weir_control::api::{List, SwapRequest};
use weir_control::{Function, Pushed, Status};
use weir_spec::{CheckReport, Document, Manifest, Name, SwapReport};

use super::{counts, or_dash};
use crate::cli::{Format, FunctionCommand, PushArgs, SwapArgs};
use crate::client::Client;
use crate::render::{self, Output};

pub(super) fn run(command: FunctionCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        FunctionCommand::Push(args) if args.watch => super::watch::run(&args, client, output),
        FunctionCommand::Push(args) => push(&args, client, output),
        FunctionCommand::List => {
            let functions: List<Function> = client.get(&["functions"])?;
            output.result(&functions.items, |functions| list(functions))
        }
        FunctionCommand::Show(args) => {
            let function: Function = client.get(&["functions", args.name.as_str()])?;
            // For people: programs find these in `weir status`.
            let status = match output.format {
                Format::Table if !function.chains.is_empty() => Some(client.get(&["status"])?),
                _ => None,
            };
            output.result(&function, |function| show(function, status.as_ref()))
        }
        FunctionCommand::Remove { function, version: None } => {
            client.delete(&["functions", function.name.as_str()])?;
            output.done(&format!("function {} was removed", function.name))
        }
        FunctionCommand::Remove { function, version: Some(version) } => {
            let path = ["functions", function.name.as_str(), "versions", &version.to_string()];
            client.delete(&path)?;
            output.done(&format!("version {version} of function {} was removed", function.name))
        }
        FunctionCommand::Swap(args) => swap(args, client, output),
        FunctionCommand::Rollback(args) => {
            let waiting = output.wait(format!("rolling {} back", args.name));
            let from = args.from.map(|version| ("from", version.to_string()));
            let path = ["functions", args.name.as_str(), "rollback"];
            let report: SwapReport = client.post(&path, from.as_slice())?;
            drop(waiting);
            output.outcome(&report, |report| format!("function {}: {}", args.name, back(report)))
        }
        FunctionCommand::Log(args) => super::log::run(&args, client, output),
    }
}

fn push(args: &PushArgs, client: &Client, output: Output) -> Result<()> {
    let file = args.file.display();
    if args.file.is_dir() {
        bail!(
            "{file} is a directory: push the component that was built in it ({file}/NAME.wasm), or have it built and pushed with --watch"
        );
    }
    let mut wasm = fs::read(&args.file).with_context(|| format!("cannot read {file}"))?;
    let mut manifest = None;
    if let Some(path) = &args.manifest {
        let document = Document::<Manifest>::read(path)?;
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        wasm = Manifest::embed(&wasm, &text);
        manifest = Some(document.value);
    }
    let name = match args.name.clone().or(manifest.and_then(|manifest| manifest.name)) {
        Some(name) => name,
        None => {
            ensure!(
                wasm.starts_with(b"\0asm"),
                "{file} is not WebAssembly: push the component that is made of it (*.wasm; of WebAssembly's text `weir component {file}` makes it)"
            );
            let report = weir_assembly::check(&wasm);
            let named = carried_name(&report)?;
            if named.is_none() && !report.accepted {
                bail!("{file} is no function: {}", report.reasons.join("; "));
            }
            named.with_context(|| {
                format!(
                    "{file} carries no manifest that names it: say how it is called with --name"
                )
            })?
        }
    };
    let waiting = output.wait(format!("uploading and compiling {name}"));
    let pushed: Pushed = client.upload(
        &["functions", name.as_str(), "versions"],
        args.version.as_ref(),
        None,
        wasm,
    )?;
    drop(waiting);
    output.outcome(&pushed, told)
}

/// The name in the manifest that a component carries.
fn carried_name(report: &CheckReport) -> Result<Option<Name>> {
    let manifest = report.manifest.as_deref().map(carried).transpose()?;
    Ok(manifest.and_then(|manifest| manifest.name))
}

/// The manifest of which a component carries this text.
pub(super) fn carried(text: &str) -> Result<Manifest> {
    Ok(Document::<Manifest>::parse("its manifest", text)?.value)
}

/// What became of an upload, in words.
pub(super) fn told(pushed: &Pushed) -> String {
    let (name, version) = (&pushed.name, &pushed.version.version);
    if pushed.new {
        let (bytes, ms) = (pushed.version.bytes, pushed.compile_ms);
        format!(
            "function {name}: version {version} was pushed; {bytes} bytes, compiled in {ms:.1} ms"
        )
    } else {
        format!("function {name}: version {version} was there already, the same to the byte")
    }
}

fn list(functions: &[Function]) -> String {
    let rows = functions.iter().map(|function| {
        let chains: Vec<_> = function
            .chains
            .iter()
            .map(|place| format!("{}:{}@{}", place.chain, place.function, place.version))
            .collect();
        [
            function.name.to_string(),
            or_dash(function.newest.as_ref()),
            function.versions.len().to_string(),
            function.tenant.to_string(),
            if chains.is_empty() { "-".to_owned() } else { chains.join(" ") },
        ]
    });
    render::table(["name", "newest", "#versions", "tenant", "runs in"], rows)
}

fn show(function: &Function, status: Option<&Status>) -> String {
    let mut text = render::facts(&[
        ("name", function.name.to_string()),
        ("tenant", function.tenant.to_string()),
        ("newest", or_dash(function.newest.as_ref())),
    ]);
    if let Some(trial) = &function.trial {
        let how = trial.canary.map_or_else(|| "shadow".to_owned(), |n| format!("canary {n} %"));
        text.push_str(&format!("trial:   {} ({how}) since {}\n", trial.version, trial.since));
    }
    let versions = function.versions.iter().map(|version| {
        [
            version.version.to_string(),
            version.bytes.to_string(),
            version.created.clone(),
            version.digest.chars().take(12).collect(),
            or_dash(version.withdrawn.as_ref()),
        ]
    });
    let header = ["version", "#bytes", "pushed", "sha256", "withdrawn"];
    text.push_str(&format!("\n{}", render::table(header, versions)));
    if !function.chains.is_empty() {
        let chains = function.chains.iter().map(|place| {
            [
                place.chain.to_string(),
                place.function.to_string(),
                place.version.to_string(),
                or_dash(place.previous.as_ref()),
            ]
        });
        let table = render::table(["chain", "as", "version", "previous"], chains);
        text.push_str(&format!("\n{table}"));
    }
    let said: Vec<_> = status.map_or_else(Vec::new, |status| said(function, status));
    if !said.is_empty() {
        text.push_str(&format!("\n{}", render::table(["chain", "as", "counters", "gauges"], said)));
    }
    text
}

/// Its own counters and gauges, in each chain where it has some.
fn said(function: &Function, status: &Status) -> Vec<[String; 4]> {
    let of_tenant = status.engine.chains.iter().filter(|chain| chain.tenant == function.tenant);
    let all = of_tenant.flat_map(|chain| chain.functions.iter().map(move |known| (chain, known)));
    let its = all.filter(|(chain, known)| {
        let mut places = function.chains.iter();
        places.any(|place| place.chain == chain.name && place.function == known.name)
    });
    let some = its.filter(|(_, known)| !(known.counters.is_empty() && known.gauges.is_empty()));
    some.map(|(chain, known)| {
        let gauges = known.gauges.iter().map(|(name, value)| format!("{name}:{value}"));
        let gauges = gauges.collect::<Vec<_>>().join(" ");
        let gauges = or_dash(Some(gauges).filter(|gauges| !gauges.is_empty()));
        [chain.name.to_string(), known.name.to_string(), counts(&known.counters), gauges]
    })
    .collect()
}

fn swap(args: SwapArgs, client: &Client, output: Output) -> Result<()> {
    let SwapArgs { name, to, canary, shadow } = args;
    let request = SwapRequest { to, canary, shadow };
    let waiting = output.wait(format!("compiling and swapping {name}"));
    let report: SwapReport =
        client.send_json(Method::POST, &["functions", name.as_str(), "swap"], &request)?;
    drop(waiting);
    output.outcome(&report, |report| match (canary, shadow) {
        (Some(percent), _) => format!(
            "function {name}: version {} gets {percent} % of the flows beside {}",
            report.to, report.from
        ),
        (None, true) => {
            format!("function {name}: version {} shadows {}", report.to, report.from)
        }
        (None, false) if report.from == report.to => {
            format!("function {name}: version {} runs already", report.to)
        }
        (None, false) => format!("function {name}: {}", cost(report)),
    })
}

/// What a rollback did, in words.
fn back(report: &SwapReport) -> String {
    let SwapReport { from, to, chains, trial_ended: true, .. } = report else {
        return cost(report);
    };
    let chains = chains.iter().map(|chain| format!(" in {chain}")).collect::<Vec<_>>().join(",");
    format!("the trial of {from}{chains} is over, {to} runs on")
}

/// What a swap cost, in words.
pub(super) fn cost(report: &SwapReport) -> String {
    let chains: Vec<_> = report.chains.iter().map(Name::as_str).collect();
    let mut text = format!(
        "{} -> {} in {}; pause {:.1} us, compiled in {:.1} ms, {} packets lost",
        report.from,
        report.to,
        chains.join(", "),
        report.pause_us,
        report.compile_ms,
        report.packets_lost
    );
    if !report.fresh.is_empty() {
        text.push_str(&format!("\nstarted with an empty state: {}", report.fresh.join(", ")));
    }
    text
}
