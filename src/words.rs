//! The hot core: splits blocks of whole lines into words, and counts them.
//!
//! A word is its text. The text is final before anything is derived from it: ill-formed UTF-8 is
//! decoded ([`decode`]), then [`WordOptions::lowercase`] is applied, and only then are the
//! [`hash()`], the [`part`] and the order taken. Words that become equal are therefore one word
//! everywhere.
//!
//! * `split` finds the words. For [`Split::Space`] it works on 64-bit masks of word ends, which
//!   `simd` makes 64 bytes at a time; the other rules are rarer and simpler.
//! * `hash` maps a word to 64 bits, and never changes: parts, and the order of rows in an output
//!   file, depend on it.
//! * `slots` stores words of up to 15 bytes inside slots of 16 or 24 bytes, in hash order;
//!   `ascending` reads and frees them;
//!   `overflow_table` stores longer words, and words that were crafted to share a slot;
//!   `range_table` combines both.
//! * `frequent_words` counts a few thousand words that are most of a text, apart from all others.
//! * [`WordTable`] counts blocks in one table, and drains ascending by (hash, word).
//! * If one table would outgrow the caches, [`RangeLists`] lists words by ranges of their hash, and
//!   [`Ranges`] counts the lists, each range in a small table that all workers share. `kept_ranges`
//!   has their memory between two epochs.

mod ascending;
pub mod decode;
mod drain_sink;
mod frequent_words;
mod hash;
mod kept_ranges;
mod overflow_table;
mod range_lists;
mod range_table;
mod ranges;
mod ranging;
mod simd;
mod slots;
mod split;
mod table;
#[cfg(any(test, feature = "internals"))]
mod word_iter;

pub use drain_sink::DrainSink;
pub use hash::{Key, SHORT_BYTES_MAX, hash, hash_at, part};
pub use kept_ranges::{KeptLimit, KeptRanges};
pub use range_lists::{ListedWords, RangeLists, is_sound};
pub use ranges::Ranges;
pub use ranging::Ranging;
pub use simd::{vec_apart, vec_mapped};
pub use table::WordTable;
#[cfg(any(test, feature = "internals"))]
pub use word_iter::each_word;

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Number of zero bytes that follow the text of a block, so that vector loads may read past the
/// text.
pub const PAD_BYTES: usize = 64;

/// The rule that splits a line into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Python's `line.split(" ")`: only U+0020 splits, a line of k spaces has k + 1 words, and the
    /// empty word is a word like any other.
    #[default]
    Space,
    /// Scala's and Java's `line.split(" ")`: as [`Split::Space`], but the empty words at the end of
    /// a line are dropped, except that an empty line is one empty word.
    SpaceScala,
    /// Python's `line.split()`: runs of Unicode white space (and U+001C to U+001F) split, and no
    /// word is empty.
    Whitespace,
    /// The words of Unicode Standard Annex #29: the text between word boundaries, if it contains a
    /// letter or a number.
    UnicodeWords,
}

/// The rules by which lines become words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WordOptions {
    /// The rule that splits a line into words.
    pub split: Split,
    /// Converts words to lower case, as [`str::to_lowercase`] does.
    pub lowercase: bool,
    /// The longest word that is counted, in bytes of its text.
    pub word_bytes_max: usize,
}

impl Default for WordOptions {
    fn default() -> Self {
        WordOptions { split: Split::Space, lowercase: false, word_bytes_max: 1 << 20 }
    }
}

/// Numbers of words in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Words counted.
    pub words: u64,
    /// Words longer than [`WordOptions::word_bytes_max`], which are not counted.
    pub oversized_words: u64,
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Counted) {
        self.words += other.words;
        self.oversized_words += other.oversized_words;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use unicode_segmentation::UnicodeSegmentation;

    type Counts = HashMap<Vec<u8>, u64>;

    /// The lines of `text`, by the book.
    fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = vec![Vec::new()];
        let mut bytes = text.iter().peekable();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'\r' if bytes.peek() == Some(&&b'\n') => {}
                b'\n' | b'\r' => lines.push(Vec::new()),
                _ => lines.last_mut().expect("there is one").push(byte),
            }
        }
        lines.pop_if(|line| line.is_empty());
        lines
    }

    /// The words of a line, by the book.
    fn words(line: &[u8], split: Split) -> Vec<String> {
        let line = String::from_utf8(decode::java_lossy(line).into_owned()).expect("it is text");
        let white = |c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f');
        let mut words: Vec<String> = match split {
            Split::Space | Split::SpaceScala => line.split(' ').map(String::from).collect(),
            Split::Whitespace => {
                line.split(white).filter(|word| !word.is_empty()).map(String::from).collect()
            }
            Split::UnicodeWords => line.unicode_words().map(String::from).collect(),
        };
        if split == Split::SpaceScala && !line.is_empty() {
            while words.pop_if(|word| word.is_empty()).is_some() {}
        }
        words
    }

    fn expected(text: &[u8], options: &WordOptions) -> (Counts, Counted) {
        let (mut counts, mut counted) = (Counts::new(), Counted::default());
        for word in lines(text).iter().flat_map(|line| words(line, options.split)) {
            let word = if options.lowercase { word.to_lowercase() } else { word };
            if word.len() > options.word_bytes_max {
                counted.oversized_words += 1;
                continue;
            }
            counted.words += 1;
            *counts.entry(word.into_bytes()).or_insert(0) += 1;
        }
        (counts, counted)
    }

    fn padded(text: &[u8]) -> Vec<u8> {
        [text, &[0; PAD_BYTES]].concat()
    }

    fn counted(text: &[u8], options: &WordOptions) -> (Counts, Counted) {
        let mut table = WordTable::default();
        let counted = table.add_block(&padded(text), text.len(), options);
        let mut counts = Counts::new();
        let distinct = table.len();
        table.drain(|_, word, count| assert_eq!(counts.insert(word.to_vec(), count), None));
        assert_eq!(counts.len(), distinct);
        check_frequent(&mut table, text, options, (&counts, counted));
        (counts, counted)
    }

    /// Counts a text once, and twice more with frequent words chosen. The table must be empty.
    fn check_frequent(
        table: &mut WordTable,
        text: &[u8],
        options: &WordOptions,
        (counts, counted): (&Counts, Counted),
    ) {
        table.add_block(&padded(text), text.len(), options);
        table.choose_frequent();
        for _ in 0..2 {
            assert_eq!(table.add_block(&padded(text), text.len(), options), counted);
        }
        let mut distinct = 0;
        table.drain(|_, word, count| {
            assert_eq!(count, 3 * counts[word], "{word:?}");
            distinct += 1;
        });
        assert_eq!(distinct, counts.len());
    }

    fn options() -> impl Strategy<Value = WordOptions> {
        let splits = vec![Split::Space, Split::SpaceScala, Split::Whitespace, Split::UnicodeWords];
        let bytes_max = vec![0, 1, 3, 14, 15, 16, 17, 40, 1 << 20];
        let (splits, bytes_max) = (prop::sample::select(splits), prop::sample::select(bytes_max));
        (splits, any::<bool>(), bytes_max).prop_map(|(split, lowercase, word_bytes_max)| {
            WordOptions { split, lowercase, word_bytes_max }
        })
    }

    /// Text in which line ends, empty words, words around the limits and bytes that are no text are
    /// frequent, shifted so that they come to stand at all borders of windows and chunks.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::sample::select(vec![
                " ", "  ", "\n", "\r", "\r\n", "\n\r", "\t", "\0", "\x1c", "\u{85}", "\u{2028}",
                "\u{3000}", "Σ", "ΑΣ", "İ", "é", "don't", "Word", "\u{feff}",
            ]).prop_map(|piece| piece.as_bytes().to_vec()),
            2 => (b'a'..b'd', 1..45_usize).prop_map(|(byte, len)| vec![byte; len]),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        let pieces = prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat());
        let shift = prop_oneof![0..130_usize, 1900..2200_usize];
        let end = prop::sample::select(vec!["\n", "\r", "\r\n", ""]);
        (shift, pieces, end).prop_map(|(shift, pieces, end)| {
            let filler = b"ab cde f\nghi ".iter().copied().cycle().take(shift);
            filler.chain(pieces).chain(end.bytes()).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn every_split_counts_what_the_book_says(text in text(), options in options()) {
            prop_assert_eq!(counted(&text, &options), expected(&text, &options));
        }

        #[test]
        fn ascii_text_is_counted_as_the_book_says(
            text in "([a-e]{0,17}[ \n\r]){0,300}\n",
        ) {
            let options = WordOptions::default();
            let (text, options) = (text.as_bytes(), &options);
            prop_assert_eq!(counted(text, options), expected(text, options));
        }

        #[test]
        fn each_word_gives_the_words_counted(text in text(), options in options()) {
            let mut counts = Counts::new();
            let counted = each_word(&padded(&text), text.len(), &options, |of, word| {
                assert_eq!(of, hash(word));
                *counts.entry(word.to_vec()).or_insert(0) += 1;
            });
            prop_assert_eq!((counts, counted), expected(&text, &options));
        }
    }

    fn listed(text: &str, split: Split) -> Vec<String> {
        let options = WordOptions { split, ..WordOptions::default() };
        let mut words = Vec::new();
        each_word(&padded(text.as_bytes()), text.len(), &options, |_, word| {
            words.push(String::from_utf8_lossy(word).into_owned());
        });
        words
    }

    #[test]
    fn spaces_make_words_as_in_python_and_scala() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            ("", &[], &[]),
            ("\n", &[""], &[""]),
            ("   \n", &["", "", "", ""], &[]),
            (" a b \n", &["", "a", "b", ""], &["", "a", "b"]),
            ("a\r\nb\rc\n", &["a", "b", "c"], &["a", "b", "c"]),
            ("\r\n\n\r", &["", "", ""], &["", "", ""]),
            ("a\tb\u{a0}c d\n", &["a\tb\u{a0}c", "d"], &["a\tb\u{a0}c", "d"]),
        ];
        for (text, python, scala) in cases {
            assert_eq!(listed(text, Split::Space), python, "{text:?}");
            assert_eq!(listed(text, Split::SpaceScala), scala, "{text:?}");
        }
    }

    #[test]
    fn white_space_is_what_python_takes_for_it() {
        let white = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \u{85}\u{a0}\u{1680}\u{2000}\u{200a}\u{2028}\
                     \u{2029}\u{202f}\u{205f}\u{3000}";
        let text: String = white.chars().flat_map(|space| ['x', space]).collect();
        assert_eq!(listed(&text, Split::Whitespace), vec!["x"; white.chars().count()]);
        assert_eq!(listed("a\u{200b}b\u{feff}\u{180e}\n", Split::Whitespace).len(), 1);
    }

    #[test]
    fn ill_formed_words_that_decode_alike_are_one() {
        let (counts, _) = counted(b"\xff \xfe\n\xc3 \xef\xbf\xbd\n", &WordOptions::default());
        assert_eq!(counts, Counts::from([("\u{fffd}".into(), 4)]));
    }

    #[test]
    fn line_end_before_decoded_text_is_one() {
        for len in 2000..2100 {
            let text = [&vec![b'a'; len][..], b"\r\n\xff\n"].concat();
            let (_, counted) = counted(&text, &WordOptions::default());
            assert_eq!(counted.words, 2, "after {len} bytes");
        }
    }

    #[test]
    fn block_and_single_words_are_the_same() {
        let (text, mut table) = (b"1 fifteen15151515 sixteen161616161 \n", WordTable::default());
        table.add_block(&padded(text), text.len(), &WordOptions::default());
        let singly = text.strip_suffix(b"\n").unwrap_or_default().split(|byte| *byte == b' ');
        singly.for_each(|word| table.add_word(word, 2));
        assert_eq!(table.len(), 4);
        table.drain(|_, word, count| assert_eq!(count, 3, "{word:?}"));
    }
}
