//! What can be done to a chain that runs, as one type: whoever orders it is on another thread, or
//! in another process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::chain::Chain;
use crate::orders::Remote;
use crate::plan::{MessageError, StagedChain, StagedFunction};
use crate::shadow::Findings;

/// What is to be done. Versions that it brings in were made ready before ([`Ready`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    /// Give new exchanges the chain that is ready: [`Chain::publish`].
    Publish,
    /// Give them the function that is ready: [`Chain::swap`].
    Swap,
    /// The same with a version that ran before: [`Chain::swap_back`].
    SwapBack,
    /// Try it on a share of the clients: [`Chain::begin_canary`].
    Canary {
        /// The share.
        percent: u8,
        /// Where it is counted. Another process has its own.
        #[serde(skip)]
        findings: Arc<Findings>,
    },
    /// Try it on copies: [`Chain::begin_shadow`].
    Shadow {
        /// Where differences are noted. Another process has its own.
        #[serde(skip)]
        findings: Arc<Findings>,
    },
    /// Give a canary another share, in percent: [`Chain::change_canary`].
    CanaryShare(u8),
    /// Keep what is tried: [`Chain::promote`].
    Promote,
    /// End a trial: [`Chain::end_trial`].
    EndTrial,
    /// Bring back what this version of a function replaced, which faulted elsewhere:
    /// [`Chain::go_back`].
    GoBack {
        /// The function.
        name: String,
        /// The version that faulted.
        version: String,
    },
    /// The same, as it was, because the version was refused elsewhere: [`Chain::undo`].
    Undo {
        /// The function.
        name: String,
        /// The version that was refused.
        version: String,
    },
    /// Let go what this function replaced: [`Chain::unwatch`].
    Unwatch(String),
}

/// What was made ready for a chain, and is not in force.
#[derive(Default)]
pub struct Ready {
    /// Another chain.
    pub chain: Option<StagedChain>,
    /// Another version of a function.
    pub function: Option<StagedFunction>,
}

impl Ready {
    /// What a change brings in.
    fn take_for(&mut self, change: &Change) -> Self {
        match change {
            Change::Publish => Self { chain: self.chain.take(), function: None },
            Change::Swap | Change::SwapBack | Change::Canary { .. } | Change::Shadow { .. } => {
                Self { chain: None, function: self.function.take() }
            }
            Change::CanaryShare(_)
            | Change::Promote
            | Change::EndTrial
            | Change::GoBack { .. }
            | Change::Undo { .. }
            | Change::Unwatch(_) => Self::default(),
        }
    }
}

impl Chain {
    fn change(&self, change: Change, Ready { chain, function }: Ready) -> Result<(), MessageError> {
        let nothing = || MessageError::Trial("nothing is ready".into());
        let function = function.ok_or_else(nothing);
        match change {
            Change::Publish => self.publish(chain.ok_or_else(nothing)?)?,
            Change::Swap => self.swap(function?)?,
            Change::SwapBack => self.swap_back(function?)?,
            Change::Canary { percent, findings } => {
                self.begin_canary(function?, percent, findings)?;
            }
            Change::Shadow { findings } => self.begin_shadow(function?, findings)?,
            Change::CanaryShare(percent) => self.change_canary(percent)?,
            Change::Promote => self.promote()?,
            Change::EndTrial => self.end_trial(),
            Change::GoBack { name, version } => self.go_back(&name, &version)?,
            Change::Undo { name, version } => self.undo(&name, &version)?,
            Change::Unwatch(name) => self.unwatch(&name),
        }
        Ok(())
    }
}

impl Remote {
    /// Has the chain's thread change it, with what is ready; how long that took there.
    ///
    /// # Errors
    /// What the chain says of it, and when nothing is ready or the thread has ended.
    pub fn change(&self, change: Change, ready: &mut Ready) -> Result<Duration, MessageError> {
        let taken = ready.take_for(&change);
        self.run(move |chain| {
            let started = Instant::now();
            chain.change(change, taken).map(|()| started.elapsed())
        })?
    }
}
