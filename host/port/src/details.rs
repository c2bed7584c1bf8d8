//! What a device knows about itself beside the port's own counters.

/// Tells how a device is, from any thread, while the port's worker goes on. May make system calls.
pub trait Inspect: Send + Sync {
    /// How it is now, or was when it was closed.
    fn inspect(&self) -> Details;
}

/// How a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// What does not count anything: driver, link, MTU, ...
    pub facts: Vec<(&'static str, String)>,
    /// Packets that the device itself dropped before the port saw them, by reason.
    pub rx_dropped: Vec<(&'static str, u64)>,
    /// Packets that the device took from the port and did not send, by reason.
    pub tx_dropped: Vec<(&'static str, u64)>,
    /// The driver's own counters, under its names.
    pub counters: Vec<(String, u64)>,
    /// Rooms of the pool that wait in its rings for packets to come, if it takes them from there.
    pub waiting_rooms: u32,
    /// Why it works no more.
    pub problem: Option<String>,
}

impl Details {
    /// The fact of this name.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.0 == name).map(|fact| fact.1.as_str())
    }
}
