//! Steering rules that the device itself has, by rte_flow: packets that it drops, which are never
//! received.
//!
//! The device is asked rule by rule, and says itself what it cannot do; that is compared behind the
//! port, where all rules are asked about everything that comes. What it has goes with the device,
//! and this process drives it alone.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dpdk_sys as sys;
use weir_port::{OffloadedRules, Place, PortError, Steer};
use weir_steering::{Fit, Key, MaskedKey, Rule, Why, fits};

use crate::device::Device;
use crate::log;
use crate::shared::SharedDevice;

/// Drivers that find no ports in fragments, not even in the first one: `net_tap` has the kernel's
/// flow dissector.
const NO_PORTS_IN_FRAGMENTS: [&str; 1] = ["net_tap"];
/// Longest reason of a driver's that is told.
const MESSAGE: usize = 200;

/// What a device compares for a rule.
type Parts = Vec<[[u64; 7]; 2]>;

/// See the module.
#[derive(Debug)]
pub(crate) struct FlowRules {
    name: String,
    device: Weak<SharedDevice>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For each rule that was given last.
    rules: Vec<Told>,
    placed: HashMap<Parts, Placed>,
    /// Rules that came before the device was started.
    waiting: Option<Vec<Fit>>,
    /// Rules that were to go, and that the device did not let go of.
    stale: Vec<Handle>,
}

/// What is known of a rule.
#[derive(Clone, Debug)]
enum Told {
    Nowhere,
    Behind(Option<Arc<str>>),
    BehindRule(u32),
    /// The device has it under this.
    Placed(Parts),
}

/// A rule that the device has: one of its own for each part.
#[derive(Debug, Default)]
struct Placed {
    flows: Vec<Handle>,
    /// Packets that it had dropped when these rules came. None: it does not count.
    before: Option<u64>,
}

/// A rule of the device's.
#[derive(Debug)]
struct Handle(*mut sys::Flow);

// SAFETY: DPDK names a rule by this pointer, and lets any thread use it: it locks drivers that do
// not themselves.
unsafe impl Send for Handle {}

impl FlowRules {
    pub(crate) fn new(name: &str, device: &Arc<SharedDevice>) -> Self {
        Self { name: name.to_owned(), device: Arc::downgrade(device), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is started, and nobody receives from it yet: it gets the rules that have waited
    /// for that.
    pub(crate) fn started(&self, device: &SharedDevice) {
        let mut state = self.state();
        let Some(fits) = state.waiting.take() else { return };
        if let Some(told) = device.while_started(|| state.place(&device.device, &fits)) {
            state.rules = told;
        }
    }
}

impl Steer for FlowRules {
    fn replace(&self, rules: &[Rule], port: u16) -> Result<OffloadedRules, PortError> {
        let fits = fits(rules, port);
        let of = fits.iter().filter(|fit| **fit != Fit::Elsewhere).count();
        let mut state = self.state();
        // What waits is older.
        state.waiting = None;
        let device = self.device.upgrade();
        let told = device
            .as_ref()
            .and_then(|device| device.while_started(|| state.place(&device.device, &fits)));
        state.rules = told.unwrap_or_else(|| {
            // Its rules went with it, or it has had none.
            state.placed.clear();
            state.stale.clear();
            let told = without_device(&fits);
            state.waiting = device.is_some().then_some(fits);
            told
        });
        let placed = state.rules.iter().filter(|told| matches!(told, Told::Placed(_))).count();
        tracing::debug!(port = self.name, "the device has {placed} of {of} steering rules");
        // What it has are no first rules of the table: all rules are compared behind it.
        Ok(OffloadedRules { rules: 0, of })
    }

    fn kind(&self) -> &'static str {
        "rte_flow"
    }

    fn places(&self) -> Vec<Place> {
        let state = self.state();
        let packets = |placed: &Placed| {
            let device = self.device.upgrade()?;
            let now = device.while_started(|| placed.packets(device.device.number))??;
            Some(now.saturating_sub(placed.before?))
        };
        let place = |told: &Told| match told {
            Told::Nowhere => Place::Nowhere,
            Told::Behind(why) => Place::Behind(why.clone()),
            Told::BehindRule(earlier) => Place::BehindRule(*earlier),
            Told::Placed(parts) => {
                let packets = state.placed.get(parts).and_then(packets);
                Place::Before { flows: None, packets }
            }
        };
        state.rules.iter().map(place).collect()
    }
}

/// What is told of rules that no device was asked about.
fn without_device(fits: &[Fit]) -> Vec<Told> {
    let closed: Arc<str> = "the device is not started".into();
    let told = |fit: &Fit| match fit {
        Fit::Elsewhere => Told::Nowhere,
        Fit::Software(Some(Why::Behind(earlier))) => Told::BehindRule(*earlier),
        Fit::Software(why) => Told::Behind(why.map(|why| why.to_string().into())),
        Fit::Drop(_) => Told::Behind(Some(Arc::clone(&closed))),
    };
    fits.iter().map(told).collect()
}

impl State {
    /// Has the device drop what these rules say, and nothing else.
    fn place(&mut self, device: &Device, fits: &[Fit]) -> Vec<Told> {
        let number = device.number;
        let mut old = std::mem::take(&mut self.placed);
        let wanted: Vec<Option<Parts>> = fits.iter().map(parts_of).collect();
        // What stays stays where it is. What goes makes room first: until new rules are there,
        // software decides.
        for parts in wanted.iter().flatten() {
            if let Some(mut placed) = old.remove(parts) {
                placed.before = placed.packets(number);
                self.placed.insert(parts.clone(), placed);
            }
        }
        let removed = old.into_values().flat_map(|placed| placed.flows);
        self.remove(device, removed.collect());
        let (mut nothing, mut told) = (None, without_device(fits));
        for ((fit, wanted), told) in fits.iter().zip(wanted).zip(&mut told) {
            let (Fit::Drop(parts), Some(wanted)) = (fit, wanted) else { continue };
            let known = self.placed.contains_key(&wanted);
            let placed = match &nothing {
                _ if known => Ok(None),
                Some(why) => Err(Arc::clone(why)),
                None => self.make(device, parts).map(Some).map_err(|refused| {
                    let why: Arc<str> = refused.why.into();
                    if refused.is_for_all {
                        nothing = Some(Arc::clone(&why));
                    }
                    why
                }),
            };
            *told = match placed {
                Ok(placed) => {
                    if let Some(placed) = placed {
                        self.placed.insert(wanted.clone(), placed);
                    }
                    Told::Placed(wanted)
                }
                Err(why) => Told::Behind(Some(why)),
            };
        }
        told
    }

    /// Gives the device all parts of a rule, or none.
    fn make(&mut self, device: &Device, parts: &[MaskedKey]) -> Result<Placed, Refused> {
        match self.try_to_make(device, parts, true) {
            // Many a driver drops, and does not count.
            Err(refused) if !refused.is_for_all => self.try_to_make(device, parts, false),
            made => made,
        }
    }

    fn try_to_make(
        &mut self,
        device: &Device,
        parts: &[MaskedKey],
        count: bool,
    ) -> Result<Placed, Refused> {
        let mut placed = Placed::default();
        for part in parts {
            match drop_in_device(device.number, device.driver(), part, count) {
                Ok(flow) => placed.flows.push(flow),
                Err(refused) => {
                    self.remove(device, placed.flows);
                    return Err(refused);
                }
            }
        }
        placed.before = if count { placed.packets(device.number) } else { None };
        Ok(placed)
    }

    /// Has the device let go of rules, and of those that it has kept before. It drops by what it
    /// keeps, whatever the rules say now.
    fn remove(&mut self, device: &Device, flows: Vec<Handle>) {
        if flows.is_empty() && self.stale.is_empty() {
            return;
        }
        let known = self.stale.len();
        let number = device.number;
        let all = std::mem::take(&mut self.stale).into_iter().chain(flows);
        self.stale = kept(all, |Handle(flow)| {
            // SAFETY: [C]: the device is open as long as this is there; a rule that is gone is kept
            // nowhere.
            unsafe { sys::weir_dpdk_flow_remove(number, *flow) }
        });
        let still = match self.stale.len() {
            0 => None,
            count => Some(format!("{count} that were to go: the device drops by them")),
        };
        if let Some(still) = still.as_ref().filter(|_| self.stale.len() > known) {
            tracing::warn!("the device {} keeps steering rules, {still}", device.address);
        }
        device.note_now("stale-rules", still);
    }
}

/// Removes rules; the answer is those that stay.
fn kept(
    flows: impl Iterator<Item = Handle>,
    mut remove: impl FnMut(&Handle) -> c_int,
) -> Vec<Handle> {
    flows.filter(|flow| remove(flow) < 0).collect()
}

fn parts_of(fit: &Fit) -> Option<Parts> {
    let Fit::Drop(parts) = fit else { return None };
    Some(parts.iter().map(|part| [part.mask.words(), part.bits.words()]).collect())
}

/// Why a device does not have a rule.
struct Refused {
    why: String,
    /// It has none at all.
    is_for_all: bool,
}

impl Placed {
    fn packets(&self, number: u16) -> Option<u64> {
        let mut sum = 0;
        for Handle(flow) in &self.flows {
            let mut packets = 0;
            // SAFETY: [C]: a rule that was made and not removed; the caller keeps the device open.
            let asked = unsafe { sys::weir_dpdk_flow_packets(number, *flow, &raw mut packets) };
            if asked < 0 {
                return None;
            }
            sum += packets;
        }
        Some(sum)
    }
}

fn drop_in_device(
    number: u16,
    driver: &str,
    part: &MaskedKey,
    count: bool,
) -> Result<Handle, Refused> {
    let mut matching = matching(part);
    let refused = match create(number, &matching, count) {
        Ok(flow) => return Ok(flow),
        Err(refused) => refused,
    };
    if matching.no_fragment && NO_PORTS_IN_FRAGMENTS.contains(&driver) {
        matching.no_fragment = false;
        if let Ok(flow) = create(number, &matching, count) {
            return Ok(flow);
        }
    }
    let (error, said) = refused;
    let is_for_all = error == libc::ENOSYS;
    let why = match &*said {
        _ if is_for_all => format!("{driver} takes no rules"),
        "" => format!("{driver} refuses it: {}", io::Error::from_raw_os_error(error)),
        said if matching.no_fragment => {
            format!(
                "{driver} refuses it: {said} (ports are compared in packets that are no fragments)"
            )
        }
        said => format!("{driver} refuses it: {said}"),
    };
    Err(Refused { why, is_for_all })
}

fn create(number: u16, matching: &sys::Match, count: bool) -> Result<Handle, (i32, String)> {
    let (mut flow, mut message) = (null_mut(), [0 as c_char; MESSAGE]);
    // SAFETY: [C]: the caller keeps the device open and started; `flow` and `message` are there for
    // what is written.
    let made = log::quietly(|| unsafe {
        sys::weir_dpdk_flow_drop(
            number,
            matching,
            count,
            &raw mut flow,
            message.as_mut_ptr(),
            MESSAGE,
        )
    });
    if made < 0 {
        // SAFETY: the shim ends it with a zero.
        let said = unsafe { CStr::from_ptr(message.as_ptr()) };
        return Err((-made, said.to_string_lossy().into_owned()));
    }
    Ok(Handle(flow))
}

/// As DPDK's shim has it.
fn matching(part: &MaskedKey) -> sys::Match {
    let MaskedKey { mask, bits } = part;
    let Key { source, destination, source_port, destination_port, .. } = *bits;
    sys::Match {
        has_destination_mac: mask.macs[0] != [0; 6],
        has_source_mac: mask.macs[1] != [0; 6],
        has_vlan: mask.vlan != 0,
        has_ethertype: mask.ethertype != 0,
        has_protocol: mask.protocol != 0,
        has_dscp: mask.dscp != 0,
        no_fragment: mask.source_port != 0 || mask.destination_port != 0,
        destination_mac: bits.macs[0],
        source_mac: bits.macs[1],
        protocol: bits.protocol,
        dscp: bits.dscp,
        vlan: bits.vlan,
        ethertype: bits.ethertype,
        source_port,
        source_port_mask: mask.source_port,
        destination_port,
        destination_port_mask: mask.destination_port,
        source,
        source_mask: mask.source,
        destination,
        destination_mask: mask.destination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_keeps_is_not_forgotten() {
        let flow = |n: usize| Handle(std::ptr::without_provenance_mut(n));
        let number = |Handle(flow): &Handle| flow.addr();
        let busy = |flow: &Handle| if number(flow) == 2 { -libc::EBUSY } else { 0 };
        let stale = kept([flow(1), flow(2), flow(3)].into_iter(), busy);
        assert_eq!(stale.iter().map(number).collect::<Vec<_>>(), [2]);
        // It is tried again.
        assert!(kept(stale.into_iter(), |_| 0).is_empty());
    }
}
