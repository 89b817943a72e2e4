//! Bytes of a block of whole lines to counted words: the hot core.
//!
//! A word is its text. Which bytes that is, is settled before anything is derived from it: ill-formed
//! UTF-8 is decoded ([`decode`]), then [`WordOptions::lowercase`] is applied, and only then are its
//! [`hash`], its [`part`] and its place in the order taken, so that words which become equal are one
//! word everywhere.
//!
//! * `split` finds the words. For [`Split::Space`] it works on 64-bit masks of word ends, which
//!   `simd` makes 64 bytes at a time; the other rules are rarer and simpler.
//! * `hash` turns a word into 64 bits, fixed for ever: parts, and the order of lines in an output
//!   file, follow from it.
//! * `slots` holds words of up to 15 bytes inside the 24-byte slot, in hash order; `side` holds the
//!   longer ones, and those that crafted input would otherwise pile up.
//! * [`WordTable`] puts them together: it counts blocks, and drains in ascending (hash, word).

pub mod decode;
mod hash;
mod side;
mod simd;
mod slots;
mod split;
mod table;

pub use hash::{hash, part};
pub use split::each_word;
pub use table::WordTable;

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Zero bytes that must be readable after the text of a block, so that vector loads may overrun it.
pub const PAD_BYTES: usize = 64;

/// Where words begin and end.
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
    /// The words of Unicode Standard Annex #29: what stands between word boundaries and holds a
    /// letter or a number.
    UnicodeWords,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WordOptions {
    /// Where words begin and end.
    pub split: Split,
    /// Whether words are taken in lower case, as [`str::to_lowercase`] has it.
    pub lowercase: bool,
    /// The longest word that is counted, in bytes of its text.
    pub word_bytes_max: usize,
}

impl Default for WordOptions {
    fn default() -> Self {
        WordOptions {
            split: Split::Space,
            lowercase: false,
            word_bytes_max: 1 << 20,
        }
    }
}

/// How many words a block held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Words that were counted.
    pub words: u64,
    /// Words above [`WordOptions::word_bytes_max`]: counted nowhere else.
    pub oversized_words: u64,
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Counted) {
        self.words += other.words;
        self.oversized_words += other.oversized_words;
    }
}
