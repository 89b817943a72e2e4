//! The handshake of one connection, from either end, and the defence against unknown peers.
//!
//! A listener uses nothing of a hello before the proof, grants an index under one lock, and sends
//! the peer its verdict. An unknown peer costs one small task for at most the handshake timeout,
//! and at most one log line. Above `strangers_max` a new connection closes the oldest unfinished
//! one, so a crowd of silent connections cannot keep a peer out.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::handshake_messages::{
    Each, HELLO_BYTES, HandshakeVerdict, Hello, Incarnation, NotHello, PROOF_BYTES, Purpose,
    VERDICT_BYTES, connector_proof, format_differs, listener_proof,
};
use super::settings::{ClusterSettings, MeshKey};
use super::user_key::user_key;
use crate::backoff::BackoffPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::loopback::is_loopback;
use crate::random::random_bytes;

/// Number of pairs of a host and a reason whose first refusal is logged at once. All other refusals
/// are logged once in [`REFUSALS_PAUSE`].
const REFUSALS_LOGGED: usize = 10;
/// Shortest time between two log lines about further refusals.
const REFUSALS_PAUSE: Duration = Duration::from_secs(10);
/// The pauses before another attempt to connect.
const DIAL_PAUSES: BackoffPolicy =
    BackoffPolicy::doubling(Duration::from_millis(20), Duration::from_millis(500));

/// An event that a handshake or a link reports to the bring-up.
#[derive(Debug)]
pub enum StartEvent {
    /// A handshake has succeeded.
    Up(Box<ProvenLink>),
    /// The link with this serial number ended before the cluster was complete.
    Down(u64),
    /// The peer at the other end of this control link has all its links.
    Ready(u64),
    /// The start cannot succeed.
    Fatal(Error),
}

/// A connection whose peer has proved the mesh key.
#[derive(Debug)]
pub struct ProvenLink {
    /// The index of the peer.
    pub peer: usize,
    /// The use of the connection.
    pub purpose: Purpose,
    /// The number of the link in this bring-up.
    pub serial: u64,
    /// The run of the peer.
    pub incarnation: Incarnation,
    /// The connection after the handshake.
    pub stream: TcpStream,
}

/// A reason for which a handshake failed.
enum Rejection {
    /// Another attempt or another connection may succeed.
    Refused(String),
    /// The two processes can never join.
    Fatal(Error),
}

/// Makes every I/O error a refusal: the next attempt may succeed.
impl From<std::io::Error> for Rejection {
    fn from(cause: std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::UnexpectedEof => Rejection::Refused("closed the connection".into()),
            _ => Rejection::Refused(cause.to_string()),
        }
    }
}

/// State that all handshakes of one bring-up share.
///
/// The lock of the registry is never held across an await.
#[derive(Debug)]
pub struct Handshakes {
    /// The settings of this process.
    pub settings: ClusterSettings,
    /// The run of this process.
    pub incarnation: Incarnation,
    /// The key of `--mesh-key-file`, or else the key of the user.
    key: MeshKey,
    /// The inbox of the bring-up.
    events: mpsc::Sender<StartEvent>,
    /// The indexes that are granted.
    registry: Mutex<Registry>,
}

/// The indices that are taken, and the refusals so far.
#[derive(Debug, Default)]
struct Registry {
    /// The serial that was given last.
    serials: u64,
    /// The holder of each index above this one: incarnation and serial, for each purpose.
    claims: Vec<Each<Option<(Incarnation, u64)>>>,
    /// The reason for which the last attempt to reach each process failed.
    reasons: Vec<Option<String>>,
    /// Connections refused so far.
    refused: u64,
    /// Refusals since the last log line.
    unlogged: u64,
    /// The time of the last log line.
    logged_at: Option<Instant>,
    /// Hosts and reasons that have a log line, at most [`REFUSALS_LOGGED`].
    logged: Vec<(IpAddr, String)>,
}

/// A claim of an index, granted by [`Handshakes::claim`]. Dropping it frees the index unless the
/// link is up, because a task may be aborted at any await.
struct IndexClaim<'a> {
    /// The handshakes that the claim belongs to.
    handshakes: &'a Handshakes,
    /// The number of the claim, by which a newer one is recognized.
    serial: u64,
    /// True once the link is up. The bring-up then frees the index.
    kept: bool,
}

impl Drop for IndexClaim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.handshakes.release(self.serial);
        }
    }
}

impl Handshakes {
    /// Prepares the handshakes of one bring-up, which receives `events`.
    ///
    /// Fails with `Failed` without random bytes, and with `Configuration` if there is no key.
    pub fn new(settings: &ClusterSettings, events: mpsc::Sender<StartEvent>) -> Result<Handshakes> {
        let registry = Registry {
            claims: vec![Each::default(); settings.processes],
            reasons: vec![None; settings.processes],
            ..Registry::default()
        };
        Ok(Handshakes {
            settings: settings.clone(),
            incarnation: Incarnation::of_this_process()?,
            key: match &settings.mesh_key {
                Some(key) => key.clone(),
                None => user_key()?,
            },
            events,
            registry: Mutex::new(registry),
        })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports to the bring-up.
    pub async fn report(&self, event: StartEvent) {
        let _ = self.events.send(event).await; // the bring-up may have ended
    }

    /// Keeps the reason for which `peer` was not reached. A wrong key is logged at once, since
    /// waiting does not mend it.
    fn missed(&self, peer: usize, why: String) {
        tracing::debug!("process {peer} is not reached yet: {why}");
        let before = self.registry().reasons[peer].replace(why.clone());
        if why.contains("--mesh-key-file") && before.is_none_or(|before| before != why) {
            tracing::warn!("{} does not answer as it should: {why}", self.settings.shown(peer));
        }
    }

    /// Returns the reason for which the last attempt to reach `process` failed, if one did.
    pub fn reason(&self, process: usize) -> Option<String> {
        self.registry().reasons[process].clone()
    }

    /// Returns the number of refused connections, and of those without a log line.
    pub fn refusals(&self) -> (u64, u64) {
        let registry = self.registry();
        (registry.refused, registry.unlogged)
    }

    /// Frees the index that the link with this serial held.
    pub fn release(&self, serial: u64) {
        for slot in self.registry().claims.iter_mut().flatten() {
            slot.take_if(|(_, held)| *held == serial);
        }
    }

    /// Returns the serial of the next link.
    fn next_serial(&self) -> u64 {
        let mut registry = self.registry();
        registry.serials += 1;
        registry.serials
    }

    /// Grants an index to a peer, unless a live connection has it for the same purpose or for
    /// another run of the process.
    fn claim(&self, theirs: &Hello) -> Option<IndexClaim<'_>> {
        let mut registry = self.registry();
        let serial = registry.serials + 1;
        let slots = registry.claims.get_mut(theirs.process as usize)?;
        let others = slots.iter().flatten().any(|(held, _)| *held != theirs.incarnation);
        let slot = &mut slots[theirs.purpose as usize];
        if others || slot.is_some() {
            return None;
        }
        *slot = Some((theirs.incarnation, serial));
        registry.serials = serial;
        Some(IndexClaim { handshakes: self, serial, kept: false })
    }

    /// Counts a refused connection, and logs it within the limits of [`REFUSALS_LOGGED`]. The log
    /// line has the number of refusals since the last one.
    fn refuse(&self, from: SocketAddr, why: &str) {
        let mut registry = self.registry();
        registry.refused += 1;
        let is_logged =
            registry.logged.iter().any(|(host, reason)| *host == from.ip() && reason == why);
        let quiet = registry.logged_at.is_some_and(|at| at.elapsed() < REFUSALS_PAUSE);
        if quiet && (is_logged || registry.logged.len() >= REFUSALS_LOGGED) {
            registry.unlogged += 1;
            return;
        }
        if !is_logged && registry.logged.len() < REFUSALS_LOGGED {
            registry.logged.push((from.ip(), why.to_owned()));
        }
        registry.logged_at = Some(Instant::now());
        let more = match std::mem::take(&mut registry.unlogged) {
            0 => String::new(),
            unlogged => format!(" ({unlogged} more like it before)"),
        };
        tracing::warn!("refused a connection to the cluster port from {from}: {why}{more}");
    }

    /// Returns the error for a peer with other settings, which no retry can mend.
    fn mismatch(&self, peer: usize, what: &str) -> Error {
        let shown = self.settings.shown(peer);
        Error::new(ErrorKind::Configuration, format!("{what} ({shown})"))
            .hint("start every process with the same command line but for -p")
    }

    /// Returns a hello to `peer` with a fresh nonce.
    fn hello(&self, purpose: Purpose, peer: usize) -> std::io::Result<Hello> {
        let nonce = random_bytes().map_err(std::io::Error::other)?;
        Ok(Hello::new(&self.settings, (purpose, peer), self.incarnation, nonce))
    }
}

/// Accepts connections until the bring-up ends, each in a task of its own. The number of tasks is
/// limited; see the module.
pub async fn listen(handshakes: Arc<Handshakes>, listener: TcpListener) {
    let mut open: VecDeque<tokio::task::AbortHandle> = VecDeque::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(cause) => {
                // Most likely there is no file descriptor left. Open connections will free some.
                tracing::warn!(%cause, "cannot take a connection to the cluster port");
                tokio::time::sleep(DIAL_PAUSES.max).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|task| !task.is_finished());
        if open.len() >= handshakes.settings.strangers_max.max(1)
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            handshakes.refuse(from, "too many connections at once: the oldest was closed");
        }
        open.push_back(tasks.spawn(greet(Arc::clone(&handshakes), stream, from)));
    }
}

/// Answers one connection within the handshake timeout.
///
/// A refused connection is counted. An error that no retry can mend ends the bring-up.
async fn greet(handshakes: Arc<Handshakes>, stream: TcpStream, from: SocketAddr) {
    let limit = handshakes.settings.handshake_timeout;
    match tokio::time::timeout(limit, answer(&handshakes, stream)).await {
        Ok(Ok(())) => {}
        Ok(Err(Rejection::Refused(why))) => handshakes.refuse(from, &why),
        Ok(Err(Rejection::Fatal(error))) => handshakes.report(StartEvent::Fatal(error)).await,
        Err(_) => handshakes.refuse(from, "did not finish the handshake in time"),
    }
}

/// Runs the listener's side of the handshake: receives a hello and a proof, and sends its own hello
/// and the verdict. Reports the link if the verdict is acceptance.
///
/// The task may be aborted at any await, when a newer peer takes its place. Until the link is
/// reported, dropping the claim frees the index again.
///
/// Fails with `Refused` if the peer sends something else, has no proof, or is not accepted.
/// Fails with `Fatal` if a peer that has proved the key has other settings.
async fn answer(handshakes: &Handshakes, mut stream: TcpStream) -> Result<(), Rejection> {
    stream.set_nodelay(true)?;
    let mut theirs_raw = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs_raw).await?;
    let theirs = match Hello::decode(&theirs_raw) {
        Ok(theirs) => theirs,
        Err(NotHello::Format(format)) => {
            // The answer has this process's format, so the other end can report the difference.
            stream.write_all(&handshakes.hello(Purpose::Data, 0)?.encode()).await?;
            return Err(Rejection::Refused(format_differs(format)));
        }
        Err(_) => return Err(Rejection::Refused("sent no hello of wordtide".into())),
    };
    let ours = handshakes.hello(theirs.purpose, theirs.process as usize)?;
    let ours_raw = ours.encode();
    stream.write_all(&ours_raw).await?;
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof).await?;
    let key = &handshakes.key;
    let proved = connector_proof(key, &theirs_raw, &ours_raw) == blake3::Hash::from(proof);
    // The place in the queue is reserved before the verdict is sent. This task may be aborted at
    // any await, and then an accepted peer would have a link that the bring-up does not know.
    let Ok(place) = handshakes.events.reserve().await else {
        return Err(Rejection::Refused("the start is over".into()));
    };
    let (verdict, claim) = judge(handshakes, &ours, &theirs, proved);
    let mut reply = [0; VERDICT_BYTES];
    reply[0] = verdict as u8;
    if proved {
        let proof = listener_proof(key, verdict, &theirs_raw, &ours_raw);
        reply[1..].copy_from_slice(proof.as_bytes());
    }
    stream.write_all(&reply).await?;
    let peer = theirs.process as usize;
    match (verdict, claim) {
        (HandshakeVerdict::Accepted, Some(mut claim)) => {
            claim.kept = true;
            place.send(StartEvent::Up(Box::new(ProvenLink {
                peer,
                purpose: theirs.purpose,
                serial: claim.serial,
                incarnation: theirs.incarnation,
                stream,
            })));
            Ok(())
        }
        (HandshakeVerdict::Mismatch, _) => {
            let what = ours.mismatch(&handshakes.settings.fingerprint, &theirs).unwrap_or_default();
            Err(Rejection::Fatal(handshakes.mismatch(peer, &what)))
        }
        (HandshakeVerdict::Key, _) => Err(Rejection::Refused("did not prove the mesh key".into())),
        (HandshakeVerdict::Generation, _) => Err(Rejection::Refused(format!(
            "process {peer} belongs to generation {}, this is {}",
            theirs.generation, handshakes.settings.generation
        ))),
        _ => Err(Rejection::Refused(format!("index {peer} is taken or out of place"))),
    }
}

/// Returns the verdict on a peer, with the claim of its index if it is accepted.
///
/// Nothing of the hello is compared before the proof, so an unknown peer cannot end the start with
/// a hello that differs.
fn judge<'a>(
    handshakes: &'a Handshakes,
    ours: &Hello,
    theirs: &Hello,
    proved: bool,
) -> (HandshakeVerdict, Option<IndexClaim<'a>>) {
    if !proved {
        return (HandshakeVerdict::Key, None);
    }
    // The generation is compared first: a process of an earlier start may have other flags too, but
    // it is no reason to end this start.
    if theirs.generation != ours.generation {
        return (HandshakeVerdict::Generation, None);
    }
    if ours.mismatch(&handshakes.settings.fingerprint, theirs).is_some() {
        return (HandshakeVerdict::Mismatch, None);
    }
    // Only higher indices connect here. So a process with this index or a lower one is a second
    // process that was started with that index.
    if theirs.process <= ours.process {
        return (HandshakeVerdict::Taken, None);
    }
    match handshakes.claim(theirs) {
        Some(claim) => (HandshakeVerdict::Accepted, Some(claim)),
        None => (HandshakeVerdict::Taken, None),
    }
}

/// Connects to a lower index; retries with back-off until it accepts or the bring-up ends.
pub async fn dial(handshakes: Arc<Handshakes>, peer: usize, purpose: Purpose) {
    let mut backoff = DIAL_PAUSES.start();
    loop {
        let limit = handshakes.settings.handshake_timeout;
        let why = match tokio::time::timeout(limit, call(&handshakes, peer, purpose)).await {
            Ok(Ok(link)) => return handshakes.report(StartEvent::Up(Box::new(link))).await,
            Ok(Err(Rejection::Fatal(error))) => {
                return handshakes.report(StartEvent::Fatal(error)).await;
            }
            Ok(Err(Rejection::Refused(why))) => why,
            Err(_) => "no answer".into(),
        };
        handshakes.missed(peer, why);
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Runs the connector's side of the handshake over a new connection to `peer`: sends a hello and a
/// proof, and checks the verdict with its proof.
///
/// A verdict without a valid proof may come from any peer, so it never ends the start.
///
/// Fails with `Refused` if the connection fails or the peer does not accept; a retry may succeed.
/// Fails with `Fatal` if the peer has proved the key and has other settings.
async fn call(
    handshakes: &Handshakes,
    peer: usize,
    purpose: Purpose,
) -> Result<ProvenLink, Rejection> {
    let refused = |why: &str| Err(Rejection::Refused(why.to_owned()));
    let mut stream = reach(handshakes, peer).await?;
    stream.set_nodelay(true)?;
    let ours = handshakes.hello(purpose, peer)?;
    let ours_raw = ours.encode();
    stream.write_all(&ours_raw).await?;
    let mut theirs_raw = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs_raw).await?;
    let theirs = match Hello::decode(&theirs_raw) {
        Ok(theirs) if theirs.incarnation != handshakes.incarnation => theirs,
        // TCP can connect a local port without listener to itself (simultaneous open).
        Ok(_) => return refused("reached itself"),
        Err(NotHello::Format(format)) => return Err(Rejection::Refused(format_differs(format))),
        Err(_) => return refused("something else answers there"),
    };
    let key = &handshakes.key;
    let proof = connector_proof(key, &ours_raw, &theirs_raw);
    stream.write_all(proof.as_bytes()).await?;
    let mut reply = [0; VERDICT_BYTES];
    stream.read_exact(&mut reply).await?;
    let Some(verdict) =
        HandshakeVerdict::from_byte(reply[0]).filter(|verdict| *verdict != HandshakeVerdict::Key)
    else {
        return refused("it has another mesh key; see --mesh-key-file");
    };
    let mut proof = [0; PROOF_BYTES];
    proof.copy_from_slice(&reply[1..]);
    if listener_proof(key, verdict, &ours_raw, &theirs_raw) != blake3::Hash::from(proof) {
        return refused("it did not prove the mesh key; see --mesh-key-file");
    }
    match verdict {
        HandshakeVerdict::Accepted => Ok(ProvenLink {
            peer,
            purpose,
            serial: handshakes.next_serial(),
            incarnation: theirs.incarnation,
            stream,
        }),
        HandshakeVerdict::Generation => refused("it belongs to another start of the cluster"),
        HandshakeVerdict::Mismatch => {
            let what = if theirs.process as usize == peer {
                ours.mismatch(&handshakes.settings.fingerprint, &theirs).unwrap_or_default()
            } else {
                format!(
                    "this process takes its peer for process {peer}, but it is process {}: \
                     --hostfile or --addresses differ, or -p is wrong",
                    theirs.process
                )
            };
            Err(Rejection::Fatal(handshakes.mismatch(peer, &what)))
        }
        HandshakeVerdict::Taken | HandshakeVerdict::Key => {
            Err(Rejection::Refused(format!("it says that index {} is taken", ours.process)))
        }
    }
}

/// Connects to the first address of `peer` that accepts. The name is resolved each time, because a
/// restarted host may have another address. Without a key file only loopback is tried.
///
/// Fails with the error of the last address.
async fn reach(handshakes: &Handshakes, peer: usize) -> Result<TcpStream, Rejection> {
    let mut last = Rejection::Refused("its name has no address".into());
    for address in tokio::net::lookup_host(&handshakes.settings.addresses[peer]).await? {
        if handshakes.settings.mesh_key.is_none() && !is_loopback(address.ip()) {
            last = Rejection::Refused("not loopback, and no --mesh-key-file".into());
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(cause) => last = cause.into(),
        }
    }
    Err(last)
}
