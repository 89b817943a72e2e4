//! Adds up sorted runs.

use std::cmp::{Ordering, Reverse};

use differential_dataflow::trace::implementations::BatchContainer;

use super::columns::WordColumn;
use super::run::Run;
use super::spare_runs;
use crate::epoch::Epoch;
use crate::words::{Key, SHORT_BYTES_MAX};

impl Run {
    /// Adds up two runs of the same epoch and worker.
    ///
    /// Words that cancel are left out: an arrangement would read an empty list of updates as the
    /// previous key's.
    #[must_use]
    pub fn merge(&self, other: &Run) -> Run {
        debug_assert_eq!(self.epoch, other.epoch);
        let make = || {
            let words = WordColumn::merge_capacity(&self.words, &other.words);
            Run::new(self.epoch, self.worker, words)
        };
        let mut merged = spare_runs::take(self.len() + other.len()).unwrap_or_else(make);
        (merged.epoch, merged.worker) = (self.epoch, self.worker);
        let (mut left, mut right) = (Cursor::new(self), Cursor::new(other));
        while let (Some(a), Some(b)) = (left.hash(), right.hash()) {
            // Hashes differ unless the words are equal, but for crafted ones.
            let order = if a == b { left.compare_words(&right) } else { a.cmp(&b) };
            match order {
                Ordering::Less => left.copy_to(&mut merged, 0),
                Ordering::Greater => right.copy_to(&mut merged, 0),
                Ordering::Equal => {
                    left.copy_to(&mut merged, right.count());
                    right.skip();
                }
            }
        }
        for rest in [&mut left, &mut right] {
            while rest.hash().is_some() {
                rest.copy_to(&mut merged, 0);
            }
        }
        merged
    }

    /// Adds up runs of any epochs to one run of `epoch`.
    pub fn add_up(mut runs: Vec<Run>, epoch: Epoch) -> Run {
        runs.iter_mut().for_each(|run| run.epoch = epoch);
        Run::sum(runs).unwrap_or_else(|| Run { epoch, ..Run::default() })
    }

    /// Adds up the runs of one epoch. Returns `None` if no word is left.
    ///
    /// The two smallest runs are added first, so that no word is copied more often than the
    /// logarithm of the number of runs.
    pub(crate) fn sum(mut runs: Vec<Run>) -> Option<Run> {
        while runs.len() > 1 {
            runs.sort_unstable_by_key(|run| Reverse(run.len()));
            let (a, b) = (runs.pop()?, runs.pop()?);
            runs.push(a.merge(&b));
            spare_runs::keep(a);
            spare_runs::keep(b);
        }
        runs.pop().filter(|run| !run.is_empty())
    }
}

/// A place in a run.
struct Cursor<'a> {
    run: &'a Run,
    /// Index of the word.
    at: usize,
    /// Where the word begins.
    start: usize,
}

impl<'a> Cursor<'a> {
    /// Returns the place of the first word.
    fn new(run: &'a Run) -> Cursor<'a> {
        Cursor { run, at: 0, start: 0 }
    }

    /// Returns the hash of the word. `None` after the last one.
    #[inline(always)]
    fn hash(&self) -> Option<u64> {
        self.run.words.hashes.get(self.at).copied()
    }

    /// Returns the count of the word.
    #[inline(always)]
    fn count(&self) -> i64 {
        self.run.counts[self.at]
    }

    /// Returns where the word ends.
    #[inline(always)]
    fn end(&self) -> usize {
        self.run.words.ends.get(self.at)
    }

    /// Returns the word as a key, if it is short and 16 bytes can be read there.
    #[inline(always)]
    fn key(&self) -> Option<Key> {
        let (bytes, len) = (&self.run.words.bytes, self.end() - self.start);
        let can_load = len <= SHORT_BYTES_MAX && self.start + 16 <= bytes.len();
        can_load.then(|| Key::load(bytes, self.start, len))
    }

    /// Compares the words of two places, whose hashes are equal.
    #[inline(always)]
    fn compare_words(&self, other: &Cursor<'_>) -> Ordering {
        match (self.key(), other.key()) {
            (Some(key), Some(other)) if key == other => Ordering::Equal,
            _ => {
                let word = |of: &Cursor<'a>| &of.run.words.bytes[of.start..of.end()];
                word(self).cmp(&other.run.words.bytes[other.start..other.end()])
            }
        }
    }

    /// Goes to the next word.
    #[inline(always)]
    fn skip(&mut self) {
        self.start = self.end();
        self.at += 1;
    }

    /// Appends the word to `merged`, with its count and `more`, unless that is 0, and goes to the
    /// next word.
    #[inline(always)]
    fn copy_to(&mut self, merged: &mut Run, more: i64) {
        let count = self.count() + more;
        if count != 0 {
            let Run { words, counts, .. } = merged;
            words.push_at(
                self.run.words.hashes[self.at],
                &self.run.words.bytes,
                self.start,
                self.end(),
            );
            counts.push(count);
        }
        self.skip();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;
    use crate::words::hash;

    type Counts = BTreeMap<(u64, Vec<u8>), i64>;

    fn run(words: &Counts) -> Run {
        let mut run = Run { epoch: 10, ..Run::default() };
        words.iter().for_each(|((hash, word), count)| run.push(*hash, word, *count));
        run
    }

    /// Words of all lengths up to 40 bytes, few of each, some with the hash of another word.
    fn counts() -> impl Strategy<Value = Counts> {
        let word = (0_usize..40, 0_u8..3).prop_map(|(len, last)| {
            let mut word = vec![b'x'; len];
            word.extend((last > 0).then_some(last));
            (if len % 3 == 0 { 7 } else { hash(&word) }, word)
        });
        btree_map(word, prop::sample::select(vec![-2_i64, -1, 1, 2]), 0..60)
    }

    proptest! {
        #[test]
        fn merged_runs_equal_sums(left in counts(), right in counts()) {
            let mut sums = left.clone();
            for (word, count) in &right {
                *sums.entry(word.clone()).or_default() += count;
            }
            sums.retain(|_, count| *count != 0);
            let merged = run(&left).merge(&run(&right));
            let words = merged.words.iter().map(|word| (word.hash, word.word.to_vec()));
            let found: Vec<_> = words.zip(merged.counts.iter().copied()).collect();
            prop_assert_eq!(found, sums.into_iter().collect::<Vec<_>>());
        }
    }
}
