//! The operator that keeps totals or windows and publishes them.
//!
//! Each worker receives the runs of the words it owns, and keeps their sums in a [`Base`]. At a
//! tick the runs that are due are added up and merged into the base in one pass. The result is a
//! snapshot of the base, or the words that the merge changed.

use std::mem;
use std::sync::Arc;

use super::due_runs::DueRuns;
use super::epoch_ticks::AtTicks;
use super::rows::{EpochRows, rows_of};
use super::run::Run;
use super::spare_runs;
use super::totals_base::Base;
use super::window::Grid;
use crate::epoch::Epoch;

/// The rows that are published of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All words.
    All,
    /// The words whose sum differs from the previous result; 0 for a word that is gone.
    Changed,
}

/// A record of the operator: rows, or by how much the number of distinct words has grown.
pub type RowsOrGrowth = Result<EpochRows, (Epoch, i64)>;

/// The operator state that keeps sums and publishes them.
pub struct Sums {
    /// Runs that are not added yet, and retractions to come.
    runs: DueRuns,
    /// Updates since the previous result, of which the base knows nothing yet. A long run is after
    /// a run of at least twice its length.
    held: Vec<Run>,
    /// The sums as of the last result.
    base: Base,
    /// The epochs that have a result.
    grid: Grid,
    /// The rows that a result has.
    shown: Shown,
    /// The epoch of the previous result.
    since: Epoch,
}

impl Sums {
    /// Makes the state of sums that are published at the epochs of `grid`. Counts are taken back
    /// after `window_ms`, if given. Counts up to `since` belong to the previous result.
    pub fn new(window_ms: Option<u64>, grid: Grid, shown: Shown, since: Epoch) -> Sums {
        let runs = DueRuns::over(window_ms);
        Sums { runs, held: Vec::new(), base: Base::default(), grid, shown, since }
    }

    /// Adds all updates up to `epoch` to the base and ignores the changes.
    fn add_through(&mut self, epoch: Epoch) {
        if let Some(mut run) = self.runs.sum_through(epoch) {
            self.base.add(&mut run);
            spare_runs::keep(run);
        }
    }

    /// Keeps a run for the next result. Runs are added up so that their number stays small.
    fn hold(&mut self, mut run: Run, epoch: Epoch) {
        while let Some(before) = self.held.pop_if(|before| before.len() < 2 * run.len()) {
            run = Run::add_up(vec![before, run], epoch);
        }
        self.held.push(run);
    }

    /// Adds the held updates to the base. Returns the words whose sums changed, with their sums.
    fn changes(&mut self, epoch: Epoch) -> Run {
        let mut run = Run::add_up(mem::take(&mut self.held), epoch);
        self.base.add(&mut run);
        run
    }

    /// Publishes the result of an epoch.
    fn result(&mut self, epoch: Epoch) -> Option<EpochRows> {
        match self.shown {
            Shown::All => {
                self.add_through(epoch);
                let rows = || EpochRows { epoch, rows: Arc::new(self.base.clone()) };
                self.grid.contains(epoch).then(rows)
            }
            Shown::Changed => {
                // Only at the first tick: restored counts that the previous result had.
                self.add_through(self.since);
                if let Some(run) = self.runs.sum_through(epoch) {
                    self.hold(run, epoch);
                }
                if !self.grid.contains(epoch) {
                    return None;
                }
                self.since = epoch;
                let changes = self.changes(epoch);
                (!changes.is_empty()).then(|| EpochRows { epoch, rows: rows_of(changes) })
            }
        }
    }
}

impl AtTicks<Run> for Sums {
    type Out = RowsOrGrowth;

    fn absorb(&mut self, run: &mut Run) {
        self.runs.insert(run);
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(RowsOrGrowth)) {
        let words = self.base.words();
        let result = self.result(epoch);
        let growth = self.base.words() as i64 - words as i64;
        send(Err((epoch, growth)));
        if let Some(rows) = result {
            send(Ok(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::rows::Row;
    use crate::words;

    fn run(epoch: Epoch, words: &[(&str, i64)]) -> Run {
        let mut sorted: Vec<_> = words
            .iter()
            .map(|(word, count)| (words::hash(word.as_bytes()), *word, *count))
            .collect();
        sorted.sort_unstable();
        let mut run = Run { epoch, ..Run::default() };
        sorted.iter().for_each(|(hash, word, count)| run.push(*hash, word.as_bytes(), *count));
        run
    }

    /// Publishes `epoch` and returns its rows in the order of their words, if it has a result.
    fn published(sums: &mut Sums, epoch: Epoch) -> Option<Vec<(String, i64)>> {
        let mut result = None;
        sums.publish(epoch, &mut |out| {
            let Ok(EpochRows { rows, .. }) = out else { return };
            let mut shown = Vec::new();
            rows.for_each(&mut |row| match row {
                Row::Count { word, count, .. } => {
                    shown.push((String::from_utf8_lossy(word).into_owned(), count));
                }
                _ => panic!("{row:?}"),
            });
            shown.sort_unstable();
            result = Some(shown);
        });
        result
    }

    fn shown(rows: &[(&str, i64)]) -> Option<Vec<(String, i64)>> {
        Some(rows.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect())
    }

    #[test]
    fn window_takes_counts_back_at_its_end() {
        let mut sums = Sums::new(Some(20), Grid::ALL, Shown::All, 0);
        sums.absorb(&mut run(10, &[("a", 3), ("b", 1)]));
        sums.absorb(&mut run(20, &[("a", 1)]));
        assert_eq!(published(&mut sums, 10), shown(&[("a", 3), ("b", 1)]));
        assert_eq!(published(&mut sums, 20), shown(&[("a", 4), ("b", 1)]));
        // The epoch of 30 was skipped; the run of 40 comes before its tick.
        sums.absorb(&mut run(40, &[("c", 1)]));
        assert_eq!(published(&mut sums, 35), shown(&[("a", 1)]));
        assert_eq!(published(&mut sums, 40), shown(&[("c", 1)]));
        assert_eq!(published(&mut sums, 90), shown(&[]));
    }

    #[test]
    fn changes_add_up_between_results() {
        let mut sums = Sums::new(None, Grid::every(100), Shown::Changed, 0);
        for epoch in 1..=99 {
            let word = format!("w{}", epoch % 7);
            sums.absorb(&mut run(epoch, &[(&word, 1), ("all", 1)]));
            assert_eq!(published(&mut sums, epoch), None);
            assert!(sums.held.len() <= 8, "{} runs", sums.held.len());
        }
        let rows = published(&mut sums, 100).expect("a result");
        assert_eq!((rows.len(), &rows[0]), (8, &("all".to_owned(), 99)));
        assert_eq!(published(&mut sums, 200), None, "nothing changed");
        sums.absorb(&mut run(250, &[("w1", 1)]));
        assert_eq!(published(&mut sums, 300), shown(&[("w1", 16)]));
    }

    #[test]
    fn counts_of_the_previous_result_are_no_changes() {
        let mut sums = Sums::new(Some(50), Grid::ALL, Shown::Changed, 30);
        sums.absorb(&mut run(20, &[("old", 2)]));
        sums.absorb(&mut run(30, &[("a", 2)]));
        sums.absorb(&mut run(40, &[("a", 1)]));
        assert_eq!(published(&mut sums, 40), shown(&[("a", 3)]));
        assert_eq!(published(&mut sums, 70), shown(&[("old", 0)]));
        assert_eq!(published(&mut sums, 100), shown(&[("a", 0)]));
    }
}
