//! Ranges: many small tables of short words, each for a range of hashes.
//!
//! A table beyond the caches costs a miss for nearly each word. Here a word is first appended to
//! the list of its range. A full list is counted at once, in slots that fit the second-level cache
//! or nearly so: their lines are fetched once a list, and neighbours in memory follow one another.
//! So words are moved once more, and counted in less than half of the time.
//!
//! Ranges are in the order of hashes, as slots are, so ranges one after the other drain as one
//! table does. Each range grows when its list is counted, while its slots are in the cache.

use super::hash::{Key, SHORT_BYTES_MAX};
use super::side_table::Side;
use super::simd::vec_with_room;
use super::slots::Slots;
use super::split::{GROUP_MIN, WordSink, each_ended, words_into};
use super::{Counted, WordOptions};
use std::mem;

/// Number of ranges of a table that takes all words.
const RANGES: u32 = 256;

/// Least number of ranges, as of a table that takes the words of one of many workers.
const RANGES_MIN: u32 = 32;

/// Most words in a list (16 bytes each). Fewer would find too few words for a line of the slots.
const LIST_WORDS_MAX: usize = 16 << 10;

/// A list has room for a quarter of the homes of a range, so that lists take a sixth of the memory
/// of slots, until they have [`LIST_WORDS_MAX`].
const HOMES_PER_LISTED: usize = 4;

/// Words between two lists: lists at distances of powers of two would share cache lines.
const LIST_GAP: usize = 12;

/// Memory in bytes that the slots of a drained range may keep: 192 MiB in all ranges. The memory of
/// more words would raise the peak, since the run of the words takes it again.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Short words, counted by ranges of their hash.
#[derive(Debug)]
pub struct Ranges {
    scale: u64,
    /// The shift that leaves the range of a hash.
    shift: u32,
    /// The lists, each with room for `list_words` words and a gap. One allocation, since lists on
    /// small pages would cost a miss of the address translation for each word.
    listed: Vec<Key>,
    /// The places of the lists in `listed`.
    lists: Vec<List>,
    list_words: usize,
    counted: Vec<CountedRange>,
}

/// The place of a list.
#[derive(Clone, Copy, Debug)]
struct List {
    start: usize,
    /// Index after the last word.
    next: usize,
    /// Index at which the list is full.
    full: usize,
}

/// The words of one range that are counted.
#[derive(Debug)]
struct CountedRange {
    slots: Slots,
    /// Words that were crafted to share a slot.
    refused: Side,
}

impl Ranges {
    /// Makes empty ranges with room for `words` words. `scale` is that of the table.
    pub fn new(scale: u32, words: usize) -> Ranges {
        let count = (RANGES / scale.next_power_of_two().min(RANGES)).max(RANGES_MIN);
        let shift = u64::BITS - count.trailing_zeros();
        let homes = homes_for(words, count as usize);
        let range_scale = u64::from(scale) * u64::from(count);
        let range =
            || CountedRange { slots: Slots::new(range_scale, homes), refused: Side::default() };
        let counted = (0..count).map(|_| range()).collect();
        let (scale, listed, lists) = (u64::from(scale), Vec::new(), Vec::new());
        let mut ranges = Ranges { scale, shift, listed, lists, list_words: 0, counted };
        ranges.widen_lists(list_words(homes));
        ranges
    }

    /// Makes longer lists. The present ones must be empty.
    fn widen_lists(&mut self, words: usize) {
        self.listed = Vec::new();
        let all = self.counted.len() * (words + LIST_GAP);
        let mut listed = vec_with_room(all);
        listed.resize(all, Key::of(b""));
        let starts = (0..all).step_by(words + LIST_GAP);
        self.lists = starts.map(|at| List { start: at, next: at, full: at + words }).collect();
        (self.listed, self.list_words) = (listed, words);
    }

    /// Returns the range of a word with this hash.
    #[inline(always)]
    fn of(&self, hash: u64) -> usize {
        (hash.wrapping_mul(self.scale) >> self.shift) as usize
    }

    /// Counts the words of a block: see [`WordTable::add_block`](super::WordTable::add_block).
    /// Longer words are counted in `side`.
    pub fn add_block(
        &mut self,
        side: &mut Side,
        padded: &[u8],
        text_len: usize,
        options: &WordOptions,
    ) -> Counted {
        let mut sink = Lister {
            ranges: self,
            side,
            short_bytes_max: options.word_bytes_max.min(SHORT_BYTES_MAX),
            word_bytes_max: options.word_bytes_max,
            counted: Counted::default(),
        };
        words_into(padded, text_len, options, &mut sink);
        sink.counted
    }

    /// Adds 1 to a word.
    #[inline(always)]
    pub fn push(&mut self, key: Key) {
        let range = self.of(key.hash());
        let list = &mut self.lists[range];
        self.listed[list.next] = key;
        list.next += 1;
        if list.next == list.full {
            self.settle(range);
        }
    }

    /// Adds `count` (not 0) to a word.
    pub fn add(&mut self, key: Key, count: u64) {
        let range = self.of(key.hash());
        let CountedRange { slots, refused } = &mut self.counted[range];
        refused.make_room(slots, 1);
        if !slots.add(slots.homes().of(key.hash()), key, count) {
            refused.add(&key.to_bytes()[..key.len()], count);
        }
    }

    /// Counts the words in the list of `range`.
    #[inline(never)]
    fn settle(&mut self, range: usize) {
        self.count_list(range);
        let words = list_words(self.counted[range].slots.capacity());
        if words > self.list_words {
            self.count_lists();
            self.widen_lists(words);
        }
    }

    fn count_lists(&mut self) {
        (0..self.lists.len()).for_each(|range| self.count_list(range));
    }

    fn count_list(&mut self, range: usize) {
        let List { start, next, .. } = self.lists[range];
        self.lists[range].next = start;
        self.counted[range].add_all(&self.listed[start..next]);
    }

    /// Returns the number of distinct words that are counted, and of words that are in lists.
    pub fn len(&self) -> usize {
        let counted = self.counted.iter().map(|range| range.slots.len() + range.refused.len());
        counted.sum::<usize>() + self.lists.iter().map(|list| list.next - list.start).sum::<usize>()
    }

    /// Returns the allocated memory in bytes.
    pub fn heap_bytes(&self) -> usize {
        let in_range = |range: &CountedRange| range.slots.heap_bytes() + range.refused.heap_bytes();
        let counted: usize = self.counted.iter().map(in_range).sum();
        self.listed.capacity() * size_of::<Key>() + counted
    }

    /// Counts all words in lists, and adds those that are in no slots to `side`.
    pub fn finish(&mut self, side: &mut Side) {
        self.count_lists();
        for CountedRange { refused, .. } in &mut self.counted {
            if refused.len() == 0 {
                continue;
            }
            refused.give_back(|word, count| {
                side.add(word, count);
                true
            });
            // Its text stays when words are given back, and ranges are kept for the next epoch.
            *refused = Side::default();
        }
    }

    /// Calls `emit` with every word once, ascending by (hash, word), after
    /// [`finish`](Self::finish). Returns ranges for as many words, or `None` if they are too large
    /// to be kept: then memory is freed range by range.
    pub fn drain(mut self, mut emit: impl FnMut(u64, Key, u64)) -> Option<Ranges> {
        let words = self.counted.iter().map(|range| range.slots.len()).sum();
        let homes = homes_for(words, self.counted.len());
        let is_kept = Slots::bytes_of(homes) <= KEPT_BYTES_MAX;
        if !is_kept {
            self.listed = Vec::new();
        }
        let counted = mem::take(&mut self.counted).into_iter().filter_map(|mut range| {
            range.slots.drain(&mut emit);
            is_kept.then(|| {
                range.slots.reset(homes);
                range
            })
        });
        self.counted = counted.collect();
        is_kept.then_some(self)
    }
}

impl CountedRange {
    /// Adds 1 to each of `words`.
    fn add_all(&mut self, words: &[Key]) {
        let CountedRange { slots, refused } = self;
        let mut places = [0; GROUP_MIN];
        for group in words.chunks(GROUP_MIN) {
            refused.make_room(slots, group.len());
            let homes = slots.homes();
            for (place, key) in places.iter_mut().zip(group) {
                *place = homes.of(key.hash());
                slots.prefetch(*place);
            }
            for (&place, &key) in places.iter().zip(group) {
                if !slots.add(place, key, 1) {
                    refused.add(&key.to_bytes()[..key.len()], 1);
                }
            }
        }
    }
}

/// The sink that lists the words of one block.
struct Lister<'a> {
    ranges: &'a mut Ranges,
    side: &'a mut Side,
    short_bytes_max: usize,
    word_bytes_max: usize,
    counted: Counted,
}

impl Lister<'_> {
    #[cold]
    fn long(&mut self, word: &[u8]) {
        if word.len() <= self.word_bytes_max {
            self.counted.words += 1;
            self.side.add(word, 1);
        } else {
            self.counted.oversized_words += 1;
        }
    }
}

impl WordSink for Lister<'_> {
    #[inline(always)]
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        let mut short_words = 0;
        let next = each_ended::<CR>(padded, start, ends, |start, end| {
            let len = end - start;
            if len <= self.short_bytes_max {
                self.ranges.push(Key::load(padded, start, len));
                short_words += 1;
            } else {
                self.long(&padded[start..end]);
            }
        });
        self.counted.words += short_words;
        next
    }

    fn word(&mut self, word: &[u8]) {
        if word.len() > self.short_bytes_max {
            return self.long(word);
        }
        self.counted.words += 1;
        self.ranges.push(Key::of(word));
    }
}

/// Returns the number of homes of each of `ranges` ranges that take `words` words together.
fn homes_for(words: usize, ranges: usize) -> usize {
    Slots::capacity_for(words.div_ceil(ranges))
}

/// Returns the number of words that are listed before they are counted in a range of `homes`.
fn list_words(homes: usize) -> usize {
    (homes / HOMES_PER_LISTED).min(LIST_WORDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Words ascending as ranges drain them, with their counts.
    type Counts = BTreeMap<(u64, u128), u64>;

    fn key(number: usize) -> Key {
        Key::of(number.to_string().as_bytes())
    }

    /// Drains `ranges`, and checks the counts and their order.
    fn drained(mut ranges: Ranges, expected: &Counts) -> Option<Ranges> {
        let mut side = Side::default();
        ranges.finish(&mut side);
        let mut found = Vec::new();
        let kept = ranges.drain(|hash, key, count| found.push(((hash, key.rank()), count)));
        assert!(found.is_sorted_by(|(one, _), (other, _)| one < other), "out of order");
        side.take_sorted().rest(&mut |hash, word, count| {
            found.push(((hash, Key::of(word).rank()), count));
        });
        assert!(found.into_iter().collect::<Counts>() == *expected, "counts differ");
        kept
    }

    #[test]
    fn words_of_all_ranges_drain_in_order() {
        for scale in [1, 2, 3, 300] {
            let keys: Vec<Key> = (0..60_000)
                .map(key)
                .filter(|key| super::super::part(key.hash(), scale) == scale / 2)
                .collect();
            let (mut ranges, mut expected) = (Some(Ranges::new(scale, 0)), Counts::new());
            for count in 1..=2 {
                let mut filled = ranges.take().expect("small ranges are kept");
                for &key in keys.iter().chain(&keys) {
                    filled.push(key);
                    filled.add(key, count);
                    *expected.entry((key.hash(), key.rank())).or_default() += 1 + count;
                }
                ranges = drained(filled, &expected);
                expected.clear();
            }
        }
    }

    #[test]
    fn words_that_share_a_home_are_counted_aside() {
        let (mut ranges, mut expected) = (Ranges::new(1, 0), Counts::new());
        let crowd = (0..).map(key).filter(|key| key.hash() >> 48 == 777).take(150);
        let keys: Vec<Key> = crowd.chain((0..50_000).map(key)).collect();
        keys.iter().for_each(|key| {
            *expected.entry((key.hash(), key.rank())).or_default() += 3;
        });
        for _ in 0..2 {
            for &key in &keys {
                (0..3).for_each(|_| ranges.push(key));
            }
            ranges = drained(ranges, &expected).expect("few words are kept");
            let aside = ranges.counted.iter().map(|range| range.refused.heap_bytes());
            assert_eq!(aside.sum::<usize>(), 0, "crafted words leave nothing in kept ranges");
        }
    }

    #[test]
    fn lists_grow_with_slots_to_their_limit() {
        let mut ranges = Ranges::new(1, 0);
        assert_eq!(ranges.list_words, 1024);
        let one_range = (0..).map(|lo| Key { lo, hi: 8 << 56 }).filter(|key| key.hash() >> 56 == 9);
        let mut expected = Counts::new();
        for key in one_range.take(40_000) {
            ranges.push(key);
            expected.insert((key.hash(), key.rank()), 1);
        }
        assert_eq!(ranges.list_words, LIST_WORDS_MAX);
        let lists = ranges.listed.len() * size_of::<Key>();
        assert!(ranges.heap_bytes() > lists + 256 * Slots::bytes_of(1 << 12));
        assert_eq!(ranges.len(), 40_000);
        assert!(drained(ranges, &expected).is_some(), "few words in all are kept");
    }
}
