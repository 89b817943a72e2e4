//! The changes between two results of totals or windows, as a collection.
//!
//! An operator with a trace publishes at each tick the words whose sum differs from the previous
//! result. Only words with updates since then are looked up, so a small change costs little.

use std::mem;
use std::rc::Rc;

use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::{Span, TraceReader};
use timely::progress::Antichain;

use super::columns::WordRef;
use super::differential_batch::WordBatch;
use super::epoch_ticks::AtTicks;
use super::run_batcher::WordSpine;
use super::trace_sums::for_each_change;
use super::window::Grid;
use crate::epoch::Epoch;

/// A handle to the trace of word counts.
pub type WordTrace = TraceAgent<WordSpine>;

/// Returns the batches of a trace, oldest first.
fn batches(trace: &WordTrace) -> Vec<Rc<WordBatch>> {
    let mut batches = Vec::new();
    trace.map_spans(|span| batches.extend(span.inner.clone()));
    batches
}

/// Allows the trace to merge its batches and to forget the difference between times up to `epoch`.
///
/// This is called at every tick, also for an epoch without lines: a trace would otherwise grow with
/// time.
fn compact(trace: &mut WordTrace, epoch: Epoch) {
    trace.set_logical_compaction(Antichain::from_elem(epoch).borrow());
    let mut upper = Antichain::new();
    trace.read_upper(&mut upper);
    if !upper.is_empty() {
        trace.set_physical_compaction(upper.borrow());
    }
}

/// A word whose count changed: the word, its old count and its new count.
pub type CountChange<'a> = (WordRef<'a>, i64, i64);

/// Calls its argument with every change of an epoch.
pub type EachChange<'a> = dyn FnMut(&mut dyn FnMut(CountChange<'_>)) + 'a;

/// Turns all changes of an epoch into output records.
pub type Express<O> = fn(Epoch, &mut EachChange<'_>, &mut dyn FnMut(O));

/// The operator state that publishes the changes since the previous result.
pub struct Changes<O> {
    /// The trace of all counts.
    trace: WordTrace,
    /// The epochs that have a result.
    grid: Grid,
    /// Batches with updates after `since`.
    changed: Vec<Rc<WordBatch>>,
    /// The epoch of the previous result.
    since: Epoch,
    /// The epoch of the newest result of former runs, until the first tick; 0 if there was none.
    restored: Epoch,
    /// Sends changes at the time of their result.
    express: Express<O>,
}

impl<O> Changes<O> {
    /// Makes the state of an operator that publishes at the epochs of `grid`, and at its first tick
    /// at the latest the result that former runs published at `restored`.
    pub fn new(trace: WordTrace, grid: Grid, restored: Epoch, express: Express<O>) -> Self {
        Changes { trace, grid, changed: Vec::new(), since: 0, restored, express }
    }
}

impl<O: Clone + 'static> AtTicks<Vec<Span<Epoch, Rc<WordBatch>>>> for Changes<O> {
    type Out = O;

    fn absorb(&mut self, spans: &mut Vec<Span<Epoch, Rc<WordBatch>>>) {
        self.changed.extend(spans.drain(..).filter_map(|span| span.inner));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(O)) {
        let restored = mem::take(&mut self.restored);
        // Between results the contents are those of the one before.
        let result = if self.grid.contains(epoch) { epoch } else { restored };
        if result == 0 {
            return;
        }
        if !self.changed.is_empty() {
            let all = batches(&self.trace);
            let (changed, since) = (&self.changed, self.since);
            let mut each = |visit: &mut dyn FnMut(CountChange<'_>)| {
                for_each_change(changed, &all, since, result, &mut |word, old, new| {
                    visit((word, old, new));
                });
            };
            (self.express)(epoch, &mut each, send);
        }
        // A batch may have later updates: the frontier moved over several epochs, or the input
        // ended and all retractions were made at once.
        let reaches_on =
            |batch: &Rc<WordBatch>| batch.storage.upds.times.spans().any(|time| time > result);
        self.changed.retain(reaches_on);
        self.since = result;
        compact(&mut self.trace, result);
    }
}
