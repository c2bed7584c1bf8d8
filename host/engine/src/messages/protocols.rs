//! Which functions can be where: those for requests only where requests come, at listeners that
//! speak HTTP.
//!
//! Functions for connections can be at all listeners.

use weir_control::engine::{ChainId, EngineError};
use weir_sandbox::World;
use weir_spec::listener::Protocol;
use weir_spec::{Invalid, Listener, Name, ResolvedFunction};

use super::Messages;
use crate::packets::admit;

/// A function that would never be asked.
pub(super) struct Misfit {
    /// Its place among those that were looked at.
    place: usize,
    /// Its name in the chain.
    label: Name,
    /// The listener that has no requests for it.
    pub(super) listener: Name,
}

impl Misfit {
    /// What is wrong, for whoever changes the chain.
    fn message(&self) -> String {
        let Self { label, listener, .. } = self;
        format!(
            "function {label} is for requests, and listener {listener} of this chain has protocol = \"tcp\""
        )
    }

    /// The same for whoever changes the listener, at this place of the configuration.
    pub(super) fn at_listener(&self, chain: &ChainId, place: usize) -> EngineError {
        let message =
            format!("chain {} has function {}, which is for requests", chain.name, self.label);
        let invalid = Invalid::at("protocol", message)
            .help("set it to \"http\", or give the listener a chain of functions for connections");
        EngineError::At(invalid.within_array("listener", place))
    }
}

impl From<Misfit> for EngineError {
    fn from(misfit: Misfit) -> Self {
        Self::Refused(misfit.message())
    }
}

impl Messages {
    /// Whether the listeners of a chain have something for its functions for messages, of which the
    /// first is at this place in the chain.
    ///
    /// # Errors
    /// At the function that would never be asked.
    pub(crate) fn check_protocols(
        &self,
        id: &ChainId,
        functions: &[ResolvedFunction],
        first: usize,
    ) -> Result<(), EngineError> {
        let Some(misfit) = self.misfit(&self.listeners_of(id), functions)? else { return Ok(()) };
        let invalid = Invalid::at("use", misfit.message()).help(
            "take it out of the chain, or set the listener's `protocol` to \"http\" in the host's configuration",
        );
        Err(EngineError::At(invalid.within_array("function", first + misfit.place)))
    }

    /// The first of these functions for which one of the listeners has nothing.
    pub(super) fn misfit(
        &self,
        listeners: &[Listener],
        functions: &[ResolvedFunction],
    ) -> Result<Option<Misfit>, EngineError> {
        let mut listeners = listeners.iter();
        let Some(listener) = listeners.find(|listener| listener.protocol == Protocol::Tcp) else {
            return Ok(None);
        };
        for (place, function) in functions.iter().enumerate() {
            if admit(&self.sandbox, function)?.world != World::Connection {
                let (label, listener) = (function.label.clone(), listener.name.clone());
                return Ok(Some(Misfit { place, label, listener }));
            }
        }
        Ok(None)
    }
}
