//! The result of a definition: the rows to publish, by epoch.
//!
//! The sink needs two things: which epochs there are (the ticks), and the rows of each epoch in an
//! order that does not depend on the number of workers. A [`RowSet`] visits rows in place, so a
//! batch is published without a copy.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::context::Context;
use super::differential_batch::WordBatch;
use super::run::Run;
use super::run_batcher::Batches;
use super::spare_runs;
use super::window::Grid;
use crate::epoch::Epoch;

/// One row of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// A word and its count.
    Count {
        /// The hash of the word. It decides the part and the place in the part.
        hash: u64,
        /// The word.
        word: &'a [u8],
        /// Its count.
        count: i64,
    },
    /// A word and its count in a ranking. All are in part 0, in the order in which they are
    /// visited.
    Ranked {
        /// The word.
        word: &'a [u8],
        /// Its count.
        count: i64,
    },
    /// A line without its end. Lines of a part are published in the order in which they are
    /// visited.
    Line {
        /// Its part.
        part: u32,
        /// Its bytes.
        line: &'a [u8],
    },
}

/// The columns that all rows of a result have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// A word and its count: [`Row::Count`] and [`Row::Ranked`].
    Counts,
    /// A line of bytes: [`Row::Line`].
    Lines,
}

impl Row<'_> {
    /// Returns the kind of the row.
    pub fn kind(&self) -> RowKind {
        match self {
            Row::Count { .. } | Row::Ranked { .. } => RowKind::Counts,
            Row::Line { .. } => RowKind::Lines,
        }
    }
}

/// Rows of one epoch at one worker, ascending by (hash, word) or in an order of their own.
///
/// They are visited by other threads than the worker's, which goes on to the next epoch.
pub trait RowSet: Send + Sync {
    /// Calls `visit` with every row.
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>));

    /// Returns the rows as one run, if that is what they are: words with counts, ascending by
    /// (hash, word).
    fn run(&self) -> Option<&Run> {
        None
    }
}

/// A set of rows and the epoch they belong to.
#[derive(Clone)]
pub struct EpochRows {
    /// The epoch.
    pub epoch: Epoch,
    /// Its rows, or some of them: a worker may produce several sets for an epoch.
    pub rows: Arc<dyn RowSet>,
}

impl fmt::Debug for EpochRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochRows").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The result of a definition: rows by epoch, at the worker that owns their part.
pub struct Rows<'s> {
    /// The rows, each set at the worker that owns its part.
    pub(crate) stream: Stream<'s, Epoch, Vec<EpochRows>>,
    /// The epochs that are written, also those without rows.
    pub(crate) ticks: Stream<'s, Epoch, Vec<Epoch>>,
    /// The facts and tallies of the worker.
    pub(crate) context: Rc<Context>,
    /// The epochs that publish a result. Other epochs are committed too, without a file.
    pub(crate) grid: Grid,
    /// The kind of all rows.
    pub(crate) kind: RowKind,
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("context", &self.context).finish_non_exhaustive()
    }
}

/// Returns the updates of each epoch as its rows.
///
/// A batch may span several epochs, if the frontier moved over them at once.
pub fn per_epoch_rows(batches: Batches<'_>) -> Stream<'_, Epoch, Vec<EpochRows>> {
    batches.unary::<CapacityContainerBuilder<Vec<EpochRows>>, _, _, _>(
        Pipeline,
        "Rows of an epoch",
        |_capability, _info| {
            move |input, output| {
                input.for_each(|capability, spans| {
                    let capabilities = capability.retain_stamp(0);
                    for batch in spans.drain(..).filter_map(|span| span.inner) {
                        for run in runs(batch) {
                            let epoch = run.epoch;
                            let capability = capabilities.delayed(&epoch);
                            let rows = rows_of(run);
                            output.session(&capability).give(EpochRows { epoch, rows });
                        }
                    }
                });
            }
        },
    )
}

/// Returns the updates of each epoch of a batch.
fn runs(batch: Rc<WordBatch>) -> Vec<Run> {
    match batch.only_time() {
        // The trace is dropped, so the batch is not shared: its columns become the run.
        Some(epoch) if Rc::strong_count(&batch) == 1 => {
            Rc::into_inner(batch).map(|batch| batch.into_run(epoch)).into_iter().collect()
        }
        _ => batch.epochs().into_iter().map(|epoch| batch.run_at(epoch)).collect(),
    }
}

/// Returns the words of a run as rows. The memory of the run is kept when they are dropped.
pub fn rows_of(run: Run) -> Arc<dyn RowSet> {
    Arc::new(RunRows(run))
}

/// A run as rows.
struct RunRows(Run);

impl RowSet for RunRows {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for (key, count) in self.0.words.iter().zip(&self.0.counts) {
            visit(Row::Count { hash: key.hash, word: key.word, count: *count });
        }
    }

    fn run(&self) -> Option<&Run> {
        Some(&self.0)
    }
}

impl Drop for RunRows {
    fn drop(&mut self) {
        spare_runs::keep(std::mem::take(&mut self.0));
    }
}
