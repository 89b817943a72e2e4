//! One sender of a listener: a plain or an encrypted connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::Result;
use crate::lines::StreamEnd;
use crate::sources::connect::take_available;
use crate::sources::log::SourceLog;
use crate::sources::stop_signal::Stop;
use crate::sources::tls_accept;

/// Most bytes that are decrypted at a time: a record of TLS.
const DECRYPTED_BYTES: usize = 16 << 10;

/// A sender that waits for its next bytes.
pub type WaitingSender = BoxFuture<'static, SenderTurn>;

/// A handshake under way.
pub type Shaking = BoxFuture<'static, Handshake>;

/// The end of a handshake.
pub struct Handshake {
    /// The address of the sender.
    pub from: SocketAddr,
    /// The connection, or why it came to nothing.
    pub stream: std::result::Result<Box<TlsStream<TcpStream>>, String>,
}

/// Starts the handshake of a connection, which may take `time_max`.
pub fn shake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    time_max: Duration,
) -> Shaking {
    let tls = tls.clone();
    async move { Handshake { from, stream: tls_accept::accept(&tls, stream, time_max).await } }
        .boxed()
}

/// A connection that stands.
pub struct ListenSender {
    /// Its connection in the source log.
    connection: u64,
    /// The address of the sender.
    from: SocketAddr,
    /// The connection.
    stream: SenderStream,
    /// Bytes of it that are in the log.
    logged: u64,
}

enum SenderStream {
    /// Bytes as they come.
    Plain(TcpStream),
    /// With bytes that are decrypted and not in the log.
    Tls { stream: Box<TlsStream<TcpStream>>, bytes: Vec<u8> },
}

/// The turn of a sender that has bytes or has ended, or that was asked to stop.
pub struct SenderTurn {
    /// The sender whose turn it is.
    sender: ListenSender,
    /// The event that the sender is ready for.
    ready: Ready,
}

/// The end of the wait of a sender.
enum Ready {
    /// A plain connection can be read.
    Readable,
    /// So many bytes were decrypted; none at the end.
    Decrypted(usize),
    /// The connection failed.
    Failed(io::Error),
    /// The job stops reading.
    Stopped,
}

impl ListenSender {
    /// Returns a sender without TLS.
    pub fn plain(connection: u64, stream: TcpStream, from: SocketAddr) -> ListenSender {
        ListenSender { connection, from, stream: SenderStream::Plain(stream), logged: 0 }
    }

    /// Returns a sender whose handshake has succeeded.
    pub fn tls(
        connection: u64,
        stream: Box<TlsStream<TcpStream>>,
        from: SocketAddr,
    ) -> ListenSender {
        ListenSender {
            connection,
            from,
            stream: SenderStream::Tls { stream, bytes: Vec::new() },
            logged: 0,
        }
    }

    /// Returns the id of the connection in the log.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Returns the address of the sender.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// Returns how many bytes of it wait in a log that lags.
    pub fn queued(&self, log: &SourceLog) -> u64 {
        if log.is_lagging() {
            self.logged.saturating_sub(log.split_bytes(self.connection))
        } else {
            0
        }
    }

    /// Waits for bytes or the stop.
    pub fn wait(mut self, stop: &Stop) -> WaitingSender {
        let stop = stop.clone();
        async move {
            let ready = match &mut self.stream {
                SenderStream::Plain(stream) => tokio::select! {
                    biased;
                    readable = stream.readable() => match readable {
                        Ok(()) => Ready::Readable,
                        Err(error) => Ready::Failed(error),
                    },
                    () = stop.stopped() => Ready::Stopped,
                },
                SenderStream::Tls { stream, bytes } => {
                    bytes.resize(DECRYPTED_BYTES, 0);
                    tokio::select! {
                        biased;
                        read = stream.read(bytes) => match read {
                            Ok(read) => Ready::Decrypted(read),
                            Err(error) => Ready::Failed(error),
                        },
                        () = stop.stopped() => Ready::Stopped,
                    }
                }
            };
            SenderTurn { sender: self, ready }
        }
        .boxed()
    }

    /// Reads the bytes that the kernel holds at this moment, and no more; returns how the
    /// connection ended. Where the journal is full, they stay unread.
    pub async fn drain(&mut self, log: &mut SourceLog) -> Result<StreamEnd> {
        match &mut self.stream {
            SenderStream::Plain(stream) => {
                crate::sources::connect::drain(stream, log, self.connection).await
            }
            SenderStream::Tls { stream, bytes } => {
                let held = rustix::io::ioctl_fionread(stream.get_ref().0).unwrap_or(0);
                // The session may hold decrypted bytes beside those in the kernel.
                let mut waiting = held + 2 * DECRYPTED_BYTES as u64;
                bytes.resize(DECRYPTED_BYTES, 0);
                // The runtime may not have learned yet that there are bytes: it would report none.
                if held > 0 && stream.get_ref().0.readable().await.is_err() {
                    return Ok(StreamEnd::Reset);
                }
                // Decrypted bytes are fewer than those that carried them.
                while waiting > 0 && !log.is_full() {
                    // Without a budget: the runtime would have it pause, as if nothing were there.
                    match unconstrained(stream.read(bytes)).now_or_never() {
                        Some(Ok(0)) => return Ok(StreamEnd::Fin),
                        Some(Ok(read)) => {
                            log.append(self.connection, &bytes[..read]).await?;
                            waiting = waiting.saturating_sub(read as u64);
                        }
                        Some(Err(error)) => return Ok(end_of(&error)),
                        None => break,
                    }
                }
                Ok(StreamEnd::Stop)
            }
        }
    }
}

impl SenderTurn {
    /// Reads what the sender has, at most one buffer; returns how it ended, if it has.
    pub async fn read(self, log: &mut SourceLog) -> Result<(ListenSender, Option<StreamEnd>)> {
        let SenderTurn { mut sender, ready } = self;
        let connection = sender.connection;
        let end = match (&sender.stream, ready) {
            (_, Ready::Failed(error)) => Some(end_of(&error)),
            (_, Ready::Decrypted(0)) => Some(StreamEnd::Fin),
            // A stop does not wait for room: what the kernel holds stays unread.
            (SenderStream::Plain(_), Ready::Readable)
                if log.stop().is_stopped() && log.is_full() =>
            {
                None
            }
            (SenderStream::Plain(stream), Ready::Readable) => {
                // Room is taken only when there is something to read: quiet senders hold none.
                log.ready(connection).await?;
                let (read, end) = take_available(stream, (log, connection), usize::MAX);
                log.hand_over(connection).await?;
                sender.logged += read as u64;
                end
            }
            (SenderStream::Tls { bytes, .. }, Ready::Decrypted(read)) => {
                log.append(connection, &bytes[..read]).await?;
                sender.logged += read as u64;
                None
            }
            _ => None,
        };
        Ok((sender, end))
    }
}

/// Returns how a connection ended that failed with `error`. Many senders close TLS without a notice
/// of its end; that is a FIN all the same.
fn end_of(error: &io::Error) -> StreamEnd {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamEnd::Fin,
        _ => StreamEnd::Reset,
    }
}
