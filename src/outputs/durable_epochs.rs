//! The epochs whose ends are on disk, and those whose parts are durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::epoch::Epoch;

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
    fn has_reached(&self, epoch: Epoch) -> bool {
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

/// The epochs whose parts may be synced. Clones share them.
///
/// A file system makes durable at once what was written before a sync. So the files of a small
/// epoch, the marker included, are written first, and are then synced at the same time. That saves
/// time and is no promise: a part may still be written when the epoch's syncs begin, and the parts
/// of a large epoch or of several processes wait for nothing.
#[derive(Clone, Debug)]
pub struct SyncRounds(DurableEpochs);

impl SyncRounds {
    /// Returns the state in which no epoch's parts may be synced yet.
    pub fn none() -> SyncRounds {
        SyncRounds(DurableEpochs::none())
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
        self.0.reached(epoch);
    }

    /// Returns true if the parts of `epoch` may be synced.
    pub fn has_begun(&self, epoch: Epoch) -> bool {
        self.0.has_reached(epoch)
    }

    /// Returns a value that begins the round of `epoch` when it is dropped.
    pub fn begin_at_last(&self, epoch: Epoch) -> BeginRoundOnDrop {
        BeginRoundOnDrop { rounds: self.clone(), epoch }
    }

    /// Returns when the parts of `epoch` may be synced.
    pub async fn wait(&self, epoch: Epoch) {
        self.0.wait(epoch).await;
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
    /// Lets the parts be synced when they are waited for.
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
        epoch: Epoch,
        rounds: SyncRounds,
    ) -> (watch::Sender<Option<PartsWritten>>, DurableParts) {
        let (sender, written) = watch::channel(None);
        (sender, DurableParts { epoch, rounds, written })
    }

    /// Lets the parts be synced, and returns when all are durable. Without end if the job fails
    /// before that. What should be synced with the parts is written before this is called.
    pub async fn wait(&self) -> PartsWritten {
        self.rounds.begin(self.epoch);
        self.known().await
    }

    /// Returns when all parts are durable, and does not let them be synced.
    pub async fn known(&self) -> PartsWritten {
        let written = self.written.clone().wait_for(Option::is_some).await.map(|written| *written);
        match written {
            Ok(Some(written)) => written,
            _ => std::future::pending().await,
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
        let (sender, durable) = DurableParts::awaited(10, rounds.clone());
        let other = durable.clone();
        assert!(rounds.wait(10).now_or_never().is_none());
        assert!(durable.wait().now_or_never().is_none());
        rounds.wait(10).await;
        assert!(rounds.wait(20).now_or_never().is_none());
        sender.send_replace(Some(PartsWritten { took: Duration::ZERO, at: Instant::now() }));
        drop(sender);
        other.wait().await;
        let (sender, durable) = DurableParts::awaited(20, SyncRounds::any());
        drop(sender);
        assert!(durable.wait().now_or_never().is_none());
    }
}
