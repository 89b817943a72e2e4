//! Lists of short words, as they travel between workers.

use super::hash::Key;

/// Words of up to 15 bytes, in no order, one entry per occurrence.
#[derive(Clone, Debug, Default)]
pub struct ShortWords {
    pub(crate) keys: Vec<Key>,
}

impl ShortWords {
    /// Size of a word in bytes, in memory and in [`ShortWords::to_bytes`].
    pub const WORD_BYTES: usize = 16;

    #[cfg(any(test, feature = "internals"))]
    /// Makes an empty list with room for `words` words.
    pub fn with_room(words: usize) -> ShortWords {
        ShortWords { keys: Vec::with_capacity(words) }
    }

    /// Returns the list in pieces of at most `words` words.
    pub fn pieces(&self, words: usize) -> impl Iterator<Item = ShortWords> + '_ {
        self.keys.chunks(words).map(|keys| ShortWords { keys: keys.to_vec() })
    }

    /// Removes all words and keeps the allocation.
    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// Returns true if each word has a length that a short word can have: false only for a list
    /// that was read from bytes that were never written.
    pub fn is_sound(&self) -> bool {
        self.keys.iter().all(|key| key.is_sound())
    }

    /// Returns the number of words.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if there are no words.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the words as bytes, [`ShortWords::WORD_BYTES`] each.
    pub fn to_bytes(&self) -> impl Iterator<Item = [u8; ShortWords::WORD_BYTES]> + '_ {
        self.keys.iter().map(|key| key.to_bytes())
    }

    /// Makes a list of the words that [`ShortWords::to_bytes`] returned.
    pub fn from_bytes(words: impl Iterator<Item = [u8; ShortWords::WORD_BYTES]>) -> ShortWords {
        ShortWords { keys: words.map(Key::from_bytes).collect() }
    }
}
