//! From runs to differential's batches, without rebuilding anything.
//!
//! Differential's arrange operator collects updates in a *batcher* and, when the frontier passes,
//! extracts them as an immutable sorted *batch*. Ours keeps the runs it receives and extracts by
//! adding them up linearly; where an epoch has one run (a single worker, or a frontier that moved
//! one epoch), the run's columns become the batch as they stand. The count of a word is the diff of
//! its update: nothing is ever inserted count times.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use differential_dataflow::batcher::{Batcher, Extract};
use differential_dataflow::trace::implementations::BatchContainer;
use differential_dataflow::trace::implementations::ord_neu::key_batch::OrdKeyStorage;
use differential_dataflow::trace::implementations::ord_neu::layers::Upds;
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use timely::progress::frontier::{Antichain, AntichainRef};

use super::columns::{Offsets, Times, WordColumn, WordRef};
use super::merger::WordBatch;
use super::run::Run;
use crate::epoch::Epoch;

/// How a batch of words is laid out: words as keys, no values, counts as diffs.
pub type WordLayout = (WordColumn, Vec<()>, Times, Vec<i64>, Offsets);

/// A trace of word counts: the batches of all epochs, merged as they age.
pub type WordSpine = Spine<Rc<WordBatch>>;

/// Collects runs by epoch; extracts them as batches.
///
/// With a window it takes back what it gave: the counts of an epoch are retracted one window later.
/// The retractions are made here, at the words' owner, so they cost no traffic.
#[derive(Debug)]
pub struct RunBatcher {
    runs: RunsByEpoch,
    window_ms: Option<u64>,
    /// What will be taken back, by the time of that.
    retractions: BTreeMap<Epoch, Run>,
    /// The least epoch still held, as the arrange operator wants to borrow it.
    least: Antichain<Epoch>,
}

impl RunBatcher {
    /// An empty batcher that takes nothing back.
    pub fn new() -> Self {
        RunBatcher::over(None)
    }

    /// An empty batcher that takes counts back after `window_ms` milliseconds, where given.
    pub fn over(window_ms: Option<u64>) -> Self {
        let (runs, retractions) = (RunsByEpoch::default(), BTreeMap::new());
        RunBatcher { runs, window_ms, retractions, least: Antichain::new() }
    }

    /// Adds up what is to be released, and schedules its retraction.
    fn release(&mut self, ready: BTreeMap<Epoch, Vec<Run>>) -> BTreeMap<Epoch, Vec<Run>> {
        let Some(window_ms) = self.window_ms else { return ready };
        let mut released = BTreeMap::new();
        for (epoch, runs) in ready {
            let Some(run) = add_up(runs) else { continue };
            self.retractions.insert(epoch + window_ms, run.negated_at(epoch + window_ms));
            released.insert(epoch, vec![run]);
        }
        released
    }

    /// Adds the retractions that are due before `upper`. At the end of input all are: to hold on to
    /// those of the future would keep the dataflow alive for ever, and nobody looks at their times.
    fn retract(&mut self, upper: Option<&Epoch>, released: &mut BTreeMap<Epoch, Vec<Run>>) {
        let kept = match upper {
            Some(first_open) => self.retractions.split_off(first_open),
            None => BTreeMap::new(),
        };
        for (epoch, run) in std::mem::replace(&mut self.retractions, kept) {
            released.entry(epoch).or_default().push(run);
        }
    }
}

impl Default for RunBatcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Batcher<Run> for RunBatcher {
    fn insert(&mut self, run: &mut Run) {
        self.runs.insert(run);
    }
}

impl Extract for RunBatcher {
    type Time = Epoch;
    type Output = WordBatch;

    fn extract<'a>(
        &'a mut self,
        upper: AntichainRef<'_, Epoch>,
    ) -> (Option<WordBatch>, AntichainRef<'a, Epoch>) {
        let ready = self.runs.split_before(upper.first());
        let mut released = self.release(ready);
        self.retract(upper.first(), &mut released);
        let held = self.runs.first().into_iter().chain(self.retractions.keys().next());
        self.least = held.min().copied().into_iter().collect();
        let by_epoch = released.into_values().filter_map(add_up).collect();
        (batch(by_epoch), self.least.borrow())
    }
}

/// Runs that wait for their epochs to be complete.
#[derive(Debug, Default)]
pub(super) struct RunsByEpoch {
    epochs: BTreeMap<Epoch, Vec<Run>>,
}

impl RunsByEpoch {
    /// Takes a run in.
    pub(super) fn insert(&mut self, run: &mut Run) {
        let run = std::mem::take(run);
        let runs = self.epochs.entry(run.epoch).or_default();
        let before = runs.iter_mut().filter(|before| before.precedes(&run));
        match before.max_by(|a, b| a.last().cmp(&b.last())) {
            // The next piece of what another process sends, whose pieces come in order. Of several
            // that it fits behind, the one that reaches furthest is the sender's own, or as good.
            Some(before) => before.append(&run),
            None => runs.push(run),
        }
    }

    /// Takes out what came in `epoch`, added up.
    pub(super) fn add_up(&mut self, epoch: Epoch) -> Option<Run> {
        self.epochs.remove(&epoch).and_then(add_up)
    }

    /// Takes out the epochs before `upper`; all, where there is no such bound.
    fn split_before(&mut self, upper: Option<&Epoch>) -> BTreeMap<Epoch, Vec<Run>> {
        let kept = upper.map_or_else(BTreeMap::new, |upper| self.epochs.split_off(upper));
        std::mem::replace(&mut self.epochs, kept)
    }

    /// The least epoch of which runs are here.
    fn first(&self) -> Option<&Epoch> {
        self.epochs.keys().next()
    }
}

/// Adds up the runs of one epoch, the two smallest first, so that no word is copied more often
/// than the logarithm of their number.
pub(super) fn add_up(mut runs: Vec<Run>) -> Option<Run> {
    while runs.len() > 1 {
        runs.sort_unstable_by_key(|run| Reverse(run.len()));
        let (a, b) = (runs.pop()?, runs.pop()?);
        runs.push(a.merge(&b));
    }
    runs.pop().filter(|run| !run.is_empty())
}

/// One batch of runs of different epochs, ascending.
fn batch(mut runs: Vec<Run>) -> Option<WordBatch> {
    if runs.len() > 1 {
        return Some(interleave(&runs));
    }
    let Run { epoch, words, counts, .. } = runs.pop()?;
    Some(WordBatch::at(epoch, words, counts))
}

/// The frontier moved over several epochs at once (a worker was late): one batch holds them all,
/// each word with an update for every epoch that has it.
fn interleave(runs: &[Run]) -> WordBatch {
    let mut keys = WordColumn::default();
    let mut upds = Upds::<Offsets, Times, Vec<i64>>::default();
    let head = |run: usize, at: usize| -> Option<Reverse<(WordRef<'_>, usize, usize)>> {
        (at < runs[run].len()).then(|| Reverse((runs[run].words.index(at), run, at)))
    };
    // The next word of every run, the least of all on top; of equal ones the earlier epoch.
    let mut heads: BinaryHeap<_> = (0..runs.len()).filter_map(|run| head(run, 0)).collect();
    while let Some(Reverse((word, run, at))) = heads.pop() {
        upds.times.push_ref(runs[run].epoch);
        upds.diffs.push(runs[run].counts[at]);
        heads.extend(head(run, at + 1));
        if heads.peek().is_none_or(|Reverse((next, _, _))| *next != word) {
            keys.push_ref(word);
            upds.offs.push_ref(upds.diffs.len());
        }
    }
    WordBatch::new(keys, upds)
}

/// The times at which a batch has updates.
pub(super) trait Epochs {
    /// Each once, ascending.
    fn epochs(&self) -> BTreeSet<Epoch>;
}

impl Epochs for WordBatch {
    fn epochs(&self) -> BTreeSet<Epoch> {
        self.storage.upds.times.spans().collect()
    }
}

/// The updates of `batch` at `epoch`, ascending by (hash, word).
pub(super) fn updates_at(
    batch: &WordBatch,
    epoch: Epoch,
) -> impl Iterator<Item = (WordRef<'_>, i64)> {
    let OrdKeyStorage { keys, upds } = &batch.storage;
    (0..keys.len()).flat_map(move |key| {
        let (start, end) = upds.bounds(key);
        (start..end)
            .map(|update| upds.get_abs(update))
            .filter(move |(time, _)| *time == epoch)
            .map(move |(_, count)| (keys.index(key), *count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(epoch: Epoch, words: &[(u64, &str, i64)]) -> Run {
        let mut run = Run { epoch, ..Run::default() };
        words.iter().for_each(|(hash, word, count)| run.push(*hash, word.as_bytes(), *count));
        run
    }

    fn extract(batcher: &mut RunBatcher, upper: &[Epoch]) -> (Option<WordBatch>, Vec<Epoch>) {
        let upper: Antichain<Epoch> = upper.iter().copied().collect();
        let (batch, least) = batcher.extract(upper.borrow());
        (batch, least.to_vec())
    }

    fn rows(batch: &WordBatch, epoch: Epoch) -> Vec<(String, i64)> {
        updates_at(batch, epoch)
            .map(|(word, count)| (String::from_utf8_lossy(word.word).into_owned(), count))
            .collect()
    }

    #[test]
    fn only_epochs_before_the_frontier_are_extracted_and_the_rest_is_reported_held() {
        let mut batcher = RunBatcher::new();
        batcher.insert(&mut run(10, &[(1, "a", 1), (2, "b", 1)]));
        batcher.insert(&mut run(20, &[(1, "a", 5)]));
        batcher.insert(&mut run(10, &[(1, "a", 2)]));
        let (batch, least) = extract(&mut batcher, &[20]);
        assert_eq!(rows(&batch.unwrap(), 10), [("a".into(), 3), ("b".into(), 1)]);
        assert_eq!(least, [20]);
        let (batch, least) = extract(&mut batcher, &[]);
        assert_eq!(rows(&batch.unwrap(), 20), [("a".into(), 5)]);
        assert!(least.is_empty(), "a held time at the end of input would hang the dataflow");
    }

    #[test]
    fn a_frontier_that_jumps_over_epochs_keeps_them_apart_in_one_batch() {
        let mut batcher = RunBatcher::new();
        batcher.insert(&mut run(10, &[(1, "a", 1), (3, "c", 1)]));
        batcher.insert(&mut run(20, &[(1, "a", 5), (2, "b", 2)]));
        let batch = extract(&mut batcher, &[30]).0.unwrap();
        assert_eq!(rows(&batch, 10), [("a".into(), 1), ("c".into(), 1)]);
        assert_eq!(rows(&batch, 20), [("a".into(), 5), ("b".into(), 2)]);
        assert_eq!((rows(&batch, 30), batch.updates), (vec![], 4));
    }

    #[test]
    fn a_window_takes_counts_back_and_the_end_of_input_holds_nothing() {
        let mut batcher = RunBatcher::over(Some(20));
        batcher.insert(&mut run(10, &[(1, "a", 3)]));
        batcher.insert(&mut run(30, &[(1, "a", 3), (2, "b", 1)]));
        let (batch, least) = extract(&mut batcher, &[20]);
        assert_eq!((rows(&batch.unwrap(), 10), least), (vec![("a".into(), 3)], vec![30]));
        let (batch, least) = extract(&mut batcher, &[40]);
        let batch = batch.unwrap();
        assert_eq!(rows(&batch, 30), [("b".into(), 1)], "what cancels is no update");
        assert_eq!(least, [50]);
        let (batch, least) = extract(&mut batcher, &[]);
        assert_eq!(rows(&batch.unwrap(), 50), [("a".into(), -3), ("b".into(), -1)]);
        assert!(least.is_empty(), "a held time at the end of input would hang the dataflow");
    }

    #[test]
    fn pieces_of_several_senders_become_as_many_runs() {
        let piece = |from: u64| {
            let words: Vec<_> = (0..10).map(|k| (from + 10 * k, "w", 1)).collect();
            run(10, &words)
        };
        // Sender k has the hashes that are k modulo 3; a piece holds ten of them.
        let pieces: Vec<(u64, u64)> = (0..3).flat_map(|k| [(k, 0), (k, 1), (k, 2)]).collect();
        for order in
            [[0, 3, 6, 1, 4, 7, 2, 5, 8], [0, 1, 3, 2, 6, 4, 7, 8, 5], [6, 7, 8, 3, 4, 5, 0, 1, 2]]
        {
            let mut batcher = RunBatcher::new();
            for at in order {
                let (sender, number) = pieces[at];
                batcher.insert(&mut piece(sender + 100 * number));
            }
            assert!(
                batcher.runs.epochs[&10].len() <= 3,
                "{order:?}: {} runs",
                batcher.runs.epochs[&10].len()
            );
            let batch = extract(&mut batcher, &[20]).0.expect("words");
            assert_eq!(rows(&batch, 10).len(), 90);
        }
    }

    #[test]
    fn runs_that_cancel_leave_no_batch() {
        let mut batcher = RunBatcher::new();
        batcher.insert(&mut run(10, &[(1, "a", 1)]));
        batcher.insert(&mut run(10, &[(1, "a", -1)]));
        assert!(extract(&mut batcher, &[20]).0.is_none());
    }
}
