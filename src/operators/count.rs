//! Counting words: a table for each open epoch, drained into runs for the words' owners.
//!
//! The table does the work of millions of updates a second; differential sees one update for each
//! distinct word and epoch. A table is drained when its epoch's frontier has passed, or before when
//! it has grown beyond its limit: an epoch may leave in several runs, which the owner adds up.

use std::collections::BTreeMap;
use std::rc::Rc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::Span;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::OutputBuilderSession;
use timely::dataflow::operators::Capability;

use super::batch::{RunBatcher, WordBatch, WordSpine};
use super::columns::WordColumn;
use super::rows::{Rows, per_epoch_rows};
use super::run::{Run, ToOwner};
use super::{Context, Lines, Tally};
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{self, WordTable};

/// The words of the lines, not yet counted.
#[derive(Clone, Debug)]
pub struct Words<'s> {
    lines: Lines<'s>,
}

impl<'s> Words<'s> {
    pub(super) fn new(lines: Lines<'s>) -> Self {
        Words { lines }
    }

    /// Each epoch on its own: what Spark's `reduceByKey` gives for a batch.
    ///
    /// As a collection: a word enters at its epoch and leaves at the next. Keeps the words of open
    /// epochs only.
    pub fn per_epoch(self) -> Windowed<'s> {
        Windowed { words: self }
    }
}

/// Words with the epochs over which they count.
#[derive(Clone, Debug)]
pub struct Windowed<'s> {
    words: Words<'s>,
}

impl<'s> Windowed<'s> {
    /// How often each word occurs.
    pub fn count(self) -> Counts<'s> {
        let Lines { blocks, ticks, context } = self.words.lines;
        let runs = combine(blocks, Rc::clone(&context));
        let arranged = arrange_core::<_, _, _, WordSpine>(
            runs,
            DistributorPact(|_peers| ToOwner),
            "Arrange words",
            |_logger, _id| RunBatcher::new(),
        );
        // Without a handle to it the trace keeps nothing: an epoch's counts are its batch.
        Counts { batches: arranged.stream, ticks, context }
    }
}

/// A stream of arranged batches, as differential's arrange operator produces it.
pub(super) type Batches<'s> = Stream<'s, Epoch, Vec<Span<Epoch, Rc<WordBatch>>>>;

/// Word counts by epoch.
pub struct Counts<'s> {
    batches: Batches<'s>,
    ticks: Stream<'s, Epoch, Vec<Epoch>>,
    context: Rc<Context>,
}

impl std::fmt::Debug for Counts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts").field("context", &self.context).finish_non_exhaustive()
    }
}

impl<'s> From<Counts<'s>> for Rows<'s> {
    fn from(counts: Counts<'s>) -> Rows<'s> {
        let Counts { batches, ticks, context } = counts;
        Rows { stream: per_epoch_rows(batches), ticks, context }
    }
}

/// The words of one open epoch, with the right to send them.
struct OpenEpoch {
    capability: Capability<Epoch>,
    table: WordTable,
}

type RunOutput<'a> = OutputBuilderSession<'a, Epoch, NoopBuilder<Run>>;

/// Counts the words of blocks; sends each distinct word of an epoch once, to its owner.
fn combine<'s>(
    blocks: Stream<'s, Epoch, Vec<Block>>,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    blocks.unary_frontier::<NoopBuilder<Run>, _, _, _>(
        Pipeline,
        "Count words",
        move |_capability, _info| {
            let mut open: BTreeMap<Epoch, OpenEpoch> = BTreeMap::new();
            // A drained table, kept so that a steady stream of epochs allocates nothing.
            let mut spare = None;
            move |(input, frontier), output| {
                input.for_each(|capability, blocks| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    let at = open.entry(*capability.time()).or_insert_with(|| OpenEpoch {
                        capability,
                        table: spare.take().unwrap_or_else(|| WordTable::new(1)),
                    });
                    for block in blocks.drain(..) {
                        at.absorb(&block, &context);
                        if at.table.heap_bytes() > context.table_bytes_max {
                            at.drain(&context, output);
                        }
                    }
                });
                while let Some(first) = open.first_entry() {
                    if frontier.less_equal(first.key()) {
                        break;
                    }
                    let mut done = first.remove();
                    done.drain(&context, output);
                    spare = Some(done.table);
                }
            }
        },
    )
}

impl OpenEpoch {
    fn absorb(&mut self, block: &Block, context: &Context) {
        let text_len = block.text().len();
        let counted = self.table.add_block(block.padded(), text_len, &context.words);
        let (words, oversized_words) = (counted.words, counted.oversized_words);
        let tally = Tally { words, oversized_words, ..Tally::default() };
        context.tallies.add(*self.capability.time(), tally);
    }

    /// Sends what the table holds as one sorted run for each owner.
    fn drain(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        if self.table.is_empty() {
            return;
        }
        let epoch = *self.capability.time();
        let room = self.table.len() / context.peers;
        let run = |owner| Run::new(epoch, owner, WordColumn::with_room(room, 8 * room));
        let mut runs: Vec<Run> = (0..context.peers as u32).map(run).collect();
        self.table.drain(&mut |hash, word: &[u8], count| {
            let owner = context.owner(words::part(hash, context.parts));
            runs[owner].push(hash, word, count as i64);
        });
        let mut session = output.session_with_builder(&self.capability);
        runs.iter_mut().filter(|run| !run.is_empty()).for_each(|run| session.give_container(run));
    }
}
