//! The control links: one connection with little traffic for each pair of processes. They detect a
//! lost peer.
//!
//! Timely's own sockets report a lost peer as a panic, late or never. So each pair of processes has
//! a control link, and a peer is lost in one of these cases:
//!
//! * **Its connection ended without BYE**: the process died, or its host reset the connection. The
//!   loss is detected at once.
//! * **Its host acknowledges nothing for `link_timeout`** (7 s): a cut cable or a dead host. Each
//!   side sends a heartbeat about every half second, so there is always a byte to acknowledge, and
//!   the kernel ends the connection by `TCP_USER_TIMEOUT`, within 8 s of the cut. A cut of 3 s is
//!   survived: the kernel retransmits after 0.2, 0.6, 1.4, 3.0 and 6.2 s. The limit is more than
//!   twice the cut plus one retransmission timeout, so one attempt always falls between the end of
//!   the cut and the limit.
//! * **It is silent for `stall_timeout`** (60 s) although its host acknowledges: the process is
//!   stopped (`SIGSTOP`, debugger, paused machine). The kernel of a stopped process still
//!   acknowledges, so missing heartbeats alone must not end a run after 7 s. Control frames are too
//!   small to close the window of a process that does not read, and a long message is sent piece by
//!   piece.
//! * **Another process reports it.** A process sends the first cause to all others before it acts
//!   on it. A connection keeps order, so a peer receives the cause before it sees the connection of
//!   a survivor close. Later causes are not reported.
//!
//! The data sockets have no `TCP_USER_TIMEOUT`: a lagging peer may keep its window closed for
//! hours, for example while a store is away, and the kernel would take that for a dead host.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::bringup::Sockets;
use super::common_decisions::Rounds;
use super::control_frames::{
    Assembly, Frame, Frames, MESSAGE_BYTES_MAX, Message, PIECE_BYTES, too_long, with_length,
};
use super::inbox::{ControlEvent, Inbox};
use super::loss_cause::{Loss, cause_of, seconds};
use super::peer_silence::PeerSilence;
use super::process_figures::FiguresTaker;
use super::settings::ClusterSettings;
use crate::epoch::{Epoch, TIME_MAX_MS};

/// Time that a control message may wait for room in the kernel before the link counts as broken.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that the cause of a broken data socket may take to arrive.
const CAUSE_TIME: Duration = Duration::from_secs(1);

/// The control links of this process and the state that they share.
#[derive(Debug)]
pub struct ControlLinks {
    /// The settings of this process.
    pub settings: ClusterSettings,
    /// The link to each process; `None` for this one.
    links: Vec<Option<PeerLink>>,
    /// Handles to timely's sockets and to those for blocks, to shut them down.
    data: Vec<TcpStream>,
    /// The links and the first loss.
    state: Mutex<LinkState>,
    changed: Condvar,
    /// The first process that asked for a stop, and its reason.
    pub stop_asked: watch::Sender<Option<(usize, String)>>,
    /// Takes the figures of other processes.
    pub figures: FiguresTaker,
}

/// The control link to one peer.
#[derive(Debug)]
struct PeerLink {
    stream: TcpStream,
    /// The error of a failed write; locked while writing. It is kept for the reader, because the
    /// kernel reports an error of a connection only once.
    write_error: Mutex<Option<io::Error>>,
    /// Locked while the pieces of a message are sent, so those of two messages do not mix.
    long_message: Mutex<()>,
}

/// The state of all control links.
#[derive(Debug)]
pub struct LinkState {
    /// The first cause of the cluster's end, after it was sent to all peers.
    pub cause: Option<Loss>,
    /// True once a thread has begun to send a cause.
    is_reporting: bool,
    /// The time at which this process sent BYE or began to close. Later losses do not count.
    pub leaving: Option<Instant>,
    /// True for each peer whose link is over, by BYE or by its end.
    pub gone: Vec<bool>,
    /// The number of pieces that each peer has taken.
    pieces_taken: Vec<u64>,
    /// The open rounds of common decisions.
    pub rounds: Rounds,
    /// True after the start was stopped. No wait for a decision goes on.
    pub is_interrupted: bool,
    /// The least epoch that may be open in process 0.
    open_min: Epoch,
    /// The sending end of the inbox. Removed at close, which ends the inbox.
    events: Option<mpsc::Sender<ControlEvent>>,
    /// The place of [`ControlEvent::Lost`] in the inbox, reserved from the start.
    lost: Option<mpsc::OwnedPermit<ControlEvent>>,
}

/// Sets the timeouts of a control socket and returns its link.
fn open(settings: &ClusterSettings, stream: &TcpStream) -> io::Result<PeerLink> {
    stream.set_read_timeout(Some(settings.heartbeat_interval))?;
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(PeerLink {
        stream: stream.try_clone()?,
        write_error: Mutex::default(),
        long_message: Mutex::default(),
    })
}

impl ControlLinks {
    /// Clones the control sockets, and the others to shut them down. Returns the links and the
    /// inbox.
    pub fn open(
        settings: &ClusterSettings,
        sockets: &Sockets,
    ) -> io::Result<(ControlLinks, Inbox)> {
        let (events, inbox) = mpsc::channel(settings.inbox_messages_max + 1);
        let lost = events.clone().try_reserve_owned().ok();
        let mut gone = vec![true; settings.processes];
        let mut links = Vec::new();
        for (peer, socket) in sockets.control.iter().enumerate() {
            gone[peer] = socket.is_none();
            links.push(socket.as_ref().map(|socket| open(settings, socket)).transpose()?);
        }
        let data = sockets.data.iter().chain(&sockets.blocks).flatten().map(TcpStream::try_clone);
        let state = LinkState {
            cause: None,
            is_reporting: false,
            leaving: None,
            gone,
            pieces_taken: vec![0; settings.processes],
            rounds: Rounds::default(),
            is_interrupted: false,
            open_min: 0,
            events: Some(events),
            lost,
        };
        let links = ControlLinks {
            settings: settings.clone(),
            links,
            data: data.collect::<io::Result<_>>()?,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop_asked: watch::Sender::new(None),
            figures: FiguresTaker::default(),
        };
        Ok((links, Inbox::new(inbox)))
    }

    /// Ends the inbox and this process's direction of each link.
    pub fn close(&self) {
        {
            let mut state = self.state();
            state.leaving.get_or_insert_with(Instant::now);
            state.events = None;
            state.lost = None;
        }
        // The other direction stays open for a moment. Closing a socket with unread bytes resets
        // the connection, and the reset could discard the last frame.
        for link in self.links.iter().flatten() {
            let _ = link.stream.shutdown(Shutdown::Write); // the link may have ended already
        }
    }

    /// Locks the state.
    pub fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the condition that is notified after each change of the state.
    pub fn changed(&self) -> &Condvar {
        &self.changed
    }

    /// Returns the indices of all other processes.
    pub fn peers(&self) -> impl Iterator<Item = usize> {
        let own = self.settings.process;
        (0..self.links.len()).filter(move |peer| *peer != own)
    }

    /// Sends a frame of any length to each of `peers`. A long one waits until they have taken it
    /// or are gone.
    ///
    /// Fails with `Failed` if the message is above the limit.
    pub fn send(
        &self,
        peers: impl Iterator<Item = usize>,
        frame: &Frame,
    ) -> crate::error::Result<()> {
        let body = frame.body();
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(too_long(body.len()));
        }
        let whole = (body.len() <= PIECE_BYTES).then(|| with_length(&body));
        for peer in peers {
            match &whole {
                Some(bytes) => self.transmit(peer, bytes),
                None => self.transmit_pieces(peer, &body),
            }
        }
        Ok(())
    }

    /// Sends a message piece by piece. Other frames may be sent between pieces. If the peer takes
    /// no more pieces, the thread that reads its link detects the loss.
    pub fn transmit_pieces(&self, to: usize, body: &[u8]) {
        let Some(link) = self.links.get(to).and_then(Option::as_ref) else {
            return;
        };
        let _alone = link.long_message.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = body.chunks(PIECE_BYTES);
        let count = pieces.len();
        for (at, piece) in pieces.enumerate() {
            let taken_before = self.state().pieces_taken[to];
            let piece = Frame::Piece { is_last: at + 1 == count, bytes: piece.to_vec() };
            self.transmit(to, &piece.encode());
            let waits = |state: &mut LinkState| {
                state.pieces_taken[to] == taken_before && state.cause.is_none() && !state.gone[to]
            };
            let waited = self.changed.wait_while(self.state(), waits);
            let state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.cause.is_some() || state.gone[to] {
                return;
            }
        }
    }

    /// Writes to a peer. An error is kept for the reader of the link, which may still have to read
    /// the cause of it.
    pub fn transmit(&self, to: usize, bytes: &[u8]) {
        let Some(link) = self.links.get(to).and_then(Option::as_ref) else {
            return;
        };
        let mut error = link.write_error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some() {
            return;
        }
        if let Err(cause) = (&link.stream).write_all(bytes) {
            // A part of a frame may be sent, so no further frame can be.
            if cause.kind() == io::ErrorKind::WouldBlock {
                let _ = link.stream.shutdown(Shutdown::Both); // `cause` is the error to keep
            }
            *error = Some(cause);
        }
    }

    /// Puts a message into the inbox. A full inbox ends the cluster; a closed one discards it.
    pub fn deliver(&self, from: usize, message: Message) {
        if let Message::AskStop { reason } = &message {
            // Also before the inbox is read. Asking again is the same stop.
            self.stop_asked.send_if_modified(|asked| {
                let is_first = asked.is_none();
                asked.get_or_insert_with(|| (from, reason.clone()));
                is_first
            });
        }
        let full = match &self.state().events {
            Some(events) => matches!(
                events.try_send(ControlEvent::Received { from, message }),
                Err(mpsc::error::TrySendError::Full(_))
            ),
            None => false,
        };
        if full {
            let own = self.settings.process;
            let cause = "it does not read its control messages";
            self.lose(Loss::new(&self.settings, own, own, cause));
        }
    }

    /// Waits until another process asks for a stop. Returns its index and its reason.
    pub async fn stop_asked(&self) -> (usize, String) {
        let mut asked = self.stop_asked.subscribe();
        // The sender lives as long as `self`.
        let first = match asked.wait_for(Option::is_some).await {
            Ok(asked) => asked.clone(),
            Err(_) => None,
        };
        match first {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }

    /// Ends the cluster for this loss, unless there is an earlier one: sends it to all peers, shuts
    /// the data sockets down, and then sets the cause here.
    pub fn lose(&self, loss: Loss) {
        {
            let mut state = self.state();
            if state.is_reporting || state.leaving.is_some() {
                tracing::debug!(%loss, "a later loss");
                return;
            }
            state.is_reporting = true;
        }
        let lost = Frame::Lost {
            process: loss.process as u32,
            reporter: loss.reporter as u32,
            cause: loss.cause.clone(),
        };
        let bytes = lost.encode();
        // The lost process is last, since a write to it may block. If it is only stopped, it reads
        // the cause when it continues.
        let others = self.peers().filter(|peer| *peer != loss.process);
        others.for_each(|peer| self.transmit(peer, &bytes));
        self.transmit(loss.process, &bytes);
        for socket in &self.data {
            let _ = socket.shutdown(Shutdown::Both); // it may be broken already
        }
        let mut state = self.state();
        state.cause = Some(loss.clone());
        if let Some(place) = state.lost.take() {
            place.send(ControlEvent::Lost(loss));
        }
        self.changed.notify_all();
    }

    /// Reads one link and sends its heartbeats, until the link ends. Runs on a thread of its own.
    pub fn attend(&self, from: usize) {
        let Some(link) = &self.links[from] else { return };
        let ClusterSettings { heartbeat_interval: interval, stall_timeout, .. } = self.settings;
        let (beat, mut chunk) = (Frame::Heartbeat.encode(), [0; 4096]);
        let (mut frames, mut assembly) = (Frames::default(), Assembly::default());
        let (mut silence, mut beaten) = (PeerSilence::new(interval), None::<Instant>);
        loop {
            // Compared with half an interval, because received bytes also wake this thread. A wake
            // just before the end of a whole interval would delay the heartbeat by another one.
            if beaten.is_none_or(|at| at.elapsed() >= interval / 2) {
                beaten = Some(Instant::now());
                self.transmit(from, &beat);
            }
            let leaving = self.state().leaving;
            match (&link.stream).read(&mut chunk) {
                Ok(0) => return self.ended(from, link, None),
                Ok(received) => {
                    frames.push(&chunk[..received]);
                    match self.take_all(from, &mut frames, &mut assembly) {
                        Ok(true) => silence.end(),
                        // A part of a frame is no sign of life: it may never become a whole one.
                        Ok(false) if silence.turn() < stall_timeout => {}
                        Ok(false) => return self.lose(self.stalled(from)),
                        Err(cause) => return self.lose(self.seen(from, &cause)),
                    }
                }
                Err(cause) => match cause.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if silence.turn() < stall_timeout => {}
                    io::ErrorKind::WouldBlock => return self.lose(self.stalled(from)),
                    _ => return self.ended(from, link, Some(cause)),
                },
            }
            // While closing, the BYE of a lagging peer is awaited for one more interval.
            if leaving.is_some_and(|at| at.elapsed() >= interval) && self.state().events.is_none() {
                return self.mark_gone(from);
            }
        }
    }

    /// Acts on all whole frames; returns true if there was one. A piece is acknowledged after it
    /// was added to its message. Fails with a text if the peer has broken a rule.
    fn take_all(
        &self,
        from: usize,
        frames: &mut Frames,
        assembly: &mut Assembly,
    ) -> Result<bool, String> {
        let mut is_taken = false;
        while let Some(frame) = frames.next().map_err(|bad| bad.to_string())? {
            match frame {
                Frame::Piece { is_last, bytes } => {
                    let joined = assembly.add(is_last, &bytes).map_err(|bad| bad.to_string())?;
                    self.transmit(from, &Frame::PieceTaken.encode());
                    joined.map_or(Ok(()), |frame| self.take(from, frame))?;
                }
                Frame::PieceTaken => {
                    self.state().pieces_taken[from] += 1;
                    self.changed.notify_all();
                }
                frame => self.take(from, frame)?,
            }
            is_taken = true;
        }
        Ok(is_taken)
    }

    /// Acts on a whole frame. Fails with a text if the peer has broken a rule.
    fn take(&self, from: usize, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Heartbeat | Frame::Piece { .. } | Frame::PieceTaken => {}
            Frame::Figures(bytes) => self.figures.take(from, &bytes),
            Frame::Message(message) => {
                self.check_sender(from, &message)?;
                self.deliver(from, message);
            }
            Frame::Facts { round, bytes } => {
                if self.settings.process != 0 {
                    return Err("it sent facts, which are for process 0".to_owned());
                }
                self.state().rounds.take_facts(from, round, bytes)?;
                self.changed.notify_all();
            }
            Frame::Answer { round, outcome } => {
                if from != 0 {
                    return Err("it sent an answer, which process 0 alone gives".to_owned());
                }
                self.state().rounds.take_answer(round, outcome)?;
                self.changed.notify_all();
            }
            Frame::Lost { process, reporter, cause } => {
                let (process, reporter) = (process as usize, reporter as usize);
                if process.max(reporter) >= self.settings.processes {
                    return Err("it reported a process that is none".to_owned());
                }
                self.lose(Loss::new(&self.settings, process, reporter, &cause));
            }
            Frame::Bye => self.mark_gone(from),
        }
        Ok(())
    }

    /// Checks that the sender may send this message, and that epochs only grow.
    fn check_sender(&self, from: usize, message: &Message) -> Result<(), String> {
        let (epoch, next) = match message {
            Message::Tick { epoch, next } => (*epoch, *next),
            // One more epoch follows the last one, so it must be in range too.
            Message::Stop { epoch, .. } => (*epoch, epoch.saturating_add(1)),
            Message::AskStop { .. } | Message::Other(_) => return Ok(()),
        };
        let mut state = self.state();
        if from != 0 {
            return Err("it sent the end of an epoch, which process 0 alone does".to_owned());
        }
        if epoch < state.open_min || next <= epoch || next > TIME_MAX_MS {
            return Err(format!("it sent the end of epoch {epoch}, before {next}, out of turn"));
        }
        state.open_min = next;
        Ok(())
    }

    /// Marks the link to `peer` as over.
    fn mark_gone(&self, peer: usize) {
        self.state().gone[peer] = true;
        self.changed.notify_all();
    }

    /// Handles the end of a link. Without BYE before it, the peer is lost.
    ///
    /// If the read has no error, the error of a failed write is reported: a write may have taken
    /// the error of the connection before the reader could.
    fn ended(&self, from: usize, link: &PeerLink, cause: Option<io::Error>) {
        if !std::mem::replace(&mut self.state().gone[from], true) {
            let kept = link.write_error.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = cause_of(cause.as_ref().or(kept.as_ref()));
            drop(kept);
            self.lose(self.seen(from, &cause));
        }
        self.changed.notify_all();
    }

    /// Reports that a data socket has broken. Blocks for up to a second.
    ///
    /// In most cases the control link is about to report the cause, so it is awaited. But a data
    /// socket can also break alone, which is a loss of its own.
    pub fn data_broke(&self, peer: usize, cause: Option<&io::Error>) {
        let unexplained = |state: &LinkState| {
            state.cause.is_none() && state.leaving.is_none() && !state.gone[peer]
        };
        let waited = self.changed.wait_timeout_while(self.state(), CAUSE_TIME, |s| unexplained(s));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let alone = unexplained(&state);
        drop(state);
        if alone {
            let cause = cause_of(cause);
            self.lose(self.seen(peer, &format!("on the data link, {cause}")));
        }
    }

    /// Returns a loss that this process has detected.
    fn seen(&self, process: usize, cause: &str) -> Loss {
        Loss::new(&self.settings, process, self.settings.process, cause)
    }

    /// Returns the loss of a silent peer.
    fn stalled(&self, process: usize) -> Loss {
        let after = seconds(self.settings.stall_timeout);
        let why = if self.settings.stall_timeout >= self.settings.link_timeout {
            "though its host answers (stopped?)"
        } else {
            "(stopped, or out of reach)"
        };
        self.seen(process, &format!("silent for {after} s {why}"))
    }
}
