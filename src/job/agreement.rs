//! The agreement of a job's processes before anything is read.
//!
//! Each process sends what it found of former runs; process 0 decides with that, and the others
//! apply its decision. [`fingerprint`] names what they must have in common from the beginning.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control_messages::{WHILE_ALIVE, decode, encode};
use super::find_journals::JournalList;
use super::recover_epochs::RecoveryPlan;
use crate::cluster::{self, Control, JobFingerprint};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::{Attempts, Ids, NewestChanges, Standing};
use crate::state::Identity;
use crate::worker::ExplainPanic;

/// How long a panic that follows from a lost peer waits for the cause.
pub const CAUSE_WAIT: Duration = Duration::from_secs(1);

/// Returns the settings that all processes of a job must share, by the names of flags.
pub fn fingerprint(identity: &Identity, sources: String) -> JobFingerprint {
    let Identity { definition, interval_ms, parts, words, line_bytes_max, .. } = identity;
    JobFingerprint::of([
        ("the version", env!("CARGO_PKG_VERSION").to_owned()),
        ("the definition or its parameters", definition.clone()),
        ("--interval", interval_ms.to_string()),
        ("--parts", parts.to_string()),
        ("--to or --suffix", format!("{} {:?}", identity.output, identity.suffix)),
        (
            "--split, --lowercase, --max-word-bytes or --max-line-bytes",
            format!("{words:?} {line_bytes_max}"),
        ),
        ("the number, kinds or places of sources", sources),
        (
            "--format, --sort, --empty-epochs or another flag that shapes the output",
            identity.digest(),
        ),
    ])
}

/// The traces of former runs: those that one process found, or those of all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerRuns {
    /// The journals that each process sees, in order of the processes.
    pub journals: Vec<JournalList>,
    /// The state ids in the folder of each process, in the same order.
    pub ids: Vec<Ids>,
    /// The commit log of each process, in the same order: only that of process 0 is written, but
    /// the processes may have changed places.
    pub attempts: Vec<Attempts>,
    /// The newest changes of totals and windows that the folders name.
    pub changes: Vec<NewestChanges>,
    /// The first epoch that the job ever opened.
    pub begun: Option<Epoch>,
}

impl FormerRuns {
    /// Returns the newest committed epoch with a result, as [`FormerRuns::result`], and true if
    /// that is proven. `later` is a committed epoch that the state does not know.
    pub fn newest_result(&self, through: Epoch, later: Option<Epoch>) -> (Option<Epoch>, bool) {
        match later {
            Some(_) => (later, false),
            None => (self.result(through), self.is_result_proven()),
        }
    }

    /// Returns the newest epoch with a result among the committed ones up to `through`; 0 if none
    /// had a result, and `None` if no commit log was found.
    fn result(&self, through: Epoch) -> Option<Epoch> {
        self.attempts.iter().filter_map(|log| log.result(through)).max()
    }

    /// Returns true if no commit log has lost a note with the power, so that no later epoch than
    /// [`FormerRuns::result`] was committed with a result.
    fn is_result_proven(&self) -> bool {
        let mut kept = self.attempts.iter().filter(|log| log.is_kept).peekable();
        kept.peek().is_some() && kept.all(|log| log.is_synced)
    }

    /// Adds what another process found. The processes are added in order.
    fn add(&mut self, other: FormerRuns) {
        self.journals.extend(other.journals);
        self.ids.extend(other.ids);
        self.attempts.extend(other.attempts);
        self.changes.extend(other.changes);
        self.begun = self.begun.max(other.begun);
    }
}

/// The decision of process 0, which all processes of a job apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The first epoch that is opened.
    pub open: Epoch,
    /// Parts of a result.
    pub parts: u32,
    /// The epochs to count again and those that are committed.
    pub recovery_plan: RecoveryPlan,
    /// The newest committed epoch with a result; 0 if none had one, `None` if that is not known.
    pub result: Option<Epoch>,
    /// True if no later epoch with a result was ever committed, whatever the machine has lost.
    pub is_result_proven: bool,
    /// The newest committed changes of totals and windows, as far as the state knows of them.
    pub changes: NewestChanges,
    /// The first epoch that the job ever opened: what it remembers bears that number.
    pub begun: Epoch,
    /// The first epoch of the job before it, if that has finished: its changelog is removed.
    pub finished: Option<Epoch>,
    /// The note of process 0 in the lock of a local output, for the others to find there.
    pub lock_note: Option<String>,
    /// The state ids that the job goes by and went by.
    pub ids: Ids,
    /// The claim on the prefix of an object store.
    pub claim: Option<Standing>,
    /// True if process 0 is watched, so that the others send it their figures.
    pub is_watched: bool,
}

impl Agreement {
    /// Lets process 0 decide with what all have `found`; every process returns its
    /// decision.
    ///
    /// Fails with `PeerLost` if a process is lost before all have agreed, and with the error of
    /// `decide` in every process.
    pub fn reach(
        control: &Control,
        found: &FormerRuns,
        decide: impl FnOnce(&FormerRuns) -> Result<Agreement>,
    ) -> Result<Agreement> {
        let facts = encode(found)?;
        let answer = control.agree(facts, WHILE_ALIVE, |facts| {
            let mut found = FormerRuns::default();
            facts.iter().try_for_each(|facts| decode(facts).map(|of_one| found.add(of_one)))?;
            encode(&decide(&found)?)
        })?;
        decode(&answer)
    }
}

impl Agreement {
    /// The newest epoch of which all that came before and in it is committed.
    pub fn committed_through(&self) -> Epoch {
        self.recovery_plan.committed_before(self.open)
    }
}

/// Returns what turns the message of a worker's panic into the cause of the job's end: a panic in
/// timely may only follow from a lost peer, and then the control links know which and why.
pub fn explain_panic(control: Control) -> ExplainPanic {
    Arc::new(move |text| {
        if cluster::is_of_malformed_data(text) {
            let message = format!("another process of the cluster sent malformed data: {text}");
            return Some(Error::new(ErrorKind::PeerLost, message));
        }
        if !cluster::follows_a_loss(text) {
            return None;
        }
        Some(control.cause_within(CAUSE_WAIT)?.into())
    })
}
