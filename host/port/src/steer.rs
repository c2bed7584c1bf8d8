//! Deciding where packets go before they come to a port.

use weir_steering::Rule;

use crate::PortError;

/// Decides by steering rules which packets never come to the port. From any thread, while the port's worker goes on or sleeps,
/// also before the port is attached.
pub trait Steer: Send + Sync {
    /// Puts these rules in the place of those before: each packet is decided by the old ones or by the new. `port` is the
    /// number that rules have for this port. Packets that rules send to chains come to the port, and so may any others: who
    /// reads the port decides again. May take a second for 100,000 rules.
    ///
    /// # Errors
    /// When the device refuses them; then none is in force here.
    fn replace(&self, rules: &[Rule], port: u16) -> Result<Taken, PortError>;
}

/// How many rules are decided before the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Those in front of the first that is not; what they do not decide comes to the port.
    pub rules: usize,
    /// All that concern the port.
    pub of: usize,
}
