//! The port in a build without DPDK: it cannot be opened.

use weir_pool::{Packet, Pool};
use weir_port::{Port, PortError, PortStatistics, Received};

use crate::DpdkConfig;

/// Why there is no such port, and what to do.
pub(crate) const ABSENT: &str = "this host was built without DPDK (libdpdk was not found by pkg-config when it was \
                                 built): install libdpdk-dev and pkg-config, and build it again";

/// A port of a kind that this build does not have.
#[derive(Debug)]
pub enum DpdkPort {}

impl DpdkPort {
    /// Says why not.
    ///
    /// # Errors
    /// Always.
    pub fn open(name: &str, _: &DpdkConfig) -> Result<Self, PortError> {
        Err(PortError::Configuration { port: name.to_owned(), problem: ABSENT.to_owned() })
    }

    /// There is none to divide.
    #[must_use]
    pub fn divided(self, _: usize) -> Vec<Self> {
        match self {}
    }
}

impl Port for DpdkPort {
    fn name(&self) -> &str {
        match *self {}
    }

    fn kind(&self) -> &'static str {
        match *self {}
    }

    fn receive(
        &mut self,
        _: &mut Pool,
        _: &mut Vec<Packet>,
        _: usize,
    ) -> Result<Received, PortError> {
        match *self {}
    }

    fn send(&mut self, _: &mut Pool, _: &mut Vec<Packet>) -> Result<(), PortError> {
        match *self {}
    }

    fn finish(&mut self, _: &mut Pool) -> Result<(), PortError> {
        match *self {}
    }

    fn statistics(&self) -> &PortStatistics {
        match *self {}
    }
}
