//! Functions: pushing, listing and removing what tenants upload.

use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use weir_spec::{CheckReport, Document, Manifest, Name, Quota, State as Keeps, VersionSchema};

use crate::control::Control;
use crate::engine::{EngineError, FunctionLog};
use crate::error::ControlError;
use crate::events::EventKind;
use crate::quota;
use crate::store::{FunctionId, FunctionRecord, State, VersionRecord, hex};
use crate::time;

/// Characters of a version that is pushed: it is in the log, in events, and in each chain that has
/// it.
const VERSION_MAX: usize = 128;

/// A function, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Function {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub tenant: Name,
    /// The version that a chain gets which does not ask for one.
    #[schema(value_type = Option<VersionSchema>)]
    pub newest: Option<Version>,
    /// Its versions, oldest first.
    pub versions: Vec<FunctionVersion>,
    /// Where it runs.
    pub chains: Vec<FunctionInChain>,
    /// A version that is being tried.
    pub trial: Option<FunctionTrial>,
}

/// A version of a function, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionVersion {
    /// The version.
    #[schema(value_type = VersionSchema)]
    pub version: Version,
    /// SHA-256 of the upload, in hexadecimal.
    pub digest: String,
    /// Bytes of the upload.
    pub bytes: u64,
    /// When it was uploaded, RFC 3339.
    #[schema(format = DateTime)]
    pub created: String,
    /// What the host found out about it.
    pub report: CheckReport,
    /// Why it is not taken as the newest any more.
    pub withdrawn: Option<String>,
}

/// Where a function runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionInChain {
    /// The chain.
    pub chain: Name,
    /// Its name there.
    pub function: Name,
    /// The version that runs.
    #[schema(value_type = VersionSchema)]
    pub version: Version,
    /// The one that `rollback` goes back to.
    #[schema(value_type = Option<VersionSchema>)]
    pub previous: Option<Version>,
}

/// A version that is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionTrial {
    /// The version.
    #[schema(value_type = VersionSchema)]
    pub version: Version,
    /// Share of the flows in percent; none: it shadows.
    pub canary: Option<u8>,
    /// Since when, RFC 3339.
    #[schema(format = DateTime)]
    pub since: String,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pushed {
    /// Its name.
    pub name: Name,
    /// The version that it has now.
    #[serde(flatten)]
    pub version: FunctionVersion,
    /// Time spent compiling, in milliseconds; 0 when it was compiled before.
    pub compile_ms: f64,
    /// False when it was there before, the same to the byte.
    pub new: bool,
}

fn shown(version: &Version, record: &VersionRecord) -> FunctionVersion {
    FunctionVersion {
        version: version.clone(),
        digest: record.digest.clone(),
        bytes: record.bytes,
        created: time::text(record.created),
        report: record.report.clone(),
        withdrawn: record.withdrawn.clone(),
    }
}

fn show(state: &State, id: &FunctionId, record: &FunctionRecord) -> Function {
    let users = state.users(id).map(|(chain, index, running)| FunctionInChain {
        chain: chain.name.clone(),
        function: label(state, chain, index),
        version: running.version.clone(),
        previous: running.previous.clone(),
    });
    Function {
        name: id.name.clone(),
        tenant: id.tenant.clone(),
        newest: record.newest().cloned(),
        versions: record.versions.iter().map(|(v, r)| shown(v, r)).collect(),
        chains: users.collect(),
        trial: record.trial.as_ref().map(|trial| FunctionTrial {
            version: trial.version.clone(),
            canary: trial.kind().percent(),
            since: time::text(trial.since),
        }),
    }
}

/// A function's name in a chain.
pub(crate) fn label(state: &State, chain: &FunctionId, index: usize) -> Name {
    let function = &state.chains[chain].chain.functions[index];
    function
        .name
        .clone()
        .or_else(|| function.function.clone())
        .expect("stored chains name their functions")
}

/// There is no function of this name; those that the tenant has are told.
pub(crate) fn no_function(state: &State, id: &FunctionId) -> ControlError {
    let there = state.functions.keys().filter(|other| other.tenant == id.tenant);
    ControlError::not_found("function", &id.name, there.map(|other| &other.name))
}

/// The function of this name, to be changed.
pub(crate) fn function_mut<'s>(
    state: &'s mut State,
    id: &FunctionId,
) -> Result<&'s mut Arc<FunctionRecord>, ControlError> {
    if !state.functions.contains_key(id) {
        return Err(no_function(state, id));
    }
    Ok(state.functions.get_mut(id).expect("it is there"))
}

/// What there is instead is said too.
pub(crate) fn no_version(
    id: &FunctionId,
    record: &FunctionRecord,
    version: &Version,
) -> ControlError {
    let there: Vec<_> = record.versions.keys().map(ToString::to_string).collect();
    let name = format!("{}@{version} (there are {})", id.name, there.join(", "));
    ControlError::NotFound { what: "function version", name }
}

impl Control {
    /// All functions, or those of one tenant.
    #[must_use]
    pub fn functions(&self, tenant: Option<&Name>) -> Vec<Function> {
        let state = self.store.state();
        let mine = state.functions.iter().filter(|(id, _)| tenant.is_none_or(|t| *t == id.tenant));
        mine.map(|(id, record)| show(&state, id, record)).collect()
    }

    /// One function.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn function(&self, id: &FunctionId) -> Result<Function, ControlError> {
        let state = self.store.state();
        let record = state.functions.get(id).ok_or_else(|| no_function(&state, id))?;
        Ok(show(&state, id, record))
    }

    /// Takes an upload: checks it, compiles it, stores it. Without a version it is that of its
    /// manifest, or the patch after the newest. Chains that do not run because this Wasm was
    /// damaged are deployed then.
    ///
    /// # Errors
    /// When it is refused, the version exists with other content, or the store is full.
    pub fn push(
        &self,
        id: &FunctionId,
        version: Option<Version>,
        wasm: &[u8],
    ) -> Result<Pushed, ControlError> {
        self.tenant_exists(&id.tenant)?;
        let mut report = self.engine.check(wasm);
        if !report.accepted {
            return Err(ControlError::Upload { reasons: report.reasons });
        }
        if let Some(text) = Manifest::appended(wasm) {
            Manifest::check_length(text)
                .map_err(|reason| ControlError::Upload { reasons: vec![reason] })?;
            report.manifest = Some(text.to_owned());
        }
        let manifest = manifest_of(&report)?;
        let mut reasons = Vec::new();
        if manifest.state == Keeps::Save && !report.saves {
            reasons.push(
                "its manifest says `state = \"save\"`, but it does not export weir:net/snapshot"
                    .to_owned(),
            );
        }
        if let Some(theirs) = manifest.tenant.as_ref().filter(|theirs| **theirs != id.tenant) {
            reasons.push(format!(
                "its manifest says that it is tenant {theirs}'s, it was pushed for {}",
                id.tenant
            ));
        }
        if !reasons.is_empty() {
            return Err(ControlError::Upload { reasons });
        }
        let wanted = version.or(manifest.version);
        let taken = |state: &State, digest: &str| {
            let bytes = wasm.len() as u64;
            version_of(&self.quota(), state, id, wanted.as_ref(), digest, bytes, &report)
        };
        // Before the compiler has its time and the code its place on the disk; and again then,
        // since others push, too.
        taken(&self.store.state(), &hex(&Sha256::digest(wasm)))?;
        let compiled_in = self.engine.compile(wasm).map_err(|error| match error {
            EngineError::Refused(reason) => ControlError::Upload { reasons: vec![reason] },
            error => error.into(),
        })?;
        let turn = self.turn(&id.tenant);
        let its_turn = turn.take();
        // Compiling took its time; the tenant may have been removed.
        self.tenant_exists(&id.tenant)?;
        let pushed = self.store.add_wasm(wasm, |state, digest| {
            let version = taken(state, digest)?;
            let slot = state.functions.entry(id.clone()).or_default();
            if let Some(there) = slot.versions.get(&version) {
                return Ok::<_, ControlError>((shown(&version, there), false));
            }
            let record = VersionRecord {
                digest: digest.to_owned(),
                bytes: wasm.len() as u64,
                report: report.clone(),
                created: time::milliseconds(),
                withdrawn: None,
            };
            let shown = shown(&version, &record);
            Arc::make_mut(slot).versions.insert(version, record);
            Ok((shown, true))
        });
        let (version, new) = pushed?;
        drop(its_turn);
        self.deploy_mended(&id.tenant, &version.digest);
        if new {
            let message = format!("version {} of function {} was pushed", version.version, id.name);
            self.events.emit(EventKind::Pushed, Some(&id.tenant), id.name.as_str(), message);
        }
        let compile_ms = compiled_in.as_secs_f64() * 1e3;
        Ok(Pushed { name: id.name.clone(), version, compile_ms, new })
    }

    /// Removes a function with all its versions.
    ///
    /// # Errors
    /// When there is none, or a chain uses it.
    pub(crate) fn remove_function(&self, id: &FunctionId) -> Result<(), ControlError> {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        self.store.change(|state| {
            let users = users(state, id, None);
            if !state.functions.contains_key(id) {
                return Err(no_function(state, id));
            }
            if !users.is_empty() {
                return Err(ControlError::Conflict(format!(
                    "function {} is used by {users}: remove or change that first",
                    id.name
                )));
            }
            state.functions.remove(id);
            Ok(())
        })?;
        let message = format!("function {} was removed", id.name);
        self.events.emit(EventKind::Removed, Some(&id.tenant), id.name.as_str(), message);
        Ok(())
    }

    /// Removes one version of a function; the last one takes the function with it.
    ///
    /// # Errors
    /// When there is none, a chain runs it or may have to go back to it, or it is being tried.
    pub(crate) fn remove_version(
        &self,
        id: &FunctionId,
        version: &Version,
    ) -> Result<(), ControlError> {
        let turn = self.turn(&id.tenant);
        let _turn = turn.take();
        let watched = self.watched(id);
        self.store.change(|state| {
            let users = users(state, id, Some(version));
            let watched = watched.filter(|new| goes_back(state, id, new, version));
            let slot = function_mut(state, id)?;
            if !slot.versions.contains_key(version) {
                return Err(no_version(id, slot, version));
            }
            if !users.is_empty() {
                return Err(ControlError::Conflict(format!(
                    "version {version} of function {} runs in {users}: swap that to another version first",
                    id.name
                )));
            }
            if slot.trial.as_ref().is_some_and(|trial| trial.version == *version) {
                return Err(ControlError::Conflict(format!(
                    "version {version} of function {} is being tried: end that first (`weir function rollback {}`)",
                    id.name, id.name
                )));
            }
            if let Some(new) = watched {
                return Err(ControlError::Conflict(format!(
                    "version {version} of function {} comes back if version {new} faults, which is watched because it is new: remove it when `[rollout] watch` is over",
                    id.name
                )));
            }
            Arc::make_mut(slot).versions.remove(version);
            if slot.versions.is_empty() {
                state.functions.remove(id);
            } else {
                forget_previous(state, id, version);
            }
            Ok(())
        })?;
        let message = format!("version {version} of function {} was removed", id.name);
        self.events.emit(EventKind::Removed, Some(&id.tenant), id.name.as_str(), message);
        Ok(())
    }

    /// What a function logged, in all chains, oldest first.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn function_log(&self, id: &FunctionId) -> Result<FunctionLog, ControlError> {
        let state = self.store.state();
        if !state.functions.contains_key(id) {
            return Err(no_function(&state, id));
        }
        let mut log = FunctionLog::default();
        for (chain, index, _) in state.users(id) {
            let part = self.engine.log(chain, &label(&state, chain, index));
            log.lines.extend(part.lines);
            log.lost += part.lost;
        }
        // RFC 3339 in UTC with equal precision sorts as text.
        log.lines.sort_by(|a, b| a.time.cmp(&b.time));
        Ok(log)
    }
}

/// The manifest of a stored or uploaded function.
pub(crate) fn manifest_of(report: &CheckReport) -> Result<Manifest, ControlError> {
    let Some(text) = &report.manifest else {
        return Ok(Manifest::default().of_world(report.world));
    };
    match Document::<Manifest>::parse("function.toml", text) {
        Ok(document) => Ok(document.value.of_world(report.world)),
        Err(error) => {
            Err(ControlError::Upload { reasons: vec![format!("its manifest is wrong: {error}")] })
        }
    }
}

/// Which version an upload becomes, or is already: the one that is wanted, or else the next. One
/// that is there has the same content.
fn version_of(
    quota: &Quota,
    state: &State,
    id: &FunctionId,
    wanted: Option<&Version>,
    digest: &str,
    bytes: u64,
    report: &CheckReport,
) -> Result<Version, ControlError> {
    let record = state.functions.get(id);
    let version = match (wanted, record) {
        (Some(version), _) => version.clone(),
        (None, Some(record)) => next_version(record, digest),
        (None, None) => next_version(&FunctionRecord::default(), digest),
    };
    match record.and_then(|record| record.versions.get(&version)) {
        Some(there) if there.digest == digest => return Ok(version),
        Some(_) => {
            return Err(ControlError::Conflict(format!(
                "function {} has a version {version} with other content, and versions do not change: push it under another version",
                id.name
            )));
        }
        None => {}
    }
    let characters = version.to_string().len();
    if characters > VERSION_MAX {
        let reason = format!(
            "its version has {characters} characters; allowed are {VERSION_MAX}: shorten what is behind the numbers"
        );
        return Err(ControlError::Upload { reasons: vec![reason] });
    }
    quota::check_version(quota, state, id, bytes, report)?;
    Ok(version)
}

/// The version of an upload that does not say: that of the same content, or the patch after the
/// highest.
fn next_version(record: &FunctionRecord, digest: &str) -> Version {
    let same = record.versions.iter().rev().find(|(_, r)| r.digest == digest);
    match (same, record.versions.last_key_value()) {
        (Some((version, _)), _) => version.clone(),
        (None, Some((last, _))) if last.pre.is_empty() => {
            // After the last number there is there is none: the push is refused, since that version
            // has other content.
            Version::new(last.major, last.minor, last.patch.saturating_add(1))
        }
        (None, Some((last, _))) => Version::new(last.major, last.minor, last.patch),
        (None, None) => Version::new(0, 1, 0),
    }
}

/// `chain a` or `chains a, b`: those that use a function, or run one version of it. Empty if there
/// are none.
fn users(state: &State, id: &FunctionId, version: Option<&Version>) -> String {
    let runs = |running: &Version| version.is_none_or(|version| version == running);
    let mut chains: Vec<_> = state
        .users(id)
        .filter(|(_, _, r)| runs(&r.version))
        .map(|(c, ..)| c.name.as_str())
        .collect();
    chains.dedup();
    match chains.as_slice() {
        [] => String::new(),
        [one] => format!("chain {one}"),
        many => format!("chains {}", many.join(", ")),
    }
}

/// Whether somewhere this version comes back when the new one faults.
fn goes_back(state: &State, id: &FunctionId, new: &Version, version: &Version) -> bool {
    let mut users = state.users(id);
    users.any(|(_, _, r)| r.version == *new && r.previous.as_ref() == Some(version))
}

/// Nothing can be rolled back to a version that is gone.
fn forget_previous(state: &mut State, id: &FunctionId, version: &Version) {
    let places: Vec<_> = state
        .users(id)
        .filter(|(_, _, running)| running.previous.as_ref() == Some(version))
        .map(|(chain, index, _)| (chain.clone(), index))
        .collect();
    for (chain, index) in places {
        if let Some(record) = state.chains.get_mut(&chain) {
            Arc::make_mut(record).running[index].previous = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_without_a_version_gets_the_next() {
        let mut record = FunctionRecord::default();
        assert_eq!(next_version(&record, "a").to_string(), "0.1.0");
        let mut add = |version: &str, digest: &str| {
            let version_record = VersionRecord {
                digest: digest.to_owned(),
                bytes: 0,
                report: CheckReport::default(),
                created: 0,
                withdrawn: None,
            };
            record.versions.insert(version.parse().unwrap(), version_record);
            record.clone()
        };
        let record = add("1.2.3", "a");
        assert_eq!(next_version(&record, "b").to_string(), "1.2.4");
        assert_eq!(next_version(&record, "a").to_string(), "1.2.3");
        let record = add("2.0.0-rc.1", "c");
        assert_eq!(next_version(&record, "d").to_string(), "2.0.0");
        let last = format!("2.0.{}", u64::MAX);
        let record = add(&last, "e");
        assert_eq!(next_version(&record, "f").to_string(), last);
    }
}
