//! A generator, a chain and a sink, for chains in Wasm and for the same functions compiled
//! natively.
//!
//! Both ways receive, fill the window, read the results and send with the same code; they differ
//! only in what happens in between, so that the difference is Wasm's share.

use std::time::Instant;

use weir_chain::{Executor, board};
use weir_layout::{BURST_MAX, DESCRIPTORS, Metadata, VERDICTS};
use weir_pool::{HugePages, Memory, Packet, Pool, PoolConfig};
use weir_port::Port;
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Templates};
use weir_sandbox::{Refusal, Requests, Services, thread_time};

/// A function compiled natively, over the driver's window: handles the first so many packets.
pub type Native = Box<dyn FnMut(usize)>;

/// What is lent to the chain.
pub struct Driver {
    /// The packets.
    pub pool: Pool,
    input: MemoryPort,
    output: MemoryPort,
    burst: Vec<Packet>,
    transmit: Vec<Packet>,
    burst_max: usize,
    left: u64,
    started: Instant,
}

impl Driver {
    /// Generates these frames in turn, in bursts of `burst`.
    ///
    /// # Panics
    /// When the machine has no memory for it, or the frames are impossible.
    #[must_use]
    pub fn new(frames: Vec<Vec<u8>>, burst: usize) -> Self {
        let templates = Templates::frames(frames).expect("possible frames");
        let config = PoolConfig { rooms: 1024, room_bytes: 2048, huge: HugePages::Auto };
        Self {
            pool: Pool::new("bench", &config).expect("memory"),
            input: MemoryPort::new("in", Some(GeneratorConfig::new(templates)), Keep::Nothing),
            output: MemoryPort::new("out", None, Keep::Nothing),
            burst: Vec::with_capacity(BURST_MAX),
            transmit: Vec::with_capacity(1024),
            burst_max: burst,
            left: 0,
            started: Instant::now(),
        }
    }

    #[inline]
    fn receive(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.input
            .receive(&mut self.pool, &mut self.burst, self.burst_max)
            .expect("memory does not fail");
        for packet in &mut self.burst {
            packet.metadata = Metadata::default();
        }
        true
    }

    #[inline]
    fn fill(&mut self, board: &mut Memory) {
        let now = self.started.elapsed().as_nanos() as u64;
        board::fill(board, self.pool.memory_mut(), &self.burst, now, now);
    }

    #[inline]
    fn finish(&mut self, board: &Memory) {
        board::ends(board, |origin, descriptor, end| {
            assert!(
                end == board::End::Through,
                "a packet of a benchmark passes the chain: {end:?}"
            );
            self.transmit.push(Packet { descriptor, ..self.burst[origin] });
        });
        self.send();
    }

    #[inline]
    fn send(&mut self) {
        self.burst.clear();
        self.output.send(&mut self.pool, &mut self.transmit).expect("memory does not fail");
    }

    /// Runs this many bursts through Wasm; ns of CPU a packet.
    ///
    /// # Panics
    /// When a function faults.
    pub fn wasm(lent: &mut Option<Box<Self>>, chain: &mut Executor<Box<Self>>, bursts: u64) -> f64 {
        let driver = lent.as_mut().expect("lent");
        driver.left = bursts;
        let packets = bursts as f64 * driver.burst_max as f64;
        let started = thread_time();
        chain.serve(lent).expect("no faults");
        (thread_time() - started).as_nanos() as f64 / packets
    }

    /// Runs this many bursts through functions compiled natively, in the same loop; ns of
    /// CPU a packet.
    ///
    /// # Panics
    /// When a function's verdict is not `next`.
    pub fn native(&mut self, functions: &mut [Native], board: &mut Memory, bursts: u64) -> f64 {
        self.left = bursts;
        let packets = bursts as f64 * self.burst_max as f64;
        let started = thread_time();
        while self.receive() {
            self.fill(board);
            let count = self.burst.len();
            for function in functions.iter_mut() {
                function(count);
                let window = self.pool.memory();
                let mut others = 0;
                for slot in 0..count {
                    others |= window.get::<u32>(VERDICTS + slot * 4);
                }
                assert_eq!(others, 0, "a packet of a benchmark passes the chain");
            }
            for (slot, packet) in self.burst.iter().enumerate() {
                let descriptor = self.pool.memory().get(DESCRIPTORS + slot * 8);
                self.transmit.push(Packet { descriptor, ..*packet });
            }
            self.send();
        }
        (thread_time() - started).as_nanos() as f64 / packets
    }
}

impl Requests for Box<Driver> {
    fn now(&mut self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn allocate(&mut self, _: usize, _: u32) -> Option<u32> {
        None
    }

    fn send(&mut self, _: usize, _: u32, _: u32, _: u32) -> Result<(), Refusal> {
        Err(Refusal::NotOwned)
    }

    fn send_copy(&mut self, _: usize, _: &[u8], _: u32) -> Result<(), Refusal> {
        Err(Refusal::Exhausted)
    }
}

impl Services for Box<Driver> {
    fn window(&mut self) -> &mut Memory {
        self.pool.memory_mut()
    }

    fn clone_packet(&mut self, _: u32, _: u32, _: u32) -> bool {
        false
    }

    fn next_burst(&mut self, board: &mut Memory) -> u64 {
        if !self.burst.is_empty() {
            self.finish(board);
        }
        if !self.receive() {
            return 0;
        }
        self.fill(board);
        board::pack(self.burst.len(), 0, false)
    }
}

/// Median of measurements.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured[measured.len() / 2]
}

/// `flows` UDP flows to one address, in frames of 60 bytes: 64 on the wire.
#[must_use]
pub fn flows(flows: u32, to: [u8; 4], port: u16) -> Vec<Vec<u8>> {
    let frame = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, a, b, c], to, 64)
            .udp(1024 + (n % 60_000) as u16, port);
        let mut frame = Vec::with_capacity(60);
        builder.write(&mut frame, &[0; 18]).expect("a vector takes everything");
        frame
    };
    (0..flows).map(frame).collect()
}
