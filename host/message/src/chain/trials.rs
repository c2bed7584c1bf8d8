//! Other versions of a chain's functions: swapped, tried, brought back.

use std::rc::Rc;
use std::sync::Arc;

use weir_sandbox::InstanceError;

use super::version::{Canary, Version, new_version};
use super::{Chain, Notice};
use crate::function::{Function, Position};
use crate::plan::{MessageError, StagedChain, StagedFunction};
use crate::shadow::{Findings, Shadow};

impl Chain {
    pub(super) fn place(&self, name: &str) -> Result<usize, MessageError> {
        let version = self.0.version.borrow();
        let place = version.functions.iter().position(|function| function.plan.name == name);
        place.ok_or_else(|| MessageError::NoFunction(name.to_owned()))
    }

    /// Gives all new exchanges another chain, which was staged for the same site.
    ///
    /// # Errors
    /// When a function does not take what its predecessor saved; the chain stays as it is. When one
    /// faults in `save`; then the chain has a new instance of it, without what that one knew.
    pub fn publish(&self, staged: StagedChain) -> Result<(), MessageError> {
        let next = new_version(&self.0.site, &self.0.name, staged.functions);
        let before = Rc::clone(&self.0.version.borrow());
        for function in &next.functions {
            let same = |old: &&Rc<Function>| old.plan.name == function.plan.name;
            if let Some(old) = before.functions.iter().find(same) {
                self.hand_over(old, function)?;
            }
        }
        next.functions.iter().for_each(|function| self.started(function));
        self.set(next);
        Ok(())
    }

    /// Gives all new exchanges another version of a function. Ends a trial.
    ///
    /// # Errors
    /// When there is no such function, or it does not take what its predecessor saved; the old one
    /// stays. When that one faults in `save`, as for [`Self::publish`].
    pub fn swap(&self, staged: StagedFunction) -> Result<(), MessageError> {
        self.swap_keeping(staged, Function::watch)
    }

    /// The same with a version that ran before: no fault of it brings back what it replaces, from
    /// its first moment on. [`Self::undo`] does.
    ///
    /// # Errors
    /// As for [`Self::swap`].
    pub fn swap_back(&self, staged: StagedFunction) -> Result<(), MessageError> {
        self.swap_keeping(staged, Function::keep_for_undoing)
    }

    fn swap_keeping(
        &self,
        staged: StagedFunction,
        keep: impl Fn(&Function, Rc<Function>),
    ) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let function = Rc::new(self.function(place, staged));
        let version = Rc::clone(&self.0.version.borrow());
        self.hand_over(&version.functions[place], &function)?;
        keep(&function, Rc::clone(&version.functions[place]));
        self.started(&function);
        self.set(version.with(place, function));
        Ok(())
    }

    /// Brings back what this version of a function replaced, if it runs: another part of the chain
    /// has gone back from it.
    ///
    /// # Errors
    /// When it runs, and what it replaced is not known any more.
    pub fn go_back(&self, name: &str, version: &str) -> Result<(), MessageError> {
        self.bring_back(name, version, Function::unwatch)
    }

    /// The same, because another part of the chain refused it: what it replaced goes on as if it
    /// had never been, and has what it goes back to itself.
    ///
    /// # Errors
    /// As for [`Self::go_back`].
    pub fn undo(&self, name: &str, version: &str) -> Result<(), MessageError> {
        self.bring_back(name, version, |_| ())
    }

    fn bring_back(
        &self,
        name: &str,
        version: &str,
        prepare: impl Fn(&Function),
    ) -> Result<(), MessageError> {
        let current = Rc::clone(&self.0.version.borrow());
        let runs = |f: &Rc<Function>| f.plan.name == name && f.plan.version == version;
        let Some(place) = current.functions.iter().position(runs) else { return Ok(()) };
        let before = current.functions[place].replaced().ok_or_else(|| {
            MessageError::Trial(format!(
                "it runs {name} {version}, and what it ran before is not known any more: deploy the chain again"
            ))
        })?;
        prepare(&before);
        self.set(current.with(place, before));
        Ok(())
    }

    /// Lets what this function replaced go: from now on nothing brings it back.
    pub fn unwatch(&self, name: &str) {
        let running = Rc::clone(&self.0.version.borrow());
        if let Some(function) = running.functions.iter().find(|f| f.plan.name == name) {
            function.unwatch();
        }
    }

    /// Gives a share of the clients, in percent, another version of a function.
    ///
    /// # Errors
    /// When there is no such function, or another trial is on.
    pub fn begin_canary(
        &self,
        staged: StagedFunction,
        percent: u8,
        findings: Arc<Findings>,
    ) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let before = self.without_trial()?;
        let function = Rc::new(self.function(place, staged));
        self.started(&function);
        let canary = Some(Canary { place, function, percent, findings });
        self.set(Version::new(before.functions.clone(), None, canary));
        Ok(())
    }

    /// Gives a canary another share of the clients.
    ///
    /// # Errors
    /// When there is none.
    pub fn change_canary(&self, percent: u8) -> Result<(), MessageError> {
        let before = Rc::clone(&self.0.version.borrow());
        let canary = before.canary.clone().ok_or_else(no_canary)?;
        let canary = Some(Canary { percent, ..canary });
        self.set(Version::new(before.functions.clone(), None, canary));
        Ok(())
    }

    /// Makes the canary the running version.
    ///
    /// # Errors
    /// When there is none, or it does not take what its predecessor saved; the trial is over then.
    /// When that one faults in `save`, as for [`Self::publish`], too.
    pub fn promote(&self) -> Result<(), MessageError> {
        let before = Rc::clone(&self.0.version.borrow());
        let Canary { place, function, .. } = before.canary.clone().ok_or_else(no_canary)?;
        let handed = self.hand_over(&before.functions[place], &function);
        if handed.is_err() {
            self.end_trial();
            return handed;
        }
        function.watch(Rc::clone(&before.functions[place]));
        self.set(before.with(place, function));
        Ok(())
    }

    /// Shows another version of a function copies of its events, or what becomes of visits to a
    /// service.
    ///
    /// # Errors
    /// As for [`Self::begin_canary`], or when only one of both is a service.
    pub fn begin_shadow(
        &self,
        staged: StagedFunction,
        findings: Arc<Findings>,
    ) -> Result<(), MessageError> {
        let place = self.place(&staged.plan.name)?;
        let before = self.without_trial()?;
        if staged.plan.proxy.is_some() != before.functions[place].is_service() {
            let message = "a wasi:http function and one that is told of events cannot be compared, so neither can be in the shadow of the \
                           other: try it with a canary";
            return Err(MessageError::Trial(message.into()));
        }
        let function = Rc::new(self.function(place, staged));
        let shadow = Some(Rc::new(Shadow::new(place, function, findings)));
        self.set(Version::new(before.functions.clone(), shadow, None));
        Ok(())
    }

    /// Ends a trial, if there is one.
    pub fn end_trial(&self) {
        let before = Rc::clone(&self.0.version.borrow());
        if before.shadow.is_some() || before.canary.is_some() {
            let functions = before.functions.clone();
            self.set(Version::new(functions, None, None));
        }
    }

    /// Gives what a function saved to its successor. The operator is told of a fault of the
    /// function itself; of its successor's, who wants that one.
    fn hand_over(&self, from: &Function, to: &Function) -> Result<(), MessageError> {
        let saved = from.save().inspect_err(|error| {
            if let InstanceError::Fault { fault, .. } = error {
                let (function, version) = (from.plan.name.clone(), from.plan.version.clone());
                let quarantined = from.plan.counters.is_quarantined();
                let fault = fault.clone();
                (self.0.notices)(Notice::Fault { function, version, fault, quarantined });
            }
        })?;
        Ok(saved.map_or(Ok(()), |saved| to.restore(saved))?)
    }

    fn without_trial(&self) -> Result<Rc<Version>, MessageError> {
        let version = Rc::clone(&self.0.version.borrow());
        if version.canary.is_some() || version.shadow.is_some() {
            let message = "another version is being tried: promote it or end its trial first";
            return Err(MessageError::Trial(message.into()));
        }
        Ok(version)
    }

    fn function(&self, place: usize, staged: StagedFunction) -> Function {
        let position = Position { chain: self.0.name.clone(), names: self.names(), place };
        Function::new(self.0.site.clone(), position, staged)
    }

    pub(super) fn set(&self, version: Version) {
        self.0.interests.set(version.interests());
        // With the next event, the clock of deadlines is the new version's.
        self.0.ticking.borrow_mut().take();
        let before = self.0.version.replace(Rc::new(version));
        self.0.replaced_versions.set(self.replaced_versions().wrapping_add(1));
        let now = self.0.version.borrow();
        let goes = |function: &&Rc<Function>| !now.all().any(|other| Rc::ptr_eq(function, other));
        before.all().filter(goes).for_each(|function| function.runs(false));
        now.all().for_each(|function| function.runs(true));
        drop(now);
        self.0.wake.notify_one();
    }
}

fn no_canary() -> MessageError {
    MessageError::Trial("no canary is on".into())
}
