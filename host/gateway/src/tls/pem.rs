//! PEM files: certificates, keys, authorities, lists of what was revoked.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{provider, why};
use crate::error::GatewayError;

/// A file is no good.
pub(super) fn broken(file: &Path, what: impl std::fmt::Display) -> GatewayError {
    GatewayError::Certificate { file: file.to_owned(), of_key: false, what: what.to_string() }
}

/// A file is no good as that of a private key.
fn no_key(file: &Path, what: impl std::fmt::Display) -> GatewayError {
    GatewayError::Certificate { file: file.to_owned(), of_key: true, what: what.to_string() }
}

/// A file is not there or may not be read, or it has nothing of what it should have.
fn unreadable(nothing: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        error => format!("{nothing} in PEM: {error}"),
    }
}

fn all<T: PemObject>(file: &Path, nothing: &str) -> Result<Vec<T>, GatewayError> {
    let all = T::pem_file_iter(file).and_then(Iterator::collect);
    all.map_err(|error| broken(file, unreadable(nothing, &error)))
}

/// A certificate, those that lead to its authority, and its key.
pub(super) fn key_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, GatewayError> {
    let chain: Vec<CertificateDer<'static>> = all(certificate, "no certificates")?;
    if chain.is_empty() {
        let what = "there is no certificate in it (PEM, BEGIN CERTIFICATE)";
        return Err(broken(certificate, what));
    }
    let der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| no_key(key, unreadable("no private key", &error)))?;
    CertifiedKey::from_der(chain, der, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = "it belongs to another certificate";
            no_key(key, format!("not the key of {}: {what}", certificate.display()))
        }
        rustls::Error::InvalidCertificate(error) => {
            broken(certificate, format!("the first certificate cannot be used: {}", why(&error)))
        }
        error => no_key(key, format!("the key cannot be used: {error}")),
    })
}

/// The authorities in a file.
pub(super) struct Authorities {
    pub(super) roots: RootCertStore,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Reads the authorities in a file.
pub(super) fn authorities(file: &Path) -> Result<Authorities, GatewayError> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = all(file, "no certificates")?;
    for authority in &certificates {
        roots.add(authority.clone()).map_err(|error| match error {
            rustls::Error::InvalidCertificate(error) => broken(file, why(&error)),
            error => broken(file, error),
        })?;
    }
    if roots.is_empty() {
        return Err(broken(file, "there is no authority in it (PEM, BEGIN CERTIFICATE)"));
    }
    Ok(Authorities { roots, certificates })
}

/// The lists of revoked certificates in a file.
pub(super) fn revoked(
    file: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, GatewayError> {
    let lists = all(file, "no lists")?;
    if lists.is_empty() {
        return Err(broken(file, "there is no list in it (PEM, BEGIN X509 CRL)"));
    }
    Ok(lists)
}
