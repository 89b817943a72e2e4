//! Differential's batches of word counts, in columns.
//!
//! A batch is an immutable, sorted set of updates `(word, epoch, count)`. The count of a word is
//! the diff of its update: nothing is ever inserted count times. Nearly every batch has one update
//! per word, all at one epoch; [`WordBatch::only_time`] recognizes those, and the readers of
//! batches have a fast path for them.

use std::collections::BTreeSet;
use std::ops::Deref;

use differential_dataflow::trace::implementations::BatchContainer;
use differential_dataflow::trace::implementations::ord_neu::OrdKeyBatch;
use differential_dataflow::trace::implementations::ord_neu::key_batch::OrdKeyStorage;
use differential_dataflow::trace::implementations::ord_neu::layers::Upds;

use super::columns::{Offsets, Times, WordColumn, WordRef};
use super::run::Run;
use crate::epoch::Epoch;

/// The layout of a batch of words: words as keys, no values, counts as diffs.
pub type WordLayout = (WordColumn, Vec<()>, Times, Vec<i64>, Offsets);

/// The batch type of differential that a [`WordBatch`] wraps.
type KeyBatch = OrdKeyBatch<WordLayout>;

/// An immutable, sorted set of updates `(word, epoch, count)`.
pub struct WordBatch(pub(crate) KeyBatch);

impl std::fmt::Debug for WordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordBatch").field("updates", &self.updates).finish_non_exhaustive()
    }
}

impl Deref for WordBatch {
    type Target = KeyBatch;

    fn deref(&self) -> &KeyBatch {
        &self.0
    }
}

impl WordBatch {
    /// Makes a batch of sorted words and their updates.
    pub(crate) fn new(keys: WordColumn, upds: Upds<Offsets, Times, Vec<i64>>) -> WordBatch {
        let updates = upds.diffs.len();
        WordBatch(KeyBatch {
            storage: OrdKeyStorage { keys, upds },
            updates,
            value: KeyBatch::create_value(),
        })
    }

    /// Returns the time of all updates, if each word has one update and all are at one time.
    pub(crate) fn only_time(&self) -> Option<Epoch> {
        let upds = &self.storage.upds;
        upds.times.only().filter(|_| upds.offs.is_one_each())
    }

    /// Makes a batch with one update per word, all at `epoch`.
    pub(crate) fn at(epoch: Epoch, keys: WordColumn, counts: Vec<i64>) -> WordBatch {
        let updates = counts.len();
        let times = Times::repeat(epoch, updates);
        WordBatch::new(keys, Upds { offs: Offsets::one_each(updates), times, diffs: counts })
    }

    /// Returns the updates, which are all at `epoch` and one for each word, as a run.
    pub(crate) fn into_run(self, epoch: Epoch) -> Run {
        let OrdKeyStorage { keys, upds } = self.0.storage;
        Run { epoch, worker: 0, words: keys, counts: upds.diffs }
    }

    /// Returns a copy of the updates at `epoch`.
    pub(crate) fn run_at(&self, epoch: Epoch) -> Run {
        let mut run = Run { epoch, ..Run::default() };
        self.updates_at(epoch).for_each(|(key, count)| run.push(key.hash, key.word, count));
        run
    }

    /// Returns the times at which the batch has updates, each once, ascending.
    pub(crate) fn epochs(&self) -> BTreeSet<Epoch> {
        self.storage.upds.times.spans().collect()
    }

    /// Returns the updates at `epoch`, ascending by (hash, word).
    pub(crate) fn updates_at(&self, epoch: Epoch) -> impl Iterator<Item = (WordRef<'_>, i64)> {
        let OrdKeyStorage { keys, upds } = &self.storage;
        (0..keys.len()).flat_map(move |key| {
            let (start, end) = upds.bounds(key);
            (start..end)
                .map(|update| upds.get_abs(update))
                .filter(move |(time, _)| *time == epoch)
                .map(move |(_, count)| (keys.index(key), *count))
        })
    }
}
