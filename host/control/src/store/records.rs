//! The records, and the state that they make up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Serialize};
use weir_spec::{Chain, CheckReport, Name, Role, Steering};

use crate::engine::TrialKind;

/// Names a thing of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId {
    /// Whose it is.
    pub tenant: Name,
    /// Its name, unique for the tenant.
    pub name: Name,
}

impl ChainId {
    /// From its parts.
    #[must_use]
    pub fn new(tenant: &Name, name: &Name) -> Self {
        Self { tenant: tenant.clone(), name: name.clone() }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

/// The same for functions.
pub type FunctionId = ChainId;

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
}

/// A token that was made with the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Whose things it is for.
    pub tenant: Name,
    /// What its holder may do.
    pub role: Role,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// SHA-256 of the token, in hexadecimal. The token itself is nowhere.
    pub digest: String,
    /// Milliseconds since 1970.
    pub created: u64,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// What was uploaded.
    pub versions: BTreeMap<Version, VersionRecord>,
    /// A version that is being tried in the chains that use the function.
    #[serde(default)]
    pub trial: Option<Trial>,
}

impl FunctionRecord {
    /// The version that a chain gets which does not say: the newest that was not withdrawn and is
    /// not being tried, and a pre-release only when there is nothing else.
    #[must_use]
    pub fn newest(&self) -> Option<&Version> {
        let tried = self.trial.as_ref().map(|trial| &trial.version);
        let good = || {
            let versions = self.versions.iter().rev();
            versions.filter(move |(v, record)| record.withdrawn.is_none() && tried != Some(v))
        };
        good().find(|(v, _)| v.pre.is_empty()).or_else(|| good().next()).map(|(v, _)| v)
    }
}

/// A version of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// SHA-256 of the upload, in hexadecimal.
    pub digest: String,
    /// Bytes of the upload.
    pub bytes: u64,
    /// What was found out about it.
    pub report: CheckReport,
    /// Milliseconds since 1970.
    pub created: u64,
    /// Why it is not taken as the newest any more: it was rolled back.
    #[serde(default)]
    pub withdrawn: Option<String>,
}

/// A new version beside the running one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The new version.
    pub version: Version,
    /// [`TrialKind::percent`]
    canary: Option<u8>,
    /// Milliseconds since 1970.
    pub since: u64,
}

impl Trial {
    /// One that begins at this time, in milliseconds since 1970.
    #[must_use]
    pub fn new(version: Version, kind: TrialKind, since: u64) -> Self {
        Self { version, canary: kind.percent(), since }
    }

    /// How it is tried.
    #[must_use]
    pub fn kind(&self) -> TrialKind {
        self.canary.map_or(TrialKind::Shadow, TrialKind::Canary)
    }

    /// It is tried like this from now on.
    pub fn set_kind(&mut self, kind: TrialKind) {
        self.canary = kind.percent();
    }

    /// Whether flows are its.
    #[must_use]
    pub(crate) fn is_canary(&self) -> bool {
        self.canary.is_some()
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// As it was applied; the tenant is set.
    pub chain: Chain,
    /// What runs, in the order of its functions.
    pub running: Vec<Running>,
    /// Milliseconds since 1970.
    pub applied: u64,
}

/// The steering rules of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringRecord {
    /// As they were applied.
    pub steering: Steering,
    /// Milliseconds since 1970.
    pub applied: u64,
}

/// The version of a chain's function that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The version.
    pub version: Version,
    /// The one before it, to roll back to.
    #[serde(default)]
    pub previous: Option<Version>,
}

/// All that is remembered. Records are shared between states, and told apart by address.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Tenants by name; `default` is always there.
    pub tenants: BTreeMap<Name, Arc<TenantRecord>>,
    /// Functions.
    pub functions: BTreeMap<FunctionId, Arc<FunctionRecord>>,
    /// Chains.
    pub chains: BTreeMap<ChainId, Arc<ChainRecord>>,
    /// Tokens by id.
    pub tokens: BTreeMap<Name, Arc<TokenRecord>>,
    /// Steering rules by tenant; no record: no rules.
    pub steering: BTreeMap<Name, Arc<SteeringRecord>>,
}

/// Any record.
pub(super) enum Record {
    Tenant(Arc<TenantRecord>),
    Function(Arc<FunctionRecord>),
    Chain(Arc<ChainRecord>),
    Token(Arc<TokenRecord>),
    Steering(Arc<SteeringRecord>),
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Tenant(record) => serde_json::to_vec(&**record),
            Self::Function(record) => serde_json::to_vec(&**record),
            Self::Chain(record) => serde_json::to_vec(&**record),
            Self::Token(record) => serde_json::to_vec(&**record),
            Self::Steering(record) => serde_json::to_vec(&**record),
        }
        .expect("records have text keys and plain values")
    }
}

type Records = BTreeMap<String, Record>;

impl State {
    /// That of a new store.
    #[must_use]
    pub fn new() -> Self {
        let mut state = Self::default();
        let description = "What belongs to nobody in particular.".to_owned();
        state.tenants.insert(Name::default_tenant(), Arc::new(TenantRecord { description }));
        state
    }

    /// Places where a function is used: the chain, and the function's index in it.
    pub fn users<'a>(
        &'a self,
        function: &'a FunctionId,
    ) -> impl Iterator<Item = (&'a ChainId, usize, &'a Running)> {
        let own = self.chains.iter().filter(|(id, _)| id.tenant == function.tenant);
        own.flat_map(|(id, record)| {
            let uses = record.chain.functions.iter().zip(&record.running).enumerate();
            uses.filter(|(_, (f, _))| f.function.as_ref() == Some(&function.name))
                .map(move |(index, (_, running))| (id, index, running))
        })
    }

    /// Digests of all Wasm that is referred to.
    pub(super) fn digests(&self) -> impl Iterator<Item = &str> {
        self.functions.values().flat_map(|f| f.versions.values()).map(|v| v.digest.as_str())
    }

    pub(super) fn digests_not_in(&self, after: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        for (id, record) in &self.functions {
            if !after.functions.get(id).is_some_and(|new| Arc::ptr_eq(record, new)) {
                changed.extend(record.versions.values().map(|v| v.digest.as_str()));
            }
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let used: BTreeSet<_> = after.digests().collect();
        let unused: BTreeSet<_> = changed.into_iter().filter(|d| !used.contains(d)).collect();
        unused.into_iter().map(str::to_owned).collect()
    }

    /// Records that are only here, or otherwise here, and the same of `after`.
    pub(super) fn differences(&self, after: &Self) -> (Records, Records) {
        let mut both = (Records::new(), Records::new());
        differ(&self.tenants, &after.tenants, |k| format!("tenant/{k}"), Record::Tenant, &mut both);
        differ(
            &self.functions,
            &after.functions,
            |k| format!("function/{k}"),
            Record::Function,
            &mut both,
        );
        differ(&self.chains, &after.chains, |k| format!("chain/{k}"), Record::Chain, &mut both);
        differ(&self.tokens, &after.tokens, |k| format!("token/{k}"), Record::Token, &mut both);
        differ(
            &self.steering,
            &after.steering,
            |k| format!("steering/{k}"),
            Record::Steering,
            &mut both,
        );
        both
    }

    /// Adds what a stored record says.
    pub(super) fn decode(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        fn json<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<Arc<T>, String> {
            serde_json::from_slice(value).map(Arc::new).map_err(|e| e.to_string())
        }
        let name = |text: &str| text.parse::<Name>().map_err(|e| e.to_string());
        let id = |rest: &str| {
            let (tenant, thing) = rest.split_once('/').ok_or("the key has no tenant")?;
            Ok::<_, String>(ChainId { tenant: name(tenant)?, name: name(thing)? })
        };
        match key.split_once('/') {
            Some(("tenant", rest)) => drop(self.tenants.insert(name(rest)?, json(value)?)),
            Some(("function", rest)) => drop(self.functions.insert(id(rest)?, json(value)?)),
            Some(("chain", rest)) => drop(self.chains.insert(id(rest)?, json(value)?)),
            Some(("token", rest)) => drop(self.tokens.insert(name(rest)?, json(value)?)),
            Some(("steering", rest)) => drop(self.steering.insert(name(rest)?, json(value)?)),
            _ => return Err("no such kind of record".into()),
        }
        Ok(())
    }
}

fn differ<K: Ord, T>(
    before: &BTreeMap<K, Arc<T>>,
    after: &BTreeMap<K, Arc<T>>,
    key: impl Fn(&K) -> String,
    record: impl Fn(Arc<T>) -> Record,
    (old, new): &mut (Records, Records),
) {
    for (k, value) in before {
        if !after.get(k).is_some_and(|other| Arc::ptr_eq(value, other)) {
            old.insert(key(k), record(Arc::clone(value)));
        }
    }
    for (k, value) in after {
        if !before.get(k).is_some_and(|other| Arc::ptr_eq(value, other)) {
            new.insert(key(k), record(Arc::clone(value)));
        }
    }
}
