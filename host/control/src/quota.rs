//! Whether a tenant may keep one thing more.

use weir_spec::{Chain, CheckReport, FunctionUse, Invalid, Name, Period, Quota, World};

use crate::error::ControlError;
use crate::functions::manifest_of;
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
    check_configuration(quota, state, tenant, report_bytes(report))
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

/// Whether a function of a chain keeps others waiting no longer than it may: its deadline is the
/// chain's, or else that of its version's manifest. `Err` says the value, and which of the two it
/// is of.
pub(crate) fn check_deadline(
    most: Period,
    function: &FunctionUse,
    report: &CheckReport,
) -> Result<(), Invalid> {
    if report.world == Some(World::WasiHttpProxy) {
        return Ok(());
    }
    let raise = "have the host's operator raise `deadline` in [quota]";
    if let Some(own) = function.deadline {
        if own <= most {
            return Ok(());
        }
        let message = format!("{own} is longer than this host lets its workers be kept");
        return Err(
            Invalid::at("deadline", message).help(format!("allowed: to {most}; or {raise}"))
        );
    }
    let theirs = manifest_of(report).ok().and_then(|manifest| manifest.deadline);
    match theirs.filter(|theirs| *theirs > most) {
        None => Ok(()),
        Some(theirs) => {
            let message = format!(
                "the manifest of {} says `deadline = \"{theirs}\"`, longer than this host lets its workers be kept",
                function.label()
            );
            let help = format!(
                "set `deadline` of the function in the chain, to {most} at most; or {raise}"
            );
            Err(Invalid::at("use", message).help(help))
        }
    }
}

/// Whether a tenant's chains may have so many linear memories all together, if they have had fewer.
pub(crate) fn check_memories(
    quota: &Quota,
    tenant: &Name,
    had: u64,
    wanted: u64,
) -> Result<(), ControlError> {
    if wanted <= had || wanted <= u64::from(quota.memories) {
        return Ok(());
    }
    used_up(tenant, "memories", quota.memories, |most| {
        format!(
            "the functions of its chains have {had} linear memories, with this they would have {wanted}, allowed are {most}: remove chains, or give them fewer `workers`"
        )
    })
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
    let reports = versions.map(|version| report_bytes(&version.report));
    let kept: u64 = chains.chain(reports).sum();
    if kept.saturating_add(more) <= quota.configuration.get() {
        return Ok(());
    }
    used_up(tenant, "configuration", quota.configuration, |most| {
        format!(
            "its chains' configurations and its functions' manifests and names of imports have {kept} bytes, this is {more} more, allowed are {most}: remove chains or versions that it does not need"
        )
    })
}

/// What a version's author decided about in what is kept of it.
fn report_bytes(report: &CheckReport) -> u64 {
    let texts = report.manifest.iter().chain(&report.imports);
    texts.map(|text| text.len() as u64).sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upload_names_is_counted_as_its_manifest_is() {
        let imports = vec!["wasi:io/streams@0.2.0".to_owned(); 2];
        let manifest = Some("# a comment".to_owned());
        let report = CheckReport { imports, manifest, ..CheckReport::default() };
        assert_eq!(report_bytes(&report), 2 * 21 + 11);
    }
}
