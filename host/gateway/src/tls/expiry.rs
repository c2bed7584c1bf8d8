//! When what files say runs out: certificates, authorities, lists of what was revoked.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::{identity, pem};
use crate::error::GatewayError;
use crate::observe::statistics::{Expiry, ExpiryOf};

/// A time of a certificate or list.
pub(super) fn time(of: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(of.timestamp()).unwrap_or(0))
}

fn is_past(time: SystemTime) -> bool {
    time < SystemTime::now()
}

fn parsed<'a>(
    file: &Path,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, GatewayError> {
    let parsed = X509Certificate::from_der(certificate).map(|(_, certificate)| certificate);
    parsed.map_err(|error| pem::broken(file, format!("a certificate cannot be read: {error}")))
}

/// Of what the gateway shows an upstream, the first certificate of a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn of_own(
    file: &Path,
    certificate: &CertificateDer<'_>,
) -> Result<Expiry, GatewayError> {
    let at = time(parsed(file, certificate)?.validity().not_after);
    if is_past(at) {
        tracing::warn!(file = %file.display(), "the certificate has expired; the upstream will refuse it");
    }
    Ok(Expiry { of: ExpiryOf::Certificate, at })
}

/// Of a file's authorities, the first one that expires. What one signed that has expired is taken
/// all the same.
///
/// # Errors
/// One cannot be read.
pub(super) fn of_authorities(
    file: &Path,
    authorities: &[CertificateDer<'_>],
) -> Result<Option<Expiry>, GatewayError> {
    let mut first = None;
    for authority in authorities {
        let certificate = parsed(file, authority)?;
        let at = time(certificate.validity().not_after);
        if is_past(at) {
            let subject = identity::subject(certificate.subject());
            tracing::warn!(
                file = %file.display(), subject,
                "an authority has expired; what it signed is taken for as long as the file has it"
            );
        }
        first = Some(first.map_or(at, |first: SystemTime| first.min(at)));
    }
    Ok(first.map(|at| Expiry { of: ExpiryOf::Authorities, at }))
}

/// Of a file's lists, the first one that a newer one should have followed; none says when if there
/// is none. `enforced`: then clients are refused.
///
/// # Errors
/// One cannot be read.
pub(super) fn of_lists(
    file: &Path,
    lists: &[CertificateRevocationListDer<'_>],
    enforced: bool,
) -> Result<Option<Expiry>, GatewayError> {
    let mut first = None;
    for list in lists {
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|error| pem::broken(file, format!("a list cannot be read: {error}")))?;
        let Some(at) = list.next_update().map(time) else { continue };
        if is_past(at) {
            let (file, issuer) = (file.display(), identity::subject(list.issuer()));
            let since = humantime::format_rfc3339_seconds(at);
            if enforced {
                tracing::warn!(%file, issuer, %since, "a list of revoked certificates is out of date; clients are refused");
            } else {
                tracing::warn!(%file, issuer, %since, "a list of revoked certificates is out of date; what it says counts all the same");
            }
        }
        first = Some(first.map_or(at, |first: SystemTime| first.min(at)));
    }
    Ok(first.map(|at| Expiry { of: ExpiryOf::Revoked, at }))
}
