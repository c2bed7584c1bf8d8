//! TLS towards clients and upstreams: certificates by server name, read again when their files change.
//!
//! Owns: reading and checking PEM files, choosing a certificate (RFC 6066 section 3), exchanging all of them at once. A handshake sees either
//! the old ones or the new ones. Must not know: connections.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::{Certificate, Protocol, UpstreamConfig, UpstreamTls};
use crate::dial::Route;
use crate::error::GatewayError;
use crate::statistics::CertificateStatus;

/// All certificates of a listener.
#[derive(Debug)]
struct Table {
    /// By name; a name for all of one label begins with `*.`.
    names: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
    status: Vec<CertificateStatus>,
}

#[derive(Debug)]
struct Resolver(ArcSwap<Table>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let Some(name) = hello.server_name() else { return Some(Arc::clone(&table.default)) };
        let name = name.to_ascii_lowercase();
        let found = table.names.get(&name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            table.names.get(&format!("*.{rest}"))
        });
        Some(Arc::clone(found.unwrap_or(&table.default)))
    }
}

/// A listener's certificates and what handshakes need.
pub(crate) struct Certificates {
    files: Vec<Certificate>,
    resolver: Arc<Resolver>,
    pub(crate) config: Arc<ServerConfig>,
    /// When the files changed last, as of the last reading.
    changed: Mutex<Vec<Option<SystemTime>>>,
}

impl Certificates {
    /// Reads the files; `None` if there are none.
    ///
    /// # Errors
    /// Which file is no good, and why.
    pub(crate) fn new(
        files: &[Certificate],
        protocol: Protocol,
    ) -> Result<Option<Arc<Self>>, GatewayError> {
        let changed = Mutex::new(changes(files));
        let Some(table) = read(files)? else { return Ok(None) };
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(table)));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(Path::new("TLS"), error))?;
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        // What is stored is soon pushed out by other clients' sessions.
        config.ticketer = ring::Ticketer::new().map_err(|error| broken(Path::new("TLS"), error))?;
        if protocol == Protocol::Http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let (files, config) = (files.to_vec(), Arc::new(config));
        Ok(Some(Arc::new(Self { files, resolver, config, changed })))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// Which file is no good, and why; the certificates stay those they were.
    pub(crate) fn reload(&self) -> Result<(), GatewayError> {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changes(&self.files);
        if let Some(table) = read(&self.files)? {
            self.resolver.0.store(Arc::new(table));
        }
        Ok(())
    }

    /// Whether a file has changed since it was read.
    pub(crate) fn stale(&self) -> bool {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) != changes(&self.files)
    }

    pub(crate) fn status(&self) -> Vec<CertificateStatus> {
        self.resolver.0.load().status.clone()
    }
}

fn changes(files: &[Certificate]) -> Vec<Option<SystemTime>> {
    let changed = |file: &Path| std::fs::metadata(file).and_then(|meta| meta.modified()).ok();
    files.iter().flat_map(|c| [changed(&c.certificate), changed(&c.key)]).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn broken(file: &Path, what: impl std::fmt::Display) -> GatewayError {
    GatewayError::Certificate { file: file.to_owned(), what: what.to_string() }
}

/// A file is not there or may not be read, or it has nothing of what it should have.
fn unreadable(file: &Path, nothing: &str, error: &pem::Error) -> GatewayError {
    match error {
        pem::Error::Io(error) => broken(file, format!("cannot be read: {error}")),
        error => broken(file, format!("{nothing} in PEM: {error}")),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, GatewayError> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    all.map_err(|error| unreadable(file, "no certificates", &error))
}

fn read(files: &[Certificate]) -> Result<Option<Table>, GatewayError> {
    let (mut names, mut default, mut status) = (HashMap::new(), None, Vec::new());
    for file in files {
        let (key, of_file) = read_one(file)?;
        let key = Arc::new(key);
        for name in &of_file.names {
            names.entry(name.clone()).or_insert_with(|| Arc::clone(&key));
        }
        default.get_or_insert(key);
        status.push(of_file);
    }
    Ok(default.map(|default| Table { names, default, status }))
}

fn read_one(file: &Certificate) -> Result<(CertifiedKey, CertificateStatus), GatewayError> {
    let path = &file.certificate;
    let chain = certificates(path)?;
    let Some(first) = chain.first() else {
        return Err(broken(path, "there is no certificate in it (PEM, BEGIN CERTIFICATE)"));
    };
    let (_, certificate) = X509Certificate::from_der(first)
        .map_err(|error| broken(path, format!("the first certificate cannot be read: {error}")))?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let names = if file.names.is_empty() { names_of(&certificate) } else { file.names.clone() };
    let names = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let key = PrivateKeyDer::from_pem_file(&file.key)
        .map_err(|error| unreadable(&file.key, "no private key", &error))?;
    let key = CertifiedKey::from_der(chain.clone(), key, &provider()).map_err(|error| {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => "it belongs to another certificate".to_owned(),
            error => error.to_string(),
        };
        broken(&file.key, format!("not the key of {}: {why}", path.display()))
    })?;
    if expires < SystemTime::now() {
        tracing::warn!(file = %path.display(), "the certificate has expired; clients will refuse it");
    }
    Ok((key, CertificateStatus { file: path.clone(), names, expires }))
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}

/// How an upstream is reached.
///
/// # Errors
/// Its name is none, or the file of authorities is no good.
pub(crate) fn route(listener: &str, upstream: &UpstreamConfig) -> Result<Arc<Route>, GatewayError> {
    let tls = match &upstream.tls {
        Some(tls) => {
            let name = ServerName::try_from(tls.server_name.clone());
            let name = name.map_err(|error| GatewayError::Config {
                listener: listener.to_owned(),
                what: format!(
                    "upstream {}: server name {}: {error}",
                    upstream.address, tls.server_name
                ),
            })?;
            Some((client_config(tls, upstream.http2)?, name))
        }
        None => None,
    };
    Ok(Arc::new(Route { config: upstream.clone(), tls }))
}

fn client_config(tls: &UpstreamTls, http2: bool) -> Result<Arc<ClientConfig>, GatewayError> {
    let mut roots = RootCertStore::empty();
    let file = tls.authorities.as_deref();
    if let Some(path) = file {
        for authority in certificates(path)? {
            roots.add(authority).map_err(|error| broken(path, error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        let file = file.unwrap_or(Path::new("the system's certificates"));
        return Err(broken(file, "there is no authority in it; name a file of them"));
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(Path::new("TLS"), error))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(Arc::new(config))
}
