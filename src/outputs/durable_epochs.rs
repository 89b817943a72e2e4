//! The epochs whose ends are on disk, for those who store results.

use std::sync::Arc;

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

    /// Returns when the end of `epoch` is on disk.
    pub async fn wait(&self, epoch: Epoch) {
        // The sender is this value's, so waiting ends only with an epoch.
        let _ = self.0.subscribe().wait_for(|newest| *newest >= epoch).await;
    }
}

#[cfg(test)]
mod tests {
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
}
