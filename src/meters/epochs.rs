//! Open, cut and committed epochs, and the time that each stage took.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::top::TopWords;
use super::{Counter, lock, now_ms};
use crate::epoch::Epoch;

/// Number of committed epochs that are kept.
pub const COMMITTED_MAX: usize = 1000;

/// Upper bounds of the buckets of a histogram, in seconds.
pub const STAGE_BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// A stage in the life of an epoch after its cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the cut until all rows are known.
    Count,
    /// Until all parts are durable.
    Write,
    /// Until the marker is stored.
    Commit,
    /// From the cut until the marker is stored.
    Total,
}

impl Stage {
    /// All stages.
    pub const ALL: [Stage; 4] = [Stage::Count, Stage::Write, Stage::Commit, Stage::Total];

    /// Returns the name of the stage in metrics.
    pub fn name(self) -> &'static str {
        ["count", "write", "commit", "total"][self as usize]
    }
}

/// A histogram over [`STAGE_BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last bucket has no bound.
    buckets: [Counter; STAGE_BOUNDS.len() + 1],
    /// The sum of all times in nanoseconds.
    sum_ns: Counter,
}

impl Histogram {
    /// Counts a time in its bucket.
    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = STAGE_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(STAGE_BOUNDS.len())].add(1);
        self.sum_ns.add(time.as_nanos() as u64);
    }

    /// Returns the sum of all observations in seconds, and the number of observations in each
    /// bucket alone.
    pub fn read(&self) -> (f64, Vec<u64>) {
        let buckets = self.buckets.iter().map(Counter::get).collect();
        (self.sum_ns.get() as f64 / 1e9, buckets)
    }
}

/// The facts of an epoch whose marker is stored and that is about to be announced.
#[derive(Clone, Debug, Default)]
pub struct StoredEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// Longest time that a worker took to store its parts.
    pub write: Duration,
    /// Time that the commit took.
    pub commit: Duration,
    /// The place of its objects, relative to the root of the output.
    pub path: String,
    /// Its most frequent words, if they are wanted.
    pub top: TopWords,
}

/// The counts of a committed epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct EpochCounts {
    /// The epoch.
    pub epoch: Epoch,
    /// Lines that ended in it.
    pub lines: u64,
    /// Words counted.
    pub words: u64,
    /// Rows published.
    pub rows: u64,
    /// Bytes of all parts.
    pub bytes: u64,
}

/// One committed epoch, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EpochRecord {
    /// The epoch: Unix milliseconds of its end.
    pub epoch: Epoch,
    /// Lines that ended in it.
    pub lines: u64,
    /// Words counted.
    pub words: u64,
    /// Rows published: of word counts, the distinct words.
    pub distinct: u64,
    /// Rows published.
    pub rows: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Milliseconds of [`Stage::Count`].
    pub count_ms: u64,
    /// Milliseconds of [`Stage::Write`].
    pub write_ms: u64,
    /// Milliseconds of [`Stage::Commit`].
    pub commit_ms: u64,
    /// Milliseconds of [`Stage::Total`].
    pub total_ms: u64,
    /// Unix milliseconds of the commit.
    pub committed_at: u64,
    /// The place of its objects.
    pub path: String,
}

/// The figures of the epochs of a job, as one process knows them.
#[derive(Debug, Default)]
pub struct EpochMeter {
    /// A histogram for each stage.
    stages: [Histogram; Stage::ALL.len()],
    /// The epochs.
    state: Mutex<EpochState>,
}

#[derive(Debug, Default)]
struct EpochState {
    /// The open epoch.
    open: Epoch,
    /// Epochs that are cut and not committed, with the time of the cut.
    in_flight: BTreeMap<Epoch, Instant>,
    /// Epochs whose marker is stored and that are not announced.
    stored: BTreeMap<Epoch, StoredEpoch>,
    /// The newest committed epoch; 0 before the first.
    newest: Epoch,
    /// The sums of all committed epochs.
    totals: EpochCounts,
    /// The newest committed epochs.
    records: VecDeque<Arc<EpochRecord>>,
    /// The most frequent words of the newest epoch that has them.
    top: (Epoch, Arc<TopWords>),
}

impl EpochMeter {
    /// Notes that `open` is open, after those that a former run has left in flight.
    pub fn begin(&self, open: Epoch, in_flight: &[Epoch]) {
        let mut state = lock(&self.state);
        state.open = open;
        state.in_flight.extend(in_flight.iter().map(|epoch| (*epoch, Instant::now())));
    }

    /// Notes that `epoch` is cut and `next` is open.
    pub fn cut(&self, epoch: Epoch, next: Epoch) {
        let mut state = lock(&self.state);
        state.in_flight.insert(epoch, Instant::now());
        state.open = next;
    }

    /// Notes in a process other than 0 that `epoch` and all before it are committed.
    pub fn committed_through(&self, epoch: Epoch) {
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.split_off(&(epoch + 1));
        state.newest = state.newest.max(epoch);
    }

    /// Notes that the marker of an epoch is stored. [`EpochMeter::committed`] follows.
    pub fn stored(&self, stored: StoredEpoch) {
        lock(&self.state).stored.insert(stored.epoch, stored);
    }

    /// Notes that an epoch is committed, in process 0. `root` is where its path begins; it is empty
    /// for standard output, which has no paths.
    pub fn committed(&self, counts: EpochCounts, root: &str) {
        let mut state = lock(&self.state);
        let EpochCounts { epoch, lines, words, rows, bytes } = counts;
        let stored = state.stored.remove(&epoch).unwrap_or_default();
        let cut_at = state.in_flight.get(&epoch).copied();
        let total = cut_at.map_or(stored.write + stored.commit, |cut_at| cut_at.elapsed());
        let count = total.saturating_sub(stored.write + stored.commit);
        let times = [count, stored.write, stored.commit, total];
        for (stage, time) in Stage::ALL.into_iter().zip(times) {
            self.stages[stage as usize].observe(time);
        }
        let [count_ms, write_ms, commit_ms, total_ms] = times.map(|time| time.as_millis() as u64);
        let path = match root {
            root if root.is_empty() || stored.path.is_empty() => String::new(),
            root => format!("{}/{}", root.trim_end_matches('/'), stored.path),
        };
        if state.records.len() == COMMITTED_MAX {
            state.records.pop_front();
        }
        let (distinct, committed_at) = (rows, now_ms());
        state.records.push_back(Arc::new(EpochRecord {
            epoch,
            lines,
            words,
            distinct,
            rows,
            bytes,
            count_ms,
            write_ms,
            commit_ms,
            total_ms,
            committed_at,
            path,
        }));
        if rows > 0 {
            state.top = (epoch, Arc::new(stored.top));
        }
        let totals = &mut state.totals;
        totals.lines += lines;
        totals.words += words;
        totals.rows += rows;
        totals.bytes += bytes;
        state.in_flight = state.in_flight.split_off(&(epoch + 1));
        state.newest = epoch;
    }

    /// Returns the open epoch; 0 before the first.
    pub fn open(&self) -> Epoch {
        lock(&self.state).open
    }

    /// Returns the newest committed epoch; 0 before the first.
    pub fn newest_committed(&self) -> Epoch {
        lock(&self.state).newest
    }

    /// Returns the number of epochs that are cut and not committed.
    pub fn in_flight(&self) -> usize {
        lock(&self.state).in_flight.len()
    }

    /// Returns the sums over all epochs that this run has committed.
    pub fn totals(&self) -> EpochCounts {
        lock(&self.state).totals
    }

    /// Returns the newest committed epoch's record.
    pub fn last(&self) -> Option<Arc<EpochRecord>> {
        lock(&self.state).records.back().cloned()
    }

    /// Returns the last `most` committed epochs after the epoch `after`, oldest first.
    pub fn records(&self, most: usize, after: Epoch) -> Vec<Arc<EpochRecord>> {
        let state = lock(&self.state);
        let newest = state.records.iter().rev().take_while(|record| record.epoch > after);
        let mut records: Vec<_> = newest.take(most).cloned().collect();
        records.reverse();
        records
    }

    /// Returns the newest committed epoch with rows, and its most frequent words.
    pub fn top(&self) -> (Epoch, Arc<TopWords>) {
        lock(&self.state).top.clone()
    }

    /// Returns the histogram of a stage.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(meter: &EpochMeter, epoch: Epoch, rows: u64) {
        let top = TopWords::of([(b"tide".to_vec(), epoch as i64)]);
        let path = format!("c-{epoch}");
        let (write, commit) = (Duration::from_millis(4), Duration::from_millis(2));
        meter.stored(StoredEpoch { epoch, write, commit, path, top });
        let counts = EpochCounts { epoch, lines: 1, words: 2, rows, bytes: 3 };
        meter.committed(counts, "oss://b/");
    }

    #[test]
    fn epoch_on_standard_output_has_no_path() {
        let meter = EpochMeter::default();
        let path = "-7".to_owned();
        meter.stored(StoredEpoch { epoch: 7, path, ..StoredEpoch::default() });
        meter.committed(EpochCounts { epoch: 7, ..EpochCounts::default() }, "");
        assert_eq!(meter.records(1, 0)[0].path, "");
    }

    #[test]
    fn last_thousand_epochs_are_kept() {
        let meter = EpochMeter::default();
        for epoch in 1..=COMMITTED_MAX as u64 + 5 {
            commit(&meter, epoch, 1);
        }
        let records = meter.records(usize::MAX, 0);
        assert_eq!((records.len(), records[0].epoch), (COMMITTED_MAX, 6));
        assert_eq!(records[0].path, "oss://b/c-6");
        let after: Vec<_> = meter.records(2, 1002).iter().map(|record| record.epoch).collect();
        assert_eq!(after, [1004, 1005]);
        assert_eq!(meter.totals().words, 2 * 1005);
    }

    #[test]
    fn stages_of_an_epoch_add_up() {
        let meter = EpochMeter::default();
        meter.begin(10, &[]);
        meter.cut(10, 20);
        assert_eq!((meter.open(), meter.in_flight(), meter.newest_committed()), (20, 1, 0));
        commit(&meter, 10, 1);
        assert_eq!((meter.in_flight(), meter.newest_committed()), (0, 10));
        let (total, counts) = meter.stage(Stage::Total).read();
        assert_eq!(counts.iter().sum::<u64>(), 1);
        let parts: f64 = Stage::ALL[..3].iter().map(|stage| meter.stage(*stage).read().0).sum();
        assert!(parts >= total, "the stages are {parts} s of {total} s");
    }

    #[test]
    fn top_is_of_newest_epoch_with_rows() {
        let meter = EpochMeter::default();
        commit(&meter, 10, 1);
        commit(&meter, 20, 0);
        assert_eq!(meter.top().0, 10);
    }
}
