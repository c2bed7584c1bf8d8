//! Does what the fourth byte of a packet says, so that tests can reach every part of the SDK. The
//! first byte numbers the packet; answers are written behind.

use serde::Deserialize;
use weir_sdk::flow::Hasher;
use weir_sdk::prelude::*;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Entries of the map in the state region.
    #[serde(default = "thousand")]
    capacity: usize,
    /// Refuse to be configured.
    #[serde(default)]
    refuse: bool,
}

fn thousand() -> usize {
    1000
}

/// The function.
#[derive(Debug)]
pub struct Probe {
    hasher: Hasher,
    seen: StateMap<u32, u64>,
    totals: StateArray<u64>,
    held: Vec<Buffer>,
    packets: Counter,
    gauge: Gauge,
    private: u64,
}

impl Function for Probe {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        let mut region = setup.region();
        info!("place {} of {:?}, kept {}", setup.position, setup.functions, region.kept());
        if config.refuse {
            let port = setup.port("nowhere").map_or_else(|error| error, |port| port.to_string());
            return Err(format!("as asked; {port}"));
        }
        Ok(Self {
            hasher: Hasher::new(setup.seed),
            seen: region.map("seen", config.capacity)?,
            totals: region.array("totals", 4)?,
            held: Vec::new(),
            packets: host::counter("packets"),
            gauge: host::gauge("entries"),
            private: 0,
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        self.packets.add(burst.len() as u64);
        let now = burst.now();
        for i in 0..burst.len() {
            let mut packet = burst.packet(i);
            let Some(command) = packet.data().get(3).copied() else { continue };
            match command {
                // Counts packets by their lowest byte: in the map, in the array, privately.
                b'c' => {
                    let key = u32::from(packet.data()[0]);
                    let hash = self.hasher.hash(&key);
                    let count = self.seen.find(hash, &key).map_or(1, |count| count + 1);
                    self.totals[0] += 1;
                    self.private += 1;
                    let total = self.totals[0];
                    if self.seen.insert(hash, key, count).is_err() {
                        packet.set_verdict(Verdict::Drop(7));
                    }
                    self.gauge.set(self.seen.len() as f64);
                    let data = packet.data_mut();
                    data[8..16].copy_from_slice(&count.to_le_bytes());
                    data[16..24].copy_from_slice(&total.to_le_bytes());
                    data[24..32].copy_from_slice(&self.private.to_le_bytes());
                }
                b'p' => match packet.prepend(4) {
                    Ok(head) => head.copy_from_slice(b"head"),
                    Err(no_room) => error!("{no_room}"),
                },
                b's' => _ = packet.strip_front(4),
                b'l' => _ = packet.set_len(9),
                b'r' => packet.set_verdict(Verdict::Reply),
                b'h' => {
                    host::set_timer(now + 1_000_000);
                    self.held.push(packet.hold());
                }
                b'a' => {
                    if let Some(mut buffer) = host::allocate(10) {
                        buffer.data_mut().copy_from_slice(b"allocated!");
                        if let Err(refusal) = buffer.send(Verdict::Next) {
                            error!("{refusal}");
                        }
                    }
                    if let Err(refusal) = host::send_copy(b"copied", Verdict::Reply) {
                        error!("{refusal}");
                    }
                }
                b'x' => panic!("as asked by packet {}", packet.data()[0]),
                _ => {}
            }
        }
    }

    fn tick(&mut self, now: u64) {
        info!("tick at {now}, {} held", self.held.len());
        for buffer in self.held.drain(..) {
            if let Err(refusal) = buffer.send(Verdict::Next) {
                error!("{refusal}");
            }
        }
    }
}

impl Snapshot for Probe {
    fn save(&self) -> Vec<u8> {
        self.private.to_le_bytes().into()
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        let saved = saved.try_into().map_err(|_| format!("{} bytes are no count", saved.len()))?;
        self.private = u64::from_le_bytes(saved);
        Ok(())
    }
}

export!(Probe, snapshot);
