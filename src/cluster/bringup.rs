//! The start of a cluster: from addresses to sockets, within `start_timeout`.
//!
//! Names are resolved and the own address is bound before any connection is made, so a wrong
//! address or a taken port is reported at once. Then each process connects to the lower indices and
//! accepts the higher ones, three connections for each pair, in any order.
//!
//! A process may die while others are still starting. So each connection is watched until the
//! cluster is complete; one that closes frees its index for the next attempt of that process. A
//! process that has all its links sends READY on each control link and returns when it has received
//! READY on each. From then on, a process that dies is a lost peer.

use std::future::Future;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::addresses;
use super::handshake::{Handshakes, ProvenLink, StartEvent, dial, listen};
use super::handshake_messages::{Each, Incarnation, Purpose};
use super::loss_cause::seconds;
use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind, Result};

/// The byte that a process sends on a control link when it has all its links.
const READY: u8 = b'R';
/// Idle time of a data link after which the kernel sends a keepalive probe.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Limit of events that wait for the loop of the bring-up.
const EVENTS_MAX: usize = 64;

/// The sockets to each process in order of index: `None` for this one.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Timely's data links.
    pub data: Vec<Option<TcpStream>>,
    /// The control links.
    pub control: Vec<Option<TcpStream>>,
    /// The links for blocks of lines.
    pub blocks: Vec<Option<TcpStream>>,
    /// True if all processes run on one host. Each process has received the host of every other, so
    /// all have the same answer.
    pub is_one_host: bool,
}

impl Sockets {
    /// Returns the sockets of a single process: none.
    pub fn none() -> Sockets {
        Sockets { is_one_host: true, ..Sockets::default() }
    }
}

/// A link that is up and watched. Its peer and purpose are its place in the table.
#[derive(Debug)]
struct LiveLink {
    /// The connection, over which the handshake has succeeded.
    stream: TcpStream,
    /// The number of the link in this bring-up.
    serial: u64,
    /// The run of the process at the other end.
    incarnation: Incarnation,
    /// True if READY was received on this control link; always true for the other links.
    ready: bool,
    /// True if READY was sent on this control link; always true for the other links.
    is_announced: bool,
}

/// Brings the cluster up; returns `None` if `cancel` completes first.
///
/// Fails as [`connect`](super::connect).
pub async fn bring_up(
    settings: &ClusterSettings,
    cancel: impl Future<Output = ()>,
) -> Result<Option<Sockets>> {
    let deadline = tokio::time::Instant::now() + settings.start_timeout;
    let work = async {
        let listeners = addresses::prepare(settings, deadline).await?;
        collect(settings, listeners, deadline).await
    };
    tokio::select! {
        biased;
        () = cancel => Ok(None),
        result = work => result.map(Some),
    }
}

/// Connects, accepts and watches links until all processes are ready, or until `deadline`.
///
/// One loop handles the events of all tasks, so the table of links has one owner. A link that ends
/// frees its index; if this process was the connector, it connects again.
///
/// Fails with `PeerLost` at the deadline, and with the first error that no retry can mend.
async fn collect(
    settings: &ClusterSettings,
    listeners: Vec<TcpListener>,
    deadline: tokio::time::Instant,
) -> Result<Sockets> {
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let handshakes = Arc::new(Handshakes::new(settings, events)?);
    // Every return drops the set, which aborts its tasks and closes the listeners.
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(listen(Arc::clone(&handshakes), listener));
    }
    for peer in 0..settings.process {
        for purpose in Purpose::ALL {
            tasks.spawn(dial(Arc::clone(&handshakes), peer, purpose));
        }
    }
    let mut held: Vec<Each<Option<LiveLink>>> =
        (0..settings.processes).map(|_| Each::default()).collect();
    while !all_ready(settings, &mut held) {
        let event = tokio::select! {
            event = inbox.recv() => event,
            () = tokio::time::sleep_until(deadline) => None,
        };
        match event {
            None => return Err(missing(settings, &handshakes, &held)),
            Some(StartEvent::Fatal(error)) => return Err(error),
            Some(StartEvent::Up(link)) => {
                let watched = hold(settings, *link, &mut held);
                let (serial, purpose, stream) = watched.map_err(lost_socket)?;
                tasks.spawn(watch(Arc::clone(&handshakes), serial, purpose, stream));
            }
            Some(StartEvent::Down(serial)) => {
                handshakes.release(serial);
                if let Some((peer, purpose)) = let_go(&mut held, serial) {
                    tracing::info!("process {peer} went away before the cluster was complete");
                    if peer < settings.process {
                        tasks.spawn(dial(Arc::clone(&handshakes), peer, purpose));
                    }
                }
            }
            Some(StartEvent::Ready(serial)) => {
                // The link may have ended since. Then there is nothing to mark.
                let found = held.iter_mut().flatten().flatten().find(|h| h.serial == serial);
                found.into_iter().for_each(|held| held.ready = true);
            }
        }
    }
    let (refused, unlogged) = handshakes.refusals();
    if unlogged > 0 {
        tracing::warn!("connections to the cluster port refused during the start: {refused}");
    }
    tasks.shutdown().await;
    into_sockets(held, handshakes.incarnation.host).map_err(lost_socket)
}

/// Returns the error for a socket that cannot be set up.
fn lost_socket(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot set up a cluster socket: {cause}")).cause(cause)
}

/// Adds a link to `held`. Returns its serial, its purpose and a second handle, for [`watch`].
///
/// Fails if a socket option cannot be set or the socket cannot be cloned.
fn hold(
    settings: &ClusterSettings,
    link: ProvenLink,
    held: &mut [Each<Option<LiveLink>>],
) -> std::io::Result<(u64, Purpose, tokio::net::TcpStream)> {
    let stream = link.stream.into_std()?;
    tune(settings, link.purpose, &stream)?;
    let watched = tokio::net::TcpStream::from_std(stream.try_clone()?)?;
    tracing::debug!(peer = link.peer, purpose = ?link.purpose, "link is up");
    held[link.peer][link.purpose as usize] = Some(LiveLink {
        stream,
        serial: link.serial,
        incarnation: link.incarnation,
        ready: link.purpose != Purpose::Control,
        is_announced: link.purpose != Purpose::Control,
    });
    Ok((link.serial, link.purpose, watched))
}

/// Sets how the kernel detects a peer that is gone. The module `links` has the rule.
fn tune(settings: &ClusterSettings, purpose: Purpose, stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    if purpose != Purpose::Control {
        // The probes only keep the connection in a firewall's table. A lagging peer may keep its
        // window closed for hours, and the control link finds a dead one.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        return socket.set_tcp_keepalive(&keepalive);
    }
    let probe = settings.heartbeat_interval.max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(settings.link_timeout))?;
    Ok(())
}

/// Removes the link with this serial. Returns its peer and purpose, if it was there. A link that
/// was replaced has another serial, so a late report of its end removes nothing.
fn let_go(held: &mut [Each<Option<LiveLink>>], serial: u64) -> Option<(usize, Purpose)> {
    for (peer, slots) in held.iter_mut().enumerate() {
        for (slot, purpose) in slots.iter_mut().zip(Purpose::ALL) {
            if slot.take_if(|held| held.serial == serial).is_some() {
                return Some((peer, purpose));
            }
        }
    }
    None
}

/// Reports the end of a link, and READY on a control link.
///
/// Bytes after READY, and all bytes of a data link, belong to later readers. So they are peeked at
/// and stay in the socket.
async fn watch(
    handshakes: Arc<Handshakes>,
    serial: u64,
    purpose: Purpose,
    mut stream: tokio::net::TcpStream,
) {
    if purpose == Purpose::Control {
        let mut byte = [0];
        match stream.read_exact(&mut byte).await {
            Ok(_) if byte == [READY] => handshakes.report(StartEvent::Ready(serial)).await,
            _ => return handshakes.report(StartEvent::Down(serial)).await,
        }
    }
    match stream.peek(&mut [0]).await {
        Ok(1..) => {}
        Ok(0) | Err(_) => handshakes.report(StartEvent::Down(serial)).await,
    }
}

/// Returns the indices of all other processes.
fn peers(settings: &ClusterSettings) -> impl Iterator<Item = usize> {
    let own = settings.process;
    (0..settings.processes).filter(move |peer| *peer != own)
}

/// Returns true if all links to a process are up and lead to the same run of it.
///
/// Links to two runs can meet here for a moment: a process may die and start again before the ends
/// of its old connections are detected.
fn is_up(slots: &Each<Option<LiveLink>>) -> bool {
    let incarnation = |slot: &Option<LiveLink>| slot.as_ref().map(|held| held.incarnation);
    let of_data = incarnation(&slots[0]);
    of_data.is_some() && slots.iter().all(|slot| incarnation(slot) == of_data)
}

/// Returns true if every process has all its links. Sends READY to the others as soon as this
/// process has its own.
fn all_ready(settings: &ClusterSettings, held: &mut [Each<Option<LiveLink>>]) -> bool {
    if !peers(settings).all(|peer| is_up(&held[peer])) {
        return false;
    }
    for link in held.iter_mut().flatten().flatten().filter(|link| !link.is_announced) {
        // A failure shows as the end of the link, which is watched.
        link.is_announced = (&link.stream).write(&[READY]).is_ok();
    }
    held.iter().flatten().flatten().all(|link| link.ready && link.is_announced)
}

/// Returns the error at the deadline: it names the processes that are missing or not ready.
fn missing(
    settings: &ClusterSettings,
    handshakes: &Handshakes,
    held: &[Each<Option<LiveLink>>],
) -> Error {
    let absent: Vec<usize> = peers(settings).filter(|peer| !is_up(&held[*peer])).collect();
    let named = |peer: &usize| match handshakes.reason(*peer) {
        Some(why) => format!("{}: {why}", settings.shown(*peer)),
        None => settings.shown(*peer),
    };
    let list = |peers: &[usize]| peers.iter().map(named).collect::<Vec<_>>().join(", ");
    let after = seconds(settings.start_timeout);
    let message = if absent.is_empty() {
        let unready = |peer: &usize| held[*peer].iter().flatten().any(|link| !link.ready);
        let waiting: Vec<usize> = peers(settings).filter(unready).collect();
        format!("not complete after {after} s: still waiting for others: {}", list(&waiting))
    } else {
        format!("missing after {after} s: {}", list(&absent))
    };
    Error::new(ErrorKind::PeerLost, message).hint("see --start-timeout")
}

/// Returns the sockets of all links, in blocking mode.
fn into_sockets(held: Vec<Each<Option<LiveLink>>>, host: [u8; 16]) -> std::io::Result<Sockets> {
    let mut links = held.iter().flatten().flatten();
    let is_one_host = links.all(|link| link.incarnation.host == host);
    let mut sockets = Sockets { is_one_host, ..Sockets::default() };
    let blocking = |held: Option<LiveLink>| match held {
        Some(held) => held.stream.set_nonblocking(false).map(|()| Some(held.stream)),
        None => Ok(None),
    };
    for [data, control, blocks] in held {
        sockets.data.push(blocking(data)?);
        sockets.control.push(blocking(control)?);
        sockets.blocks.push(blocking(blocks)?);
    }
    Ok(sockets)
}
