//! The progress of epochs in the source logs of this process.
//!
//! The owner of the clock decides *when* an epoch ends; the logs put the end into what the sources
//! of this process have read. The workers may see an epoch close when every log has appended its
//! end and has passed the cut, so that no line of the epoch can still come. Nothing of the epoch is
//! stored before the record of its end is on disk in every journal, so that what is published is a
//! function of bytes that cannot be lost. Lines of the next epoch need not wait for either.
//!
//! ```text
//! cut ─► message to each log ─► EpochEnd appended (recorded) ─► sync ─► durable ─► stored
//!                             └► all lines with the workers (passed) ─► complete ──┘
//! ```
//!
//! A cluster of several processes has no such overlap: a worker sees an epoch close when its end is
//! durable. Otherwise one process could store parts of an epoch that another does not know of after
//! a loss of power.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::feed::Feed;
use crate::outputs::DurableEpochs;
use crate::sources::{LogEvents, LogMessage};

/// A request to the thread that syncs.
#[derive(Clone, Copy)]
pub enum SyncRequest {
    /// Every log has appended the end of this epoch: make it durable.
    Recorded(Epoch),
    /// A log has noted that epochs are committed.
    Noted,
    /// Something was appended that no sync is due for.
    Appended,
    /// Sync what was appended.
    Write,
    /// A journal is full.
    Room,
    /// Nothing comes any more.
    End,
}

/// Takes requests for the thread that syncs.
pub struct SyncQueue(pub(super) Sender<SyncRequest>);

/// The requests, for the thread.
pub struct SyncRequests(pub(super) Receiver<SyncRequest>);

impl SyncQueue {
    /// Returns both ends of an empty queue.
    fn new() -> (SyncQueue, SyncRequests) {
        let (sender, receiver) = channel();
        (SyncQueue(sender), SyncRequests(receiver))
    }

    /// Puts a request into the queue. The thread joins what waits into one sync.
    fn ask(&self, request: SyncRequest) {
        // It fails only when the job is ending, and then no answer is awaited.
        let _ = self.0.send(request);
    }
}

/// An epoch that has ended and is not complete.
struct EndedEpoch {
    /// The name of the epoch.
    epoch: Epoch,
    /// Logs that have not appended its end.
    unrecorded: usize,
    /// Logs that have not passed its end.
    lagging: usize,
    /// True when its end is on disk in every journal.
    is_durable: bool,
}

/// The epochs that have ended and are not complete, oldest first.
#[derive(Default)]
struct EndedEpochs {
    /// The epoch that is not cut yet.
    open: Epoch,
    /// Those that are cut. The first one is completed first.
    ended: VecDeque<EndedEpoch>,
    /// For each process that ships blocks to this one, the last epoch for which no more come.
    arrived: Vec<Epoch>,
}

/// The progress of epochs in this process: cuts and commits go out to the logs, and what happens in
/// them comes back.
pub struct EpochProgress {
    /// Where the workers learn of cuts and complete epochs.
    feed: Feed,
    /// The epochs, changed by logs, by the thread that syncs and by the driver.
    epochs: Mutex<EndedEpochs>,
    /// The inbox of each log.
    logs: Vec<UnboundedSender<LogMessage>>,
    /// Asks for syncs.
    sync: SyncQueue,
    /// The syncing thread knows that lines were appended since its last sync.
    sync_is_due: AtomicBool,
    durable: DurableEpochs,
    /// Set if an epoch completes before its end is durable.
    completes_recorded: AtomicBool,
}

/// The receiving ends of what an [`EpochProgress`] sends.
pub struct ProgressEnds {
    /// For the logs, in order.
    pub logs: Vec<UnboundedReceiver<LogMessage>>,
    /// For the thread that syncs.
    pub sync: SyncRequests,
}

impl EpochProgress {
    /// The progress in `logs` logs, whose blocks go through `feed`. The `recorded` epochs, each
    /// with the number of logs that will pass its end, have ended already; `open` follows them.
    #[allow(
        clippy::disallowed_methods,
        reason = "a log has a message for each cut, commit and sync, which the epochs in flight bound"
    )]
    pub fn new(
        feed: Feed,
        logs: usize,
        recorded: &[(Epoch, usize)],
        open: Epoch,
    ) -> (Arc<Self>, ProgressEnds) {
        let (sync, requests) = SyncQueue::new();
        let ended = recorded.iter().map(|(epoch, lagging)| EndedEpoch {
            epoch: *epoch,
            unrecorded: 0,
            lagging: *lagging,
            is_durable: false,
        });
        let epochs = EndedEpochs { open, ended: ended.collect(), arrived: Vec::new() };
        let nexts = recorded.iter().skip(1).map(|(epoch, _)| *epoch).chain([open]);
        nexts.take(recorded.len()).for_each(|next| {
            feed.cut(next);
        });
        let (logs, inboxes) = (0..logs).map(|_| unbounded_channel()).unzip();
        let (epochs, sync_is_due) = (Mutex::new(epochs), AtomicBool::new(false));
        let (durable, completes_recorded) = (DurableEpochs::none(), AtomicBool::new(false));
        let progress =
            EpochProgress { feed, epochs, logs, sync, sync_is_due, durable, completes_recorded };
        if let Some((newest, _)) = recorded.last() {
            progress.sync.ask(SyncRequest::Recorded(*newest));
        }
        (Arc::new(progress), ProgressEnds { logs: inboxes, sync: requests })
    }

    /// Sends a message to every log.
    fn send(&self, message: LogMessage) {
        for log in &self.logs {
            // It fails only when the job is ending, and then no answer is awaited.
            let _ = log.send(message);
        }
    }

    /// Ends the open epoch of this process, which is returned, and opens `next`. Each log takes the
    /// cut as a message: its record is a write to the disk, which the caller must not wait for.
    pub fn cut(&self, next: Epoch) -> Epoch {
        let mut epoch = next;
        let logs = self.logs.len();
        self.update(|epochs| {
            epoch = std::mem::replace(&mut epochs.open, next);
            let ended = EndedEpoch { epoch, unrecorded: logs, lagging: logs, is_durable: false };
            epochs.ended.push_back(ended);
            self.feed.cut(next);
        });
        if logs == 0 {
            self.sync.ask(SyncRequest::Recorded(epoch));
        }
        self.send(LogMessage::Cut { epoch, next });
        epoch
    }

    /// Called when `epoch` and all before it are committed.
    pub fn committed(&self, epoch: Epoch) {
        self.send(LogMessage::Committed(epoch));
    }

    /// Called when nothing comes after the last cut: all sources have ended.
    pub fn end(&self) {
        self.feed.end();
    }

    /// Asks every log to close when it has taken what was sent before.
    pub fn close_logs(&self) {
        self.send(LogMessage::End);
    }

    /// Asks every log to state how far its journal is on disk.
    pub fn synced(&self) {
        self.send(LogMessage::Synced);
    }

    /// Returns the queue of the thread that syncs.
    pub fn sync_queue(&self) -> &SyncQueue {
        &self.sync
    }

    /// Called before a sync that is due: what is appended from now on starts the timer again.
    pub fn sync_begins(&self) {
        self.sync_is_due.store(false, Ordering::SeqCst);
    }

    /// Called when the ends of the epochs up to `epoch` are on disk in every journal.
    pub fn durable(&self, epoch: Epoch) {
        self.update(|epochs| {
            let durable = epochs.ended.iter_mut().filter(|ended| ended.epoch <= epoch);
            durable.for_each(|ended| ended.is_durable = true);
        });
        self.durable.reached(epoch);
    }

    /// Returns the epochs whose ends are on disk in every journal.
    pub fn durable_epochs(&self) -> &DurableEpochs {
        &self.durable
    }

    /// Completes epochs from now on when their ends are recorded. Called in a process that is
    /// alone, before anything is read.
    pub fn complete_when_recorded(&self) {
        self.completes_recorded.store(true, Ordering::Release);
    }

    /// Adds a process that ships blocks to this one, before any cut is passed; returns its index.
    pub fn add_link(&self) -> usize {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        epochs.arrived.push(0);
        epochs.arrived.len() - 1
    }

    /// The process with this index ships no more blocks for `epoch`. The cut may be unknown here
    /// yet: it comes on another connection.
    pub fn arrived(&self, link: usize, epoch: Epoch) {
        self.update(|epochs| epochs.arrived[link] = epoch);
    }

    /// Changes the epochs, then completes those that can be.
    fn update(&self, change: impl FnOnce(&mut EndedEpochs)) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut epochs);
        // The other processes need not wait for the disk: the epoch cannot close anywhere before it
        // has here.
        let passed = epochs.ended.iter().take_while(|ended| ended.lagging == 0);
        if let Some(ended) = passed.last() {
            self.feed.passed(ended.epoch);
        }
        let arrived = epochs.arrived.iter().min().copied().unwrap_or(Epoch::MAX);
        let is_early = self.completes_recorded.load(Ordering::Acquire);
        while let Some(first) = epochs.ended.front() {
            let is_recorded = first.is_durable || is_early && first.unrecorded == 0;
            if first.lagging > 0 || !is_recorded || first.epoch > arrived {
                break;
            }
            crash_point("cut.before_complete");
            self.feed.complete(first.epoch);
            crash_point("cut.after_complete");
            epochs.ended.pop_front();
        }
    }
}

impl fmt::Debug for EpochProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochProgress").field("logs", &self.logs.len()).finish_non_exhaustive()
    }
}

impl LogEvents for EpochProgress {
    fn recorded(&self, epoch: Epoch) {
        let mut is_recorded = false;
        self.update(|epochs| {
            if let Some(ended) = epochs.ended.iter_mut().find(|ended| ended.epoch == epoch) {
                ended.unrecorded = ended.unrecorded.saturating_sub(1);
                is_recorded = ended.unrecorded == 0;
            }
        });
        if is_recorded {
            self.sync.ask(SyncRequest::Recorded(epoch));
        }
    }

    fn passed(&self, epoch: Epoch) {
        self.update(|epochs| {
            // One that is committed already is none of these.
            if let Some(ended) = epochs.ended.iter_mut().find(|ended| ended.epoch == epoch) {
                ended.lagging = ended.lagging.saturating_sub(1);
            }
        });
    }

    fn noted(&self) {
        self.sync.ask(SyncRequest::Noted);
    }

    fn stated(&self) {
        self.sync.ask(SyncRequest::Appended);
    }

    fn appended(&self) {
        // The first append after a sync starts the timer; the others find it running.
        if !self.sync_is_due.swap(true, Ordering::AcqRel) {
            self.sync.ask(SyncRequest::Appended);
        }
    }

    fn write_due(&self) {
        self.sync.ask(SyncRequest::Write);
    }

    fn room_wanted(&self) {
        self.sync.ask(SyncRequest::Room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::failure::Failure;
    use crate::feed::Next;
    use crate::job::sync_thread::SyncThread;

    #[test]
    fn epoch_completes_when_others_ship_nothing_more() {
        let feed = Feed::new(1, 10);
        let (progress, ends) = EpochProgress::new(feed.clone(), 0, &[], 10);
        let links = [progress.add_link(), progress.add_link()];
        let started =
            SyncThread::start(Arc::clone(&progress), ends.sync, Vec::new(), &Failure::new());
        let syncing = started.expect("a thread");
        // One of them is ahead: its end of the epoch comes before the cut is known here.
        progress.arrived(links[1], 10);
        assert_eq!(progress.cut(20), 10);
        // When the thread has ended, the end of the epoch is durable.
        drop(syncing);
        assert!(matches!(feed.next(0), Next::Wait));
        progress.arrived(links[0], 10);
        assert!(matches!(feed.next(0), Next::Complete { epoch: 10, next: 20 }));
    }

    #[test]
    fn sync_thread_that_panics_fails_the_job() {
        let (feed, failure) = (Feed::new(1, 10), Failure::new());
        let (progress, ends) = EpochProgress::new(feed.clone(), 0, &[], 10);
        feed.attach(0, Arc::new(|| panic!("on purpose")));
        assert!(matches!(feed.next(0), Next::Wait));
        let started = SyncThread::start(Arc::clone(&progress), ends.sync, Vec::new(), &failure);
        let syncing = started.expect("a thread");
        progress.cut(20);
        drop(syncing);
        let cause = failure.take_cause().expect("a cause");
        assert_eq!(cause.kind(), ErrorKind::Panicked);
        assert!(cause.to_string().contains("on purpose"), "{cause}");
    }
}
