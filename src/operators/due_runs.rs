//! Runs that wait for their epochs to be complete, and the retractions of windows.

use std::collections::BTreeMap;

use super::run::Run;
use crate::epoch::Epoch;

/// Runs by epoch. With a window, the counts of an epoch are retracted one window later. The
/// retractions are made here, at the worker that owns the words, so they cost no traffic.
#[derive(Debug, Default)]
pub struct DueRuns {
    pub(super) runs: RunsByEpoch,
    /// Length of the window in milliseconds; `None` to retract nothing.
    window_ms: Option<u64>,
    /// Retractions to come, by their time.
    retractions: BTreeMap<Epoch, Run>,
}

impl DueRuns {
    /// Begins without runs; counts are retracted after `window_ms` milliseconds, if given.
    pub fn over(window_ms: Option<u64>) -> DueRuns {
        DueRuns { window_ms, ..DueRuns::default() }
    }

    /// Adds a run.
    pub fn insert(&mut self, run: &mut Run) {
        self.runs.insert(run);
    }

    /// Removes the runs and retractions before `upper`, or all of them at the end of input, and
    /// returns the sum of each time, ascending.
    ///
    /// At the end of input all retractions are due: one that is still held would keep the dataflow
    /// alive for ever, and no epoch follows that could show it.
    pub fn sums_before(&mut self, upper: Option<&Epoch>) -> impl Iterator<Item = Run> + use<> {
        let mut due = self.runs.split_before(upper);
        if let Some(window_ms) = self.window_ms {
            let ready = std::mem::take(&mut due);
            for (epoch, run) in
                ready.into_iter().filter_map(|(at, runs)| Some((at, Run::sum(runs)?)))
            {
                let end = epoch + window_ms;
                self.retractions.insert(end, run.negated_at(end));
                due.insert(epoch, vec![run]);
            }
            // Also those of the runs above, if their window has ended already.
            let kept = upper.map_or_else(BTreeMap::new, |upper| self.retractions.split_off(upper));
            for (epoch, run) in std::mem::replace(&mut self.retractions, kept) {
                due.entry(epoch).or_default().push(run);
            }
        }
        due.into_values().filter_map(Run::sum)
    }

    /// Removes the runs and retractions up to and including `epoch`, and returns their sum.
    pub fn sum_through(&mut self, epoch: Epoch) -> Option<Run> {
        let due = self.sums_before(Some(&(epoch + 1))).collect();
        Some(Run::add_up(due, epoch)).filter(|run| !run.is_empty())
    }

    /// Returns the least time of a run or retraction that is still held.
    pub fn first(&self) -> Option<Epoch> {
        self.runs.first().into_iter().chain(self.retractions.keys().next()).min().copied()
    }
}

/// Runs that wait for their epochs to be complete.
#[derive(Debug, Default)]
pub struct RunsByEpoch {
    pub(super) epochs: BTreeMap<Epoch, Vec<Run>>,
}

impl RunsByEpoch {
    /// Adds a run.
    ///
    /// A run that continues another one is appended to it, so that the pieces of one sender become
    /// one run.
    pub fn insert(&mut self, run: &mut Run) {
        let run = std::mem::take(run);
        let runs = self.epochs.entry(run.epoch).or_default();
        let before = runs.iter_mut().filter(|before| before.precedes(&run));
        match before.max_by(|a, b| a.last().cmp(&b.last())) {
            // Another process sends a run in pieces, in order. If the piece fits after several
            // runs, the one that reaches furthest is its own predecessor, or serves as well.
            Some(before) => before.append(&run),
            None => runs.push(run),
        }
    }

    /// Removes the runs of `epoch` and returns their sum.
    pub fn add_up(&mut self, epoch: Epoch) -> Option<Run> {
        self.epochs.remove(&epoch).and_then(Run::sum)
    }

    /// Removes and returns the runs of epochs before `upper`, or all runs if there is no such
    /// bound.
    pub fn split_before(&mut self, upper: Option<&Epoch>) -> BTreeMap<Epoch, Vec<Run>> {
        let kept = upper.map_or_else(BTreeMap::new, |upper| self.epochs.split_off(upper));
        std::mem::replace(&mut self.epochs, kept)
    }

    /// Returns the least epoch that has runs.
    fn first(&self) -> Option<&Epoch> {
        self.epochs.keys().next()
    }
}
