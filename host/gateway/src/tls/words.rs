//! What rustls says of certificates, in words where it has only a name, and of alerts.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// Why a certificate is no good.
pub(crate) fn why(error: &CertificateError) -> String {
    let why = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not in force yet"
        }
        CertificateError::Revoked => "it is revoked",
        CertificateError::UnknownIssuer => "none of the authorities has signed it",
        CertificateError::UnknownRevocationStatus => "its authority has no list of revoked ones",
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "its authority's list of revoked ones is out of date"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for this purpose (extended key usage)"
        }
        // What is behind it has a name only.
        CertificateError::Other(other)
            if format!("{other:?}").contains("UnsupportedCertVersion") =>
        {
            "it is of X.509 version 1, which says nothing of what it is for: make one of version 3, with extensions \
             (`openssl x509 -req -extfile ...`)"
        }
        error => return error.to_string(),
    };
    why.to_owned()
}

/// How what rustls says of a peer's alert begins.
const ALERT: &str = "received fatal alert: ";

/// The alert with which a peer ended TLS, if it did. With TLS 1.3 it refuses a certificate behind
/// the handshake, when requests are under way.
pub(crate) fn alert(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_http2 = || error.downcast_ref::<h2::Error>()?.get_io();
        let text = error.downcast_ref::<io::Error>().or_else(of_http2).map(ToString::to_string);
        if let Some(text) = text.filter(|text| text.starts_with(ALERT)) {
            return Some(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        next = error.source();
    }
    None
}
