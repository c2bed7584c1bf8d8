//! What drops packets before a port that no chain has, until it is opened for one: rules that the
//! ports of its last chain were given, or that it had before it had a chain.

use std::sync::Arc;

use weir_port::Steer;
use weir_spec::{Name, Port, PortKind};
use weir_xdp::Pinning;

use super::super::crossing::{Device, Shape};
use super::{Ports, Slot};

/// See the module.
#[derive(Clone)]
pub(in super::super) struct Kept {
    /// The ports between which the chain was, and what else rules depend on.
    pub(in super::super) shape: Shape,
    /// The number that rules have for the port.
    pub(in super::super) number: u16,
    pub(in super::super) device: Arc<dyn Steer>,
}

impl Slot {
    /// Nothing is dropped before the port any more.
    pub(super) fn let_go_of_kept(&mut self) {
        for kept in self.kept.drain(..) {
            kept.device.outlive_port(false);
        }
    }
}

impl Ports {
    /// Takes what decides before ports between which there is nothing any more, and that were
    /// closed.
    pub(in super::super) fn keep<'d>(
        &mut self,
        shape: &Shape,
        devices: impl Iterator<Item = &'d Device>,
    ) {
        let (names, closed) = (self.names(shape.from.as_ref(), shape.to.as_ref()), self.closed);
        for (number, device) in devices {
            let name = names.get(usize::from(*number));
            let Some(slot) = name.and_then(|name| self.slot_mut(name)) else { continue };
            slot.kept.retain(|kept| kept.device.outlive_port(true));
            if device.outlive_port(!closed) {
                let (shape, device) = (shape.clone(), Arc::clone(device));
                slot.kept.push(Kept { shape, number: *number, device });
            }
        }
    }

    /// `xdp` ports that no chain has, that could be opened, and before which nothing drops packets;
    /// and whether they have their interface alone.
    pub(in super::super) fn unguarded(&mut self) -> Vec<(Port, bool)> {
        let closed = self.closed;
        let unguarded = self.slots.iter_mut().filter_map(|slot| {
            slot.kept.retain(|kept| kept.device.outlive_port(!closed));
            let is_bare = slot.chain.is_none() && slot.away.is_none() && slot.kept.is_empty();
            let mine = slot.config.kind == PortKind::Xdp && slot.config.peer.is_none();
            (!closed && is_bare && mine).then(|| (slot.config.clone(), slot.alone))
        });
        unguarded.collect()
    }

    /// This drops packets before a port from now on, unless a chain has it by now.
    pub(in super::super) fn stand_before(
        &mut self,
        port: &Name,
        guards: impl Iterator<Item = Kept>,
    ) {
        let closed = self.closed;
        if let Some(slot) = self.slot_mut(port).filter(|slot| !closed && slot.chain.is_none()) {
            slot.kept.extend(guards);
        }
    }

    /// Where programs may be pinned: where the ports' are, and by custom.
    pub(in super::super) fn pinnings(&self) -> Vec<Pinning> {
        let mut pinnings = vec![Pinning::Auto];
        for slot in self.slots.iter().filter(|slot| slot.config.kind == PortKind::Xdp) {
            let pin = super::xdp(&slot.config).pin;
            if !pinnings.contains(&pin) {
                pinnings.push(pin);
            }
        }
        pinnings
    }

    /// What there is of a tenant's.
    pub(in super::super) fn kept(&self, tenant: &Name) -> Vec<Kept> {
        let slots = self.slots.iter().filter(|slot| slot.config.tenant == *tenant);
        slots.flat_map(|slot| &slot.kept).cloned().collect()
    }
}
