//! The pace of a job: when an epoch is cut, and how everything ends.
//!
//! One task in process 0 owns the clock. It cuts the open epoch when its time has come, here and,
//! by a tick over the control links, in every other process. When too many epochs wait to be
//! committed, it lets the open one grow longer instead, so that a slow store costs no memory and no
//! line. To stop is to stop reading first, everywhere, and to cut then: what was read is in the
//! last epoch.

use std::sync::Arc;

use tokio::sync::watch;

use super::borders::Borders;
use super::links::Word;
use super::reading::Reading;
use super::status::Status;
use crate::cluster::{Control, Event, Inbox, Message};
use crate::epoch::{Clock, Epoch, Schedule};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::sink::Keeper;
use crate::source::Stop;
use crate::store::{Level, Results};
use crate::supervise::supervise;

/// What the pace of any process needs.
pub(super) struct Process {
    pub(super) borders: Arc<Borders>,
    pub(super) reading: Reading,
    pub(super) control: Control,
    pub(super) inbox: Inbox,
    /// The wish of this process's user to stop.
    pub(super) stop: Stop,
    pub(super) status: watch::Sender<Status>,
    pub(super) failure: Failure,
    /// The results that wait to be stored.
    pub(super) results: Results,
    /// What is to be told of commits, too.
    pub(super) keeper: Option<Keeper>,
}

impl Process {
    /// Closes `epoch` here and opens `next`.
    fn cut(&self, next: Epoch) -> Epoch {
        let epoch = self.status.borrow().open;
        self.status.send_modify(|status| {
            status.in_flight.push_back(epoch);
            status.open = next;
        });
        self.borders.cut(next);
        epoch
    }

    /// Fails with `PeerLost` unless `epoch`, which process 0 has ended, is open here.
    fn check_end(&self, epoch: Epoch) -> Result<()> {
        let open = self.status.borrow().open;
        if epoch == open {
            return Ok(());
        }
        let message = format!("process 0 ended epoch {epoch}, but epoch {open} is open here");
        Err(Error::new(ErrorKind::PeerLost, message))
    }

    /// Fails with `PeerLost` if `epoch`, which process 0 has committed, is not closed here.
    fn check_committed(&self, epoch: Epoch) -> Result<()> {
        let open = self.status.borrow().open;
        if epoch < open {
            return Ok(());
        }
        let message = format!("process 0 committed epoch {epoch}, but epoch {open} is open here");
        Err(Error::new(ErrorKind::PeerLost, message))
    }

    /// Notes that process 0 has committed `epoch` and all before it.
    fn committed(&self, epoch: Epoch) {
        self.borders.committed(epoch);
        if let Some(keeper) = &self.keeper {
            keeper.committed(epoch);
        }
        self.status.send_modify(|status| status.committed_through(epoch));
    }

    /// The next message of another process; the loss of one ends the job.
    async fn message(inbox: &mut Inbox, failure: &Failure) -> (usize, Message) {
        loop {
            match inbox.recv().await {
                Some(Event::Received { from, message }) => return (from, message),
                Some(Event::Lost(loss)) => failure.fail(loss.into()),
                // The links are closed: nobody has anything to say any more.
                None => std::future::pending().await,
            }
        }
    }

    /// Ends the job when all that a kept journal holds is handed over: there is nothing to cut.
    pub(super) async fn replay(mut self) -> Result<()> {
        let failure = self.failure.clone();
        let ended = tokio::select! {
            ended = self.reading.ended() => ended,
            () = failure.failed() => return Ok(()),
        };
        ended?;
        self.borders.end();
        self.listen().await
    }

    /// Listens on after the last cut: a peer may still be lost before all is committed.
    async fn listen(mut self) -> Result<()> {
        loop {
            Self::message(&mut self.inbox, &self.failure).await;
        }
    }
}

/// Cuts the epochs of a job: the part of process 0.
pub(super) struct Leader {
    pub(super) process: Process,
    pub(super) processes: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) schedule: Schedule,
    pub(super) epochs: Option<u64>,
    pub(super) in_flight_max: usize,
}

impl Leader {
    /// Runs until the job is to end, then ends it.
    pub(super) async fn run(mut self) -> Result<()> {
        let failure = self.process.failure.clone();
        if self.processes > 1 {
            let (status, control) = (self.process.status.subscribe(), self.process.control.clone());
            let runtime = tokio::runtime::Handle::current();
            supervise(&failure, &runtime, "report commits", tell_commits(status, control));
        }
        let ended = tokio::select! {
            ended = self.pace() => ended,
            // The sources go with `self`; the workers have been woken to leave.
            () = failure.failed() => return Ok(()),
        };
        ended.and_then(|()| self.cut(true))?;
        self.process.borders.end();
        self.process.listen().await
    }

    /// Cuts epoch after epoch; returns when reading has ended everywhere and the last cut is due.
    async fn pace(&mut self) -> Result<()> {
        let mut cuts = 0;
        let mut reading = vec![true; self.processes];
        while reading.contains(&true) {
            let Process { inbox, failure, stop, status, results, reading: own, .. } =
                &mut self.process;
            let due = due(&*self.clock, &self.schedule, status, results, self.in_flight_max);
            tokio::select! {
                biased;
                () = stop.stopped() => return self.stop_reading(reading).await,
                ended = own.ended(), if reading[0] => {
                    ended?;
                    reading[0] = false;
                }
                (from, message) = Process::message(inbox, failure) => {
                    note_ended(&mut reading, from, &message);
                }
                () = due => {
                    cuts += 1;
                    if Some(cuts) == self.epochs {
                        return self.stop_reading(reading).await;
                    }
                    self.cut(false)?;
                }
            }
        }
        Ok(())
    }

    /// Stops reading everywhere and waits until all that was read is handed over.
    async fn stop_reading(&mut self, mut reading: Vec<bool>) -> Result<()> {
        let Process { inbox, failure, control, reading: own, .. } = &mut self.process;
        control.broadcast(Word::StopReading.message())?;
        own.stop().await?;
        reading[0] = false;
        while reading.contains(&true) {
            let (from, message) = Process::message(inbox, failure).await;
            note_ended(&mut reading, from, &message);
        }
        Ok(())
    }

    /// Closes the open epoch everywhere and opens the next; the last one for good.
    fn cut(&mut self, last: bool) -> Result<()> {
        if let Some(jump) = self.schedule.advance(self.clock.wall_ms(), self.clock.monotonic()) {
            let by_s = jump.by_ms as f64 / 1e3;
            tracing::warn!("the wall clock was moved by {by_s:+.1} s; epochs go on counting up");
        }
        let next = self.schedule.open();
        let epoch = self.process.cut(next);
        self.process.control.broadcast(if last {
            let was_told = self.process.stop.is_stopped();
            let reason = if was_told { "process 0 was told to stop" } else { "" };
            Message::Stop { epoch, reason: reason.to_owned() }
        } else {
            Message::Tick { epoch, next }
        })
    }
}

fn note_ended(reading: &mut [bool], from: usize, message: &Message) {
    match message {
        Message::Other(bytes) if Word::parse(bytes) == Some(Word::ReadingEnded) => {
            reading[from] = false;
        }
        other => tracing::debug!(from, ?other, "a message that says nothing now"),
    }
}

/// Tells the other processes what is committed.
async fn tell_commits(mut status: watch::Receiver<Status>, control: Control) -> Result<()> {
    let mut told = 0;
    let newest = |status: &Status| status.last.as_ref().map_or(0, |last| last.epoch);
    while let Ok(committed) = status.wait_for(|status| newest(status) > told).await {
        told = newest(&committed);
        drop(committed);
        // It fails when a peer is lost, which the inbox reports.
        if control.broadcast(Word::Committed(told).message()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Resolves when the open epoch is due and there is room for it in the dataflow.
async fn due(
    clock: &dyn Clock,
    schedule: &Schedule,
    status: &watch::Sender<Status>,
    results: &Results,
    in_flight_max: usize,
) {
    clock.wait_until(schedule.deadline()).await;
    let (mut status, mut level) = (status.subscribe(), results.level());
    while !has_room(&status.borrow_and_update(), &level.borrow_and_update(), in_flight_max) {
        // Both senders are ours, so there is a change whenever this goes on.
        tokio::select! {
            _ = status.changed() => {}
            _ = level.changed() => {}
        }
    }
}

/// Epochs that may be in flight while the store is away.
const AWAY_MAX: usize = 1024;

/// Returns whether one more epoch may be in flight.
///
/// While the store takes objects, a small number may, and the open epoch grows if commits are
/// slow. While it is away, epochs whose results are encoded only wait, at the cost of a file each,
/// and an open epoch that grew for all that time could take any amount of memory.
fn has_room(status: &Status, level: &Level, in_flight_max: usize) -> bool {
    let in_flight = status.in_flight.len();
    let counted = status.in_flight.iter().filter(|epoch| **epoch > level.encoded).count();
    in_flight < in_flight_max
        || level.is_away && level.has_room && in_flight < AWAY_MAX && counted < in_flight_max
}

/// Applies what process 0 decides: the part of every other process.
pub(super) struct Follower(pub(super) Process);

impl Follower {
    /// Runs until process 0 has ended the job.
    pub(super) async fn run(mut self) -> Result<()> {
        let failure = self.0.failure.clone();
        let ended = tokio::select! {
            ended = self.follow() => ended,
            () = failure.failed() => return Ok(()),
        };
        ended?;
        self.0.listen().await
    }

    async fn follow(&mut self) -> Result<()> {
        let mut reading = true;
        loop {
            let Process { inbox, failure, reading: own, control, .. } = &mut self.0;
            tokio::select! {
                biased;
                ended = own.ended(), if reading => {
                    ended?;
                    reading = false;
                    control.send(0, Word::ReadingEnded.message())?;
                }
                (_, message) = Process::message(inbox, failure) => match message {
                    Message::Tick { epoch, next } => {
                        self.0.check_end(epoch)?;
                        self.0.cut(next);
                    }
                    Message::Stop { epoch, reason } => {
                        self.0.check_end(epoch)?;
                        if !reason.is_empty() {
                            self.0.stop.stop();
                        }
                        self.0.cut(epoch + 1);
                        self.0.borders.end();
                        return Ok(());
                    }
                    Message::Other(word) => match Word::parse(&word) {
                        Some(Word::Committed(epoch)) => {
                            self.0.check_committed(epoch)?;
                            self.0.committed(epoch);
                        }
                        Some(Word::StopReading) if std::mem::take(&mut reading) => {
                            own.stop().await?;
                            control.send(0, Word::ReadingEnded.message())?;
                        }
                        other => tracing::debug!(?other, "a word that says nothing now"),
                    },
                    other => tracing::debug!(?other, "a message that says nothing now"),
                },
            }
        }
    }
}
