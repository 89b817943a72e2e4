//! Word counts, and what may be made of them.
//!
//! What a count *means* is one of three collections (see [`Words`](super::Words)); how it is
//! computed is decided here, when it is known what is wanted of it. The counts of single epochs are
//! the batches that differential's arrange operator produces, and nothing is kept. Totals and
//! windows are the trace of those batches: contents at an epoch are the sums of all updates up to
//! it.

use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::{Span, TraceReader};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Exchange, Pipeline};
use timely::progress::Antichain;

use super::Context;
use super::batch::{RunBatcher, WordSpine};
use super::columns::WordColumn;
use super::memory::remember;
use super::merger::WordBatch;
use super::rows::{EpochRows, Rows, per_epoch_rows};
use super::run::{Run, ToOwner};
use super::ticks::{AtTicks, Ticks, at_ticks};
use super::totals::{Snapshot, for_each_change};
use super::window::{Grid, Window};
use super::{collection, top};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind};

/// A stream of arranged batches, as differential's arrange operator produces it.
pub(super) type Batches<'s> = Stream<'s, Epoch, Vec<Span<Epoch, Rc<WordBatch>>>>;

type WordTrace = TraceAgent<WordSpine>;

/// Over which epochs words count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    Epoch,
    Start { max_keys: Option<u64> },
    Window(Window),
}

/// Word counts by epoch. A clone is the same counts, computed once more.
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
    /// All words that occur, each with its count.
    fn from(counts: Counts<'s>) -> Rows<'s> {
        let Counts { ticks, context, .. } = counts.clone();
        if let Over::Epoch = counts.over {
            // Without a handle to it the trace keeps nothing: an epoch's counts are its batch.
            let batches = arrange(counts.runs, None).stream;
            return Rows { stream: per_epoch_rows(batches), ticks, context, grid: Grid::ALL };
        }
        let (arranged, grid) = counts.arranged();
        let totals = Totals { trace: arranged.trace, grid };
        let stream = at_ticks(arranged.stream, Pipeline, ticks.clone(), "Totals", totals);
        Rows { stream, ticks, context, grid }
    }
}

impl<'s> Counts<'s> {
    /// The words whose count is not what it was in the result before, with their new count: 0 for a
    /// word that is gone.
    pub fn changes(self) -> Rows<'s> {
        let Counts { ticks, context, .. } = self.clone();
        let (arranged, grid) = self.arranged();
        let mut changes = Changes::new(arranged.trace, grid, to_rows);
        changes.since = grid.last(context.memory.through());
        let stream = at_ticks(arranged.stream, Pipeline, ticks.clone(), "Changes", changes);
        Rows { stream, ticks, context, grid }
    }

    /// The `k` words that occur most, by descending count, then by their bytes; all in
    /// `part-00000`.
    ///
    /// Each worker ranks the words it owns and sends its first `k` to worker 0, once an epoch.
    pub fn top(self, k: usize) -> Rows<'s> {
        top::top(Rows::from(self), k)
    }

    /// The counts as a plain differential collection of `(word, count)`, each row once.
    ///
    /// Its contents at an epoch are the rows that would be published there; at an epoch that
    /// publishes none (between the ends of windows) they stay what they were.
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

    /// The trace of counts and the epochs that publish them.
    fn arranged(self) -> (Arranged<'s, WordTrace>, Grid) {
        let Counts { runs, ticks, context, over } = self;
        match over {
            // What is inserted at an epoch and gone at the next is a window of one interval.
            Over::Epoch => {
                let window_ms = context.interval_ms;
                let runs = remember(runs, Some(2 * window_ms), &context);
                (arrange(runs, Some(window_ms)), Grid::ALL)
            }
            Over::Start { max_keys } => {
                let arranged = arrange(remember(runs, None, &context), None);
                if let Some(max) = max_keys {
                    limit_keys(arranged.clone(), ticks, max, context);
                }
                (arranged, Grid::ALL)
            }
            Over::Window(window) => match window.resolve(context.interval_ms) {
                Ok((length_ms, slide_ms)) => {
                    // What a window lets go of still differs from the result before.
                    let runs = remember(runs, Some(length_ms + slide_ms), &context);
                    (arrange(runs, Some(length_ms)), Grid::every(slide_ms))
                }
                Err(error) => {
                    // Who can say so before the start does: see `Window::check`.
                    context.failure.fail(error);
                    (arrange(runs, None), Grid::ALL)
                }
            },
        }
    }
}

/// Sends runs to their owners and keeps them there, for `window_ms` where given.
fn arrange<'s>(runs: Stream<'s, Epoch, Run>, window_ms: Option<u64>) -> Arranged<'s, WordTrace> {
    arrange_core::<_, _, _, WordSpine>(
        runs,
        DistributorPact(|_peers| ToOwner),
        "Arrange words",
        move |_logger, _id| RunBatcher::over(window_ms),
    )
}

fn batches(trace: &WordTrace) -> Vec<Rc<WordBatch>> {
    let mut batches = Vec::new();
    trace.map_spans(|span| batches.extend(span.inner.clone()));
    batches
}

/// Lets the trace forget what tells times up to `epoch` apart, and merge its batches. Without it,
/// at every tick, also one without lines, a trace would grow with time.
fn compact(trace: &mut WordTrace, epoch: Epoch) {
    trace.set_logical_compaction(Antichain::from_elem(epoch).borrow());
    let mut upper = Antichain::new();
    trace.read_upper(&mut upper);
    if !upper.is_empty() {
        trace.set_physical_compaction(upper.borrow());
    }
}

/// Publishes all totals.
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

/// A word whose count changed: its hash and bytes, what it was and what it is.
pub(super) type Change<'a> = (super::WordRef<'a>, i64, i64);

/// Shows every change of an epoch to the one it is given.
pub(super) type EachChange<'a> = dyn FnMut(&mut dyn FnMut(Change<'_>)) + 'a;

/// Makes something of all changes of an epoch.
pub(super) type Express<O> = fn(Epoch, &mut EachChange<'_>, &mut dyn FnMut(O));

/// Publishes what changed since the result before.
struct Changes<O> {
    trace: WordTrace,
    grid: Grid,
    /// Batches with updates behind `since`.
    changed: Vec<Rc<WordBatch>>,
    /// The newest result.
    since: Epoch,
    express: Express<O>,
}

impl<O> Changes<O> {
    fn new(trace: WordTrace, grid: Grid, express: Express<O>) -> Self {
        Changes { trace, grid, changed: Vec::new(), since: 0, express }
    }
}

impl<O: Clone + 'static> AtTicks<Vec<Span<Epoch, Rc<WordBatch>>>> for Changes<O> {
    type Out = O;

    fn absorb(&mut self, spans: &mut Vec<Span<Epoch, Rc<WordBatch>>>) {
        self.changed.extend(spans.drain(..).filter_map(|span| span.inner));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(O)) {
        if !self.grid.contains(epoch) {
            return;
        }
        if !self.changed.is_empty() {
            let all = batches(&self.trace);
            let (changed, since) = (&self.changed, self.since);
            let mut each = |visit: &mut dyn FnMut(Change<'_>)| {
                for_each_change(changed, &all, since, epoch, &mut |word, old, new| {
                    visit((word, old, new));
                });
            };
            (self.express)(epoch, &mut each, send);
        }
        // A batch may reach beyond: a frontier that jumped, or a retraction at the end of input.
        let reaches_on =
            |batch: &Rc<WordBatch>| batch.storage.upds.times.spans().any(|time| time > epoch);
        self.changed.retain(reaches_on);
        self.since = epoch;
        compact(&mut self.trace, epoch);
    }
}

/// The changed words with their new counts, as rows.
fn to_rows(epoch: Epoch, each: &mut EachChange<'_>, send: &mut dyn FnMut(EpochRows)) {
    let mut run = Run::new(epoch, 0, WordColumn::default());
    each(&mut |(word, _, new)| run.push(word.hash, word.word, new));
    if !run.is_empty() {
        send(EpochRows { epoch, rows: Rc::new(run) });
    }
}

/// By how many the distinct words of this worker grew.
fn to_growth(epoch: Epoch, each: &mut EachChange<'_>, send: &mut dyn FnMut((Epoch, i64))) {
    let mut growth = 0;
    each(&mut |(_, old, new)| growth += i64::from(new != 0) - i64::from(old != 0));
    send((epoch, growth));
}

/// Ends the job when all workers together keep more than `max` distinct words.
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
