//! Counting words: a table for each open epoch, drained into runs for the words' owners.
//!
//! The table does the work of millions of updates a second; differential sees one update for each
//! distinct word and epoch. A table is drained when its epoch's frontier has passed, or before when
//! it has grown beyond its limit: an epoch may leave in several runs, which the owner adds up.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::OutputBuilderSession;

use super::archive::each_line;
use super::columns::WordColumn;
use super::counts::{Counts, Over};
use super::run::Run;
use super::window::Window;
use super::{Context, Lines, Tally};
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{self, WordTable, decode};

/// Takes the keys out of a line: is given the line and what to call for each key.
type Keys = Rc<dyn Fn(&[u8], &mut dyn FnMut(&[u8]))>;

/// What is counted.
#[derive(Clone)]
enum What {
    /// The words of the lines, as `--split` has it.
    Words,
    /// What a definition takes out of each line.
    Keys(Keys),
}

/// The words (or keys) of the lines, not yet counted.
#[derive(Clone)]
pub struct Words<'s> {
    lines: Lines<'s>,
    what: What,
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl<'s> Lines<'s> {
    /// The words of the lines, as `--split` has it.
    pub fn words(self) -> Words<'s> {
        Words { lines: self, what: What::Words }
    }

    /// What `keys` takes out of each line, to be counted as words are: it is given the line's bytes
    /// without their end, and calls its second argument with each key, of any bytes.
    ///
    /// Keys are text: ill-formed UTF-8 is replaced and `--lowercase` applied as for words. Lines
    /// without a key are skipped and counted ([`Tally::lines_without_key`]).
    ///
    /// ```
    /// # use wordtide::operators::{Counts, Lines};
    /// /// How often each first letter occurs.
    /// fn initials<'s>(lines: Lines<'s>) -> Counts<'s> {
    ///     lines.keys(|line, emit| line.chunks(1).take(1).for_each(emit)).per_epoch().count()
    /// }
    /// ```
    pub fn keys<F>(self, keys: F) -> Words<'s>
    where
        F: Fn(&[u8], &mut dyn FnMut(&[u8])) + 'static,
    {
        Words { lines: self, what: What::Keys(Rc::new(keys)) }
    }
}

impl<'s> Words<'s> {
    /// Each epoch on its own: what Spark's `reduceByKey` gives for a batch.
    ///
    /// As a collection: a word enters at its epoch and leaves at the next. Keeps the words of open
    /// epochs only.
    pub fn per_epoch(self) -> Windowed<'s> {
        Windowed { words: self, over: Over::Epoch }
    }

    /// All epochs up to each: what Spark's `updateStateByKey` gives, adding up.
    ///
    /// As a collection: a word enters at its epoch and never leaves. Keeps every distinct word.
    pub fn running(self) -> Running<'s> {
        Running { words: self, max_keys: None }
    }

    /// The epochs of a sliding window, published when one ends: Spark's `reduceByKeyAndWindow`. A
    /// number is so many intervals, one window ending with every epoch.
    ///
    /// As a collection: a word enters at its epoch and leaves one window later. Keeps the distinct
    /// words of each epoch of the window, twice. Epochs at which no window ends publish nothing,
    /// not even a marker; a window's end that became no epoch (because the job was late, or was not
    /// running) is not published. A window that does not fit the interval ends the job with a
    /// `Usage` error: [`Window::check`] says so before.
    pub fn sliding(self, window: impl Into<Window>) -> Windowed<'s> {
        Windowed { words: self, over: Over::Window(window.into()) }
    }
}

/// Words that count from the start.
#[derive(Clone, Debug)]
pub struct Running<'s> {
    words: Words<'s>,
    max_keys: Option<u64>,
}

impl<'s> Running<'s> {
    /// Ends the job, with an error that names `--max-keys`, at the first epoch in which all workers
    /// together keep more than `max_keys` distinct words.
    #[must_use]
    pub fn max_keys(mut self, max_keys: Option<u64>) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// How often each word has occurred.
    pub fn count(self) -> Counts<'s> {
        Windowed { words: self.words, over: Over::Start { max_keys: self.max_keys } }.count()
    }
}

/// Words with the epochs over which they count.
#[derive(Clone, Debug)]
pub struct Windowed<'s> {
    words: Words<'s>,
    over: Over,
}

impl<'s> Windowed<'s> {
    /// How often each word occurs.
    pub fn count(self) -> Counts<'s> {
        let Words { lines: Lines { blocks, ticks, context }, what } = self.words;
        let runs = combine(blocks, what, Rc::clone(&context));
        Counts { runs, ticks, context, over: self.over }
    }
}

/// The words of one open epoch, with the right to send them.
struct OpenEpoch {
    capability: Capability<Epoch>,
    table: WordTable,
}

/// Bytes of a run at which one to another process is sent: a quarter of the buffers that timely
/// begins with, so that several fill one.
const REMOTE_RUN_BYTES: usize = 240 << 10;

type RunOutput<'a> = OutputBuilderSession<'a, Epoch, NoopBuilder<Run>>;

/// Counts the words of blocks; sends each distinct word of an epoch once, to its owner.
fn combine<'s>(
    blocks: Stream<'s, Epoch, Vec<Block>>,
    what: What,
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
                        at.absorb(&block, &what, &context);
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
    fn absorb(&mut self, block: &Block, what: &What, context: &Context) {
        let tally = match what {
            What::Words => {
                let text_len = block.text().len();
                let counted = self.table.add_block(block.padded(), text_len, &context.words);
                let (words, oversized_words) = (counted.words, counted.oversized_words);
                Tally { words, oversized_words, ..Tally::default() }
            }
            What::Keys(keys) => self.absorb_keys(block, keys, context),
        };
        context.tallies.add(*self.capability.time(), tally);
    }

    fn absorb_keys(&mut self, block: &Block, keys: &Keys, context: &Context) -> Tally {
        let mut tally = Tally::default();
        let (table, options) = (&mut self.table, &context.words);
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
                    table.add_word(&key, 1);
                    tally.words += 1;
                } else {
                    tally.oversized_words += 1;
                }
            });
            tally.lines_without_key += u64::from(!has_key);
        });
        tally
    }

    /// Sends what the table holds as one sorted run for each owner in this process, and in several,
    /// one after the other, for each elsewhere: timely copies what goes into a socket into buffers
    /// of the size of the largest message ever, and keeps them.
    fn drain(&mut self, context: &Context, output: &mut RunOutput<'_>) {
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
                session.give_container(&mut std::mem::replace(&mut runs[owner], run(owner as u32)));
            }
        });
        runs.iter_mut().filter(|run| !run.is_empty()).for_each(|run| session.give_container(run));
    }
}
