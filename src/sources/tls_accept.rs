//! The handshake of a sender that connects by TLS.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Does the handshake on `stream`, which may take `time_max`. Fails with the cause as text.
pub async fn accept(
    tls: &TlsAcceptor,
    stream: TcpStream,
    time_max: Duration,
) -> Result<Box<TlsStream<TcpStream>>, String> {
    match tokio::time::timeout(time_max, tls.accept(stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no handshake within {time_max:?}")),
    }
}
