//! The thread that syncs the journals of this process.
//!
//! An `fdatasync` takes as long as it takes, so no log waits for it. Requests that come meanwhile
//! are served together: one sync covers all that was appended before it. The thread also gives back
//! the room of what is committed.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::epoch_progress::EpochProgress;
use super::sync_requests::SyncRequest;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::journal::{Position, Syncer};
use crate::supervise;

/// The syncing thread, which ends with this when it has done what was asked before.
#[derive(Debug)]
pub struct SyncThread {
    /// Takes the request that ends the thread.
    progress: Arc<EpochProgress>,
    /// `None` when it was joined.
    thread: Option<JoinHandle<()>>,
}

impl SyncThread {
    /// Starts the thread for the journals of `syncers`.
    ///
    /// Fails with `Failed` if the thread cannot be started.
    pub fn start(
        progress: Arc<EpochProgress>,
        asked: Receiver<SyncRequest>,
        syncers: Vec<Syncer>,
        failure: &Failure,
    ) -> Result<SyncThread> {
        let failure = failure.clone();
        let fail = move |error| failure.fail(error);
        let syncing =
            Syncing { progress: Arc::clone(&progress), syncers, synced: RefCell::default() };
        let serve = move || syncing.serve(&asked);
        let thread = Some(supervise::thread("sync", fail, serve)?);
        Ok(SyncThread { progress, thread })
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.progress.sync_queue().ask(SyncRequest::End);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|_| tracing::error!("the syncing thread panicked"));
        }
    }
}

/// The thread: the journals, and where it reports.
struct Syncing {
    /// Learns what is durable.
    progress: Arc<EpochProgress>,
    /// Syncs one journal each.
    syncers: Vec<Syncer>,
    /// How far each journal was on disk after the last sync.
    synced: RefCell<Vec<Position>>,
}

impl Syncing {
    /// Does what is asked until the end.
    fn serve(&self, asked: &Receiver<SyncRequest>) -> Result<()> {
        let mut timer = SyncTimer::new(&self.syncers);
        // A former run may have left bytes that are not on disk.
        timer.start();
        let (mut is_full, mut is_untidy) = (false, false);
        loop {
            let patience = if is_untidy { Some(Duration::ZERO) } else { timer.left() };
            let first = match next_within(asked, patience) {
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => None,
                Ok(request) => Some(request),
            };
            let mut batch = SyncBatch { wants_room: is_full, ..SyncBatch::default() };
            first.into_iter().chain(asked.try_iter()).for_each(|request| batch.add(request));
            if batch.appended {
                timer.start();
            }
            if timer.left() == Some(Duration::ZERO) {
                timer.stop();
                batch.is_due = true;
            }
            is_full = batch.wants_room && !batch.noted;
            if batch.is_idle() {
                // Giving room back is done one file at a time, so that a sync need not wait for it.
                is_untidy = self.tidy()?;
                continue;
            }
            self.run(&batch)?;
            // Not after one that was asked for shortly before a cut: the epoch's end would wait.
            is_untidy |= !batch.only_writes();
            if batch.ends {
                return Ok(());
            }
        }
    }

    /// Does what a batch asks for: syncs, states how far, and makes room.
    fn run(&self, batch: &SyncBatch) -> Result<()> {
        if batch.is_due {
            self.progress.sync_queue().begins();
        }
        // Segments go when the note of a commit is on disk, and a source may wait for that.
        let frees_room = batch.noted && batch.wants_room;
        if batch.syncs() || frees_room {
            let at: Vec<Position> = self.syncers.iter().map(Syncer::sync).collect::<Result<_>>()?;
            // A log that waits for room asks again after each message, so one without news would
            // keep both busy for as long as the journal is full.
            if self.synced.replace(at.clone()) != at {
                self.progress.synced();
            }
        }
        if let Some(epoch) = batch.recorded {
            self.progress.durable(epoch);
        }
        Ok(())
    }

    /// Gives a little room back in each journal; returns whether there is more to give.
    fn tidy(&self) -> Result<bool> {
        let mut tidied = false;
        for syncer in &self.syncers {
            tidied |= syncer.tidy()?;
        }
        Ok(tidied)
    }
}

/// Waits for the next request, for ever without a `patience`.
fn next_within(
    asked: &Receiver<SyncRequest>,
    patience: Option<Duration>,
) -> std::result::Result<SyncRequest, RecvTimeoutError> {
    match patience {
        Some(patience) => asked.recv_timeout(patience),
        None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// Runs from the first append after a sync, so that the next sync comes in time whether or not
/// anything else is appended.
struct SyncTimer {
    /// How long it runs; never where no journal is synced by time.
    runs: Option<Duration>,
    /// When the running timer ends; `None` while nothing waits for a sync.
    ends: Option<Instant>,
}

impl SyncTimer {
    /// Returns a timer of half the shortest time in which bytes must be on disk.
    fn new(syncers: &[Syncer]) -> SyncTimer {
        let every = syncers.iter().filter_map(Syncer::sync_every).min();
        // The other half of the time is the disk's.
        SyncTimer { runs: every.map(|every| every / 2), ends: None }
    }

    /// Starts unless it runs.
    fn start(&mut self) {
        if let (None, Some(runs)) = (self.ends, self.runs) {
            self.ends = Some(Instant::now() + runs);
        }
    }

    /// Stops the timer: everything was synced.
    fn stop(&mut self) {
        self.ends = None;
    }

    /// The time until its end; `None` unless it runs.
    fn left(&self) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(Instant::now()))
    }
}

/// Requests that are served together.
#[derive(Default)]
struct SyncBatch {
    /// The newest epoch whose end all logs have appended.
    recorded: Option<Epoch>,
    /// A log has noted commits.
    noted: bool,
    /// Something was appended that no sync is due for.
    appended: bool,
    /// So much was appended that the disk should have it.
    writes: bool,
    /// The timer has ended.
    is_due: bool,
    /// A journal is full.
    wants_room: bool,
    /// The thread ends after this batch.
    ends: bool,
}

impl SyncBatch {
    /// Adds a request to the batch.
    fn add(&mut self, request: SyncRequest) {
        match request {
            SyncRequest::Recorded(epoch) => self.recorded = self.recorded.max(Some(epoch)),
            SyncRequest::Noted => self.noted = true,
            SyncRequest::Appended => self.appended = true,
            SyncRequest::Write => self.writes = true,
            SyncRequest::Room => {
                self.writes = true;
                self.wants_room = true;
            }
            SyncRequest::End => self.ends = true,
        }
    }

    /// Returns true if the batch needs a sync of all journals.
    fn syncs(&self) -> bool {
        self.writes || self.is_due || self.recorded.is_some()
    }

    /// Returns true if the batch asks for a sync and for nothing else.
    fn only_writes(&self) -> bool {
        let SyncBatch { recorded, noted, is_due, wants_room, ends, .. } = self;
        recorded.is_none() && !noted && !is_due && !wants_room && !ends
    }

    /// Returns true if the batch only starts the timer or makes room.
    fn is_idle(&self) -> bool {
        !self.syncs() && !self.noted && !self.ends
    }
}
