//! TLS of connections to PostgreSQL, as the `sslmode` of libpq has it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// Returns a configuration that accepts certificates which the system or `ca_file` trusts, or, if
/// `verifies` is not set, every certificate.
///
/// # Errors
///
/// `Denied` if `ca_file` has no certificates.
pub fn client(verifies: bool, ca_file: Option<&Path>) -> StoreResult<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = if verifies {
        let roots = ca_file.map_or(Ok(Vec::new()), certificates)?;
        let verifier = Verifier::new_with_extra_roots(roots, provider);
        Arc::new(verifier.map_err(|error| refused(&error.to_string()))?)
    } else {
        Arc::new(AnyCertificate(provider))
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(builder.with_no_client_auth())
}

/// Reads the certificates of a PEM file.
fn certificates(path: &Path) -> StoreResult<Vec<CertificateDer<'static>>> {
    let failed =
        |error: String| refused(&format!("{} has no certificates: {error}", path.display()));
    let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    Ok(found)
}

/// Returns the error of TLS settings that cannot be used.
fn refused(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Denied, format!("TLS cannot be set up: {what}"))
        .hint("see --ca-file and ?sslmode= in --to")
}

/// Accepts every certificate, and checks the handshake's signatures only.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    /// Accepts the certificate: `sslmode=require` asks for encryption only, as in libpq.
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
