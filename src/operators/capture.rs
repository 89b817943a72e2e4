//! Captures published rows in memory, for tests of definitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;

use super::epoch_ticks::{AtTicks, Stash, at_ticks};
use super::rows::{EpochRows, Row, Rows};
use super::window::Grid;
use crate::epoch::Epoch;
use crate::words;

/// A row as it would be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedRow {
    /// The part that the row belongs to.
    pub part: u32,
    /// The word or the line.
    pub text: Vec<u8>,
    /// The count of a word; `None` for a line.
    pub count: Option<i64>,
}

/// The rows of every published epoch of all workers, part by part, in the order of the part.
pub type Captured = Arc<Mutex<BTreeMap<Epoch, Vec<CapturedRow>>>>;

/// Stores the rows of every epoch that publishes into `captured`, in place of a sink.
pub fn capture<'s>(rows: Rows<'s>, captured: Captured) -> Stream<'s, Epoch, Vec<()>> {
    let Rows { stream, ticks, context, grid, .. } = rows;
    let state = Capture { parts: context.settings.parts, grid, rows: Stash::new(), captured };
    at_ticks(stream, Pipeline, ticks, "Capture", state)
}

/// The operator state: rows of open epochs.
struct Capture {
    /// Number of parts.
    parts: u32,
    /// The epochs that have a result.
    grid: Grid,
    /// The rows of open epochs.
    rows: Stash<EpochRows>,
    /// Takes the rows.
    captured: Captured,
}

impl AtTicks<Vec<EpochRows>> for Capture {
    type Out = ();

    fn absorb(&mut self, rows: &mut Vec<EpochRows>) {
        rows.drain(..).for_each(|rows| self.rows.push(rows.epoch, rows));
    }

    fn publish(&mut self, epoch: Epoch, _send: &mut dyn FnMut(())) {
        let sets = self.rows.take(epoch);
        if !self.grid.contains(epoch) {
            return;
        }
        let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        let all = captured.entry(epoch).or_default();
        let parts = self.parts;
        for set in sets {
            set.rows.for_each(&mut |row| all.push(owned(row, parts)));
        }
        // One worker owns a part, and a stable sort keeps its order.
        all.sort_by_key(|row| row.part);
    }
}

/// Copies a row out of its epoch.
fn owned(row: Row<'_>, parts: u32) -> CapturedRow {
    let (part, text, count) = match row {
        Row::Count { hash, word, count } => (words::part(hash, parts), word, Some(count)),
        Row::Ranked { word, count } => (0, word, Some(count)),
        Row::Line { part, line } => (part, line, None),
    };
    CapturedRow { part, text: text.to_vec(), count }
}
