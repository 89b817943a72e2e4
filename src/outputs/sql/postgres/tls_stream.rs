//! TLS on a connection to PostgreSQL, with the binding of the login to it.
//!
//! The server proves in the login (SCRAM-SHA-256-PLUS) that it is the end of this TLS connection:
//! both hash its certificate. A host between the two that passes the login on has another one.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// The head of a sequence and of an object's name, in DER.
const SEQUENCE: u8 = 0x30;
const NAME: u8 = 0x06;

/// The names of RSA's signatures with a hash: 1.2.840.113549.1.1 and a number.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// The names of ECDSA's signatures with a hash of SHA-2: 1.2.840.10045.4.3 and a number.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// Begins TLS with this configuration; without one the driver does not ask for it.
#[derive(Clone, Debug)]
pub struct PostgresTls(pub Option<Arc<ClientConfig>>);

/// Begins TLS with the server of a name.
#[derive(Debug)]
pub struct NamedServer {
    config: Option<Arc<ClientConfig>>,
    host: String,
}

/// A connection with TLS.
#[derive(Debug)]
pub struct PostgresTlsStream(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for PostgresTls {
    type Stream = PostgresTlsStream;
    type TlsConnect = NamedServer;
    type Error = Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<NamedServer, Infallible> {
        Ok(NamedServer { config: self.0.clone(), host: host.to_owned() })
    }
}

impl TlsConnect<Socket> for NamedServer {
    type Stream = PostgresTlsStream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<PostgresTlsStream>>;

    fn connect(self, stream: Socket) -> Self::Future {
        async move {
            let Some(config) = self.config else { return Err(io::ErrorKind::Unsupported.into()) };
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
            let host = ServerName::try_from(self.host).map_err(invalid)?;
            Ok(PostgresTlsStream(TlsConnector::from(config).connect(host, stream).await?))
        }
        .boxed()
    }
}

impl TlsStream for PostgresTlsStream {
    /// Returns the hash of the server's certificate; nothing for a certificate whose signature has
    /// no hash of its own.
    fn channel_binding(&self) -> ChannelBinding {
        let (_, session) = self.0.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        match certificate.and_then(|der| certificate_hash(der)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.as_ref().to_vec()),
            None => ChannelBinding::none(),
        }
    }
}

/// Returns the hash of a certificate by which RFC 5929 names its server.
fn certificate_hash(der: &[u8]) -> Option<digest::Digest> {
    Some(digest::digest(binding_hash(signature_name(der)?)?, der))
}

/// Returns the hash of a signature. The hashes before SHA-256 are replaced by it, as RFC 5929 says.
fn binding_hash(signature: &[u8]) -> Option<&'static Algorithm> {
    let numbered = |names| signature.strip_prefix(names).and_then(|number: &[u8]| number.first());
    match (numbered(RSA), numbered(ECDSA)) {
        (Some(4 | 5 | 11), _) | (_, Some(2)) => Some(&SHA256),
        (Some(12), _) | (_, Some(3)) => Some(&SHA384),
        (Some(13), _) | (_, Some(4)) => Some(&SHA512),
        _ => None,
    }
}

/// Returns the name of the signature of a certificate: the first of the second of its three parts.
fn signature_name(der: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(SEQUENCE, der)?;
    let (_, after_content) = element(SEQUENCE, certificate)?;
    let (signature, _) = element(SEQUENCE, after_content)?;
    Some(element(NAME, signature)?.0)
}

/// Splits what is after the head of an element into its content and what follows it. Returns
/// nothing for another kind of element, and for one that is cut off.
fn element(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else { return None };
    if *found != kind {
        return None;
    }
    // Above 127 the length has its own length: as many bytes as the lower bits say.
    let (length, rest) = match length & 0x7f {
        short if *length < 0x80 => (usize::from(short), rest),
        bytes => {
            let (bytes, rest) = rest.split_at_checked(usize::from(bytes))?;
            let shift =
                |length: usize, byte: &u8| Some(length.checked_mul(256)? + usize::from(*byte));
            (bytes.iter().try_fold(0, shift)?, rest)
        }
    };
    rest.split_at_checked(length)
}

impl AsyncRead for PostgresTlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PostgresTlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an element with a length in as few bytes as it needs.
    fn der(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut element = vec![kind];
        match content.len() {
            short @ ..0x80 => element.push(short as u8),
            length @ ..0x100 => element.extend([0x81, length as u8]),
            length => element.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        element.extend_from_slice(content);
        element
    }

    /// Returns what is read of a certificate: content of `length` bytes, and the signature.
    fn certificate(length: usize, signature: &[u8]) -> Vec<u8> {
        let name = [der(NAME, signature), vec![5, 0]].concat();
        let parts = [der(SEQUENCE, &vec![7; length]), der(SEQUENCE, &name), der(3, &[0; 70])];
        der(SEQUENCE, &parts.concat())
    }

    #[test]
    fn certificate_hash_is_that_of_its_signature() {
        let named = |names: &[u8], number: u8| [names, &[number]].concat();
        let cases: [(&[u8], u8, Option<&Algorithm>); 9] = [
            (RSA, 4, Some(&SHA256)),
            (RSA, 5, Some(&SHA256)),
            (RSA, 11, Some(&SHA256)),
            (RSA, 12, Some(&SHA384)),
            (RSA, 13, Some(&SHA512)),
            (ECDSA, 2, Some(&SHA256)),
            (ECDSA, 3, Some(&SHA384)),
            (ECDSA, 4, Some(&SHA512)),
            // Ed25519 has no hash of its own.
            (&[0x2b, 0x65], 0x70, None),
        ];
        for (names, number, hash) in cases {
            for length in [5, 100, 200, 900] {
                let certificate = certificate(length, &named(names, number));
                let found = certificate_hash(&certificate);
                let expected = hash.map(|hash| digest::digest(hash, &certificate));
                assert_eq!(
                    found.as_ref().map(AsRef::as_ref),
                    expected.as_ref().map(<_ as AsRef<[u8]>>::as_ref),
                    "{names:x?} {number}, {length} bytes"
                );
            }
        }
    }

    #[test]
    fn certificate_that_is_cut_off_has_no_hash() {
        let whole = certificate(200, &[RSA, &[11]].concat());
        for end in 0..whole.len() {
            assert!(certificate_hash(&whole[..end]).is_none(), "{end}");
        }
    }
}
