//! The life of an instance beside what it is for, the same on both planes: its exports,
//! `configure`, `save` and `restore`, and what goes wrong in these.
//!
//! The ticker must be ticking while one of them is called.

use std::fmt;
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, ComponentType, Instance, Lift, Lower, TypedFunc};

use crate::admit::Admitted;
use crate::compile::{CompileError, giving};
use crate::fault::{Fault, size};
use crate::guest::{Guest, Running, SAVED_MAX};
use crate::host::Setup;
use crate::said::one_line;
use crate::trace::untagged;

/// CPU time for `save` and `restore` of functions that have less for a burst or an event.
const SNAPSHOT_DEADLINE: Duration = Duration::from_millis(10);

/// What a function is given, and may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Its configuration.
    Configuration,
    /// What its predecessor saved.
    Saved,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Saved => "saved state",
        })
    }
}

/// Why a function cannot have an instance, or its instance no successor.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Needs more memory at its start than it may have.
    #[error(
        "function {name}: it starts with {} of memory, its limit is {}: raise `memory`, or build it with \
         a smaller stack or smaller static data",
        size(*needs),
        size(*limit as u64)
    )]
    Memory {
        /// The function.
        name: String,
        /// Bytes it starts with.
        needs: u64,
        /// Bytes it may have.
        limit: usize,
    },
    /// It does not compile.
    #[error("function {name}: {source}")]
    Compile {
        /// The function.
        name: String,
        /// Why.
        source: CompileError,
    },
    /// `configure` or `restore` gave an error.
    #[error("function {name} refused its {what}: {message}")]
    Refused {
        /// The function.
        name: String,
        /// What it was given.
        what: Given,
        /// What it said.
        message: String,
    },
    /// `configure`, `save` or `restore` trapped.
    #[error("function {name} failed in `{call}`: {fault}")]
    Fault {
        /// The function.
        name: String,
        /// The export that was called.
        call: &'static str,
        /// What happened.
        fault: Fault,
    },
    /// It wrote to the state region it was to take over while it was configured: it lays it out in
    /// another way, and needs a fresh one.
    #[error("function {name} lays its state region out in another way than its predecessor")]
    State {
        /// Its name.
        name: String,
        /// Its place.
        place: usize,
    },
    /// Memory cannot be shared with it.
    #[error("sharing memory with the chain: {0}")]
    Share(std::io::Error),
}

impl InstanceError {
    /// Sees that a function of this name may have the memory that it starts with.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_memory(name: &str, admitted: &Admitted, limit: usize) -> Result<(), Self> {
        let needs = admitted.memory_at_start;
        if needs <= limit as u64 {
            return Ok(());
        }
        Err(Self::Memory { name: name.to_owned(), needs, limit })
    }

    fn refused<S>(store: &Store<Guest<S>>, place: usize, what: Given, message: &str) -> Self {
        let name = store.data().functions[place].name.clone();
        Self::Refused { name, what, message: untagged(&one_line(message)) }
    }
}

/// What an instance exports by one of its interfaces.
#[derive(Clone, Copy, Debug)]
pub struct Exports<'a> {
    /// The instance.
    pub instance: &'a Instance,
    /// The interface's name there.
    pub interface: &'a str,
}

impl Exports<'_> {
    /// A function, with its type checked.
    ///
    /// # Errors
    /// When there is none of that name, or of another type.
    pub fn get<S: 'static, P, R>(
        &self,
        store: &mut Store<Guest<S>>,
        name: &str,
    ) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let Self { instance, interface } = self;
        let index = instance
            .get_export_index(&mut *store, None, interface)
            .and_then(|outer| instance.get_export_index(&mut *store, Some(&outer), name))
            .ok_or_else(|| wasmtime::format_err!("it does not export `{name}` in {interface}"))?;
        instance
            .get_typed_func(&mut *store, index)
            .map_err(|error| error.context(format!("`{name}` of {interface}")))
    }

    /// The two of `snapshot`, if this is it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn snapshot<S: 'static>(&self, store: &mut Store<Guest<S>>) -> wasmtime::Result<Snapshot> {
        Ok(Snapshot { save: self.get(store, "save")?, restore: self.get(store, "restore")? })
    }
}

/// `configure`, which answers with this.
pub type Configure<T> = TypedFunc<(Setup,), (Result<T, String>,)>;

/// How the function at this place hands on what it keeps privately.
#[derive(Clone, Copy)]
pub struct Snapshot {
    save: TypedFunc<(), (Vec<u8>,)>,
    restore: TypedFunc<(Vec<u8>,), (Result<(), String>,)>,
}

impl Snapshot {
    /// What the function saves.
    ///
    /// # Errors
    /// When it faults: the instance must not be used any more.
    pub fn save<S: 'static>(
        &self,
        store: &mut Store<Guest<S>>,
        place: usize,
    ) -> Result<Vec<u8>, InstanceError> {
        let deadline = Self::deadline(store, place);
        let save = |store: &mut Store<_>| giving(store, SAVED_MAX, |s| self.save.call(s, ()));
        let (saved,) = once(store, place, "save", deadline, save)?;
        Ok(saved)
    }

    /// Gives it what its predecessor saved.
    ///
    /// # Errors
    /// When it refuses that, or faults: the instance must not be used any more then.
    pub fn restore<S: 'static>(
        &self,
        store: &mut Store<Guest<S>>,
        place: usize,
        saved: Vec<u8>,
    ) -> Result<(), InstanceError> {
        let deadline = Self::deadline(store, place);
        let restore = |store: &mut Store<_>| self.restore.call(store, (saved,));
        let (answer,) = once(store, place, "restore", deadline, restore)?;
        answer.map_err(|message| InstanceError::refused(store, place, Given::Saved, &message))
    }

    /// CPU time for each: packets wait for them, or all listeners of a gateway's thread.
    fn deadline<S>(store: &Store<Guest<S>>, place: usize) -> Duration {
        store.data().functions[place].limits.deadline.max(SNAPSHOT_DEADLINE)
    }
}

/// Configures the function at this place, and lets it write from then on where it may: what it
/// answered.
///
/// # Errors
/// When it refuses its configuration, or faults.
pub fn configure<S: 'static, T: ComponentType + Lift>(
    store: &mut Store<Guest<S>>,
    place: usize,
    configure: &Configure<T>,
    setup: Setup,
) -> Result<T, InstanceError> {
    let (deadline, given) = (store.data().setup, store.data().given_in_setup(place));
    let called = once(store, place, "configure", deadline, |store| {
        giving(store, given, |store| configure.call(store, (setup,)))
    });
    let guest = store.data_mut();
    let (answer,) = match called {
        Err(InstanceError::Fault { name, fault, .. })
            if guest.lays_state_out_anew(place, &fault) =>
        {
            return Err(InstanceError::State { name, place });
        }
        called => called?,
    };
    guest.open(place).map_err(InstanceError::Share)?;
    answer.map_err(|message| InstanceError::refused(store, place, Given::Configuration, &message))
}

/// Calls what is called once in a life, `what`, of the function at this place; with a fault goes
/// what it logged meanwhile.
///
/// # Errors
/// When it faults.
pub fn once<S: 'static, T>(
    store: &mut Store<Guest<S>>,
    place: usize,
    what: &'static str,
    deadline: Duration,
    call: impl FnOnce(&mut Store<Guest<S>>) -> wasmtime::Result<T>,
) -> Result<T, InstanceError> {
    let guest = store.data_mut();
    guest.set_running(Running::Function { place, deadline });
    guest.watch_exactly();
    guest.listen();
    let result = call(store);
    let guest = store.data_mut();
    let result = guest.outcome(result);
    let said = guest.heard();
    guest.set_running(Running::Nobody);
    result.map_err(|fault| InstanceError::Fault {
        name: guest.functions[place].name.clone(),
        call: what,
        fault: fault.having_said(&said),
    })
}
