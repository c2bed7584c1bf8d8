//! Whether a tenant may keep one thing more.

use weir_spec::{Chain, CheckReport, Name, Quota};

use crate::error::ControlError;
use crate::store::{ChainId, FunctionId, State};

/// Whether a tenant may keep another version, of so many bytes.
///
/// # Errors
/// Which number of `[quota]` is used up, and what to do.
pub(crate) fn check_version(
    quota: &Quota,
    state: &State,
    id: &FunctionId,
    bytes: u64,
    report: &CheckReport,
) -> Result<(), ControlError> {
    let tenant = &id.tenant;
    let own = || state.functions.iter().filter(|(other, _)| other.tenant == *tenant);
    match state.functions.get(id) {
        Some(function) if function.versions.len() >= quota.versions as usize => {
            return used_up(tenant, "versions", quota.versions, |most| {
                format!(
                    "function {} has {most} versions: remove one (`weir function remove {} --version ...`)",
                    id.name, id.name
                )
            });
        }
        None if own().count() >= quota.functions as usize => {
            return used_up(tenant, "functions", quota.functions, |most| {
                format!("it has {most} functions: remove one (`weir function remove`)")
            });
        }
        _ => {}
    }
    let kept: u64 = own().flat_map(|(_, f)| f.versions.values()).map(|v| v.bytes).sum();
    if kept.saturating_add(bytes) > quota.wasm.get() {
        return used_up(tenant, "wasm", quota.wasm, |most| {
            format!(
                "its functions have {kept} bytes, this one {bytes}, allowed are {most}: remove versions that it does not need"
            )
        });
    }
    check_configuration(quota, state, tenant, manifest_bytes(report))
}

/// Whether a tenant may keep this chain, instead of the one of its name if there is one.
///
/// # Errors
/// As [`check_version`].
pub(crate) fn check_chain(
    quota: &Quota,
    state: &State,
    id: &ChainId,
    chain: &Chain,
) -> Result<(), ControlError> {
    let tenant = &id.tenant;
    let before = state.chains.get(id);
    let chains = state.chains.keys().filter(|id| id.tenant == *tenant).count();
    if before.is_none() && chains >= quota.chains as usize {
        return used_up(tenant, "chains", quota.chains, |most| {
            format!("it has {most} chains: remove one (`weir chain remove`)")
        });
    }
    let before = before.map_or(0, |record| record.chain.config_bytes());
    check_configuration(quota, state, tenant, chain.config_bytes().saturating_sub(before))
}

/// Whether what is kept in memory of a tenant's may grow by so many bytes.
fn check_configuration(
    quota: &Quota,
    state: &State,
    tenant: &Name,
    more: u64,
) -> Result<(), ControlError> {
    if more == 0 {
        return Ok(());
    }
    let chains = state.chains.iter().filter(|(id, _)| id.tenant == *tenant);
    let chains = chains.map(|(_, record)| record.chain.config_bytes());
    let functions = state.functions.iter().filter(|(id, _)| id.tenant == *tenant);
    let versions = functions.flat_map(|(_, function)| function.versions.values());
    let manifests = versions.map(|version| manifest_bytes(&version.report));
    let kept: u64 = chains.chain(manifests).sum();
    if kept.saturating_add(more) <= quota.configuration.get() {
        return Ok(());
    }
    used_up(tenant, "configuration", quota.configuration, |most| {
        format!(
            "its chains' configurations and its functions' manifests have {kept} bytes, this is {more} more, allowed are {most}: remove chains or versions that it does not need"
        )
    })
}

fn manifest_bytes(report: &CheckReport) -> u64 {
    report.manifest.as_ref().map_or(0, |text| text.len() as u64)
}

fn used_up<T, M: Copy>(
    tenant: &Name,
    key: &str,
    most: M,
    why: impl FnOnce(M) -> String,
) -> Result<T, ControlError> {
    let why = why(most);
    Err(ControlError::Forbidden(format!(
        "tenant {tenant} is at its quota: {why}, or have the host's operator raise `{key}` in [quota]"
    )))
}
