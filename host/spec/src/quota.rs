//! `[quota]` of `weir.toml`: what each tenant may keep on the host.

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::manifest::limits;
use crate::{Name, Period, Size};

/// [`Quota::deadline_of`] all tenants but the operator's.
const DEADLINE_OF_OTHERS: Period = Period::milliseconds(50);

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
    /// Bytes of what all chains configure their functions with, of all manifests and names of
    /// imports: they are kept in memory.
    pub configuration: Size,
    /// Linear memories of the functions of all chains that are deployed, on all workers. Each takes
    /// 4 GiB of the 128 TiB of addresses that the host has.
    pub memories: u32,
    /// CPU time that chains and manifests may give a function for a burst or an event: see
    /// [`Self::deadline_of`].
    pub deadline: Option<Period>,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            functions: 4096,
            versions: 256,
            wasm: Size::mebibytes(8192),
            chains: 4096,
            configuration: Size::mebibytes(64),
            memories: 8192,
            deadline: None,
        }
    }
}

impl Quota {
    /// CPU time that a tenant's chains and manifests may give a function for a burst or an event:
    /// all who share its worker, or its gateway's thread, wait for it. If nothing is said, the
    /// tenant `default`, which is the operator's, may give as much as there is, and others 50 ms.
    /// Not of components of `wasi:http`, which have threads of their own.
    #[must_use]
    pub fn deadline_of(&self, tenant: &Name) -> Period {
        let unsaid = || {
            let own = *tenant == Name::default_tenant();
            if own { limits::DEADLINE_MAX } else { DEADLINE_OF_OTHERS }
        };
        self.deadline.unwrap_or_else(unsaid)
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if let Some(deadline) = self.deadline {
            limits::deadline(deadline).map_err(|e| e.within("deadline"))?;
        }
        let counts = [
            ("functions", self.functions.into()),
            ("versions", self.versions.into()),
            ("wasm", self.wasm.get()),
            ("chains", self.chains.into()),
            ("configuration", self.configuration.get()),
            ("memories", self.memories.into()),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(Invalid::at(key, "0: no tenant could do anything")
                .help("allowed: 1 and more; leave it out for the default")),
            None => Ok(()),
        }
    }
}
