//! A TCP source: connect, read until it ends, connect again.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::HostPort;
use super::intake::Intake;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;

/// First pause between two tries to connect; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A name that does not resolve is most likely misspelt: after so many tries the run ends.
const RESOLVE_TRIES: u32 = 4;

/// Reads from `address`: once, or again and again until told to stop.
pub(super) async fn read(address: HostPort, once: bool, mut intake: Intake) -> Result<()> {
    let stop = intake.stop().clone();
    let mut told = false;
    loop {
        let connecting = async {
            tokio::select! {
                biased; // a connection that stands when the stop comes may hold lines already
                connected = connect(&address, &mut told) => connected.map(Some),
                () = stop.stopped() => Ok(None),
            }
        };
        let Some(connected) = intake.alongside(connecting).await?? else { break };
        tracing::info!("connected to {address}");
        told = false;
        let end = receive(&connected, &mut intake).await?;
        drop(connected);
        intake.end(end)?;
        match end {
            StreamEnd::Stop => break,
            StreamEnd::Reset => tracing::warn!("{address} reset the connection"),
            _ if once => tracing::info!("{address} closed the connection"),
            _ => tracing::info!("{address} closed the connection; connecting again"),
        }
        if once {
            break;
        }
        // Even a source that closes at once is asked only so often.
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(PAUSE_MIN) => false,
                () = stop.stopped() => true,
            }
        };
        if intake.alongside(pause).await? {
            break;
        }
    }
    intake.finish().await
}

/// Tries until it is connected; fails only when the name does not resolve.
async fn connect(address: &HostPort, told: &mut bool) -> Result<TcpStream> {
    let mut pause = PAUSE_MIN;
    let mut unresolved = 0;
    loop {
        let HostPort { host, port } = address;
        match tokio::net::lookup_host((host.as_str(), *port)).await {
            Err(cause) => {
                unresolved += 1;
                if unresolved == RESOLVE_TRIES {
                    let message = format!("host {host:?} does not resolve: {cause}");
                    let hint = "check the name given to --connect";
                    return Err(Error::new(ErrorKind::Temporary, message).hint(hint));
                }
            }
            Ok(addresses) => match connect_any(addresses).await {
                Ok(stream) => return Ok(stream),
                Err(cause) => {
                    if !std::mem::replace(told, true) {
                        tracing::warn!(
                            "cannot connect to {address}: {cause}; trying until it answers \
                             (to serve lines there: nc -lk {port})"
                        );
                    }
                }
            },
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

async fn connect_any(
    addresses: impl Iterator<Item = std::net::SocketAddr>,
) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                keep_alive(&stream);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A source whose host is gone without a word is noticed in a minute.
fn keep_alive(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no keepalive on the source's socket");
    }
}

/// Reads until the stream ends or a stop is asked for; then what had already arrived here is read
/// too, so that a stop loses nothing that the sender saw accepted.
async fn receive(stream: &TcpStream, intake: &mut Intake) -> Result<StreamEnd> {
    let stop = intake.stop().clone();
    loop {
        // Room is taken only when there is something to read: quiet sources must not hold it all.
        let readable = async {
            tokio::select! {
                biased;
                () = stop.stopped() => None,
                readable = stream.readable() => Some(readable),
            }
        };
        match intake.alongside(readable).await? {
            None => return drain(stream, intake).await,
            Some(Err(_)) => return Ok(StreamEnd::Reset),
            Some(Ok(())) => intake.ready().await?,
        }
        if stop.is_stopped() {
            continue; // it may have come while the journal was full
        }
        let end = take_available(stream, intake, usize::MAX).1;
        intake.hand_over().await?;
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Reads the bytes that the kernel holds at this moment, and no more: a sender that goes on sending
/// must not put off the stop for ever. Where the journal is full, they stay unread.
async fn drain(stream: &TcpStream, intake: &mut Intake) -> Result<StreamEnd> {
    let mut waiting = rustix::io::ioctl_fionread(stream).unwrap_or(0) as usize;
    while waiting > 0 && !intake.is_full() {
        intake.ready().await?;
        let (read, end) = take_available(stream, intake, waiting);
        intake.hand_over().await?;
        match end {
            Some(end) => return Ok(end),
            None if read == 0 => break,
            None => waiting -= read,
        }
    }
    Ok(StreamEnd::Stop)
}

/// Reads without waiting until the buffer is full, `most` bytes are read, or there is nothing more.
fn take_available(
    stream: &TcpStream,
    intake: &mut Intake,
    most: usize,
) -> (usize, Option<StreamEnd>) {
    let mut total = 0;
    while total < most {
        let spare = intake.spare();
        if spare.is_empty() {
            break;
        }
        let room = spare.len().min(most - total);
        match stream.try_read(&mut spare[..room]) {
            Ok(0) => return (total, Some(StreamEnd::Fin)),
            Ok(bytes) => {
                intake.filled(bytes);
                total += bytes;
                if bytes == room {
                    break; // the buffer is full: hand it over before the next read
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (total, Some(StreamEnd::Reset)),
        }
    }
    (total, None)
}
