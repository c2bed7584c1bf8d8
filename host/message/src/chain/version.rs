//! The functions that new exchanges get.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weir_exchange::Interests;

use crate::function::{Function, Position};
use crate::plan::{Site, StagedFunction};
use crate::shadow::{Findings, Shadow};
use crate::words;

/// See the module.
pub(crate) struct Version {
    pub(crate) functions: Vec<Rc<Function>>,
    pub(crate) shadow: Option<Rc<Shadow>>,
    pub(super) canary: Option<Canary>,
    /// One of them at least is a service.
    serves: bool,
}

#[derive(Clone)]
pub(super) struct Canary {
    pub(super) place: usize,
    pub(super) function: Rc<Function>,
    pub(super) percent: u8,
    pub(super) findings: Arc<Findings>,
}

/// See [`Version::legs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Events(Range<usize>),
    Service(usize),
}

impl Version {
    /// These functions, and one that is tried.
    pub(super) fn new(
        functions: Vec<Rc<Function>>,
        shadow: Option<Rc<Shadow>>,
        canary: Option<Canary>,
    ) -> Self {
        let mut version = Self { functions, shadow, canary, serves: false };
        let serves = version.all().any(|function| function.is_service());
        version.serves = serves;
        version
    }

    pub(crate) fn function(&self, place: usize, canary: bool) -> &Rc<Function> {
        match &self.canary {
            Some(trial) if canary && trial.place == place => &trial.function,
            _ => &self.functions[place],
        }
    }

    /// The parts that an exchange passes: functions of events, by their places, and services
    /// between them. None if there are no services.
    pub(crate) fn legs(&self, canary: bool) -> Option<Vec<Part>> {
        if !self.serves {
            return None;
        }
        let is_service = |place: &usize| self.function(*place, canary).is_service();
        let services: Vec<usize> = (0..self.functions.len()).filter(is_service).collect();
        if services.is_empty() {
            return None;
        }
        let (mut parts, mut next) = (Vec::new(), 0);
        for place in &services {
            if next < *place {
                parts.push(Part::Events(next..*place));
            }
            parts.push(Part::Service(*place));
            next = *place + 1;
        }
        if next < self.functions.len() {
            parts.push(Part::Events(next..self.functions.len()));
        }
        Some(parts)
    }

    /// All functions that decide something.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Function>> {
        self.functions.iter().chain(self.canary.as_ref().map(|trial| &trial.function))
    }

    /// The shortest time that one of its functions has for an event.
    pub(super) fn deadline(&self) -> Duration {
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.function);
        self.all().chain(shadow).map(|f| f.plan.deadline).min().unwrap_or_default()
    }

    pub(super) fn interests(&self) -> Interests {
        let all = self.all().map(|f| words::interests(f.wants()));
        all.fold(Interests::default(), words::either)
    }

    pub(super) fn with(&self, place: usize, function: Rc<Function>) -> Self {
        let mut functions = self.functions.clone();
        functions[place] = function;
        Self::new(functions, None, None)
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        // Those that nobody else has end now, and do the same then.
        self.all()
            .filter(|function| Rc::strong_count(function) > 1)
            .for_each(|function| function.left());
    }
}

/// What was staged for a chain.
pub(super) fn new_version(site: &Site, name: &str, functions: Vec<StagedFunction>) -> Version {
    let names: Vec<String> = functions.iter().map(|f| f.plan.name.clone()).collect();
    let functions = functions.into_iter().enumerate().map(|(place, staged)| {
        let position = Position { chain: name.to_owned(), names: names.clone(), place };
        Rc::new(Function::new(site.clone(), position, staged))
    });
    Version::new(functions.collect(), None, None)
}
