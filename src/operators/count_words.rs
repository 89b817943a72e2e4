//! Counts words: one table per open epoch, drained into runs for the owners of the words.
//!
//! The table takes millions of words a second; differential sees one update per distinct word and
//! epoch. A table is drained when the frontier has passed its epoch, or earlier if it has grown
//! beyond its limit. An epoch may therefore leave in several runs, which the owner adds up.
//!
//! If the words of an epoch hardly repeat, the tables of all workers would hold nearly all of them.
//! When a table shows that, its words and the rest of the epoch's words are routed to one worker
//! each, which counts them: see [`route_words`]. Both ways end in runs for the
//! same owners, so each worker decides for itself, in each epoch.

use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::dataflow::operators::{Capability, Concat};

use super::context::{Context, Tally};
use super::epoch_table::{OpenTable, SpareTable};
use super::route_words::{self, ListPool, Routed, SentBlocks};
use super::run::Run;
use super::text::each_line;
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{Counted, Router, ShortWords, WordOptions, WordTable, decode};

/// Extracts the keys of a line: calls its second argument with each key.
pub type Keys = Rc<dyn Fn(&[u8], &mut dyn FnMut(&[u8]))>;

/// The unit that is counted.
#[derive(Clone)]
pub enum Unit {
    /// The words of the lines, by the rule of `--split`.
    Words,
    /// The keys that a definition extracts from each line.
    Keys(Keys),
}

/// Number of distinct words from which words may be routed. Their table has outgrown the caches of
/// a core, so that sorting words by range costs less than the cache misses. (Memory does not show
/// that: a table may have it from the epoch before.)
const ROUTE_WORDS_MIN: usize = 5 << 16;

/// Memory in bytes that a distinct word takes, about.
const WORD_BYTES: usize = 48;

/// Average number of occurrences of a distinct word below which words are routed.
const ROUTE_REPEATS_MIN: u64 = 4;

/// Counts the words of blocks, and sends each distinct word of an epoch to its owner: once, or a
/// few times if a table grew too large.
pub fn combine<'s>(
    blocks: Stream<'s, Epoch, Vec<Block>>,
    unit: Unit,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    let mut builder = OperatorBuilder::new("Count words".to_owned(), blocks.scope());
    let mut input = builder.new_input(blocks, Pipeline);
    let (run_output, runs) = builder.new_output();
    let (routed_output, routed) = builder.new_output();
    let mut run_output = OutputBuilder::<_, NoopBuilder<Run>>::from(run_output);
    let mut routed_output = OutputBuilder::<_, NoopBuilder<Routed>>::from(routed_output);
    let (lists, sent) = (ListPool::default(), SentBlocks::new(context.peers));
    let counted = route_words::count(routed, lists.clone(), sent.clone(), Rc::clone(&context));

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<Epoch, OpenEpoch> = BTreeMap::new();
        let mut spare = SpareTable::default();
        move |frontiers| {
            let mut runs = run_output.activate();
            let output = routed_output.activate();
            let mut tables = TableSender { output, lists: &lists, sent: &sent };
            input.for_each(|capability, blocks| {
                let Some(to_runs) = capability.retain_least(0) else { return };
                let Some(to_tables) = capability.retain_least(1) else { return };
                let at = open.entry(*to_runs.time()).or_insert_with(|| OpenEpoch {
                    counted: OpenTable { capability: to_runs, table: spare.take(1) },
                    to_tables,
                    words: 0,
                    routes: false,
                });
                for block in blocks.drain(..) {
                    if at.routes {
                        at.route(&block, &unit, &context, &mut tables);
                    } else {
                        at.absorb(&block, &unit, &context);
                        if at.should_route(&context) {
                            at.start_routing(&context, &mut tables);
                        }
                    }
                    at.counted.drain_if_large(&context, &mut runs);
                }
            });
            while let Some(first) = open.first_entry() {
                if frontiers[0].less_equal(first.key()) {
                    break;
                }
                let mut done = first.remove().counted;
                done.drain(&context, &mut runs);
                spare.keep(done.table);
            }
            spare.pass(frontiers[0].frontier().first());
        }
    });
    runs.concat(counted)
}

/// The words of one open epoch.
struct OpenEpoch {
    /// The table and its capability.
    counted: OpenTable,
    /// The capability to send words to the tables of other workers.
    to_tables: Capability<Epoch>,
    /// Words in this epoch so far.
    words: u64,
    /// True once the words of this epoch are routed.
    routes: bool,
}

impl OpenEpoch {
    /// Counts the words of a block in this worker's table.
    fn absorb(&mut self, block: &Block, unit: &Unit, context: &Context) {
        let (table, options) = (&mut self.counted.table, &context.settings.words);
        let tally = match unit {
            Unit::Words => tally(table.add_block(block.padded(), block.text().len(), options)),
            Unit::Keys(keys) => each_key(block, keys, options, |key| table.add_word(key, 1)),
        };
        self.words += tally.words;
        context.tallies.add(*self.to_tables.time(), tally);
    }

    /// Returns true if the words of the epoch repeat too seldom to be counted here.
    fn should_route(&self, context: &Context) -> bool {
        let table = &self.counted.table;
        context.routing > 1
            && table.len() >= ROUTE_WORDS_MIN.min(context.settings.table_bytes_max / WORD_BYTES)
            && self.words < ROUTE_REPEATS_MIN * table.len() as u64
    }

    /// Routes the words counted so far, one by one, and empties the table.
    ///
    /// They are sent as words and not as a run: each occurs only a few times, and the receiving
    /// table then drains into one run, to which no other has to be added.
    fn start_routing(&mut self, context: &Context, tables: &mut TableSender<'_>) {
        self.routes = true;
        let mut counted = mem::replace(&mut self.counted.table, WordTable::new(1));
        let mut lists = vec![ShortWords::default(); context.routing];
        let mut router = Router::new(&mut self.counted.table, &mut lists, &context.settings.words);
        counted.drain(|_, word, count| router.add_word(word, count));
        tables.send(&self.to_tables, context, lists, None);
    }

    /// Routes the words of a block. Words too long for a list are counted in this worker's table.
    fn route(
        &mut self,
        block: &Block,
        unit: &Unit,
        context: &Context,
        tables: &mut TableSender<'_>,
    ) {
        let (table, options) = (&mut self.counted.table, &context.settings.words);
        let mut lists: Vec<ShortWords> =
            (0..context.routing).map(|_| tables.lists.take()).collect();
        let mut router = Router::new(table, &mut lists, options);
        let tally = match unit {
            Unit::Words => tally(router.add_block(block.padded(), block.text().len(), options)),
            Unit::Keys(keys) => each_key(block, keys, options, |key| router.add_word(key, 1)),
        };
        context.tallies.add(*self.to_tables.time(), tally);
        tables.send(&self.to_tables, context, lists, Some(block));
    }
}

/// Sends lists of words to the tables that count them.
struct TableSender<'a> {
    /// Takes lists of words.
    output: OutputBuilderSession<'a, Epoch, NoopBuilder<Routed>>,
    /// Lists to be used again.
    lists: &'a ListPool,
    /// Blocks whose words are on their way.
    sent: &'a SentBlocks,
}

impl TableSender<'_> {
    /// Sends each list to its worker.
    ///
    /// The block that the words came from keeps its permit until all are counted. A list to a
    /// worker of this process carries the block; for a list to another process, `sent` keeps it
    /// until the answer.
    fn send(
        &mut self,
        capability: &Capability<Epoch>,
        context: &Context,
        lists: Vec<ShortWords>,
        block: Option<&Block>,
    ) {
        let mut session = self.output.session_with_builder(capability);
        for (worker, words) in (context.first_routed()..).zip(lists) {
            if words.is_empty() {
                self.lists.give(words);
            } else if context.is_local(worker) {
                session.give_container(&mut Routed::within(worker, words, block));
            } else {
                let answer = block.map(|block| {
                    self.sent.keep(worker, block);
                    context.index
                });
                for mut routed in Routed::across(worker, &words, answer) {
                    session.give_container(&mut routed);
                }
                self.lists.give(words);
            }
        }
    }
}

/// Unit the words of a block add to the tally.
fn tally(Counted { words, oversized_words }: Counted) -> Tally {
    Tally { words, oversized_words, ..Tally::default() }
}

/// Calls `add` with each key of a block, decoded as words are, and returns the tally.
fn each_key(
    block: &Block,
    keys: &Keys,
    options: &WordOptions,
    mut add: impl FnMut(&[u8]),
) -> Tally {
    let mut tally = Tally::default();
    each_line(block.text(), |line| {
        let mut has_key = false;
        keys(line, &mut |key| {
            has_key = true;
            let mut key = decode::java_lossy(key);
            if options.lowercase {
                let text = String::from_utf8_lossy(&key).to_lowercase();
                key = text.into_bytes().into();
            }
            if key.len() <= options.word_bytes_max {
                add(&key);
                tally.words += 1;
            } else {
                tally.oversized_words += 1;
            }
        });
        tally.lines_without_key += u64::from(!has_key);
    });
    tally
}
