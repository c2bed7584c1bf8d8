//! `[quota]` of `weir.toml`: what each tenant may keep on the host.

use serde::{Deserialize, Serialize};

use crate::Size;
use crate::invalid::Invalid;

/// `[quota]`: for each tenant. What is there already stays when these are lowered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Quota {
    /// Functions.
    pub functions: u32,
    /// Versions of one function.
    pub versions: u32,
    /// Bytes of all versions of all functions.
    pub wasm: Size,
    /// Chains.
    pub chains: u32,
    /// Bytes of what all chains configure their functions with, and of all manifests: they are kept in memory.
    pub configuration: Size,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            functions: 4096,
            versions: 256,
            wasm: Size::mebibytes(8192),
            chains: 4096,
            configuration: Size::mebibytes(64),
        }
    }
}

impl Quota {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let counts = [
            ("functions", self.functions.into()),
            ("versions", self.versions.into()),
            ("wasm", self.wasm.get()),
            ("chains", self.chains.into()),
            ("configuration", self.configuration.get()),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(Invalid::at(key, "0: no tenant could do anything")
                .help("allowed: 1 and more; leave it out for the default")),
            None => Ok(()),
        }
    }
}
