//! Adds sorted updates to the segments of the base of totals and windows.
//!
//! Entries and updates are read side by side, and each step writes one entry.

use std::cmp::Ordering;
use std::hint::select_unpredictable;
use std::ops::Range;
use std::sync::Arc;

use super::base_segment::{Entry, PAD_BYTES, Segment, sum_number};
use super::columns::{WordColumn, WordRef};
use crate::hex_varint::write_varint;
use crate::words::{Key, SHORT_BYTES_MAX};

/// Bytes of entries that a segment begins with. One that has grown to twice as many is split, so
/// that neither half has to be split or joined again soon.
const SEGMENT_BYTES: usize = 4 << 10;

/// Bytes of entries below which a segment that is written anew takes those of the next one.
const SEGMENT_BYTES_MIN: usize = SEGMENT_BYTES / 4;

/// The updates of a base, and the place of the next one.
pub struct Updates<'a> {
    /// The words.
    pub words: &'a WordColumn,
    /// The counts to be added; before `at` the new sums.
    pub counts: &'a mut [i64],
    /// Index of the next word.
    pub at: usize,
    /// Where the next word begins.
    pub start: usize,
}

impl Updates<'_> {
    /// Returns the place of the next word in the bytes.
    #[inline(always)]
    fn next(&self) -> Range<usize> {
        self.start..self.words.end(self.at)
    }

    /// Notes the new sum of the next word, and goes to the one after it.
    #[inline(always)]
    fn pass(&mut self, sum: i64) {
        self.counts[self.at] = sum;
        self.start = self.words.end(self.at);
        self.at += 1;
    }
}

/// Returns the word at `word` as a key, if it is short and 16 bytes can be read there.
#[inline(always)]
fn short_key(bytes: &[u8], word: Range<usize>) -> Option<Key> {
    let can_load = word.len() <= SHORT_BYTES_MAX && word.start + 16 <= bytes.len();
    can_load.then(|| Key::load(bytes, word.start, word.len()))
}

/// A base that is written anew, segment by segment.
pub struct BaseMerge {
    /// The segments that are done.
    pub segments: Vec<Segment>,
    /// The number of words in them and in the open one.
    pub words: u64,
    /// The entries of the segment that is being written, then any bytes: at least [`PAD_BYTES`].
    open: Vec<u8>,
    /// The length of these entries.
    pub len: usize,
    /// The `first` of that segment.
    first: u64,
    /// The hash of the last word so far.
    last: u64,
    /// A place in `open` at which it can be split, and the `first` of the second half.
    half: Option<(usize, u64)>,
}

/// Bytes that are made free before an entry is written: all of a short one, which is written with
/// copies of a fixed length, or the two numbers of any other, and the pad after it.
const ROOM_BYTES: usize = 64;

impl BaseMerge {
    /// Begins a base of about as many segments.
    pub fn new(segments: usize, words: u64) -> BaseMerge {
        let segments = Vec::with_capacity(segments + segments / 8);
        let open = vec![0; 3 * SEGMENT_BYTES];
        BaseMerge { segments, words, open, len: 0, first: 0, last: 0, half: None }
    }

    /// Adds the entries of a segment of the old base and the updates up to index `end`, whose words
    /// are less than those of the next segment.
    pub fn take(&mut self, segment: &Segment, updates: &mut Updates<'_>, end: usize) {
        if self.len == 0 {
            self.first = if self.segments.is_empty() { 0 } else { segment.first };
        }
        let (bytes, mut at) = (&segment.bytes[..], 0);
        let entries_end = bytes.len() - PAD_BYTES;
        while at < entries_end && updates.at < end {
            let entry = Entry::read(bytes, at);
            at = match self.step(bytes, at, &entry, updates) {
                Some(next) => next,
                None => self.step_any(bytes, at, &entry, updates),
            };
        }
        while at < entries_end {
            let entry = Entry::read(bytes, at);
            self.write(entry.hash, bytes, entry.word, entry.sum);
            at = entry.end;
        }
        while updates.at < end {
            self.insert(updates);
        }
        if self.len >= SEGMENT_BYTES_MIN {
            self.close();
        }
    }

    /// Writes the entry at `at`, or the next update, or their sum if they are of one word. Returns
    /// the place of the next entry. Returns `None`, and does nothing, in cases that are rare.
    ///
    /// Which of the three it is cannot be predicted, so no branch depends on it.
    #[inline(always)]
    fn step(
        &mut self,
        bytes: &[u8],
        at: usize,
        entry: &Entry,
        updates: &mut Updates<'_>,
    ) -> Option<usize> {
        let (update_hash, count) = (updates.words.hashes[updates.at], updates.counts[updates.at]);
        let key = short_key(bytes, entry.word.clone())?;
        let update = short_key(&updates.words.bytes, updates.next())?;
        let (is_old, is_update) = (entry.hash <= update_hash, update_hash <= entry.hash);
        if is_old && is_update && key != update {
            return None;
        }
        let sum =
            select_unpredictable(is_old, entry.sum, 0) + select_unpredictable(is_update, count, 0);
        if sum == 0 {
            return None;
        }
        let hash = entry.hash.min(update_hash);
        let lo = select_unpredictable(is_old, key.lo, update.lo);
        let hi = select_unpredictable(is_old, key.hi, update.hi);
        self.begin(hash);
        self.write_short(Key { lo, hi }, sum);
        self.words += u64::from(!is_old);
        updates.counts[updates.at] = select_unpredictable(is_update, sum, count);
        let update_end = updates.words.end(updates.at);
        updates.start = select_unpredictable(is_update, update_end, updates.start);
        updates.at += usize::from(is_update);
        Some(select_unpredictable(is_old, entry.end, at))
    }

    /// Does as [`BaseMerge::step`] for words of any length and any sum.
    #[cold]
    fn step_any(
        &mut self,
        bytes: &[u8],
        at: usize,
        entry: &Entry,
        updates: &mut Updates<'_>,
    ) -> usize {
        let word = &bytes[entry.word.clone()];
        let update = updates.words.word(updates.at);
        match update.cmp(&WordRef { hash: entry.hash, word }) {
            Ordering::Less => {
                self.insert(updates);
                at
            }
            Ordering::Greater => {
                self.write(entry.hash, bytes, entry.word.clone(), entry.sum);
                entry.end
            }
            Ordering::Equal => {
                let sum = entry.sum + updates.counts[updates.at];
                if sum == 0 {
                    self.words -= 1;
                } else {
                    self.write(entry.hash, bytes, entry.word.clone(), sum);
                }
                updates.pass(sum);
                entry.end
            }
        }
    }

    /// Writes the next update, whose word the base does not have.
    pub fn insert(&mut self, updates: &mut Updates<'_>) {
        let (hash, count) = (updates.words.hashes[updates.at], updates.counts[updates.at]);
        if count != 0 {
            self.write(hash, &updates.words.bytes, updates.next(), count);
            self.words += 1;
        }
        updates.pass(count);
    }

    /// Prepares for an entry of a word with `hash`.
    #[inline(always)]
    fn begin(&mut self, hash: u64) {
        if self.len >= SEGMENT_BYTES {
            self.split_if_full(hash);
        }
        self.last = hash;
    }

    /// Notes a place at which the open segment can be split, and splits it if it is full. `hash` is
    /// that of the next word.
    fn split_if_full(&mut self, hash: u64) {
        // Words of equal hashes stay in one segment.
        if self.half.is_none() && hash != self.last {
            self.half = Some((self.len, self.last + 1));
        }
        if self.len >= 2 * SEGMENT_BYTES {
            self.split();
        }
    }

    /// Appends an entry of a short word.
    #[inline(always)]
    fn write_short(&mut self, key: Key, sum: i64) {
        self.make_room(0);
        let word_end = 1 + key.length();
        let Some(room) = self.open[self.len..].first_chunk_mut::<ROOM_BYTES>() else { return };
        room[0] = key.length() as u8;
        room[1..17].copy_from_slice(&key.to_bytes());
        self.len += write_varint(sum_number(sum), room, word_end);
    }

    /// Makes room for a word of `length` bytes besides that for a short entry. The room stays: it
    /// is not filled with zeros again for each word.
    #[inline(always)]
    fn make_room(&mut self, length: usize) {
        let needed = self.len + length + ROOM_BYTES;
        if self.open.len() < needed {
            self.open.resize(2 * needed, 0);
        }
    }

    /// Appends an entry of the word at `word` in `bytes`.
    #[inline(always)]
    fn write(&mut self, hash: u64, bytes: &[u8], word: Range<usize>, sum: i64) {
        self.begin(hash);
        match short_key(bytes, word.clone()) {
            Some(key) => self.write_short(key, sum),
            None => self.write_any(&bytes[word], sum),
        }
    }

    /// Appends an entry of a word of any length.
    #[cold]
    fn write_any(&mut self, word: &[u8], sum: i64) {
        self.make_room(word.len());
        let room = &mut self.open[self.len..];
        let start = write_varint(word.len() as u64, room, 0);
        let end = start + word.len();
        room[start..end].copy_from_slice(word);
        self.len += write_varint(sum_number(sum), room, end);
    }

    /// Ends the first half of the segment that is being written.
    fn split(&mut self) {
        let Some((length, first)) = self.half.take() else { return };
        self.push(length);
        self.open.copy_within(length..self.len, 0);
        self.len -= length;
        self.first = first;
    }

    /// Ends the segment that is being written, if it has entries.
    pub fn close(&mut self) {
        if self.len > 0 {
            self.push(self.len);
            self.len = 0;
        }
        self.half = None;
    }

    /// Makes a segment of the first `length` bytes of entries.
    fn push(&mut self, length: usize) {
        let pad = length..length + PAD_BYTES;
        let mut after = [0; PAD_BYTES];
        after.copy_from_slice(&self.open[pad.clone()]);
        self.open[pad.clone()].fill(0);
        self.segments.push(Segment { first: self.first, bytes: Arc::from(&self.open[..pad.end]) });
        self.open[pad].copy_from_slice(&after);
    }
}
