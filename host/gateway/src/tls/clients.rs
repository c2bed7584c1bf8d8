//! Which clients' certificates are taken, and what is said of those that are not.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{expiry, identity, pem, provider};
use crate::config::ClientCertificates;
use crate::error::GatewayError;
use crate::observe::statistics::Expiry;

/// Bytes of a subject that are told.
const SUBJECT_MAX: usize = 256;

/// What clients' certificates are looked at with.
pub(super) struct Looked {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// The same for the same authorities and lists.
    pub(super) mark: u64,
    pub(super) expiries: Vec<Expiry>,
}

/// By which authorities and lists a client's certificate was taken.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(super) mark: u64,
    /// The mark of those that are in force.
    pub(super) now: Arc<AtomicU64>,
}

impl Trust {
    /// The mark of those that it was taken by.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// The mark of those that are in force.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
}

/// Looks at clients' certificates: signed by one of the authorities for clients (RFC 5280 section
/// 4.2.1.12), in force, not revoked.
///
/// # Errors
/// Which file is no good, and why.
pub(super) fn looked(clients: &ClientCertificates) -> Result<Looked, GatewayError> {
    let authorities = pem::authorities(&clients.authorities)?;
    let mut digest = Sha256::new();
    authorities.certificates.iter().for_each(|authority| digest.update(authority));
    let mut expiries = Vec::new();
    expiries.extend(expiry::of_authorities(&clients.authorities, &authorities.certificates)?);
    let roots = Arc::new(authorities.roots);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(file) = &clients.revoked {
        let lists = pem::revoked(file)?;
        lists.iter().for_each(|list| digest.update(list));
        expiries.extend(expiry::of_lists(file, &lists, clients.enforce_next_update)?);
        builder = builder.with_crls(lists);
        if clients.enforce_next_update {
            builder = builder.enforce_revocation_expiration();
        }
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    let file = clients.revoked.as_ref().unwrap_or(&clients.authorities);
    let verifier = builder.build().map_err(|error| pem::broken(file, error))?;
    let digest: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let mark = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    Ok(Looked { verifier: Arc::new(Noting(verifier)), mark, expiries })
}

thread_local! {
    /// The subject of a certificate that was refused.
    static REFUSED: Cell<Option<String>> = const { Cell::new(None) };
}

/// The subject of the certificate that was refused on this thread since this was asked last.
pub(crate) fn refused_subject() -> Option<String> {
    REFUSED.take()
}

/// A verifier, and a note of the subject of what it refuses: the error alone comes out of the
/// handshake.
#[derive(Debug)]
struct Noting(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Noting {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        if verified.is_err() {
            let parsed = X509Certificate::from_der(end_entity).ok();
            let subject = parsed.map(|(_, certificate)| identity::subject(certificate.subject()));
            REFUSED.set(subject.map(|mut subject| {
                subject.truncate(subject.floor_char_boundary(SUBJECT_MAX));
                subject
            }));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}
