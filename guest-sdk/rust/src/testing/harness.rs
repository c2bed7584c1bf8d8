//! Driving one function.

use std::fmt;

use weir_layout::{
    BURST_AREA, BURST_MAX, CLOCK, DESCRIPTORS, Descriptor, FLAG_MADE, FLAG_REVERSE, HEADROOM,
    METADATA, Metadata, VERDICTS, WALL, WASM_PAGE,
};

use super::host::{self as test_host, Sent, TestHost};
use crate::burst::Burst;
use crate::function::{Function, Setup, Snapshot, read_config};
use crate::host::{self, Level};
use crate::memory::Chunk;
use crate::region::StateRegion;
use crate::{Verdict, window::Window};

/// A function's share of the rooms: one of so many.
const SHARE: usize = 4;

/// What the host gives to the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a room, a power of two.
    pub room_bytes: u32,
    /// Rooms in the window.
    pub rooms: usize,
    /// Bytes of the state region, a multiple of 65,536; 0 for none.
    pub state_bytes: usize,
    /// For hash seeds.
    pub seed: u64,
    /// Names of the ports.
    pub ports: Vec<String>,
    /// Names of the chain's functions.
    pub functions: Vec<String>,
    /// The function's place among them.
    pub position: usize,
    /// Where the clock begins, in nanoseconds.
    pub now: u64,
    /// Wall time less monotonic time, in nanoseconds; `None` if the host does not know the wall
    /// time.
    pub wall_offset: Option<u64>,
}

impl Default for Options {
    /// 512 rooms of 2,048 bytes, 4 MiB of state, ports `a` and `b`, one function.
    fn default() -> Self {
        Self {
            room_bytes: 2048,
            rooms: 512,
            state_bytes: 4 << 20,
            seed: 0x5eed_5eed_5eed_5eed,
            ports: vec!["a".into(), "b".into()],
            functions: vec!["function".into()],
            position: 0,
            now: 1_000_000_000,
            wall_offset: Some(1_700_000_000_000_000_000),
        }
    }
}

impl Options {
    /// What the function is told.
    pub(super) fn setup(&self, state: Option<Chunk>, kept: bool) -> Setup {
        Setup {
            room_bytes: self.room_bytes,
            seed: self.seed,
            state: state.map(|memory| StateRegion::attached(memory, kept)),
            ports: self.ports.clone(),
            functions: self.functions.clone(),
            position: self.position,
            region_taken: false,
        }
    }
}

/// A packet to be given to the function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    metadata: Metadata,
}

impl Frame {
    /// These bytes, in at port 0, in the chain's direction.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), metadata: Metadata::default() }
    }

    /// It came in by this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.metadata.port = port;
        self
    }

    /// It travels in the chain's reverse direction.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.metadata.flags |= FLAG_REVERSE;
        self
    }

    /// A function made it.
    #[must_use]
    pub fn made(mut self) -> Self {
        self.metadata.flags |= FLAG_MADE;
        self
    }

    /// The host's flow hash.
    #[must_use]
    pub fn hash(mut self, hash: u32) -> Self {
        self.metadata.hash = hash;
        self
    }
}

impl<T: AsRef<[u8]> + ?Sized> From<&T> for Frame {
    fn from(bytes: &T) -> Self {
        Self::new(bytes.as_ref())
    }
}

impl<const N: usize> From<[u8; N]> for Frame {
    fn from(bytes: [u8; N]) -> Self {
        Self::new(bytes)
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The function's decision.
    pub verdict: Verdict,
    /// It holds for the packet's whole flow.
    pub whole_flow: bool,
    /// The packet afterwards.
    pub bytes: Vec<u8>,
}

/// One function and its host. Several may be used in turns on one thread.
pub struct Harness<F: Function> {
    options: Options,
    /// `None` only while an instance is replaced.
    function: Option<F>,
    pub(super) host: TestHost,
    parked: host::Parked,
    state: Option<Chunk>,
    /// Rooms of the packets in the window.
    loaded: Vec<u32>,
}

impl<F: Function> Harness<F> {
    /// Configures the function with the default [`Options`]; `config` is a JSON object.
    ///
    /// # Errors
    /// What the function, or the reader of its configuration, says.
    pub fn new(config: impl fmt::Display) -> Result<Self, String> {
        Self::with(Options::default(), config)
    }

    /// Configures the function.
    ///
    /// # Errors
    /// What the function, or the reader of its configuration, says.
    ///
    /// # Panics
    /// When the options make no sense.
    pub fn with(options: Options, config: impl fmt::Display) -> Result<Self, String> {
        let room = options.room_bytes as usize;
        assert!(
            room.is_power_of_two() && (256..=BURST_AREA).contains(&room),
            "{room} bytes a room"
        );
        assert!(
            options.state_bytes.is_multiple_of(WASM_PAGE),
            "{} bytes of state",
            options.state_bytes
        );
        let bytes = (BURST_AREA + options.rooms * room).next_multiple_of(WASM_PAGE);
        let memory = Chunk::zeroed(bytes);
        // SAFETY: descriptors are zeros now and written by `load` only, within the window; the
        // harness touches packets only between calls of the function.
        let window = unsafe { Window::new(memory.clone(), options.room_bytes) };
        let free = (BURST_AREA..bytes).step_by(room).rev();
        let free = free.map(|at| u32::try_from(at).expect("a window below 4 GiB")).collect();
        let host = TestHost {
            window: Some((window, memory)),
            free,
            share: options.rooms / SHARE,
            ports: options.ports.len(),
            functions: options.functions.len(),
            now: options.now,
            ..TestHost::default()
        };
        let state = (options.state_bytes > 0).then(|| Chunk::zeroed(options.state_bytes));
        let mut harness = Self {
            options,
            function: None,
            host,
            parked: host::Parked::default(),
            state,
            loaded: Vec::new(),
        };
        let instance = harness.instance(&config.to_string(), false)?;
        harness.function = Some(instance);
        Ok(harness)
    }

    /// Replaces the instance by a new one, which finds the state region as it is. True when it
    /// could take over; false when it wrote to the region while it was configured, and so got a
    /// fresh one.
    ///
    /// # Errors
    /// What the new instance says; the old one stays.
    pub fn swap(&mut self, config: impl fmt::Display) -> Result<bool, String> {
        let (instance, kept) = self.successor(&config.to_string())?;
        self.function = Some(instance);
        Ok(kept)
    }

    /// Puts packets into the window, in place of those that are there.
    ///
    /// # Panics
    /// When there are more than 256, more than rooms are free, or one does not fit into its room.
    pub fn load<T: Into<Frame> + Clone>(&mut self, frames: &[T]) {
        assert!(frames.len() <= BURST_MAX, "{} packets are more than a burst", frames.len());
        self.host.free.append(&mut self.loaded);
        let (window, memory) = self.host.window.clone().expect("a window");
        for (index, frame) in frames.iter().enumerate() {
            let Frame { bytes, metadata } = frame.clone().into();
            let room = self.host.free.pop().expect("a free room: see Options::rooms");
            assert!(
                bytes.len() + HEADROOM <= window.room_bytes() as usize,
                "{} bytes do not fit into a room of {}",
                bytes.len(),
                window.room_bytes()
            );
            let offset = room + HEADROOM as u32;
            memory.write(offset as usize, &bytes);
            let length = u32::try_from(bytes.len()).expect("less than a room");
            memory.write(
                DESCRIPTORS + index * 8,
                &(u64::from(length) << 32 | u64::from(offset)).to_ne_bytes(),
            );
            let Metadata { port, flags, hash } = metadata;
            let word = u64::from(hash) << 32 | u64::from(flags) << 16 | u64::from(port);
            memory.write(METADATA + index * 8, &word.to_ne_bytes());
            self.loaded.push(room);
        }
    }

    /// Calls `process` for the packets in the window, as they are; nothing else than that happens
    /// here, for benchmarks.
    #[inline]
    pub fn process(&mut self) {
        let (window, memory) = self.host.window.as_ref().expect("a window");
        let (window, now) = (window.clone(), self.host.now);
        let wall = self.options.wall_offset.map_or(0, |offset| now.wrapping_add(offset));
        memory.write(VERDICTS, &[0; BURST_MAX * 4][..self.loaded.len() * 4]);
        memory.write(CLOCK, &now.to_ne_bytes());
        memory.write(WALL, &wall.to_ne_bytes());
        let len = self.loaded.len();
        self.enter(|function| {
            // SAFETY: `load` wrote the descriptors, each of its own room; `Packet` keeps them
            // valid.
            let mut burst = unsafe { Burst::new(window, len) };
            function.process(&mut burst);
            burst.finish();
        });
    }

    /// Takes the packets out of the window and tells what became of them. What exceeds the
    /// function's share, a quarter of the rooms, is not held but freed, as by a real host.
    ///
    /// # Panics
    /// When a verdict is one that the host would take for a fault.
    pub fn unload(&mut self) -> Vec<Outcome> {
        let (window, memory) = self.host.window.clone().expect("a window");
        let rooms = std::mem::take(&mut self.loaded);
        let outcomes = rooms.into_iter().enumerate().map(|(index, room)| {
            let word = |at: usize| memory.read_u32(at);
            let descriptor = Descriptor {
                offset: word(DESCRIPTORS + index * 8),
                length: word(DESCRIPTORS + index * 8 + 4),
            };
            assert!(descriptor.lies_in(room, window.room_bytes()), "packet {index} left its room");
            let verdict = word(VERDICTS + index * 4);
            let (verdict, whole_flow) = Verdict::decode_final(verdict)
                .unwrap_or_else(|| panic!("packet {index}: {verdict:#x} is no verdict"));
            let reverse =
                memory.read_u32(METADATA + index * 8) >> 16 & u32::from(FLAG_REVERSE) != 0;
            match verdict {
                Verdict::Forward(port) | Verdict::Clone(port) => {
                    assert!(usize::from(port) < self.options.ports.len(), "no port {port}");
                }
                Verdict::Jump(at) => {
                    let (at, here) = (usize::from(at), self.options.position);
                    let later = if reverse { at < here } else { at > here };
                    assert!(later && at < self.options.functions.len(), "no later function {at}");
                }
                _ => {}
            }
            let bytes = self.host.read(descriptor);
            if verdict == Verdict::Hold && self.host.has_share() {
                self.host.owned.insert(room);
            } else {
                self.host.free.push(room);
            }
            Outcome { verdict, whole_flow, bytes }
        });
        outcomes.collect()
    }

    /// Gives a burst to the function.
    ///
    /// # Panics
    /// As [`Harness::load`] and [`Harness::unload`].
    pub fn run_burst<T: Into<Frame> + Clone>(&mut self, frames: &[T]) -> Vec<Outcome> {
        self.load(frames);
        self.process();
        self.unload()
    }

    /// Gives one packet to the function.
    ///
    /// # Panics
    /// As [`Harness::load`] and [`Harness::unload`].
    pub fn run(&mut self, frame: impl Into<Frame>) -> Outcome {
        let frame: Frame = frame.into();
        self.run_burst(&[frame]).remove(0)
    }

    /// Lets so many nanoseconds pass; timers fire in them.
    pub fn advance(&mut self, nanos: u64) {
        let end = self.host.now + nanos;
        while self.host.timer != 0 && self.host.timer <= end {
            self.host.now = self.host.now.max(self.host.timer);
            self.host.timer = 0;
            let now = self.host.now;
            self.enter(|function| {
                if host::before_tick(now) {
                    function.tick(now);
                }
                host::after_tick(now);
            });
        }
        self.host.now = end;
    }

    /// The clock, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.host.now
    }

    /// The function itself. Host calls made through this reach nobody; see [`Harness::enter`].
    ///
    /// # Panics
    /// Never.
    pub fn function(&mut self) -> &mut F {
        self.function.as_mut().expect("an instance")
    }

    /// Does something with the function while its host is the thread's.
    ///
    /// # Panics
    /// As `work` does.
    pub fn enter<R>(&mut self, work: impl FnOnce(&mut F) -> R) -> R {
        test_host::exchange(&mut self.host);
        host::exchange(&self.parked);
        let result = work(self.function.as_mut().expect("an instance"));
        host::exchange(&self.parked);
        test_host::exchange(&mut self.host);
        result
    }

    /// A counter's value, 0 when it was never added to.
    pub fn counter(&mut self, name: &str) -> u64 {
        self.enter(|_| host::flush());
        self.host.counters.get(name).copied().unwrap_or(0)
    }

    /// A gauge's value, `None` when it was never set.
    pub fn gauge(&mut self, name: &str) -> Option<f64> {
        self.enter(|_| host::flush());
        self.host.gauges.get(name).copied()
    }

    /// Takes the packets that the function sent by itself, in order.
    pub fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.host.sent)
    }

    /// Takes the lines that the function logged.
    pub fn log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.host.log)
    }

    /// Buffers that the function holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.host.owned.len()
    }

    /// Rooms that nobody uses.
    #[must_use]
    pub fn free_rooms(&self) -> usize {
        self.host.free.len()
    }

    fn successor(&mut self, config: &str) -> Result<(F, bool), String> {
        let before = self.state.as_ref().map(Chunk::to_vec);
        // What the old instance counted in its last 100 ms is lost with it, as with a real host.
        let parked = std::mem::take(&mut self.parked);
        let timer = std::mem::take(&mut self.host.timer);
        let state = self.state.clone();
        let mut result = self.instance(config, before.is_some()).map(|instance| (instance, true));
        if before != state.as_ref().map(Chunk::to_vec) {
            // With a real host the write would have been a trap.
            if let (Some(state), Some(before)) = (&state, &before) {
                state.write(0, before);
            }
            self.parked = host::Parked::default();
            self.state = Some(Chunk::zeroed(self.options.state_bytes));
            result = self.instance(config, false).map(|instance| (instance, false));
        }
        if result.is_err() {
            (self.parked, self.host.timer, self.state) = (parked, timer, state);
        }
        result.map(|(instance, kept)| (instance, kept && before.is_some()))
    }

    fn instance(&mut self, config: &str, kept: bool) -> Result<F, String> {
        let setup = self.options.setup(self.state.clone(), kept);
        test_host::exchange(&mut self.host);
        host::exchange(&self.parked);
        let instance =
            read_config::<F::Config>(config).and_then(|config| F::configure(setup, config));
        host::after_configure();
        host::exchange(&self.parked);
        test_host::exchange(&mut self.host);
        instance
    }
}

impl<F: Function + Snapshot> Harness<F> {
    /// Replaces the instance by a new one, to which the old one's state is handed.
    ///
    /// # Errors
    /// What the new instance says; the old one stays.
    pub fn swap_with_snapshot(&mut self, config: impl fmt::Display) -> Result<(), String> {
        let saved = self.enter(|function| function.save());
        let (mut instance, _) = self.successor(&config.to_string())?;
        instance.restore(&saved)?;
        self.function = Some(instance);
        Ok(())
    }
}

impl<F: Function> fmt::Debug for Harness<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<F: Function> Drop for Harness<F> {
    /// The function may let go of buffers.
    fn drop(&mut self) {
        test_host::exchange(&mut self.host);
        host::exchange(&self.parked);
        self.function = None;
        host::exchange(&self.parked);
        test_host::exchange(&mut self.host);
    }
}
