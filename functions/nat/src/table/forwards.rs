//! Ports that lead inside for good, and making those of a region this configuration's.
//!
//! Owns: forwards, and how far they hold. Must not know: how ports are chosen.

use std::collections::BTreeMap;

use weir_sdk::host;

use super::ports::{COUNT, Pool};
use super::{Endpoint, FIXED, Inside, Mapping, Outside, PORTS, Table, protocol_place};

/// Slots looked at in a burst after a change of forwards: a table of the default size takes two,
/// one of the largest eighty.
const SETTLE: usize = 65_536;
/// Most forwards: all are looked at in one burst after a swap.
const FORWARDS: usize = 4096;
/// In `cursor`: not 0 while flows are looked at after a change of forwards.
const UNSETTLED: usize = 1;
/// A port that is no longer forwarded, until no flow has it any more: it leads nowhere and is not
/// given out.
const CLOSED: Mapping = Mapping { address: 0, vlans: 0, port: 0, flows: FIXED };

/// A port of the first external address that leads inside for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward {
    /// The protocol's place, and the port.
    at: (usize, u16),
    mapping: Mapping,
}

/// How far the region's forwards are those of the configuration.
#[derive(Debug)]
pub(super) enum Settling {
    /// The region may still be a predecessor's.
    Not,
    /// Mappings are. Flows are from this slot on looked at for those that have a port that is
    /// another's now; then these ports are free.
    From(usize, Vec<(usize, u16)>),
    /// Forwards are. Ports in use are counted, where another range was.
    Count,
    Done,
}

impl Table {
    /// Adds a port that leads inside for good; see [`Table::settle`].
    ///
    /// # Errors
    /// When it leads elsewhere already.
    pub(crate) fn forward(&mut self, protocol: u8, port: u16, to: Inside) -> Result<(), String> {
        let place = protocol_place(protocol)
            .ok_or_else(|| format!("config: forward: protocol {protocol} has no ports"))?;
        let mapping = Mapping::new(to, FIXED);
        let forward = Forward { at: (place, port), mapping };
        match self.forwards.iter().find(|other| other.at == forward.at) {
            Some(other) if other.mapping == mapping => return Ok(()),
            Some(_) => return Err(format!("config: forward: port {port} is forwarded twice")),
            None => self.forwards.push(forward),
        }
        if self.forwards.len() > self.endpoints.capacity() {
            return Err("config: max-flows: there are more forwards than flows".to_owned());
        }
        if self.forwards.len() > FORWARDS {
            return Err(format!("config: forward: there are more than {FORWARDS}"));
        }
        Ok(())
    }

    /// Call it before each burst. With the first, the region's forwards become those of this
    /// configuration; not earlier, because what a predecessor left is its own until then. What used
    /// a port that leads elsewhere from now on, or nowhere, ends.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if !matches!(self.settling, Settling::Done) {
            self.go_on_settling();
        }
    }

    #[cold]
    fn go_on_settling(&mut self) {
        self.search = COUNT;
        let (from, closed) = match std::mem::replace(&mut self.settling, Settling::Done) {
            Settling::Not => {
                self.set_ranges();
                match self.set_forwards() {
                    Some(closed) => (0, closed),
                    None => return self.count_ports(),
                }
            }
            Settling::From(slot, closed) => (slot, closed),
            Settling::Count => return self.count_ports(),
            Settling::Done => return,
        };
        let end = self.flows.slots().min(from + SETTLE);
        for slot in from..end {
            let Some((key, flow)) = self.flows.at(slot) else { continue };
            let Some(place) = protocol_place(key.protocol()) else { continue };
            if flow.external != 0 || !self.is_fixed(place, flow.port) {
                continue;
            }
            let inside = Inside::of(key);
            if self.mapping(0, place, flow.port).inside(inside.vlans) != Some(inside) {
                self.flows.remove_at(slot);
            }
        }
        if end < self.flows.slots() {
            self.settling = Settling::From(end, closed);
            return;
        }
        for (place, port) in closed {
            // A canary does the same in the region, and the port may have been given out since.
            if *self.mapping(0, place, port) == CLOSED {
                *self.mapping_mut(0, place, port) = Mapping::default();
                self.set_fixed(place, port, false);
                self.count_port(Pool { external: 0, place }, port, false);
            }
        }
        self.cursor[UNSETTLED] = 0;
        self.settling = Settling::Count;
    }

    /// Writes the mappings of all forwards: the ports that are none any more, or `None` if these
    /// are the forwards that there were. (What a predecessor has written may not have been settled
    /// by it.)
    fn set_forwards(&mut self) -> Option<Vec<(usize, u16)>> {
        let forwards = std::mem::take(&mut self.forwards);
        let wanted: BTreeMap<_, _> = forwards.iter().map(|f| (f.at, f.mapping)).collect();
        let fixed = self.fixed().into_iter();
        let closed: Vec<_> = fixed.filter(|at| !wanted.contains_key(at)).collect();
        let new = wanted.iter().filter(|(at, mapping)| self.mapping(0, at.0, at.1) != *mapping);
        let new: Vec<_> = new.map(|(at, mapping)| (*at, *mapping)).collect();
        if closed.is_empty() && new.is_empty() && self.cursor[UNSETTLED] == 0 {
            return None;
        }
        self.cursor[UNSETTLED] = 1;
        for ((place, port), mapping) in closed.iter().map(|at| (*at, CLOSED)).chain(new) {
            self.set_fixed(place, port, true);
            let old = std::mem::replace(self.mapping_mut(0, place, port), mapping);
            if old == Mapping::default() {
                self.count_port(Pool { external: 0, place }, port, true);
            } else {
                let Mapping { address, port: inside, vlans, flows } = old;
                let inside = Inside { address, port: inside, vlans };
                if flows != FIXED {
                    self.hosts.remove(&self.hasher, inside, place);
                }
                self.forget_endpoint(inside, place, Outside { external: 0, port });
            }
        }
        for Forward { at: (place, port), mapping } in forwards {
            let Mapping { address, port: inside, vlans, .. } = mapping;
            let endpoint = Endpoint::new(Inside { address, port: inside, vlans }, place);
            let hash = self.hasher.hash(&endpoint);
            if self.endpoints.insert(hash, endpoint, Outside { external: 0, port }).is_err() {
                host::warn!(
                    "forward: there is no room to remember that what its target opens leaves by port {port}"
                );
            }
        }
        Some(closed)
    }

    /// Notes whether a port of the first external address has a mapping that stays.
    fn set_fixed(&mut self, place: usize, port: u16, is: bool) {
        let index = Self::index(0, place, port);
        let (word, bit) = (&mut self.fixed[index / 64], 1 << (index % 64));
        *word = if is { *word | bit } else { *word & !bit };
    }

    /// Whether a port of the first external address has a mapping that stays.
    fn is_fixed(&self, place: usize, port: u16) -> bool {
        let index = Self::index(0, place, port);
        self.fixed[index / 64] >> (index % 64) & 1 == 1
    }

    /// The ports of the first external address whose mappings stay, with their protocols' places.
    fn fixed(&self) -> Vec<(usize, u16)> {
        let words = self.fixed.iter().enumerate().filter(|(_, word)| **word != 0);
        let bits = words.flat_map(|(n, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 == 1);
            bits.map(move |bit| n * 64 + bit)
        });
        // It is less than PORTS.
        bits.map(|index| (index / PORTS, (index % PORTS) as u16)).collect()
    }

    /// Whether the region is this configuration's.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.settling, Settling::Done)
    }
}
