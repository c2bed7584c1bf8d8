//! What rules drop is dropped at `xdp` ports that no chain has, too: before the first chain comes,
//! while its chains cannot be deployed, and behind the last one.

use weir_port::Port as _;
use weir_spec::Port;
use weir_xdp::XdpPort;

use super::Packets;
use super::crossing::{Device, Shape};
use super::ports::{Kept, queue_of};

impl Packets {
    pub(crate) fn guard_ports(&self) {
        self.guard();
        self.remove_left();
    }

    /// Has what a tenant's rules drop dropped at its ports where nothing does that yet. Where it
    /// cannot be, the log says why.
    pub(super) fn guard(&self) {
        let unguarded = self.ports().unguarded();
        for (port, alone) in unguarded {
            let (shape, number) = self.shape_at(&port);
            let prepared = self.prepare_steering(&port.tenant, &shape, true);
            if !prepared.drops_at(number) {
                continue;
            }
            let guard = |queue| -> Result<Option<Kept>, weir_port::PortError> {
                let opened = XdpPort::open(port.name.as_str(), queue_of(&port, queue, alone))?;
                let Some(device) = opened.steering() else { return Ok(None) };
                let before: Device = (number, device);
                prepared.give([&before].into_iter());
                let (_, device) = before;
                let kept = Kept { shape: shape.clone(), number, device };
                Ok(kept.device.precede_port()?.then_some(kept))
            };
            let guards: Result<Vec<_>, _> = (0..port.queues.unwrap_or(1)).map(guard).collect();
            match guards {
                Ok(guards) => self.ports().stand_before(&port.name, guards.into_iter().flatten()),
                Err(error) => {
                    tracing::warn!("what rules drop passes until a chain has its port: {error}");
                }
            }
        }
    }

    /// Removes programs that were left on interfaces when a host with this store crashed: whatever
    /// is to go on has been taken over.
    fn remove_left(&self) {
        for pinning in self.ports().pinnings() {
            for left in weir_xdp::remove_left(&pinning) {
                tracing::info!(
                    "the XDP program of a host that crashed is removed, no rule drops anything there now: {}",
                    left.display()
                );
            }
        }
    }

    /// Between which ports rules are looked at for a port that no chain has, and the port's number
    /// there: those of a chain that is to have it, if there is one.
    fn shape_at(&self, port: &Port) -> (Shape, u16) {
        let ends = self.steering.ends_at(&port.tenant, &port.name);
        let (from, to) = ends.unwrap_or_else(|| (Some(port.name.clone()), None));
        let number = u16::from(from.as_ref() != Some(&port.name));
        (Shape { from, to, symmetric: true, workers: 1 }, number)
    }
}
