//! The borders between epochs, in the streams of this process's sources.
//!
//! Whoever owns the clock says *when* an epoch ends; this puts the end into what the sources of
//! this process have read. The workers may see an epoch close when two things have happened: every
//! source has passed the border, so that no line of the epoch can still come; and the mark of it is
//! on disk in every journal, so that what is then published is a function of bytes that cannot be
//! lost. Lines of the next epoch need not wait for either.
//!
//! Syncing has a thread of its own, since an `fdatasync` takes as long as it takes. It also notes
//! in the journals what is committed, which is what lets old segments go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crash::{self, crash_point};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::feed::Feed;
use crate::journal::Syncer;
use crate::sources::{Track, Watcher};
use crate::supervise;

/// A request to the thread that syncs.
#[derive(Clone, Copy)]
enum Work {
    /// End the first of these epochs in each log and open the second.
    Cut(Epoch, Epoch),
    /// Make the mark of this epoch durable.
    Marked(Epoch),
    /// Note that this epoch is committed.
    Committed(Epoch),
    /// Lines were appended that no sync is due for.
    Appended,
    /// Sync what was appended.
    Write,
    /// A journal is full.
    Room,
    /// Nothing comes any more.
    End,
}

struct Pending {
    epoch: Epoch,
    /// Sources that have not passed the border.
    behind: usize,
    durable: bool,
}

/// The borders that are drawn and not complete, oldest first.
#[derive(Default)]
struct Progress {
    open: Epoch,
    pending: VecDeque<Pending>,
    /// For each process that ships blocks to this one, the last epoch for which no more come.
    arrived: Vec<Epoch>,
}

/// The state that sources and the syncing thread share.
pub(super) struct Crossing {
    feed: Feed,
    progress: Mutex<Progress>,
    work: Sender<Work>,
    /// The syncing thread knows that lines were appended since its last sync.
    sync_is_due: AtomicBool,
}

impl Crossing {
    /// A crossing in what goes through `feed`. The borders of `recorded` epochs, each with the
    /// number of tracks that will pass it, are drawn already; `open` is behind them.
    pub(super) fn new(
        feed: Feed,
        recorded: &[(Epoch, usize)],
        open: Epoch,
    ) -> (Arc<Self>, Inquiries) {
        let (work, asked) = channel();
        let pending = recorded.iter().map(|(epoch, behind)| Pending {
            epoch: *epoch,
            behind: *behind,
            durable: false,
        });
        let progress = Progress { open, pending: pending.collect(), arrived: Vec::new() };
        let nexts = recorded.iter().skip(1).map(|(epoch, _)| *epoch).chain([open]);
        nexts.take(recorded.len()).for_each(|next| {
            feed.open_next(next);
        });
        let progress = Mutex::new(progress);
        let crossing = Crossing { feed, progress, work, sync_is_due: AtomicBool::new(false) };
        if let Some((newest, _)) = recorded.last() {
            crossing.ask(Work::Marked(*newest));
        }
        (Arc::new(crossing), Inquiries(asked))
    }

    fn ask(&self, work: Work) {
        // It fails only when the job is ending, and then nobody waits for an answer.
        self.work.send(work).ok();
    }

    /// Notes that `epoch` and all before it are committed.
    pub(super) fn committed(&self, epoch: Epoch) {
        self.ask(Work::Committed(epoch));
    }

    /// Adds a process that ships blocks to this one, before any border is passed; returns its
    /// index.
    pub(super) fn add_link(&self) -> usize {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.arrived.push(0);
        progress.arrived.len() - 1
    }

    /// The process with this index ships no more blocks for `epoch`. The border may be unknown here
    /// yet: it comes on another connection.
    pub(super) fn arrived(&self, link: usize, epoch: Epoch) {
        self.update(|progress| progress.arrived[link] = epoch);
    }

    /// Changes the borders, then closes what can be closed.
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        // The others need not wait for the disk: the epoch cannot close anywhere before it has
        // here.
        let sealed = progress.pending.iter().take_while(|border| border.behind == 0);
        if let Some(border) = sealed.last() {
            self.feed.seal(border.epoch);
        }
        let arrived = progress.arrived.iter().min().copied().unwrap_or(Epoch::MAX);
        while let Some(first) = progress.pending.front() {
            if first.behind > 0 || !first.durable || first.epoch > arrived {
                break;
            }
            crash_point("border.before_complete");
            self.feed.complete(first.epoch);
            crash_point("border.after_complete");
            if crash::is_mutant("done_before_marker") {
                self.ask(Work::Committed(first.epoch));
            }
            progress.pending.pop_front();
        }
    }
}

impl Watcher for Crossing {
    fn passed(&self, epoch: Epoch) {
        let mut is_known = false;
        self.update(|progress| {
            if let Some(border) = progress.pending.iter_mut().find(|border| border.epoch == epoch) {
                border.behind = border.behind.saturating_sub(1);
                is_known = true;
            }
        });
        if !is_known {
            // The store had it already; now the journal may be told.
            self.ask(Work::Committed(epoch));
        }
    }

    fn appended(&self) {
        // The first append after a sync starts the timer; the others find it running.
        if !self.sync_is_due.swap(true, Ordering::AcqRel) {
            self.ask(Work::Appended);
        }
    }

    fn write_due(&self) {
        self.ask(Work::Write);
    }

    fn room_wanted(&self) {
        self.ask(Work::Room);
    }
}

/// The requests to the syncing thread.
pub(super) struct Inquiries(Receiver<Work>);

/// Cuts the streams of one process.
pub(super) struct Borders {
    crossing: Arc<Crossing>,
    tracks: Vec<Track>,
    failure: Failure,
}

impl Borders {
    /// Borders in these tracks, which report to `crossing`, and the thread that syncs them.
    pub(super) fn new(
        crossing: Arc<Crossing>,
        inquiries: Inquiries,
        tracks: Vec<Track>,
        failure: Failure,
    ) -> Result<(Arc<Borders>, Syncing)> {
        let borders = Arc::new(Borders { crossing, tracks, failure });
        let (failure, syncing) = (borders.failure.clone(), Arc::clone(&borders));
        let fail = move |error| failure.fail(error);
        let Inquiries(asked) = inquiries;
        let thread = supervise::thread("sync", fail, move || syncing.serve(&asked))?;
        let work = borders.crossing.work.clone();
        Ok((borders, Syncing { work, thread: Some(thread) }))
    }

    /// Closes the open epoch of this process, which is returned, and opens `next`. The logs are cut
    /// in the order of these calls, by their thread.
    pub(super) fn cut(&self, next: Epoch) -> Epoch {
        let mut epoch = next;
        self.crossing.update(|progress| {
            epoch = std::mem::replace(&mut progress.open, next);
            progress.pending.push_back(Pending {
                epoch,
                behind: self.tracks.len(),
                durable: false,
            });
            self.crossing.feed.open_next(next);
        });
        // Each log's record of it is a write to the disk, which this task must not wait for.
        self.crossing.ask(Work::Cut(epoch, next));
        epoch
    }

    /// Notes that `epoch` and all before it are committed.
    pub(super) fn committed(&self, epoch: Epoch) {
        self.crossing.committed(epoch);
    }

    /// Says that nothing comes behind the last border: all sources have ended.
    pub(super) fn end(&self) {
        self.crossing.feed.end();
    }

    /// Does what is asked until the end. What was asked meanwhile is done together: one sync serves
    /// all marks that were appended before it.
    fn serve(&self, asked: &Receiver<Work>) -> Result<()> {
        let syncers: Vec<_> = self.tracks.iter().filter_map(|track| track.syncer()).collect();
        let mut timer = SyncTimer::new(&syncers);
        // A former run may have left bytes that are not on disk.
        timer.start();
        let (mut is_full, mut is_untidy) = (false, false);
        loop {
            let patience = if is_untidy { Some(Duration::ZERO) } else { timer.left() };
            let first = match next_within(asked, patience) {
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => None,
                Ok(work) => Some(work),
            };
            let mut errand = Errand { wants_room: is_full, ..Errand::default() };
            first.into_iter().chain(asked.try_iter()).for_each(|work| errand.take_up(work));
            if errand.appended {
                timer.start();
            }
            if timer.left() == Some(Duration::ZERO) {
                timer.stop();
                errand.is_due = true;
            }
            is_full = errand.wants_room && errand.committed.is_none();
            if errand.is_idle() {
                // Giving room back is done one file at a time, so that a sync need not wait for it.
                is_untidy = tidy(&syncers)?;
                continue;
            }
            if self.run(&errand, &syncers)? {
                timer.start();
            }
            is_untidy = true;
            if errand.ends {
                return Ok(());
            }
        }
    }

    /// Does one turn's work; returns whether records were appended that state what is on disk and
    /// are not on disk themselves.
    fn run(&self, errand: &Errand, syncers: &[Syncer]) -> Result<bool> {
        let mut states_more = false;
        for &(epoch, next) in &errand.cuts {
            for track in &self.tracks {
                if track.cut(epoch, next)? {
                    self.crossing.passed(epoch);
                }
            }
        }
        if errand.is_due {
            // Before the sync: what is appended from now on starts the timer again.
            self.crossing.sync_is_due.store(false, Ordering::SeqCst);
        }
        if errand.syncs() && !crash::is_mutant("publish_without_sync") {
            sync_all(syncers)?;
            for track in &self.tracks {
                states_more |= track.state_synced()?;
            }
        }
        if errand.is_due && states_more {
            // The bytes are on disk; now the record that says so.
            sync_all(syncers)?;
            states_more = false;
        }
        if let Some(epoch) = errand.marked {
            self.crossing.update(|progress| {
                let marked = progress.pending.iter_mut().filter(|border| border.epoch <= epoch);
                marked.for_each(|border| border.durable = true);
            });
        }
        if let Some(epoch) = errand.committed {
            self.tracks.iter().try_for_each(|track| track.committed(epoch))?;
            if errand.wants_room {
                // Segments go when the note is on disk, and a reader waits for that.
                sync_all(syncers)?;
            }
        }
        Ok(states_more)
    }
}

fn sync_all(syncers: &[Syncer]) -> Result<()> {
    syncers.iter().try_for_each(|syncer| syncer.sync().map(drop))
}

/// Gives a little room back in each journal; returns whether there is more to give.
fn tidy(syncers: &[Syncer]) -> Result<bool> {
    let mut tidied = false;
    for syncer in syncers {
        tidied |= syncer.tidy()?;
    }
    Ok(tidied)
}

/// Waits for the next message, for ever without a `patience`.
fn next_within(
    asked: &Receiver<Work>,
    patience: Option<Duration>,
) -> std::result::Result<Work, RecvTimeoutError> {
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
    ends: Option<Instant>,
}

impl SyncTimer {
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

    fn stop(&mut self) {
        self.ends = None;
    }

    /// The time until its end; `None` unless it runs.
    fn left(&self) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(Instant::now()))
    }
}

/// The work of one turn.
#[derive(Default)]
struct Errand {
    cuts: Vec<(Epoch, Epoch)>,
    appended: bool,
    writes: bool,
    is_due: bool,
    marked: Option<Epoch>,
    committed: Option<Epoch>,
    wants_room: bool,
    ends: bool,
}

impl Errand {
    fn take_up(&mut self, work: Work) {
        match work {
            Work::Cut(epoch, next) => {
                self.cuts.push((epoch, next));
                self.marked = self.marked.max(Some(epoch));
            }
            Work::Marked(epoch) => self.marked = self.marked.max(Some(epoch)),
            Work::Committed(epoch) => self.committed = self.committed.max(Some(epoch)),
            Work::Appended => self.appended = true,
            Work::Write => self.writes = true,
            Work::Room => {
                self.writes = true;
                self.wants_room = true;
            }
            Work::End => self.ends = true,
        }
    }

    fn syncs(&self) -> bool {
        self.writes || self.is_due || self.marked.is_some()
    }

    fn is_idle(&self) -> bool {
        !self.syncs() && self.committed.is_none() && !self.ends
    }
}

/// The syncing thread, which ends with this when it has done what was asked before.
#[derive(Debug)]
pub(super) struct Syncing {
    work: Sender<Work>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        self.work.send(Work::End).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|_| tracing::error!("the syncing thread panicked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::feed::Next;

    #[test]
    fn an_epoch_is_complete_when_the_others_ship_nothing_more_for_it() {
        let feed = Feed::new(1, 10);
        let (crossing, inquiries) = Crossing::new(feed.clone(), &[], 10);
        let links = [crossing.add_link(), crossing.add_link()];
        let started = Borders::new(Arc::clone(&crossing), inquiries, Vec::new(), Failure::new());
        let (borders, syncing) = started.expect("a thread");
        // One of them is ahead: its border comes before the border is known here.
        crossing.arrived(links[1], 10);
        assert_eq!(borders.cut(20), 10);
        // When the thread has ended, the border is durable.
        drop(syncing);
        assert!(matches!(feed.next(0), Next::Wait));
        crossing.arrived(links[0], 10);
        assert!(matches!(feed.next(0), Next::Complete { epoch: 10, next: 20 }));
    }

    #[test]
    fn sync_thread_that_panics_fails_the_job() {
        let (feed, failure) = (Feed::new(1, 10), Failure::new());
        let (crossing, inquiries) = Crossing::new(feed.clone(), &[], 10);
        feed.attach(0, Arc::new(|| panic!("on purpose")));
        assert!(matches!(feed.next(0), Next::Wait));
        let started = Borders::new(crossing, inquiries, Vec::new(), failure.clone());
        let (borders, syncing) = started.expect("a thread");
        borders.cut(20);
        drop(syncing);
        let cause = failure.take_cause().expect("a cause");
        assert_eq!(cause.kind(), ErrorKind::Panicked);
        assert!(cause.to_string().contains("on purpose"), "{cause}");
    }
}
