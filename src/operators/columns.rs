//! Columns of sorted words, their times and their counts.
//!
//! Differential stores a batch as columns that implement its `BatchContainer` trait: keys, offsets
//! into a list of updates, and the times and diffs of those updates. Three column types make counts
//! cheap: [`WordColumn`] stores (hash, word) keys as three flat vectors, so that the drained run of
//! a table *is* a key column; [`Times`] stores equal neighbouring times once, because a batch
//! usually has one time; [`Offsets`] stores the identity 0, 1, 2, … as its length, because a key
//! usually has one update.

use differential_dataflow::trace::implementations::BatchContainer;

use crate::epoch::Epoch;
use crate::words::{Key, vec_apart};

/// A word and its hash, borrowed from a column. Ordered by hash, then by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WordRef<'a> {
    /// The hash of the word.
    pub hash: u64,
    /// The word's bytes.
    pub word: &'a [u8],
}

/// A word and its hash, owned; ordered as [`WordRef`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WordOwned {
    /// The hash of the word.
    hash: u64,
    /// The bytes of the word.
    word: Vec<u8>,
}

/// A column of words with their hashes.
#[derive(Clone, Debug, Default)]
pub struct WordColumn {
    /// The hashes, ascending.
    pub(crate) hashes: Vec<u64>,
    /// Where each word ends in `bytes`.
    pub(crate) ends: Ends,
    /// The bytes of all words, one after the other.
    pub(crate) bytes: Vec<u8>,
}

impl WordColumn {
    /// Makes an empty column with room for `words` words of `bytes` bytes in all.
    pub fn with_room(words: usize, bytes: usize) -> Self {
        let ends = Ends { low: vec_apart(words), carries: Vec::new() };
        WordColumn { hashes: vec_apart(words), ends, bytes: vec_apart(bytes) }
    }

    /// Appends a word.
    #[inline]
    pub fn push(&mut self, hash: u64, word: &[u8]) {
        self.hashes.push(hash);
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len());
    }

    /// Appends a short word.
    #[inline(always)]
    pub fn push_short(&mut self, hash: u64, key: Key) {
        self.hashes.push(hash);
        push_some(&mut self.bytes, &key.to_bytes(), key.length());
        self.ends.push(self.bytes.len());
    }

    /// Appends the word `bytes[start..end]`.
    #[inline(always)]
    pub fn push_at(&mut self, hash: u64, bytes: &[u8], start: usize, end: usize) {
        self.hashes.push(hash);
        match bytes[start..].first_chunk() {
            Some(chunk) if end - start <= chunk.len() => {
                push_some(&mut self.bytes, chunk, end - start);
            }
            _ => self.bytes.extend_from_slice(&bytes[start..end]),
        }
        self.ends.push(self.bytes.len());
    }

    /// Returns the words in order.
    pub fn iter(&self) -> impl Iterator<Item = WordRef<'_>> {
        let mut start = 0;
        self.hashes.iter().enumerate().map(move |(index, &hash)| {
            let end = self.ends.get(index);
            let word = &self.bytes[start..end];
            start = end;
            WordRef { hash, word }
        })
    }

    /// Returns where the word at `index` begins in `bytes`.
    #[inline]
    pub fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends.get(index - 1) }
    }

    /// Returns where the word at `index` ends in `bytes`.
    #[inline]
    pub fn end(&self, index: usize) -> usize {
        self.ends.get(index)
    }

    /// Returns the word at `index`.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> WordRef<'_> {
        BatchContainer::index(self, index)
    }

    /// Returns true if the word at `index` is less than `word`.
    ///
    /// Hashes are compared first: bytes are in another vector, and reading them is a cache miss.
    #[inline]
    pub(crate) fn is_less(&self, index: usize, word: WordRef<'_>) -> bool {
        let hash = self.hashes[index];
        hash < word.hash || (hash == word.hash && self.index(index).word < word.word)
    }

    /// Appends the words of `other` at the indexes `keys`.
    pub fn append_range(&mut self, other: &WordColumn, keys: std::ops::Range<usize>) {
        let from = if keys.start == 0 { 0 } else { other.ends.get(keys.start - 1) };
        let to = if keys.is_empty() { from } else { other.ends.get(keys.end - 1) };
        let base = self.bytes.len();
        self.hashes.extend_from_slice(&other.hashes[keys.clone()]);
        self.bytes.extend_from_slice(&other.bytes[from..to]);
        keys.for_each(|key| self.ends.push(base + other.ends.get(key) - from));
    }

    /// Appends all words of `other`.
    pub fn append(&mut self, other: &WordColumn) {
        self.hashes.extend_from_slice(&other.hashes);
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        (0..other.len()).for_each(|index| self.ends.push(base + other.ends.get(index)));
    }
}

/// Appends the first `len` of 16 bytes. It copies all of them, since a copy of a length that is not
/// known is a call.
#[inline(always)]
fn push_some(bytes: &mut Vec<u8>, chunk: &[u8; 16], len: usize) {
    let end = bytes.len() + len;
    bytes.extend_from_slice(chunk);
    bytes.truncate(end);
}

/// Ascending offsets in four bytes each, without a limit at 4 GiB.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// The low 32 bits of each offset.
    pub low: Vec<u32>,
    /// Indexes at which the high 32 bits grow by one; empty below 4 GiB.
    pub carries: Vec<u64>,
}

impl Ends {
    /// Adds the end of a word.
    #[inline]
    fn push(&mut self, end: usize) {
        while (end >> 32) > self.carries.len() {
            self.carries.push(self.low.len() as u64);
        }
        self.low.push(end as u32);
    }

    /// Removes all offsets, and keeps the memory.
    pub fn clear(&mut self) {
        self.low.clear();
        self.carries.clear();
    }

    /// Returns whether these offsets never fall and the last of them is `bytes`.
    pub fn are_offsets_into(&self, bytes: usize) -> bool {
        let words = self.low.len();
        let carries_stand = self.carries.is_sorted()
            && self.carries.last().is_none_or(|carry| *carry < words as u64);
        let last = words.checked_sub(1).map_or(0, |last| self.get(last));
        carries_stand && last == bytes && (0..words).is_sorted_by_key(|at| self.get(at))
    }

    /// Returns the end of the word at `index`.
    #[inline]
    pub fn get(&self, index: usize) -> usize {
        let low = self.low[index] as usize;
        if self.carries.is_empty() {
            return low;
        }
        let high = self.carries.partition_point(|carry| *carry <= index as u64);
        (high << 32) | low
    }
}

impl BatchContainer for WordColumn {
    type Owned = WordOwned;
    type ReadItem<'a> = WordRef<'a>;

    /// Copies a word out of its column.
    fn into_owned(item: WordRef<'_>) -> WordOwned {
        WordOwned { hash: item.hash, word: item.word.to_vec() }
    }

    /// Appends a copy of a word. Its hash comes with it.
    fn push_ref(&mut self, item: WordRef<'_>) {
        self.push(item.hash, item.word);
    }

    /// Appends a copy of a word that stands alone.
    fn push_own(&mut self, item: &WordOwned) {
        self.push(item.hash, &item.word);
    }

    fn clear(&mut self) {
        *self = WordColumn::default();
    }

    /// Returns a column with room for so many words, and for none of their bytes.
    fn with_capacity(size: usize) -> Self {
        WordColumn::with_room(size, 0)
    }

    /// Returns a column with room for the words and bytes of both.
    fn merge_capacity(left: &Self, right: &Self) -> Self {
        WordColumn::with_room(left.len() + right.len(), left.bytes.len() + right.bytes.len())
    }

    fn reborrow<'b, 'a: 'b>(item: WordRef<'a>) -> WordRef<'b> {
        item
    }

    #[inline]
    fn index(&self, index: usize) -> WordRef<'_> {
        let word = &self.bytes[self.start(index)..self.end(index)];
        WordRef { hash: self.hashes[index], word }
    }

    fn len(&self) -> usize {
        self.hashes.len()
    }
}

/// A column of times in which equal neighbours are stored once.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Each time with the index after its last occurrence.
    spans: Vec<(Epoch, usize)>,
}

impl Times {
    /// Makes a column that holds `epoch` `count` times.
    pub fn repeat(epoch: Epoch, count: usize) -> Self {
        Times { spans: if count == 0 { Vec::new() } else { vec![(epoch, count)] } }
    }

    /// Returns the times that occur, one for every run of equal neighbours.
    pub fn spans(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.spans.iter().map(|(epoch, _)| *epoch)
    }

    /// Returns the time of the column, if there is only one.
    pub(crate) fn only(&self) -> Option<Epoch> {
        match self.spans.as_slice() {
            [(epoch, _)] => Some(*epoch),
            _ => None,
        }
    }

    /// Adds the time of an update.
    fn push(&mut self, epoch: Epoch) {
        let end = self.len() + 1;
        match self.spans.last_mut() {
            Some(last) if last.0 == epoch => last.1 = end,
            _ => self.spans.push((epoch, end)),
        }
    }
}

impl BatchContainer for Times {
    type Owned = Epoch;
    type ReadItem<'a> = Epoch;

    fn into_owned(item: Epoch) -> Epoch {
        item
    }

    fn push_ref(&mut self, item: Epoch) {
        self.push(item);
    }

    fn push_own(&mut self, item: &Epoch) {
        self.push(*item);
    }

    fn clear(&mut self) {
        self.spans.clear();
    }

    fn with_capacity(_size: usize) -> Self {
        Times::default()
    }

    fn merge_capacity(_left: &Self, _right: &Self) -> Self {
        Times::default()
    }

    fn reborrow<'b, 'a: 'b>(item: Epoch) -> Epoch {
        item
    }

    #[inline]
    fn index(&self, index: usize) -> Epoch {
        match self.spans.as_slice() {
            [only] => only.0,
            spans => spans[spans.partition_point(|(_, end)| *end <= index)].0,
        }
    }

    fn len(&self) -> usize {
        self.spans.last().map_or(0, |(_, end)| *end)
    }
}

/// A column of offsets that stores a leading 0, 1, 2, … as its length.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    /// Number of offsets that equal their index.
    identity: usize,
    /// The offsets after those.
    rest: Vec<usize>,
}

impl Offsets {
    /// Makes the offsets 0, 1, … `count`: one update for each of `count` keys.
    pub fn one_each(count: usize) -> Self {
        Offsets { identity: count + 1, rest: Vec::new() }
    }

    /// Returns true if every key has one update.
    pub(crate) fn is_one_each(&self) -> bool {
        self.rest.is_empty()
    }
}

impl BatchContainer for Offsets {
    type Owned = usize;
    type ReadItem<'a> = usize;

    fn into_owned(item: usize) -> usize {
        item
    }

    fn push_ref(&mut self, item: usize) {
        if self.rest.is_empty() && item == self.identity {
            self.identity += 1;
        } else {
            self.rest.push(item);
        }
    }

    fn push_own(&mut self, item: &usize) {
        self.push_ref(*item);
    }

    fn clear(&mut self) {
        *self = Offsets::default();
    }

    fn with_capacity(_size: usize) -> Self {
        Offsets::default()
    }

    fn merge_capacity(_left: &Self, _right: &Self) -> Self {
        Offsets::default()
    }

    fn reborrow<'b, 'a: 'b>(item: usize) -> usize {
        item
    }

    #[inline]
    fn index(&self, index: usize) -> usize {
        if index < self.identity { index } else { self.rest[index - self.identity] }
    }

    fn len(&self) -> usize {
        self.identity + self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_ordered_by_hash_first() {
        let mut words = WordColumn::default();
        words.push(7, b"");
        words.push(7, b"ab");
        words.push(9, b"a");
        let seen: Vec<_> = words.iter().map(|word| (word.hash, word.word.to_vec())).collect();
        assert_eq!(seen, [(7, b"".to_vec()), (7, b"ab".to_vec()), (9, b"a".to_vec())]);
        assert!(words.index(1) < words.index(2), "the hash decides before the bytes");
    }

    #[test]
    fn offsets_beyond_four_gib_keep_their_high_half() {
        let mut ends = Ends::default();
        let offsets = [5, u32::MAX as usize, 1 << 32, (1 << 32) + 9, 5 << 32];
        offsets.iter().for_each(|end| ends.push(*end));
        let back: Vec<_> = (0..offsets.len()).map(|index| ends.get(index)).collect();
        assert_eq!(back, offsets);
    }

    #[test]
    fn equal_neighbouring_times_are_stored_once() {
        let mut times = Times::default();
        [3, 3, 8, 3].iter().for_each(|time| times.push(*time));
        assert_eq!(times.spans().collect::<Vec<_>>(), [3, 8, 3]);
        assert_eq!((0..4).map(|index| times.index(index)).collect::<Vec<_>>(), [3, 3, 8, 3]);
    }

    #[test]
    fn offsets_hold_any_sequence_after_the_identity() {
        let mut offsets = Offsets::default();
        let sequence = [0, 1, 2, 2, 3, 9];
        sequence.iter().for_each(|offset| offsets.push_ref(*offset));
        assert_eq!(offsets.identity, 3);
        assert_eq!((0..6).map(|index| offsets.index(index)).collect::<Vec<_>>(), sequence);
    }
}
