//! What a dataflow definition is written in: [`Lines`] in, [`Counts`] or [`Rows`] out.
//!
//! A definition is a plain function from the lines of all sources to rows, built of the combinators
//! here. It sees neither clock nor socket nor store: epochs are timestamps, and what arrives at a
//! timestamp is final once the frontier has passed it.
//!
//! ```text
//! feed ─► read ─► count words ══runs to their owner══► arrange ─► rows ─► (sink)
//!           └── ticks: one a worker an epoch ─────────────────────────►
//! ```
//!
//! Words never become updates one by one: a table counts them as they are read, and each epoch
//! leaves it as sorted columns that differential takes over as a batch. A *tick* is the capability
//! of an epoch in the form of a message: a worker to which an epoch brings no words still has to
//! take part in publishing it, and cannot without one.

mod archive;
mod batch;
mod capture;
mod collection;
mod columns;
mod combine;
mod counts;
mod memory;
mod merger;
mod read;
mod routed;
mod rows;
mod run;
mod ticks;
mod top;
mod totals;
mod window;
mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::dataflow::Stream;

use crate::epoch::Epoch;
use crate::failure::Failure;
use crate::lines::Block;
use crate::words::WordOptions;

pub use batch::{RunBatcher, WordLayout, WordSpine};
pub use capture::{Captured, CapturedRow, capture};
pub use collection::Printable;
pub use columns::{Offsets, Times, WordColumn, WordOwned, WordRef};
pub use counts::Counts;
pub use memory::{Change, Memory, Restored};
pub use merger::{WordBatch, WordMerger};
pub use read::read;
pub use rows::{EpochRows, Row, RowSet, Rows};
pub use run::{Run, ToOwner};
pub(crate) use window::Grid;
pub use window::Window;
pub use words::{Running, Windowed, Words};

/// What the operators of one worker share: who they are, the options that shape words, and the
/// tally of open epochs.
#[derive(Debug)]
pub struct Context {
    /// Index of this worker among all workers of the cluster.
    pub index: usize,
    /// Number of workers in the cluster.
    pub peers: usize,
    /// Number of workers in each process.
    pub threads: usize,
    /// Workers among which words may be routed before they are counted: those of a process, or all
    /// where the processes share a host.
    pub routing: usize,
    /// Number of parts that a result is divided into.
    pub parts: u32,
    /// Workers 0 to this own the parts: all, unless the output belongs to one process.
    pub owners: usize,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// How lines become words.
    pub words: WordOptions,
    /// A table that grows beyond this is drained before its epoch ends.
    pub table_bytes_max: usize,
    /// Figures of open epochs at this worker.
    pub tallies: Tallies,
    /// What counts with memory keep at this worker.
    pub memory: Memory,
    /// The fate of the job.
    pub failure: Failure,
}

impl Context {
    /// The worker that owns `part`.
    pub fn owner(&self, part: u32) -> usize {
        part as usize % self.owners
    }

    /// The first of the workers among which this one routes words.
    pub fn first_routed(&self) -> usize {
        self.index - self.index % self.routing
    }

    /// Whether the worker with this index is one of this process.
    pub fn is_local(&self, worker: usize) -> bool {
        worker / self.threads == self.index / self.threads
    }
}

/// What one worker has read and counted in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Lines that ended in the epoch.
    pub lines: u64,
    /// Bytes of those lines.
    pub bytes: u64,
    /// Words counted.
    pub words: u64,
    /// Words above `--max-word-bytes`, counted nowhere.
    pub oversized_words: u64,
    /// Lines in which a definition on keys found none.
    #[serde(default)]
    pub lines_without_key: u64,
}

impl Tally {
    /// Adds `other` to this.
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
    epochs: Rc<RefCell<BTreeMap<Epoch, Tally>>>,
}

impl Tallies {
    /// Adds to the tally of `epoch`.
    pub fn add(&self, epoch: Epoch, tally: Tally) {
        self.epochs.borrow_mut().entry(epoch).or_default().add(tally);
    }

    /// Takes out the tally of `epoch`, complete once its frontier has passed here.
    pub fn take(&self, epoch: Epoch) -> Tally {
        self.epochs.borrow_mut().remove(&epoch).unwrap_or_default()
    }
}

/// The lines of all sources, as blocks of whole lines, and the ticks of their epochs.
#[derive(Clone)]
pub struct Lines<'s> {
    blocks: Stream<'s, Epoch, Vec<Block>>,
    ticks: Stream<'s, Epoch, Vec<Epoch>>,
    context: Rc<Context>,
}

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("context", &self.context).finish_non_exhaustive()
    }
}
