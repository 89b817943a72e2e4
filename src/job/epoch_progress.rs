//! The driver of the epochs' progress in this process: passes what happens in the source logs to
//! the rule, and takes the actions that it returns.
//!
//! The rule is [`EpochCompletion`]. Logs, the thread that syncs, links of other processes and the
//! driver of the clock report here, each in its own thread. Only the rule itself is locked, for as
//! long as it takes one event in; wakes, messages and syncs happen outside.

use std::fmt;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::sync_requests::{SyncQueue, SyncRequest};
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::epochs::{CompletionAction, CompletionEvent, EpochCompletion};
use crate::feed::Feed;
use crate::outputs::DurableEpochs;
use crate::sources::{LogEvents, LogMessage};

/// The progress of epochs in this process: cuts and commits go out to the logs, and what happens in
/// them comes back.
pub struct EpochProgress {
    /// Where the workers learn of cuts and complete epochs.
    feed: Feed,
    /// The rule by which epochs complete.
    completion: Mutex<EpochCompletion>,
    /// The inbox of each log.
    logs: Vec<UnboundedSender<LogMessage>>,
    /// Asks for syncs.
    sync: SyncQueue,
    /// The epochs whose ends are on disk.
    durable: DurableEpochs,
}

/// The receiving ends of what an [`EpochProgress`] sends.
pub struct ProgressEnds {
    /// For the logs, in order.
    pub logs: Vec<UnboundedReceiver<LogMessage>>,
    /// For the thread that syncs.
    pub sync: Receiver<SyncRequest>,
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
        let nexts = recorded.iter().skip(1).map(|(epoch, _)| *epoch).chain([open]);
        nexts.take(recorded.len()).for_each(|next| {
            feed.cut(next);
        });
        if let Some((newest, _)) = recorded.last() {
            sync.ask(SyncRequest::Recorded(*newest));
        }
        let completion = Mutex::new(EpochCompletion::new(logs, recorded));
        let (logs, inboxes) = (0..logs).map(|_| unbounded_channel()).unzip();
        let durable = DurableEpochs::none();
        let progress = EpochProgress { feed, completion, logs, sync, durable };
        (Arc::new(progress), ProgressEnds { logs: inboxes, sync: requests })
    }

    /// Sends a message to every log.
    fn send(&self, message: LogMessage) {
        for log in &self.logs {
            // It fails only when the job is ending, and then no answer is awaited.
            let _ = log.send(message);
        }
    }

    /// Ends the open epoch of this process and opens `next`. Each log takes the cut as a message:
    /// its record is a write to the disk, which the caller must not wait for.
    pub fn cut(&self, next: Epoch) {
        // First: the rule may complete only what the feed knows to have ended.
        let epoch = self.feed.cut(next);
        self.take(CompletionEvent::Cut(epoch));
        self.send(LogMessage::Cut { epoch, next });
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

    /// Called shortly before the open epoch is cut: asks for a sync of the lines that were
    /// appended, if there are any, so that the sync of the epoch's end has less to write.
    pub fn sync_ahead(&self) {
        if self.sync.has_lines() {
            self.sync.ask(SyncRequest::Write);
        }
    }

    /// Returns the queue of the thread that syncs.
    pub fn sync_queue(&self) -> &SyncQueue {
        &self.sync
    }

    /// Called when the ends of the epochs up to `epoch` are on disk in every journal.
    pub fn durable(&self, epoch: Epoch) {
        self.take(CompletionEvent::Durable(epoch));
        self.durable.reached(epoch);
    }

    /// Returns the epochs whose ends are on disk in every journal.
    pub fn durable_epochs(&self) -> &DurableEpochs {
        &self.durable
    }

    /// Completes epochs from now on when their ends are recorded. Called in a process that is
    /// alone, before anything is read.
    pub fn complete_when_recorded(&self) {
        self.completion().complete_when_recorded();
    }

    /// Adds a process that ships blocks to this one, before any cut is passed; returns its index.
    pub fn add_link(&self) -> usize {
        self.completion().add_link()
    }

    /// Called when the process with this index ships no more blocks for `epoch`.
    pub fn arrived(&self, link: usize, epoch: Epoch) {
        self.take(CompletionEvent::Arrived { link, epoch });
    }

    /// Locks the rule.
    fn completion(&self) -> MutexGuard<'_, EpochCompletion> {
        // A panic ends the job with its cause; the others still have to leave.
        self.completion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes an event to the rule and does what it asks for.
    fn take(&self, event: CompletionEvent) {
        // The lock is released at the end of this statement.
        let actions = self.completion().take(event);
        for action in actions {
            match action {
                CompletionAction::Sync(epoch) => self.sync.ask(SyncRequest::Recorded(epoch)),
                CompletionAction::Pass(epoch) => self.feed.passed(epoch),
                CompletionAction::Complete(epoch) => {
                    crash_point("cut.before_complete");
                    self.feed.complete(epoch);
                    crash_point("cut.after_complete");
                }
            }
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
        self.take(CompletionEvent::Recorded(epoch));
    }

    fn passed(&self, epoch: Epoch) {
        self.take(CompletionEvent::Passed(epoch));
    }

    fn noted(&self) {
        self.sync.ask(SyncRequest::Noted);
    }

    fn stated(&self) {
        self.sync.ask(SyncRequest::Appended);
    }

    fn appended(&self) {
        self.sync.appended();
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
        progress.cut(20);
        // When the thread has ended, the end of the epoch is durable.
        drop(syncing);
        assert!(matches!(feed.next(0), Next::Wait));
        progress.arrived(links[0], 10);
        assert!(matches!(feed.next(0), Next::Complete { epoch: 10, next: 20 }));
    }

    #[test]
    fn sync_ahead_asks_only_after_new_lines() {
        let (progress, ends) = EpochProgress::new(Feed::new(1, 10), 1, &[], 10);
        progress.sync_ahead();
        assert!(ends.sync.try_recv().is_err());
        progress.sync_queue().appended();
        assert!(matches!(ends.sync.try_recv(), Ok(SyncRequest::Appended)));
        progress.sync_ahead();
        assert!(matches!(ends.sync.try_recv(), Ok(SyncRequest::Write)));
        progress.sync_queue().begins();
        progress.sync_ahead();
        assert!(ends.sync.try_recv().is_err());
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
