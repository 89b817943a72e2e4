//! Committed epochs as a stream, for programs that go on with them.

use std::fmt;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::outputs::Committed;

/// Epochs that are kept for a lagging reader.
const KEPT: usize = 1024;

/// Returns the sender that announces commits, and the first reader.
pub fn channel() -> (broadcast::Sender<Committed>, Commits) {
    let (sender, receiver) = broadcast::channel(KEPT);
    (sender, Commits { receiver, missed: 0 })
}

/// The epochs of a job in order, each when it is committed; ends when the job has.
///
/// A job never waits for its readers. One that lags by more than 1024 epochs loses the oldest of
/// them, and [`Commits::missed`] counts them; nothing is lost in the output itself.
///
/// In a task use [`Commits::next_commit`]; elsewhere it is an iterator, which blocks (and panics in
/// a task).
pub struct Commits {
    /// The epochs that were committed and not taken yet.
    receiver: broadcast::Receiver<Committed>,
    /// Epochs that were dropped, because they were not taken in time.
    missed: u64,
}

impl Commits {
    /// Follows the commits of a job. The stream of a job that has ended is empty.
    pub(crate) fn of(sender: Option<broadcast::Sender<Committed>>) -> Commits {
        // A job that has ended commits nothing more: its channel has no sender.
        let receiver = sender.map_or_else(|| broadcast::channel(1).1, |sender| sender.subscribe());
        Commits { receiver, missed: 0 }
    }

    /// Returns the next committed epoch; `None` when the job has ended.
    pub async fn next_commit(&mut self) -> Option<Committed> {
        loop {
            match self.receiver.recv().await {
                Ok(committed) => return Some(committed),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the number of epochs lost to reading too slowly.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Iterator for Commits {
    type Item = Committed;

    fn next(&mut self) -> Option<Committed> {
        loop {
            match self.receiver.blocking_recv() {
                Ok(committed) => return Some(committed),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("missed", &self.missed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(epoch: u64) -> Committed {
        Committed { epoch, ..Committed::default() }
    }

    #[test]
    fn lagging_reader_loses_oldest_and_counts_them() {
        let (sender, mut commits) = channel();
        let lag = 3;
        (0..KEPT as u64 + lag).for_each(|epoch| drop(sender.send(committed(epoch))));
        drop(sender);
        assert_eq!(commits.next().map(|committed| committed.epoch), Some(lag));
        assert_eq!(commits.missed(), lag);
        assert_eq!(commits.count(), KEPT - 1);
    }

    #[test]
    fn ended_job_yields_no_commit() {
        assert_eq!(Commits::of(None).count(), 0);
    }
}
