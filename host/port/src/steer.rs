//! Deciding where packets go before they come to a port.

use std::sync::Arc;

use weir_steering::Rule;

use crate::PortError;

/// Decides by steering rules which packets never come to the port. From any thread, while the
/// port's worker goes on or sleeps, also before the port is attached.
pub trait Steer: Send + Sync {
    /// Puts these rules in the place of those before: each packet is decided by the old ones or by
    /// the new. `port` is the number that rules have for this port. Packets that rules send to
    /// chains come to the port, and so may any others: who reads the port decides again. May take a
    /// second for 100,000 rules.
    ///
    /// # Errors
    /// When the device refuses them; then none is in force here.
    fn replace(&self, rules: &[Rule], port: u16) -> Result<OffloadedRules, PortError>;

    /// What decides: `xdp`, `rte_flow`.
    fn kind(&self) -> &'static str;

    /// Where each of the rules that [`Self::replace`] was given last is compared, in their order.
    fn places(&self) -> Vec<Place>;

    /// From now on packets that these rules drop are dropped, although the port is not open: as
    /// behind a port that was, and for as long ([`Self::outlive_port`]). False: they drop nothing,
    /// or the device cannot do that without a port.
    ///
    /// # Errors
    /// When the device is gone, or refuses it.
    fn precede_port(&self) -> Result<bool, PortError> {
        Ok(false)
    }

    /// With `stay` packets that these rules drop go on to be dropped when the port is closed, until
    /// there is another port in its place, or this is taken back. Whether that is so at this
    /// moment: the port is closed, and its rules are in force.
    fn outlive_port(&self, stay: bool) -> bool {
        let _ = stay;
        false
    }
}

/// Where a rule is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: packets of this port never meet it.
    Nowhere,
    /// Before the port.
    Before {
        /// Flows that it decided there, if they are counted.
        flows: Option<u64>,
        /// Packets that it decided there, if they are counted.
        packets: Option<u64>,
    },
    /// Behind the port, in software: it is for a chain, or this is why nothing before the port has
    /// it.
    Behind(Option<Arc<str>>),
    /// Behind the port, in software, because this earlier one of the rules sends some of its
    /// packets elsewhere.
    BehindRule(u32),
}

/// How many rules are decided before the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadedRules {
    /// Those in front of the first that is not; what they do not decide comes to the port.
    pub rules: usize,
    /// All that concern the port.
    pub of: usize,
}
