//! From addresses to sockets: the start of a cluster, in one bounded time.
//!
//! Names are resolved and the own address is bound before anybody is called, so that a wrong
//! address or a taken port is told at once and not after the others came. Then each process
//! connects to the lower indices and accepts the higher ones, three connections for each pair, in
//! any order.
//!
//! A process may die while others still come. So each connection is watched until the end: one that
//! closes frees its index for the next try of that process. When a process has all its links it
//! says so on each control link, and it goes on when all others said the same: after that, whoever
//! dies is a lost peer and no longer a late one.

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
use super::cause::seconds;
use super::handshake::{Handshakes, ProvenLink, StartEvent, dial, listen};
use super::hello::{Each, Incarnation, Purpose};
use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind, Result};

/// The byte that a process sends on a control link when it has all its links.
const READY: u8 = b'R';
/// How long a data link may be idle before the kernel asks whether the peer is there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Most events of the bring-up that wait for its loop.
const EVENTS_MAX: usize = 64;

/// The sockets to each process in order of index: `None` for this one.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) data: Vec<Option<TcpStream>>,
    pub(super) control: Vec<Option<TcpStream>>,
    pub(super) blocks: Vec<Option<TcpStream>>,
    /// True if all processes run on one host. Every process sees every other's host, so all find
    /// the same.
    pub(super) is_one_host: bool,
}

impl Sockets {
    /// Returns those of a process alone.
    pub(super) fn none() -> Sockets {
        Sockets { is_one_host: true, ..Sockets::default() }
    }
}

#[derive(Debug)]
struct LiveLink {
    stream: TcpStream,
    serial: u64,
    incarnation: Incarnation,
    ready: bool,
    /// READY was sent on this control link.
    is_announced: bool,
}

/// Brings the cluster up; returns `None` if `cancel` completes first.
pub(super) async fn bring_up(
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

async fn collect(
    settings: &ClusterSettings,
    listeners: Vec<TcpListener>,
    deadline: tokio::time::Instant,
) -> Result<Sockets> {
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let handshakes = Arc::new(Handshakes::new(settings, events)?);
    // Dropping the set at return ends every task in it, and closes the listeners.
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

fn lost_socket(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot set up a cluster socket: {cause}")).cause(cause)
}

/// Keeps a link and returns what is needed to watch it.
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

/// Sets what the kernel does about a peer that is gone; see the module `links` for the rule.
fn tune(settings: &ClusterSettings, purpose: Purpose, stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    if purpose != Purpose::Control {
        // Only so that a firewall does not forget the connection: a slow peer, whose window is
        // closed for hours, is none of the kernel's business, and a dead one is found by the
        // control link.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        return socket.set_tcp_keepalive(&keepalive);
    }
    let probe = settings.heartbeat_interval.max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(settings.link_timeout))?;
    Ok(())
}

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

/// Reports the end of a link, and READY on a control link. What follows READY, and all that comes
/// on a data link, belongs to others and is only looked at.
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

fn peers(settings: &ClusterSettings) -> impl Iterator<Item = usize> {
    let own = settings.process;
    (0..settings.processes).filter(move |peer| *peer != own)
}

fn is_up(slots: &Each<Option<LiveLink>>) -> bool {
    let incarnation = |slot: &Option<LiveLink>| slot.as_ref().map(|held| held.incarnation);
    let of_data = incarnation(&slots[0]);
    of_data.is_some() && slots.iter().all(|slot| incarnation(slot) == of_data)
}

/// Returns true once every process has all links; sends READY to the others once this one has.
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
