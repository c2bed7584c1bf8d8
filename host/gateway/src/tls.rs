//! TLS towards clients and upstreams, made of files that are read again when they change.
//!
//! Owns: reading and checking PEM files, what handshakes go by, exchanging all of it at once: a
//! handshake sees either the old files or the new ones. Must not know: connections.

mod clients;
mod expiry;
mod files;
mod identity;
mod pem;
mod server;
mod upstream;
mod words;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

pub(crate) use clients::{Trust, refused_subject};
pub(crate) use files::{FromFiles, Read};
pub(crate) use identity::told;
pub(crate) use server::{Served, served};
pub(crate) use upstream::{Towards, towards};
pub(crate) use words::{alert, why};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
