//! Both data planes behind the control plane's [`Engine`](weir_control::engine::Engine): what a
//! host is made of below its API.
//!
//! Owns: chains, listeners, ports and devices as they are deployed; that a change is on all workers
//! and threads or on none; what they tell of themselves. Must not know: arguments, where the
//! configuration is, signals, requests to the API, the store.
//!
//! [`packets`] has workers, lanes and ports, [`messages`] the gateway and its listeners, [`nics`]
//! what is done to devices before they are opened. [`Planes`] puts them together: the only place
//! that knows both planes.

mod busy_poll;
pub mod located;
mod messages;
pub mod nics;
mod packets;
mod planes;
mod queues;
mod telemetries;
mod told;

use std::path::Path;

use weir_spec::{HostConfig, Invalid, Port};

pub use planes::Planes;

/// The program that runs, whatever lies at its path now: its children must be of the same version.
pub const PROGRAM: &str = "/proc/self/exe";

/// What would not be as the configuration wants it, on this machine as it is now.
#[derive(Debug)]
pub struct Findings {
    /// Why ports would be down, which keeps no host from starting.
    pub down: Vec<Invalid>,
    /// What is hardly meant so.
    pub notes: Vec<String>,
}

/// Looks at ports and listeners of a configuration; nothing is opened, and nobody listens.
///
/// # Errors
/// What would keep a host from starting.
pub fn check(config: &HostConfig) -> Result<Findings, Invalid> {
    let down = packets::check_ports(config)?;
    messages::check_listeners(config)?;
    let notes = config.ports.iter().flat_map(|port| warnings(config.ports.iter(), port));
    Ok(Findings { down, notes: notes.collect() })
}

/// What is hardly meant so with one of all these ports.
fn warnings<'p>(all: impl Iterator<Item = &'p Port> + Clone, port: &Port) -> Vec<String> {
    let sys = Path::new("/sys");
    let queues = queues::warning(all, port, sys);
    queues.into_iter().chain(busy_poll::warning(port, sys)).collect()
}

/// Unknown to who sends packets or requests, so that nobody can aim at hash buckets.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
