//! What a definition returns: the rows to publish, by epoch.
//!
//! The sink asks for two things only: which epochs there are (the ticks), and the rows of each, in
//! an order that does not depend on how many workers there are. [`RowSet`] is that question, so a
//! batch is read where it lies and nothing is copied to be published.

use std::fmt;
use std::rc::Rc;

use differential_dataflow::trace::implementations::ord_neu::key_batch::OrdKeyStorage;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::Context;
use super::batch::{Epochs, updates_at};
use super::columns::WordRef;
use super::counts::Batches;
use super::merger::WordBatch;
use super::window::Grid;
use crate::epoch::Epoch;

/// One row of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// A word and how often it occurs.
    Count {
        /// [`hash`](crate::words::hash) of the word: decides its part and its place there.
        hash: u64,
        /// The word.
        word: &'a [u8],
        /// How often it occurs.
        count: i64,
    },
    /// A word and its count in a ranking: all in part 0, in the order in which they are shown.
    Ranked {
        /// The word.
        word: &'a [u8],
        /// How often it occurs.
        count: i64,
    },
    /// A line as it is, without its end, in this part, in the order in which it is shown.
    Line {
        /// Its part.
        part: u32,
        /// Its bytes.
        line: &'a [u8],
    },
}

/// Rows of one epoch at one worker, ascending by (hash, word) or in an order of their own.
pub trait RowSet {
    /// Shows every row to `visit`.
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>));
}

/// A set of rows and the epoch they belong to.
#[derive(Clone)]
pub struct EpochRows {
    /// The epoch.
    pub epoch: Epoch,
    /// Its rows, or some of them: a worker may produce several sets for an epoch.
    pub rows: Rc<dyn RowSet>,
}

impl fmt::Debug for EpochRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochRows").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The result of a definition: rows by epoch, at the worker that owns their part.
pub struct Rows<'s> {
    pub(crate) stream: Stream<'s, Epoch, Vec<EpochRows>>,
    pub(crate) ticks: Stream<'s, Epoch, Vec<Epoch>>,
    pub(crate) context: Rc<Context>,
    /// The epochs that publish a result. Every ticked epoch is committed all the same: the others
    /// without a file.
    pub(crate) grid: Grid,
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("context", &self.context).finish_non_exhaustive()
    }
}

/// The updates of a batch at one epoch.
struct BatchAt {
    batch: Rc<WordBatch>,
    epoch: Epoch,
}

impl RowSet for BatchAt {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        let mut show = |key: WordRef<'_>, count| {
            visit(Row::Count { hash: key.hash, word: key.word, count });
        };
        if self.batch.only_time() == Some(self.epoch) {
            let OrdKeyStorage { keys, upds } = &self.batch.storage;
            keys.iter().zip(&upds.diffs).for_each(|(key, count)| show(key, *count));
        } else {
            updates_at(&self.batch, self.epoch).for_each(|(key, count)| show(key, count));
        }
    }
}

/// Each epoch's own updates. A batch may span several epochs, when a frontier jumped.
pub(super) fn per_epoch_rows(batches: Batches<'_>) -> Stream<'_, Epoch, Vec<EpochRows>> {
    batches.unary::<CapacityContainerBuilder<Vec<EpochRows>>, _, _, _>(
        Pipeline,
        "Rows of an epoch",
        |_capability, _info| {
            move |input, output| {
                input.for_each(|capability, spans| {
                    let capabilities = capability.retain_stamp(0);
                    for batch in spans.drain(..).filter_map(|span| span.inner) {
                        for epoch in batch.epochs() {
                            let rows = Rc::new(BatchAt { batch: Rc::clone(&batch), epoch });
                            let capability = capabilities.delayed(&epoch);
                            output.session(&capability).give(EpochRows { epoch, rows });
                        }
                    }
                });
            }
        },
    )
}
