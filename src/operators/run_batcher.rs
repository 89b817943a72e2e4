//! The batcher: collects runs and extracts them as differential's batches.
//!
//! Differential's arrange operator collects updates in a *batcher* and, when the frontier advances,
//! extracts them as an immutable sorted *batch*. This batcher keeps the runs that it receives and
//! adds them up in one linear pass. If an epoch has one run (a single worker, or a frontier that
//! moved by one epoch), the columns of the run become the batch without a copy.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use differential_dataflow::batcher::{Batcher, Extract};
use differential_dataflow::trace::Span;
use differential_dataflow::trace::implementations::BatchContainer;
use differential_dataflow::trace::implementations::ord_neu::layers::Upds;
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use timely::dataflow::Stream;
use timely::progress::frontier::{Antichain, AntichainRef};

use super::columns::{Offsets, Times, WordColumn, WordRef};
use super::differential_batch::WordBatch;
use super::due_runs::DueRuns;
use super::run::Run;
use crate::epoch::Epoch;

/// A stream of arranged batches, as differential's arrange operator produces it.
pub type Batches<'s> = Stream<'s, Epoch, Vec<Span<Epoch, Rc<WordBatch>>>>;

/// A trace of word counts: the batches of all epochs, merged as they age.
pub type WordSpine = Spine<Rc<WordBatch>>;

/// Collects runs by epoch; extracts them as batches.
#[derive(Debug)]
pub struct RunBatcher {
    runs: DueRuns,
    /// The least epoch still held. The arrange operator borrows it from here.
    least: Antichain<Epoch>,
}

impl RunBatcher {
    /// Makes an empty batcher that retracts nothing.
    pub fn new() -> Self {
        RunBatcher::over(None)
    }

    /// Makes an empty batcher that retracts counts after `window_ms` milliseconds, if given.
    pub fn over(window_ms: Option<u64>) -> Self {
        RunBatcher { runs: DueRuns::over(window_ms), least: Antichain::new() }
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
        let by_epoch = self.runs.sums_before(upper.first()).collect();
        self.least = self.runs.first().into_iter().collect();
        (batch(by_epoch), self.least.borrow())
    }
}

/// Makes one batch of runs of different epochs, given in ascending order.
fn batch(mut runs: Vec<Run>) -> Option<WordBatch> {
    if runs.len() > 1 {
        return Some(interleave(&runs));
    }
    let Run { epoch, words, counts, .. } = runs.pop()?;
    Some(WordBatch::at(epoch, words, counts))
}

/// Makes one batch of several epochs, each word with an update for every epoch that has it.
///
/// This is needed when the frontier moves over several epochs at once, because a worker lagged.
fn interleave(runs: &[Run]) -> WordBatch {
    let mut keys = WordColumn::default();
    let mut upds = Upds::<Offsets, Times, Vec<i64>>::default();
    let head = |run: usize, at: usize| -> Option<Reverse<(WordRef<'_>, usize, usize)>> {
        (at < runs[run].len()).then(|| Reverse((runs[run].words.index(at), run, at)))
    };
    // The next word of every run, the least on top. Equal words come in the order of their epochs,
    // because runs are given in that order.
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
        batch
            .updates_at(epoch)
            .map(|(word, count)| (String::from_utf8_lossy(word.word).into_owned(), count))
            .collect()
    }

    #[test]
    fn extract_returns_only_epochs_before_the_frontier() {
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
    fn extract_over_several_epochs_keeps_them_apart() {
        let mut batcher = RunBatcher::new();
        batcher.insert(&mut run(10, &[(1, "a", 1), (3, "c", 1)]));
        batcher.insert(&mut run(20, &[(1, "a", 5), (2, "b", 2)]));
        let batch = extract(&mut batcher, &[30]).0.unwrap();
        assert_eq!(rows(&batch, 10), [("a".into(), 1), ("c".into(), 1)]);
        assert_eq!(rows(&batch, 20), [("a".into(), 5), ("b".into(), 2)]);
        assert_eq!((rows(&batch, 30), batch.updates), (vec![], 4));
    }

    #[test]
    fn window_retracts_counts_and_ends_with_input() {
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
    fn pieces_of_several_senders_become_one_run_each() {
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
                batcher.runs.runs.epochs[&10].len() <= 3,
                "{order:?}: {} runs",
                batcher.runs.runs.epochs[&10].len()
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
