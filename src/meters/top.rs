//! The most frequent words of an epoch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

/// Number of words that are kept.
pub const TOP_MAX: usize = 1000;

/// Longest beginning of a word that is kept, in bytes.
const WORD_BYTES_MAX: usize = 256;

/// The most frequent words of an epoch, greatest count first; equal counts in the order of the
/// words' bytes. A long word is kept by its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopWords {
    /// The words, one after the other: a thousand are one allocation.
    text: Vec<u8>,
    /// The end of each word in the text, and its count.
    words: Vec<(u32, i64)>,
}

impl TopWords {
    /// Returns words in the order in which they are given.
    pub fn of(words: impl IntoIterator<Item = (Vec<u8>, i64)>) -> TopWords {
        let mut top = TopWords::default();
        words.into_iter().for_each(|(word, count)| top.push(&word, count));
        top
    }

    /// Adds a word.
    fn push(&mut self, word: &[u8], count: i64) {
        self.text.extend_from_slice(word);
        self.words.push((self.text.len() as u32, count));
    }

    /// Returns the words with their counts. What another process has sent may have any ends.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        let mut start = 0;
        self.words.iter().filter_map(move |(end, count)| {
            let begin = std::mem::replace(&mut start, *end as usize);
            Some((self.text.get(begin..*end as usize)?, *count))
        })
    }
}

/// Keeps the most frequent of the words that it is shown.
#[derive(Debug, Default)]
pub struct TopKeeper {
    /// The word that is the first to go is on top: the least count, the last of equal ones.
    kept: BinaryHeap<(Reverse<i64>, Vec<u8>)>,
}

impl TopKeeper {
    /// Adds a word, each once.
    pub fn add(&mut self, word: &[u8], count: i64) {
        let word = &word[..word.len().min(WORD_BYTES_MAX)];
        if self.kept.len() < TOP_MAX {
            self.kept.push((Reverse(count), word.to_vec()));
            return;
        }
        let Some(mut least) = self.kept.peek_mut() else { return };
        if (Reverse(count), word) < (least.0, &least.1[..]) {
            // The buffer of the word that goes is used again.
            least.0 = Reverse(count);
            least.1.clear();
            least.1.extend_from_slice(word);
        }
    }

    /// Adds the words that another worker has kept.
    pub fn merge(&mut self, other: &TopWords) {
        other.iter().for_each(|(word, count)| self.add(word, count));
    }

    /// Returns the words, greatest count first.
    pub fn finish(self) -> TopWords {
        let mut top = TopWords::default();
        for (Reverse(count), word) in self.kept.into_sorted_vec() {
            top.push(&word, count);
        }
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(top: &TopWords) -> Vec<(String, i64)> {
        top.iter().map(|(word, count)| (String::from_utf8_lossy(word).into(), count)).collect()
    }

    #[test]
    fn greatest_counts_come_first() {
        let mut keeper = TopKeeper::default();
        for (word, count) in [("b", 2), ("a", 2), ("c", 7), ("d", 1)] {
            keeper.add(word.as_bytes(), count);
        }
        let top = shown(&keeper.finish());
        let expected = [("c", 7), ("a", 2), ("b", 2), ("d", 1)];
        assert_eq!(top, expected.map(|(word, count)| (word.to_owned(), count)));
    }

    #[test]
    fn least_words_go_when_full() {
        let words = TOP_MAX as i64 * 3;
        let (mut low, mut high, mut both) =
            (TopKeeper::default(), TopKeeper::default(), TopKeeper::default());
        for count in 0..words {
            // Each count twice, so that order decides, too.
            let word = format!("{:05}", words - count);
            let keeper = if count % 2 == 0 { &mut low } else { &mut high };
            keeper.add(word.as_bytes(), count / 2);
        }
        both.merge(&low.finish());
        both.merge(&high.finish());
        let top = shown(&both.finish());
        assert_eq!(top.len(), TOP_MAX);
        assert_eq!(top[0].1, words / 2 - 1);
        assert!(top.is_sorted_by_key(|(word, count)| (Reverse(*count), word.clone())));
    }

    #[test]
    fn malformed_ends_show_nothing() {
        let top = TopWords { text: b"ab".to_vec(), words: vec![(9, 1), (1, 1), (2, 1)] };
        assert_eq!(shown(&top), [("b".to_owned(), 1)]);
    }
}
