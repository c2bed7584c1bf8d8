//! How long a stream may go on: as long as the host does, and whoever reads it is still who it was.

use std::sync::Arc;

use tokio::sync::watch;

use super::Api;
use crate::auth::Caller;
use crate::control::Control;

/// See the module. As an extension of an answer it says that this is a stream, which its client may
/// leave unread for that long.
#[derive(Clone)]
pub(super) struct Stay {
    control: Arc<Control>,
    caller: Caller,
    tokens_changed: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
}

impl Stay {
    pub(super) fn new(api: &Api, caller: Caller) -> Self {
        let mut tokens_changed = api.control.tokens_changed.subscribe();
        // They may have since it was found out who calls.
        tokens_changed.mark_changed();
        let (control, stopping) = (Arc::clone(&api.control), api.stopping.clone());
        Self { control, caller, tokens_changed, stopping }
    }

    /// Whether nothing more is to be handed out. To be asked behind taking it: what is taken later
    /// may be another's.
    pub(super) fn is_over(&mut self) -> bool {
        let changed = self.tokens_changed.has_changed().unwrap_or(true);
        if changed {
            self.tokens_changed.mark_unchanged();
        }
        changed && !self.control.knows(&self.caller)
    }

    /// Waits until the host stops, or the caller's token is gone.
    pub(super) async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.stopping.wait_for(|stopping| *stopping) => return,
                changed = self.tokens_changed.changed() => {
                    if changed.is_err() || !self.control.knows(&self.caller) {
                        return;
                    }
                }
            }
        }
    }
}
