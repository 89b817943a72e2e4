//! Word counts, and the results that can be made of them.
//!
//! The meaning of a count is one of three collections (see [`Words`](super::Words)). How it is
//! computed is decided here, when the definition asks for a result. The counts of single epochs are
//! the batches that differential's arrange operator produces; nothing is kept. Totals and windows
//! are the trace of those batches: the contents at an epoch are the sums of all updates up to it.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::Span;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Exchange, Pipeline};

use super::batch::WordBatch;
use super::batcher::{RunBatcher, WordSpine};
use super::changes::{Changes, EachChange, WordTrace, batches, compact};
use super::columns::WordColumn;
use super::context::Context;
use super::record_changes::record_changes;
use super::rows::{EpochRows, RowKind, Rows, per_epoch_rows};
use super::run::{Run, ToOwner};
use super::ticks::{AtTicks, Ticks, at_ticks};
use super::totals::Snapshot;
use super::window::{Grid, Window};
use super::{collection, top};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind};

/// The epochs that a count sums over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    /// Each epoch alone.
    Epoch,
    /// All epochs since the start, with at most `max_keys` distinct words.
    Start { max_keys: Option<u64> },
    /// The epochs of a sliding window.
    Window(Window),
}

/// Word counts by epoch. A clone computes the same counts a second time.
#[derive(Clone)]
pub struct Counts<'s> {
    pub(super) runs: Stream<'s, Epoch, Run>,
    pub(super) ticks: Ticks<'s>,
    pub(super) context: Rc<Context>,
    pub(super) over: Over,
}

impl std::fmt::Debug for Counts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts").field("over", &self.over).finish_non_exhaustive()
    }
}

impl<'s> From<Counts<'s>> for Rows<'s> {
    /// Returns all words that occur, each with its count.
    fn from(counts: Counts<'s>) -> Rows<'s> {
        let Counts { ticks, context, .. } = counts.clone();
        if let Over::Epoch = counts.over {
            // The trace is dropped, so it keeps nothing: the counts of an epoch are its batch.
            let batches = arrange(counts.runs, None).stream;
            let stream = per_epoch_rows(batches);
            return Rows { stream, ticks, context, grid: Grid::ALL, kind: RowKind::Counts };
        }
        let (arranged, grid) = counts.arranged();
        let totals = Totals { trace: arranged.trace, grid };
        let stream = at_ticks(arranged.stream, Pipeline, ticks.clone(), "Totals", totals);
        Rows { stream, ticks, context, grid, kind: RowKind::Counts }
    }
}

impl<'s> Counts<'s> {
    /// Returns the words whose count differs from the previous result, with their new count. The
    /// count is 0 for a word that is gone.
    pub fn changes(self) -> Rows<'s> {
        let Counts { ticks, context, .. } = self.clone();
        let (arranged, grid) = self.arranged();
        let mut changes = Changes::new(arranged.trace, grid, to_rows);
        changes.since = grid.last(context.changes.through());
        let stream = at_ticks(arranged.stream, Pipeline, ticks.clone(), "Changes", changes);
        Rows { stream, ticks, context, grid, kind: RowKind::Counts }
    }

    /// Returns the `k` most frequent words, by descending count, then by their bytes; all in
    /// `part-00000`.
    ///
    /// Each worker ranks the words it owns and sends its first `k` to worker 0, once an epoch.
    pub fn top(self, k: usize) -> Rows<'s> {
        top::top(Rows::from(self), k)
    }

    /// Returns the counts as a plain differential collection of `(word, count)`, each row once.
    ///
    /// Its contents at an epoch are the rows that would be published there. At an epoch that
    /// publishes none (between the ends of windows) they do not change.
    pub fn as_collection(self) -> VecCollection<'s, Epoch, (String, i64), isize> {
        if let Over::Epoch = self.over {
            return collection::each_epoch_alone(arrange(self.runs, None).stream);
        }
        let ticks = self.ticks.clone();
        let (arranged, grid) = self.arranged();
        let changes = Changes::new(arranged.trace, grid, collection::to_updates);
        let stream = at_ticks(arranged.stream, Pipeline, ticks, "Counts as a collection", changes);
        VecCollection::new(stream)
    }

    /// Arranges the counts. Returns the arrangement and the epochs that publish a result.
    fn arranged(self) -> (Arranged<'s, WordTrace>, Grid) {
        let Counts { runs, ticks, context, over } = self;
        match over {
            // A count that is inserted at an epoch and gone at the next is a window of one
            // interval.
            Over::Epoch => {
                let window_ms = context.interval_ms;
                let runs = record_changes(runs, Some(2 * window_ms), &context);
                (arrange(runs, Some(window_ms)), Grid::ALL)
            }
            Over::Start { max_keys } => {
                let arranged = arrange(record_changes(runs, None, &context), None);
                if let Some(max) = max_keys {
                    limit_keys(arranged.clone(), ticks, max, context);
                }
                (arranged, Grid::ALL)
            }
            Over::Window(window) => match window.resolve(context.interval_ms) {
                Ok((length_ms, slide_ms)) => {
                    // A restart must also restore the last slide: its retraction is a change
                    // against the previous result.
                    let runs = record_changes(runs, Some(length_ms + slide_ms), &context);
                    (arrange(runs, Some(length_ms)), Grid::every(slide_ms))
                }
                Err(error) => {
                    // The command line refuses such a window earlier, with `Window::check`.
                    context.failure.fail(error);
                    (arrange(runs, None), Grid::ALL)
                }
            },
        }
    }
}

/// Sends runs to their owners and arranges them there. They are retracted after `window_ms`, if
/// given.
fn arrange<'s>(runs: Stream<'s, Epoch, Run>, window_ms: Option<u64>) -> Arranged<'s, WordTrace> {
    arrange_core::<_, _, _, WordSpine>(
        runs,
        DistributorPact(|_peers| ToOwner),
        "Arrange words",
        move |_logger, _id| RunBatcher::over(window_ms),
    )
}

/// The operator state that publishes all totals.
struct Totals {
    trace: WordTrace,
    grid: Grid,
}

impl AtTicks<Vec<Span<Epoch, Rc<WordBatch>>>> for Totals {
    type Out = EpochRows;

    fn absorb(&mut self, spans: &mut Vec<Span<Epoch, Rc<WordBatch>>>) {
        spans.clear(); // the trace has them
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        if self.grid.contains(epoch) {
            let rows = Rc::new(Snapshot { batches: batches(&self.trace), epoch });
            send(EpochRows { epoch, rows });
        }
        compact(&mut self.trace, epoch);
    }
}

/// Sends the changed words with their new counts, as rows.
fn to_rows(epoch: Epoch, each: &mut EachChange<'_>, send: &mut dyn FnMut(EpochRows)) {
    let mut run = Run::new(epoch, 0, WordColumn::default());
    each(&mut |(word, _, new)| run.push(word.hash, word.word, new));
    if !run.is_empty() {
        send(EpochRows { epoch, rows: Rc::new(run) });
    }
}

/// Sends the growth of this worker's number of distinct words.
fn to_growth(epoch: Epoch, each: &mut EachChange<'_>, send: &mut dyn FnMut((Epoch, i64))) {
    let mut growth = 0;
    each(&mut |(_, old, new)| growth += i64::from(new != 0) - i64::from(old != 0));
    send((epoch, growth));
}

/// Ends the job if all workers together keep more than `max` distinct words.
fn limit_keys<'s>(
    arranged: Arranged<'s, WordTrace>,
    ticks: Ticks<'s>,
    max: u64,
    context: Rc<Context>,
) {
    let changes = Changes::new(arranged.trace, Grid::ALL, to_growth);
    let grown = at_ticks(arranged.stream, Pipeline, ticks.clone(), "New words", changes);
    let to_first = Exchange::new(|_: &(Epoch, i64)| 0);
    let limit = KeyLimit { keys: 0, max, context };
    at_ticks(grown, to_first, ticks, "Limit of distinct words", limit);
}

/// The number of distinct words of all workers, at worker 0.
struct KeyLimit {
    keys: i64,
    max: u64,
    context: Rc<Context>,
}

impl AtTicks<Vec<(Epoch, i64)>> for KeyLimit {
    type Out = ();

    fn absorb(&mut self, grown: &mut Vec<(Epoch, i64)>) {
        self.keys += grown.drain(..).map(|(_, growth)| growth).sum::<i64>();
        if self.keys > self.max as i64 {
            let Self { keys, max, .. } = self;
            let message = format!("totals hold {keys} distinct words, more than --max-keys {max}");
            let hint = "give a larger --max-keys if there is memory for it, or count over a window";
            self.context.failure.fail(Error::new(ErrorKind::Failed, message).hint(hint));
        }
    }

    fn publish(&mut self, _epoch: Epoch, _send: &mut dyn FnMut(())) {}
}
