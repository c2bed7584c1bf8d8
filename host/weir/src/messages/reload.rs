//! Following a configuration that was read again: listeners come, change and go while connections go on.
//!
//! A listener that changed gets its chain's parts anew, because functions see its upstreams; so do all listeners of that chain. What keeps
//! a listener or a chain from being as it should is found before anything is changed, or undone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use weir_control::engine::{ChainId, EngineError};
use weir_gateway::Gateway;
use weir_spec::{Listener, Name};

use super::Messages;
use super::chains::{New, chain_of};
use super::parts::Deployed;

/// How long what is under way at a listener that goes may take to end.
const LINGER: Duration = Duration::from_secs(30);

/// Chains that were ready, and what ran before.
type Before = Vec<(ChainId, Arc<Deployed>)>;

/// The listeners as they are to be. Interfaces are set up at the start, and sockets stay: what a listener has of that, it keeps; one that
/// comes has none.
fn reachable(wanted: &[Listener], running: &[Listener]) -> Vec<Listener> {
    let of = |listener: &Listener| match running.iter().find(|r| r.name == listener.name) {
        Some(running) => Some(Listener {
            device: running.device.clone(),
            transparent: running.transparent,
            ..listener.clone()
        }),
        None => listener.device.is_none().then(|| listener.clone()),
    };
    wanted.iter().filter_map(of).collect()
}

impl Messages {
    /// Has these listeners, and reads certificates again. Answers with the chains whose listeners have other addresses now.
    ///
    /// # Errors
    /// When one of them cannot be; then all are as they were.
    pub(crate) fn reload(&self, listeners: &[Listener]) -> Result<Vec<ChainId>, EngineError> {
        let before = self.listeners();
        let wanted = reachable(listeners, &before);
        let mut moved = Vec::new();
        if wanted[..] != before[..] {
            let addresses = self.addresses_by_chain();
            let (affected, ready) = match self.ready(&wanted) {
                Ok(ready) => ready,
                Err(error) => {
                    self.set_listeners(&before);
                    return Err(error);
                }
            };
            if let Err(error) = self.change(&before, &wanted, ready) {
                self.go_back(&wanted, &before, affected);
                return Err(error);
            }
            for (_, deployed) in affected {
                deployed.let_end();
            }
            let now = self.addresses_by_chain();
            moved = now
                .into_iter()
                .filter(|(id, at)| addresses.get(id) != Some(at))
                .map(|a| a.0)
                .collect();
        }
        if let Some(Err(errors)) = self.gateway.get().map(Gateway::reload) {
            for error in errors {
                tracing::error!("a certificate was not taken: {error}");
            }
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

    /// Makes chains ready for listeners as they are to be: those that have one that changes, comes or goes. Also what runs now.
    fn ready(&self, wanted: &[Listener]) -> Result<(Before, Vec<(ChainId, New)>), EngineError> {
        let running = self.listeners();
        self.set_listeners(wanted);
        self.start_gateway().map_err(|error| EngineError::Exhausted(format!("{error:#}")))?;
        let (mut affected, mut ready) = (Vec::new(), Vec::new());
        let changed = |one: &[Listener], other: &[Listener]| {
            let changed = one.iter().filter(|listener| !other.contains(listener));
            changed.filter_map(chain_of).collect::<BTreeSet<_>>()
        };
        for id in &changed(wanted, &running) | &changed(&running, wanted) {
            let Some(deployed) = self.chains().get(&id).cloned() else { continue };
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
            let (_, new) = self.prepare_new(&id, &functions, Some(&*deployed))?;
            affected.push((id.clone(), deployed));
            ready.push((id, new));
        }
        Ok((affected, ready))
    }

    /// Has listeners and chains as they are to be. On an error, some are.
    fn change(
        &self,
        before: &[Listener],
        wanted: &[Listener],
        ready: Vec<(ChainId, New)>,
    ) -> Result<(), EngineError> {
        let with_chain: BTreeSet<ChainId> = ready.iter().map(|(id, _)| id.clone()).collect();
        for listener in wanted.iter().filter(|listener| !before.contains(listener)) {
            if !chain_of(listener).is_some_and(|id| with_chain.contains(&id)) {
                self.listen(listener, None)
                    .map_err(|error| EngineError::Conflict(format!("{error:#}")))?;
            }
        }
        for (id, new) in ready {
            self.publish_new(&id, new)?;
        }
        let stays = |name: &Name| wanted.iter().any(|listener| listener.name == *name);
        let gone = before.iter().map(|listener| &listener.name).filter(|name| !stays(name));
        self.end(gone.cloned().collect());
        Ok(())
    }

    /// Takes back a change of which something failed.
    fn go_back(&self, wanted: &[Listener], before: &[Listener], affected: Before) {
        self.chains().extend(affected);
        let back = self.ready(before).and_then(|(_, ready)| self.change(wanted, before, ready));
        if let Err(error) = back {
            tracing::error!("listeners are not all as they were: {error}");
        }
    }

    /// Takes listeners away. Nobody waits until their connections have ended.
    fn end(&self, listeners: Vec<Name>) {
        for name in listeners {
            // One that could not be had is not there.
            let _ = self.gateway.get().map(|gateway| gateway.begin_remove(name.as_str(), LINGER));
        }
    }
}
