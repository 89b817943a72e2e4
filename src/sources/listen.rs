//! A listening TCP source: any number of senders connect, and their lines become one source log.
//!
//! One task accepts and reads all of them, since it owns the log. Senders are read in the order in
//! which they have bytes, each one buffer at a time, so one that floods does not starve a quiet
//! one. While the log lags, a sender whose bytes wait there beyond its share is paused, so that a
//! quiet one does not wait for all that a flood has queued. TLS handshakes have tasks of their own.
//!
//! ```text
//! accept ─► limit ─► [handshake] ─► readable ─► room ─► read ─► source log
//!                                      └────────── in turn ──────────┘
//! ```

mod sender;
mod sender_reports;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::dial;
use super::log::SourceLog;
use super::stop_signal::Stop;
use crate::error::Result;
use sender::{Handshake, ListenSender, SenderTurn};
use sender_reports::ConnectionReports;
pub use settings::{ListenAddress, ListenSettings, bind_hint};

/// Longest time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes that wait in a log that lags, of all senders together: what a quiet one sends comes after
/// them. Each sender has an equal share, and at least [`QUEUED_BYTES_MIN`].
const QUEUED_BYTES_MAX: u64 = 64 << 20;
/// Least share of a sender: about one buffer.
const QUEUED_BYTES_MIN: u64 = 256 << 10;

/// Longest time at a stop for the handshakes that are under way.
const STOP_HANDSHAKE_TIME_MAX: Duration = Duration::from_millis(500);

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reads from all senders until a stop; with `once`, until all that came have gone.
///
/// # Errors
///
/// Those of the journal.
pub async fn read(settings: ListenSettings, once: bool, log: &mut SourceLog) -> Result<()> {
    let (listener, tls) = settings.listener()?;
    let listener = TcpListener::from_std(listener).map_err(|error| settings.refused(&error))?;
    let place = listener.local_addr().map_err(|error| settings.refused(&error))?;
    tracing::info!("listening on {place}{}", if tls.is_some() { " with TLS" } else { "" });
    let stop = log.stop().clone();
    let mut senders = Senders {
        listener,
        tls,
        stop: stop.clone(),
        once,
        connections_max: settings.senders_max(log),
        turns: FuturesUnordered::new(),
        handshakes: FuturesUnordered::new(),
        paused: Vec::new(),
        came_back: log.came_back(),
        open: 0,
        came: 0,
        resting: None,
        reports: ConnectionReports::default(),
    };
    loop {
        // A journal that is full leaves the bytes in the sockets, where their senders feel it.
        log.journal_room().await?;
        match log.serve_during(senders.next()).await? {
            Event::Stopped => break,
            Event::Gone => return log.finish().await,
            Event::Accepted(accepted) => senders.admit(accepted, log),
            Event::Shaken(handshake) => senders.shaken(handshake, log),
            Event::SenderTurn(turn) => senders.take_turn(turn, log).await?,
            Event::CameBack => senders.resume(log),
        }
    }
    senders.stop(log).await?;
    log.finish().await
}

/// The next thing that happens to a listener.
enum Event {
    /// The job stops reading.
    Stopped,
    /// All senders that came have gone.
    Gone,
    /// A sender has connected, or accepting failed.
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    /// The handshake of a sender has ended.
    Shaken(Handshake),
    /// A sender has bytes, or has ended.
    SenderTurn(SenderTurn),
    /// More of the log is with the workers.
    CameBack,
}

/// A listener and its senders.
struct Senders {
    /// The socket that senders connect to.
    listener: TcpListener,
    /// Makes connections encrypted; `None` for plain ones.
    tls: Option<TlsAcceptor>,
    /// The signal to stop reading.
    stop: Stop,
    /// True if the source ends with its last sender.
    once: bool,
    /// Most senders at once.
    connections_max: usize,
    /// Senders that wait for bytes.
    turns: FuturesUnordered<sender::WaitingSender>,
    /// The senders whose handshake is under way.
    handshakes: FuturesUnordered<sender::Shaking>,
    /// Senders that are not read until the workers have more of what they have sent.
    paused: Vec<ListenSender>,
    /// Notified when more of the log is with the workers.
    came_back: Arc<Notify>,
    /// Connections that stand, those in a handshake included.
    open: usize,
    /// Senders that have come.
    came: u64,
    /// Until then nothing is accepted, after an accept that failed.
    resting: Option<Instant>,
    /// The reports about senders.
    reports: ConnectionReports,
}

/// Accepts the next connection, after the time `resting`.
async fn accept(
    listener: &TcpListener,
    resting: Option<Instant>,
) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(until) = resting {
        tokio::time::sleep_until(until).await;
    }
    listener.accept().await
}

impl Senders {
    /// Waits for the next event. Safe to cancel.
    async fn next(&mut self) -> Event {
        let is_done = self.once && self.came > 0 && self.open == 0;
        tokio::select! {
            biased;
            () = self.stop.stopped() => Event::Stopped,
            accepted = accept(&self.listener, self.resting) => Event::Accepted(accepted),
            Some(handshake) = self.handshakes.next() => Event::Shaken(handshake),
            Some(turn) = self.turns.next() => Event::SenderTurn(turn),
            () = self.came_back.notified(), if !self.paused.is_empty() => Event::CameBack,
            () = std::future::ready(()), if is_done => Event::Gone,
        }
    }

    /// Takes a new connection, unless there are as many as the limit allows.
    fn admit(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>, log: &mut SourceLog) {
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.resting = Some(Instant::now() + ACCEPT_PAUSE);
                return self.reports.accept_failed(&error);
            }
        };
        if self.open >= self.connections_max {
            return self.reports.refused(from, self.connections_max);
        }
        dial::keep_alive(&stream);
        self.open += 1;
        match &self.tls {
            Some(tls) => self.handshakes.push(sender::shake(tls, stream, from, HANDSHAKE_TIME_MAX)),
            None => self.begin(ListenSender::plain(log.open_connection(), stream, from)),
        }
    }

    /// Takes a sender whose handshake has ended.
    fn shaken(&mut self, handshake: Handshake, log: &mut SourceLog) {
        match handshake.stream {
            Ok(stream) => {
                self.begin(ListenSender::tls(log.open_connection(), stream, handshake.from))
            }
            Err(cause) => {
                self.open -= 1;
                self.reports.no_tls(handshake.from, &cause);
            }
        }
    }

    /// Counts a sender and waits for its first bytes.
    fn begin(&mut self, sender: ListenSender) {
        self.came += 1;
        self.reports.came(sender.from());
        self.turns.push(sender.wait(&self.stop));
    }

    /// Reads what a sender has, one buffer of it, and has it wait for its next turn.
    async fn take_turn(&mut self, turn: SenderTurn, log: &mut SourceLog) -> Result<()> {
        let (sender, end) = turn.read(log).await?;
        match end {
            None if sender.queued(log) > self.queued_max() => self.paused.push(sender),
            None => self.turns.push(sender.wait(&self.stop)),
            Some(end) => {
                log.end_connection(sender.connection(), end)?;
                self.open -= 1;
                self.reports.gone(sender.from(), end);
            }
        }
        Ok(())
    }

    /// Returns how many bytes of a sender may wait in a log that lags. One sender alone may fill
    /// the journal.
    fn queued_max(&self) -> u64 {
        match self.open as u64 {
            ..=1 => u64::MAX,
            open => (QUEUED_BYTES_MAX / open).max(QUEUED_BYTES_MIN),
        }
    }

    /// Reads paused senders on, of which no more waits than half of what may.
    fn resume(&mut self, log: &SourceLog) {
        let most = self.queued_max() / 2;
        let (go_on, wait) = self.paused.drain(..).partition(|sender| sender.queued(log) <= most);
        self.paused = wait;
        let go_on: Vec<ListenSender> = go_on;
        go_on.into_iter().for_each(|sender| self.turns.push(sender.wait(&self.stop)));
    }

    /// Takes the connections that wait to be accepted, reads what has arrived here of each, and no
    /// more, and ends them all: a stop loses nothing that a sender saw accepted.
    async fn stop(&mut self, log: &mut SourceLog) -> Result<()> {
        // Without a budget: the runtime would have it pause before the backlog is empty.
        while let Some(Ok(accepted)) = unconstrained(self.listener.accept()).now_or_never() {
            self.admit(Ok(accepted), log);
        }
        // A client that has its part of the handshake done may have sent lines already.
        let until = Instant::now() + STOP_HANDSHAKE_TIME_MAX;
        while !self.handshakes.is_empty() {
            let shaken = tokio::time::timeout_at(until, self.handshakes.next());
            let Ok(Some(handshake)) = log.serve_during(shaken).await? else { break };
            self.shaken(handshake, log);
        }
        for sender in self.paused.drain(..) {
            self.turns.push(sender.wait(&self.stop));
        }
        // The stop ends every wait.
        while let Some(turn) = log.serve_during(self.turns.next()).await? {
            let (mut sender, end) = turn.read(log).await?;
            let end = match end {
                Some(end) => end,
                None => sender.drain(log).await?,
            };
            log.end_connection(sender.connection(), end)?;
        }
        Ok(())
    }
}
