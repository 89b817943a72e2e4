//! The merger of a trace's batches.
//!
//! Differential's own merger handles every update by itself, as arbitrary times require. Nearly all
//! batches here have one update per word, all at one time that the compaction frontier has passed.
//! Such batches are added up column by column, in stretches, which is several times as fast.

use differential_dataflow::trace::implementations::BatchContainer;
use differential_dataflow::trace::implementations::ord_neu::key_batch::OrdKeyMerger;
use differential_dataflow::trace::implementations::spine_fueled::{Merger, SpineBatch};
use timely::progress::frontier::AntichainRef;

use super::columns::WordColumn;
use super::differential_batch::{WordBatch, WordLayout};
use crate::epoch::Epoch;

impl SpineBatch for WordBatch {
    type Time = Epoch;
    type Merger = WordMerger;

    fn len(&self) -> usize {
        self.updates
    }
}

/// A merge of two batches in progress.
pub enum WordMerger {
    /// Merges columns: both batches have one update per word, at one time that is past.
    Columns(ColumnMerge),
    /// Merges update by update.
    Updates(Box<OrdKeyMerger<WordLayout>>),
}

impl std::fmt::Debug for WordMerger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordMerger").finish_non_exhaustive()
    }
}

/// A merge of two batches column by column, and its result so far.
#[derive(Debug)]
pub struct ColumnMerge {
    /// The time of the updates that are merged.
    epoch: Epoch,
    /// The merged words.
    words: WordColumn,
    /// Their counts.
    counts: Vec<i64>,
    /// The index of the next word of the left and of the right batch.
    at: (usize, usize),
}

impl Merger<WordBatch> for WordMerger {
    fn new(left: &WordBatch, right: &WordBatch, since: AntichainRef<'_, Epoch>) -> Self {
        match (left.only_time(), right.only_time(), since.first()) {
            (Some(a), Some(b), Some(since)) if a <= *since && b <= *since => {
                WordMerger::Columns(ColumnMerge {
                    epoch: *since,
                    words: WordColumn::merge_capacity(&left.storage.keys, &right.storage.keys),
                    counts: Vec::with_capacity(left.updates + right.updates),
                    at: (0, 0),
                })
            }
            _ => WordMerger::Updates(Box::new(OrdKeyMerger::new(left, right, since))),
        }
    }

    fn work(&mut self, left: &WordBatch, right: &WordBatch, fuel: &mut isize) {
        match self {
            WordMerger::Columns(columns) => columns.work(left, right, fuel),
            WordMerger::Updates(merger) => merger.work(left, right, fuel),
        }
    }

    fn done(self) -> Option<WordBatch> {
        match self {
            WordMerger::Columns(ColumnMerge { epoch, words, counts, .. }) => {
                (!counts.is_empty()).then(|| WordBatch::at(epoch, words, counts))
            }
            WordMerger::Updates(merger) => merger.done().map(WordBatch),
        }
    }
}

impl ColumnMerge {
    /// Merges words until the fuel is used up or both batches are at their end.
    fn work(&mut self, left: &WordBatch, right: &WordBatch, fuel: &mut isize) {
        while *fuel > 0 {
            let (a, b) = self.at;
            let (a_end, b_end) = (left.updates, right.updates);
            if a == a_end && b == b_end {
                return;
            }
            // No stretch is longer than the fuel allows, so that a merge never delays an epoch.
            let most = *fuel as usize;
            if a < a_end && b < b_end {
                let stretch = |from: &WordBatch, start: usize, word| {
                    let end = from.updates.min(start + most);
                    (start..end).take_while(|key| from.storage.keys.is_less(*key, word)).count()
                };
                let (x, y) = (left.storage.keys.index(a), right.storage.keys.index(b));
                match x.cmp(&y) {
                    std::cmp::Ordering::Less => self.copy(left, stretch(left, a, y), true, fuel),
                    std::cmp::Ordering::Greater => {
                        self.copy(right, stretch(right, b, x), false, fuel)
                    }
                    std::cmp::Ordering::Equal => {
                        let count = left.storage.upds.diffs[a] + right.storage.upds.diffs[b];
                        if count != 0 {
                            self.words.push(x.hash, x.word);
                            self.counts.push(count);
                        }
                        self.at = (a + 1, b + 1);
                        *fuel -= 1;
                    }
                }
            } else if a < a_end {
                self.copy(left, most.min(a_end - a), true, fuel);
            } else {
                self.copy(right, most.min(b_end - b), false, fuel);
            }
        }
    }

    /// Copies the next `words` words of one batch.
    fn copy(&mut self, from: &WordBatch, words: usize, is_left: bool, fuel: &mut isize) {
        let at = if is_left { &mut self.at.0 } else { &mut self.at.1 };
        let keys = *at..*at + words;
        self.words.append_range(&from.storage.keys, keys.clone());
        self.counts.extend_from_slice(&from.storage.upds.diffs[keys.clone()]);
        *at = keys.end;
        *fuel -= words as isize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use timely::progress::Antichain;

    fn batch(epoch: Epoch, words: &BTreeMap<(u64, Vec<u8>), i64>) -> WordBatch {
        let mut keys = WordColumn::default();
        words.keys().for_each(|(hash, word)| keys.push(*hash, word));
        WordBatch::at(epoch, keys, words.values().copied().collect())
    }

    fn words() -> impl Strategy<Value = BTreeMap<(u64, Vec<u8>), i64>> {
        let word = (0u64..9, prop::collection::vec(b'a'..b'c', 0..3));
        let count = prop::sample::select(vec![-2, -1, 1, 2]);
        prop::collection::btree_map(word, count, 1..30)
    }

    proptest! {
        #[test]
        fn merge_in_small_steps_drops_words_that_cancel(
            left in words(), right in words(), since in 1u64..4, fuel in 1isize..9,
        ) {
            let (a, b) = (batch(1, &left), batch(2, &right));
            let mut merger = WordMerger::new(&a, &b, Antichain::from_elem(since).borrow());
            prop_assert_eq!(matches!(merger, WordMerger::Columns(_)), since >= 2);
            loop {
                let mut left_over = fuel;
                merger.work(&a, &b, &mut left_over);
                if left_over > 0 {
                    break;
                }
            }
            let mut sums: BTreeMap<(Epoch, u64, Vec<u8>), i64> = BTreeMap::new();
            for (epoch, words) in [(1, left), (2, right)] {
                for ((hash, word), count) in words {
                    *sums.entry((since.max(epoch), hash, word)).or_default() += count;
                }
            }
            sums.retain(|_, count| *count != 0);
            let merged = merger.done();
            let mut seen = BTreeMap::new();
            for epoch in 1..4 {
                for (key, count) in merged.iter().flat_map(|batch| batch.updates_at(epoch)) {
                    seen.insert((epoch, key.hash, key.word.to_vec()), count);
                }
            }
            prop_assert_eq!(seen, sums);
        }
    }
}
