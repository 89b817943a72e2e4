//! The epochs whose ends are on disk, and those whose parts are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::epoch::Epoch;
use crate::store::OnWritten;

/// The newest epoch whose end is on disk in every journal of this process. Clones share it.
///
/// Counting and encoding an epoch need not wait for the disk. Nothing of the epoch is stored before
/// its end is durable: what is stored would otherwise be unknown to the next start after a loss of
/// power.
#[derive(Clone, Debug)]
pub struct DurableEpochs(Arc<watch::Sender<Epoch>>);

impl DurableEpochs {
    /// Returns the state in which no epoch is durable.
    pub fn none() -> DurableEpochs {
        DurableEpochs(Arc::new(watch::Sender::new(0)))
    }

    #[cfg(any(test, feature = "internals"))]
    /// Returns the state in which nothing is waited for.
    pub fn all() -> DurableEpochs {
        DurableEpochs(Arc::new(watch::Sender::new(Epoch::MAX)))
    }

    /// Called when the ends of `epoch` and of all epochs before it are on disk.
    pub fn reached(&self, epoch: Epoch) {
        self.0.send_if_modified(|newest| {
            let is_newer = epoch > *newest;
            *newest = epoch.max(*newest);
            is_newer
        });
    }

    /// Returns true if the end of `epoch` is on disk.
    pub fn has_reached(&self, epoch: Epoch) -> bool {
        *self.0.borrow() >= epoch
    }

    /// Returns when the end of `epoch` is on disk.
    pub async fn wait(&self, epoch: Epoch) {
        // The sender is this value's, so waiting ends only with an epoch.
        let _ = self.0.subscribe().wait_for(|newest| *newest >= epoch).await;
    }
}

/// Most parts of a worker, or without rows, that wait to be synced together with others: each is an
/// open file.
pub const ROUND_PARTS_MAX: usize = 16;

/// The epochs whose parts may be synced, and those of which some are stored. Clones share them.
///
/// A file system makes durable at once what was written before a sync. So the files of a small
/// epoch, the marker included, are written first, and are then synced at the same time. That saves
/// time and is no promise: a part may still be written when the epoch's syncs begin, and the parts
/// of a large epoch or of several processes wait for nothing.
#[derive(Clone, Debug)]
pub struct SyncRounds {
    /// The newest epoch whose parts may be synced.
    begun: DurableEpochs,
    /// The workers of this process whose parts are durable, by epoch.
    stored: Arc<watch::Sender<BTreeMap<Epoch, StoredByWorkers>>>,
}

/// The workers that have stored all parts and changes of an epoch.
#[derive(Clone, Copy, Debug)]
struct StoredByWorkers {
    /// Their number.
    workers: usize,
    /// Longest time that one took, and when the last was done.
    written: PartsWritten,
}

impl SyncRounds {
    /// Returns the state in which no epoch's parts may be synced yet.
    pub fn none() -> SyncRounds {
        SyncRounds { begun: DurableEpochs::none(), stored: Arc::default() }
    }

    /// Returns the state in which nothing is waited for.
    pub fn any() -> SyncRounds {
        let rounds = SyncRounds::none();
        rounds.begin(Epoch::MAX);
        rounds
    }

    /// Called when all parts of `epoch` and of all epochs before it are known, or when nothing
    /// should wait for one that is not. They may not all be written yet.
    pub fn begin(&self, epoch: Epoch) {
        self.begun.reached(epoch);
    }

    /// Called when a worker of this process has stored all of `epoch`, which took it so long.
    pub fn stored(&self, epoch: Epoch, took: Duration) {
        let at = Instant::now();
        self.stored.send_modify(|epochs| {
            let none = StoredByWorkers { workers: 0, written: PartsWritten { took, at } };
            let stored = epochs.entry(epoch).or_insert(none);
            stored.workers += 1;
            stored.written = PartsWritten { took: took.max(stored.written.took), at };
        });
    }

    /// Called when `epoch` and all before it are committed.
    pub fn committed(&self, epoch: Epoch) {
        self.stored.send_modify(|epochs| *epochs = epochs.split_off(&(epoch + 1)));
    }

    /// Returns when `workers` workers of this process have stored all of `epoch`.
    async fn stored_by(&self, epoch: Epoch, workers: usize) -> PartsWritten {
        let by = |epochs: &BTreeMap<Epoch, StoredByWorkers>| {
            epochs.get(&epoch).filter(|stored| stored.workers >= workers).copied()
        };
        let mut stored = self.stored.subscribe();
        // The sender is this value's, so waiting ends only with them.
        let stored = stored.wait_for(|epochs| by(epochs).is_some()).await;
        match stored.ok().and_then(|epochs| by(&epochs)) {
            Some(stored) => stored.written,
            None => std::future::pending().await,
        }
    }

    /// Returns true if the parts of `epoch` may be synced.
    pub fn has_begun(&self, epoch: Epoch) -> bool {
        self.begun.has_reached(epoch)
    }

    /// Returns a value that begins the round of `epoch` when it is dropped.
    pub fn begin_at_last(&self, epoch: Epoch) -> BeginRoundOnDrop {
        BeginRoundOnDrop { rounds: self.clone(), epoch }
    }

    /// Returns when the parts of `epoch` may be synced.
    pub async fn wait(&self, epoch: Epoch) {
        self.begun.wait(epoch).await;
    }
}

/// Begins the round of an epoch when it is dropped. The commit of the epoch holds it: however the
/// commit ends, no part waits for ever.
#[derive(Debug)]
pub struct BeginRoundOnDrop {
    rounds: SyncRounds,
    epoch: Epoch,
}

impl Drop for BeginRoundOnDrop {
    fn drop(&mut self) {
        self.rounds.begin(self.epoch);
    }
}

/// Becomes known when all parts and changes of an epoch are durable. Clones wait for the same.
///
/// The commit of an epoch begins before: what may be prepared is prepared while the parts are
/// synced.
#[derive(Clone, Debug)]
pub struct DurableParts {
    epoch: Epoch,
    /// Number of workers of the job.
    peers: usize,
    /// Lets the parts be synced when they are waited for. Knows before the frontier that they are
    /// durable, if all workers are of this process.
    rounds: SyncRounds,
    written: watch::Receiver<Option<PartsWritten>>,
}

/// The parts of an epoch, when all of them are durable.
#[derive(Clone, Copy, Debug)]
pub struct PartsWritten {
    /// Longest time that a worker took to store its parts.
    pub took: Duration,
    /// When all were durable.
    pub at: Instant,
}

impl DurableParts {
    /// Returns the receiver, and the sender that is given the fact once.
    pub fn awaited(
        (epoch, peers): (Epoch, usize),
        rounds: SyncRounds,
    ) -> (watch::Sender<Option<PartsWritten>>, DurableParts) {
        let (sender, written) = watch::channel(None);
        (sender, DurableParts { epoch, peers, rounds, written })
    }

    /// Returns a function that lets the parts be synced when it is called, or dropped.
    pub fn begin_when_called(&self) -> OnWritten {
        let at_last = self.rounds.begin_at_last(self.epoch);
        Box::new(move || drop(at_last))
    }

    /// Returns when the parts may be synced.
    pub async fn begun(&self) {
        self.rounds.wait(self.epoch).await;
    }

    /// Lets the parts be synced, and returns when all are durable. Without end if the job fails
    /// before that. What should be synced with the parts is written before this is called.
    pub async fn wait(&self) -> PartsWritten {
        self.rounds.begin(self.epoch);
        self.all_durable().await
    }

    /// Returns when all parts are durable, and does not let them be synced.
    pub async fn all_durable(&self) -> PartsWritten {
        let mut written = self.written.clone();
        let passed = async {
            match written.wait_for(Option::is_some).await.map(|written| *written) {
                Ok(Some(written)) => written,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            stored = self.rounds.stored_by(self.epoch, self.peers) => stored,
            written = passed => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn epoch_is_waited_for_until_reached() {
        let durable = DurableEpochs::none();
        let (first, second) = (durable.clone(), durable.clone());
        let waits = tokio::spawn(async move { first.wait(20).await });
        durable.reached(10);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        second.reached(30);
        second.reached(20);
        waits.await.expect("no panic");
        durable.wait(30).await;
    }

    #[tokio::test]
    async fn parts_of_failed_job_are_never_durable() {
        let rounds = SyncRounds::none();
        let (sender, durable) = DurableParts::awaited((10, 1), rounds.clone());
        let other = durable.clone();
        assert!(rounds.wait(10).now_or_never().is_none());
        assert!(durable.wait().now_or_never().is_none());
        rounds.wait(10).await;
        assert!(rounds.wait(20).now_or_never().is_none());
        sender.send_replace(Some(PartsWritten { took: Duration::ZERO, at: Instant::now() }));
        drop(sender);
        other.wait().await;
        let (sender, durable) = DurableParts::awaited((20, 1), SyncRounds::any());
        drop(sender);
        assert!(durable.wait().now_or_never().is_none());
    }

    #[tokio::test]
    async fn parts_are_durable_when_all_workers_stored() {
        let rounds = SyncRounds::none();
        let (_sender, durable) = DurableParts::awaited((10, 2), rounds.clone());
        let ms = Duration::from_millis;
        rounds.stored(10, ms(7));
        rounds.stored(20, ms(1));
        rounds.stored(20, ms(1));
        assert!(
            durable.all_durable().now_or_never().is_none(),
            "one worker, and those of a later epoch"
        );
        rounds.stored(10, ms(5));
        assert_eq!(durable.all_durable().await.took, ms(7));
        rounds.committed(10);
        assert!(durable.all_durable().now_or_never().is_none(), "it is forgotten");
        let (_sender, next) = DurableParts::awaited((20, 2), rounds.clone());
        next.all_durable().now_or_never().expect("stored");
        assert!(!rounds.has_begun(10));
        drop(durable.begin_when_called());
        durable.begun().await;
    }
}
