//! Where packets of one version of IP go: by connection, or by Maglev's table.
//!
//! Owns: finding services and backends by address, and connections. Must not know: packets' bytes.

use std::net::IpAddr;

use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::region::{Probe, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::{Mode, Service};
use crate::connections::Connections;
use crate::pool::{Place, Pool, Target};

/// A flow of one version of IP.
pub(crate) trait Flow: FromBytes + IntoBytes + Immutable + Eq + Copy {
    type Address: Copy + Default;

    fn new(from: (Self::Address, u16), to: (Self::Address, u16), protocol: u8) -> Self;
    fn from(&self) -> (Self::Address, u16);
    fn to(&self) -> (Self::Address, u16);
    fn protocol(&self) -> u8;
    /// None when it is of the other version.
    fn address(ip: IpAddr) -> Option<Self::Address>;
}

impl Flow for FlowV4 {
    type Address = u32;

    #[inline]
    fn new(from: (u32, u16), to: (u32, u16), protocol: u8) -> Self {
        Self::directed(from, to, protocol)
    }
    #[inline]
    fn from(&self) -> (u32, u16) {
        self.source()
    }
    #[inline]
    fn to(&self) -> (u32, u16) {
        self.destination()
    }
    #[inline]
    fn protocol(&self) -> u8 {
        self.protocol()
    }
    fn address(ip: IpAddr) -> Option<u32> {
        if let IpAddr::V4(ip) = ip { Some(ip.into()) } else { None }
    }
}

impl Flow for FlowV6 {
    type Address = u128;

    fn new(from: (u128, u16), to: (u128, u16), protocol: u8) -> Self {
        Self::directed(from, to, protocol)
    }
    fn from(&self) -> (u128, u16) {
        self.source()
    }
    fn to(&self) -> (u128, u16) {
        self.destination()
    }
    fn protocol(&self) -> u8 {
        self.protocol()
    }
    fn address(ip: IpAddr) -> Option<u128> {
        if let IpAddr::V6(ip) = ip { Some(ip.into()) } else { None }
    }
}

/// What is known about a packet from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is for no service.
    Pass,
    /// To this backend.
    To(Place),
    /// The service has no backend for new connections.
    Nobody,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Family<K> {
    pub(crate) connections: Connections<K>,
    /// Services by address, port and protocol: the key is a flow from there to nowhere.
    vips: StateMap<K, u32>,
    /// The same for backends: the first of a chain through `next`, by place.
    backends: StateMap<K, Place>,
    next: Vec<Option<Place>>,
    hasher: Hasher,
    /// For Maglev's choice: the same everywhere and always.
    choice: Hasher,
    /// When connections without an entry will all have ended, in seconds of the clock.
    untracked_until: u32,
    idle: u32,
}

impl<K: Flow> Family<K> {
    /// `name` is that of its state.
    pub(crate) fn new(
        region: &mut StateRegion,
        name: &str,
        (most, idle): (usize, u32),
        hasher: &Hasher,
        services: &[Service],
        pool: &Pool,
    ) -> Result<Self, String> {
        let mut heap = StateRegion::heap();
        let mut family = Self {
            connections: Connections::new(region, name, most)?,
            vips: heap.map("vips", services.len())?,
            backends: heap.map("backends", pool.targets.len())?,
            next: vec![None; pool.targets.len()],
            hasher: hasher.clone(),
            choice: Hasher::new(0x6d61_676c_6576),
            untracked_until: 0,
            idle,
        };
        let full = |_| "config: too many services or backends".to_owned();
        for (n, service) in services.iter().enumerate() {
            let Some(vip) = K::address(service.vip) else { continue };
            let key = K::new((vip, service.port), Default::default(), service.protocol);
            family.vips.insert(hasher.hash(&key), key, n as u32).map_err(full)?;
        }
        for (place, target) in pool.targets.iter().enumerate() {
            let Some(ip) = K::address(target.end.0).filter(|_| target.mode == Mode::Dnat) else {
                continue;
            };
            let protocol = services[target.service].protocol;
            let key = K::new((ip, target.end.1), Default::default(), protocol);
            let hash = hasher.hash(&key);
            family.next[place] = family.backends.find(hash, &key).copied();
            family.backends.insert(hash, key, place as Place).map_err(full)?;
        }
        Ok(family)
    }

    #[inline]
    pub(crate) fn hash(&self, key: &K) -> u64 {
        self.hasher.hash(key)
    }

    /// The backend of a packet from a client whose connection is known.
    #[inline(always)]
    pub(crate) fn known<'a>(
        &mut self,
        pool: &'a Pool,
        key: &K,
        probe: Probe,
        now: u32,
    ) -> Option<(Place, &'a Target)> {
        let place = pool.place(self.connections.find(probe, key, now, self.idle)?)?;
        pool.targets
            .get(place as usize)
            .filter(|target| target.healthy)
            .map(|target| (place, target))
    }

    /// Where a packet from a client goes.
    pub(crate) fn inward(&mut self, pool: &Pool, key: K, probe: Probe, now: u32) -> Way {
        match self.known(pool, &key, probe, now) {
            Some((place, _)) => Way::To(place),
            None => self.begin(pool, key, probe.hash(), now),
        }
    }

    /// Where the first packet of a connection goes.
    #[inline(never)]
    fn begin(&mut self, pool: &Pool, key: K, hash: u64, now: u32) -> Way {
        let Some(service) = self.service(&key) else { return Way::Pass };
        let Some(place) = pool.choose(service, self.choice.hash(&key)) else { return Way::Nobody };
        let id = pool.targets[place as usize].id;
        if !self.connections.open(hash, key, id, now, self.idle) {
            self.untracked_until = now.saturating_add(self.idle);
        }
        Way::To(place)
    }

    /// Where an ICMP error about a client's connection goes: as its packets do, but it opens none.
    pub(crate) fn about(&mut self, pool: &Pool, key: K, now: u32) -> Option<Place> {
        let known = self.connections.find(self.hash(&key), &key, now, self.idle);
        let healthy = |place: &Place| pool.targets[*place as usize].healthy;
        known.and_then(|id| pool.place(id)).filter(healthy).or_else(|| {
            let service = self.service(&key)?;
            pool.choose(service, self.choice.hash(&key))
        })
    }

    /// From which backend of which service a packet to a client is, `key` being the flow from the backend to the client: it
    /// has a connection, or Maglev's table says so while the connections' is too small.
    pub(crate) fn outward(&mut self, pool: &Pool, key: K, now: u32) -> Option<Place> {
        let (from, client) = (key.from(), key.to());
        let mut place = self.backend(from, key.protocol());
        while let Some(at) = place {
            let target = &pool.targets[at as usize];
            // With any port, it is the same on both sides.
            let (vip, port) = target.vip;
            let vip = (K::address(vip)?, if port == 0 { from.1 } else { port });
            let there = K::new(client, vip, key.protocol());
            let found = match self.connections.find(self.hash(&there), &there, now, self.idle) {
                Some(id) => id == target.id,
                None => {
                    now < self.untracked_until
                        && pool.choose(target.service, self.choice.hash(&there)) == place
                }
            };
            if found {
                return place;
            }
            place = self.next[at as usize];
        }
        None
    }

    /// The first backend with this address and port, or with every port.
    fn backend(&self, (ip, port): (K::Address, u16), protocol: u8) -> Option<Place> {
        [port, 0].into_iter().find_map(|port| {
            let key = K::new((ip, port), Default::default(), protocol);
            self.backends.find(self.hash(&key), &key).copied()
        })
    }

    /// The service that a flow is to: of its port, or of all ports.
    fn service(&self, key: &K) -> Option<usize> {
        let (vip, port) = key.to();
        [port, 0].into_iter().find_map(|port| {
            let key = K::new((vip, port), Default::default(), key.protocol());
            self.vips.find(self.hash(&key), &key).map(|service| *service as usize)
        })
    }
}
