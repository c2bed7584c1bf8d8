//! What a packet function is: the traits that it implements and what it is told at its start.

use serde::de::DeserializeOwned;

use crate::burst::Burst;
use crate::region::StateRegion;

/// A packet function. One instance serves one packet lane; nothing is shared between instances.
pub trait Function: Sized + 'static {
    /// The table `[function.config]` of the chain. Derive it with `deny_unknown_fields`, so that a
    /// misspelt key is an error and not a surprise.
    type Config: DeserializeOwned;

    /// Prepares an instance. Everything that allocates belongs here.
    ///
    /// # Errors
    /// The text is shown to whoever deploys the chain, which stays as it was: say what was wrong,
    /// the value, and what is allowed.
    fn configure(setup: Setup, config: Self::Config) -> Result<Self, String>;

    /// Decides about a burst. All verdicts are [`Verdict::Next`](crate::Verdict::Next) before.
    fn process(&mut self, burst: &mut Burst);

    /// Called once at or soon after the time given to [`host::set_timer`](crate::host::set_timer),
    /// with the time it is, in nanoseconds. There is no burst.
    fn tick(&mut self, now: u64) {
        let _ = now;
    }
}

/// A function that keeps state privately, not in the state region, and hands it to its successor.
/// Export it with `export!(Type, snapshot)`, or in the same way with the other macros.
pub trait Snapshot: Sized + 'static {
    /// The state, in a form that `restore` of this and of later versions reads.
    fn save(&self) -> Vec<u8>;

    /// Takes over what the previous instance saved; called after `configure`, before the first
    /// burst.
    ///
    /// # Errors
    /// The swap is refused with this text, and the old version stays.
    fn restore(&mut self, saved: &[u8]) -> Result<(), String>;
}

/// What a function is told when it is configured.
#[derive(Debug)]
pub struct Setup {
    /// Bytes of a buffer's room, the upper limit of a packet's length.
    pub room_bytes: u32,
    /// A random number for hash seeds, the same for every instance of this function while the host
    /// runs.
    pub seed: u64,
    /// The state region, if the function has one. See also [`Setup::region`].
    pub state: Option<StateRegion>,
    /// Names of the ports; a port's number is its place.
    pub ports: Vec<String>,
    /// Names of the chain's functions, in order.
    pub functions: Vec<String>,
    /// This function's place in `functions`.
    pub position: usize,
    /// [`Setup::region`] has given away the host's region.
    pub(crate) region_taken: bool,
}

impl Setup {
    /// Takes the state region, or ordinary memory in its place: the function works the same, only
    /// its successor starts with nothing. To be called once: all containers are carved out of the
    /// region that it gives.
    ///
    /// # Panics
    /// When the host's region was taken before: what lay in ordinary memory beside it would be lost
    /// with each swap.
    #[must_use]
    pub fn region(&mut self) -> StateRegion {
        assert!(
            !self.region_taken,
            "Setup::region was called a second time: take the region once (`let mut region = setup.region();`) and carve all containers out of it"
        );
        let region = self.state.take();
        self.region_taken = region.is_some();
        region.unwrap_or_else(StateRegion::heap)
    }

    /// The number of the port of this name.
    ///
    /// # Errors
    /// Says which ports there are.
    pub fn port(&self, name: &str) -> Result<u16, String> {
        let at = self.ports.iter().position(|port| port == name);
        at.and_then(|at| u16::try_from(at).ok())
            .ok_or_else(|| format!("no port is named `{name}`; ports: {}", self.ports.join(", ")))
    }
}

/// The configuration of a function that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads the configuration of a function.
pub(crate) fn read_config<C: DeserializeOwned>(json: &str) -> Result<C, String> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        // The operator wrote TOML and never saw the JSON: its lines and columns mean nothing.
        let text = error.into_inner().to_string();
        let text = text.split_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        if path == "." { format!("configuration: {text}") } else { format!("{path}: {text}") }
    })
}
