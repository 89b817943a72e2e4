//! The status of a job, as one value that is replaced whole.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::epoch::Epoch;
use crate::meters::{EpochCounts, Meters};
use crate::operators::Tally;
use crate::outputs::{Committed, OnCommit};

/// The status of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The epoch that lines belong to now.
    pub open: Epoch,
    /// Epochs that are cut and not yet committed, oldest first.
    pub in_flight: VecDeque<Epoch>,
    /// Epochs committed by this run.
    pub committed: u64,
    /// The newest of them.
    pub last: Option<Committed>,
    /// The lines and words that were read and counted in them.
    pub total: Tally,
}

/// The totals of a job that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Epochs committed.
    pub epochs: u64,
    /// The newest of them.
    pub last: Option<Committed>,
    /// The lines and words that were read and counted in them.
    pub total: Tally,
}

impl Status {
    /// Returns the totals of a job that has ended.
    pub(crate) fn summary(self) -> Summary {
        Summary { epochs: self.committed, last: self.last, total: self.total }
    }

    /// Notes that `epoch` and all before it are committed: epochs are committed in order.
    pub(crate) fn committed_through(&mut self, epoch: Epoch) {
        while self.in_flight.front().is_some_and(|first| *first <= epoch) {
            self.in_flight.pop_front();
        }
    }

    /// Adds a committed epoch to the totals.
    fn commit(&mut self, committed: Committed) {
        self.committed_through(committed.epoch);
        self.committed += 1;
        self.total.add(committed.tally);
        self.last = Some(committed);
    }
}

/// Returns the status of a job whose first epoch is `open`, after those of `replay`, and the
/// observer that updates it.
pub fn observe(
    (open, replay): (Epoch, &[Epoch]),
    announce: broadcast::Sender<Committed>,
    then: Option<OnCommit>,
    meters: Meters,
) -> (watch::Sender<Status>, OnCommit) {
    meters.epochs().begin(open, replay);
    let in_flight = replay.iter().copied().collect();
    let status = watch::Sender::new(Status { open, in_flight, ..Status::default() });
    let keep = status.clone();
    let observer = move |committed: Committed| {
        // First: a reader of the log may ask for the figures of the commit at once.
        let Committed { epoch, tally: Tally { lines, words, .. }, rows, bytes, .. } = committed;
        meters.committed(EpochCounts { epoch, lines, words, rows, bytes });
        let Committed { epoch, tally, rows, .. } = committed;
        let Tally { lines, words, .. } = tally;
        let times = meters.epochs().last().unwrap_or_default();
        tracing::info!(
            event = "epoch_committed",
            epoch,
            lines,
            words,
            distinct = rows,
            count_ms = times.count_ms,
            write_ms = times.write_ms,
            commit_ms = times.commit_ms,
            "{committed}"
        );
        if committed.tally.oversized_words > 0 {
            let words = committed.tally.oversized_words;
            tracing::warn!("{words} words longer than --max-word-bytes were not counted");
        }
        if committed.tally.lines_without_key > 0 {
            let lines = committed.tally.lines_without_key;
            tracing::info!("{lines} lines had nothing to count and were skipped");
        }
        keep.send_modify(|status| status.commit(committed.clone()));
        // It fails if nothing receives, which is fine.
        announce.send(committed.clone()).ok();
        if let Some(then) = &then {
            then(committed);
        }
    };
    (status, Arc::new(observer))
}
