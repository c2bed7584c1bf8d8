//! Flow accounting: who talks to whom, how much.
//!
//! Owns: the table of flows, the histogram, reports. Must not know: policy; it decides nothing and
//! changes no byte.

mod flows;
mod period;

use std::mem;

use weir_sdk::BURST_MAX;
use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::{Addresses, Plain, Unreadable, parse, protocol};
use weir_sdk::prelude::*;

use flows::{Flows, Heaviest, Tally};
pub use period::Period;

#[cfg(test)]
mod tests;

weir_sdk::export!(Monitor);

/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;
/// The histogram's classes, by bytes of the frame with its check sequence (RFC 2819,
/// etherStatsPkts64Octets and following).
const SIZES: [&str; 7] = [
    "size_64",
    "size_65_127",
    "size_128_255",
    "size_256_511",
    "size_512_1023",
    "size_1024_1518",
    "size_jumbo",
];
const SECOND: u64 = 1_000_000_000;
/// Nanoseconds from one part of a report to the next, so that packets do not wait for all of it.
const REPORT_PAUSE: u64 = 500_000;
/// Most parts of a report at the last tick of all, which comes when a replay has ended, or this
/// version is no longer the running one; what they do not get to is for a successor's report.
const LAST_PARTS: usize = 64;
/// Bytes of the frame check sequence, which ports take away.
const FCS: usize = 4;

/// `[function.config]` of `monitor`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Flows with an entry, of either version of IP.
    pub max_flows: usize,
    /// Between reports; 0 for none.
    pub report_every: Period,
    /// Without a packet for so long a flow has ended.
    pub idle: Period,
    /// Flows in a report.
    pub top: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_flows: 65_536, report_every: Period(10), idle: Period(60), top: 10 }
    }
}

/// The function.
#[derive(Debug)]
pub struct Monitor {
    v4: Flows<FlowV4>,
    v6: Flows<FlowV6>,
    hasher: Hasher,
    swept: u64,
    /// When the next report is due, and how far the one at hand is.
    due: u64,
    looked: Looked,
    heaviest: (Heaviest<FlowV4>, Heaviest<FlowV6>),
    config: Config,
    counters: Counters,
    /// Of the burst at hand: what plain packets count for which flow, and where the flows' entries
    /// are.
    sights: Vec<Option<(FlowV4, Tally)>>,
    probes: Vec<Probe>,
}

/// Up to which slot of which table a report has got.
#[derive(Clone, Copy, Debug)]
enum Looked {
    V4(usize),
    V6(usize),
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
    expired: host::Gauge,
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
        if config.idle == Period(0) {
            return Err("config: idle: 0; allowed are 1 second and more".to_owned());
        }
        let mut region = setup.region();
        let too_many = |error: String| format!("max-flows: {error}");
        let v4 = Flows::new(&mut region, "flows-v4", config.max_flows, config.idle.0)
            .map_err(too_many)?;
        // IPv6 gets a quarter.
        let v6 = Flows::new(&mut region, "flows-v6", config.max_flows / 4, config.idle.0)
            .map_err(too_many)?;
        let due = host::now() + config.report_every.nanos();
        if config.report_every != Period(0) {
            host::set_timer(due);
        }
        let heaviest = (Heaviest::new(config.top), Heaviest::new(config.top));
        Ok(Self {
            v4,
            v6,
            hasher: Hasher::new(setup.seed),
            swept: 0,
            due,
            looked: Looked::V4(0),
            heaviest,
            config,
            counters: Counters {
                packets: host::counter("packets"),
                bytes: host::counter("bytes"),
                kinds: KINDS.map(host::counter),
                sizes: SIZES.map(host::counter),
                flows: host::gauge("flows"),
                evicted: host::gauge("flows_evicted"),
                expired: host::gauge("flows_expired"),
            },
            sights: vec![None; BURST_MAX],
            probes: vec![0.into(); BURST_MAX],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = u32::try_from(burst.now() / SECOND).unwrap_or(u32::MAX);
        let mut sums = Sums::default();
        // In registers, unlike what others get a reference to.
        let (mut bytes, mut plain, mut tcp) = (0, 0, 0);
        for ((frame, sight), probe) in burst.frames().zip(&mut self.sights).zip(&mut self.probes) {
            bytes += frame.len() as u64;
            sums.sizes[size_class(frame.len() + FCS)] += 1;
            *sight = Plain::of(frame).map(|packet| {
                let (key, _) = packet.flow.ordered();
                *probe = self.hasher.hash(&key).into();
                plain += 1;
                tcp += u64::from(key.protocol() == protocol::TCP);
                (key, Tally { length: frame.len() as u32, flags: packet.tcp_flags, now })
            });
        }
        sums.bytes = bytes;
        sums.kinds[Kind::Tcp as usize] = tcp;
        sums.kinds[Kind::Udp as usize] = plain - tcp;
        self.v4.look_ahead(&mut self.probes[..burst.len()]);
        // Taken out, so that no look at them waits for what is written to entries.
        let (sights, probes) = (mem::take(&mut self.sights), mem::take(&mut self.probes));
        let burst_of = (&sights[..burst.len()], &probes[..burst.len()]);
        for i in 0..burst.len() {
            match &burst_of.0[i] {
                Some((key, tally)) => self.v4.add(burst_of.1[i], key, *tally),
                None => self.any(burst.data(i), now, &mut sums),
            }
        }
        (self.sights, self.probes) = (sights, probes);
        if burst.now().wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = burst.now();
            self.v4.sweep(now);
            self.v6.sweep(now);
        }
        self.hand_over(burst.len(), &sums);
    }

    fn tick(&mut self, now: u64) {
        let last = now == u64::MAX;
        if !last && matches!(self.looked, Looked::V4(0)) {
            self.due = now + self.config.report_every.nanos();
        }
        let parts = if last { LAST_PARTS } else { 1 };
        if (0..parts).all(|_| self.look_on()) && !last {
            host::set_timer(now + REPORT_PAUSE);
            return;
        }
        self.log_heaviest();
        if !last {
            host::set_timer(self.due.max(now + 1));
        }
    }
}

impl Monitor {
    /// Makes a part of a report; whether there is more.
    fn look_on(&mut self) -> bool {
        let next = match self.looked {
            Looked::V4(from) => {
                let next = self.v4.report(from, &mut self.heaviest.0);
                Some(next.map_or(Looked::V6(0), Looked::V4))
            }
            Looked::V6(from) => self.v6.report(from, &mut self.heaviest.1).map(Looked::V6),
        };
        self.looked = next.unwrap_or(Looked::V4(0));
        next.is_some()
    }

    #[inline(never)]
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
        let vlans = headers.vlans(frame);
        let tally = Tally { length: frame.len() as u32, flags: headers.tcp_flags, now };
        match headers.addresses {
            Addresses::V4 { source, destination } => {
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (key, _) = FlowV4::canonical(from, to, headers.protocol);
                let key = key.within(vlans);
                self.v4.add(self.hasher.hash(&key).into(), &key, tally);
            }
            Addresses::V6 { source, destination } => {
                sums.kinds[Kind::Ipv6 as usize] += 1;
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (key, _) = FlowV6::canonical(from, to, headers.protocol);
                let key = key.within(vlans);
                self.v6.add(self.hasher.hash(&key).into(), &key, tally);
            }
        }
    }

    #[inline(never)]
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
        self.counters.expired.set((self.v4.expired() + self.v6.expired()) as f64);
    }

    /// Logs the flows with the most bytes since the last time.
    fn log_heaviest(&mut self) {
        let (v4, v6) = &mut self.heaviest;
        let mut talkers: Vec<_> = v4.take_lines().chain(v6.take_lines()).collect();
        talkers.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (_, line) in talkers.into_iter().take(self.config.top) {
            host::info!("{line}");
        }
    }
}

/// The place in [`SIZES`]: above 64 bytes the classes end below powers of two.
#[inline]
fn size_class(bytes: usize) -> usize {
    match bytes {
        0..=64 => 0,
        65..=1518 => bytes.ilog2() as usize - 5,
        _ => SIZES.len() - 1,
    }
}
