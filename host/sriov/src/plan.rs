//! From what is wanted of network devices to what has to be changed. The same steps are told
//! ([`plan`]) or done ([`apply`]); each is in the journal before it is done.

use std::net::IpAddr;

use crate::address::PciAddress;
use crate::drivers;
use crate::error::SriovError;
use crate::functions::{PhysicalFunction, find};
use crate::journal::Journal;
use crate::kernel::Kernel;
use crate::operations::{NewSettings, check_count, driver_setting};
use crate::setting::{Change, Interface, Setting, VfValue};
use crate::{iommu, sysfs, undo, users};

/// A virtual function by its number and its physical function, which is named by interface or PCI
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfName {
    /// The physical function.
    pub pf: String,
    /// The number.
    pub index: u16,
}

/// Whom a virtual function is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// DPDK, by `vfio-pci`.
    Vfio,
    /// Its driver in the kernel.
    Kernel,
}

/// What is wanted of a virtual function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfWish {
    /// Its number.
    pub index: u16,
    /// How it is set.
    pub settings: NewSettings,
    /// Whom it is for; none: who has it.
    pub purpose: Option<Purpose>,
}

/// What is wanted of a physical function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicWish {
    /// Which.
    pub pf: String,
    /// How many virtual functions it has; none: those that it has, or as many as are named.
    pub vfs: Option<u16>,
    /// What is wanted of them.
    pub functions: Vec<VfWish>,
}

/// An interface that is wanted up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceWish {
    /// A virtual function's, with these addresses and lengths of prefixes.
    OfVf(VfName, Vec<(IpAddr, u8)>),
    /// The one of this name.
    Named(String, Vec<(IpAddr, u8)>),
}

/// All that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Of devices.
    pub nics: Vec<NicWish>,
    /// Of interfaces, then.
    pub interfaces: Vec<InterfaceWish>,
}

/// What cannot be had, and of which wish.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct UnfulfilledWish {
    /// Number of the device's wish; none: it is an interface's.
    pub nic: Option<usize>,
    /// The virtual function, if it is about one.
    pub vf: Option<u16>,
    /// Number of the interface's wish.
    pub interface: Option<usize>,
    /// Why.
    #[source]
    pub error: SriovError,
}

/// What would be done, step by step, for people.
pub type Planned = Vec<String>;

/// A virtual function that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// By this name.
    pub name: VfName,
    /// Where it is.
    pub address: PciAddress,
    /// Its driver.
    pub driver: Option<String>,
    /// Its interface, if the kernel has it.
    pub interface: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Step by step, for people.
    pub steps: Vec<String>,
    /// The functions.
    pub functions: Vec<Found>,
}

/// Says what [`apply`] would do.
///
/// # Errors
/// The first thing that cannot be had, as far as that can be told without trying.
pub fn plan(kernel: &dyn Kernel, wish: &Wish) -> Result<Planned, UnfulfilledWish> {
    let mut maker = Maker { kernel, journal: None, done: Done::default() };
    maker.all(wish)?;
    Ok(maker.done.steps)
}

/// Does what is wanted.
///
/// # Errors
/// The first thing that cannot be had. What was done until then is in the journal.
pub fn apply(
    kernel: &dyn Kernel,
    wish: &Wish,
    journal: &mut Journal,
) -> Result<Done, UnfulfilledWish> {
    let mut maker = Maker { kernel, journal: Some(journal), done: Done::default() };
    maker.all(wish)?;
    Ok(maker.done)
}

struct Maker<'a> {
    kernel: &'a dyn Kernel,
    /// None: nothing is done.
    journal: Option<&'a mut Journal>,
    done: Done,
}

impl Maker<'_> {
    fn all(&mut self, wish: &Wish) -> Result<(), UnfulfilledWish> {
        let mut seen: Vec<(PciAddress, &str)> = Vec::new();
        for (place, nic) in wish.nics.iter().enumerate() {
            let failed =
                |vf, error| UnfulfilledWish { nic: Some(place), vf, interface: None, error };
            let pf = find(self.kernel, &nic.pf).map_err(|e| failed(None, e))?;
            if let Some((_, other)) = seen.iter().find(|(address, _)| *address == pf.address) {
                let text =
                    format!("{} and {other} are the same device: call it by one name", nic.pf);
                return Err(failed(None, SriovError::Conflict(text)));
            }
            seen.push((pf.address, &nic.pf));
            self.nic(&pf, nic).map_err(|(vf, error)| failed(vf, error))?;
        }
        for (place, interface) in wish.interfaces.iter().enumerate() {
            self.interface(interface).map_err(|error| UnfulfilledWish {
                nic: None,
                vf: None,
                interface: Some(place),
                error,
            })?;
        }
        Ok(())
    }

    /// Makes a change, unless it is so already: whether it was not.
    fn change(&mut self, after: Setting) -> Result<bool, SriovError> {
        let before = after.now(self.kernel);
        if before.as_ref().is_some_and(|before| before.is(&after)) {
            return Ok(false);
        }
        if !matches!(after, Setting::Autoprobe { .. }) {
            self.done.steps.push(after.to_string());
        }
        let Some(journal) = &mut self.journal else { return Ok(true) };
        let Some(before) = before else {
            return Err(SriovError::Unsupported(format!(
                "cannot {after}: how it is now is not told (by the device's driver), so it could not be undone"
            )));
        };
        journal.push(Change { before, after: after.clone() })?;
        after.write(self.kernel)?;
        Ok(true)
    }

    /// A driver is about to let go of a device, and with it of its interface: so it is put up again
    /// behind that.
    fn keep_up(&mut self, device: PciAddress) -> Result<(), SriovError> {
        let up = |up| Setting::Up { interface: Interface::Device(device), up };
        let is_up = up(true).now(self.kernel) == Some(up(true));
        if let Some(journal) = self.journal.as_mut().filter(|_| is_up) {
            journal.push(Change { before: up(true), after: up(false) })?;
        }
        Ok(())
    }

    /// Sets something that a driver learns when it gets the device anew.
    fn change_mac(&mut self, setting: Setting, device: PciAddress) -> Result<(), SriovError> {
        if setting.now(self.kernel).is_some_and(|now| now.is(&setting)) {
            return Ok(());
        }
        self.keep_up(device)?;
        let driver = Setting::Driver { device, driver: None, only: None }.now(self.kernel);
        if let (Some(journal), Some(driver @ Setting::Driver { driver: Some(_), .. })) =
            (&mut self.journal, driver)
        {
            // The driver stays, but it has the device not all of the time.
            journal.push(Change { before: driver.clone(), after: driver })?;
        }
        if self.change(setting.clone())? && self.journal.is_some() {
            undo::take_up(self.kernel, &setting)?;
        }
        Ok(())
    }

    /// Gives a device to another driver.
    fn change_driver(&mut self, device: PciAddress, vfio: bool) -> Result<(), SriovError> {
        let wanted = driver_setting(device, vfio);
        if !wanted.now(self.kernel).is_some_and(|now| now.is(&wanted)) {
            self.keep_up(device)?;
            self.change(wanted)?;
        }
        Ok(())
    }

    fn nic(
        &mut self,
        pf: &PhysicalFunction,
        wish: &NicWish,
    ) -> Result<(), (Option<u16>, SriovError)> {
        let whole = |error| (None, error);
        let named = wish.functions.iter().map(|vf| vf.index.saturating_add(1)).max().unwrap_or(0);
        let there = if pf.numvfs >= named { pf.numvfs } else { named };
        let count = wish.vfs.unwrap_or(there);
        // Asked for nothing, it may have nothing.
        let fresh = count > 0 && check_count(pf, count).map_err(whole)?;
        for vf in &wish.functions {
            self.check(pf, vf, count, fresh).map_err(|error| (Some(vf.index), error))?;
        }
        let probing = Setting::Autoprobe { pf: pf.address, on: true };
        let not = Setting::Autoprobe { pf: pf.address, on: false };
        if let Some(journal) = &mut self.journal
            && probing.now(self.kernel).as_ref() == Some(&not)
        {
            // It is on for moments, while functions are given to drivers.
            journal.push(Change { before: not, after: probing }).map_err(|e| whole(e.into()))?;
        }
        let mut probes = false;
        if fresh {
            probes = self.create(pf, count).map_err(whole)?;
        }
        for vf in &wish.functions {
            self.function(pf, &wish.pf, vf).map_err(|error| (Some(vf.index), error))?;
        }
        if probes && self.journal.is_some() {
            // Those that are for nobody here get the drivers that they would have got.
            let is_ours =
                |index| wish.functions.iter().any(|vf| vf.index == index && vf.purpose.is_some());
            for index in (0..count).filter(|index| !is_ours(*index)) {
                if let Some(device) = sysfs::vf_address(self.kernel, pf.address, index) {
                    let probe = self.kernel.sys().join("bus/pci/drivers_probe");
                    // Without a driver nobody misses it.
                    let _ = self.kernel.write(&probe, &device.to_string());
                }
            }
        }
        Ok(())
    }

    /// What can be seen before anything is changed.
    fn check(
        &self,
        pf: &PhysicalFunction,
        wish: &VfWish,
        count: u16,
        fresh: bool,
    ) -> Result<(), SriovError> {
        if wish.index >= count {
            return Err(SriovError::Conflict(format!(
                "there is no virtual function {} of {}: it has {count}, counted from 0",
                wish.index,
                pf.name()
            )));
        }
        let vf = if fresh { None } else { Some(pf.vf(wish.index)?) };
        let device = vf.map_or(pf.address, |vf| vf.address);
        if wish.purpose == Some(Purpose::Vfio) {
            iommu::check(self.kernel, device, false)?;
        }
        let now = vf.and_then(|vf| vf.settings.clone()).unwrap_or_default();
        let values = wish.settings.values(&now)?;
        let Some(vf) = vf else { return Ok(()) };
        let takes_mac = values.iter().any(|value| {
            let setting = Setting::Vf { pf: pf.address, index: wish.index, value: *value };
            matches!(value, VfValue::Mac(_)) && setting.now(self.kernel).as_ref() != Some(&setting)
        });
        let moves = wish.purpose.is_some_and(|purpose| {
            let wanted = driver_setting(device, purpose == Purpose::Vfio);
            !wanted.now(self.kernel).is_some_and(|now| now.is(&wanted))
        });
        // Who else has it by vfio keeps everybody from opening it; when it is only told what would
        // be done, that may be the host.
        let opens = wish.purpose == Some(Purpose::Vfio) && self.journal.is_some();
        if takes_mac || moves || opens {
            let users = users::of(self.kernel, device);
            if !users.is_empty() {
                let what = format!("virtual function {} of {} ({device})", vf.index, pf.name());
                return Err(SriovError::InUse { what, users });
            }
        }
        Ok(())
    }

    /// Creates virtual functions that no driver takes before they are set: whether drivers would.
    fn create(&mut self, pf: &PhysicalFunction, count: u16) -> Result<bool, SriovError> {
        let probes = Setting::Autoprobe { pf: pf.address, on: true };
        let probed = probes.now(self.kernel).as_ref() == Some(&probes);
        if probed {
            self.change(Setting::Autoprobe { pf: pf.address, on: false })?;
        }
        let created = self.change(Setting::VfCount { pf: pf.address, count });
        if probed && self.journal.is_some() {
            probes.write(self.kernel)?;
        }
        created.map(|_| probed)
    }

    fn function(
        &mut self,
        pf: &PhysicalFunction,
        called: &str,
        wish: &VfWish,
    ) -> Result<(), SriovError> {
        let device = match sysfs::vf_address(self.kernel, pf.address, wish.index) {
            Some(device) => device,
            None => expected(self.kernel, pf.address, wish.index).ok_or_else(|| {
                SriovError::NotFound(format!(
                    "virtual function {} of {} is not there",
                    wish.index,
                    pf.name()
                ))
            })?,
        };
        let now = pf.vfs.iter().find(|vf| vf.index == wish.index);
        let now = now.and_then(|vf| vf.settings.clone()).unwrap_or_default();
        for value in wish.settings.values(&now)? {
            let setting = Setting::Vf { pf: pf.address, index: wish.index, value };
            if matches!(value, VfValue::Mac(_)) {
                self.change_mac(setting, device)?;
            } else {
                self.change(setting)?;
            }
        }
        if let Some(purpose) = wish.purpose {
            self.change_driver(device, purpose == Purpose::Vfio)?;
        }
        let mut interface = sysfs::interface(self.kernel, device);
        if wish.purpose == Some(Purpose::Kernel) && self.journal.is_some() {
            interface = drivers::await_interface(self.kernel, device);
            if interface.is_none() {
                return Err(SriovError::Unsupported(format!(
                    "virtual function {} of {} ({device}) has no interface here: its driver is {}",
                    wish.index,
                    pf.name(),
                    sysfs::driver(self.kernel, device).unwrap_or_else(|| "none".to_owned())
                )));
            }
        }
        let name = VfName { pf: called.to_owned(), index: wish.index };
        let driver = sysfs::driver(self.kernel, device);
        self.done.functions.push(Found { name, address: device, driver, interface });
        Ok(())
    }

    fn interface(&mut self, wish: &InterfaceWish) -> Result<(), SriovError> {
        let (interface, addresses) = match wish {
            InterfaceWish::OfVf(name, addresses) => {
                let found = self.done.functions.iter().find(|found| found.name == *name);
                let found = found.ok_or_else(|| {
                    SriovError::NotFound(format!(
                        "virtual function {} of {} is not there",
                        name.index, name.pf
                    ))
                })?;
                (Interface::Device(found.address), addresses)
            }
            InterfaceWish::Named(name, addresses) => {
                if !matches!(self.kernel.link(name), Ok(Some(_))) {
                    return Err(SriovError::NotFound(format!(
                        "there is no interface {name} (`ip link` lists them)"
                    )));
                }
                (Interface::Named(name.clone()), addresses)
            }
        };
        self.change(Setting::Up { interface: interface.clone(), up: true })?;
        let name = interface.name(self.kernel);
        let given = name.map(|name| self.kernel.addresses(&name).unwrap_or_default());
        for (address, prefix) in addresses {
            if given.iter().flatten().any(|(given, _)| given == address) {
                continue;
            }
            let interface = interface.clone();
            self.change(Setting::Address {
                interface,
                address: *address,
                prefix: *prefix,
                present: true,
            })?;
        }
        Ok(())
    }
}

/// Where a virtual function will be that is not there yet.
fn expected(kernel: &dyn Kernel, pf: PciAddress, index: u16) -> Option<PciAddress> {
    let place = sysfs::device(kernel, pf);
    let offset: u32 = sysfs::number(&place.join("sriov_offset"))?;
    let stride: u32 = sysfs::number(&place.join("sriov_stride"))?;
    pf.behind(offset + stride * u32::from(index))
}
