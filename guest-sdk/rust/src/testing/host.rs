//! The thread's test host: what `sys` calls natively.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use weir_layout::{BURST_AREA, Descriptor, HEADROOM};

use super::exchanges::Exchanges;
use crate::Verdict;
use crate::host::{Level, Refusal};
use crate::memory::Chunk;
use crate::window::Window;

thread_local! {
    static CURRENT: RefCell<TestHost> = RefCell::new(TestHost::default());
}

/// A packet that a function sent by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where it goes.
    pub verdict: Verdict,
}

/// Everything that the host knows of one function.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    pub(crate) window: Option<(Window, Chunk)>,
    /// Rooms that nobody uses, by offset.
    pub(crate) free: Vec<u32>,
    /// Rooms that the function owns.
    pub(crate) owned: BTreeSet<u32>,
    /// Maximum number of rooms that it may own.
    pub(crate) share: usize,
    pub(crate) ports: usize,
    pub(crate) functions: usize,
    pub(crate) now: u64,
    pub(crate) timer: u64,
    pub(crate) random: u64,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) exchanges: Exchanges,
}

impl TestHost {
    /// The start of the room in which this offset lies.
    pub(crate) fn room(&self, offset: u32) -> Option<u32> {
        let (window, memory) = self.window.as_ref()?;
        let inside = (BURST_AREA..memory.len()).contains(&(offset as usize));
        inside.then_some(offset & !(window.room_bytes() - 1))
    }

    /// Whether the function may own one more room.
    pub(crate) fn has_share(&self) -> bool {
        self.owned.len() < self.share
    }

    /// Copies bytes out of the window.
    pub(crate) fn read(&self, descriptor: Descriptor) -> Vec<u8> {
        let (_, memory) = self.window.as_ref().expect("a window");
        memory
            .part(descriptor.offset as usize, descriptor.length as usize)
            .map(|part| part.to_vec())
            .expect("a packet within the window")
    }

    /// What a packet can be sent with.
    fn sendable(&self, word: u32) -> Result<Verdict, Refusal> {
        let verdict = Verdict::decode(word).ok_or(Refusal::BadVerdict)?;
        match verdict {
            Verdict::Hold | Verdict::Clone(_) | Verdict::Move(_) => Err(Refusal::BadVerdict),
            Verdict::Forward(port) if usize::from(port) >= self.ports => Err(Refusal::BadVerdict),
            Verdict::Jump(at) if usize::from(at) >= self.functions => Err(Refusal::BadVerdict),
            _ => Ok(verdict),
        }
    }
}

/// Exchanges the thread's host with another.
pub(crate) fn exchange(other: &mut TestHost) {
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, other));
}

/// Does something with the thread's host.
pub(super) fn with<R>(work: impl FnOnce(&mut TestHost) -> R) -> R {
    CURRENT.with_borrow_mut(work)
}

pub(crate) fn log(level: Level, message: &str) {
    CURRENT.with_borrow_mut(|host| host.log.push((level, message.to_owned())));
}

pub(crate) fn now() -> u64 {
    CURRENT.with_borrow(|host| host.now)
}

pub(crate) fn random() -> u64 {
    CURRENT.with_borrow_mut(|host| {
        // Splitmix64 (Steele, Lea, Flood, 2014), from 0 on.
        host.random = host.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::hash::mix(host.random)
    })
}

pub(crate) fn counter_add(name: &str, delta: u64) {
    CURRENT.with_borrow_mut(|host| *host.counters.entry(name.to_owned()).or_default() += delta);
}

pub(crate) fn gauge_set(name: &str, value: f64) {
    CURRENT.with_borrow_mut(|host| host.gauges.insert(name.to_owned(), value));
}

pub(crate) fn set_timer(at: u64) {
    CURRENT.with_borrow_mut(|host| host.timer = at);
}

pub(crate) fn window() -> Option<Window> {
    CURRENT.with_borrow(|host| host.window.as_ref().map(|(window, _)| window.clone()))
}

pub(crate) fn allocate(length: u32) -> Option<u32> {
    CURRENT.with_borrow_mut(|host| {
        let room_bytes = host.window.as_ref()?.0.room_bytes();
        if length > room_bytes - HEADROOM as u32 || !host.has_share() {
            return None;
        }
        let room = host.free.pop()?;
        host.owned.insert(room);
        Some(room + HEADROOM as u32)
    })
}

pub(crate) fn send(offset: u32, length: u32, verdict: u32) -> Result<(), Refusal> {
    CURRENT.with_borrow_mut(|host| {
        let room = host.room(offset).filter(|room| host.owned.contains(room));
        let room = room.ok_or(Refusal::NotOwned)?;
        let room_bytes = host.window.as_ref().map_or(0, |(window, _)| window.room_bytes());
        let descriptor = Descriptor { offset, length };
        if !descriptor.lies_in(room, room_bytes) {
            return Err(Refusal::OutOfBounds);
        }
        let verdict = host.sendable(verdict)?;
        if !matches!(verdict, Verdict::Drop(_)) {
            let bytes = host.read(descriptor);
            host.sent.push(Sent { bytes, verdict });
        }
        host.owned.remove(&room);
        host.free.push(room);
        Ok(())
    })
}

pub(crate) fn send_copy(packet: &[u8], verdict: u32) -> Result<(), Refusal> {
    CURRENT.with_borrow_mut(|host| {
        let verdict = host.sendable(verdict)?;
        let room_bytes = host.window.as_ref().map_or(0, |(window, _)| window.room_bytes() as usize);
        if packet.len() + HEADROOM > room_bytes {
            return Err(Refusal::OutOfBounds);
        }
        if host.free.is_empty() {
            return Err(Refusal::Exhausted);
        }
        host.sent.push(Sent { bytes: packet.to_vec(), verdict });
        Ok(())
    })
}
