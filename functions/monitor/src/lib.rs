//! Flow accounting: who talks to whom, how much.
//!
//! Owns: the table of flows, the histogram, reports. Must not know: policy; it decides nothing and changes no byte.

mod flows;

use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::{Addresses, Plain, Unreadable, parse, protocol};
use weir_sdk::prelude::*;

use flows::{Flows, Tally};

#[cfg(test)]
mod tests;

weir_sdk::export!(Monitor);

/// Most packets of a burst.
const BURST: usize = 256;
/// Upper ends of the histogram's classes, in bytes of the frame with its check sequence (RFC 2819,
/// etherStatsPkts64Octets and following).
const SIZES: [(usize, &str); 7] = [
    (64, "size_64"),
    (127, "size_65_127"),
    (255, "size_128_255"),
    (511, "size_256_511"),
    (1023, "size_512_1023"),
    (1518, "size_1024_1518"),
    (usize::MAX, "size_jumbo"),
];
/// Bytes of the frame check sequence, which ports take away.
const FCS: usize = 4;

/// `[function.config]` of `monitor`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Flows with an entry, of either version of IP.
    pub max_flows: usize,
    /// Seconds between reports; 0 for none.
    pub report_every: u64,
    /// Flows in a report.
    pub top: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_flows: 65_536, report_every: 10, top: 10 }
    }
}

/// The function.
#[derive(Debug)]
pub struct Monitor {
    v4: Flows<FlowV4>,
    v6: Flows<FlowV6>,
    hasher: Hasher,
    config: Config,
    counters: Counters,
    /// Of the burst at hand: keys and hashes of plain packets.
    keys: Vec<Option<(FlowV4, u64, u8)>>,
}

/// What is counted beside flows.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum Kind {
    Tcp,
    Udp,
    Icmp,
    Other,
    Ipv6,
    NotIp,
    Malformed,
    Fragments,
}

const KINDS: [&str; 8] =
    ["tcp", "udp", "icmp", "other", "ipv6", "not_ip", "malformed", "fragments"];

#[derive(Debug)]
struct Counters {
    packets: host::Counter,
    bytes: host::Counter,
    kinds: [host::Counter; KINDS.len()],
    sizes: [host::Counter; SIZES.len()],
    flows: host::Gauge,
    evicted: host::Gauge,
}

/// Counts of one burst, handed over at its end.
#[derive(Default)]
struct Sums {
    bytes: u64,
    kinds: [u64; KINDS.len()],
    sizes: [u64; SIZES.len()],
}

impl Function for Monitor {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        if !(64..=1 << 22).contains(&config.max_flows) {
            return Err(format!(
                "config: max-flows: {}; allowed are 64 to 4194304",
                config.max_flows
            ));
        }
        if config.top > 100 {
            return Err(format!("config: top: {}; allowed are 0 to 100", config.top));
        }
        let mut region = setup.region();
        let v4 = Flows::new(&mut region, "flows-v4", config.max_flows)?;
        // IPv6 gets a quarter, with entries twice as large.
        let v6 = Flows::new(&mut region, "flows-v6", config.max_flows / 4)?;
        if config.report_every > 0 {
            host::set_timer(host::now() + config.report_every * 1_000_000_000);
        }
        Ok(Self {
            v4,
            v6,
            hasher: Hasher::new(setup.seed),
            config,
            counters: Counters {
                packets: host::counter("packets"),
                bytes: host::counter("bytes"),
                kinds: KINDS.map(host::counter),
                sizes: SIZES.map(|(_, name)| host::counter(name)),
                flows: host::gauge("flows"),
                evicted: host::gauge("flows_evicted"),
            },
            keys: vec![None; BURST],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = u32::try_from(burst.now() / 1_000_000_000).unwrap_or(u32::MAX);
        for i in 0..burst.len() {
            self.keys[i] = Plain::of(burst.data(i)).map(|plain| {
                let (key, _) = FlowV4::canonical(
                    (plain.source, plain.source_port),
                    (plain.destination, plain.destination_port),
                    plain.protocol,
                );
                let hash = self.hasher.hash(&key);
                self.v4.touch(hash);
                (key, hash, plain.tcp_flags)
            });
        }
        let mut sums = Sums::default();
        for i in 0..burst.len() {
            let frame = burst.data(i);
            sums.bytes += frame.len() as u64;
            sums.sizes[SIZES.partition_point(|(end, _)| *end < frame.len() + FCS)] += 1;
            let length = frame.len() as u32;
            match self.keys[i] {
                Some((key, hash, flags)) => {
                    let kind = if key.protocol() == protocol::TCP { Kind::Tcp } else { Kind::Udp };
                    sums.kinds[kind as usize] += 1;
                    self.v4.add(hash, key, Tally { length, flags, now });
                }
                None => self.any(frame, now, &mut sums),
            }
        }
        self.hand_over(burst.len(), &sums);
    }

    fn tick(&mut self, now: u64) {
        self.report();
        host::set_timer(now + self.config.report_every * 1_000_000_000);
    }
}

impl Monitor {
    fn any(&mut self, frame: &[u8], now: u32, sums: &mut Sums) {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            Err(why) => {
                let kind = if why == Unreadable::NotIp { Kind::NotIp } else { Kind::Malformed };
                sums.kinds[kind as usize] += 1;
                return;
            }
        };
        let kind = match headers.protocol {
            protocol::TCP => Kind::Tcp,
            protocol::UDP => Kind::Udp,
            protocol::ICMP | protocol::ICMPV6 => Kind::Icmp,
            _ => Kind::Other,
        };
        sums.kinds[kind as usize] += 1;
        sums.kinds[Kind::Fragments as usize] += u64::from(headers.fragment.is_some());
        let ports = (headers.source_port, headers.destination_port);
        let tally = Tally { length: frame.len() as u32, flags: headers.tcp_flags, now };
        match headers.addresses {
            Addresses::V4 { source, destination } => {
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (key, _) = FlowV4::canonical(from, to, headers.protocol);
                self.v4.add(self.hasher.hash(&key), key, tally);
            }
            Addresses::V6 { source, destination } => {
                sums.kinds[Kind::Ipv6 as usize] += 1;
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (key, _) = FlowV6::canonical(from, to, headers.protocol);
                self.v6.add(self.hasher.hash(&key), key, tally);
            }
        }
    }

    fn hand_over(&mut self, packets: usize, sums: &Sums) {
        self.counters.packets.add(packets as u64);
        self.counters.bytes.add(sums.bytes);
        let kinds = self.counters.kinds.iter().zip(sums.kinds);
        for (counter, n) in kinds.chain(self.counters.sizes.iter().zip(sums.sizes)) {
            if n > 0 {
                counter.add(n);
            }
        }
        self.counters.flows.set((self.v4.len() + self.v6.len()) as f64);
        self.counters.evicted.set((self.v4.evicted() + self.v6.evicted()) as f64);
    }

    /// Logs the flows with the most bytes.
    fn report(&self) {
        let mut lines: Vec<(u64, String)> = Vec::new();
        lines.extend(self.v4.top(self.config.top));
        lines.extend(self.v6.top(self.config.top));
        lines.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (_, line) in lines.into_iter().take(self.config.top) {
            host::info!("{line}");
        }
    }
}
