//! What a port is to be like. Knows no sockets.

use weir_xdp_layout::{
    FIELD_DESTINATION, FIELD_ETHERTYPE, FIELD_VLAN, RULES_MAX, Rule, Rules, TO_KERNEL, TO_SOCKET,
};

pub use crate::pin::Pinning;

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the driver where it can, else as `Generic`.
    #[default]
    Auto,
    /// In the driver, before the kernel makes an skb of the packet.
    Native,
    /// Behind the driver, on skbs: works everywhere, and costs more.
    Generic,
}

/// Packets that look so: all that is named has to be equal. Nothing named matches everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The EtherType behind VLAN tags.
    pub ethertype: Option<u16>,
    /// The outer VLAN's number.
    pub vlan: Option<u16>,
    /// The destination's MAC address.
    pub destination: Option<[u8; 6]>,
}

/// What a port is to be like.
#[derive(Clone, Debug)]
pub struct XdpConfig {
    /// The interface's name.
    pub interface: String,
    /// Its receive (and transmit) queue.
    pub queue: u32,
    /// The first of the queues of which each has a port like this one, for the workers of the same
    /// chains; none: it is alone. A flow that a function has moved at one of them goes there from
    /// all.
    pub first_queue: Option<u32>,
    /// No port but those from `first_queue` on is on the interface: what steering decides of the
    /// first one's packets it decides at all queues that have none of these ports. What is for
    /// chains goes to the kernel there.
    pub alone: bool,
    /// Where the XDP program runs.
    pub mode: Mode,
    /// Whether the kernel is to poll the device from our system calls, for so many µs at most.
    pub busy_poll: Option<u32>,
    /// Entries of the receive and fill rings, a power of two.
    pub rx_ring: u32,
    /// Entries of the transmit and completion rings, a power of two.
    pub tx_ring: u32,
    /// Packets that are left to the kernel, whatever `claim` says.
    pub leave: Vec<Match>,
    /// Packets that the port takes; if empty, all.
    pub claim: Vec<Match>,
    /// Where the XDP program is pinned. Ports of one interface share it: the first one's counts.
    pub pin: Pinning,
}

impl XdpConfig {
    /// All packets of this interface's first queue, everything else by default.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            queue: 0,
            first_queue: None,
            alone: false,
            mode: Mode::Auto,
            busy_poll: None,
            rx_ring: 1024,
            tx_ring: 1024,
            leave: Vec::new(),
            claim: Vec::new(),
            pin: Pinning::default(),
        }
    }

    /// The first of the queues with a port like this one.
    pub(crate) fn first_queue(&self) -> u32 {
        self.first_queue.unwrap_or(self.queue)
    }

    /// The rules for the XDP program; `None` when there are more than it has room for.
    pub(crate) fn rules(&self) -> Option<Rules> {
        let mut rules = Rules::default();
        let leave = self.leave.iter().map(|m| (m, TO_KERNEL));
        for (of, action) in leave.chain(self.claim.iter().map(|m| (m, TO_SOCKET))) {
            *rules.rules.get_mut(usize::from(rules.count))? = rule(of, action);
            rules.count += 1;
        }
        rules.otherwise = if self.claim.is_empty() { TO_SOCKET } else { TO_KERNEL };
        Some(rules)
    }

    /// Maximum number of rules, `leave` and `claim` together.
    pub const RULES_MAX: usize = RULES_MAX;
}

fn rule(of: &Match, action: u16) -> Rule {
    let field = |given: bool, field: u16| if given { field } else { 0 };
    Rule {
        fields: field(of.ethertype.is_some(), FIELD_ETHERTYPE)
            | field(of.vlan.is_some(), FIELD_VLAN)
            | field(of.destination.is_some(), FIELD_DESTINATION),
        action,
        ethertype: of.ethertype.unwrap_or_default(),
        vlan: of.vlan.unwrap_or_default(),
        destination: of.destination.unwrap_or_default(),
        unused: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_claims_everything_is_claimed_but_what_is_left() {
        let mut config = XdpConfig::new("veth0");
        assert_eq!(config.rules().unwrap(), Rules { otherwise: TO_SOCKET, ..Rules::default() });
        config.leave.push(Match { ethertype: Some(0x88cc), ..Match::default() });
        let rules = config.rules().unwrap();
        assert_eq!((rules.count, rules.otherwise), (1, TO_SOCKET));
        assert_eq!((rules.rules[0].action, rules.rules[0].fields), (TO_KERNEL, FIELD_ETHERTYPE));
        config.claim.push(Match { vlan: Some(100), ..Match::default() });
        let rules = config.rules().unwrap();
        assert_eq!((rules.count, rules.otherwise), (2, TO_KERNEL));
        config.claim = vec![Match::default(); RULES_MAX];
        assert_eq!(config.rules(), None);
    }

    #[test]
    fn words_are_the_rules_bytes() {
        let destination = Some([2, 0, 0, 0, 0, 7]);
        let mut config = XdpConfig::new("veth0");
        config.claim.push(Match { ethertype: Some(0x0800), vlan: Some(5), destination });
        let words = config.rules().unwrap().words();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(words[..6], [1, TO_KERNEL, 7, TO_SOCKET, 0x0800, 5]);
        assert_eq!(bytes[12..18], [2, 0, 0, 0, 0, 7]);
        assert_eq!(bytes.len(), size_of::<Rules>());
    }
}
