//! TLS of connections to brokers, and the files that settings of the client name.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};

/// Largest file with a password, a key or certificates.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The certificates that a TLS connection is made with.
#[derive(Clone)]
pub struct TlsSettings(Arc<ClientConfig>);

impl TlsSettings {
    /// Trusts the certificates in the file `ca`, or those of the system without one, and shows
    /// `own`: the files of the client's chain and of its key.
    ///
    /// Fails with `Configuration`, naming the key, if a file cannot be used.
    pub fn of_files(ca: Option<&str>, own: Option<(&str, &str)>) -> Result<TlsSettings> {
        let failed = |error: rustls::Error| {
            Error::new(ErrorKind::Configuration, format!("cannot set up TLS for Kafka: {error}"))
                .hint("see --kafka-config ssl.ca.location, ssl.certificate.location")
                .cause(error)
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let builder = match ca {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("ssl.ca.location", file)? {
                    roots.add(certificate).map_err(failed)?;
                }
                builder.with_root_certificates(roots)
            }
            None => {
                let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(failed)?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match own {
            Some((chain, key)) => {
                let chain = certificates("ssl.certificate.location", chain)?;
                let text = read("ssl.key.location", key)?;
                let key = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|_| unreadable("ssl.key.location", key, "it holds no key in PEM"))?;
                builder.with_client_auth_cert(chain, key).map_err(failed)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(TlsSettings(Arc::new(config)))
    }

    /// Returns what makes TLS connections with these settings.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSettings")
    }
}

/// Reads a file that a setting names.
///
/// Fails with `Configuration`, naming the key, if it cannot be read or is larger than 4 MiB.
pub fn read(key: &str, path: &str) -> Result<Vec<u8>> {
    let length = fs::metadata(Path::new(path)).map(|found| found.len());
    match length {
        Ok(bytes) if bytes > FILE_BYTES_MAX => Err(unreadable(key, path, "it is too large")),
        Ok(_) => fs::read(path).map_err(|error| unreadable(key, path, &error.to_string())),
        Err(error) => Err(unreadable(key, path, &error.to_string())),
    }
}

/// Reads the certificates in a PEM file.
///
/// Fails with `Configuration`, naming `key`, if there is none.
fn certificates(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(key, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(key, path, &error.to_string()))?;
    if found.is_empty() {
        return Err(unreadable(key, path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

/// Returns the error of a file that a key names and that cannot be used.
pub fn unreadable(key: &str, path: &str, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("cannot use {path}: {why}"))
        .hint(format!("check --kafka-config {key}"))
}
