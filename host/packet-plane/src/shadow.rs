//! Shadowing: a new version of a function sees copies of the packets that the running one sees, and
//! what it would have done is compared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weir_chain::{Executor, board};
use weir_layout::{self as layout, BURST_MAX, Descriptor, Metadata, VERDICT_NAMES, Verdict};
use weir_pool::{BufferIndex, HugePages, Memory, Packet, Pool, PoolConfig};
use weir_sandbox::{Refusal, Requests, Services, Shared, State};

use crate::observer::Observer;
use crate::plan::{Apart, ChainPlan, LaneSite, PlaneError};

/// Differences described in a report.
const SAMPLES: usize = 16;

/// What a shadow has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowReport {
    /// Packets compared.
    pub packets: u64,
    /// Packets for which the verdicts differ.
    pub verdicts_differ: u64,
    /// Packets with the same verdict, but other bytes.
    pub bytes_differ: u64,
    /// The first differences, for people.
    pub samples: Vec<String>,
    /// The new version faulted, and sees nothing any more.
    pub fault: Option<String>,
}

/// What the shadow is lent: a pool of its own. What it sends goes nowhere.
pub(crate) struct Aside {
    pool: Pool,
    now: u64,
}

impl Requests for Aside {
    fn now(&mut self) -> u64 {
        self.now
    }

    fn allocate(&mut self, _function: usize, _length: u32) -> Option<u32> {
        None
    }

    fn send(&mut self, _: usize, _: u32, _: u32, _: u32) -> Result<(), Refusal> {
        Err(Refusal::NotOwned)
    }

    fn send_copy(&mut self, _: usize, _: &[u8], _: u32) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Services for Aside {
    fn window(&mut self) -> &mut Memory {
        self.pool.memory_mut()
    }

    fn clone_packet(&mut self, _: u32, _: u32, _: u32) -> bool {
        true
    }

    fn next_burst(&mut self, _: &mut Memory) -> u64 {
        0
    }
}

/// The new version with all it needs.
pub struct Side {
    place: usize,
    function: String,
    version: String,
    executor: Executor<Aside>,
    aside: Option<Aside>,
    state: Option<Arc<State>>,
    buffers: Vec<BufferIndex>,
    room_bytes: u32,
    report: Arc<Mutex<ShadowReport>>,
    scratch: Vec<u8>,
    theirs: Vec<u8>,
    compiled_in: Duration,
}

impl LaneSite {
    /// Makes a version of one function ready to shadow it; `plan` is the chain with that version in
    /// it.
    ///
    /// # Errors
    /// As for [`Self::stage`].
    pub fn stage_shadow(&self, plan: &ChainPlan, place: usize) -> Result<Side, PlaneError> {
        let config = PoolConfig {
            rooms: BURST_MAX as u32,
            room_bytes: self.room_bytes,
            huge: HugePages::Never,
        };
        let mut pool = Pool::new("weir-shadow", &config)?;
        let window = Shared::new(pool.memory())?;
        let Apart { executor, state, compiled_in } = self.stage_apart(plan, place, &window)?;
        let buffers = std::iter::from_fn(|| pool.take()).collect();
        let function = &plan.functions[place];
        Ok(Side {
            place,
            function: function.name.clone(),
            version: function.version.clone(),
            executor,
            aside: Some(Aside { pool, now: 0 }),
            state,
            buffers,
            room_bytes: self.room_bytes,
            report: Arc::default(),
            scratch: Vec::new(),
            theirs: Vec::new(),
            compiled_in,
        })
    }
}

impl Side {
    pub(crate) fn function(&self) -> &str {
        &self.function
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Time spent compiling it; 0 if its code came from a cache.
    #[must_use]
    pub fn compiled_in(&self) -> Duration {
        self.compiled_in
    }

    pub(crate) fn report(&self) -> Arc<Mutex<ShadowReport>> {
        Arc::clone(&self.report)
    }

    /// Gives the shadow the state that the running version has now, if they lay it out alike.
    pub(crate) fn copy_state(&mut self, running: &[Option<Arc<State>>]) {
        let Some(state) = self.state.as_mut().and_then(Arc::get_mut) else { return };
        let original = running.iter().flatten().find(|original| original.is_like(state));
        if let Some(original) = original {
            let mut bytes = vec![0u8; original.memory().len()];
            // Guests on other workers may share it, and go on.
            original.memory().load(0, &mut bytes);
            state.memory_mut().copy_in(0, &bytes);
        }
    }

    /// The packet's place in the shadow's own pool: the same within its room.
    fn place_of(&self, slot: usize, theirs: Descriptor) -> Descriptor {
        let pool = &self.aside.as_ref().expect("home between calls").pool;
        let within = theirs.offset & (self.room_bytes - 1);
        let offset = pool.room_offset(self.buffers[slot]) + within;
        Descriptor { offset, length: theirs.length }
    }

    fn compare(&mut self, slot: usize, window: &Memory) {
        let ours = self.aside.as_ref().expect("home between calls").pool.memory();
        let at = layout::VERDICTS + slot * 4;
        let (old, new) = (window.get::<u32>(at), ours.get::<u32>(at));
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.packets += 1;
        let number = report.packets;
        let mut sample = None;
        if old != new {
            report.verdicts_differ += 1;
            sample = Some(format!(
                "packet {number}: {} -> {}",
                verdict_in_words(old),
                verdict_in_words(new)
            ));
        } else if old & 0xff != 1 {
            let at = layout::DESCRIPTORS + slot * 8;
            let (before, after) = (window.get::<Descriptor>(at), ours.get::<Descriptor>(at));
            let inside = |d: Descriptor, memory: &Memory| {
                (d.offset as usize).saturating_add(d.length as usize) <= memory.len()
            };
            let same_bytes =
                before.length == after.length && inside(before, window) && inside(after, ours) && {
                    self.scratch.resize(before.length as usize, 0);
                    self.theirs.resize(after.length as usize, 0);
                    window.load(before.offset as usize, &mut self.scratch);
                    ours.copy_out(after.offset as usize, &mut self.theirs);
                    self.scratch == self.theirs
                };
            if !same_bytes {
                report.bytes_differ += 1;
                sample = Some(format!(
                    "packet {number}: {} with other bytes ({} -> {} long)",
                    verdict_in_words(old),
                    before.length,
                    after.length
                ));
            }
        }
        if let Some(sample) = sample
            && report.samples.len() < SAMPLES
        {
            report.samples.push(sample);
        }
    }
}

/// What a function wrote as its verdict, in words: `drop 3`, `forward 1`, `invalid (0xff)`.
#[must_use]
pub fn verdict_in_words(verdict: u32) -> String {
    let Some((decoded, whole_flow)) = Verdict::decode_final(verdict) else {
        return format!("invalid ({verdict:#x})");
    };
    let name = VERDICT_NAMES[decoded.kind() as usize];
    let flow = if whole_flow { ", for the flow" } else { "" };
    match verdict >> 8 {
        0 => format!("{name}{flow}"),
        argument => format!("{name} {argument}{flow}"),
    }
}

impl Observer for Side {
    fn before(&mut self, place: usize, window: &Memory, count: usize) {
        let failed = self.report.lock().unwrap_or_else(PoisonError::into_inner).fault.is_some();
        if place != self.place || failed {
            return;
        }
        let mut burst = Vec::with_capacity(count);
        for slot in 0..count {
            let theirs = window.get::<Descriptor>(layout::DESCRIPTORS + slot * 8);
            let metadata = window.get::<Metadata>(layout::METADATA + slot * 8);
            let descriptor = self.place_of(slot, theirs);
            self.scratch.resize(theirs.length as usize, 0);
            window.load(theirs.offset as usize, &mut self.scratch);
            let pool = &mut self.aside.as_mut().expect("home between calls").pool;
            pool.memory_mut().copy_in(descriptor.offset as usize, &self.scratch);
            let buffer = self.buffers[slot];
            burst.push(Packet { descriptor, metadata, time: 0, buffer, cut: 0 });
        }
        let clock = window.get::<u64>(layout::CLOCK);
        let wall = window.get::<u64>(layout::WALL);
        let aside = self.aside.as_mut().expect("home between calls");
        aside.now = clock;
        board::fill(self.executor.board_mut(), aside.pool.memory_mut(), &burst, clock, wall);
    }

    fn after(&mut self, place: usize, window: &Memory, count: usize) {
        let failed = self.report.lock().unwrap_or_else(PoisonError::into_inner).fault.is_some();
        if place != self.place || failed {
            return;
        }
        let Executor::Separate(executor) = &mut self.executor else { return };
        if let Err(fault) = executor.probe(&mut self.aside, 0, count) {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.fault = Some(fault.to_string());
            return;
        }
        for slot in 0..count {
            self.compare(slot, window);
        }
    }
}
