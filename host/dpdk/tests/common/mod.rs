//! A pool, ports on it, and frames, without a chain between.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::time::{Duration, Instant};

use weir_dpdk::{DpdkConfig, DpdkPort};
use weir_pool::{HugePages, Packet, Pool, PoolConfig};
use weir_port::{Port, PortCounts};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A lane without functions.
pub(crate) struct Rig {
    pub(crate) pool: Pool,
    pub(crate) ports: Vec<Box<dyn Port>>,
    pub(crate) packets: Vec<Packet>,
}

pub(crate) fn pool(rooms: u32, room_bytes: u32) -> Pool {
    Pool::new("test", &PoolConfig { rooms, room_bytes, huge: HugePages::Never }).expect("memory")
}

pub(crate) fn open(device: &str) -> DpdkPort {
    DpdkPort::open("test", &DpdkConfig::new(device)).unwrap_or_else(|e| panic!("{e}"))
}

/// The message of a device that cannot be opened or attached.
pub(crate) fn refused(config: &DpdkConfig, rooms: u32) -> String {
    let mut port = match DpdkPort::open("test", config) {
        Ok(port) => port,
        Err(error) => return error.to_string(),
    };
    let mut pool = pool(rooms, config.room_bytes);
    let error = port.attach(&mut pool).expect_err("refused").to_string();
    drop(port);
    error
}

impl Rig {
    pub(crate) fn new(devices: &[&str]) -> Self {
        let ports = devices.iter().map(|d| Box::new(open(d)) as Box<dyn Port>).collect();
        Self::of(pool(4096, 2048), ports)
    }

    pub(crate) fn of(mut pool: Pool, mut ports: Vec<Box<dyn Port>>) -> Self {
        for port in &mut ports {
            port.attach(&mut pool).unwrap_or_else(|error| panic!("{error}"));
        }
        Self { pool, ports, packets: Vec::with_capacity(512) }
    }

    /// Receives once.
    pub(crate) fn receive(&mut self, port: usize, max: usize) -> usize {
        let before = self.packets.len();
        match self.ports[port].receive(&mut self.pool, &mut self.packets, max) {
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        self.packets.len() - before
    }

    /// Receives until there are this many, or patience ends; their bytes. Their buffers are given
    /// back.
    pub(crate) fn collect(&mut self, port: usize, count: usize) -> Vec<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        while frames.len() < count && Instant::now() < until {
            self.receive(port, 32);
            for packet in self.packets.drain(..) {
                frames.push(self.pool.bytes(packet.descriptor).expect("in a room").to_vec());
                self.pool.give(packet.buffer);
            }
        }
        frames
    }

    /// Sends all that was received.
    pub(crate) fn send(&mut self, port: usize) {
        self.ports[port].send(&mut self.pool, &mut self.packets).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Sends these frames, by buffers taken from the pool.
    pub(crate) fn send_frames<'a>(
        &mut self,
        port: usize,
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) {
        for frame in frames {
            let buffer = self.pool.take().expect("a buffer");
            let descriptor = self.pool.place(buffer, frame).expect("it fits");
            let metadata = weir_layout::Metadata::default();
            self.packets.push(Packet { descriptor, metadata, time: 0, buffer, cut: 0 });
        }
        self.send(port);
    }

    pub(crate) fn counts(&self, port: usize) -> PortCounts {
        self.ports[port].statistics().counts()
    }

    /// Ends the ports; every buffer must be back.
    pub(crate) fn end(&mut self) {
        self.pool.give_all(self.packets.drain(..).map(|packet| packet.buffer));
        for port in &mut self.ports {
            port.finish(&mut self.pool).unwrap_or_else(|error| panic!("{error}"));
        }
        let accounting = self.pool.accounting();
        assert_eq!((accounting.free, accounting.out), (accounting.total, 0), "buffers were lost");
    }
}

/// A UDP packet with this number in it.
pub(crate) fn frame(number: u32, payload: usize) -> Vec<u8> {
    let mut data = vec![0; payload.max(4)];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1000 + (number % 1000) as u16, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, &data).expect("a vector takes everything");
    frame
}
