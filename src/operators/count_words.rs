//! Counts words: one table per open epoch, drained into runs for the owners of the words.
//!
//! The table takes millions of words a second; differential sees one update per distinct word and
//! epoch. A table is drained when the frontier has passed its epoch, or earlier if it has grown
//! beyond its limit. An epoch may therefore leave in several runs, which the owner adds up.
//!
//! If the words of an epoch are many and hardly repeat, one table would outgrow the caches, and the
//! tables of all workers would hold nearly all words. When a table shows that, its words and the
//! rest of the epoch's words are listed by ranges of their hash and counted in tables that all
//! workers of the process share: see [`count_ranges`]. Both ways end in runs
//! for the same owners, so each worker decides for itself, in each epoch.

use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::dataflow::operators::{Capability, Concat};

use super::context::{Context, Tally};
use super::count_ranges::{self, ListedRange, Unanswered};
use super::epoch_table::{OpenTable, RunOutput, send_if_large};
use super::open_ranges::OpenRanges;
use super::run::Run;
use super::spare_table::Spare;
use super::text::each_line;
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{
    self, Counted, ListedWords, RangeLists, Ranges, WordOptions, WordTable, decode,
};

/// Extracts the keys of a line: calls its second argument with each key.
pub type Keys = Rc<dyn Fn(&[u8], &mut dyn FnMut(&[u8]))>;

/// The unit that is counted.
#[derive(Clone)]
pub enum CountedItem {
    /// The words of the lines, by the rule of `--split`.
    Words,
    /// The keys that a definition extracts from each line.
    Keys(Keys),
}

/// Memory in bytes that a distinct word takes, about.
const WORD_BYTES: usize = 48;

/// Most occurrences of a word that are listed for another process when an epoch turns to ranges.
const COPIES_MAX: u64 = 8;

/// Counts the words of blocks, and sends each distinct word of an epoch to its owner: once, or a
/// few times if a table grew too large.
pub fn count_words<'s>(
    blocks: Stream<'s, Epoch, Vec<Block>>,
    item: CountedItem,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    let mut builder = OperatorBuilder::new("Count words".to_owned(), blocks.scope());
    let mut input = builder.new_input(blocks, Pipeline);
    let (run_output, runs) = builder.new_output();
    let (list_output, lists) = builder.new_output();
    let mut run_output = OutputBuilder::<_, NoopBuilder<Run>>::from(run_output);
    let mut list_output = OutputBuilder::<_, NoopBuilder<ListedRange>>::from(list_output);
    let (ranges, unanswered) = (context.open_ranges(), Unanswered::default());
    let counted =
        count_ranges::drain(lists, ranges.clone(), unanswered.clone(), Rc::clone(&context));

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<Epoch, OpenEpoch> = BTreeMap::new();
        let (mut spare, mut spare_lists) = (Spare::default(), Spare::default());
        let mut beginnings = Beginnings::default();
        move |frontiers| {
            let mut runs = run_output.activate();
            let output = list_output.activate();
            let mut lists = ListSender { output, ranges: &ranges, unanswered: &unanswered };
            input.for_each(|capability, blocks| {
                let Some(to_runs) = capability.retain_least(0) else { return };
                let Some(to_ranges) = capability.retain_least(1) else { return };
                let epoch = *to_runs.time();
                // Taken out, since it may take its lists from another open epoch.
                let mut at = open.remove(&epoch).unwrap_or_else(|| {
                    let table = spare.take().unwrap_or_default();
                    let counted = OpenTable { capability: to_runs, table };
                    OpenEpoch { counted, to_ranges, words: 0, listed: None }
                });
                let mut free = FreeLists { open: &mut open, spare: &mut spare_lists };
                if at.is_new() && ranges.is_likely() && beginnings.is_listed() {
                    at.start_listing(&context, &mut lists, &mut free);
                }
                at.take_lists(&context, &mut lists, &mut free);
                for block in blocks.drain(..) {
                    at.add(&block, &item, &context, &mut lists);
                    // Before the table is drained: a drained table does not show its words.
                    if at.should_list(&context, &ranges) {
                        ranges.note_likely();
                        at.start_listing(&context, &mut lists, &mut free);
                    }
                    at.drain_if_large(&context, &mut runs);
                }
                open.insert(epoch, at);
            });
            while let Some(first) = open.first_entry() {
                if frontiers[0].less_equal(first.key()) {
                    break;
                }
                let mut done = first.remove();
                if let Some(listed) = done.finish_lists(&context, &mut lists) {
                    spare_lists.keep(listed);
                }
                done.counted.drain(&context, &mut runs);
                spare.keep(done.counted.table);
            }
            let first_open = frontiers[0].frontier();
            spare.pass(first_open.first());
            spare_lists.pass(first_open.first());
        }
    });
    runs.concat(counted)
}

/// The ways in which epochs begin while their words are likely to be listed.
///
/// Frequent words are chosen from a table. So that the choice follows the text, some epochs begin
/// with a table until it shows that words are to be listed.
#[derive(Debug, Default)]
struct Beginnings {
    /// Epochs whose words were listed from the first one on, since the last that was not.
    listed: u32,
}

impl Beginnings {
    /// Epochs that are listed from the first word on, before one begins with a table.
    const LISTED_MAX: u32 = 16;

    /// Returns true if the words of the next epoch are listed from the first one on.
    fn is_listed(&mut self) -> bool {
        self.listed = (self.listed + 1) % (Beginnings::LISTED_MAX + 1);
        self.listed > 0
    }
}

/// The words of one open epoch.
struct OpenEpoch {
    /// The table and its capability.
    counted: OpenTable,
    /// The capability to send lists of words to the ranges of other processes.
    to_ranges: Capability<Epoch>,
    /// Words that were counted in the table so far.
    words: u64,
    /// The lists and the ranges, once words are listed.
    listed: Option<Listed>,
}

/// The places of listed words.
struct Listed {
    /// The ranges of the epoch.
    ranges: Arc<Ranges>,
    /// The lists of this worker, unless another epoch has them.
    lists: Option<RangeLists>,
}

impl Listed {
    /// Returns the lists and the ranges, if this epoch has the lists.
    fn places(&mut self) -> Option<(&mut RangeLists, &Ranges)> {
        self.lists.as_mut().map(|lists| (lists, &*self.ranges))
    }
}

/// The lists of a worker while no word is added to them. A worker has lists once, however many
/// epochs are open, and the epoch whose words come has them.
struct FreeLists<'a> {
    /// The other open epochs; one of them may have the lists.
    open: &'a mut BTreeMap<Epoch, OpenEpoch>,
    /// The lists, if no epoch has them.
    spare: &'a mut Spare<RangeLists>,
}

impl FreeLists<'_> {
    /// Returns empty lists: those of another epoch are passed on first.
    fn take(&mut self, context: &Context, sender: &mut ListSender<'_>) -> RangeLists {
        let of_other = self.open.values_mut().find_map(|at| at.finish_lists(context, sender));
        let make = || RangeLists::new(sender.ranges.ranging(), context.settings.threads);
        of_other.or_else(|| self.spare.take()).unwrap_or_else(make)
    }
}

impl OpenEpoch {
    /// Counts or lists the words of a block.
    fn add(
        &mut self,
        block: &Block,
        item: &CountedItem,
        context: &Context,
        sender: &mut ListSender<'_>,
    ) {
        let OpenEpoch { counted: OpenTable { table, .. }, to_ranges, words, listed } = self;
        let (text_len, options) = (block.text().len(), &context.settings.words);
        let listed = listed.as_mut().and_then(Listed::places);
        let tally = match (listed, item) {
            (None, CountedItem::Words) => tally(table.add_block(block.padded(), text_len, options)),
            (None, CountedItem::Keys(keys)) => {
                each_key(block, keys, options, |key| table.add_word(key, 1))
            }
            (Some((lists, ranges)), item) => {
                let mut to = RangesOfHost { ranges, table, to_ranges, context, sender };
                let tally = match item {
                    CountedItem::Words => {
                        tally(lists.add_block(block.padded(), text_len, options, &mut to))
                    }
                    CountedItem::Keys(keys) => {
                        each_key(block, keys, options, |key| lists.add_word(key, &mut to))
                    }
                };
                ranges.note_words(tally.words);
                sender.unanswered.hold(block);
                tally
            }
        };
        *words += tally.words;
        context.tallies.add(*to_ranges.time(), tally);
    }

    /// Returns true if no words were added so far.
    fn is_new(&self) -> bool {
        self.listed.is_none() && self.words == 0
    }

    /// Takes the lists of this worker if words are listed.
    fn take_lists(
        &mut self,
        context: &Context,
        sender: &mut ListSender<'_>,
        free: &mut FreeLists<'_>,
    ) {
        if let Some(Listed { lists: lists @ None, .. }) = &mut self.listed {
            *lists = Some(free.take(context, sender));
        }
    }

    /// Returns true if the words of the epoch are not listed, and should be.
    fn should_list(&self, context: &Context, ranges: &OpenRanges) -> bool {
        if self.listed.is_some() {
            return false;
        }
        let distinct = self.counted.table.len();
        distinct >= ranges.list_words_min().min(context.settings.table_bytes_max / WORD_BYTES)
            && self.words < ranges.repeats_min() * distinct as u64
    }

    /// Lists the words from now on, and moves those counted so far to the ranges.
    fn start_listing(
        &mut self,
        context: &Context,
        sender: &mut ListSender<'_>,
        free: &mut FreeLists<'_>,
    ) {
        let OpenEpoch { counted: OpenTable { table, .. }, to_ranges, words, listed } = self;
        let (ranges, is_first) = sender.ranges.open(*to_ranges.time());
        if is_first {
            sender.notice(to_ranges, context);
        }
        let mut lists = free.take(context, sender);
        let mut counted = mem::take(table);
        // Lists that follow those of the epoch before keep its frequent words. Counts of another
        // process's words would make a second run, which has to be added up.
        if counted.frequent().has_words() && !sender.ranges.ranging().is_divided() {
            counted.choose_frequent();
            lists.set_frequent(counted.frequent().clone());
        }
        let mut to = RangesOfHost { ranges: &ranges, table, to_ranges, context, sender };
        counted.drain(|hash, word, count| to.add(hash, word, count, &mut lists));
        ranges.note_words(*words);
        *listed = Some(Listed { ranges, lists: Some(lists) });
    }

    /// Passes all lists on, and returns them. Returns `None` if this epoch does not have them.
    fn finish_lists(
        &mut self,
        context: &Context,
        sender: &mut ListSender<'_>,
    ) -> Option<RangeLists> {
        let OpenEpoch { counted: OpenTable { table, .. }, to_ranges, listed, .. } = self;
        let Listed { ranges, lists } = listed.as_mut()?;
        let mut lists = lists.take()?;
        lists.flush(&mut RangesOfHost { ranges, table, to_ranges, context, sender });
        Some(lists)
    }

    /// Drains the table or the ranges if they have grown too large.
    fn drain_if_large(&mut self, context: &Context, runs: &mut RunOutput<'_>) {
        self.counted.drain_if_large(context, runs);
        if let Some(Listed { ranges, .. }) = &self.listed {
            send_if_large(ranges, &self.counted.capability, context, runs);
        }
    }
}

/// Sends lists of words to the processes that count them.
struct ListSender<'a> {
    /// Takes lists of words.
    output: OutputBuilderSession<'a, Epoch, NoopBuilder<ListedRange>>,
    /// The ranges of this process.
    ranges: &'a OpenRanges,
    /// Lists on their way.
    unanswered: &'a Unanswered,
}

impl ListSender<'_> {
    /// Notifies all workers that there are ranges to be drained at the end of the epoch.
    fn notice(&mut self, capability: &Capability<Epoch>, context: &Context) {
        let mut session = self.output.session_with_builder(capability);
        for worker in context.dividing_workers() {
            session.give_container(&mut ListedRange::notice(worker));
        }
    }
}

/// The ranges of all processes that divide the words, as one worker sees them in one epoch.
struct RangesOfHost<'a, 'b> {
    /// The ranges of this process.
    ranges: &'a Ranges,
    /// Counts what cannot be listed for another process.
    table: &'a mut WordTable,
    to_ranges: &'a Capability<Epoch>,
    context: &'a Context,
    sender: &'a mut ListSender<'b>,
}

impl RangesOfHost<'_, '_> {
    /// Adds a word that occurred `count` times.
    ///
    /// A word of another process is listed as often and not sent as a count: each occurs only a few
    /// times, and the other process then has one run, to which no other has to be added.
    fn add(&mut self, hash: u64, word: &[u8], count: u64, lists: &mut RangeLists) {
        if self.ranges.has(self.ranges.range(hash)) {
            self.ranges.add_word(hash, word, count);
        } else if count > COPIES_MAX || word.len() > words::SHORT_BYTES_MAX {
            self.table.add_word(word, count);
        } else {
            (0..count).for_each(|_| lists.add_word(word, self));
        }
    }
}

impl ListedWords for RangesOfHost<'_, '_> {
    fn count(&mut self, range: usize, list: &[u64]) -> usize {
        if self.ranges.has(range) {
            return self.ranges.count(range, list);
        }
        let threads = self.context.settings.threads;
        let process = self.sender.ranges.ranging().process(range);
        let worker = process * threads + range % threads;
        let mut message = ListedRange::list(worker, self.context.index, range, list);
        self.sender.output.session_with_builder(self.to_ranges).give_container(&mut message);
        self.sender.unanswered.sent();
        0
    }

    fn add_word(&mut self, hash: u64, word: &[u8], count: u64) {
        if self.ranges.has(self.ranges.range(hash)) {
            self.ranges.add_word(hash, word, count);
        } else {
            self.table.add_word(word, count);
        }
    }
}

/// Returns the tally of the words of one block.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_seventeen_likely_epochs_begins_with_table() {
        let mut beginnings = Beginnings::default();
        let listed: Vec<bool> = (0..34).map(|_| beginnings.is_listed()).collect();
        let tables = listed.iter().enumerate().filter(|(_, is_listed)| !**is_listed);
        assert_eq!(tables.map(|(epoch, _)| epoch).collect::<Vec<_>>(), [16, 33]);
    }
}
