//! Word counts, and the results that can be made of them.
//!
//! The meaning of a count is one of three collections (see [`Words`](super::Words)). How it is
//! computed is decided here, when the definition asks for a result. The counts of single epochs are
//! the batches that differential's arrange operator produces; nothing is kept. Totals and windows
//! that are published are [sums](super::keep_totals). As a collection they are the trace of the
//! batches: the contents at an epoch are the sums of all updates up to it.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Exchange, Pipeline};
use timely::dataflow::operators::core::OkErr;

use super::changes::{Changes, EachChange, WordTrace};
use super::context::Context;
use super::epoch_ticks::{AtTicks, Ticks, at_ticks};
use super::keep_totals::{Shown, Sums};
use super::record_changes::record_changes;
use super::rows::{RowKind, Rows, per_epoch_rows};
use super::run::{Run, ToOwner};
use super::run_batcher::{RunBatcher, WordSpine};
use super::window::{Grid, Window};
use super::{collection, top};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind};

/// The epochs that a count sums over.
#[derive(Clone, Copy, Debug)]
pub enum Over {
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
    /// The counts of each worker and epoch, at their owners.
    pub(crate) runs: Stream<'s, Epoch, Run>,
    /// The complete epochs.
    pub(crate) ticks: Ticks<'s>,
    /// Facts and failure of the worker.
    pub(crate) context: Rc<Context>,
    /// The epochs that a result covers.
    pub(crate) over: Over,
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
        counts.sums(Shown::All)
    }
}

impl<'s> Counts<'s> {
    /// Returns the words whose count differs from the previous result, with their new count. The
    /// count is 0 for a word that is gone.
    pub fn changes(self) -> Rows<'s> {
        self.sums(Shown::Changed)
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
        let (ticks, context, max_keys) =
            (self.ticks.clone(), Rc::clone(&self.context), self.max_keys());
        let Recorded { runs, window_ms, grid } = self.recorded();
        let result = context.changes.result(grid);
        let arranged = arrange(runs, window_ms);
        if let Some(max) = max_keys {
            let changes = Changes::new(arranged.trace.clone(), Grid::ALL, 0, to_growth);
            let batches = arranged.stream.clone();
            let grown = at_ticks(batches, Pipeline, ticks.clone(), "New words", changes);
            limit_keys(grown, ticks.clone(), max, context);
        }
        let changes = Changes::new(arranged.trace, grid, result, collection::to_updates);
        let stream = at_ticks(arranged.stream, Pipeline, ticks, "Counts as a collection", changes);
        VecCollection::new(stream)
    }

    /// Returns the rows of totals or windows: all sums, or those that changed.
    fn sums(self, shown: Shown) -> Rows<'s> {
        let (ticks, context) = (self.ticks.clone(), Rc::clone(&self.context));
        let max_keys = self.max_keys();
        let Recorded { runs, window_ms, grid } = self.recorded();
        let sums = Sums::new(window_ms, grid, shown, context.changes.result(grid));
        let to_owner = DistributorPact(|_peers| ToOwner);
        let (stream, grown) =
            at_ticks(runs, to_owner, ticks.clone(), "Sums", sums).ok_err(|record| record);
        if let Some(max) = max_keys {
            limit_keys(grown, ticks.clone(), max, Rc::clone(&context));
        }
        Rows { stream, ticks, context, grid, kind: RowKind::Counts }
    }

    /// Returns the limit of distinct words. Totals without one have its operator, too: all
    /// processes must build the same dataflow, and the flag of process 0 decides.
    fn max_keys(&self) -> Option<u64> {
        match self.over {
            Over::Start { max_keys } => Some(max_keys.unwrap_or(u64::MAX)),
            Over::Epoch | Over::Window(_) => None,
        }
    }

    /// Records the runs as changes of totals or windows, if the job has state.
    fn recorded(self) -> Recorded<'s> {
        let Counts { runs, context, over, .. } = self;
        context.ranges.keep_less();
        let (window_ms, slide_ms) = match over {
            // A count that is inserted at an epoch and gone at the next is a window of one
            // interval.
            Over::Epoch => (Some(context.settings.interval_ms), None),
            Over::Start { .. } => (None, None),
            Over::Window(window) => match window.resolve(context.settings.interval_ms) {
                Ok((length_ms, slide_ms)) => (Some(length_ms), Some(slide_ms)),
                Err(error) => {
                    // The command line refuses such a window earlier, with `Window::check`.
                    context.failure.fail(error);
                    return Recorded { runs, window_ms: None, grid: Grid::ALL };
                }
            },
        };
        // A restart must also restore the last slide: its retraction is a change against the
        // previous result.
        let slide = slide_ms.unwrap_or(context.settings.interval_ms);
        let lasts_ms = window_ms.map(|length_ms| length_ms + slide);
        let runs = record_changes(runs, lasts_ms, &context);
        Recorded { runs, window_ms, grid: slide_ms.map_or(Grid::ALL, Grid::every) }
    }
}

/// The recorded runs of totals or windows.
struct Recorded<'s> {
    /// The runs, after their changes are recorded.
    runs: Stream<'s, Epoch, Run>,
    /// The time after which a count is taken back.
    window_ms: Option<u64>,
    /// The epochs that publish a result.
    grid: Grid,
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

/// Sends the growth of this worker's number of distinct words.
fn to_growth(epoch: Epoch, each: &mut EachChange<'_>, send: &mut dyn FnMut((Epoch, i64))) {
    let mut growth = 0;
    each(&mut |(_, old, new)| growth += i64::from(new != 0) - i64::from(old != 0));
    send((epoch, growth));
}

/// Ends the job if all workers together keep more than `max` distinct words. `grown` is the growth
/// of their number at each worker.
fn limit_keys<'s>(
    grown: Stream<'s, Epoch, Vec<(Epoch, i64)>>,
    ticks: Ticks<'s>,
    max: u64,
    context: Rc<Context>,
) {
    let to_first = Exchange::new(|_: &(Epoch, i64)| 0);
    let limit = KeyLimit { keys: 0, max, context };
    at_ticks(grown, to_first, ticks, "Limit of distinct words", limit);
}

/// The number of distinct words of all workers, at worker 0.
struct KeyLimit {
    /// Distinct words that this worker owns.
    keys: i64,
    /// Most distinct words of all workers.
    max: u64,
    /// Facts and failure of the worker.
    context: Rc<Context>,
}

impl AtTicks<Vec<(Epoch, i64)>> for KeyLimit {
    type Out = ();

    fn absorb(&mut self, grown: &mut Vec<(Epoch, i64)>) {
        self.keys += grown.drain(..).map(|(_, growth)| growth).sum::<i64>();
        if self.keys > i64::try_from(self.max).unwrap_or(i64::MAX) {
            let Self { keys, max, .. } = self;
            let message = format!("totals hold {keys} distinct words, more than --max-keys {max}");
            let hint = "give a larger --max-keys if there is memory for it, or count over a window";
            self.context.failure.fail(Error::new(ErrorKind::Failed, message).hint(hint));
        }
    }

    fn publish(&mut self, _epoch: Epoch, _send: &mut dyn FnMut(())) {}
}
