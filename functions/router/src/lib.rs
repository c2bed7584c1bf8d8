//! A router for IPv4 (RFC 1812) and IPv6 (RFC 8200).
//!
//! Owns: taking packets from a burst to their hop, or to whoever deals with those that do not go
//! on. Must not know: how routes and neighbours were learnt. `forward` decides, `icmp` tells
//! senders, `local` answers for the router's own addresses.

mod config;
mod forward;
mod icmp;
mod local;

use weir_sdk::BURST_MAX;
use weir_sdk::prelude::*;

use config::Routes;
pub use config::{AddressConfig, Config, HopConfig, NeighbourConfig, RouteConfig};
use forward::{Found, Stop, UNSEEN};
use icmp::Errors;

#[cfg(test)]
mod tests;

weir_sdk::export!(Router);

/// Reasons for drops, as counted by the host (`router:NUMBER`).
pub mod reason {
    /// A header contradicts itself, or its checksum is wrong.
    pub const MALFORMED: u32 = 1;
    /// No prefix matches.
    pub const NO_ROUTE: u32 = 2;
    /// TTL or hop limit has run out.
    pub const EXPIRED: u32 = 3;
    /// From or for an address that is not forwarded, or carried by the link to many.
    pub const MARTIAN: u32 = 4;
    /// Larger than the hop's MTU.
    pub const TOO_BIG: u32 = 5;
    /// Neither IP nor ARP.
    pub const NOT_IP: u32 = 6;
    /// A source route.
    pub const SOURCE_ROUTE: u32 = 7;
    /// ARP or neighbour discovery about somebody else.
    pub const NOT_OURS: u32 = 8;
    /// Answered with a packet of our own.
    pub const ANSWERED: u32 = 9;
}

/// The function.
#[derive(Debug)]
pub struct Router {
    routes: Routes,
    errors: Errors,
    forwarded: host::Counter,
    local: host::Counter,
    /// Of the burst at hand.
    found: [Found; BURST_MAX],
}

impl Function for Router {
    type Config = Config;

    fn configure(setup: Setup, config: Config) -> Result<Self, String> {
        Ok(Self {
            routes: config.compile(&setup)?,
            errors: Errors::new(setup.seed, config.error_rates()?)?,
            forwarded: host::counter("forwarded"),
            local: host::counter("local"),
            found: [UNSEEN; BURST_MAX],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        for (found, frame) in self.found.iter_mut().zip(burst.frames()) {
            *found = forward::find(&self.routes, frame);
        }
        let now = burst.now();
        let mut forwarded = 0;
        for i in 0..burst.len() {
            let mut packet = burst.packet(i);
            let frame = packet.data_mut();
            let verdict = match forward::forward(&self.routes, frame, self.found[i]) {
                Ok(hop) => {
                    let hop = &self.routes.hops[hop];
                    frame[..12].copy_from_slice(&hop.macs);
                    forwarded += 1;
                    match hop.port {
                        Some(port) => Verdict::Forward(port),
                        None => continue,
                    }
                }
                Err(Stop::Drop(reason)) => Verdict::Drop(reason),
                Err(Stop::Tell { reason, problem, l3 }) => {
                    self.errors.tell(&packet, l3, problem, &self.routes.addresses, now);
                    Verdict::Drop(reason)
                }
                Err(Stop::Local { kind, l3 }) => {
                    self.local.add(1);
                    local::receive(&mut packet, kind, l3, &self.routes.addresses)
                }
            };
            packet.set_verdict(verdict);
        }
        if forwarded > 0 {
            self.forwarded.add(forwarded);
        }
    }
}
