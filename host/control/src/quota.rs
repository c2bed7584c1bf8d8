//! Whether a tenant may keep one thing more.

use weir_spec::{Name, Quota};

use crate::error::ControlError;
use crate::store::{FunctionId, State};

/// Whether a tenant may keep another version, of so many bytes.
///
/// # Errors
/// Which number of `[quota]` is used up, and what to do.
pub(crate) fn check_version(
    quota: &Quota,
    state: &State,
    id: &FunctionId,
    bytes: u64,
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
    Ok(())
}

/// Whether a tenant may keep another chain.
///
/// # Errors
/// As [`check_version`].
pub(crate) fn check_chain(quota: &Quota, state: &State, tenant: &Name) -> Result<(), ControlError> {
    let chains = state.chains.keys().filter(|id| id.tenant == *tenant).count();
    if chains < quota.chains as usize {
        return Ok(());
    }
    used_up(tenant, "chains", quota.chains, |most| {
        format!("it has {most} chains: remove one (`weir chain remove`)")
    })
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
