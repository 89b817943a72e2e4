//! Words one by one, for tests and benchmarks of the split rules.

use super::hash::{Key, SHORT_BYTES_MAX, hash};
use super::split::{WordSink, ended_words, next_start, words_into};
use super::{Counted, WordOptions};

/// Calls `f` with the hash and the text of every word of a block, in order. See
/// [`WordTable::add_block`](super::WordTable::add_block) for `padded` and `text_len`.
pub fn each_word(
    padded: &[u8],
    text_len: usize,
    options: &WordOptions,
    f: impl FnMut(u64, &[u8]),
) -> Counted {
    let mut each =
        EachWord { f, word_bytes_max: options.word_bytes_max, counted: Counted::default() };
    words_into(padded, text_len, options, &mut each);
    each.counted
}

/// The sink of [`each_word`].
struct EachWord<F> {
    f: F,
    word_bytes_max: usize,
    counted: Counted,
}

impl<F: FnMut(u64, &[u8])> EachWord<F> {
    #[inline(always)]
    fn take(&mut self, word: &[u8], hash: impl FnOnce() -> u64) {
        if word.len() <= self.word_bytes_max {
            self.counted.words += 1;
            (self.f)(hash(), word);
        } else {
            self.counted.oversized_words += 1;
        }
    }
}

impl<F: FnMut(u64, &[u8])> WordSink for EachWord<F> {
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize {
        for (start, end) in ended_words::<CR>(padded, start, ends) {
            let word = &padded[start..end];
            self.take(word, || match word.len() {
                0..=SHORT_BYTES_MAX => Key::load(padded, start, word.len()).hash(),
                _ => hash(word),
            });
        }
        next_start(start, ends)
    }

    fn word(&mut self, word: &[u8]) {
        self.take(word, || hash(word));
    }
}
