//! What keeps a gateway or a listener from starting.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a gateway did not do what it was told. Nothing was changed, unless it is
/// [`GatewayError::Partly`].
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The configuration contradicts itself.
    #[error("listener {listener}: {what}")]
    Config {
        /// Its name.
        listener: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// An address cannot be listened at.
    #[error("listener {listener}: cannot listen at {address}: {error}")]
    Listen {
        /// Its name.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// A file of certificates or keys is no good.
    #[error("{}: {what}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// It is named as the file of a private key.
        of_key: bool,
        /// What is wrong with it.
        what: String,
    },
    /// The chain was not made.
    #[error("listener {listener}: chain: {what}")]
    Chain {
        /// The listener's name.
        listener: String,
        /// What the chain's maker said.
        what: String,
    },
    /// A thread does not follow what was changed, and others may do so already.
    #[error("listener {listener}: a gateway thread does not follow: {what}")]
    Partly {
        /// The listener's name.
        listener: String,
        /// What keeps it from that.
        what: String,
    },
    /// There is no listener of this name.
    #[error("there is no listener {0}")]
    Unknown(String),
    /// A thread could not be started.
    #[error("gateway thread: {0}")]
    Thread(io::Error),
}
