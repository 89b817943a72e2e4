//! TLS: the provider of cryptography, one for the whole crate, and the certificate of a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, ErrorKind, Result};

/// Makes ring the process's default unless the program has chosen another provider. Called before
/// a library is used that takes the default.
pub fn install_provider() {
    // It fails if there is a default already, which is then the choice of the embedding program.
    let _ = ring::default_provider().install_default();
}

/// The files of a server's certificate and key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Returns the configuration of a server that shows the certificate of `files`.
///
/// # Errors
///
/// `Configuration` if a file cannot be read, holds nothing of its kind, or the two do not fit,
/// naming the flag.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let TlsFiles { cert, key } = files;
    let certs: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| refused("--tls-cert", cert, &pem_cause(&error)))?;
    if certs.is_empty() {
        return Err(refused("--tls-cert", cert, "it holds no certificate in PEM"));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| refused("--tls-key", key, &pem_cause(&error)))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| refused("--tls-cert", cert, &error.to_string()))?;
    let config = builder.with_no_client_auth().with_single_cert(certs, private);
    let mut config = config.map_err(|error| {
        let why = format!("it does not fit --tls-cert {}: {error}", cert.display());
        refused("--tls-key", key, &why)
    })?;
    // A sender that never reads would close with the tickets unread, and its system makes a reset
    // of that: its last line would be dropped.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Returns the fault of a PEM file.
fn pem_cause(error: &PemError) -> String {
    match error {
        PemError::NoItemsFound => "it holds no private key in PEM".to_owned(),
        PemError::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Returns the error of a file that a flag names and that cannot be used.
fn refused(flag: &str, path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("cannot use {flag} {}: {why}", path.display()))
        .hint(format!("give a file in PEM to {flag}; it must be readable by this user"))
}
