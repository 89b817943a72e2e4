//! A segment of the base of totals and windows: a few kilobytes of entries without gaps.
//!
//! An entry is the length of a word, its bytes, and its sum. Numbers have seven bits a byte.

use std::ops::Range;
use std::sync::Arc;

use crate::words;

/// Zero bytes after the last entry, so that a hash is computed from one load of 16 bytes.
pub const PAD_BYTES: usize = 16;

/// The words whose hash is at least `first` and below that of the next segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The least hash that can be in it.
    pub first: u64,
    /// Entries, then [`PAD_BYTES`] zeros.
    pub bytes: Arc<[u8]>,
}

/// A word of the base with its sum.
pub struct Entry {
    /// The hash of the word, which is computed when the entry is read.
    pub hash: u64,
    /// Its place in the segment.
    pub word: Range<usize>,
    /// Its sum.
    pub sum: i64,
    /// The place after the entry.
    pub end: usize,
}

impl Entry {
    /// Reads the entry at `at`.
    #[inline(always)]
    pub fn read(bytes: &[u8], at: usize) -> Entry {
        let (length, start) = read_number(bytes, at);
        let word = start..start + length as usize;
        let (number, end) = read_number(bytes, word.end);
        let sum = (number >> 1) as i64 ^ -((number & 1) as i64);
        Entry { hash: words::hash_at(bytes, start, length as usize), word, sum, end }
    }
}

/// Reads a number of seven bits a byte, the lowest first. Returns it with the place after it.
#[inline(always)]
fn read_number(bytes: &[u8], mut at: usize) -> (u64, usize) {
    let mut number = u64::from(bytes[at] & 0x7F);
    let mut shift = 7;
    while bytes[at] >= 0x80 {
        at += 1;
        number |= u64::from(bytes[at] & 0x7F) << shift;
        shift += 7;
    }
    (number, at + 1)
}

/// Returns the number that is written for a sum: its sign is the lowest bit, so small sums of both
/// signs take one byte.
#[inline(always)]
pub fn sum_number(sum: i64) -> u64 {
    (sum << 1 ^ sum >> 63) as u64
}
