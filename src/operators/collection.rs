//! Plain differential collections: lines and counts as collections, and any collection as rows.
//!
//! The collections made here are like any other: joins, `iterate` and your own operators work on
//! them. A collection whose rows are [`Printable`] can be published. A side input that never
//! changes enters at time 0 and is complete, so it never holds a result back.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::{ExchangeData, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::ToStream;
use timely::dataflow::operators::generic::Operator;

use super::changes::EachChange;
use super::context::Context;
use super::epoch_ticks::{AtTicks, Stash, at_ticks};
use super::lines::Lines;
use super::rows::{EpochRows, Row, RowKind, RowSet, Rows};
use super::run_batcher::Batches;
use super::text::{each_line, text};
use super::window::Grid;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind};
use crate::words;

/// A row that can be published: a text, and optionally a count.
///
/// The text decides the part and the place in the part. A row with a count is printed in the format
/// of `--format`, a row without one as a line.
pub trait Printable: ExchangeData + Sync {
    /// True if every row of the type has a count, and false if none has.
    const HAS_COUNT: bool;

    /// Returns the text of the row.
    fn text(&self) -> Cow<'_, [u8]>;

    /// Returns the count of the row; `None` for a type without counts.
    fn count(&self) -> Option<i64>;
}

macro_rules! printable_counts {
    ($($count:ty),+) => {
        $(impl Printable for (String, $count) {
            const HAS_COUNT: bool = true;

            fn text(&self) -> Cow<'_, [u8]> {
                Cow::Borrowed(self.0.as_bytes())
            }

            fn count(&self) -> Option<i64> {
                Some(self.1 as i64)
            }
        })+
    };
}

printable_counts!(i64, isize, u64, usize, i32, u32);

impl Printable for String {
    const HAS_COUNT: bool = false;

    fn text(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }

    fn count(&self) -> Option<i64> {
        None
    }
}

impl Printable for Vec<u8> {
    const HAS_COUNT: bool = false;

    fn text(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }

    fn count(&self) -> Option<i64> {
        None
    }
}

/// A record, its time and by how much its number changes.
type Update<D> = (D, Epoch, isize);

impl<'s> Lines<'s> {
    /// Returns the scope of the dataflow, for your own inputs and operators.
    ///
    /// An input that is left open holds the frontier, and every result, at its epoch. Use
    /// [`Lines::static_rows`] for an input that never changes.
    pub fn scope(&self) -> Scope<'s, Epoch> {
        self.blocks.scope()
    }

    /// Returns the lines as a plain differential collection that only grows: each line, as text,
    /// from its epoch on, with its number of occurrences.
    pub fn as_collection(self) -> VecCollection<'s, Epoch, String, isize> {
        let updates = self.blocks.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
            Pipeline,
            "Lines as a collection",
            |_capability, _info| {
                |input, output| {
                    input.for_each(|capability, blocks| {
                        let Some(capability) = capability.retain_least(0) else { return };
                        let mut session = output.session(&capability);
                        for block in blocks.drain(..) {
                            each_line(block.text(), |line| {
                                session.give((text(line), *capability.time(), 1));
                            });
                        }
                    });
                }
            },
        );
        VecCollection::new(updates)
    }

    /// Returns a collection that never changes, for joins. It is complete before the first epoch,
    /// so it holds no result back.
    ///
    /// Every worker of every process calls the definition and may make `rows`; only those of worker
    /// 0 are used.
    pub fn static_rows<D, I>(&self, rows: I) -> VecCollection<'s, Epoch, D, isize>
    where
        D: ExchangeData,
        I: IntoIterator<Item = D, IntoIter: 'static>,
    {
        let taken = (self.context.index == 0).then(|| rows.into_iter());
        let updates = taken.into_iter().flatten().map(|row| (row, 0, 1));
        VecCollection::new(updates.to_stream(self.scope()))
    }
}

/// Returns each count as an update at its epoch, retracted 1 ms later: the next epoch, whichever it
/// is, does not contain it.
pub fn each_epoch_alone(batches: Batches<'_>) -> VecCollection<'_, Epoch, (String, i64), isize> {
    let updates = batches.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
        Pipeline,
        "Counts as a collection",
        |_capability, _info| {
            |input, output| {
                input.for_each(|capability, spans| {
                    let capabilities = capability.retain_stamp(0);
                    for batch in spans.drain(..).filter_map(|span| span.inner) {
                        for epoch in batch.epochs() {
                            let capability = capabilities.delayed(&epoch);
                            let mut session = output.session(&capability);
                            for (key, count) in batch.updates_at(epoch) {
                                let row = (text(key.word), count);
                                session.give((row.clone(), epoch, 1));
                                session.give((row, epoch + 1, -1));
                            }
                        }
                    }
                });
            }
        },
    );
    VecCollection::new(updates)
}

/// Sends changed counts as updates: the old count is retracted, the new one inserted.
pub fn to_updates(
    epoch: Epoch,
    each: &mut EachChange<'_>,
    send: &mut dyn FnMut(Update<(String, i64)>),
) {
    each(&mut |(key, old, new)| {
        let word = text(key.word);
        if old != 0 {
            send(((word.clone(), old), epoch, -1));
        }
        if new != 0 {
            send(((word, new), epoch, 1));
        }
    });
}

impl<'s> Rows<'s> {
    /// Returns the contents of a collection at each epoch of `lines` as rows, each row with its
    /// multiplicity.
    ///
    /// The workers that own the parts keep the contents, sorted; an epoch costs a merge of the
    /// contents with the changes. A negative multiplicity ends the job with an error that names the
    /// row.
    pub fn from_collection<D: Printable>(
        lines: &Lines<'s>,
        collection: VecCollection<'s, Epoch, D, isize>,
    ) -> Rows<'s> {
        let (ticks, context) = (lines.ticks.clone(), Rc::clone(&lines.context));
        let by_text = Rc::clone(&context);
        let to_owner = Exchange::new(move |(row, _, _): &Update<D>| {
            by_text.owner(words::part(words::hash(&row.text()), by_text.settings.parts)) as u64
        });
        let contents = Contents {
            held: Arc::new(Vec::new()),
            changes: Stash::new(),
            context: Rc::clone(&context),
        };
        let name = "Rows of a collection";
        let stream = at_ticks(collection.inner, to_owner, ticks.clone(), name, contents);
        let kind = if D::HAS_COUNT { RowKind::Counts } else { RowKind::Lines };
        Rows { stream, ticks, context, grid: Grid::ALL, kind }
    }
}

/// A row with the hash of its text and its multiplicity.
type CountedRow<D> = (u64, D, isize);

/// The operator state: the contents of a collection, ascending by (hash, row).
struct Contents<D> {
    /// The rows of the newest result.
    held: Arc<Vec<CountedRow<D>>>,
    /// The changes of open epochs.
    changes: Stash<CountedRow<D>>,
    /// Facts and failure of the worker.
    context: Rc<Context>,
}

impl<D: Printable> AtTicks<Vec<Update<D>>> for Contents<D> {
    type Out = EpochRows;

    fn absorb(&mut self, updates: &mut Vec<Update<D>>) {
        for (row, time, diff) in updates.drain(..) {
            let hash = words::hash(&row.text());
            self.changes.push(time, (hash, row, diff));
        }
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        let mut changes = self.changes.take_through(epoch);
        if !changes.is_empty() {
            changes.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let held = std::mem::take(&mut self.held);
            // A result that is still being published keeps its list.
            let held = Arc::try_unwrap(held).unwrap_or_else(|held| (*held).clone());
            self.held = Arc::new(add(held, changes));
            if let Some(row) = self.held.iter().find(|(_, _, times)| *times < 0) {
                return self.context.failure.fail(negative(row));
            }
        }
        if !self.held.is_empty() {
            let held = Arc::clone(&self.held);
            let parts = self.context.settings.parts;
            send(EpochRows { epoch, rows: Arc::new(ContentRows { held, parts }) });
        }
    }
}

/// Adds up two sorted lists. Rows that cancel are left out.
fn add<D: Ord>(left: Vec<CountedRow<D>>, right: Vec<CountedRow<D>>) -> Vec<CountedRow<D>> {
    let mut sum: Vec<CountedRow<D>> = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let from_left = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => (a.0, &a.1) <= (b.0, &b.1),
            (left, _) => left.is_some(),
        };
        let Some(next) = (if from_left { left.next() } else { right.next() }) else { break };
        match sum.last_mut() {
            Some(last) if (last.0, &last.1) == (next.0, &next.1) => last.2 += next.2,
            _ => {
                sum.pop_if(|last| last.2 == 0);
                sum.push(next);
            }
        }
    }
    sum.pop_if(|last| last.2 == 0);
    sum
}

/// Returns the error for a row with a negative multiplicity.
fn negative<D: Printable>((_, row, times): &CountedRow<D>) -> Error {
    let shown = String::from_utf8_lossy(&row.text()).into_owned();
    let count = row.count().map(|count| format!(" with the count {count}")).unwrap_or_default();
    let message = format!("the result holds the row {shown:?}{count} {times} times");
    Error::new(ErrorKind::Failed, message)
        .hint("the dataflow definition retracts what it never inserted: correct it")
}

/// The contents of a collection at one epoch, as rows.
struct ContentRows<D> {
    /// The rows of the result.
    held: Arc<Vec<CountedRow<D>>>,
    /// Number of parts.
    parts: u32,
}

impl<D: Printable> RowSet for ContentRows<D> {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for (hash, row, times) in self.held.iter() {
            let text = row.text();
            for _ in 0..*times {
                visit(match row.count() {
                    Some(count) => Row::Count { hash: *hash, word: &text, count },
                    None => Row::Line { part: words::part(*hash, self.parts), line: &text },
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_add_up_without_rows_that_cancel() {
        let left = vec![(1, "a", 1), (2, "b", 2), (2, "c", -1), (5, "z", 1)];
        let right = vec![(1, "a", -1), (2, "c", -1), (2, "c", 2), (3, "d", 1), (5, "z", -2)];
        assert_eq!(add(left, right), [(2, "b", 2), (3, "d", 1), (5, "z", -1)]);
        assert_eq!(add(vec![(1, "a", 1)], vec![(1, "a", -1)]), []);
    }
}
