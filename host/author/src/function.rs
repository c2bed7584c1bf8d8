//! The function under test.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use weir_assembly::{AdmitError, manifest_of};
use weir_sandbox::{Admitted, Sandbox};
use weir_spec::{FunctionUse, Manifest, Name, ResolvedFunction, Table};

/// A function as a host would admit it.
pub(crate) struct Function {
    name: Name,
    wasm: Arc<[u8]>,
    pub(crate) admitted: Arc<Admitted>,
    manifest: Manifest,
}

impl Function {
    /// Reads a file. If the component carries no manifest, this one is taken.
    pub(crate) fn read(
        sandbox: &Sandbox,
        file: &Path,
        manifest: Option<&Manifest>,
    ) -> Result<Self> {
        let wasm: Arc<[u8]> =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.into();
        let label = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let refused = |refused| AdmitError { label: label.clone(), refused };
        let admitted = sandbox.admit(&wasm).map_err(refused)?;
        let manifest = match (&admitted.manifest, manifest) {
            (None, Some(manifest)) => manifest.clone(),
            _ => manifest_of(&label, &admitted)?,
        };
        let name = match &manifest.name {
            Some(name) => name.clone(),
            None => label.parse().unwrap_or_else(|_| Name::default_tenant()),
        };
        Ok(Self { name, wasm, admitted, manifest })
    }

    /// With this configuration.
    pub(crate) fn configured(&self, config: &Map<String, Value>) -> Result<ResolvedFunction> {
        let used = FunctionUse {
            function: Some(self.name.clone()),
            config: Table::from(config),
            ..FunctionUse::default()
        };
        Ok(used.resolve(&self.manifest, self.manifest.version.clone(), Arc::clone(&self.wasm))?)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether it is for packets.
    pub(crate) fn is_for_packets(&self) -> bool {
        !self.admitted.world.of_messages()
    }
}
