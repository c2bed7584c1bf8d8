//! What handshakes with upstreams go by.

use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use super::{Read, expiry, pem, provider};
use crate::config::{ListenerConfig, Protocol, UpstreamConfig, UpstreamTls};
use crate::error::GatewayError;
use crate::observe::statistics::Expiry;

/// TLS towards an upstream.
pub(crate) struct Towards {
    /// Who it must be.
    pub(crate) name: ServerName<'static>,
    pub(crate) files: Arc<Read<Shown>>,
}

/// What handshakes with an upstream go by.
pub(crate) struct Shown {
    pub(crate) config: Arc<ClientConfig>,
    /// When what the files say runs out.
    pub(crate) expiries: Vec<Expiry>,
}

/// Reads the files for an upstream of this listener.
///
/// # Errors
/// Its name is none, or a file is no good.
pub(crate) fn towards(
    listener: &ListenerConfig,
    upstream: &UpstreamConfig,
    tls: &UpstreamTls,
) -> Result<Towards, GatewayError> {
    let name = ServerName::try_from(tls.server_name.clone());
    let name = name.map_err(|error| GatewayError::Config {
        listener: listener.name.clone(),
        what: format!("upstream {}: server name {}: {error}", upstream.address, tls.server_name),
    })?;
    let own = tls.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
    let paths = tls.authorities.iter().chain(own).cloned().collect();
    let tls = tls.clone();
    // What a TCP connection carries, the gateway does not know.
    let protocol = (listener.protocol == Protocol::Http).then_some(match upstream.http2 {
        true => &b"h2"[..],
        false => b"http/1.1",
    });
    let files = Arc::new(Read::new(paths, move || read(&tls, protocol))?);
    Ok(Towards { name, files })
}

fn read(tls: &UpstreamTls, protocol: Option<&[u8]>) -> Result<Shown, GatewayError> {
    let mut expiries = Vec::new();
    let system = Path::new("the system's certificates");
    let roots = match &tls.authorities {
        Some(file) => {
            let authorities = pem::authorities(file)?;
            expiries.extend(expiry::of_authorities(file, &authorities.certificates)?);
            authorities.roots
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(pem::broken(
                    system,
                    "there is no authority in it; name a file of them",
                ));
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| pem::broken(tls.authorities.as_deref().unwrap_or(system), error))?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        Some(own) => {
            let key = pem::key_pair(&own.certificate, &own.key)?;
            expiries.push(expiry::of_own(&own.certificate, &key.cert[0])?);
            let own: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(key));
            builder.with_client_cert_resolver(own)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    Ok(Shown { config: Arc::new(config), expiries })
}
