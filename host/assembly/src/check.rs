//! What a host would say of an upload, without a host.

use std::borrow::Borrow;

use weir_sandbox::{Admitted, Refused, Sandbox, World as Admissible};
use weir_spec::{CheckReport, Manifest, World};

use crate::load::manifest_of;

/// Looks at an upload; nothing of it is run.
#[must_use]
pub fn check(wasm: &[u8]) -> CheckReport {
    let mut report = report(weir_sandbox::admit(wasm));
    if let Some(Err(reason)) = Manifest::appended(wasm).map(Manifest::check_length) {
        report.accepted = false;
        report.reasons.push(reason);
    }
    report
}

/// The same in a host, which may know the upload, and then need not look at it again.
#[must_use]
pub fn check_in(sandbox: &Sandbox, wasm: &[u8]) -> CheckReport {
    report(sandbox.look_at(wasm))
}

/// What the sandbox found, in the words of reports.
pub(crate) fn world(world: Admissible) -> World {
    match world {
        Admissible::Window => World::PacketFunction,
        Admissible::Copy => World::PacketFunctionCopy,
        Admissible::Burst => World::PacketFunctionBurst,
        Admissible::Message => World::MessageFunction,
        Admissible::Connection => World::ConnectionFunction,
        Admissible::Proxy => World::WasiHttpProxy,
    }
}

fn report(admitted: Result<impl Borrow<Admitted>, Refused>) -> CheckReport {
    match admitted {
        Ok(admitted) => {
            let admitted = admitted.borrow();
            // What is too long is not read: it would take forty times as much.
            let manifest = admitted.manifest.as_deref().map_or(Ok(()), Manifest::check_length);
            let read = || manifest_of("the upload", admitted).map_err(|error| error.to_string());
            let reasons: Vec<String> = manifest.and_then(|()| read()).err().into_iter().collect();
            CheckReport {
                accepted: reasons.is_empty(),
                world: Some(world(admitted.world)),
                imports: admitted.imports.clone(),
                reasons,
                memory_bytes: admitted.memory_at_start,
                memories: admitted.memories_at_start,
                saves: admitted.saves,
                manifest: admitted.manifest.clone(),
            }
        }
        Err(refused) => CheckReport {
            accepted: false,
            world: refused.world.map(world),
            imports: refused.imports,
            reasons: refused.reasons,
            ..CheckReport::default()
        },
    }
}
