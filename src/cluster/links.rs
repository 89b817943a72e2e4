//! The control links: one quiet connection for each pair of processes, and who notices a loss
//! first.
//!
//! Timely's own sockets know a lost peer only as a panic, late or never. So each pair of processes
//! has a second, quiet connection, and this rule says when a peer is lost:
//!
//! * **Its connection ended without BYE** (the process died, or its host said so): at once.
//! * **Its host acknowledges nothing for `link_timeout`** (7 s; cut cable, dead host): each side
//!   sends a heartbeat about every half second, so there is always something to acknowledge, and
//!   the kernel ends the connection by `TCP_USER_TIMEOUT`: within 8 s of the cut, with the slack of
//!   its timers. A cut of 3 s heals: a kernel that sends again at 0.2, 0.6, 1.4, 3.0 and 6.2 s
//!   meets the healed link before 7 s, whatever the phase, because the limit is more than twice the
//!   cut plus one retransmission timeout.
//! * **It is silent for `stall_timeout`** (60 s) though its host acknowledges: the process is
//!   stopped (`SIGSTOP`, debugger, paused machine). A stopped process's kernel still acknowledges,
//!   so missing heartbeats alone must not end a run after 7 s. Control frames are too small to
//!   close the window of a process that does not read, and long messages wait for it piece by
//!   piece.
//!
//! The data sockets are no judges. Under load the window of a slow peer closes for as long as it
//! takes (a store outage lasts hours), which the kernel would count as a peer that acknowledges
//! nothing. So they have no `TCP_USER_TIMEOUT`.
//!
//! * **Another process reports it.** The first cause is passed to everybody before this process
//!   acts on it, on a connection that keeps order: nobody sees the echo (the closing of a survivor)
//!   before the cause. Later causes are never reported.
//!
//! With a cause, the data sockets are shut down, so that no thread of timely waits for a lost peer
//! to take its data. A store that is away has no part in any of this.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::bringup::Sockets;
use super::cause::{Loss, cause_of, seconds};
use super::frame::{
    Assembly, Frame, Frames, MESSAGE_BYTES_MAX, Message, PIECE_BYTES, too_long, with_length,
};
use super::inbox::{Event, Inbox};
use super::rounds::Rounds;
use super::settings::ClusterSettings;
use crate::epoch::{Epoch, TIME_MAX_MS};

/// How long a control message may wait for room in the kernel before the link counts as broken.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the cause of a broken data socket may take to arrive.
const ECHO_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ControlLinks {
    pub(super) settings: ClusterSettings,
    lines: Vec<Option<PeerLink>>,
    /// Handles to timely's sockets and those for blocks, to shut them down.
    data: Vec<TcpStream>,
    state: Mutex<LinkState>,
    changed: Condvar,
    /// The first process that asked for a stop, and its reason.
    stop_asked: watch::Sender<Option<(usize, String)>>,
}

#[derive(Debug)]
struct PeerLink {
    stream: TcpStream,
    /// Held while writing. A write may take the connection's error away from the reader, so it is
    /// kept.
    write_error: Mutex<Option<io::Error>>,
    /// Held while the pieces of a message are sent: those of two must not mix.
    long_message: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) cause: Option<Loss>,
    /// Somebody is passing a cause on; it becomes visible when all were told.
    telling: bool,
    /// This process said BYE or closes: what happens to a link no longer matters.
    pub(super) leaving: Option<Instant>,
    /// Peers whose link is over, by BYE or by its end.
    pub(super) gone: Vec<bool>,
    /// Pieces that each peer has taken.
    pieces_taken: Vec<u64>,
    pub(super) rounds: Rounds,
    /// Nobody waits for a decision any more: the start was stopped.
    pub(super) is_interrupted: bool,
    /// No epoch below this one is open in process 0.
    open_min: Epoch,
    /// Taken away at close, which ends the inbox.
    events: Option<mpsc::Sender<Event>>,
    /// The place of [`Event::Lost`], kept free from the start.
    lost: Option<mpsc::OwnedPermit<Event>>,
}

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
    /// Takes over the control sockets, and handles of the others.
    pub(super) fn open(
        settings: &ClusterSettings,
        sockets: &Sockets,
    ) -> io::Result<(ControlLinks, Inbox)> {
        let (events, inbox) = mpsc::channel(settings.inbox_messages_max + 1);
        let lost = events.clone().try_reserve_owned().ok();
        let mut gone = vec![true; settings.processes];
        let mut lines = Vec::new();
        for (peer, socket) in sockets.control.iter().enumerate() {
            gone[peer] = socket.is_none();
            lines.push(socket.as_ref().map(|socket| open(settings, socket)).transpose()?);
        }
        let data = sockets.data.iter().chain(&sockets.blocks).flatten().map(TcpStream::try_clone);
        let state = LinkState {
            cause: None,
            telling: false,
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
            lines,
            data: data.collect::<io::Result<_>>()?,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop_asked: watch::Sender::new(None),
        };
        Ok((links, Inbox::new(inbox)))
    }

    /// Ends the inbox and this process's direction of each link.
    pub(super) fn close(&self) {
        {
            let mut state = self.state();
            state.leaving.get_or_insert_with(Instant::now);
            state.events = None;
            state.lost = None;
        }
        // The other half stays open for a moment: closing over unread bytes would reset the
        // connection and could take the last frame with it.
        for line in self.lines.iter().flatten() {
            let _ = line.stream.shutdown(Shutdown::Write); // an ended link has nothing to shut
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changed(&self) -> &Condvar {
        &self.changed
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = usize> {
        let own = self.settings.process;
        (0..self.lines.len()).filter(move |peer| *peer != own)
    }

    /// Sends a frame of any length to each of `peers`. A long one waits until they have taken it,
    /// or until it no longer matters.
    ///
    /// Fails with `Failed` if the message is above the limit.
    pub(super) fn send(
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

    /// Sends a message piece by piece. Other frames may go in between; a peer that takes no more
    /// pieces is found by the thread that reads its link.
    fn transmit_pieces(&self, to: usize, body: &[u8]) {
        let Some(line) = self.lines.get(to).and_then(Option::as_ref) else {
            return;
        };
        let _alone = line.long_message.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Writes to a peer. A failure is kept for the reader of the link, which knows what came before
    /// it.
    pub(super) fn transmit(&self, to: usize, bytes: &[u8]) {
        let Some(line) = self.lines.get(to).and_then(Option::as_ref) else {
            return;
        };
        let mut error = line.write_error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some() {
            return;
        }
        if let Err(cause) = (&line.stream).write_all(bytes) {
            // Half a frame may be out: nothing more can be said on this link.
            if cause.kind() == io::ErrorKind::WouldBlock {
                line.stream.shutdown(Shutdown::Both).ok();
            }
            *error = Some(cause);
        }
    }

    pub(super) fn deliver(&self, from: usize, message: Message) {
        if let Message::AskStop { reason } = &message {
            // Also before anybody reads the inbox. Asking again is the same stop.
            self.stop_asked.send_if_modified(|asked| {
                let is_first = asked.is_none();
                asked.get_or_insert_with(|| (from, reason.clone()));
                is_first
            });
        }
        let full = match &self.state().events {
            Some(events) => matches!(
                events.try_send(Event::Received { from, message }),
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

    /// Waits until another process asks for a stop; returns its index and its reason.
    pub(super) async fn stop_asked(&self) -> (usize, String) {
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

    /// Returns true if another process has asked for a stop.
    pub(super) fn is_stop_asked(&self) -> bool {
        self.stop_asked.borrow().is_some()
    }

    /// The first cause wins: tells all others, frees timely, then makes it visible here.
    pub(super) fn lose(&self, loss: Loss) {
        {
            let mut state = self.state();
            if state.telling || state.leaving.is_some() {
                tracing::debug!(%loss, "a later loss");
                return;
            }
            state.telling = true;
        }
        let lost = Frame::Lost {
            process: loss.process as u32,
            reporter: loss.reporter as u32,
            cause: loss.cause.clone(),
        };
        let bytes = lost.encode();
        // The lost one last: it may only be stopped, and then learns it when it goes on.
        let others = self.peers().filter(|peer| *peer != loss.process);
        others.for_each(|peer| self.transmit(peer, &bytes));
        self.transmit(loss.process, &bytes);
        for socket in &self.data {
            socket.shutdown(Shutdown::Both).ok();
        }
        let mut state = self.state();
        state.cause = Some(loss.clone());
        if let Some(place) = state.lost.take() {
            place.send(Event::Lost(loss));
        }
        self.changed.notify_all();
    }

    /// The life of one link's thread.
    pub(super) fn attend(&self, from: usize) {
        let Some(line) = self.lines[from].as_ref() else {
            return;
        };
        let beat = Frame::Heartbeat.encode();
        let (mut frames, mut assembly) = (Frames::default(), Assembly::default());
        let mut chunk = [0; 4096];
        let mut heard = Instant::now();
        let mut beaten: Option<Instant> = None;
        loop {
            let interval = self.settings.heartbeat_interval;
            // Half an interval: what arrives wakes this thread too, and just before the whole one
            // has passed it would put the heartbeat off by another.
            if beaten.is_none_or(|at| at.elapsed() >= interval / 2) {
                beaten = Some(Instant::now());
                self.transmit(from, &beat);
            }
            let leaving = self.state().leaving;
            match (&line.stream).read(&mut chunk) {
                Ok(0) => return self.ended(from, line, None),
                Ok(received) => {
                    heard = Instant::now();
                    frames.push(&chunk[..received]);
                    if let Err(cause) = self.take_all(from, &mut frames, &mut assembly) {
                        return self.lose(self.seen(from, &cause));
                    }
                }
                Err(cause) => match cause.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if heard.elapsed() < self.settings.stall_timeout => {}
                    io::ErrorKind::WouldBlock => return self.lose(self.stalled(from)),
                    _ => return self.ended(from, line, Some(cause)),
                },
            }
            // Closing: give a slow peer's BYE one more interval, no more.
            if leaving.is_some_and(|at| at.elapsed() >= interval) && self.state().events.is_none() {
                return self.mark_gone(from);
            }
        }
    }

    fn take_all(
        &self,
        from: usize,
        frames: &mut Frames,
        assembly: &mut Assembly,
    ) -> Result<(), String> {
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
        }
        Ok(())
    }

    /// Acts on a whole frame. Fails if no process that follows the rules could have sent it.
    fn take(&self, from: usize, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Heartbeat | Frame::Piece { .. } | Frame::PieceTaken => {}
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

    /// Checks that a message comes from a process that may send it, and that epochs only grow.
    fn check_sender(&self, from: usize, message: &Message) -> Result<(), String> {
        let (epoch, next) = match message {
            Message::Tick { epoch, next } => (*epoch, *next),
            // One more follows, for which there must be room.
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

    fn mark_gone(&self, peer: usize) {
        self.state().gone[peer] = true;
        self.changed.notify_all();
    }

    fn ended(&self, from: usize, line: &PeerLink, cause: Option<io::Error>) {
        if !std::mem::replace(&mut self.state().gone[from], true) {
            let kept = line.write_error.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = cause_of(cause.as_ref().or(kept.as_ref()));
            drop(kept);
            self.lose(self.seen(from, &cause));
        }
        self.changed.notify_all();
    }

    /// A data socket ended in the middle. Mostly that follows from a cause that this link's reader
    /// is about to learn, so it gets a moment; but a data socket can also break alone.
    pub(super) fn data_broke(&self, peer: usize, cause: Option<&io::Error>) {
        let unexplained = |state: &LinkState| {
            state.cause.is_none() && state.leaving.is_none() && !state.gone[peer]
        };
        let moment = self.changed.wait_timeout_while(self.state(), ECHO_TIME, |s| unexplained(s));
        let (state, _) = moment.unwrap_or_else(PoisonError::into_inner);
        let alone = unexplained(&state);
        drop(state);
        if alone {
            let cause = cause_of(cause);
            self.lose(self.seen(peer, &format!("on the data link, {cause}")));
        }
    }

    fn seen(&self, process: usize, cause: &str) -> Loss {
        Loss::new(&self.settings, process, self.settings.process, cause)
    }

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
