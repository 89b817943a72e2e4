//! Sums over the batches of a trace: those that changed between two epochs.
//!
//! The batches of a trace are few (their sizes grow geometrically), and each is sorted by (hash,
//! word). A changed word is looked up by a galloping search from the position of the previous one.
//! Words are looked up in order, so a large change costs a merge, and a small one a few steps per
//! word.

use std::rc::Rc;

use differential_dataflow::trace::implementations::BatchContainer;

use super::columns::{WordColumn, WordRef};
use super::differential_batch::WordBatch;
use crate::epoch::Epoch;

/// A cursor over a batch, from front to back.
struct BatchCursor<'a> {
    /// The batch, which holds its words in order.
    batch: &'a WordBatch,
    /// The time of all updates, if each key has one update and all are at one time, as is usual.
    only: Option<Epoch>,
    /// The index of the current word.
    key: usize,
    /// The hash of the current word.
    hash: u64,
}

impl<'a> BatchCursor<'a> {
    /// Returns a cursor at the first word, or `None` for a batch without words.
    fn new(batch: &'a Rc<WordBatch>) -> Option<BatchCursor<'a>> {
        let only = batch.only_time();
        let hash = *batch.storage.keys.hashes.first()?;
        Some(BatchCursor { batch, only, key: 0, hash })
    }

    /// Returns the words of the batch.
    fn words(&self) -> &'a WordColumn {
        &self.batch.storage.keys
    }

    /// Returns the current word.
    fn word(&self) -> WordRef<'a> {
        self.words().index(self.key)
    }

    /// Moves to `key`. Returns true if there is such a word.
    #[inline]
    fn go_to(&mut self, key: usize) -> bool {
        self.key = key;
        match self.words().hashes.get(key) {
            Some(hash) => {
                self.hash = *hash;
                true
            }
            None => false,
        }
    }

    /// Returns the sums of the current word's updates up to each of two epochs.
    #[inline]
    fn sums(&self, before: Epoch, upto: Epoch) -> (i64, i64) {
        let upds = &self.batch.storage.upds;
        if let Some(time) = self.only {
            let count = upds.diffs[self.key];
            let at = |epoch| if time <= epoch { count } else { 0 };
            return (at(before), at(upto));
        }
        let (start, end) = upds.bounds(self.key);
        (start..end).fold((0, 0), |(old, new), update| {
            let (time, count) = upds.get_abs(update);
            let at = |epoch| if time <= epoch { *count } else { 0 };
            (old + at(before), new + at(upto))
        })
    }

    /// Moves forward to the first word that is not less than `word`. Returns true if there is one.
    fn seek(&mut self, word: WordRef<'_>) -> bool {
        let (words, len) = (self.words(), self.words().len());
        if self.key >= len || !words.is_less(self.key, word) {
            return self.key < len;
        }
        // Gallop: double the step until a word is not less, then search between the last two steps.
        let (mut low, mut step) = (self.key, 1);
        while low + step < len && words.is_less(low + step, word) {
            low += step;
            step *= 2;
        }
        let mut high = len.min(low + step);
        low += 1;
        while low < high {
            let middle = low.midpoint(high);
            if words.is_less(middle, word) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.go_to(low)
    }
}

/// Calls `visit` with every word of `batches` once, ascending.
fn merge(batches: &[Rc<WordBatch>], visit: &mut dyn FnMut(WordRef<'_>)) {
    let mut heads: Vec<BatchCursor<'_>> = batches.iter().filter_map(BatchCursor::new).collect();
    while let Some(first) = heads.first() {
        // The least hash, and the least hash of the other batches. Up to the latter, words come
        // from one batch and need no comparison.
        let (mut at, mut least, mut other) = (0, first.hash, u64::MAX);
        for (index, head) in heads.iter().enumerate().skip(1) {
            if head.hash < least {
                (at, least, other) = (index, head.hash, least);
            } else {
                other = other.min(head.hash);
            }
        }
        if least == other {
            merge_tied(&mut heads, least, visit);
            continue;
        }
        let head = &mut heads[at];
        let is_left = loop {
            visit(head.word());
            if !head.go_to(head.key + 1) {
                break false;
            }
            if head.hash >= other {
                break true;
            }
        };
        if !is_left {
            heads.swap_remove(at);
        }
    }
}

/// Visits the least of the words with this hash, and moves the cursors after it.
fn merge_tied(heads: &mut Vec<BatchCursor<'_>>, hash: u64, visit: &mut dyn FnMut(WordRef<'_>)) {
    let tied = heads.iter().filter(|head| head.hash == hash);
    let Some(word) = tied.map(BatchCursor::word).min() else { return };
    heads.retain_mut(|head| head.hash != hash || head.word() != word || head.go_to(head.key + 1));
    visit(word);
}

/// Calls `visit` with every word of `changed` whose total in `all` differs between two epochs, and
/// with both totals, in the order of the words. `all` has the batches of `changed`, too.
pub fn for_each_change(
    changed: &[Rc<WordBatch>],
    all: &[Rc<WordBatch>],
    before: Epoch,
    upto: Epoch,
    visit: &mut dyn FnMut(WordRef<'_>, i64, i64),
) {
    let mut heads: Vec<BatchCursor<'_>> = all.iter().filter_map(BatchCursor::new).collect();
    merge(changed, &mut |word| {
        let (mut old, mut new) = (0, 0);
        for head in &mut heads {
            if head.seek(word) && head.hash == word.hash && head.word() == word {
                let sums = head.sums(before, upto);
                (old, new) = (old + sums.0, new + sums.1);
            }
        }
        if old != new {
            visit(word, old, new);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::run::Run;
    use crate::operators::run_batcher::RunBatcher;
    use differential_dataflow::batcher::{Batcher, Extract};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use timely::progress::Antichain;

    type Update = (u8, Epoch, i64);

    fn name(word: u8) -> (u64, Vec<u8>) {
        // Few hashes for many words, so that ties are common.
        (u64::from(word / 4), vec![b'a' + word])
    }

    fn batch(updates: &[Update]) -> Option<Rc<WordBatch>> {
        let mut batcher = RunBatcher::new();
        let mut sums: BTreeMap<(Epoch, u8), i64> = BTreeMap::new();
        updates
            .iter()
            .for_each(|(word, epoch, diff)| *sums.entry((*epoch, *word)).or_default() += diff);
        for ((epoch, word), diff) in sums {
            let mut run = Run { epoch, ..Run::default() };
            let (hash, word) = name(word);
            run.push(hash, &word, diff);
            batcher.insert(&mut run);
        }
        batcher.extract(Antichain::new().borrow()).0.map(Rc::new)
    }

    fn sum(updates: &[Update], upto: Epoch) -> BTreeMap<(u64, Vec<u8>), i64> {
        let mut sums = BTreeMap::new();
        for (word, epoch, diff) in updates {
            *sums.entry(name(*word)).or_default() += if *epoch <= upto { *diff } else { 0 };
        }
        sums.retain(|_, sum| *sum != 0);
        sums
    }

    proptest! {
        #[test]
        fn changes_are_those_of_a_map(
            updates in prop::collection::vec(
                prop::collection::vec((0u8..24, 1u64..6, -2i64..4), 0..40), 0..5),
            before in 0u64..6,
            more in 0u64..6,
        ) {
            let upto = before + more;
            let batches: Vec<_> = updates.iter().filter_map(|updates| batch(updates)).collect();
            let flat = updates.concat();
            let (old, new) = (sum(&flat, before), sum(&flat, upto));

            let mut expected: BTreeMap<_, (i64, i64)> = BTreeMap::new();
            old.into_iter().for_each(|(key, total)| expected.entry(key).or_default().0 = total);
            new.into_iter().for_each(|(key, total)| expected.entry(key).or_default().1 = total);
            expected.retain(|_, (old, new)| old != new);
            let mut changes = Vec::new();
            for_each_change(&batches, &batches, before, upto, &mut |key, old, new| {
                changes.push(((key.hash, key.word.to_vec()), (old, new)));
            });
            prop_assert_eq!(changes, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
