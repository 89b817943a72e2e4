//! A TCP source: connect, read until the connection ends, connect again.
//!
//! The kernel's buffer is read into the room of the splitter, without a copy in between. While the
//! journal is full nothing is read, and TCP slows the sender. The name is resolved for each
//! connection anew, because a restarted sender may have another address.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::dial::Dialer;
use super::host_port::HostPort;
use super::log::SourceLog;
use super::reconnect_pauses::ReconnectPauses;
use crate::error::Result;
use crate::lines::StreamEnd;

/// Reads from `address`: one connection with `once`, else one after the other until a stop.
///
/// # Errors
///
/// `Temporary` if the name does not resolve and never has, those of the journal.
pub async fn read(address: HostPort, once: bool, log: &mut SourceLog) -> Result<()> {
    let stop = log.stop().clone();
    let mut pauses = ReconnectPauses::new(address.to_string(), Arc::clone(log.meter()));
    let mut dialer = Dialer::new(address);
    loop {
        let connecting = async {
            tokio::select! {
                biased; // a connection that stands when the stop comes may hold lines already
                connected = dialer.connect(&mut pauses) => connected.map(Some),
                () = stop.stopped() => Ok(None),
            }
        };
        let Some(connected) = log.serve_during(connecting).await?? else { break };
        pauses.opened();
        let connection = log.open_connection();
        let end = receive(&connected, (log, connection), &mut pauses).await?;
        drop(connected);
        log.end_connection(connection, end)?;
        if end == StreamEnd::Stop {
            break;
        }
        pauses.ended(end, once);
        if once {
            break;
        }
        // A source that closed is not asked again at once: it may do nothing else.
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(pauses.next_pause()) => false,
                () = stop.stopped() => true,
            }
        };
        if log.serve_during(pause).await? {
            break;
        }
    }
    log.finish().await
}

/// The events that wake a connection.
enum ConnectWake {
    /// The job stops reading.
    Stop,
    /// The socket has bytes, or has failed.
    Readable(io::Result<()>),
    /// It has stood for long enough.
    Lasting,
}

/// Reads until the stream ends or a stop is asked for; then what had already arrived here is read
/// too, so that a stop loses nothing that the sender saw accepted. Returns how the stream ended.
///
/// Fails with `Disk` if the journal fails.
async fn receive(
    stream: &TcpStream,
    (log, connection): (&mut SourceLog, u64),
    pauses: &mut ReconnectPauses,
) -> Result<StreamEnd> {
    let stop = log.stop().clone();
    loop {
        // Room is taken only when there is something to read: quiet sources must not hold it all.
        let readable = async {
            tokio::select! {
                biased;
                () = stop.stopped() => ConnectWake::Stop,
                readable = stream.readable() => ConnectWake::Readable(readable),
                () = pauses.lasting() => ConnectWake::Lasting,
            }
        };
        match log.serve_during(readable).await? {
            ConnectWake::Stop => return drain(stream, log, connection).await,
            ConnectWake::Readable(Err(_)) => return Ok(StreamEnd::Reset),
            ConnectWake::Readable(Ok(())) => log.ready(connection).await?,
            ConnectWake::Lasting => {
                pauses.proven();
                continue;
            }
        }
        if stop.is_stopped() {
            continue; // it may have come while the journal was full
        }
        let (bytes, end) = take_available(stream, (log, connection), usize::MAX);
        if bytes > 0 {
            pauses.proven();
        }
        log.hand_over(connection).await?;
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Reads the bytes that the kernel holds at this moment, and no more: a sender that goes on sending
/// must not put off the stop for ever. Where the journal is full, they stay unread.
pub async fn drain(stream: &TcpStream, log: &mut SourceLog, connection: u64) -> Result<StreamEnd> {
    let mut waiting = rustix::io::ioctl_fionread(stream).unwrap_or(0) as usize;
    while waiting > 0 && !log.is_full() {
        log.ready(connection).await?;
        // The runtime may not have learned yet that there are bytes: it would report none.
        if stream.readable().await.is_err() {
            return Ok(StreamEnd::Reset);
        }
        let (read, end) = take_available(stream, (log, connection), waiting);
        log.hand_over(connection).await?;
        match end {
            Some(end) => return Ok(end),
            None if read == 0 => break,
            None => waiting -= read,
        }
    }
    Ok(StreamEnd::Stop)
}

/// Reads without waiting until the buffer is full, `most` bytes are read, or there is nothing more.
/// Returns the number of bytes, and the end of the stream if it has come.
pub fn take_available(
    stream: &TcpStream,
    (log, connection): (&mut SourceLog, u64),
    most: usize,
) -> (usize, Option<StreamEnd>) {
    let mut total = 0;
    while total < most {
        let spare = log.spare(connection);
        if spare.is_empty() {
            break;
        }
        let room = spare.len().min(most - total);
        match stream.try_read(&mut spare[..room]) {
            Ok(0) => return (total, Some(StreamEnd::Fin)),
            Ok(bytes) => {
                log.filled(connection, bytes);
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
