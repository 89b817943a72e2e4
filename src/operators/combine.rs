//! Counting words: a table for each open epoch, drained into runs for the words' owners.
//!
//! The table does the work of millions of updates a second; differential sees one update for each
//! distinct word and epoch. A table is drained when its epoch's frontier has passed, or before when
//! it has grown beyond its limit: an epoch may leave in several runs, which the owner adds up.
//!
//! Where the words of an epoch hardly repeat, the table of each worker would hold nearly all of
//! them. When a table shows that, its words, and the rest of the epoch's, go to the one worker that
//! counts them: see [`routed`]. Both ways end in runs for the same owners, so each
//! worker decides for itself, in each epoch anew.

use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::dataflow::operators::{Capability, Concat};

use super::archive::each_line;
use super::columns::WordColumn;
use super::routed::{self, Away, Routed, Spares};
use super::run::Run;
use super::{Context, Tally};
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{self, Counted, Router, ShortWords, WordOptions, WordTable, decode};

/// Takes the keys out of a line: is given the line and what to call for each key.
pub(super) type Keys = Rc<dyn Fn(&[u8], &mut dyn FnMut(&[u8]))>;

/// What is counted.
#[derive(Clone)]
pub(super) enum What {
    /// The words of the lines, as `--split` has it.
    Words,
    /// What a definition takes out of each line.
    Keys(Keys),
}

/// Bytes of a run at which one to another process is sent: a quarter of the buffers that timely
/// begins with, so that several fill one.
const REMOTE_RUN_BYTES: usize = 240 << 10;

/// Size at which a table is asked whether its words repeat: where it has outgrown the caches that
/// belong to a core, so that sorting words costs less than missing them.
const ROUTE_TABLE_BYTES_MIN: usize = 16 << 20;

/// Words that a distinct word must stand for, if they are to be counted where they are read.
const ROUTE_REPEATS_MIN: u64 = 4;

pub(super) type RunOutput<'a> = OutputBuilderSession<'a, Epoch, NoopBuilder<Run>>;

/// Counts the words of blocks; sends each distinct word of an epoch to its owner, once, or a few
/// times where a table grew too large.
pub(super) fn combine<'s>(
    blocks: Stream<'s, Epoch, Vec<Block>>,
    what: What,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    let mut builder = OperatorBuilder::new("Count words".to_owned(), blocks.scope());
    let mut input = builder.new_input(blocks, Pipeline);
    let (run_output, runs) = builder.new_output();
    let (routed_output, routed) = builder.new_output();
    let mut run_output = OutputBuilder::<_, NoopBuilder<Run>>::from(run_output);
    let mut routed_output = OutputBuilder::<_, NoopBuilder<Routed>>::from(routed_output);
    let (spares, away) = (Spares::default(), Away::new(context.peers));
    let counted = routed::count(routed, spares.clone(), away.clone(), Rc::clone(&context));

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<Epoch, OpenEpoch> = BTreeMap::new();
        // A drained table, kept so that a steady stream of epochs allocates nothing.
        let mut spare = None;
        move |frontiers| {
            let mut runs = run_output.activate();
            let output = routed_output.activate();
            let mut tables = Tables { output, spares: &spares, away: &away };
            input.for_each(|capability, blocks| {
                let Some(to_runs) = capability.retain_least(0) else { return };
                let Some(to_tables) = capability.retain_least(1) else { return };
                let at = open.entry(*to_runs.time()).or_insert_with(|| OpenEpoch {
                    counted: OpenTable {
                        capability: to_runs,
                        table: spare.take().unwrap_or_else(|| WordTable::new(1)),
                    },
                    to_tables,
                    words: 0,
                    routes: false,
                });
                for block in blocks.drain(..) {
                    if at.routes {
                        at.route(&block, &what, &context, &mut tables);
                    } else {
                        at.absorb(&block, &what, &context);
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
                spare = Some(done.table);
            }
        }
    });
    runs.concat(counted)
}

/// The words of one open epoch.
struct OpenEpoch {
    counted: OpenTable,
    /// The right to send words to the tables of other workers.
    to_tables: Capability<Epoch>,
    /// Words in this epoch so far.
    words: u64,
    /// Whether further words go to the tables that they belong in.
    routes: bool,
}

impl OpenEpoch {
    /// Counts the words of a block here.
    fn absorb(&mut self, block: &Block, what: &What, context: &Context) {
        let (table, options) = (&mut self.counted.table, &context.words);
        let tally = match what {
            What::Words => tally(table.add_block(block.padded(), block.text().len(), options)),
            What::Keys(keys) => each_key(block, keys, options, |key| table.add_word(key, 1)),
        };
        self.words += tally.words;
        context.tallies.add(*self.to_tables.time(), tally);
    }

    /// Whether the words of the epoch repeat too seldom to be counted here.
    fn should_route(&self, context: &Context) -> bool {
        let table = &self.counted.table;
        context.routing > 1
            && table.heap_bytes() > ROUTE_TABLE_BYTES_MIN.min(context.table_bytes_max)
            && self.words < ROUTE_REPEATS_MIN * table.len() as u64
    }

    /// Sends what is counted to where it belongs, as words that are not: they are few for each
    /// distinct one, and so no other run is to be added up with that of the table there.
    fn start_routing(&mut self, context: &Context, tables: &mut Tables<'_>) {
        self.routes = true;
        let mut counted = mem::replace(&mut self.counted.table, WordTable::new(1));
        let mut lists = vec![ShortWords::default(); context.routing];
        let mut router = Router::new(&mut self.counted.table, &mut lists, &context.words);
        counted.drain(|_, word, count| router.add_word(word, count));
        tables.send(&self.to_tables, context, lists, None);
    }

    /// Sends the words of a block to where they are counted; this worker counts the long ones.
    fn route(&mut self, block: &Block, what: &What, context: &Context, tables: &mut Tables<'_>) {
        let (table, options) = (&mut self.counted.table, &context.words);
        let mut lists: Vec<ShortWords> =
            (0..context.routing).map(|_| tables.spares.take()).collect();
        let mut router = Router::new(table, &mut lists, options);
        let tally = match what {
            What::Words => tally(router.add_block(block.padded(), block.text().len(), options)),
            What::Keys(keys) => each_key(block, keys, options, |key| router.add_word(key, 1)),
        };
        context.tallies.add(*self.to_tables.time(), tally);
        tables.send(&self.to_tables, context, lists, Some(block));
    }
}

/// The way to the tables among which words are routed.
struct Tables<'a> {
    output: OutputBuilderSession<'a, Epoch, NoopBuilder<Routed>>,
    spares: &'a Spares,
    away: &'a Away,
}

impl Tables<'_> {
    /// Sends each list to its worker. The block of the words stays until all are counted: with the
    /// list to a worker of this process, here while the list is away in another.
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
                self.spares.give(words);
            } else if context.is_local(worker) {
                session.give_container(&mut Routed::within(worker, words, block));
            } else {
                let answer = block.map(|block| {
                    self.away.keep(worker, block);
                    context.index
                });
                for mut routed in Routed::across(worker, &words, answer) {
                    session.give_container(&mut routed);
                }
                self.spares.give(words);
            }
        }
    }
}

/// What the words of a block add to the tally.
fn tally(Counted { words, oversized_words }: Counted) -> Tally {
    Tally { words, oversized_words, ..Tally::default() }
}

/// Gives each key of a block, as the text that it is taken for.
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

/// A table of one open epoch, with the right to send what it counts.
pub(super) struct OpenTable {
    pub(super) capability: Capability<Epoch>,
    pub(super) table: WordTable,
}

impl OpenTable {
    /// Bounds the memory of the table.
    pub(super) fn drain_if_large(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        if self.table.heap_bytes() > context.table_bytes_max {
            self.drain(context, output);
        }
    }

    /// Sends what the table holds as one sorted run for each owner in this process, and in several,
    /// one after the other, for each elsewhere: timely copies what goes into a socket into buffers
    /// of the size of the largest message ever, and keeps them.
    pub(super) fn drain(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        if self.table.is_empty() {
            return;
        }
        let epoch = *self.capability.time();
        let room = self.table.len() / context.owners;
        let run = |owner: u32| {
            let local = context.is_local(owner as usize);
            let room = if local { room } else { room.min(REMOTE_RUN_BYTES / 32) };
            Run::new(epoch, owner, WordColumn::with_room(room, 8 * room))
        };
        let mut runs: Vec<Run> = (0..context.owners as u32).map(run).collect();
        let mut session = output.session_with_builder(&self.capability);
        self.table.drain(&mut |hash, word: &[u8], count| {
            let owner = context.owner(words::part(hash, context.parts));
            runs[owner].push(hash, word, count as i64);
            if runs[owner].bytes() >= REMOTE_RUN_BYTES && !context.is_local(owner) {
                session.give_container(&mut mem::replace(&mut runs[owner], run(owner as u32)));
            }
        });
        runs.iter_mut().filter(|run| !run.is_empty()).for_each(|run| session.give_container(run));
    }
}
