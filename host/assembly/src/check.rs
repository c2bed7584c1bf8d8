//! What a host would say of an upload, without a host.

use weir_sandbox::World as Admissible;
use weir_spec::{CheckReport, World};

use crate::load::manifest_of;

/// Looks at an upload; nothing of it is run.
#[must_use]
pub fn check(wasm: &[u8]) -> CheckReport {
    let world = |world: Admissible| match world {
        Admissible::Window => World::PacketFunction,
        Admissible::Copy => World::PacketFunctionCopy,
    };
    match weir_sandbox::admit(wasm) {
        Ok(admitted) => {
            let reasons: Vec<String> = manifest_of("the upload", &admitted)
                .err()
                .map(|error| error.to_string())
                .into_iter()
                .collect();
            CheckReport {
                accepted: reasons.is_empty(),
                world: Some(world(admitted.world)),
                imports: admitted.imports,
                reasons,
                memory_bytes: admitted.memory_at_start,
                saves: admitted.saves,
                manifest: admitted.manifest,
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
