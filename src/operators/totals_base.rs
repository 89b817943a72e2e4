//! The base of totals and windows: the sum of every word, in hash order.
//!
//! The base is a list of segments, each a few kilobytes of entries without gaps: the length of a
//! word, its bytes, and its sum. Hashes are not stored, because they are computed from the word as
//! fast as they are read. A word takes two bytes more than its text, as long as its sum is small.
//!
//! The updates of an epoch are sorted as the base is, so they are added in one sequential pass.
//! Only segments with an updated word are written anew; what lies between two updates is copied as
//! it is. Segments are immutable and shared: a clone of the base is a snapshot, which can be
//! published by another thread while the next epoch is added.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::columns::WordRef;
use super::rows::{Row, RowSet};
use super::run::Run;
use crate::hex_varint::put_varint;
use crate::words;

/// Bytes of entries that a segment begins with. One that has grown to twice as many is split, so
/// that neither half has to be split or joined again soon.
const SEGMENT_BYTES: usize = 4 << 10;

/// Bytes of entries below which a segment that is written anew takes those of the next one.
const SEGMENT_BYTES_MIN: usize = SEGMENT_BYTES / 4;

/// Zero bytes after the last entry, so that a hash is computed from one load of 16 bytes.
const PAD_BYTES: usize = 16;

/// All words whose sum is not 0, ascending by (hash, word). A clone shares the segments.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// The segments, ascending by the hashes in them.
    segments: Arc<Vec<Segment>>,
    /// The number of words.
    words: u64,
}

/// The words whose hash is at least `first` and below that of the next segment.
#[derive(Clone, Debug)]
struct Segment {
    /// The least hash that can be in it.
    first: u64,
    /// Entries, then [`PAD_BYTES`] zeros.
    bytes: Arc<[u8]>,
}

impl Base {
    /// Returns the number of words.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// Adds the counts of a run. Calls `changed` with each of its words and the sums before and
    /// after; words whose sum becomes 0 are removed.
    pub fn add(&mut self, run: &Run, mut changed: impl FnMut(WordRef<'_>, i64, i64)) {
        if run.is_empty() {
            return;
        }
        // A snapshot that is still being published keeps its list.
        let old = Arc::unwrap_or_clone(mem::take(&mut self.segments));
        let mut merge = BaseMerge::new(old.len(), self.words);
        let mut old = old.into_iter().peekable();
        let mut at = 0;
        while let Some(segment) = old.next() {
            let hashes = &run.words.hashes;
            let end = old.peek().map_or(run.len(), |next| first_from(hashes, at, next.first));
            if at == end && merge.open.is_empty() {
                merge.segments.push(segment);
            } else {
                merge.take(&segment, run, at..end, &mut changed);
                at = end;
            }
        }
        // Only a base without segments leaves any.
        (at..run.len()).for_each(|at| merge.insert(run, at, &mut changed));
        merge.close();
        (self.segments, self.words) = (Arc::new(merge.segments), merge.words);
    }
}

impl RowSet for Base {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for segment in self.segments.iter() {
            let (bytes, mut at) = (&segment.bytes[..], 0);
            while at < bytes.len() - PAD_BYTES {
                let entry = Entry::read(bytes, at);
                let (count, end) = read_sum(bytes, entry.word.end);
                let word = &bytes[entry.word];
                visit(Row::Count { hash: entry.hash, word, count });
                at = end;
            }
        }
    }
}

/// Returns the index of the first of `hashes`, from `from` on, that is at least `hash`.
fn first_from(hashes: &[u64], from: usize, hash: u64) -> usize {
    // Gallop: the answer is mostly near, and a search in all of them misses the cache at each step.
    let (mut low, mut step) = (from, 1);
    while low + step <= hashes.len() && hashes[low + step - 1] < hash {
        low += step;
        step *= 2;
    }
    let high = hashes.len().min(low + step);
    low + hashes[low..high].partition_point(|other| *other < hash)
}

/// The word of an entry.
struct Entry {
    /// The hash of the word, which is computed when the entry is read.
    hash: u64,
    /// Its place in the segment. The sum follows it.
    word: Range<usize>,
}

impl Entry {
    /// Reads the entry at `at`.
    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Entry {
        let (length, start) = read_number(bytes, at);
        let end = start + length as usize;
        Entry { hash: words::hash_at(bytes, start, length as usize), word: start..end }
    }
}

/// A base that is written anew, segment by segment.
struct BaseMerge {
    /// The segments that are done.
    segments: Vec<Segment>,
    /// The number of words in them.
    words: u64,
    /// The entries of the segment that is being written.
    open: Vec<u8>,
    /// The `first` of that segment.
    first: u64,
    /// The hash of the last word so far.
    last: u64,
    /// A place in `open` at which it can be split, and the `first` of the second half.
    half: Option<(usize, u64)>,
    /// The bytes of a segment, before they are shared.
    scratch: Vec<u8>,
}

impl BaseMerge {
    /// Begins a base of about as many segments.
    fn new(segments: usize, words: u64) -> BaseMerge {
        let segments = Vec::with_capacity(segments + segments / 8);
        let (open, scratch) = (Vec::with_capacity(3 * SEGMENT_BYTES), Vec::new());
        BaseMerge { segments, words, open, first: 0, last: 0, half: None, scratch }
    }

    /// Adds the entries of a segment of the old base and the updates of its words.
    fn take(
        &mut self,
        segment: &Segment,
        run: &Run,
        updates: Range<usize>,
        changed: &mut impl FnMut(WordRef<'_>, i64, i64),
    ) {
        if self.open.is_empty() {
            self.first = if self.segments.is_empty() { 0 } else { segment.first };
        }
        let bytes = &segment.bytes[..];
        // `bytes[kept..at]` is unchanged and not copied yet.
        let (mut kept, mut at) = (0, 0);
        let mut next = updates.start;
        while at < bytes.len() - PAD_BYTES {
            let entry = Entry::read(bytes, at);
            let mut is_updated = false;
            while next < updates.end && run.words.hashes[next] <= entry.hash {
                let update = run.words.word(next);
                let word = WordRef { hash: entry.hash, word: &bytes[entry.word.clone()] };
                is_updated = update == word;
                if update >= word {
                    break;
                }
                self.copy(&bytes[kept..at]);
                kept = at;
                self.insert(run, next, changed);
                next += 1;
            }
            if self.is_full(at - kept, entry.hash) {
                self.copy(&bytes[kept..at]);
                kept = at;
                self.split();
            }
            self.last = entry.hash;
            let (old, end) = read_sum(bytes, entry.word.end);
            if is_updated {
                self.copy(&bytes[kept..at]);
                kept = end;
                let new = old + run.counts[next];
                changed(run.words.word(next), old, new);
                if new == 0 {
                    self.words -= 1;
                } else {
                    self.copy(&bytes[at..entry.word.end]);
                    write_sum(new, &mut self.open);
                }
                next += 1;
            }
            at = end;
        }
        self.copy(&bytes[kept..at]);
        (next..updates.end).for_each(|at| self.insert(run, at, changed));
        if self.open.len() >= SEGMENT_BYTES_MIN {
            self.close();
        }
    }

    /// Adds a word that the base does not have.
    fn insert(&mut self, run: &Run, at: usize, changed: &mut impl FnMut(WordRef<'_>, i64, i64)) {
        let (word, count) = (run.words.word(at), run.counts[at]);
        if count == 0 {
            return;
        }
        changed(word, 0, count);
        if self.is_full(0, word.hash) {
            self.split();
        }
        self.last = word.hash;
        self.words += 1;
        put_varint(word.word.len() as u64, &mut self.open);
        self.open.extend_from_slice(word.word);
        write_sum(count, &mut self.open);
    }

    /// Returns true if the open segment is to be split before a word with `hash`, when `more` bytes
    /// are still to be copied to it. Notes a place at which that is possible.
    #[inline(always)]
    fn is_full(&mut self, more: usize, hash: u64) -> bool {
        let length = self.open.len() + more;
        length >= SEGMENT_BYTES && self.is_full_at(length, hash)
    }

    /// Does as [`BaseMerge::is_full`] for a segment that is long enough.
    fn is_full_at(&mut self, length: usize, hash: u64) -> bool {
        // Words of equal hashes stay in one segment.
        if self.half.is_none() && hash != self.last {
            self.half = Some((length, self.last + 1));
        }
        self.half.is_some() && length >= 2 * SEGMENT_BYTES
    }

    /// Appends entries.
    #[inline(always)]
    fn copy(&mut self, entries: &[u8]) {
        self.open.extend_from_slice(entries);
    }

    /// Ends the first half of the segment that is being written.
    fn split(&mut self) {
        let Some((length, first)) = self.half.take() else { return };
        self.push(length);
        self.open.drain(..length);
        self.first = first;
    }

    /// Ends the segment that is being written, if it has entries.
    fn close(&mut self) {
        if !self.open.is_empty() {
            self.push(self.open.len());
            self.open.clear();
        }
        self.half = None;
    }

    /// Makes a segment of the first `length` bytes of entries.
    fn push(&mut self, length: usize) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.open[..length]);
        self.scratch.extend_from_slice(&[0; PAD_BYTES]);
        self.segments.push(Segment { first: self.first, bytes: Arc::from(&self.scratch[..]) });
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

/// Reads a sum, whose sign is its lowest bit. Returns it with the place after it.
#[inline(always)]
fn read_sum(bytes: &[u8], at: usize) -> (i64, usize) {
    let (number, end) = read_number(bytes, at);
    ((number >> 1) as i64 ^ -((number & 1) as i64), end)
}

/// Appends a sum. Small ones of both signs take one byte.
#[inline(always)]
fn write_sum(sum: i64, out: &mut Vec<u8>) {
    put_varint((sum << 1 ^ sum >> 63) as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Sums = BTreeMap<(u64, Vec<u8>), i64>;

    fn run(words: &[(Vec<u8>, i64)]) -> Run {
        let mut sums = Sums::new();
        for (word, count) in words {
            *sums.entry((words::hash(word), word.clone())).or_default() += count;
        }
        let mut run = Run { epoch: 10, ..Run::default() };
        sums.iter()
            .filter(|(_, count)| **count != 0)
            .for_each(|((hash, word), count)| run.push(*hash, word, *count));
        run
    }

    fn rows(base: &Base) -> Vec<((u64, Vec<u8>), i64)> {
        let mut rows = Vec::new();
        base.for_each(&mut |row| match row {
            Row::Count { hash, word, count } => rows.push(((hash, word.to_vec()), count)),
            _ => panic!("{row:?}"),
        });
        rows
    }

    /// Adds `run` to both and compares them, with the changes that the base reports.
    fn add(base: &mut Base, sums: &mut Sums, run: &Run) {
        let mut changes = Vec::new();
        base.add(run, |word, old, new| {
            changes.push(((word.hash, word.word.to_vec()), old, new));
        });
        let mut expected = Vec::new();
        for (word, count) in run.words.iter().zip(&run.counts) {
            let sum = sums.entry((word.hash, word.word.to_vec())).or_default();
            expected.push(((word.hash, word.word.to_vec()), *sum, *sum + count));
            *sum += count;
        }
        sums.retain(|_, sum| *sum != 0);
        assert_eq!(changes, expected);
        assert_eq!(rows(base), sums.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(base.words(), sums.len() as u64);
        let firsts: Vec<u64> = base.segments.iter().map(|segment| segment.first).collect();
        assert!(firsts.is_sorted_by(|a, b| a < b), "{firsts:?}");
    }

    fn named(numbers: Range<u64>, count: i64) -> Run {
        let word = |number: u64| (format!("{number}").into_bytes(), count);
        run(&numbers.map(word).collect::<Vec<_>>())
    }

    #[test]
    fn base_splits_and_joins_segments() {
        let (mut base, mut sums) = (Base::default(), Sums::new());
        add(&mut base, &mut sums, &named(0..20_000, 1));
        let many = base.segments.len();
        assert!(many > 20, "{many} segments");
        add(&mut base, &mut sums, &named(5..20_000, -1));
        assert_eq!((base.segments.len(), base.words()), (1, 5));
        add(&mut base, &mut sums, &named(0..5, -1));
        assert_eq!((base.segments.len(), base.words()), (0, 0));
        add(&mut base, &mut sums, &named(3..9, 1 << 40));
    }

    #[test]
    fn search_finds_first_of_equal_hashes() {
        let hashes: Vec<u64> = (0..40).map(|number| number / 3 * 2).collect();
        for from in 0..=hashes.len() {
            for hash in 0..30 {
                let expected = (from..40).find(|at| hashes[*at] >= hash).unwrap_or(40);
                assert_eq!(first_from(&hashes, from, hash), expected, "{hash} from {from}");
            }
        }
    }

    #[test]
    fn small_update_writes_only_its_segment() {
        let (mut base, mut sums) = (Base::default(), Sums::new());
        add(&mut base, &mut sums, &named(0..20_000, 1));
        let before = base.clone();
        add(&mut base, &mut sums, &named(77..78, 1));
        let same = |(a, b): (&Segment, &Segment)| Arc::ptr_eq(&a.bytes, &b.bytes);
        let kept = before.segments.iter().zip(base.segments.iter()).filter(|pair| same(*pair));
        assert_eq!(kept.count() + 1, before.segments.len());
    }

    #[test]
    fn snapshot_keeps_its_sums() {
        let (mut base, mut sums) = (Base::default(), Sums::new());
        add(&mut base, &mut sums, &named(0..3_000, 1));
        let (snapshot, before) = (base.clone(), rows(&base));
        add(&mut base, &mut sums, &named(1_000..9_000, 5));
        assert_eq!(rows(&snapshot), before);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_map(
            runs in prop::collection::vec(
                prop::collection::vec(
                    // Words of every length around those that are hashed in two ways, and of
                    // lengths that take two bytes.
                    (prop::sample::select(vec![0_usize, 1, 3, 14, 15, 16, 17, 200]),
                     0u8..40, prop::sample::select(vec![-70_i64, -1, 1, 2, 63, 64, 1 << 40])),
                    0..300),
                1..6),
        ) {
            let (mut base, mut sums) = (Base::default(), Sums::new());
            for words in runs {
                let words: Vec<_> = words
                    .into_iter()
                    .map(|(length, number, count)| (vec![number + b'0'; length], count))
                    .collect();
                add(&mut base, &mut sums, &run(&words));
            }
        }
    }
}
