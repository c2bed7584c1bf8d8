//! Undoing what the journal says, the last change first. Only what is still as it was made is taken
//! back.

use crate::error::SriovError;
use crate::journal::{Journal, JournalError};
use crate::kernel::Kernel;
use crate::setting::{Change, Setting, VfValue};
use crate::{drivers, sysfs, users};

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was before.
    Restored,
    /// It was so already, or the device is gone.
    Nothing,
    /// Somebody else changed it meanwhile, so it stays as it is.
    Foreign {
        /// How it is now.
        now: Setting,
    },
    /// It could not be undone, and is tried again the next time.
    Failed {
        /// Why.
        why: String,
    },
}

/// A change and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoneChange {
    /// The change.
    pub change: Change,
    /// What became of it.
    pub outcome: Outcome,
}

impl UndoneChange {
    /// For people; none if there is nothing to tell.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Restored => Some(format!("restored: {}", self.change.before)),
            Outcome::Nothing => None,
            Outcome::Foreign { now } => Some(format!(
                "not undone ({}): somebody else changed it meanwhile, to what this does: {now}",
                self.change.after
            )),
            Outcome::Failed { why } => Some(format!(
                "not undone ({}): {why}; `weir sriov restore` tries again",
                self.change.after
            )),
        }
    }
}

/// The journal could not be written: it says of changes that are undone that they are not, which
/// does no harm.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unwritten {
    /// What became of the changes nevertheless.
    pub undone: Vec<UndoneChange>,
    /// Why.
    #[source]
    pub error: JournalError,
}

/// Undoes all that can be undone; what fails stays in the journal. A full disk keeps nothing from
/// being undone.
///
/// # Errors
/// When the journal could not be written.
pub fn undo(kernel: &dyn Kernel, journal: &mut Journal) -> Result<Vec<UndoneChange>, Unwritten> {
    let changes: Vec<(usize, Change)> = journal.changes().map(|(n, c)| (n, c.clone())).collect();
    let mut all = Vec::with_capacity(changes.len());
    // It writes what it could not the last time, too.
    let mut written = journal.catch_up();
    for (number, change) in changes.into_iter().rev() {
        let outcome = take_back(kernel, &change);
        if !matches!(outcome, Outcome::Failed { .. }) {
            written = journal.settle(number);
        }
        all.push(UndoneChange { change, outcome });
    }
    match written {
        Ok(()) => Ok(all),
        Err(error) => Err(Unwritten { undone: all, error }),
    }
}

fn take_back(kernel: &dyn Kernel, change: &Change) -> Outcome {
    let Some(now) = change.before.now(kernel) else { return untold(kernel, &change.before) };
    if now.is(&change.before) {
        return Outcome::Nothing;
    }
    if !now.is(&change.after) && !is_half_way(&now, change) {
        return Outcome::Foreign { now };
    }
    let restored = check_unused(kernel, &change.before)
        .and_then(|()| change.before.write(kernel))
        .and_then(|()| take_up(kernel, &change.before));
    if let Setting::Driver { device, driver: Some(driver), .. } = &change.before
        && !drivers::hands_out(driver)
    {
        // What is undone next may be the interface's.
        drivers::await_interface(kernel, *device);
    }
    match restored {
        Ok(()) => Outcome::Restored,
        Err(error) => Outcome::Failed { why: error.to_string() },
    }
}

/// A setting of which nothing is told: its device is gone, or it cannot be asked now.
fn untold(kernel: &dyn Kernel, setting: &Setting) -> Outcome {
    match setting {
        Setting::Vf { pf, index, .. } if sysfs::vf_address(kernel, *pf, *index).is_some() => {
            let why = "its physical function has no interface here that could be asked".to_owned();
            Outcome::Failed { why }
        }
        _ => Outcome::Nothing,
    }
}

/// Whether a change of drivers was under way when the host ended: it has several steps, and ends as
/// it began if they are done anew.
fn is_half_way(now: &Setting, change: &Change) -> bool {
    match (now, &change.before, &change.after) {
        (
            Setting::Driver { driver: None, only, .. },
            Setting::Driver { only: before, .. },
            Setting::Driver { only: after, .. },
        ) => only == before || only == after,
        _ => false,
    }
}

/// Whether nobody has what would be taken away. An XDP program that a host has left behind goes
/// with its interface.
fn check_unused(kernel: &dyn Kernel, before: &Setting) -> Result<(), SriovError> {
    let devices = match before {
        Setting::Driver { device, .. } => vec![*device],
        Setting::VfCount { pf, .. } => {
            let count = sysfs::vf_count(kernel, *pf).unwrap_or(0);
            (0..count).filter_map(|index| sysfs::vf_address(kernel, *pf, index)).collect()
        }
        _ => return Ok(()),
    };
    for device in devices {
        let users = users::in_service(kernel, device);
        if !users.is_empty() {
            return Err(SriovError::InUse { what: device.to_string(), users });
        }
    }
    Ok(())
}

/// A driver learns of its function's MAC address when it gets the function.
pub(crate) fn take_up(kernel: &dyn Kernel, setting: &Setting) -> Result<(), SriovError> {
    let Setting::Vf { pf, index, value: VfValue::Mac(_) } = setting else { return Ok(()) };
    let Some(device) = sysfs::vf_address(kernel, *pf, *index) else { return Ok(()) };
    let Some(driver) = sysfs::driver(kernel, device) else { return Ok(()) };
    if drivers::hands_out(&driver) || !users::in_service(kernel, device).is_empty() {
        return Ok(());
    }
    let only = drivers::only(kernel, device);
    drivers::set(kernel, device, Some(&driver), only.as_deref())?;
    drivers::await_interface(kernel, device);
    Ok(())
}
