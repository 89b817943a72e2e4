//! The base of totals and windows: the sum of every word, in hash order.
//!
//! The base is a list of segments, each a few kilobytes of entries without gaps: the length of a
//! word, its bytes, and its sum. Hashes are not stored, because they are computed from the word as
//! fast as they are read. A word takes two bytes more than its text, as long as its sum is small.
//!
//! The updates of an epoch are sorted as the base is, so they are added in one sequential pass.
//! Only segments with an updated word are written anew. Segments are immutable and shared: a clone
//! of the base is a snapshot, which can be published by another thread while the next epoch is
//! added.

use std::mem;
use std::sync::Arc;

use super::base_merge::{BaseMerge, Updates};
use super::base_segment::{Entry, PAD_BYTES, Segment};
use super::rows::{Row, RowSet};
use super::run::Run;

/// All words whose sum is not 0, ascending by (hash, word). A clone shares the segments.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// The segments, ascending by the hashes in them.
    segments: Arc<Vec<Segment>>,
    /// The number of words.
    words: u64,
}

impl Base {
    /// Returns the number of words.
    pub fn words(&self) -> u64 {
        self.words
    }

    /// Adds the counts of a run, and replaces them by the new sums. Words whose sum becomes 0 are
    /// removed.
    pub fn add(&mut self, run: &mut Run) {
        if run.is_empty() {
            return;
        }
        // A snapshot that is still being published keeps its list.
        let old = Arc::unwrap_or_clone(mem::take(&mut self.segments));
        let mut merge = BaseMerge::new(old.len(), self.words);
        let mut old = old.into_iter().peekable();
        let mut updates = Updates { words: &run.words, counts: &mut run.counts, at: 0, start: 0 };
        while let Some(segment) = old.next() {
            let end = old.peek().map_or(updates.counts.len(), |next| {
                first_from(&updates.words.hashes, updates.at, next.first)
            });
            if updates.at == end && merge.len == 0 {
                merge.segments.push(segment);
            } else {
                merge.take(&segment, &mut updates, end);
            }
        }
        // Only a base without segments leaves any.
        while updates.at < updates.counts.len() {
            merge.insert(&mut updates);
        }
        merge.close();
        (self.segments, self.words) = (Arc::new(merge.segments), merge.words);
    }
}

impl RowSet for Base {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for segment in self.segments.iter() {
            let (bytes, mut at) = (&segment.bytes[..], 0);
            while at < bytes.len() - PAD_BYTES {
                let Entry { hash, word, sum, end } = Entry::read(bytes, at);
                visit(Row::Count { hash, word: &bytes[word], count: sum });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::ops::Range;

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

    /// Adds `run` to both and compares them, with the sums that the base puts into the run.
    fn add(base: &mut Base, sums: &mut Sums, run: &Run) {
        let mut added = run.clone();
        base.add(&mut added);
        let mut expected = Vec::new();
        for (word, count) in run.words.iter().zip(&run.counts) {
            let sum = sums.entry((word.hash, word.word.to_vec())).or_default();
            *sum += count;
            expected.push(*sum);
        }
        sums.retain(|_, sum| *sum != 0);
        assert_eq!(added.counts, expected);
        assert!(added.words.iter().eq(run.words.iter()));
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

    #[test]
    fn words_of_one_hash_stay_apart() {
        let crafted = |numbers: Range<u32>, count: i64| {
            let word = |number: u32| {
                [&0xFF51_AFD7_ED55_8CCD_u64.to_le_bytes()[..], &number.to_le_bytes()].concat()
            };
            let words: Vec<_> = numbers.map(|number| (word(number), count)).collect();
            assert!(words.iter().all(|(word, _)| words::hash(word) == 0));
            words
        };
        let (mut base, mut sums) = (Base::default(), Sums::new());
        // More than two segments could hold.
        add(&mut base, &mut sums, &run(&crafted(0..4_000, 1)));
        add(&mut base, &mut sums, &named(0..4_000, 1));
        add(&mut base, &mut sums, &run(&crafted(2_000..6_000, 2)));
        add(&mut base, &mut sums, &run(&crafted(1_000..2_000, -1)));
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_map(
            runs in prop::collection::vec(
                prop::collection::vec(
                    // Words of every length around those that are hashed in two ways, and of
                    // lengths that take two bytes.
                    (prop::sample::select(
                        vec![0_usize, 1, 7, 8, 9, 15, 16, 17, 127, 128, 255, 256]),
                     0u8..40,
                     prop::sample::select(vec![-70_i64, -1, 1, 2, 63, 64, 1 << 40, 1 << 48])),
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
