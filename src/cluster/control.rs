//! The control links: what processes tell each other beside the data, and who notices a loss first.
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
//!   close the window of one that does not read; data would, which the kernel takes for a dead peer
//!   too, therefore data sockets have the stall timeout and this link is the only judge.
//! * **Another process says so.** The first cause is passed to everybody before this process acts
//!   on it, on a connection that keeps order: nobody sees the echo (the closing of a survivor)
//!   before the cause. Later causes are never reported.
//!
//! With a cause, the data sockets are shut down, so that no thread of timely waits for a lost peer
//! to take its data. A store that is away has no part in any of this.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::agree::Rounds;
use super::bringup::Sockets;
use super::cause::{Loss, cause_of, seconds};
use super::frame::{Frame, Frames, Message};
use super::inbox::{Event, Inbox};
use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind, Result};

/// How long a control message may wait for room in the kernel before the link counts as broken.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the cause of a broken data socket may take to arrive.
const ECHO_TIME: Duration = Duration::from_secs(1);

/// The control links of this process. Clones are the same links; the last one closes them, which
/// may take two heartbeat intervals.
#[derive(Clone, Debug)]
pub struct Control(Arc<Owner>);

/// Closes the links when the last [`Control`] is dropped; the threads hold `Links` only.
#[derive(Debug)]
struct Owner {
    links: Arc<Links>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(super) struct Links {
    pub(super) settings: ClusterSettings,
    lines: Vec<Option<Line>>,
    /// Handles to timely's sockets and those for blocks, to shut them down.
    data: Vec<TcpStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    /// Held while writing. A write may take the connection's error away from the reader, so it is
    /// kept.
    write_error: Mutex<Option<io::Error>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) cause: Option<Loss>,
    /// Somebody is passing a cause on; it becomes visible when all were told.
    telling: bool,
    /// This process said BYE or closes: what happens to a link no longer matters.
    leaving: Option<Instant>,
    /// Peers whose link is over, by BYE or by its end.
    gone: Vec<bool>,
    pub(super) rounds: Rounds,
    /// Taken away at close, which ends the inbox.
    events: Option<mpsc::Sender<Event>>,
    /// The place of [`Event::Lost`], kept free from the start.
    lost: Option<mpsc::OwnedPermit<Event>>,
}

impl Control {
    /// Starts one thread for each link.
    pub(super) fn start(settings: &ClusterSettings, sockets: &Sockets) -> Result<(Control, Inbox)> {
        let io = |cause: io::Error| {
            Error::new(ErrorKind::Failed, format!("cannot start a control link: {cause}"))
                .cause(cause)
        };
        let (events, inbox) = mpsc::channel(settings.inbox_messages_max + 1);
        let lost = events.clone().try_reserve_owned().ok();
        let mut gone = vec![true; settings.processes];
        let mut lines = Vec::new();
        for (peer, socket) in sockets.control.iter().enumerate() {
            gone[peer] = socket.is_none();
            lines.push(socket.as_ref().map(|s| open(settings, s)).transpose().map_err(io)?);
        }
        let data = sockets.data.iter().chain(&sockets.blocks).flatten().map(TcpStream::try_clone);
        let state = State {
            cause: None,
            telling: false,
            leaving: None,
            gone,
            rounds: Rounds::default(),
            events: Some(events),
            lost,
        };
        let links = Arc::new(Links {
            settings: settings.clone(),
            lines,
            data: data.collect::<io::Result<_>>().map_err(io)?,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let control =
            Control(Arc::new(Owner { links: Arc::clone(&links), threads: Mutex::default() }));
        for peer in links.peers() {
            let links = Arc::clone(&links);
            let thread = std::thread::Builder::new()
                .name(format!("control-{peer}"))
                .spawn(move || links.attend(peer))
                .map_err(io)?;
            control.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok((control, Inbox::new(inbox)))
    }

    /// Sends a message to one process; one to this process arrives in its own inbox.
    ///
    /// # Errors
    /// `PeerLost` once the cluster is over; `Failed` when the message is above 64 KiB.
    pub fn send(&self, to: usize, message: Message) -> Result<()> {
        self.check()?;
        let links = &self.0.links;
        if to == links.settings.process {
            links.deliver(to, message);
            return Ok(());
        }
        links.transmit(to, &encode(&Frame::Message(message))?);
        Ok(())
    }

    /// Sends a message to every other process.
    ///
    /// # Errors
    /// As [`Control::send`].
    pub fn broadcast(&self, message: Message) -> Result<()> {
        self.check()?;
        let bytes = encode(&Frame::Message(message))?;
        let links = &self.0.links;
        links.peers().for_each(|peer| links.transmit(peer, &bytes));
        Ok(())
    }

    /// Makes one decision for the cluster: every process calls this with its facts, process 0
    /// merges them (in order of index) and everybody gets its answer, or its error.
    ///
    /// # Errors The error of `merge`, in every process; `PeerLost` when the cluster ends or
    ///   `timeout` passes.
    pub fn agree(
        &self,
        facts: Vec<u8>,
        timeout: Duration,
        merge: impl FnOnce(Vec<Vec<u8>>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        self.0.links.agree(facts, timeout, merge)
    }

    /// Gives every process the facts of all, in order of index. Together they must stay below 64
    /// KiB.
    ///
    /// # Errors
    /// As [`Control::agree`].
    pub fn gather(&self, facts: Vec<u8>, timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let joined = self.agree(facts, timeout, |all| Ok(super::agree::join(&all)))?;
        super::agree::split(&joined)
            .ok_or_else(|| Error::new(ErrorKind::Failed, "process 0 sent malformed facts"))
    }

    /// Tells every process that this one cannot go on; they end with `cause` and its name. An
    /// earlier cause stands. Returns the cause that counts.
    pub fn fail(&self, cause: &str) -> Loss {
        let links = &self.0.links;
        let own = links.settings.process;
        let loss = Loss::new(&links.settings, own, own, cause);
        links.lose(loss.clone());
        self.cause_within(SEND_TIMEOUT).unwrap_or(loss)
    }

    /// The first cause of the cluster's end, if it is over.
    pub fn cause(&self) -> Option<Loss> {
        self.0.links.state().cause.clone()
    }

    /// Waits for the first cause: a panic of timely may come a moment before it.
    pub fn cause_within(&self, timeout: Duration) -> Option<Loss> {
        let links = &self.0.links;
        let waited =
            links.changed.wait_timeout_while(links.state(), timeout, |state| state.cause.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.cause.clone()
    }

    /// Ends cleanly: says BYE, waits until the others did (at most `timeout`), closes the links.
    ///
    /// Call it when this process's workers and timely's guard are joined: from here on the end of a
    /// link is no loss.
    ///
    /// # Errors
    /// `PeerLost` when the cluster was over before.
    pub fn finish(&self, timeout: Duration) -> Result<()> {
        self.check()?;
        let links = &self.0.links;
        links.state().leaving.get_or_insert_with(Instant::now);
        let bye = encode(&Frame::Bye)?;
        links.peers().for_each(|peer| links.transmit(peer, &bye));
        let waited = links
            .changed
            .wait_timeout_while(links.state(), timeout, |state| state.gone.contains(&false));
        drop(waited);
        self.0.close();
        Ok(())
    }

    pub(super) fn links(&self) -> &Arc<Links> {
        &self.0.links
    }

    fn check(&self) -> Result<()> {
        match self.cause() {
            Some(loss) => Err(loss.into()),
            None => Ok(()),
        }
    }
}

impl Owner {
    fn close(&self) {
        let links = &self.links;
        {
            let mut state = links.state();
            state.leaving.get_or_insert_with(Instant::now);
            state.events = None;
            state.lost = None;
        }
        // The other half stays open for a moment: closing over unread bytes would reset the
        // connection and could take the last frame with it.
        for line in links.lines.iter().flatten() {
            line.stream.shutdown(Shutdown::Write).ok();
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a control link's thread panicked");
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

fn open(settings: &ClusterSettings, stream: &TcpStream) -> io::Result<Line> {
    stream.set_read_timeout(Some(settings.heartbeat_interval))?;
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(Line { stream: stream.try_clone()?, write_error: Mutex::default() })
}

pub(super) fn encode(frame: &Frame) -> Result<Vec<u8>> {
    frame.encode().ok_or_else(|| {
        let limit = super::frame::FRAME_BYTES_MAX;
        Error::new(ErrorKind::Failed, format!("a control message is above {limit} bytes"))
    })
}

impl Links {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changed(&self) -> &Condvar {
        &self.changed
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = usize> {
        let own = self.settings.process;
        (0..self.lines.len()).filter(move |peer| *peer != own)
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

    fn deliver(&self, from: usize, message: Message) {
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
        if let Some(bytes) = lost.encode() {
            // The lost one last: it may only be stopped, and then learns it when it goes on.
            let others = self.peers().filter(|peer| *peer != loss.process);
            others.for_each(|peer| self.transmit(peer, &bytes));
            self.transmit(loss.process, &bytes);
        }
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
    fn attend(&self, from: usize) {
        let Some(line) = self.lines[from].as_ref() else {
            return;
        };
        let beat = Frame::Heartbeat.encode().unwrap_or_default();
        let mut frames = Frames::default();
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
                    if let Err(cause) = self.take_all(from, &mut frames) {
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

    fn take_all(&self, from: usize, frames: &mut Frames) -> Result<(), String> {
        while let Some(frame) = frames.next().map_err(|bad| bad.to_string())? {
            match frame {
                Frame::Heartbeat => {}
                Frame::Message(message) => self.deliver(from, message),
                Frame::Facts { round, bytes } => self.take_facts(from, round, bytes)?,
                Frame::Answer { round, outcome } => self.take_answer(from, round, outcome)?,
                Frame::Lost { process, reporter, cause } => {
                    let (process, reporter) = (process as usize, reporter as usize);
                    if process.max(reporter) >= self.settings.processes {
                        return Err("it reported a process that is none".to_owned());
                    }
                    self.lose(Loss::new(&self.settings, process, reporter, &cause));
                }
                Frame::Bye => self.mark_gone(from),
            }
        }
        Ok(())
    }

    fn mark_gone(&self, peer: usize) {
        self.state().gone[peer] = true;
        self.changed.notify_all();
    }

    fn ended(&self, from: usize, line: &Line, cause: Option<io::Error>) {
        if !std::mem::replace(&mut self.state().gone[from], true) {
            let kept = line.write_error.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = cause_of(cause.as_ref().or(kept.as_ref()), self.settings.link_timeout);
            drop(kept);
            self.lose(self.seen(from, &cause));
        }
        self.changed.notify_all();
    }

    /// A data socket ended in the middle. Mostly that follows from a cause that this link's reader
    /// is about to learn, so it gets a moment; but a data socket can also break alone.
    pub(super) fn data_broke(&self, peer: usize, cause: Option<&io::Error>) {
        let unexplained =
            |state: &State| state.cause.is_none() && state.leaving.is_none() && !state.gone[peer];
        let moment = self.changed.wait_timeout_while(self.state(), ECHO_TIME, |s| unexplained(s));
        let (state, _) = moment.unwrap_or_else(PoisonError::into_inner);
        let alone = unexplained(&state);
        drop(state);
        if alone {
            let cause = cause_of(cause, self.settings.data_timeout());
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
