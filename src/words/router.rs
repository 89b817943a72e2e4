//! The router: sorts words by the table that counts them.
//!
//! If most words are new to a table, several workers that count the same words hold each of them
//! several times. The router sends each word to the one worker whose range of hashes it falls in,
//! as the 16-byte key that the table needs.

use super::hash::{Key, SHORT_BYTES_MAX, part};
use super::short_word_lists::ShortWords;
use super::split::{WordSink, each_ended, words_into};
use super::table::WordTable;
use super::{Counted, WordOptions};

/// Sorts words into lists by ranges of their hash, one range per list. Words that are too long for
/// a list are counted in the table.
#[derive(Debug)]
pub struct Router<'a> {
    table: &'a mut WordTable,
    lists: &'a mut [ShortWords],
    short_bytes_max: usize,
    word_bytes_max: usize,
    counted: Counted,
}

impl<'a> Router<'a> {
    /// Makes a router of words of up to `options.word_bytes_max` bytes.
    pub fn new(
        table: &'a mut WordTable,
        lists: &'a mut [ShortWords],
        options: &WordOptions,
    ) -> Router<'a> {
        Router {
            table,
            lists,
            short_bytes_max: options.word_bytes_max.min(SHORT_BYTES_MAX),
            word_bytes_max: options.word_bytes_max,
            counted: Counted::default(),
        }
    }

    /// Sorts the words of a block: see [`WordTable::add_block`].
    pub fn add_block(mut self, padded: &[u8], text_len: usize, options: &WordOptions) -> Counted {
        words_into(padded, text_len, options, &mut self);
        self.counted
    }

    /// Sorts a word of any bytes that occurred `count` times. A short word is listed `count` times.
    pub fn add_word(&mut self, word: &[u8], count: u64) {
        if word.len() > SHORT_BYTES_MAX {
            return self.table.add_word(word, count);
        }
        let key = Key::of(word);
        (0..count).for_each(|_| self.short(key));
    }

    #[inline(always)]
    fn short(&mut self, key: Key) {
        let list = part(key.hash(), self.lists.len() as u32);
        self.lists[list as usize].keys.push(key);
    }

    #[cold]
    fn long(&mut self, word: &[u8]) {
        if word.len() <= self.word_bytes_max {
            self.counted.words += 1;
            self.table.add_word(word, 1);
        } else {
            self.counted.oversized_words += 1;
        }
    }
}

impl WordSink for Router<'_> {
    #[inline(always)]
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        let mut short_words = 0;
        let next = each_ended::<CR>(padded, start, ends, |start, end| {
            let len = end - start;
            if len <= self.short_bytes_max {
                self.short(Key::load(padded, start, len));
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
        self.short(Key::of(word));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PAD_BYTES, hash};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Counts = BTreeMap<(u64, Vec<u8>), u64>;

    fn drained(table: &mut WordTable, counts: &mut Counts) {
        table.drain(|hash, word, count| {
            assert_eq!(counts.insert((hash, word.to_vec()), count), None, "one table has a word");
        });
    }

    proptest! {
        #[test]
        fn routed_words_are_those_of_one_table(
            text in "([a-c]{0,3}|[a-c]{14,17})( ([a-c]{0,3}|[a-c]{14,17})){0,400}\r?\n",
            lists in 1..5_usize,
            word_bytes_max in prop::sample::select(vec![2, 15, 16, 99]),
        ) {
            let padded = [text.as_bytes(), &[0; PAD_BYTES]].concat();
            let options = WordOptions { word_bytes_max, ..WordOptions::default() };
            let (mut all, mut expected) = (WordTable::new(1), Counts::new());
            let expected_counted = all.add_block(&padded, text.len(), &options);
            drained(&mut all, &mut expected);

            let (mut long, mut found) = (WordTable::new(1), Counts::new());
            let mut routed = vec![ShortWords::default(); lists];
            let counted = Router::new(&mut long, &mut routed, &options)
                .add_block(&padded, text.len(), &options);
            prop_assert_eq!(counted, expected_counted);
            drained(&mut long, &mut found);
            for (index, words) in routed.iter().enumerate() {
                let sent = ShortWords::from_bytes(words.to_bytes());
                let mut table = WordTable::new(lists as u32);
                table.add_short(&sent);
                let mut own = Counts::new();
                drained(&mut table, &mut own);
                for (of, _) in own.keys() {
                    prop_assert_eq!(part(*of, lists as u32), index as u32);
                }
                found.extend(own);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn single_words_are_sorted_like_blocks() {
        let (mut table, mut lists) = (WordTable::new(1), vec![ShortWords::default(); 2]);
        let options = WordOptions { word_bytes_max: 20, ..WordOptions::default() };
        let mut router = Router::new(&mut table, &mut lists, &options);
        [&b"a"[..], b"", b"sixteen161616161"].iter().for_each(|word| router.add_word(word, 3));
        assert_eq!(lists[0].len() + lists[1].len(), 6);
        let list = part(hash(b"a"), 2) as usize;
        assert!(lists[list].keys.contains(&Key::of(b"a")));
        assert_eq!(table.len(), 1);
    }
}
