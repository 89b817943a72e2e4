//! The driver of a job's epochs: waits for what can happen, and takes the actions that the rule
//! returns.
//!
//! One task in process 0 owns the clock. It cuts the open epoch here and, by a tick over the
//! control links, in every other process. The rules are [`EpochLeader`], [`EpochRoom`] and
//! [`EpochFollower`]. When too many epochs wait to be committed, the open one grows longer instead,
//! so that a slow store costs no memory and no line.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::control_messages::ControlMessage;
use super::epoch_progress::EpochProgress;
use super::running_sources::RunningSources;
use super::status::Status;
use crate::cluster::{Control, ControlEvent, Inbox, Message};
use crate::epoch::{Clock, Epoch, Jump};
use crate::epochs::{
    EpochAction, EpochEvent, EpochFollower, EpochLeader, EpochRoom, FollowerAction, FollowerEvent,
    Moment, OutOfStep,
};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::file_lock::HeldLocks;
use crate::meters::{Meters, Phase};
use crate::outputs::Changelog;
use crate::sources::Stop;
use crate::store::{Level, PendingResults};
use crate::supervise::{self, supervise};

/// The parts of a process that its epochs act on.
pub struct EpochProcess {
    /// Cuts and commits on their way to the logs.
    pub progress: Arc<EpochProgress>,
    /// The sources, which end by themselves or are stopped.
    pub reading: RunningSources,
    /// Sends to the other processes.
    pub control: Control,
    /// The messages of the other processes, and their loss.
    pub inbox: Inbox,
    /// Set when this process is asked to stop.
    pub stop: Stop,
    /// The status that the handle of the job shows.
    pub status: watch::Sender<Status>,
    /// Ends the job with its first cause.
    pub failure: Failure,
    /// The results that wait to be stored.
    pub results: PendingResults,
    /// The changelog, which is notified of commits; `None` in a job without state.
    pub changelog: Option<Changelog>,
    /// The locks of this process, in which the end of the run is noted.
    pub locks: HeldLocks,
    /// The figures of the process.
    pub meters: Meters,
}

impl EpochProcess {
    /// Cuts the open epoch here and opens `next`: in the status, in the figures and in the logs.
    /// Returns the epoch that was cut.
    fn cut(&self, next: Epoch) -> Epoch {
        let epoch = self.status.borrow().open;
        self.status.send_modify(|status| {
            status.in_flight.push_back(epoch);
            status.open = next;
        });
        self.meters.epochs().cut(epoch, next);
        self.progress.cut(next);
        epoch
    }

    /// Enters the phase of the end, because of `reason`, and notes it for a start that waits.
    fn enter_stopping(&self, reason: &str) {
        self.meters.enter(Phase::Stopping, reason);
        let locks = self.locks.clone();
        // A file may take its time, and nothing waits for it.
        supervise::aside(&tokio::runtime::Handle::current(), move || locks.note_end());
    }

    /// Notes that process 0 has committed `epoch` and all before it: the journals may give their
    /// room back, and the changelog may be merged.
    fn committed(&self, epoch: Epoch) {
        self.progress.committed(epoch);
        if let Some(changelog) = &self.changelog {
            changelog.committed(epoch);
        }
        self.status.send_modify(|status| status.committed_through(epoch));
        self.meters.epochs().committed_through(epoch);
    }

    /// Returns the next message of another process, with its index. The loss of a process fails the
    /// job, and nothing is returned then.
    async fn message(inbox: &mut Inbox, failure: &Failure) -> (usize, Message) {
        loop {
            match inbox.recv().await {
                Some(ControlEvent::Received { from, message }) => return (from, message),
                Some(ControlEvent::Lost(loss)) => failure.fail(loss.into()),
                // The links are closed: no message can come any more.
                None => std::future::pending().await,
            }
        }
    }

    /// Ends the job when all that a kept journal holds is handed over: there is nothing to cut.
    ///
    /// Fails with the error of the journal, if it cannot be read to its end.
    pub async fn replay(mut self) -> Result<()> {
        let failure = self.failure.clone();
        let ended = tokio::select! {
            ended = self.reading.ended() => ended,
            () = failure.failed() => return Ok(()),
        };
        ended?;
        self.progress.end();
        self.listen().await
    }

    /// Listens on after the last cut: a peer may still be lost before all is committed.
    async fn listen(mut self) -> Result<()> {
        loop {
            Self::message(&mut self.inbox, &self.failure).await;
        }
    }
}

/// Drives the epochs of a job: the part of process 0.
pub struct Leader {
    /// The parts of this process.
    pub process: EpochProcess,
    /// The number of processes.
    pub processes: usize,
    /// The clock, of which epochs get their names.
    pub clock: Arc<dyn Clock>,
    /// The rule by which epochs are cut.
    pub epochs: EpochLeader,
    /// The rule by which there is room for one more epoch.
    pub room: EpochRoom,
}

impl Leader {
    /// Runs until the job is to end, then ends it.
    pub async fn run(self) -> Result<()> {
        let failure = self.process.failure.clone();
        if self.processes > 1 {
            let (status, control) = (self.process.status.subscribe(), self.process.control.clone());
            let runtime = tokio::runtime::Handle::current();
            supervise(&failure, &runtime, "report commits", report_commits(status, control));
        }
        let pulse = failure.pulse().clone();
        pulse.accompany(self.lead_and_listen(&failure)).await
    }

    /// Runs until the last cut or a failure, then listens for the loss of a peer.
    async fn lead_and_listen(mut self, failure: &Failure) -> Result<()> {
        tokio::select! {
            ended = self.lead() => ended?,
            // The sources go with `self`; the workers have been woken to leave.
            () = failure.failed() => return Ok(()),
        }
        self.process.listen().await
    }

    /// Passes each event to the rule and does what it asks for; returns after the last cut.
    ///
    /// An action can be an event itself: when reading has stopped here, its end goes in at once.
    /// Fails with the error of a source, and with `PeerLost` if a link is closed.
    async fn lead(&mut self) -> Result<()> {
        loop {
            let Some(mut event) = self.next_event().await? else { continue };
            'actions: loop {
                let now =
                    Moment { wall_ms: self.clock.wall_ms(), monotonic: self.clock.monotonic() };
                for action in self.epochs.take(event, now) {
                    match action {
                        EpochAction::ReportJump(jump) => report_jump(jump),
                        EpochAction::Cut { epoch, next } => self.cut(epoch, next)?,
                        EpochAction::End { epoch, next } => return self.end(epoch, next),
                        EpochAction::StopReading => {
                            self.process.enter_stopping("reading has stopped");
                            let EpochProcess { control, reading, .. } = &mut self.process;
                            control.broadcast(ControlMessage::StopReading.encode()?)?;
                            reading.stop().await?;
                            event = EpochEvent::ReadingEnded(0);
                            continue 'actions;
                        }
                    }
                }
                break;
            }
        }
    }

    /// Waits for what happens next; `None` for a message that means nothing to the epochs. A stop
    /// is looked at before the end of the sources, and both before time.
    async fn next_event(&mut self) -> Result<Option<EpochEvent>> {
        let EpochProcess { inbox, failure, stop, status, results, reading, progress, .. } =
            &mut self.process;
        let is_reading = self.epochs.is_reading();
        // A copy, because a report of another process changes the rule's figures meanwhile.
        let deadline = self.epochs.deadline();
        let due = due(&*self.clock, deadline, status, results, self.room.clone());
        Ok(tokio::select! {
            // A stop goes first, then what was read, then time.
            biased;
            () = stop.stopped(), if is_reading => Some(EpochEvent::StopAsked),
            ended = reading.ended(), if is_reading && self.epochs.reads(0) => {
                ended?;
                Some(EpochEvent::ReadingEnded(0))
            }
            (from, message) = EpochProcess::message(inbox, failure) => {
                let known = match &message {
                    Message::Other(bytes) => ControlMessage::decode(bytes),
                    _ => None,
                };
                match known {
                    Some(ControlMessage::ReadingEnded) => Some(EpochEvent::ReadingEnded(from)),
                    Some(ControlMessage::Encoded(epoch)) => {
                        self.room.encoded(from, epoch);
                        None
                    }
                    _ => {
                        tracing::debug!(from, ?message, "a message that means nothing now");
                        None
                    }
                }
            }
            () = due, if is_reading => Some(EpochEvent::Due),
            () = nearly_due(&*self.clock, deadline), if is_reading => {
                progress.sync_ahead();
                None
            }
        })
    }

    /// Cuts the open epoch in every process and opens the next.
    fn cut(&self, epoch: Epoch, next: Epoch) -> Result<()> {
        self.process.cut(next);
        self.process.control.broadcast(Message::Tick { epoch, next })
    }

    /// Cuts the open epoch in every process for good. The others get the reason for their logs, if
    /// there is one.
    fn end(&self, epoch: Epoch, next: Epoch) -> Result<()> {
        self.process.enter_stopping("all sources have ended");
        self.process.cut(next);
        let was_told = self.process.stop.is_stopped();
        let reason = if was_told { "process 0 was told to stop" } else { "" };
        self.process.control.broadcast(Message::Stop { epoch, reason: reason.to_owned() })?;
        self.process.progress.end();
        Ok(())
    }
}

/// Warns that the wall clock was moved. Names of epochs go on counting up.
fn report_jump(jump: Jump) {
    let by_s = jump.by_ms as f64 / 1e3;
    tracing::warn!("the wall clock was moved by {by_s:+.1} s; epochs go on counting up");
}

/// Reports to the other processes what is committed. Epochs that are committed while a report is
/// sent are in the next one: it names the newest.
async fn report_commits(mut status: watch::Receiver<Status>, control: Control) -> Result<()> {
    let mut told = 0;
    let newest = |status: &Status| status.last.as_ref().map_or(0, |last| last.epoch);
    while let Ok(committed) = status.wait_for(|status| newest(status) > told).await {
        told = newest(&committed);
        drop(committed);
        // It fails when a peer is lost, which the inbox reports.
        if control.broadcast(ControlMessage::Committed(told).encode()?).is_err() {
            break;
        }
    }
    Ok(())
}

/// Resolves when the open epoch is due and there is room for it in the dataflow.
async fn due(
    clock: &dyn Clock,
    deadline: Duration,
    status: &watch::Sender<Status>,
    results: &PendingResults,
    room: EpochRoom,
) {
    punctual(clock, deadline).await;
    let (mut status, mut level) = (status.subscribe(), results.level());
    let is_left = |status: &Status, level: &Level| {
        let results_may_wait = level.is_away && level.has_room;
        let encoded = (level.encoded, level.encoded_bytes);
        room.is_left(&status.in_flight, encoded, results_may_wait)
    };
    while !is_left(&status.borrow_and_update(), &level.borrow_and_update()) {
        // Both senders are ours, so there is a change whenever this goes on.
        tokio::select! {
            _ = status.changed() => {}
            _ = level.changed() => {}
        }
    }
}

/// The time before the end of an epoch at which the journals are synced, so that the sync of the
/// end itself has little to write. A few megabytes take a disk so long.
const SYNC_AHEAD: Duration = Duration::from_millis(25);

/// Resolves [`SYNC_AHEAD`] before `deadline`; never if that has passed, so once for an epoch.
async fn nearly_due(clock: &dyn Clock, deadline: Duration) {
    let at = deadline.saturating_sub(SYNC_AHEAD);
    if clock.monotonic() >= at {
        return std::future::pending().await;
    }
    clock.wait_until(at).await;
}

/// Time by which a timer of the runtime may be late. They go by whole milliseconds.
const TIMER_STEP: Duration = Duration::from_millis(2);

/// Resolves at `deadline` and not a step of the runtime's timers later.
async fn punctual(clock: &dyn Clock, deadline: Duration) {
    clock.wait_until(deadline.saturating_sub(TIMER_STEP)).await;
    let left = deadline.saturating_sub(clock.monotonic()).min(TIMER_STEP);
    if !left.is_zero() {
        supervise::blocking(move || std::thread::park_timeout(left)).await;
    }
    // A thread may be woken early, and a test has a clock of its own.
    if clock.monotonic() < deadline {
        clock.wait_until(deadline).await;
    }
}

/// Reports to process 0 what is encoded here.
async fn report_encoded(results: PendingResults, control: Control) -> Result<()> {
    let (mut level, mut told) = (results.level(), 0);
    while let Ok(newer) = level.wait_for(|level| level.encoded > told).await {
        told = newer.encoded;
        drop(newer);
        // It fails when process 0 is lost, which the inbox reports.
        if control.send(0, ControlMessage::Encoded(told).encode()?).is_err() {
            break;
        }
    }
    Ok(())
}

/// Drives the epochs of every other process: applies what process 0 decides.
pub struct Follower {
    /// The parts of this process.
    pub process: EpochProcess,
    /// The rule by which the decisions of process 0 are applied.
    pub epochs: EpochFollower,
}

impl Follower {
    /// Runs until process 0 has ended the job.
    pub async fn run(mut self) -> Result<()> {
        let failure = self.process.failure.clone();
        let pulse = failure.pulse().clone();
        let (results, control) = (self.process.results.clone(), self.process.control.clone());
        let report = report_encoded(results, control);
        supervise(&failure, &tokio::runtime::Handle::current(), "report results", report);
        let follow = async move {
            tokio::select! {
                out_of_step = self.follow() => out_of_step,
                () = failure.failed() => Ok(()),
            }
        };
        pulse.accompany(follow).await
    }

    /// Passes each event to the rule and does what it asks for; also after the last cut, when the
    /// last epochs are committed. Returns only with an error.
    async fn follow(&mut self) -> Result<()> {
        let mut next = None;
        loop {
            let event = match next.take() {
                Some(event) => event,
                None => match self.next_event().await? {
                    Some(event) => event,
                    None => continue,
                },
            };
            let action = self.epochs.take(event).map_err(out_of_step)?;
            let Some(action) = action else { continue };
            match action {
                FollowerAction::Cut(next) => drop(self.process.cut(next)),
                // The changelog is not merged any more: process 0 may be removing it.
                FollowerAction::Commit(epoch) if self.epochs.has_ended() => {
                    self.process.changelog = None;
                    self.process.committed(epoch);
                }
                FollowerAction::Commit(epoch) => self.process.committed(epoch),
                FollowerAction::StopReading => {
                    self.process.enter_stopping("process 0 stops reading");
                    self.process.reading.stop().await?;
                    next = Some(FollowerEvent::ReadingEnded);
                }
                FollowerAction::ReportReadingEnded => {
                    let ended = ControlMessage::ReadingEnded.encode()?;
                    self.process.control.send(0, ended)?;
                }
                FollowerAction::End(next) => {
                    self.process.enter_stopping("process 0 has ended the last epoch");
                    self.process.cut(next);
                    self.process.progress.end();
                }
            }
        }
    }

    /// Waits for what happens next; `None` for a message that means nothing to the epochs.
    async fn next_event(&mut self) -> Result<Option<FollowerEvent>> {
        let EpochProcess { inbox, failure, reading, stop, .. } = &mut self.process;
        tokio::select! {
            biased;
            ended = reading.ended(), if self.epochs.is_reading() => {
                ended?;
                Ok(Some(FollowerEvent::ReadingEnded))
            }
            (_, message) = EpochProcess::message(inbox, failure) => {
                let event = match &message {
                    Message::Tick { epoch, next } => {
                        Some(FollowerEvent::Cut { epoch: *epoch, next: *next })
                    }
                    Message::Stop { epoch, reason } => {
                        if !reason.is_empty() {
                            stop.stop();
                        }
                        Some(FollowerEvent::End { epoch: *epoch })
                    }
                    Message::Other(bytes) => match ControlMessage::decode(bytes) {
                        Some(ControlMessage::Committed(epoch)) => {
                            Some(FollowerEvent::Committed(epoch))
                        }
                        Some(ControlMessage::StopReading) => Some(FollowerEvent::StopReading),
                        _ => None,
                    },
                    _ => None,
                };
                if event.is_none() {
                    tracing::debug!(?message, "a message that means nothing now");
                }
                Ok(event)
            }
        }
    }
}

/// Returns the error of a process 0 whose epochs are not those of this process.
fn out_of_step(cause: OutOfStep) -> Error {
    let (did, epoch, open) = match cause {
        OutOfStep::Ended { epoch, open } => ("ended", epoch, open),
        OutOfStep::Committed { epoch, open } => ("committed", epoch, open),
    };
    let message = format!("process 0 {did} epoch {epoch}, but epoch {open} is open here");
    Error::new(ErrorKind::PeerLost, message)
}

#[cfg(test)]
mod tests {
    use futures::future::{BoxFuture, FutureExt, ready};

    use super::*;

    /// A clock that stands, and whose waits end at once.
    #[derive(Debug)]
    struct StoppedClock(Duration);

    impl Clock for StoppedClock {
        fn wall_ms(&self) -> u64 {
            self.0.as_millis() as u64
        }

        fn monotonic(&self) -> Duration {
            self.0
        }

        fn wait_until(&self, _: Duration) -> BoxFuture<'static, ()> {
            ready(()).boxed()
        }
    }

    #[test]
    fn epoch_is_nearly_due_once() {
        let deadline = Duration::from_secs(1);
        let is_nearly_due_at = |ms| {
            let clock = StoppedClock(Duration::from_millis(ms));
            nearly_due(&clock, deadline).now_or_never().is_some()
        };
        assert!(is_nearly_due_at(0) && is_nearly_due_at(974));
        // It has resolved before, or the epoch is shorter than that.
        assert!(!is_nearly_due_at(975) && !is_nearly_due_at(1_000));
    }
}
