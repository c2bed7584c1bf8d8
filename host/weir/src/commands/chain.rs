//! `weir chain`

use std::fs;
use std::path::Path;

use anyhow::Result;
use reqwest::Method;
use weir_control::api::{CHAIN_MAX, List};
use weir_control::{Applied, ChainView, Pushed};
use weir_spec::{Chain, Document, Invalid, Name};

use super::{function, or_dash};
use crate::cli::ChainCommand;
use crate::client::{Client, Refused};
use crate::render::{self, Output};

pub(super) fn run(command: ChainCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        ChainCommand::Apply { file } => apply(&file, client, output),
        ChainCommand::List => {
            let chains: List<ChainView> = client.get(&["chains"])?;
            output.result(&chains.items, |chains| list(chains))
        }
        ChainCommand::Show(args) => {
            let chain: ChainView = client.get(&["chains", args.name.as_str()])?;
            output.result(&chain, show)
        }
        ChainCommand::Remove(args) => {
            client.delete(&["chains", args.name.as_str()])?;
            output.done(&format!("chain {} was removed", args.name))
        }
    }
}

fn apply(file: &Path, client: &Client, output: Output) -> Result<()> {
    let document = Document::<Chain>::read(file)?;
    let mut chain = document.value.clone();
    let located = |error: anyhow::Error| match error.downcast::<Invalid>() {
        Ok(invalid) => document.locate(invalid).into(),
        Err(error) => error,
    };
    let beside = file.parent().unwrap_or(Path::new("."));
    push_files(&mut chain, beside, client, output).map_err(located)?;
    let waiting = output.wait(format!("compiling and deploying {}", chain.name));
    let path = ["chains", chain.name.as_str()];
    let applied: Applied = client.send_json(Method::PUT, &path, &chain).map_err(|error| {
        let refused = error.downcast_ref::<Refused>();
        if refused.is_some_and(Refused::is_too_large) {
            return too_large(file, &chain);
        }
        // What is wrong with a value is shown where the file has it.
        let invalid = refused.and_then(Refused::invalid);
        invalid.map_or(error, |invalid| document.locate(invalid).into())
    })?;
    drop(waiting);
    output.outcome(&applied, |applied| {
        let done = if applied.new { "deployed" } else { "changed" };
        let mut text = format!(
            "chain {} was {done}; pause {:.1} us, compiled in {:.1} ms\n",
            applied.view.chain.name, applied.pause_us, applied.compile_ms
        );
        for note in &applied.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        text.push('\n');
        text.push_str(&show(&applied.view));
        text
    })
}

/// Says how much too large a chain is, and what to do.
fn too_large(file: &Path, chain: &Chain) -> anyhow::Error {
    let bytes = serde_json::to_vec(chain).map_or(0, |text| text.len());
    anyhow::anyhow!(
        "{}: chain {} has {bytes} bytes as JSON, and {CHAIN_MAX} (16 MiB) are allowed: give its functions less `config`, or make several chains of it",
        file.display(),
        chain.name
    )
}

/// Pushes the functions that the file gives as `path`, under their names in the chain, and names
/// them instead.
fn push_files(chain: &mut Chain, beside: &Path, client: &Client, output: Output) -> Result<()> {
    let tenant = chain.tenant.as_ref();
    for (index, function) in chain.functions.iter_mut().enumerate() {
        let Some(path) = &function.path else { continue };
        let path = beside.join(path);
        let name: Name = function.label().parse()?;
        let wasm = fs::read(&path).map_err(|error| {
            let message = format!("cannot read {}: {error}", path.display());
            Invalid::at("path", message).within_array("function", index)
        })?;
        let waiting = output.wait(format!("uploading and compiling {name}"));
        let pushed: Pushed = client
            .upload(
                &["functions", name.as_str(), "versions"],
                function.version.as_ref(),
                tenant,
                wasm,
            )
            .map_err(|error| match error.downcast::<Refused>() {
                Ok(refused) => {
                    let message = format!("pushing {}: {refused}", path.display());
                    Invalid::at("path", message).within_array("function", index).into()
                }
                Err(error) => error.context(format!("pushing {}", path.display())),
            })?;
        drop(waiting);
        if pushed.new {
            output.done(&function::told(&pushed))?;
        }
        function.version = Some(pushed.version.version);
        function.function = Some(name);
        function.path = None;
    }
    Ok(())
}

fn list(chains: &[ChainView]) -> String {
    let rows = chains.iter().map(|view| {
        let chain = &view.chain;
        let functions: Vec<_> = view
            .running
            .iter()
            .map(|running| format!("{}@{}", running.function, running.version))
            .collect();
        [
            chain.name.to_string(),
            or_dash(chain.tenant.as_ref()),
            or_dash(chain.from.as_ref()),
            or_dash(chain.to.as_ref()),
            if view.failed.is_some() { "failed" } else { "deployed" }.to_owned(),
            functions.join(" "),
        ]
    });
    render::table(["name", "tenant", "from", "to", "state", "functions"], rows)
}

fn show(view: &ChainView) -> String {
    let chain = &view.chain;
    let mut text = render::facts(&[
        ("name", chain.name.to_string()),
        ("tenant", or_dash(chain.tenant.as_ref())),
        ("plane", chain.plane().as_str().to_owned()),
        ("from", or_dash(chain.from.as_ref())),
        ("to", or_dash(chain.to.as_ref())),
        ("symmetric", if chain.symmetric { "yes" } else { "no" }.to_owned()),
        ("applied", view.applied.clone()),
        (
            "state",
            view.failed
                .clone()
                .map_or_else(|| "deployed".to_owned(), |why| format!("failed: {why}")),
        ),
    ]);
    let rows = chain.functions.iter().zip(&view.running).map(|(function, running)| {
        [
            running.function.to_string(),
            or_dash(function.function.as_ref()),
            running.version.to_string(),
            short(&serde_json::to_string(&function.config).unwrap_or_default()),
        ]
    });
    let table = render::table(["function", "use", "version", "config"], rows);
    text.push_str(&format!("\n{table}"));
    text
}

/// A text in a column: its beginning if it is long. `--output json` has all of it.
fn short(text: &str) -> String {
    /// Characters of it.
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
