//! The thread that finds files, as the source sees it.

use std::fmt::Display;
use std::io::{self, PipeWriter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::new_files::{UnreadFile, WatchEvent};
use crate::backoff::{Backoff, BackoffPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::meters::SourceMeter;
use crate::supervise;

/// Most results that wait for the source. Above it, finding waits.
const RESULTS_MAX: usize = 4096;
/// A scan takes at most one part in so many of the time: a folder with a hundred thousand files is
/// listed less often.
const SCAN_SHARE: u32 = 20;

/// Where results go.
#[derive(Clone, Debug)]
pub struct FoundSender(mpsc::Sender<WatchEvent>);

impl FoundSender {
    /// Hands results over, in order; waits while too many are not taken. Returns false if the
    /// source has ended.
    pub fn send(&self, results: Vec<WatchEvent>) -> bool {
        results.into_iter().all(|result| self.0.blocking_send(result).is_ok())
    }

    /// Resolves when the source has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// When the next scan is due.
#[derive(Debug)]
pub struct ScanPace {
    /// The time between two listings.
    every: Duration,
    /// The pauses after listings that failed.
    backoff: Backoff,
    /// The time at which the last listing began.
    begun: Instant,
    /// The time at which the next one is due.
    due: Instant,
}

impl ScanPace {
    /// A scan is due now, and then each `every`.
    pub fn new(every: Duration) -> ScanPace {
        let max = BackoffPolicy::DEFAULT.max.max(every);
        let backoff = BackoffPolicy::doubling(every.min(max), max).start();
        let now = Instant::now();
        ScanPace { every, backoff, begun: now, due: now }
    }

    /// Returns true if a scan is due.
    pub fn is_due(&self) -> bool {
        self.left().is_zero()
    }

    /// Returns the time until a scan is due.
    pub fn left(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// Makes a scan due now.
    pub fn make_due(&mut self) {
        self.due = Instant::now();
    }

    /// Called when a scan begins.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Called when a scan has ended, with success or not. After a failure pauses grow.
    pub fn end(&mut self, is_whole: bool) {
        let took = self.begun.elapsed();
        let pause = if is_whole {
            self.backoff.reset();
            self.every.max(took * SCAN_SHARE)
        } else {
            self.backoff.next_pause()
        };
        self.due = Instant::now() + pause;
    }
}

/// Reports if the place can be listed, to the log and to the meter of the source.
#[derive(Debug)]
pub struct ListingReport {
    /// The name of the place in log lines.
    name: String,
    /// The figures of the source.
    meter: Arc<SourceMeter>,
    /// True while the place cannot be listed, so that it is reported once.
    is_away: bool,
}

impl ListingReport {
    /// Nothing was listed yet.
    pub fn new(name: String, meter: Arc<SourceMeter>) -> ListingReport {
        ListingReport { name, meter, is_away: false }
    }

    /// Called when the place was listed.
    pub fn listed(&mut self) {
        if std::mem::take(&mut self.is_away) {
            tracing::info!("{} can be listed again", self.name);
        }
        if !self.meter.is_connected() {
            self.meter.connected();
        }
    }

    /// Called when the place could not be listed. It is logged once.
    pub fn failed(&mut self, error: &dyn Display) {
        let name = &self.name;
        let message = format!("cannot list {name}: {error}");
        self.meter.disconnected(&message);
        if std::mem::replace(&mut self.is_away, true) {
            tracing::debug!("{message}");
        } else {
            tracing::warn!("{message}; trying again until it can be listed");
        }
    }
}

/// The source's end of the thread.
#[derive(Debug)]
pub struct Discovery {
    /// The files that were found.
    results: mpsc::Receiver<WatchEvent>,
    /// Files that could not be read, to be looked at again.
    unread: std::sync::mpsc::Sender<UnreadFile>,
    /// The failure of the thread, once it has ended.
    failed: Arc<Mutex<Option<Error>>>,
    /// Dropped with this, which wakes the thread.
    _stop: PipeWriter,
}

/// The thread's ends of its channels.
pub struct Channels {
    /// Takes the files that were found.
    pub results: FoundSender,
    /// Files that the source could not read.
    pub unread: std::sync::mpsc::Receiver<UnreadFile>,
    /// Readable when the thread is to end.
    pub stop: io::PipeReader,
}

impl Discovery {
    /// Starts a thread that does `work`, which ends when the results are closed.
    ///
    /// # Errors
    ///
    /// `Failed` if the thread cannot be started.
    pub fn start(work: impl FnOnce(Channels) -> Result<()> + Send + 'static) -> Result<Discovery> {
        let (stop_reader, stop) = io::pipe().map_err(|error| {
            Error::new(ErrorKind::Failed, format!("cannot make a pipe: {error}")).cause(error)
        })?;
        let (sender, results) = mpsc::channel(RESULTS_MAX);
        let (unread, returned) = std::sync::mpsc::channel();
        let failed = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failed);
        let channels =
            Channels { results: FoundSender(sender.clone()), unread: returned, stop: stop_reader };
        let fail = move |error| {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // The results end when the failure is known, not before.
            drop(sender);
        };
        supervise::thread("watch", fail, move || work(channels))?;
        Ok(Discovery { results, unread, failed, _stop: stop })
    }

    /// Returns the next result; `None` when there are no more, as with `--once`.
    ///
    /// # Errors
    ///
    /// The error by which the thread has ended.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        if let Some(result) = self.results.recv().await {
            return Ok(Some(result));
        }
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// Returns a result that is there already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        self.results.try_recv().ok()
    }

    /// Gives back a file that was not read, to be found again. Returns false if nothing is found
    /// any more, as at the end of a run with `--once`.
    pub fn give_back(&self, file: UnreadFile) -> bool {
        self.unread.send(file).is_ok()
    }
}
