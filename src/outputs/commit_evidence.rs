//! The evidence of former commits beside journals and markers.

use super::commit_log::{Attempt, Attempts};
use super::state_ids::Ids;
use crate::epoch::Epoch;

/// The evidence of former commits beside journals and markers.
#[derive(Clone, Debug, Default)]
pub struct CommitEvidence {
    /// The state ids of the job: markers that bear them are its own.
    pub ids: Ids,
    /// The newest epoch that is known to be committed, be its marker there or not.
    pub settled: Option<Epoch>,
    /// The epoch that process 0 was about to commit when it noted it last.
    pub attempt: Option<Attempt>,
    /// The newest epoch that is known to be committed below the prefix, by any job.
    pub used: Option<Epoch>,
    /// The ids of the journals whose epochs are looked up.
    pub journals: Vec<String>,
}

impl CommitEvidence {
    /// Gathers what the processes found; `claimed` is the newest committed epoch that an own
    /// claim names.
    pub fn of(ids: Ids, found: &[Attempts], claimed: Option<Epoch>) -> CommitEvidence {
        // Only process 0 can retract an attempt in its own log, before it removes an epoch's parts.
        let attempt = found.first().and_then(|own| own.last);
        let settled = found.iter().filter_map(|log| log.settled).max().max(claimed);
        CommitEvidence { ids, settled, attempt, used: None, journals: Vec::new() }
    }

    /// The newest epoch that was ever about to be committed: its name is used.
    pub fn newest(&self) -> Option<Epoch> {
        self.attempt.map(|attempt| attempt.epoch).max(self.settled).max(self.used)
    }
}
