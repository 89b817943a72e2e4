//! The context of a worker's operators, and its tallies of open epochs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::open_ranges::{OpenRanges, ProcessRanges};
use super::stored_change::ChangeBuffer;
use crate::epoch::Epoch;
use crate::failure::Failure;
use crate::meters::{Meters, WorkerMeter};
use crate::words::{Ranging, WordOptions};

/// The settings that the operators of all workers share.
#[derive(Clone, Debug)]
pub struct DataflowSettings {
    /// Number of workers in each process.
    pub threads: usize,
    /// Number of parts that a result is divided into.
    pub parts: u32,
    /// Number of workers, from worker 0 on and over all processes, that own parts. All workers do,
    /// unless the output belongs to one process.
    pub owners: usize,
    /// Length of an epoch in milliseconds.
    pub interval_ms: u64,
    /// The rules by which lines become words.
    pub words: WordOptions,
    /// Table size in bytes above which a table is drained before its epoch ends.
    pub table_bytes_max: usize,
}

impl DataflowSettings {
    /// Returns the index of the worker that owns `part`.
    pub fn owner(&self, part: u32) -> usize {
        part as usize % self.owners
    }
}

/// Facts and figures that the operators of one worker share.
#[derive(Debug)]
pub struct Context {
    /// Index of this worker among all workers of the cluster.
    pub index: usize,
    /// Number of workers in the cluster.
    pub peers: usize,
    /// Number of processes among which words may be divided before they are counted: all if they
    /// share a host, or else 1.
    pub dividing: usize,
    /// The ranges that the workers of this process share.
    pub ranges: ProcessRanges,
    /// Number of counting operators so far.
    pub counting: Cell<usize>,
    /// The settings of all workers.
    pub settings: DataflowSettings,
    /// Figures of open epochs at this worker.
    pub tallies: Tallies,
    /// Changes of totals and windows that this worker keeps.
    pub changes: ChangeBuffer,
    /// Ends the job when an operator fails.
    pub failure: Failure,
    /// The figures of the process.
    pub meters: Meters,
}

impl Context {
    /// Returns the index of the worker that owns `part`.
    pub fn owner(&self, part: u32) -> usize {
        self.settings.owner(part)
    }

    /// Returns the shared ranges of the next counting operator.
    pub fn open_ranges(&self) -> OpenRanges {
        let number = self.counting.replace(self.counting.get() + 1);
        let threads = self.settings.threads;
        let process = if self.dividing > 1 { self.index / threads } else { 0 };
        self.ranges.of_operator(number, Ranging::new(self.dividing), process, threads)
    }

    /// Returns the workers of the processes among which words are divided.
    pub fn dividing_workers(&self) -> Range<usize> {
        let threads = self.settings.threads;
        match self.dividing {
            1 => self.index - self.index % threads..self.index - self.index % threads + threads,
            processes => 0..processes * threads,
        }
    }

    /// Returns true if `worker` is a worker of this process.
    pub fn is_local(&self, worker: usize) -> bool {
        worker / self.settings.threads == self.index / self.settings.threads
    }
}

/// Numbers of lines, bytes and words that one worker read and counted in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Lines that ended in the epoch.
    pub lines: u64,
    /// Bytes of those lines.
    pub bytes: u64,
    /// Words counted.
    pub words: u64,
    /// Words longer than `--max-word-bytes`, which are not counted.
    pub oversized_words: u64,
    /// Lines in which a definition on keys found no key.
    #[serde(default)]
    pub lines_without_key: u64,
}

impl Tally {
    /// Adds `other` to this tally.
    pub fn add(&mut self, other: Tally) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.words += other.words;
        self.oversized_words += other.oversized_words;
        self.lines_without_key += other.lines_without_key;
    }
}

/// The tallies of the open epochs of one worker. Clones share them; a worker is one thread.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// The tally of each open epoch.
    epochs: Rc<RefCell<BTreeMap<Epoch, Tally>>>,
    /// The figures of the worker, which no epoch ends.
    meter: Arc<WorkerMeter>,
}

impl Tallies {
    /// Returns empty tallies whose words are also counted by `meter`.
    pub fn metered(meter: Arc<WorkerMeter>) -> Tallies {
        Tallies { meter, ..Tallies::default() }
    }

    /// Adds to the tally of `epoch`.
    pub fn add(&self, epoch: Epoch, tally: Tally) {
        self.meter.words.add(tally.words);
        self.epochs.borrow_mut().entry(epoch).or_default().add(tally);
    }

    /// Removes and returns the tally of `epoch`. It is complete once the frontier has passed
    /// `epoch`.
    pub fn take(&self, epoch: Epoch) -> Tally {
        self.epochs.borrow_mut().remove(&epoch).unwrap_or_default()
    }
}
