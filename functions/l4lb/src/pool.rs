//! All backends of all services, by place and by id.
//!
//! Owns: Maglev's choice, finding a backend again by the id that connections remember. Must not
//! know: packets, connections.

use std::net::IpAddr;

use weir_sdk::flow::FlowV4;
use weir_translate::{Difference, End};

use crate::config::{Mode, Service};
use crate::rewrite::Translation;

/// Place of a backend among all.
pub(crate) type Place = u32;
const NOWHERE: Place = Place::MAX;

/// A backend as packets need it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The same in every configuration that has this backend in this service.
    pub(crate) id: u32,
    pub(crate) service: usize,
    /// Connections that it has stay.
    pub(crate) healthy: bool,
    pub(crate) mode: Mode,
    pub(crate) mac: [u8; 6],
    /// How plain packets of IPv4 are translated inwards, which is worth a shorter way; none in mode
    /// `l2`.
    pub(crate) plain: Option<Plain>,
    /// From the virtual address to its own, and back.
    pub(crate) inward: Translation,
    pub(crate) outward: Translation,
    /// The virtual address and port, and its own; port 0 stands for any.
    pub(crate) vip: (IpAddr, u16),
    pub(crate) end: (IpAddr, u16),
}

/// From the virtual address and port to a backend's, of IPv4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    address: u32,
    /// None: it stays.
    port: Option<u16>,
    difference: Difference,
}

impl Plain {
    /// Port 0 stands for any, which stays.
    fn new(mode: Mode, vip: (IpAddr, u16), end: (IpAddr, u16)) -> Option<Self> {
        let (Mode::Dnat, IpAddr::V4(old), IpAddr::V4(new)) = (mode, vip.0, end.0) else {
            return None;
        };
        let (old, address) = (u32::from(old), u32::from(new));
        let port = (end.1 != vip.1 && end.1 != 0).then_some(end.1);
        let difference = Difference::new((old, vip.1), (address, port.unwrap_or(vip.1)));
        Some(Self { address, port, difference })
    }

    /// Translates the destination of a plain packet of this flow.
    #[inline(always)]
    pub(crate) fn translate(&self, frame: &mut [u8], flow: &FlowV4) {
        let to = (self.address, self.port.unwrap_or(flow.destination().1));
        self.difference.translate(frame, flow.protocol(), End::Destination, to);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) targets: Vec<Target>,
    /// Of each service: place of its first backend, and Maglev's table.
    services: Vec<(Place, Vec<u16>)>,
    /// Open addressing by an id's upper bits; ids are hashes. A power of two, mostly free.
    directory: Vec<(u32, Place)>,
    shift: u32,
}

impl Pool {
    pub(crate) fn new(services: &[Service]) -> Result<Self, String> {
        let count: usize = services.iter().map(|service| service.backends.len()).sum();
        let size = (count * 4).next_power_of_two().max(16);
        let mut pool = Self {
            targets: Vec::with_capacity(count),
            services: Vec::with_capacity(services.len()),
            directory: vec![(0, NOWHERE); size],
            shift: u32::BITS - size.trailing_zeros(),
        };
        for (n, service) in services.iter().enumerate() {
            pool.services.push((pool.targets.len() as Place, service.table.clone()));
            let vip = (service.vip, service.port);
            for (b, backend) in service.backends.iter().enumerate() {
                let place = pool.targets.len() as Place;
                if !pool.enter(backend.id, place) {
                    return Err(format!(
                        "config: services[{n}]: backends[{b}]: {} has the same id as another: is it in the list twice?",
                        backend.ip
                    ));
                }
                let end = (backend.ip, backend.port.unwrap_or(service.port));
                pool.targets.push(Target {
                    id: backend.id,
                    service: n,
                    healthy: backend.healthy,
                    mode: service.mode,
                    mac: backend.mac,
                    plain: Plain::new(service.mode, vip, end),
                    inward: Translation::new(vip, end),
                    outward: Translation::new(end, vip),
                    vip,
                    end,
                });
            }
        }
        Ok(pool)
    }

    /// False when the id is there already.
    fn enter(&mut self, id: u32, place: Place) -> bool {
        let mask = self.directory.len() - 1;
        let mut slot = (id >> self.shift) as usize;
        while self.directory[slot].1 != NOWHERE {
            if self.directory[slot].0 == id {
                return false;
            }
            slot = (slot + 1) & mask;
        }
        self.directory[slot] = (id, place);
        true
    }

    /// Where the backend with this id is, if it is in the configuration.
    #[inline]
    pub(crate) fn place(&self, id: u32) -> Option<Place> {
        let mask = self.directory.len() - 1;
        let mut slot = (id >> self.shift) as usize & mask;
        loop {
            let (found, place) = self.directory[slot];
            if place == NOWHERE {
                return None;
            }
            if found == id {
                return Some(place);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Maglev's choice for a flow; none when none of the service's backends gets new ones.
    pub(crate) fn choose(&self, service: usize, hash: u64) -> Option<Place> {
        let (first, table) = &self.services[service];
        // An entry by multiplication, without a division (Lemire 2019).
        let entry = ((hash >> 32) * table.len() as u64) >> 32;
        table.get(entry as usize).map(|backend| first + Place::from(*backend))
    }
}
