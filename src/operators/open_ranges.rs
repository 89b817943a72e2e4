//! The ranges of open epochs, which the workers of a process share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::spare_table::Spare;
use crate::epoch::Epoch;
use crate::words::{KeptLimit, KeptRanges, Ranges, Ranging};

/// Number of distinct words from which words may be counted by ranges. Their table has outgrown the
/// caches of a core, so that listing words costs less than the cache misses. (Memory does not show
/// that: a table may have it from the epoch before.)
const LIST_WORDS_MIN: usize = 5 << 16;

/// Average number of occurrences of a distinct word below which words are counted by ranges. If
/// words repeat more often, most are in the caches.
const REPEATS_MIN: u64 = 32;

/// The same where processes divide the words: a list costs more if it goes through a socket.
const DIVIDED_REPEATS_MIN: u64 = 4;

/// The open ranges of all counting operators of a process.
///
/// All workers build the same operators in the same order, so an operator's number is its name.
#[derive(Clone, Debug)]
pub struct ProcessRanges {
    /// The open ranges of each operator.
    operators: Arc<Mutex<Vec<OpenRanges>>>,
    /// Number of distinct words from which words may be counted by ranges.
    list_words_min: usize,
    /// The limit of the memory that drained ranges keep.
    kept_limit: KeptLimit,
}

impl Default for ProcessRanges {
    fn default() -> Self {
        ProcessRanges::listing_from(LIST_WORDS_MIN)
    }
}

impl ProcessRanges {
    /// Makes ranges that are used from so many distinct words in a table on. Tests list from few
    /// words.
    pub fn listing_from(list_words_min: usize) -> ProcessRanges {
        ProcessRanges {
            operators: Arc::default(),
            list_words_min,
            kept_limit: KeptLimit::default(),
        }
    }

    /// Returns the number of times that an operator made ranges for an epoch.
    pub fn opened(&self) -> u64 {
        let all = self.operators.lock().unwrap_or_else(|held| held.into_inner());
        all.iter().map(|open| open.state().opened).sum()
    }

    /// Keeps less memory of drained ranges: operators that follow need it for their sums.
    pub fn keep_less(&self) {
        self.kept_limit.keep_less();
    }

    /// Returns the open ranges of the operator with this number. The first call for it makes them,
    /// for `workers` workers of the process.
    pub fn of_operator(
        &self,
        number: usize,
        ranging: Ranging,
        process: usize,
        workers: usize,
    ) -> OpenRanges {
        let mut all = self.operators.lock().unwrap_or_else(|held| held.into_inner());
        while all.len() <= number {
            let (state, list_words_min) = (Mutex::default(), self.list_words_min);
            let kept = KeptRanges::new(ranging, process, self.kept_limit.clone());
            let shared = Shared { ranging, process, workers, list_words_min, kept, state };
            all.push(OpenRanges(Arc::new(shared)));
        }
        all[number].clone()
    }
}

/// The open ranges of one counting operator. Clones share them.
#[derive(Clone, Debug)]
pub struct OpenRanges(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ranging: Ranging,
    process: usize,
    /// Number of workers that drain a share each.
    workers: usize,
    list_words_min: usize,
    /// Memory of drained ranges, for those of later epochs.
    kept: KeptRanges,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The ranges of each epoch, with the number of shares that are drained.
    open: BTreeMap<Epoch, (Arc<Ranges>, usize)>,
    /// Says that the memory of drained ranges is kept, and for how long.
    spare: Spare<()>,
    /// True if the words of the newest known epoch were many and hardly repeated.
    is_likely: bool,
    /// Number of epochs that had ranges.
    opened: u64,
}

impl OpenRanges {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Returns the division of hashes into ranges.
    pub fn ranging(&self) -> Ranging {
        self.0.ranging
    }

    /// Returns the average number of occurrences of a distinct word below which words are counted
    /// by ranges.
    pub fn repeats_min(&self) -> u64 {
        if self.0.ranging.is_divided() { DIVIDED_REPEATS_MIN } else { REPEATS_MIN }
    }

    /// Returns the number of distinct words in a table from which words may be counted by ranges.
    pub fn list_words_min(&self) -> usize {
        self.0.list_words_min
    }

    /// Returns true if the words of a new epoch are likely to be counted by ranges.
    ///
    /// Ranges that are open count as kept ones do: an epoch may begin before the one before it is
    /// drained.
    pub fn is_likely(&self) -> bool {
        let state = self.state();
        state.is_likely && (state.spare.has() || !state.open.is_empty())
    }

    /// Notes that the words of an open epoch are many and hardly repeat.
    pub fn note_likely(&self) {
        self.state().is_likely = true;
    }

    /// Returns the ranges of an epoch, and true if this call made them.
    pub fn open(&self, epoch: Epoch) -> (Arc<Ranges>, bool) {
        let mut state = self.state();
        if let Some((ranges, _)) = state.open.get(&epoch) {
            return (Arc::clone(ranges), false);
        }
        let Shared { ranging, process, kept, .. } = &*self.0;
        let ranges = Arc::new(Ranges::with(kept.clone(), *ranging, *process));
        state.open.insert(epoch, (Arc::clone(&ranges), 0));
        state.opened += 1;
        (ranges, true)
    }

    /// Returns the ranges of an epoch, if there are any.
    pub fn get(&self, epoch: Epoch) -> Option<Arc<Ranges>> {
        self.state().open.get(&epoch).map(|(ranges, _)| Arc::clone(ranges))
    }

    /// Notes that a worker has drained its share. After the last one the memory of the ranges is
    /// freed, unless the next epoch is likely to need it.
    pub fn drained(&self, epoch: Epoch) {
        let mut state = self.state();
        let Some((_, drained)) = state.open.get_mut(&epoch) else { return };
        *drained += 1;
        if *drained < self.0.workers {
            return;
        }
        let Some((ranges, _)) = state.open.remove(&epoch) else { return };
        let (words, distinct) = ranges.take_sums();
        // Open epochs must not keep ranges in use that this one did not need.
        state.is_likely =
            distinct >= self.0.list_words_min as u64 && words < self.repeats_min() * distinct;
        if state.is_likely {
            state.spare.keep(());
        } else {
            self.0.kept.clear();
        }
    }

    /// Notes the first open epoch, and frees memory of ranges that was not used for some epochs.
    pub fn pass(&self, first_open: Option<&Epoch>) {
        let mut state = self.state();
        if state.spare.has() {
            state.spare.pass(first_open);
            if !state.spare.has() {
                self.0.kept.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIKELY_WORDS_MIN: u64 = LIST_WORDS_MIN as u64;

    /// Drains the ranges of an epoch in both workers, with `distinct` words of `words`.
    fn count(open: &OpenRanges, epoch: Epoch, distinct: u64, words: u64) {
        let (ranges, is_first) = open.open(epoch);
        assert!(is_first && !open.open(epoch).1);
        for number in 0..distinct {
            let word = number.to_string();
            ranges.add_word(crate::words::hash(word.as_bytes()), word.as_bytes(), 1);
        }
        ranges.note_words(words);
        for worker in 0..2 {
            let open_ranges = open.get(epoch).expect("they are open");
            open_ranges.drain(open_ranges.share(worker, 2), |_, _, _| ());
            open.drained(epoch);
        }
        assert!(open.get(epoch).is_none());
    }

    #[test]
    fn ranges_are_kept_while_words_hardly_repeat() {
        let all = ProcessRanges::default();
        let of = |number| all.of_operator(number, Ranging::new(1), 0, 2);
        let open = of(0);
        assert!(!open.is_likely());
        count(&open, 10, LIKELY_WORDS_MIN, LIKELY_WORDS_MIN * 3);
        assert!(of(0).is_likely() && !of(1).is_likely());
        let kept_bytes = || open.0.kept.heap_bytes();
        assert!(kept_bytes() > LIST_WORDS_MIN * 16);
        open.open(20);
        (0..2).for_each(|_| open.drained(20));
        assert!(!open.is_likely() && kept_bytes() == 0, "no words");
        count(&open, 30, LIKELY_WORDS_MIN, LIKELY_WORDS_MIN * REPEATS_MIN);
        assert!(!open.is_likely(), "words repeat");
        count(&open, 40, LIKELY_WORDS_MIN, LIKELY_WORDS_MIN);
        open.pass(Some(&41));
        assert!(kept_bytes() > LIST_WORDS_MIN * 16);
        (42..50).for_each(|epoch| open.pass(Some(&epoch)));
        assert!(!open.is_likely() && kept_bytes() == 0, "unused for some epochs");
    }

    #[test]
    fn ranges_stay_likely_for_all_overlapping_epochs() {
        let all = ProcessRanges::listing_from(1);
        let open = all.of_operator(0, Ranging::new(1), 0, 1);
        let add = |epoch, words| {
            let (ranges, _) = open.open(epoch);
            ranges.add_word(crate::words::hash(b"tide"), b"tide", 1);
            ranges.note_words(words);
        };
        let end = |epoch| {
            open.get(epoch).expect("they are open").drain(0..256, |_, _, _| ());
            open.drained(epoch);
        };
        add(10, 1);
        assert!(!open.is_likely(), "another process began to list");
        open.note_likely();
        assert!(open.is_likely(), "before the first epoch is drained");
        end(10);
        add(20, 1);
        assert!(open.is_likely(), "for the second worker of an epoch");
        add(30, 1);
        open.get(20).expect("they are open").note_words(REPEATS_MIN);
        end(20);
        assert!(!open.is_likely(), "words repeat, though the next epoch is open");
        end(30);
        assert!(open.is_likely() && all.opened() == 3);
    }
}
