//! The word table: counts words in place and drains them in hash order.
//!
//! Words go through a small group of probes, whose slots are prefetched, so that the cache misses
//! of a group overlap. [Frequent words](FrequentWords) are counted apart, and moved into slots
//! before the table is drained.

use super::drain_sink::DrainSink;
use super::frequent_words::{FrequentWords, NoneChosen, OtherWords, Sieve};
use super::hash::{Key, SHORT_BYTES_MAX};
use super::overflow_table::OverflowTable;
use super::slots::{SlotKey, Slots};
use super::split::{GROUP_MAX, GROUP_MIN, WordSink, ended_words, next_start, words_into};
use super::{Counted, Split, WordOptions};

/// Homes that a drained table may keep (24 bytes each).
const KEPT_CAPACITY_MAX: usize = 1 << 20;

/// Number of homes of an empty table.
const CAPACITY_MIN: usize = 1 << 12;

/// The words of an epoch with their counts. They drain ascending by (hash, word).
///
/// Small when empty (96 KiB), 24 bytes a slot for words of up to 15 bytes at a load of 5/16 to 5/8,
/// their text and about 50 bytes for longer ones, and 64 KiB for frequent words. The table has no
/// limit of its own: the caller compares [`heap_bytes`](WordTable::heap_bytes) with a limit and
/// drains the table early.
#[derive(Debug)]
pub struct WordTable {
    slots: Slots<Key>,
    side: OverflowTable,
    frequent: FrequentWords,
    group: Box<[Probe; GROUP_MAX]>,
}

/// A word whose slot was prefetched.
#[derive(Clone, Copy, Debug)]
struct Probe {
    key: Key,
    home: usize,
}

impl Default for WordTable {
    fn default() -> Self {
        WordTable {
            slots: Slots::new(1, CAPACITY_MIN),
            side: OverflowTable::default(),
            frequent: FrequentWords::default(),
            group: Box::new([Probe { key: Key::of(b""), home: 0 }; GROUP_MAX]),
        }
    }
}

impl WordTable {
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
        if options.split != Split::Space {
            return self.add_words(block_padded, text_len, options, &mut NoneChosen).0;
        }
        if self.frequent.is_due() {
            self.choose_frequent();
        }
        let mut places = self.frequent.take_places();
        let (counted, found) = match places.as_deref_mut() {
            Some(places) => self.add_words(block_padded, text_len, options, places),
            None => self.add_words(block_padded, text_len, options, &mut NoneChosen),
        };
        self.frequent.put_back(places, counted.words, found);
        counted
    }

    /// Counts the words of a block. Returns their numbers, and that of those which `frequent` took.
    fn add_words(
        &mut self,
        block_padded: &[u8],
        text_len: usize,
        options: &WordOptions,
        frequent: &mut impl Sieve,
    ) -> (Counted, u64) {
        let mut adder = BlockCounter {
            table: self,
            frequent,
            waiting: 0,
            short_bytes_max: options.word_bytes_max.min(SHORT_BYTES_MAX),
            word_bytes_max: options.word_bytes_max,
            others: OtherWords::new(),
            counted: Counted::default(),
            found: 0,
        };
        words_into(block_padded, text_len, options, &mut adder);
        adder.settle();
        adder.add_others();
        (adder.counted, adder.found)
    }

    /// Chooses the frequent words among those counted so far.
    #[cold]
    pub fn choose_frequent(&mut self) {
        self.settle_frequent();
        self.frequent.choose(self.slots.slots.iter().map(Key::read));
    }

    /// Moves the counts of frequent words into slots: [`len`](Self::len) is exact then.
    pub fn settle_frequent(&mut self) {
        let WordTable { slots, side, frequent, .. } = self;
        frequent.give(|key, count| {
            side.make_room(slots, |_| true, 1);
            if !slots.add(slots.homes().of(key.hash()), key, count) {
                side.add_key(key, count);
            }
        });
    }

    /// Returns the frequent words. Their counts must be [settled](Self::settle_frequent).
    pub fn frequent(&self) -> &FrequentWords {
        &self.frequent
    }

    /// Adds `count` to `word`, which may hold any bytes. A count of 0 adds nothing.
    pub fn add_word(&mut self, word: &[u8], count: u64) {
        if count == 0 {
            return;
        }
        if word.len() > SHORT_BYTES_MAX {
            return self.side.add(word, count);
        }
        let key = Key::of(word);
        self.make_room(1);
        if !self.slots.add(self.slots.homes().of(key.hash()), key, count) {
            self.side.add(word, count);
        }
    }

    /// Returns the number of distinct words. Frequent words may be missing, unless they are
    /// [settled](Self::settle_frequent).
    pub fn len(&self) -> usize {
        self.slots.len() + self.side.len()
    }

    /// Returns true if there are no words, frequent ones included.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.frequent.has_counts()
    }

    /// Returns the allocated memory in bytes, used or not.
    pub fn heap_bytes(&self) -> usize {
        let tables = self.slots.heap_bytes() + self.side.heap_bytes();
        tables + self.frequent.heap_bytes() + size_of_val(&*self.group)
    }

    /// Calls `emit(hash, word, count)` as [`drain_to`](Self::drain_to) gives words.
    pub fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64)) {
        self.drain_to(emit);
    }

    /// Gives `to` every word once, ascending by (hash, word), and empties the table. Memory is kept
    /// for the same number of words, up to about 600,000.
    pub fn drain_to(&mut self, mut to: impl DrainSink) {
        self.settle_frequent();
        self.frequent.drained();
        if self.is_empty() {
            return;
        }
        let capacity = Slots::<Key>::capacity_for(self.slots.len());
        let mut longer = self.side.take_sorted();
        self.slots.ascending().for_each(|word| longer.give_short(word, &mut to));
        longer.rest(&mut to);
        self.side.reuse(longer);
        self.slots.reset(capacity.clamp(CAPACITY_MIN, KEPT_CAPACITY_MAX));
    }

    /// Makes room in the slots for `more` words.
    #[inline(always)]
    fn make_room(&mut self, more: usize) {
        self.side.make_room(&mut self.slots, |_| true, more);
    }
}

/// Adds 1 to each word of a group whose slots have room.
#[inline(always)]
fn add_group(slots: &mut Slots<Key>, side: &mut OverflowTable, group: &[Probe]) {
    for &Probe { key, home } in group {
        if !slots.add(home, key, 1) {
            side.add_key(key, 1);
        }
    }
}

/// The sink that counts the words of one block.
struct BlockCounter<'a, F> {
    table: &'a mut WordTable,
    frequent: &'a mut F,
    /// Number of words in the table's group.
    waiting: usize,
    short_bytes_max: usize,
    word_bytes_max: usize,
    /// Words that `frequent` left, and that are not in their slots yet.
    others: OtherWords,
    counted: Counted,
    /// Number of words that `frequent` took.
    found: u64,
}

impl<F: Sieve> BlockCounter<'_, F> {
    /// Adds the words of the group to their slots.
    #[inline]
    fn settle(&mut self) {
        let WordTable { slots, side, group, .. } = &mut *self.table;
        add_group(slots, side, &group[..self.waiting]);
        self.waiting = 0;
    }

    /// Adds the words that `frequent` left to their slots.
    #[inline(always)]
    fn add_others(&mut self) {
        for keys in self.others.take().chunks(GROUP_MAX) {
            self.table.make_room(keys.len());
            let WordTable { slots, side, group, .. } = &mut *self.table;
            let homes = slots.homes();
            for (probe, &key) in group.iter_mut().zip(keys) {
                *probe = Probe { key, home: homes.of(key.hash()) };
                slots.prefetch(probe.home);
            }
            add_group(slots, side, &group[..keys.len()]);
        }
    }

    /// Counts a word of more than 15 bytes, or of more than `word_bytes_max`.
    #[cold]
    fn long(side: &mut OverflowTable, counted: &mut Counted, word_bytes_max: usize, word: &[u8]) {
        if word.len() <= word_bytes_max {
            counted.words += 1;
            side.add(word, 1);
        } else {
            counted.oversized_words += 1;
        }
    }

    /// Counts the frequent words of a group, and then all others.
    #[inline(always)]
    fn sift<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) {
        let (short_bytes_max, word_bytes_max) = (self.short_bytes_max, self.word_bytes_max);
        let (side, counted) = (&mut self.table.side, &mut self.counted);
        let text = (padded, start, ends);
        let long = |word: &[u8]| Self::long(side, counted, word_bytes_max, word);
        let sifted = self.frequent.sift::<CR>(text, short_bytes_max, &mut self.others, long);
        self.counted.words += sifted.words;
        self.found += sifted.found;
        if self.others.is_group() {
            self.add_others();
        }
    }

    /// Adds the words to the group, and the group to the slots.
    #[inline(always)]
    fn add_ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) {
        self.table.make_room(GROUP_MAX);
        let homes = self.table.slots.homes();
        let mut waiting = 0;
        for (start, end) in ended_words::<CR>(padded, start, ends) {
            let len = end - start;
            if len <= self.short_bytes_max {
                let key = Key::load(padded, start, len);
                let home = homes.of(key.hash());
                self.table.slots.prefetch(home);
                self.table.group[waiting % GROUP_MAX] = Probe { key, home };
                waiting += 1;
            } else {
                let (side, counted) = (&mut self.table.side, &mut self.counted);
                Self::long(side, counted, self.word_bytes_max, &padded[start..end]);
            }
        }
        self.counted.words += waiting as u64;
        self.waiting = waiting;
        self.settle();
    }
}

impl<F: Sieve> WordSink for BlockCounter<'_, F> {
    #[inline(always)]
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        if F::CHOSEN {
            self.sift::<CR>(padded, start, ends);
        } else {
            self.add_ended::<CR>(padded, start, ends);
        }
        next_start(start, ends)
    }

    fn word(&mut self, word: &[u8]) {
        if word.len() > self.short_bytes_max {
            let (side, counted) = (&mut self.table.side, &mut self.counted);
            return Self::long(side, counted, self.word_bytes_max, word);
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
        let (mut table, mut expected) = (WordTable::default(), Counts::new());
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
        let (mut table, mut expected) = (WordTable::default(), Counts::new());
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
    fn drain_merges_short_and_long_words() {
        let (mut table, mut expected) = (WordTable::default(), Counts::new());
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
        let (mut table, mut expected) = (WordTable::default(), Counts::new());
        for word in [&b""[..], b"\0", b"\0\0", b"a", b"a\0", &[0; 15], &[0; 16]] {
            fill(&mut table, &mut expected, word, 2);
        }
        assert_eq!(table.len(), 7);
        assert_eq!(drained(&mut table), expected);
    }

    #[test]
    fn drained_table_is_reused_and_shrinks() {
        let mut table = WordTable::default();
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

    #[test]
    fn frequent_words_wait_for_the_drain() {
        let text = [&b"the sea the eight888 the\n"[..], &[0; 64]].concat();
        let mut table = WordTable::default();
        let add = |table: &mut WordTable| {
            table.add_block(&text, 25, &WordOptions::default());
            let counts = table.slots.slots.iter().map(|slot| Key::read(slot).1);
            (counts.sum::<u64>(), table.slots.len())
        };
        assert_eq!(add(&mut table), (5, 3));
        table.choose_frequent();
        assert_eq!(add(&mut table), (6, 3), "only the longer word");
        table.settle_frequent();
        assert_eq!(add(&mut table), (11, 3));
        let counts = |counts: [(&[u8], u64); 3]| counts.map(|(word, n)| (word.to_vec(), n)).into();
        assert_eq!(drained(&mut table), counts([(b"the", 9), (b"sea", 3), (b"eight888", 3)]));
        assert_eq!(add(&mut table), (1, 1), "the next epoch has the choice");
        assert_eq!(drained(&mut table), counts([(b"the", 3), (b"sea", 1), (b"eight888", 1)]));
    }

    #[test]
    fn a_huge_table_is_not_kept() {
        let mut table = WordTable::default();
        (0..700_000_u32).for_each(|number| table.add_word(&number.to_le_bytes(), 1));
        let filled_bytes = table.heap_bytes();
        table.drain(|_, _, _| ());
        assert!(table.heap_bytes() < filled_bytes * 3 / 5);
        assert!(table.heap_bytes() <= (KEPT_CAPACITY_MAX + 4096) * 24);
    }
}
