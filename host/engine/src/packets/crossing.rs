//! Crossings: what chains of one tenant between the same two ports share, a station on each of
//! their workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_control::engine::EngineError;
use weir_packet_plane::{Counters, DROP_REASONS, LaneSite, Shared};
use weir_port::{PortStatistics, Steer};
use weir_spec::Name;

use super::steering::Hits;

/// What cannot change without new stations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) from: Option<Name>,
    pub(super) to: Option<Name>,
    pub(super) symmetric: bool,
    pub(super) workers: usize,
}

/// See the module.
pub(super) struct Crossing {
    /// The stations' name at their workers.
    pub(super) key: String,
    pub(super) tenant: Name,
    pub(super) shape: Shape,
    /// At least one; all are alike but for worker, pool and ports.
    pub(super) stations: Vec<DeployedStation>,
    /// The chains that have lanes here, and whether they take what no rule claims.
    chains: Mutex<BTreeMap<Name, bool>>,
    /// Whoever gives the devices before the ports other rules, or asks them, has it.
    steered: Mutex<Steered>,
}

/// What the devices before the ports were given last.
#[derive(Default)]
pub(super) struct Steered {
    /// For each rule the place of the one that the operator wrote.
    pub(super) written: Vec<u32>,
    /// By which of the ports its packets may come: `from`, `to`.
    pub(super) ports: Vec<[bool; 2]>,
    /// For each rule that sends what has one hardware address to a chain whose `from` is a virtual
    /// function: whether the NIC brings it there, or why not.
    pub(super) brought: BTreeMap<usize, Result<(), String>>,
    /// What the tenant's rules count by.
    pub(super) hits: Hits,
}

/// What is known about a station outside its worker.
pub(super) struct DeployedStation {
    /// Place of its worker.
    pub(super) worker: usize,
    pub(super) site: LaneSite,
    /// What became of packets that no lane had.
    pub(super) counters: Arc<Shared>,
    pub(super) ports: Vec<(Name, PortStatistics)>,
    /// What decides in front of the ports.
    pub(super) before: Vec<Device>,
}

/// What decides in front of a port, with the number that rules have for it.
pub(super) type Device = (u16, Arc<dyn Steer>);

/// The name of the stations for a chain with these ports. A chain without ports has one of its own.
pub(super) fn key(tenant: &Name, chain: &Name, shape: &Shape) -> String {
    match (&shape.from, &shape.to) {
        (None, _) => format!("{tenant}/{chain}"),
        (Some(from), None) => format!("{tenant}/{from}>"),
        (Some(from), Some(to)) => format!("{tenant}/{from}>{to}"),
    }
}

impl Crossing {
    pub(super) fn new(
        key: String,
        tenant: Name,
        shape: Shape,
        stations: Vec<DeployedStation>,
    ) -> Self {
        Self { key, tenant, shape, stations, chains: Mutex::default(), steered: Mutex::default() }
    }

    /// The port by which its chains begin.
    pub(super) fn from(&self) -> Option<&Name> {
        self.shape.from.as_ref()
    }

    /// What the devices before the ports have.
    pub(super) fn steered(&self) -> MutexGuard<'_, Steered> {
        self.steered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<Name, bool>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chain could have lanes here.
    pub(super) fn check(
        &self,
        chain: &Name,
        shape: &Shape,
        takes_rest: bool,
    ) -> Result<(), EngineError> {
        if *shape != self.shape && !self.others(chain).is_empty() {
            return Err(EngineError::Conflict(format!(
                "chain {} is between the same ports with `workers = {}` and `symmetric = {}`: chains that share ports have both \
                 alike",
                list(&self.others(chain)),
                self.shape.workers,
                self.shape.symmetric
            )));
        }
        let rest = self.taker_of_rest().filter(|name| name != chain);
        match rest {
            Some(other) if takes_rest => Err(EngineError::Conflict(format!(
                "{} to chain {other}: set `steered = true` in one of the two, which then has only what steering rules or \
                 functions send there",
                self.shape.from.as_ref().map_or_else(
                    || "what no rule claims goes".to_owned(),
                    |from| format!("what no rule claims of port {from} goes")
                )
            ))),
            _ => Ok(()),
        }
    }

    /// The other chains that have lanes here.
    fn others(&self, chain: &Name) -> Vec<Name> {
        self.chains().keys().filter(|name| *name != chain).cloned().collect()
    }

    /// Whether no other chain has lanes here, so that the stations can go.
    pub(super) fn check_alone(&self, chain: &Name, port: &Name) -> Result<(), EngineError> {
        let others = self.others(chain);
        if others.is_empty() {
            return Ok(());
        }
        Err(EngineError::Conflict(format!(
            "port {port} works no more, and other chains are at it, too: remove {}, apply this chain, and then those again",
            list(&others)
        )))
    }

    /// The chain that has what no rule claims.
    fn taker_of_rest(&self) -> Option<Name> {
        self.chains().iter().find(|(_, rest)| **rest).map(|(name, _)| name.clone())
    }

    /// Whether a chain has what no rule claims.
    pub(super) fn has_rest(&self) -> bool {
        self.taker_of_rest().is_some()
    }

    /// A chain has lanes here, from now on or as before.
    pub(super) fn enter(&self, chain: &Name, takes_rest: bool) {
        self.chains().insert(chain.clone(), takes_rest);
    }

    /// A chain has none any more; whether it was the last one.
    pub(super) fn leave(&self, chain: &Name) -> bool {
        let mut chains = self.chains();
        chains.remove(chain);
        chains.is_empty()
    }

    /// The chain by whose name the ports are known: who takes the rest, else the first.
    pub(super) fn holder(&self) -> Option<Name> {
        self.taker_of_rest().or_else(|| self.chains().keys().next().cloned())
    }

    /// Packets that no chain had and that were dropped, by the port that they came in by, and by
    /// reason: those that rules or nobody wanted.
    pub(super) fn drops(&self) -> Vec<(&Name, &'static str, u64)> {
        let mut all = Counters::default();
        for station in &self.stations {
            all.add(&station.counters.read().0);
        }
        let Shape { from, to, .. } = &self.shape;
        let of_ports = DROP_REASONS.iter().flat_map(|(reason, name)| {
            let place = *reason as usize;
            let elsewhere = all.drops_elsewhere[place];
            let from = from.as_ref().map(|port| (port, *name, all.drops[place] - elsewhere));
            let to = to.as_ref().map(|port| (port, *name, elsewhere));
            [from, to]
        });
        of_ports.flatten().filter(|(_, _, n)| *n > 0).collect()
    }

    /// Whether this chain has lanes here.
    pub(super) fn has(&self, chain: &Name) -> bool {
        self.chains().contains_key(chain)
    }
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}
