//! The most frequent words: each worker ranks its own, worker 0 merges the rankings.
//!
//! Each word is counted by one worker, so the best `k` of all are among the best `k` of each: no
//! more than `k` words a worker are exchanged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use super::epoch_ticks::{AtTicks, Stash, at_ticks};
use super::rows::{EpochRows, Row, RowSet, Rows};
use crate::epoch::Epoch;

/// A word in a ranking. More frequent words compare as less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct RankedWord {
    /// The count, by which words are ranked first.
    count: Reverse<i64>,
    /// The word, by which equal counts are ranked, ascending.
    word: Vec<u8>,
}

/// Returns the first `k` rows by descending count, then by word.
pub fn top<'s>(rows: Rows<'s>, k: usize) -> Rows<'s> {
    let Rows { stream, ticks, context, grid, kind } = rows;
    let local = WorkerRanking { k, rows: Stash::new() };
    let places = at_ticks(stream, Pipeline, ticks.clone(), "Top of a worker", local);
    let to_first = Exchange::new(|_: &(Epoch, RankedWord)| 0);
    let global = JobRanking { k, places: Stash::new() };
    let stream = at_ticks(places, to_first, ticks.clone(), "Top of all", global);
    Rows { stream, ticks, context, grid, kind }
}

/// The operator state that ranks the words of one worker.
struct WorkerRanking {
    /// The number of words in a ranking.
    k: usize,
    /// The rows of epochs that are not complete.
    rows: Stash<EpochRows>,
}

impl AtTicks<Vec<EpochRows>> for WorkerRanking {
    type Out = (Epoch, RankedWord);

    fn absorb(&mut self, rows: &mut Vec<EpochRows>) {
        rows.drain(..).for_each(|rows| self.rows.push(rows.epoch, rows));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut((Epoch, RankedWord))) {
        // The heap has the least frequent of the best words on top, to be compared and replaced.
        let mut best: BinaryHeap<RankedWord> = BinaryHeap::new();
        for set in self.rows.take(epoch) {
            set.rows.for_each(&mut |row| {
                let Row::Count { word, count, .. } = row else { return };
                let count = Reverse(count);
                if best.len() == self.k {
                    let worse =
                        |worst: &RankedWord| (count, word) >= (worst.count, &worst.word[..]);
                    if best.peek().is_none_or(worse) {
                        return;
                    }
                    best.pop();
                }
                best.push(RankedWord { count, word: word.to_vec() });
            });
        }
        best.into_iter().for_each(|place| send((epoch, place)));
    }
}

/// The operator state that merges the rankings on worker 0.
struct JobRanking {
    /// The number of words in the ranking.
    k: usize,
    /// The words of all workers' rankings.
    places: Stash<RankedWord>,
}

impl AtTicks<Vec<(Epoch, RankedWord)>> for JobRanking {
    type Out = EpochRows;

    fn absorb(&mut self, places: &mut Vec<(Epoch, RankedWord)>) {
        places.drain(..).for_each(|(epoch, place)| self.places.push(epoch, place));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        let mut places = self.places.take(epoch);
        if places.is_empty() {
            return;
        }
        places.sort_unstable();
        places.truncate(self.k);
        send(EpochRows { epoch, rows: Arc::new(Ranking { places }) });
    }
}

/// The ranking of one epoch.
struct Ranking {
    /// The words, the most frequent first.
    places: Vec<RankedWord>,
}

impl RowSet for Ranking {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for RankedWord { count, word } in &self.places {
            visit(Row::Ranked { word, count: count.0 });
        }
    }
}
