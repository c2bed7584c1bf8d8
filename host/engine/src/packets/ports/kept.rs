//! What drops packets before a port that no chain has: rules that the ports of its last chain were given, until it is opened anew. While a
//! chain is deployed again, what an operator wants to be dropped does not go to the kernel.

use std::sync::Arc;

use weir_port::Steer;
use weir_spec::Name;

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
    /// Takes what decides before ports between which there is nothing any more, and that were closed.
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

    /// What there is of a tenant's.
    pub(in super::super) fn kept(&self, tenant: &Name) -> Vec<Kept> {
        let slots = self.slots.iter().filter(|slot| slot.config.tenant == *tenant);
        slots.flat_map(|slot| &slot.kept).cloned().collect()
    }
}
