//! What a function's place in a chain comes to, once its manifest is known: every value set.

use std::sync::Arc;

use semver::Version;

use crate::chain::{Access, FunctionUse, OnFault};
use crate::invalid::Invalid;
use crate::manifest::{Manifest, State};
use crate::{Name, Period, Size, Table};

/// What holds when neither chain nor manifest say anything.
pub mod defaults {
    use crate::{Period, Size};

    /// Linear memory of a function.
    pub const MEMORY: Size = Size::mebibytes(16);
    /// CPU time for a burst.
    pub const DEADLINE: Period = Period::milliseconds(10);
    /// Time that an exchange of a function of the world `wasi:http/proxy` may take.
    pub const TIMEOUT: Period = Period::milliseconds(60_000);
    /// Instances of one at a time, on a thread.
    pub const INSTANCES: u32 = 64;
    /// Requests that an instance of one serves.
    pub const REQUESTS_PER_INSTANCE: u32 = 1;
    /// How long one that serves nobody is kept.
    pub const INSTANCE_IDLE: Period = Period::milliseconds(1_000);
    /// State region of a function that says it has one, but not how large.
    pub const STATE: Size = Size::mebibytes(4);
}

/// State regions are mapped in Wasm pages.
const WASM_PAGE: u64 = 65_536;

/// A function's place in a chain, ready for the data plane.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedFunction {
    /// Its name in the chain.
    pub label: Name,
    /// Its version; none for a file without one.
    pub version: Option<Version>,
    /// The upload: component or core module.
    pub wasm: Arc<[u8]>,
    /// What it may do with packets.
    pub access: Access,
    /// What happens to packets when it faults.
    pub on_fault: OnFault,
    /// Bytes of linear memory beside window and state region.
    pub memory: Size,
    /// CPU time for a burst.
    pub deadline: Period,
    /// Time that an exchange may take, if it is of the world `wasi:http/proxy`.
    pub timeout: Period,
    /// Maximum number of instances at a time on a thread, if it is of that world.
    pub instances: u32,
    /// Maximum number of requests that an instance serves, one after the other, if it is of that
    /// world.
    pub requests_per_instance: u32,
    /// How long an instance that serves nobody is kept, if it serves several.
    pub instance_idle: Period,
    /// What becomes of its state.
    pub state: State,
    /// Bytes of the state region, a multiple of 65,536; 0 without one.
    pub state_bytes: u64,
    /// Whether its instances on all workers have one state region together.
    pub state_shared: bool,
    /// Name of the state region's layout.
    pub layout: String,
    /// Whether the host remembers what it decides about whole flows.
    pub flow_verdicts: bool,
    /// Chains to which it may move flows.
    pub targets: Vec<Name>,
    /// Its configuration, a JSON object.
    pub config: String,
    /// Its configuration on each worker, where they differ; else empty.
    pub per_worker: Vec<String>,
}

impl FunctionUse {
    /// Puts together what chain and manifest say.
    ///
    /// # Errors
    /// When they contradict each other: a state region for a function that has none, or a label
    /// that is no name.
    pub fn resolve(
        &self,
        manifest: &Manifest,
        version: Option<Version>,
        wasm: Arc<[u8]>,
    ) -> Result<ResolvedFunction, Invalid> {
        let label = self.label();
        let label = label.parse().map_err(|e| Invalid::at("name", format!("{e}")))?;
        let access = self.access.unwrap_or_default().min(manifest.access.unwrap_or_default());
        if self.state.is_some() && manifest.state == State::Save {
            return Err(Invalid::at(
                "state",
                format!("{label} keeps its state privately (`state = \"save\"` in its manifest)"),
            )
            .help("leave `state` out"));
        }
        // A function without a manifest gets a region when the chain says so.
        let state_bytes = match (self.state, manifest.state) {
            (Some(size), _) => size.get(),
            (None, State::Region) => manifest.state_bytes.unwrap_or(defaults::STATE).get(),
            (None, State::None | State::Save) => 0,
        };
        let state = if self.state.is_some() { State::Region } else { manifest.state };
        let state_shared = self.state_shared.or(manifest.state_shared).unwrap_or_default();
        if state_shared && state_bytes == 0 {
            return Err(Invalid::at(
                "state-shared",
                format!("{label} has no state region to share"),
            )
            .help("leave `state-shared` out, or give it a region with `state`"));
        }
        Ok(ResolvedFunction {
            access,
            on_fault: self.on_fault.or(manifest.on_fault).unwrap_or_default(),
            memory: self.memory.or(manifest.memory).unwrap_or(defaults::MEMORY),
            deadline: self.deadline.or(manifest.deadline).unwrap_or(defaults::DEADLINE),
            timeout: self.timeout.unwrap_or(defaults::TIMEOUT),
            instances: self.instances.unwrap_or(defaults::INSTANCES),
            requests_per_instance: self
                .requests_per_instance
                .or(manifest.requests_per_instance)
                .unwrap_or(defaults::REQUESTS_PER_INSTANCE),
            instance_idle: self.instance_idle.unwrap_or(defaults::INSTANCE_IDLE),
            state,
            state_bytes: state_bytes.next_multiple_of(WASM_PAGE),
            state_shared,
            layout: manifest.layout.clone().unwrap_or_default(),
            flow_verdicts: self.flow_verdicts.or(manifest.flow_verdicts).unwrap_or(false),
            targets: self.targets.clone(),
            config: self.config.as_str().to_owned(),
            per_worker: self.per_worker.iter().map(|own| self.config_with(own)).collect(),
            version,
            wasm,
            label,
        })
    }

    /// The configuration, except where this says otherwise.
    fn config_with(&self, own: &Table) -> String {
        self.config.with(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(function: &FunctionUse, manifest: &Manifest) -> Result<ResolvedFunction, Invalid> {
        function.resolve(manifest, None, Arc::from([]))
    }

    fn named() -> FunctionUse {
        FunctionUse { function: Some("f".parse().unwrap()), ..FunctionUse::default() }
    }

    #[test]
    fn the_chain_goes_before_the_manifest_and_that_before_the_defaults() {
        let manifest = Manifest {
            memory: Some(Size::mebibytes(1)),
            deadline: Some(Period::milliseconds(2)),
            on_fault: Some(OnFault::FailOpen),
            requests_per_instance: Some(100),
            ..Manifest::default()
        };
        let bare = resolve(&named(), &Manifest::default()).unwrap();
        assert_eq!((bare.memory, bare.deadline), (defaults::MEMORY, defaults::DEADLINE));
        assert_eq!((bare.config.as_str(), bare.requests_per_instance), ("{}", 1));
        let chain = FunctionUse { memory: Some(Size::mebibytes(3)), ..named() };
        let both = resolve(&chain, &manifest).unwrap();
        assert_eq!(both.memory, Size::mebibytes(3));
        assert_eq!(both.deadline, Period::milliseconds(2));
        assert_eq!(both.on_fault, OnFault::FailOpen);
        assert_eq!(both.requests_per_instance, 100);
        let once = FunctionUse { requests_per_instance: Some(1), ..named() };
        assert_eq!(resolve(&once, &manifest).unwrap().requests_per_instance, 1);
    }

    #[test]
    fn what_is_said_for_a_worker_goes_before_the_rest() {
        let table = |value| serde_json::from_value(value).unwrap();
        let function = FunctionUse {
            config: table(serde_json::json!({"ports": "1-9", "deny": true})),
            per_worker: vec![
                table(serde_json::json!({"ports": "1-4"})),
                table(serde_json::json!({})),
            ],
            ..named()
        };
        let resolved = resolve(&function, &Manifest::default()).unwrap();
        assert_eq!(resolved.per_worker[0], r#"{"ports":"1-4","deny":true}"#);
        assert_eq!(resolved.per_worker[1], resolved.config);
    }

    #[test]
    fn a_shared_state_needs_a_region() {
        let shared = FunctionUse { state_shared: Some(true), ..named() };
        assert!(
            resolve(&shared, &Manifest::default()).unwrap_err().message.contains("no state region")
        );
        let region = Manifest { state: State::Region, ..Manifest::default() };
        assert!(resolve(&shared, &region).unwrap().state_shared);
        let own = FunctionUse { state_shared: Some(false), ..named() };
        let asks = Manifest { state_shared: Some(true), ..region };
        assert!(!resolve(&own, &asks).unwrap().state_shared);
        assert!(resolve(&named(), &asks).unwrap().state_shared);
    }

    #[test]
    fn access_is_the_narrower_of_the_two() {
        let narrow = Manifest { access: Some(Access::ReadOnly), ..Manifest::default() };
        let wide = FunctionUse { access: Some(Access::ReadWrite), ..named() };
        assert_eq!(resolve(&wide, &narrow).unwrap().access, Access::ReadOnly);
        let narrow = FunctionUse { access: Some(Access::ReadOnly), ..named() };
        assert_eq!(resolve(&narrow, &Manifest::default()).unwrap().access, Access::ReadOnly);
        assert_eq!(resolve(&named(), &Manifest::default()).unwrap().access, Access::ReadWrite);
    }

    #[test]
    fn state_regions_are_whole_pages() {
        let region = Manifest { state: State::Region, ..Manifest::default() };
        assert_eq!(resolve(&named(), &region).unwrap().state_bytes, defaults::STATE.get());
        let odd = FunctionUse { state: Some(Size::bytes(65_537)), ..named() };
        assert_eq!(resolve(&odd, &region).unwrap().state_bytes, 131_072);
        assert_eq!(resolve(&named(), &Manifest::default()).unwrap().state_bytes, 0);
        let saves = Manifest { state: State::Save, ..Manifest::default() };
        assert!(resolve(&odd, &saves).unwrap_err().message.contains("privately"));
    }
}
