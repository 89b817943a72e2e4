//! The word table: counts words in place and drains them in hash order.
//!
//! Words go through a small group of probes, whose slots are prefetched, so that the cache misses
//! of a group overlap. If the table outgrows the caches and words hardly repeat, its short words
//! are counted by [`Ranges`] from then on.

use super::hash::{Key, SHORT_BYTES_MAX};
use super::ranges::Ranges;
use super::short_word_lists::ShortWords;
use super::side_table::Side;
use super::slots::{CAPACITY_MIN, Slots};
use super::split::{GROUP_MAX, GROUP_MIN, WordSink, each_ended, words_into};
use super::{Counted, WordOptions};
use std::mem;

/// Homes that a drained table may keep (24 bytes each).
const KEPT_CAPACITY_MAX: usize = 1 << 20;

/// Number of distinct words from which words may be counted by ranges. The slots then take 24 MiB,
/// more than the caches of a core.
const RANGED_WORDS_MIN: usize = 5 << 16;

/// Average number of occurrences of a distinct word below which words are counted by ranges. If
/// words repeat, the frequent ones stay in the caches.
const RANGED_REPEATS_MAX: u64 = 4;

/// The words of an epoch with their counts. They drain ascending by (hash, word).
///
/// Small when empty (96 KiB), 24 bytes a slot for words of up to 15 bytes at a load of 5/16 to 5/8,
/// and their text and about 50 bytes for longer ones. The table has no limit of its own: the caller
/// compares [`heap_bytes`](WordTable::heap_bytes) with a limit and drains the table early.
#[derive(Debug)]
pub struct WordTable {
    scale: u32,
    /// Short words, unless there are `ranges`.
    slots: Slots,
    side: Side,
    /// Short words by ranges, in an epoch in which they hardly repeat.
    ranges: Option<Ranges>,
    /// Number of words added since the last drain.
    words: u64,
    group: Box<[Probe; GROUP_MAX]>,
}

/// A word whose slot was prefetched.
#[derive(Clone, Copy, Debug)]
struct Probe {
    key: Key,
    home: usize,
}

impl WordTable {
    /// Makes an empty table. `scale` is 1 if it takes all words, and P if it takes only the words
    /// of one [`part`](super::part) of P, whose hashes share their top bits: without it they would
    /// crowd into 1/P of the slots. With words of several parts in it, `scale` must be 1: the order
    /// of the drain depends on it.
    ///
    /// # Panics
    /// If `scale` is 0.
    pub fn new(scale: u32) -> WordTable {
        assert!(scale > 0, "a word table is scaled by 0 parts");
        WordTable {
            scale,
            slots: Slots::new(scale.into(), CAPACITY_MIN),
            side: Side::default(),
            ranges: None,
            words: 0,
            group: Box::new([Probe { key: Key::of(b""), home: 0 }; GROUP_MAX]),
        }
    }

    /// Counts the words of a block: `text_len` bytes of whole lines at the beginning of
    /// `block_padded`, followed by at least [`PAD_BYTES`](super::PAD_BYTES) zero bytes. A last line
    /// without an end is a line too, unless it is empty.
    ///
    /// # Panics
    /// If the padding is missing.
    pub fn add_block(
        &mut self,
        block_padded: &[u8],
        text_len: usize,
        options: &WordOptions,
    ) -> Counted {
        self.choose();
        if let Some(ranges) = &mut self.ranges {
            let counted = ranges.add_block(&mut self.side, block_padded, text_len, options);
            self.words += counted.words;
            return counted;
        }
        let mut adder = BlockCounter {
            table: self,
            waiting: 0,
            short_bytes_max: options.word_bytes_max.min(SHORT_BYTES_MAX),
            word_bytes_max: options.word_bytes_max,
            counted: Counted::default(),
        };
        words_into(block_padded, text_len, options, &mut adder);
        adder.settle();
        let counted = adder.counted;
        self.words += counted.words;
        counted
    }

    /// Adds `count` to `word`, which may hold any bytes. A count of 0 adds nothing.
    pub fn add_word(&mut self, word: &[u8], count: u64) {
        if count == 0 {
            return;
        }
        if word.len() > SHORT_BYTES_MAX {
            return self.side.add(word, count);
        }
        self.words += count;
        let key = Key::of(word);
        if let Some(ranges) = &mut self.ranges {
            return ranges.add(key, count);
        }
        self.make_room(1);
        if !self.slots.add(self.slots.homes().of(key.hash()), key, count) {
            self.side.add(word, count);
        }
    }

    /// Adds 1 to each of `words`.
    pub fn add_short(&mut self, words: &ShortWords) {
        self.choose();
        self.words += words.len() as u64;
        if let Some(ranges) = &mut self.ranges {
            return words.keys.iter().for_each(|&key| ranges.push(key));
        }
        // For all at once: words in the order of their hashes, as another table drained them, would
        // crowd a small table from one end, whatever its load.
        self.make_room(words.keys.len());
        for keys in words.keys.chunks(2 * GROUP_MIN) {
            let homes = self.slots.homes();
            for (probe, &key) in self.group.iter_mut().zip(keys) {
                let home = homes.of(key.hash());
                self.slots.prefetch(home);
                *probe = Probe { key, home };
            }
            add_group(&mut self.slots, &mut self.side, &self.group[..keys.len()]);
        }
    }

    /// Returns the number of distinct words. If words are counted by ranges, those that wait for it
    /// count as distinct.
    pub fn len(&self) -> usize {
        self.short_len() + self.side.len()
    }

    fn short_len(&self) -> usize {
        self.ranges.as_ref().map_or(self.slots.len(), Ranges::len)
    }

    /// Returns true if there are no words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the allocated memory in bytes, used or not.
    pub fn heap_bytes(&self) -> usize {
        let ranges = self.ranges.as_ref().map_or(0, Ranges::heap_bytes);
        let side = self.side.heap_bytes() + size_of_val(&*self.group);
        self.slots.heap_bytes() + ranges + side
    }

    /// Calls `emit(hash, word, count)` with every word once, ascending by (hash, word), and empties
    /// the table. Memory is kept for the same number of words, up to about 600,000, or about 5
    /// million if they hardly repeat.
    pub fn drain(&mut self, mut emit: impl FnMut(u64, &[u8], u64)) {
        if self.is_empty() {
            return;
        }
        let mut ranges = self.ranges.take();
        if let Some(ranges) = &mut ranges {
            ranges.finish(&mut self.side);
        }
        let mut longer = self.side.take_sorted();
        let mut give = |hash: u64, key: Key, count| {
            let bytes = key.to_bytes();
            let word = &bytes[..key.len()];
            if longer.next_hash().is_some_and(|next| next <= hash) {
                longer.before(hash, word, &mut emit);
            }
            emit(hash, word, count);
        };
        match ranges {
            Some(ranges) => self.drain_ranges(ranges, &mut give),
            None => self.drain_slots(&mut give),
        }
        longer.rest(&mut emit);
        self.side.reuse(longer);
        self.words = 0;
    }

    /// Drains the ranges, and keeps them if the next epoch is likely to need them.
    fn drain_ranges(&mut self, ranges: Ranges, give: impl FnMut(u64, Key, u64)) {
        let words = ranges.len();
        let repeats = self.words / words.max(1) as u64;
        let kept = ranges.drain(give);
        self.ranges = kept.filter(|_| words >= RANGED_WORDS_MIN && repeats < RANGED_REPEATS_MAX);
    }

    /// Drains the slots, and keeps them if they are not too large.
    fn drain_slots(&mut self, give: impl FnMut(u64, Key, u64)) {
        let capacity = Slots::capacity_for(self.slots.len()).min(KEPT_CAPACITY_MAX);
        let empty = Slots::new(self.scale.into(), CAPACITY_MIN);
        let mut slots = mem::replace(&mut self.slots, empty);
        slots.drain(give);
        if capacity == slots.capacity() {
            slots.clear();
            self.slots = slots;
        } else if capacity != CAPACITY_MIN {
            drop(slots);
            self.slots = Slots::new(self.scale.into(), capacity);
        }
    }

    /// Turns to ranges if the table has outgrown the caches and words hardly repeat.
    #[inline]
    fn choose(&mut self) {
        let distinct = self.slots.len();
        if distinct >= RANGED_WORDS_MIN && self.words < RANGED_REPEATS_MAX * distinct as u64 {
            self.turn_to_ranges();
        }
    }

    #[cold]
    fn turn_to_ranges(&mut self) {
        let mut ranges = Ranges::new(self.scale, self.slots.len());
        self.side.give_back(|word, count| {
            ranges.add(Key::of(word), count);
            true
        });
        let empty = Slots::new(self.scale.into(), CAPACITY_MIN);
        mem::replace(&mut self.slots, empty).drain(|_, key, count| ranges.add(key, count));
        self.ranges = Some(ranges);
    }

    /// Makes room in the slots for `more` words.
    #[inline(always)]
    fn make_room(&mut self, more: usize) {
        self.side.make_room(&mut self.slots, more);
    }
}

/// Adds 1 to each word of a group whose slots have room.
#[inline(always)]
fn add_group(slots: &mut Slots, side: &mut Side, group: &[Probe]) {
    for &Probe { key, home } in group {
        if !slots.add(home, key, 1) {
            side.add(&key.to_bytes()[..key.len()], 1);
        }
    }
}

/// The sink that counts the words of one block.
struct BlockCounter<'a> {
    table: &'a mut WordTable,
    /// Number of words in the table's group.
    waiting: usize,
    short_bytes_max: usize,
    word_bytes_max: usize,
    counted: Counted,
}

impl BlockCounter<'_> {
    /// Adds the words of the group to their slots.
    #[inline]
    fn settle(&mut self) {
        let WordTable { slots, side, group, .. } = &mut *self.table;
        add_group(slots, side, &group[..self.waiting]);
        self.waiting = 0;
    }

    #[cold]
    fn long(&mut self, word: &[u8]) {
        if word.len() <= self.word_bytes_max {
            self.counted.words += 1;
            self.table.side.add(word, 1);
        } else {
            self.counted.oversized_words += 1;
        }
    }
}

impl WordSink for BlockCounter<'_> {
    #[inline(always)]
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        self.table.make_room(GROUP_MAX);
        let homes = self.table.slots.homes();
        let short_bytes_max = self.short_bytes_max;
        let mut waiting = 0;
        let next = each_ended::<CR>(padded, start, ends, |start, end| {
            let len = end - start;
            if len <= short_bytes_max {
                let key = Key::load(padded, start, len);
                let home = homes.of(key.hash());
                self.table.slots.prefetch(home);
                self.table.group[waiting % GROUP_MAX] = Probe { key, home };
                waiting += 1;
            } else {
                self.long(&padded[start..end]);
            }
        });
        self.counted.words += waiting as u64;
        self.waiting = waiting;
        self.settle();
        next
    }

    fn word(&mut self, word: &[u8]) {
        if word.len() > self.short_bytes_max {
            return self.long(word);
        }
        self.counted.words += 1;
        if self.waiting == 0 {
            self.table.make_room(GROUP_MAX);
        }
        let key = Key::of(word);
        let home = self.table.slots.homes().of(key.hash());
        self.table.slots.prefetch(home);
        self.table.group[self.waiting] = Probe { key, home };
        self.waiting += 1;
        if self.waiting == GROUP_MIN {
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAD_BYTES;
    use super::super::hash::hash;
    use super::*;
    use std::collections::HashMap;

    type Counts = HashMap<Vec<u8>, u64>;

    /// Drains `table`, checking that it does so in order.
    fn drained(table: &mut WordTable) -> Counts {
        let mut last: Option<(u64, Vec<u8>)> = None;
        let mut counts = Counts::new();
        table.drain(|of, word, count| {
            assert_eq!(of, hash(word));
            let this = (of, word.to_vec());
            assert!(last.as_ref() < Some(&this), "{last:?} came before {this:?}");
            counts.insert(word.to_vec(), count);
            last = Some(this);
        });
        assert!(table.is_empty());
        counts
    }

    fn fill(table: &mut WordTable, expected: &mut Counts, word: &[u8], count: u64) {
        table.add_word(word, count);
        *expected.entry(word.to_vec()).or_insert(0) += count;
    }

    /// A word whose hash is 0, as no text has it: its first bytes make one factor 0.
    fn word_of_hash_zero(number: usize) -> Vec<u8> {
        let mut word = 0xFF51_AFD7_ED55_8CCD_u64.to_le_bytes().to_vec();
        word.extend_from_slice(&number.to_be_bytes()[4..]);
        word
    }

    #[test]
    fn words_of_equal_hash_cost_no_slots() {
        let (mut table, mut expected) = (WordTable::new(1), Counts::new());
        for round in 1..=2 {
            for number in (0..4000).rev() {
                let word = word_of_hash_zero(number);
                assert_eq!(hash(&word), 0);
                fill(&mut table, &mut expected, &word, round);
            }
            assert!(table.slots.len() < 100, "{} slots for one hash", table.slots.len());
            assert_eq!(table.len(), expected.len());
        }
        assert_eq!(table.slots.capacity(), CAPACITY_MIN);
        for number in 0..20_000_usize {
            fill(&mut table, &mut expected, number.to_string().as_bytes(), 1);
            fill(&mut table, &mut expected, &word_of_hash_zero(number % 5000), 1);
        }
        assert_eq!(table.len(), expected.len());
        assert_eq!(drained(&mut table), expected);
    }

    #[test]
    fn refused_words_stay_one_word_after_growth() {
        let (mut table, mut expected) = (WordTable::new(1), Counts::new());
        let same_home = |word: &String| hash(word.as_bytes()) >> 52 == 77;
        let crowd: Vec<String> =
            (0..).map(|number: u32| number.to_string()).filter(same_home).take(200).collect();
        crowd.iter().for_each(|word| fill(&mut table, &mut expected, word.as_bytes(), 1));
        assert!(table.side.len() > 100);
        for number in 0..50_000 {
            fill(&mut table, &mut expected, format!("x{number}").as_bytes(), 1);
        }
        crowd.iter().for_each(|word| fill(&mut table, &mut expected, word.as_bytes(), 1));
        assert_eq!(table.len(), expected.len());
        assert_eq!(drained(&mut table), expected);
    }

    #[test]
    fn words_in_hash_order_find_slots() {
        let mut table = WordTable::new(1);
        (0..100_000).for_each(|number: u32| table.add_word(number.to_string().as_bytes(), 1));
        let mut keys = Vec::new();
        table.drain(|_, word, _| keys.push(Key::of(word)));
        let mut table = WordTable::new(1);
        table.add_short(&ShortWords { keys });
        assert_eq!(table.slots.len(), 100_000);
        assert_eq!(table.side.heap_bytes(), 0, "none was ever refused");
    }

    #[test]
    fn drain_merges_short_and_long_words() {
        let (mut table, mut expected) = (WordTable::new(1), Counts::new());
        for number in 0..30_000_u64 {
            let word = number.to_string().repeat(1 + number as usize % 5);
            fill(&mut table, &mut expected, word.as_bytes(), number % 3 + 1);
        }
        fill(&mut table, &mut expected, b"", 7);
        table.add_word(b"never", 0);
        assert_eq!(table.len(), expected.len());
        assert_eq!(drained(&mut table), expected);
        assert_eq!(drained(&mut table), Counts::new());
    }

    #[test]
    fn trailing_zero_byte_makes_another_word() {
        let (mut table, mut expected) = (WordTable::new(1), Counts::new());
        for word in [&b""[..], b"\0", b"\0\0", b"a", b"a\0", &[0; 15], &[0; 16]] {
            fill(&mut table, &mut expected, word, 2);
        }
        assert_eq!(table.len(), 7);
        assert_eq!(drained(&mut table), expected);
    }

    #[test]
    fn drained_table_is_reused_and_shrinks() {
        let mut table = WordTable::new(1);
        let fresh_bytes = table.heap_bytes();
        let fill_all = |table: &mut WordTable, words: usize| {
            let mut expected = Counts::new();
            for number in 0..words {
                fill(table, &mut expected, number.to_string().as_bytes(), 1);
                fill(table, &mut expected, format!("{number:020}").as_bytes(), 1);
            }
            expected
        };
        for words in [50_000, 50_000, 10] {
            let expected = fill_all(&mut table, words);
            let filled_bytes = table.heap_bytes();
            assert_eq!(drained(&mut table), expected);
            assert!(table.heap_bytes() <= filled_bytes);
        }
        assert!(table.heap_bytes() <= fresh_bytes + (1 << 16), "room for 50,000 words was kept");
    }

    /// A block of `words` distinct words, each `repeats` times in a row, and a long word.
    fn block(words: usize, repeats: usize, expected: &mut Counts) -> Vec<u8> {
        let mut text = Vec::new();
        for number in (0..words).flat_map(|number| vec![number; repeats]) {
            text.extend_from_slice(format!("{number} ").as_bytes());
            *expected.entry(number.to_string().into_bytes()).or_insert(0) += 1;
        }
        *expected.entry(b"sixteen161616161".to_vec()).or_insert(0) += 1;
        text.extend_from_slice(b"sixteen161616161\n");
        [text, vec![0; PAD_BYTES]].concat()
    }

    #[test]
    fn words_that_hardly_repeat_are_counted_by_ranges() {
        let (mut table, options) = (WordTable::new(1), WordOptions::default());
        for (repeats, is_ranged) in [(1, true), (1, true), (4, false)] {
            let mut expected = Counts::new();
            let padded = block(RANGED_WORDS_MIN, repeats, &mut expected);
            table.add_block(&padded, padded.len() - PAD_BYTES, &options);
            table.add_short(&ShortWords { keys: vec![Key::of(b"more")] });
            fill(&mut table, &mut expected, b"more", 6);
            *expected.entry(b"more".to_vec()).or_insert(0) += 1;
            assert!(table.ranges.is_some() || !is_ranged, "{repeats}");
            assert_eq!(drained(&mut table), expected);
            assert_eq!(table.ranges.is_some(), is_ranged, "for the next epoch");
        }
    }

    #[test]
    fn a_huge_table_is_not_kept() {
        let mut table = WordTable::new(1);
        (0..700_000_u32).for_each(|number| table.add_word(&number.to_le_bytes(), 1));
        let filled_bytes = table.heap_bytes();
        table.drain(|_, _, _| ());
        assert!(table.heap_bytes() < filled_bytes * 3 / 5);
        assert!(table.heap_bytes() <= (KEPT_CAPACITY_MAX + 4096) * 24);
    }
}
