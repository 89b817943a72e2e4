//! Runs: sorted columns of one drain of a worker's table.
//!
//! A run travels from the worker that counted to the worker that owns the words: one entry per
//! distinct word and epoch, not one per word. It is sorted by (hash, word), so the arrangement at
//! the owner installs its columns as they are.

use std::io::Write;

use differential_dataflow::trace::implementations::BatchContainer;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

use super::columns::{Ends, WordColumn, WordRef};
use super::malformed_data::malformed;
use crate::epoch::Epoch;
use crate::words::{Key, vec_apart};

/// Counts of distinct words at one epoch, ascending by (hash, word), for one worker.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The epoch that the words were counted in.
    pub epoch: Epoch,
    /// Index of the worker that owns the words.
    pub worker: u32,
    /// The words.
    pub words: WordColumn,
    /// How often each occurred.
    pub counts: Vec<i64>,
}

impl Run {
    /// An empty run.
    pub fn new(epoch: Epoch, worker: u32, words: WordColumn) -> Self {
        let counts = vec_apart(words.hashes.capacity());
        Run { epoch, worker, words, counts }
    }

    /// Appends a word, which must follow all present ones in the order.
    #[inline]
    pub fn push(&mut self, hash: u64, word: &[u8], count: i64) {
        self.words.push(hash, word);
        self.counts.push(count);
    }

    /// Appends a short word, which must follow all present ones in the order.
    #[inline(always)]
    pub fn push_short(&mut self, hash: u64, key: Key, count: i64) {
        self.words.push_short(hash, key);
        self.counts.push(count);
    }

    /// Removes all words, and keeps the memory.
    pub fn clear(&mut self) {
        self.words.hashes.clear();
        self.words.ends.clear();
        self.words.bytes.clear();
        self.counts.clear();
    }

    /// Returns the allocated memory in bytes, used or not.
    pub fn heap_bytes(&self) -> usize {
        let WordColumn { hashes, ends, bytes } = &self.words;
        let numbers = hashes.capacity() + ends.carries.capacity() + self.counts.capacity();
        8 * numbers + 4 * ends.low.capacity() + bytes.capacity()
    }

    /// Number of distinct words.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Returns true if the run has no words.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Returns the memory that words and counts take, in bytes.
    pub fn bytes(&self) -> usize {
        // A hash, a count and an end for each word.
        20 * self.len() + self.words.bytes.len()
    }

    /// Returns the last word.
    pub fn last(&self) -> Option<WordRef<'_>> {
        Some(self.words.index(self.len().checked_sub(1)?))
    }

    /// Returns true if every word of `other` is greater than all words of this run.
    pub fn precedes(&self, other: &Run) -> bool {
        other.is_empty() || self.last() < Some(other.words.index(0))
    }

    /// Appends a run that this one precedes.
    pub fn append(&mut self, other: &Run) {
        debug_assert!(self.epoch == other.epoch && self.precedes(other));
        self.words.append(&other.words);
        self.counts.extend_from_slice(&other.counts);
    }

    /// Reads what [`ContainerBytes::into_bytes`] wrote, from bytes that anyone may have written.
    ///
    /// Every size is compared with the bytes that are there before anything is allocated, so a run
    /// never takes more memory than twice its bytes.
    ///
    /// # Errors
    ///
    /// The rule that the bytes break, as a fragment of a sentence.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Run, &'static str> {
        let (head, mut rest) = bytes.split_at_checked(8 * HEAD_NUMBERS).ok_or("it is too short")?;
        let head = take_u64s(&mut &head[..], HEAD_NUMBERS);
        let worker = u32::try_from(head[1]).map_err(|_| "its worker is out of range")?;
        let [count, carries, text] = [head[2], head[3], head[4]].map(usize::try_from);
        let (Ok(count), Ok(carries), Ok(text)) = (count, carries, text) else {
            return Err("a size is out of range");
        };
        if columns_bytes(count, carries, text) != Some(rest.len()) {
            return Err("its sizes do not add up to its length");
        }
        let hashes = take_u64s(&mut rest, count);
        let counts: Vec<i64> = take_u64s(&mut rest, count).into_iter().map(|n| n as i64).collect();
        let carries = take_u64s(&mut rest, carries);
        let low = rest[..4 * count].chunks_exact(4).map(le_u32).collect();
        let bytes = rest[padded(4 * count)..][..text].to_vec();
        let ends = Ends { low, carries };
        if !ends.are_offsets_into(text) {
            return Err("the end of a word is out of range");
        }
        if counts.iter().any(|count| *count == 0 || count.unsigned_abs() > COUNT_MAX) {
            return Err("a count is out of range");
        }
        let words = WordColumn { hashes, ends, bytes };
        if !words.iter().is_sorted_by(|word, next| word < next) {
            return Err("its words are out of order");
        }
        Ok(Run { epoch: head[0], worker, words, counts })
    }

    /// Splits the run by part. `part` maps a hash to its part and grows with the hash.
    pub fn by_part(&self, part: impl Fn(u64) -> u32) -> Vec<(u32, Run)> {
        let mut cut = Vec::new();
        let mut rest = &self.words.hashes[..];
        while let Some(first) = rest.first() {
            let number = part(*first);
            let start = self.len() - rest.len();
            let end = start + rest.partition_point(|hash| part(*hash) <= number);
            let mut run = Run::new(self.epoch, self.worker, WordColumn::default());
            run.words.append_range(&self.words, start..end);
            run.counts.extend_from_slice(&self.counts[start..end]);
            cut.push((number, run));
            rest = &self.words.hashes[end..];
        }
        cut
    }

    /// Returns the retraction of this run at `epoch`.
    #[must_use]
    pub fn negated_at(&self, epoch: Epoch) -> Run {
        let counts = self.counts.iter().map(|count| -count).collect();
        Run { epoch, worker: self.worker, words: self.words.clone(), counts }
    }
}

impl Accountable for Run {
    fn record_count(&self) -> i64 {
        self.len() as i64
    }
}

/// Five numbers, then the columns, each padded to eight bytes.
impl ContainerBytes for Run {
    fn from_bytes(bytes: Bytes) -> Self {
        Run::parse(&bytes).unwrap_or_else(|_| malformed("a run of words"))
    }

    fn length_in_bytes(&self) -> usize {
        let (count, carries) = (self.len(), self.words.ends.carries.len());
        let text = self.words.bytes.len();
        8 * (HEAD_NUMBERS + 2 * count + carries) + padded(4 * count) + padded(text)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let WordColumn { hashes, ends, bytes } = &self.words;
        let sizes = [self.len() as u64, ends.carries.len() as u64, bytes.len() as u64];
        let head = [self.epoch, u64::from(self.worker)].into_iter().chain(sizes);
        let counts = self.counts.iter().map(|count| *count as u64);
        let numbers = head.chain(hashes.iter().copied()).chain(counts);
        let mut put = |bytes: &[u8]| {
            // Timely hands out a buffer of `length_in_bytes`: a short one is a defect of ours.
            writer.write_all(bytes).expect("a run fits into the length it announced");
        };
        numbers.chain(ends.carries.iter().copied()).for_each(|n| put(&n.to_le_bytes()));
        ends.low.iter().for_each(|end| put(&end.to_le_bytes()));
        put(&[0; 8][..padded(4 * ends.low.len()) - 4 * ends.low.len()]);
        put(bytes);
        put(&[0; 8][..padded(bytes.len()) - bytes.len()]);
    }
}

/// Numbers before the columns: epoch, worker, words, carries, bytes of text.
const HEAD_NUMBERS: usize = 5;

/// Greatest count that is believed: sums of many of them do not overflow, and no stream holds so
/// many words.
const COUNT_MAX: u64 = 1 << 48;

/// Returns the bytes that columns of these sizes take, or `None` if no memory could hold them.
fn columns_bytes(count: usize, carries: usize, text: usize) -> Option<usize> {
    let ends = count.checked_mul(4)?.checked_next_multiple_of(8)?;
    let numbers = count.checked_mul(16)?.checked_add(carries.checked_mul(8)?)?;
    numbers.checked_add(ends)?.checked_add(text.checked_next_multiple_of(8)?)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn take_u64s(rest: &mut &[u8], count: usize) -> Vec<u64> {
    let (head, tail) = rest.split_at(8 * count);
    *rest = tail;
    let le_u64 = |chunk: &[u8]| u64::from(le_u32(chunk)) | (u64::from(le_u32(&chunk[4..])) << 32);
    head.chunks_exact(8).map(le_u64).collect()
}

/// Sends each run, whole, to the worker that it names.
#[derive(Clone, Copy, Debug)]
pub struct ToOwner;

impl Distributor<Run> for ToOwner {
    fn partition<T: Clone, P: Push<Message<T, Run>>>(
        &mut self,
        run: &mut Run,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let owner = run.worker as usize;
        Message::push_at(run, stamp.clone(), &mut pushers[owner]);
    }

    fn flush<T: Clone, P: Push<Message<T, Run>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[(u64, &str, i64)]) -> Run {
        let mut run = Run { epoch: 10, worker: 1, ..Run::default() };
        words.iter().for_each(|(hash, word, count)| run.push(*hash, word.as_bytes(), *count));
        run
    }

    fn rows(run: &Run) -> Vec<(u64, String, i64)> {
        let words = run.words.iter().zip(&run.counts);
        words
            .map(|(word, count)| {
                (word.hash, String::from_utf8_lossy(word.word).into_owned(), *count)
            })
            .collect()
    }

    #[test]
    fn merge_adds_equal_words_and_keeps_order() {
        let left = run(&[(1, "a", 1), (3, "b", 2), (3, "c", 5)]);
        let right = run(&[(2, "x", 7), (3, "b", 3), (3, "c", -5), (4, "d", 1)]);
        let expected = [(1, "a", 1), (2, "x", 7), (3, "b", 5), (4, "d", 1)];
        let expected = expected.map(|(hash, word, count)| (hash, word.to_string(), count));
        assert_eq!(rows(&left.merge(&right)), expected);
    }

    fn bytes_of(run: &Run) -> Vec<u8> {
        let mut bytes = Vec::new();
        run.into_bytes(&mut bytes);
        bytes
    }

    #[test]
    fn run_of_crafted_bytes_is_refused() {
        let good = bytes_of(&run(&[(1, "abc", 2), (3, "de", -3), (3, "f", 9)]));
        assert!(Run::parse(&good).is_ok());
        let number = |at: usize, value: u64| (8 * at..8 * at + 8, value.to_le_bytes());
        let crafted = [
            number(1, 1 << 32),       // worker
            number(2, 4),             // count
            number(2, u64::MAX / 16), // count, whose columns overflow
            number(3, 1 << 61),       // carries
            number(4, u64::MAX),      // text
            number(5, 9),             // order of hashes
            number(8, 0),             // a count of nothing
            number(9, i64::MIN as u64),
            number(11, u64::from(u32::MAX)), // first end
        ];
        for (place, value) in crafted {
            let mut bytes = good.clone();
            bytes[place.clone()].copy_from_slice(&value);
            assert!(Run::parse(&bytes).is_err(), "{place:?}");
        }
    }

    #[test]
    fn run_of_any_bytes_never_panics() {
        use proptest::collection::vec;
        use proptest::num::u8::ANY;
        let good = bytes_of(&run(&[(1, "abc", 2), (3, "de", -3), (3, "f", 9), (7, "", 1)]));
        proptest::proptest!(|(
            changes in vec((0..good.len(), ANY), 0..4),
            length in 0..=good.len(),
            noise in vec(ANY, 0..200),
        )| {
            let mut mutated = good.clone();
            changes.into_iter().for_each(|(at, byte)| mutated[at] = byte);
            for bytes in [&mutated[..], &mutated[..length], &noise[..]] {
                if let Ok(run) = Run::parse(bytes) {
                    // It is as a run of ours would be: written again, it is the same.
                    let again = Run::parse(&bytes_of(&run)).expect("a run");
                    assert_eq!(rows(&again), rows(&run));
                    drop(run.merge(&again));
                }
            }
        });
    }

    #[test]
    fn run_round_trips_through_bytes() {
        for words in [&[][..], &[(1, "", 1)], &[(1, "abc", 2), (4, "", 9), (u64::MAX, "de", -3)]] {
            let run = run(words);
            let mut bytes = Vec::new();
            run.into_bytes(&mut bytes);
            assert_eq!((bytes.len(), bytes.len() % 8), (run.length_in_bytes(), 0));
            let mut shared = timely::bytes::arc::BytesMut::from(bytes).freeze();
            let all = shared.len();
            let back = Run::from_bytes(shared.extract_to(all));
            assert_eq!((back.epoch, back.worker, rows(&back)), (10, 1, rows(&run)));
        }
    }
}
