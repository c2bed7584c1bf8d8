//! Which clients' certificates are taken.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{pem, provider};
use crate::config::ClientCertificates;
use crate::error::GatewayError;

/// Looks at clients' certificates: signed by one of the authorities for clients (RFC 5280 section 4.2.1.12), in force, not revoked.
///
/// # Errors
/// Which file is no good, and why.
pub(super) fn verifier(
    clients: &ClientCertificates,
) -> Result<Arc<dyn ClientCertVerifier>, GatewayError> {
    let roots = Arc::new(pem::authorities(&clients.authorities)?);
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(file) = &clients.revoked {
        verifier = verifier.with_crls(pem::revoked(file)?);
    }
    if !clients.required {
        verifier = verifier.allow_unauthenticated();
    }
    let file = clients.revoked.as_ref().unwrap_or(&clients.authorities);
    verifier.build().map_err(|error| pem::broken(file, error))
}
