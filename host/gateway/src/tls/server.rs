//! What handshakes with clients go by: certificates by server name (RFC 6066 section 3).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Read, Trust, clients, expiry, pem, provider};
use crate::config::{Certificate, ClientCertificates, ListenerConfig, Protocol};
use crate::error::GatewayError;
use crate::observe::statistics::{CertificateStatus, Expiry};

/// What a listener's handshakes go by.
pub(crate) struct Served {
    pub(crate) config: Arc<ServerConfig>,
    /// Its certificates.
    pub(crate) status: Vec<CertificateStatus>,
    /// By which clients' certificates are taken, if any are asked for.
    pub(crate) trust: Option<Trust>,
    /// When what it says of those runs out.
    pub(crate) expiries: Vec<Expiry>,
}

/// A listener's certificates by name; a name for all of one label begins with `*.`.
#[derive(Debug)]
struct Names {
    names: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else { return Some(Arc::clone(&self.default)) };
        let name = name.to_ascii_lowercase();
        let found = self.names.get(&name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            self.names.get(&format!("*.{rest}"))
        });
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}

/// Reads the files of a listener; `None` if it speaks no TLS.
///
/// # Errors
/// Which file is no good, and why.
pub(crate) fn served(listener: &ListenerConfig) -> Result<Option<Read<Served>>, GatewayError> {
    let Some(first) = listener.certificates.first().cloned() else { return Ok(None) };
    let more = listener.certificates[1..].to_vec();
    let clients = listener.client_certificates.clone();
    let http = listener.protocol == Protocol::Http;
    let paths = paths(&listener.certificates, clients.as_ref());
    // What is stored of sessions is soon pushed out by other clients', tickets are not.
    let tickets = ring::Ticketer::new().map_err(|error| pem::broken(&first.certificate, error))?;
    let trusted = Arc::new(AtomicU64::new(0));
    let make = move || {
        let (names, status) = read(&first, &more)?;
        let (mut trust, mut expiries) = (None, Vec::new());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| pem::broken(&first.certificate, error))?;
        let builder = match &clients {
            Some(clients) => {
                let looked = clients::looked(clients)?;
                expiries = looked.expiries;
                trust = Some(Trust { mark: looked.mark, now: Arc::clone(&trusted) });
                builder.with_client_cert_verifier(looked.verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(names));
        if clients.is_some() {
            // Who resumes a session is not looked at again, whatever became of the certificate
            // since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Arc::clone(&tickets);
        }
        if http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        if let Some(trust) = &trust {
            // What follows cannot fail. Whoever comes by the files before in the meantime has their
            // mark, and goes with the next response.
            trusted.store(trust.mark, Ordering::Relaxed);
        }
        Ok(Served { config: Arc::new(config), status, trust, expiries })
    };
    Read::new(paths, make).map(Some)
}

fn paths(certificates: &[Certificate], clients: Option<&ClientCertificates>) -> Vec<PathBuf> {
    let own = certificates.iter().flat_map(|c| [&c.certificate, &c.key]);
    let of_clients = clients.into_iter();
    let of_clients = of_clients.flat_map(|c| [&c.authorities].into_iter().chain(&c.revoked));
    own.chain(of_clients).cloned().collect()
}

fn read(
    first: &Certificate,
    more: &[Certificate],
) -> Result<(Names, Vec<CertificateStatus>), GatewayError> {
    let (default, of_file) = read_one(first)?;
    let (mut names, mut status) = (HashMap::new(), Vec::new());
    let mut add = |key: Arc<CertifiedKey>, of_file: CertificateStatus| {
        for name in &of_file.names {
            names.entry(name.clone()).or_insert_with(|| Arc::clone(&key));
        }
        status.push(of_file);
    };
    add(Arc::clone(&default), of_file);
    for file in more {
        let (key, of_file) = read_one(file)?;
        add(key, of_file);
    }
    Ok((Names { names, default }, status))
}

fn read_one(file: &Certificate) -> Result<(Arc<CertifiedKey>, CertificateStatus), GatewayError> {
    let path = &file.certificate;
    let key = pem::key_pair(path, &file.key)?;
    let (_, certificate) = X509Certificate::from_der(&key.cert[0]).map_err(|error| {
        pem::broken(path, format!("the first certificate cannot be read: {error}"))
    })?;
    let expires = expiry::time(certificate.validity().not_after);
    let names = if file.names.is_empty() { names_of(&certificate) } else { file.names.clone() };
    let names = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    if expires < SystemTime::now() {
        tracing::warn!(file = %path.display(), "the certificate has expired; clients will refuse it");
    }
    Ok((Arc::new(key), CertificateStatus { file: path.clone(), names, expires }))
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}
