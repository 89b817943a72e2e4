//! The receiver of the words of a table that is drained.

use super::hash::Key;

/// Receives words with their counts, ascending by (hash, word). A closure receives all words as
/// bytes.
pub trait DrainSink {
    /// Receives a word of up to 15 bytes as its key, of which 16 bytes can be copied at once.
    fn short(&mut self, hash: u64, key: Key, count: u64);

    /// Receives a word of any length.
    fn word(&mut self, hash: u64, word: &[u8], count: u64);
}

impl<F: FnMut(u64, &[u8], u64)> DrainSink for F {
    #[inline(always)]
    fn short(&mut self, hash: u64, key: Key, count: u64) {
        self(hash, &key.to_bytes()[..key.length()], count);
    }

    fn word(&mut self, hash: u64, word: &[u8], count: u64) {
        self(hash, word, count);
    }
}
