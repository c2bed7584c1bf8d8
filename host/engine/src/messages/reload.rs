//! Following a configuration that was read again: listeners come, change and go while connections
//! go on.
//!
//! A listener that changed gets its chain's parts anew, because functions see its upstreams; so do
//! all listeners of that chain. What keeps a listener or a chain from being as it should is found
//! before anything is changed. Only what a thread or a worker fails at after that is undone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use weir_control::engine::{ChainId, EngineError};
use weir_gateway::{Gateway, GatewayError, ListenerConfig};
use weir_spec::Listener;

use super::Messages;
use super::chains::{New, chain_of, wait_for_workers};
use super::parts::Deployed;
use crate::located;

/// How long what is under way at a listener that goes may take to end.
const LINGER: Duration = Duration::from_secs(30);

/// Chains.
type Chains = Vec<(ChainId, Arc<Deployed>)>;

/// Listeners and chains that are ready to be put in force, or dropped.
struct Ready {
    configs: Vec<ListenerConfig>,
    /// Listeners that go.
    gone: Vec<String>,
    chains: Chains,
    /// Workers say here that they take exchanges.
    waits: Vec<Receiver<()>>,
}

/// What is to be told of listeners that are as they are to be.
pub(crate) struct Reloaded {
    /// Chains whose listeners have other addresses now.
    pub(crate) moved: Vec<ChainId>,
    /// Certificates that were not taken; those of before are in force.
    pub(crate) certificates: Vec<String>,
}

/// Why listeners are not as they are to be.
enum Failed {
    /// Nothing has changed.
    Refused(EngineError),
    /// Some are, with these parts of chains.
    Partly(EngineError, Chains),
}

/// The listeners as they are to be. Interfaces are set up and given addresses at the start, and
/// sockets stay: what a listener has of that, it keeps; one that comes has none.
fn reachable(wanted: &[Listener], running: &[Listener]) -> Vec<Listener> {
    let of = |listener: &Listener| match running.iter().find(|r| r.name == listener.name) {
        Some(running) => Some(Listener {
            device: running.device.clone(),
            prefix: running.prefix,
            transparent: running.transparent,
            ..listener.clone()
        }),
        None => listener.device.is_none().then(|| listener.clone()),
    };
    wanted.iter().filter_map(of).collect()
}

impl Messages {
    /// Has these listeners, and reads certificates again. Answers with the chains whose listeners
    /// have other addresses now, and why certificates were not taken.
    ///
    /// # Errors
    /// When one of them cannot be; then all are as they were, but for certificates.
    pub(crate) fn reload(&self, listeners: &[Listener]) -> Result<Reloaded, EngineError> {
        let moved = self.follow(listeners);
        // Whatever becomes of listeners: what is revoked does not wait for them.
        let read = self.gateway.get().map_or(Ok(()), Gateway::reload);
        let certificates = read.err().unwrap_or_default().iter().map(ToString::to_string).collect();
        Ok(Reloaded { moved: moved?, certificates })
    }

    /// Has these listeners. Answers with the chains whose listeners have other addresses now.
    fn follow(&self, listeners: &[Listener]) -> Result<Vec<ChainId>, EngineError> {
        let before = self.listeners();
        let wanted = reachable(listeners, &before);
        let mut moved = Vec::new();
        if wanted[..] != before[..] {
            let addresses = self.addresses_by_chain();
            let affected = self.affected(&before, &wanted);
            // Parts that go back by themselves wait until it is clear whether they are still those
            // that count.
            let turns: Vec<_> = affected.iter().map(|(_, deployed)| deployed.turn()).collect();
            let changed = self.change(&before, &wanted, listeners, &affected);
            if let Err(Failed::Partly(..)) = &changed {
                self.go_back(&wanted, &before, listeners, &affected);
            }
            drop(turns);
            match changed {
                Ok(()) => let_end(affected),
                Err(Failed::Refused(error)) => {
                    self.set_listeners(&before);
                    return Err(error);
                }
                Err(Failed::Partly(error, new)) => {
                    let_end(affected);
                    let_end(new);
                    return Err(error);
                }
            }
            let now = self.addresses_by_chain();
            moved = now
                .into_iter()
                .filter(|(id, at)| addresses.get(id) != Some(at))
                .map(|a| a.0)
                .collect();
        }
        Ok(moved)
    }

    fn addresses_by_chain(&self) -> BTreeMap<ChainId, Vec<SocketAddr>> {
        let chains: Vec<ChainId> = self.chains().keys().cloned().collect();
        chains.into_iter().map(|id| (id.clone(), self.addresses_of(&id))).collect()
    }

    fn set_listeners(&self, listeners: &[Listener]) {
        *self.listeners.write().unwrap_or_else(PoisonError::into_inner) = listeners.into();
    }

    /// Chains that have a listener that changes, comes or goes.
    fn affected(&self, before: &[Listener], wanted: &[Listener]) -> Chains {
        let changed = |one: &[Listener], other: &[Listener]| {
            let changed = one.iter().filter(|listener| !other.contains(listener));
            changed.filter_map(chain_of).collect::<BTreeSet<_>>()
        };
        let ids = &changed(wanted, before) | &changed(before, wanted);
        let chains = self.chains();
        ids.into_iter().filter_map(|id| Some((id.clone(), chains.get(&id)?.clone()))).collect()
    }

    /// Has listeners and chains as they are to be. `file`: listeners at the places where the
    /// configuration has them. `affected`: chains that get other parts, as they are. Their turns
    /// are taken.
    fn change(
        &self,
        before: &[Listener],
        wanted: &[Listener],
        file: &[Listener],
        affected: &Chains,
    ) -> Result<(), Failed> {
        let ready = self.ready(before, wanted, file, affected).map_err(Failed::Refused)?;
        let Some(gateway) = self.gateway.get() else { return Ok(()) };
        let Ready { configs, gone, chains, waits } = ready;
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let open = self.not_drained().map_err(Failed::Refused)?;
        let changed = gateway.change(configs, &gone, LINGER);
        drop(open);
        let failed = |error: &GatewayError| match located::listener_of(error, file) {
            Some(invalid) => EngineError::At(invalid),
            None => EngineError::Conflict(error.to_string()),
        };
        if let Err(error) = &changed
            && !matches!(error, GatewayError::Partly { .. })
        {
            return Err(Failed::Refused(failed(error)));
        }
        for (id, deployed) in &chains {
            self.take_place(id, deployed);
        }
        let changed = changed.map_err(|error| failed(&error));
        changed
            .and_then(|()| wait_for_workers(waits))
            .map_err(|error| Failed::Partly(error, chains))
    }

    /// Makes ready what [`Self::change`] puts in force.
    fn ready(
        &self,
        before: &[Listener],
        wanted: &[Listener],
        file: &[Listener],
        affected: &Chains,
    ) -> Result<Ready, EngineError> {
        self.set_listeners(wanted);
        self.start_gateway().map_err(|error| EngineError::Exhausted(format!("{error:#}")))?;
        let (mut configs, mut chains, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        for (id, deployed) in affected {
            let functions = {
                let running = deployed.running();
                if running.trial.is_some() {
                    return Err(EngineError::Conflict(format!(
                        "a version is being tried in chain {}, whose listeners changed: promote or end the trial first",
                        id.name
                    )));
                }
                running.functions.clone()
            };
            if let Some(misfit) = self.misfit(&self.listeners_of(id), &functions)? {
                let place = file.iter().position(|listener| listener.name == misfit.listener);
                return Err(match place {
                    Some(place) => misfit.at_listener(id, place),
                    None => misfit.into(),
                });
            }
            let (_, New { deployed, made }) =
                self.prepare_new(id, &functions, Some(&**deployed))?;
            configs.extend(self.configs(id, &deployed, made, &mut waits));
            chains.push((id.clone(), deployed));
        }
        for listener in wanted.iter().filter(|listener| !before.contains(listener)) {
            let is_there = |config: &ListenerConfig| config.name == listener.name.as_str();
            if !configs.iter().any(is_there) {
                configs.push(super::listeners::config(listener, None));
            }
        }
        let stays = |one: &Listener| wanted.iter().any(|listener| listener.name == one.name);
        let gone = before.iter().filter(|listener| !stays(listener));
        let gone = gone.map(|listener| listener.name.to_string()).collect();
        Ok(Ready { configs, gone, chains, waits })
    }

    /// Takes back a change of which a part holds. Chains get parts anew, as they were before.
    fn go_back(
        &self,
        wanted: &[Listener],
        before: &[Listener],
        file: &[Listener],
        affected: &Chains,
    ) {
        let back = self.change(wanted, before, file, affected);
        if let Err(Failed::Refused(error) | Failed::Partly(error, _)) = back {
            tracing::error!("listeners are not all as they were: {error}");
        }
    }
}

/// Nobody begins with these any more.
fn let_end(chains: Chains) {
    chains.into_iter().for_each(|(_, deployed)| deployed.let_end());
}
