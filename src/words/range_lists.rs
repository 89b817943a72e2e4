//! Lists of words by range of their hash, before they are counted.
//!
//! Each worker has lists of its own. A word of up to 7 bytes takes 8 bytes in a list, and one of up
//! to 15 takes 16: a [`TinyKey`], or the second and the first half of a [`Key`]. Of the
//! [frequent words](FrequentWords) only counts are kept.

use super::frequent_words::{FrequentWords, NoneChosen, OtherWords, Sieve};
use super::hash::{Key, SHORT_BYTES_MAX, TinyKey, hash};
use super::ranging::Ranging;
use super::simd::vec_apart;
use super::split::{WordSink, ended_words, next_start, words_into};
use super::{Counted, Split, WordOptions};

/// Most numbers in a list: 240 KiB. Fewer would find too few words for a line of the slots.
const LIST_LEN_MAX: usize = 30 << 10;

/// Least numbers in a list.
const LIST_LEN_MIN: usize = 1 << 10;

/// Most memory in bytes of the lists of all workers of a process, unless lists are of the least
/// length.
const LISTS_BYTES_MAX: usize = 256 << 20;

/// Numbers between two lists: lists at distances of powers of two would share cache lines. A word
/// that takes two may lie half in the gap.
const LIST_GAP: usize = 24;

/// The place at which listed words are counted.
pub trait ListedWords {
    /// Counts the words of a list of `range`, which is not empty. Returns the homes of the range's
    /// slots, or 0 if they are not known.
    fn count(&mut self, range: usize, list: &[u64]) -> usize;

    /// Adds `count` (not 0) to a word that is not listed: a frequent one, or one of more than 15
    /// bytes.
    fn add_word(&mut self, hash: u64, word: &[u8], count: u64);
}

/// A list of words for each range.
#[derive(Debug)]
pub struct RangeLists {
    shift: u32,
    /// The lists, each with room for `len` numbers and a gap. One allocation, since lists on small
    /// pages would cost a miss of the address translation for each word.
    listed: Vec<u64>,
    /// The places of the lists in `listed`.
    lists: Vec<List>,
    len: usize,
    len_max: usize,
    frequent: FrequentWords,
}

/// The place of a list.
#[derive(Clone, Copy, Debug)]
struct List {
    start: usize,
    /// Index after the last word.
    next: usize,
    /// Index from which the list is full.
    full: usize,
}

impl RangeLists {
    /// Makes empty lists for one of `workers` workers of a process.
    pub fn new(ranging: Ranging, workers: usize) -> RangeLists {
        let ranges = ranging.ranges();
        let share = LISTS_BYTES_MAX / size_of::<u64>() / ranges / workers.max(1);
        let len_max = share.clamp(LIST_LEN_MIN, LIST_LEN_MAX);
        let mut lists = RangeLists {
            shift: ranging.shift(),
            // Addresses only: memory is taken when lists are made longer.
            listed: vec_apart(ranges * (len_max + LIST_GAP)),
            lists: vec![List { start: 0, next: 0, full: 0 }; ranges],
            len: 0,
            len_max,
            frequent: FrequentWords::default(),
        };
        lists.widen(LIST_LEN_MIN);
        lists
    }

    /// Makes longer lists. The present ones must be empty.
    fn widen(&mut self, len: usize) {
        self.listed.resize(self.lists.len() * (len + LIST_GAP), 0);
        for (list, start) in self.lists.iter_mut().zip((0..).step_by(len + LIST_GAP)) {
            *list = List { start, next: start, full: start + len };
        }
        self.len = len;
    }

    /// Sets the words that are not listed but counted. Those before must have been passed on.
    pub fn set_frequent(&mut self, frequent: FrequentWords) {
        self.frequent = frequent;
    }

    /// Lists the words of a block: see [`WordTable::add_block`](super::WordTable::add_block).
    pub fn add_block(
        &mut self,
        padded: &[u8],
        text_len: usize,
        options: &WordOptions,
        to: &mut impl ListedWords,
    ) -> Counted {
        let block = (padded, text_len);
        if options.split != Split::Space {
            return self.add_words(block, options, &mut NoneChosen, to).0;
        }
        let mut places = self.frequent.take_places();
        let (counted, found) = match places.as_deref_mut() {
            Some(places) => self.add_words(block, options, places, to),
            None => self.add_words(block, options, &mut NoneChosen, to),
        };
        self.frequent.put_back(places, counted.words, found);
        counted
    }

    /// Lists the words of a block. Returns their numbers, and that of those which `frequent` took.
    fn add_words(
        &mut self,
        (padded, text_len): (&[u8], usize),
        options: &WordOptions,
        frequent: &mut impl Sieve,
        to: &mut impl ListedWords,
    ) -> (Counted, u64) {
        let mut sink = Lister {
            lists: self,
            frequent,
            to,
            short_bytes_max: options.word_bytes_max.min(SHORT_BYTES_MAX),
            word_bytes_max: options.word_bytes_max,
            others: OtherWords::new(),
            counted: Counted::default(),
            found: 0,
        };
        words_into(padded, text_len, options, &mut sink);
        (sink.counted, sink.found)
    }

    /// Lists a word of any bytes.
    pub fn add_word(&mut self, word: &[u8], to: &mut impl ListedWords) {
        match word.len() {
            0..=SHORT_BYTES_MAX => self.push(to, Key::of(word)),
            _ => to.add_word(hash(word), word, 1),
        }
    }

    /// Lists a short word.
    #[inline(always)]
    pub fn push(&mut self, to: &mut impl ListedWords, key: Key) {
        let range = (key.hash() >> self.shift) as usize;
        let list = &mut self.lists[range];
        let is_tiny = key.is_tiny();
        // Both numbers are written, and if the word is tiny the second again: no branch.
        let pair = &mut self.listed[list.next..list.next + 2];
        pair[0] = if is_tiny { TinyKey::of(key).0 } else { key.hi };
        pair[1] = key.lo;
        list.next += 2 - usize::from(is_tiny);
        if list.next >= list.full {
            self.settle(to, range);
        }
    }

    /// Passes a full list on.
    #[inline(never)]
    fn settle(&mut self, to: &mut impl ListedWords, range: usize) {
        let List { start, next, .. } = self.lists[range];
        self.lists[range].next = start;
        // A list is as long as its range has homes, so that it finds a word for each line.
        let homes = to.count(range, &self.listed[start..next]).min(self.len_max);
        if homes > self.len {
            self.flush_lists(to);
            self.widen(homes);
        }
    }

    /// Passes all lists and the counts of frequent words on, at the end of an epoch.
    pub fn flush(&mut self, to: &mut impl ListedWords) {
        self.flush_lists(to);
        self.frequent.give(|key, count| {
            to.add_word(key.hash(), &key.to_bytes()[..key.length()], count);
        });
        self.frequent.drained();
    }

    /// Passes all lists on.
    fn flush_lists(&mut self, to: &mut impl ListedWords) {
        for (range, list) in self.lists.iter_mut().enumerate() {
            if list.next > list.start {
                to.count(range, &self.listed[list.start..list.next]);
                list.next = list.start;
            }
        }
    }
}

/// Returns true if `list` has whole words, each of a length that it can have, with zeros after its
/// bytes, and of a hash that `takes` accepts: false only for a list that was never written.
pub fn is_sound(list: &[u64], takes: impl Fn(u64) -> bool) -> bool {
    let mut rest = list.iter();
    while let Some(&first) = rest.next() {
        let key = match first >> 56 {
            0x80..=0x87 => TinyKey(first).key(),
            8..=15 => match rest.next() {
                Some(&lo) => Key { lo, hi: first },
                None => return false,
            },
            _ => return false,
        };
        if !key.has_zeros_after_word() || !takes(key.hash()) {
            return false;
        }
    }
    true
}

/// The sink that lists the words of one block.
struct Lister<'a, F, T> {
    lists: &'a mut RangeLists,
    frequent: &'a mut F,
    to: &'a mut T,
    short_bytes_max: usize,
    word_bytes_max: usize,
    /// Words that `frequent` left. None is left between two groups.
    others: OtherWords,
    counted: Counted,
    /// Number of words that `frequent` took.
    found: u64,
}

impl<F: Sieve, T: ListedWords> Lister<'_, F, T> {
    /// Adds a word of more than 15 bytes, or counts one of more than `word_bytes_max`.
    #[cold]
    fn long(to: &mut T, counted: &mut Counted, word_bytes_max: usize, word: &[u8]) {
        if word.len() <= word_bytes_max {
            counted.words += 1;
            to.add_word(hash(word), word, 1);
        } else {
            counted.oversized_words += 1;
        }
    }

    /// Counts the frequent words of a group, and lists all others.
    #[inline(always)]
    fn sift<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) {
        let (short_bytes_max, word_bytes_max) = (self.short_bytes_max, self.word_bytes_max);
        let (to, counted) = (&mut *self.to, &mut self.counted);
        let text = (padded, start, ends);
        let long = |word: &[u8]| Self::long(to, counted, word_bytes_max, word);
        let sifted = self.frequent.sift::<CR>(text, short_bytes_max, &mut self.others, long);
        self.counted.words += sifted.words;
        self.found += sifted.found;
        for &key in self.others.take() {
            self.lists.push(self.to, key);
        }
    }

    /// Lists the words of a group.
    #[inline(always)]
    fn list<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) {
        // A loop, since a closure of this size is not inlined.
        for (start, end) in ended_words::<CR>(padded, start, ends) {
            let len = end - start;
            if len <= self.short_bytes_max {
                self.lists.push(self.to, Key::load(padded, start, len));
                self.counted.words += 1;
            } else {
                Self::long(self.to, &mut self.counted, self.word_bytes_max, &padded[start..end]);
            }
        }
    }
}

impl<F: Sieve, T: ListedWords> WordSink for Lister<'_, F, T> {
    #[inline(always)]
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        if F::CHOSEN {
            self.sift::<CR>(padded, start, ends);
        } else {
            self.list::<CR>(padded, start, ends);
        }
        next_start(start, ends)
    }

    fn word(&mut self, word: &[u8]) {
        if word.len() > self.short_bytes_max {
            return Self::long(self.to, &mut self.counted, self.word_bytes_max, word);
        }
        self.counted.words += 1;
        self.lists.push(self.to, Key::of(word));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PAD_BYTES, WordTable};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Counts = BTreeMap<(u64, Vec<u8>), u64>;

    /// Calls `f` with each word of a list.
    fn each_listed(list: &[u64], mut f: impl FnMut(Key)) {
        let mut rest = list.iter();
        while let Some(&first) = rest.next() {
            f(match first & TinyKey::MARK {
                0 => Key { lo: *rest.next().expect("the other half"), hi: first },
                _ => TinyKey(first).key(),
            });
        }
    }

    /// Counts in a map, with the homes that ranges are to have.
    #[derive(Default)]
    struct Map {
        counts: Counts,
        homes: usize,
        lists: usize,
        /// Counts that came for a word that was not listed.
        added: u64,
    }

    impl ListedWords for Map {
        fn count(&mut self, range: usize, list: &[u64]) -> usize {
            assert!(is_sound(list, |hash| (hash >> 56) as usize == range) && !list.is_empty());
            self.lists += 1;
            each_listed(list, |key| {
                assert_eq!((key.hash() >> 56) as usize, range);
                let word = key.to_bytes()[..key.length()].to_vec();
                *self.counts.entry((key.hash(), word)).or_default() += 1;
            });
            self.homes
        }

        fn add_word(&mut self, hash: u64, word: &[u8], count: u64) {
            self.added += count;
            *self.counts.entry((hash, word.to_vec())).or_default() += count;
        }
    }

    proptest! {
        #[test]
        fn listed_words_are_those_of_one_table(
            text in "([a-c]{0,3}|[a-c]{6,9}|[a-c]{14,17})( ([a-c]{0,3}|[a-c]{14,17})){0,400}\r?\n",
            word_bytes_max in prop::sample::select(vec![2, 7, 15, 16, 99]),
            is_chosen in any::<bool>(),
        ) {
            let padded = [text.as_bytes(), &[0; PAD_BYTES]].concat();
            let options = WordOptions { word_bytes_max, ..WordOptions::default() };
            let (mut table, mut expected) = (WordTable::default(), Counts::new());
            let expected_counted = table.add_block(&padded, text.len(), &options);
            table.drain(|hash, word, count| {
                expected.insert((hash, word.to_vec()), count);
            });

            let (mut lists, mut map) = (RangeLists::new(Ranging::new(1), 1), Map::default());
            if is_chosen {
                let mut some = WordTable::default();
                for word in ["a", "", "abc", "aaaaaa", "bbbbbbbb"] {
                    some.add_word(word.as_bytes(), 9);
                }
                some.choose_frequent();
                lists.set_frequent(some.frequent().clone());
            }
            let counted = lists.add_block(&padded, text.len(), &options, &mut map);
            lists.flush(&mut map);
            prop_assert_eq!(counted, expected_counted);
            prop_assert_eq!(map.counts, expected);
        }
    }

    #[test]
    fn frequent_words_are_not_listed() {
        let (mut table, mut map) = (WordTable::default(), Map::default());
        ["the", "sea"].iter().for_each(|word| table.add_word(word.as_bytes(), 9));
        table.choose_frequent();
        let mut lists = RangeLists::new(Ranging::new(1), 1);
        lists.set_frequent(table.frequent().clone());
        let text = [&b"the sea a the eight888 the\n"[..], &[0; PAD_BYTES]].concat();
        for round in 1..=2 {
            lists.add_block(&text, 27, &WordOptions::default(), &mut map);
            assert_eq!(map.added, 4 * (round - 1), "before the end of the epoch");
            lists.flush(&mut map);
            assert_eq!(map.added, 4 * round);
            assert_eq!(map.counts.values().sum::<u64>(), 6 * round);
        }
    }

    #[test]
    fn lists_grow_with_homes_to_their_limit() {
        for (workers, limit) in [(1, LIST_LEN_MAX), (8, 16 << 10), (10_000, 1024)] {
            let mut lists = RangeLists::new(Ranging::new(1), workers);
            let mut map = Map { homes: 1 << 20, ..Map::default() };
            (0..1024).for_each(|_| lists.push(&mut map, Key::of(b"tide")));
            (0..3).for_each(|_| lists.add_word(b"sixteen161616161", &mut map));
            assert_eq!((lists.len, map.lists), (limit, 1));
            (0..1500).for_each(|_| lists.push(&mut map, Key::of(b"fifteen15151515")));
            lists.flush(&mut map);
            let counts: Vec<u64> = map.counts.values().copied().collect();
            assert_eq!(counts.iter().sum::<u64>(), 1024 + 3 + 1500);
        }
    }

    #[test]
    fn lists_that_nobody_wrote_are_unsound() {
        let long = [Key::of(b"eight888").hi, Key::of(b"eight888").lo];
        let tiny = TinyKey::of(Key::of(b"seven77")).0;
        for list in [&[][..], &[tiny], &long, &[tiny, long[0], long[1], tiny]] {
            assert!(is_sound(list, |_| true), "{list:x?}");
            assert!(list.is_empty() || !is_sound(list, |_| false), "{list:x?}");
        }
        let dirty = [&[tiny & !(7 << 56)][..], &[0x80 << 56 | 1], &[long[0] | 1, long[1]]];
        let cut = [&[0][..], &long[..1], &[0x88 << 56], &[16 << 56, 0], &[7 << 56], &[u64::MAX]];
        for list in dirty.into_iter().chain(cut) {
            assert!(!is_sound(list, |_| true), "{list:x?}");
        }
    }
}
