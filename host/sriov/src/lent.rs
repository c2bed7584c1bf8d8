//! A MAC address that a virtual function has for a while: its physical function brings it frames
//! for that address.

use crate::address::MacAddress;
use crate::error::SriovError;
use crate::functions::find;
use crate::journal::{Journal, JournalError};
use crate::kernel::Kernel;
use crate::plan::VfName;
use crate::setting::{Change, Setting, VfValue};

/// Drivers of physical functions that reset a virtual one when it is given an address: whoever has
/// it by vfio would receive nothing any more.
const RESETTING_DRIVERS: [&str; 2] = ["i40e", "ice"];

/// Why a virtual function does not get an address, or keeps it.
#[derive(Debug, thiserror::Error)]
pub enum LentError {
    /// It cannot be set.
    #[error(transparent)]
    Function(#[from] SriovError),
    /// It cannot be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An address that a virtual function has, until [`return_mac`].
#[derive(Debug)]
pub struct LentAddress {
    /// The change's number in the journal; none: it has it anyway.
    number: Option<usize>,
}

/// Gives a virtual function this address in the place of the one that its driver has chosen, which
/// nobody knows. No driver is told of it: this is for those that receive whatever they are brought.
/// In the journal before it is done.
///
/// # Errors
/// When the functions are none that this journal has made, or the function has been given an
/// address, or the new one is a group's or another function's, or the driver would reset the
/// function, or the driver or this user's rights do not allow it.
pub fn lend_mac(
    kernel: &dyn Kernel,
    name: &VfName,
    mac: MacAddress,
    journal: &mut Journal,
) -> Result<LentAddress, LentError> {
    let pf = find(kernel, &name.pf)?;
    let conflict = |text: String| LentError::from(SriovError::Conflict(text));
    if !mac.is_of_one() {
        return Err(conflict(format!("the MAC address {mac} is no single function's")));
    }
    if let Some(driver) = pf.driver.as_deref().filter(|driver| RESETTING_DRIVERS.contains(driver)) {
        let text = format!(
            "the driver {driver} resets a function that is given an address, and ends its port: set `mac` in [[nic.vf]]"
        );
        return Err(SriovError::Unsupported(text).into());
    }
    let has = |index: u16| pf.vf(index).ok().and_then(|vf| vf.settings.as_ref()?.mac);
    if has(name.index) == Some(mac) {
        return Ok(LentAddress { number: None });
    }
    if let Some(other) = pf.vfs.iter().find(|vf| has(vf.index) == Some(mac)) {
        return Err(conflict(format!(
            "virtual function {} of {} has {mac}",
            other.index,
            pf.name()
        )));
    }
    let setting = |mac| Setting::Vf { pf: pf.address, index: name.index, value: VfValue::Mac(mac) };
    let Some(own) = has(name.index) else {
        let text = format!("the driver of {} does not tell addresses", pf.name());
        return Err(SriovError::Unsupported(text).into());
    };
    let (before, after) = (setting(own), setting(mac));
    let made = |change: &Change| matches!(change.after, Setting::VfCount { pf: of, .. } if of == pf.address);
    if !journal.changes().any(|(_, change)| made(change)) {
        return Err(conflict(format!(
            "{own} may be an address that somebody knows: the host did not make the function"
        )));
    }
    let is_set = |change: &Change| matches!(change.after, Setting::Vf { pf: of, index, value: VfValue::Mac(_) } if of == pf.address && index == name.index);
    if journal.changes().any(|(_, change)| is_set(change)) {
        return Err(conflict(format!("the function was given the address {own}")));
    }
    let number = journal.push(Change { before, after: after.clone() })?;
    if let Err(error) = after.write(kernel) {
        journal.settle(number)?;
        return Err(error.into());
    }
    Ok(LentAddress { number: Some(number) })
}

/// Takes an address away again; one that somebody else has set meanwhile stays.
///
/// # Errors
/// When it cannot be: undoing everything ([`crate::undo()`]) tries again.
pub fn return_mac(
    kernel: &dyn Kernel,
    lent: &LentAddress,
    journal: &mut Journal,
) -> Result<(), LentError> {
    let Some(number) = lent.number else { return Ok(()) };
    let change = journal.changes().find(|(of, _)| *of == number).map(|(_, change)| change.clone());
    let Some(Change { before, after }) = change else { return Ok(()) };
    if after.now(kernel).is_some_and(|now| now.is(&after)) {
        before.write(kernel)?;
    }
    journal.settle(number)?;
    Ok(())
}
