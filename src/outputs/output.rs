//! The traits of an output: where epochs go.
//!
//! An [`Output`] is the place, opened before anything is read: it checks that it takes epochs,
//! finds its owner, which epochs are committed in it, and clears those that are not. Its
//! [`EpochWriter`] lives as long as the run: it writes the parts of an epoch and commits the epoch
//! with its marker. The operators and the job know nothing else of an output.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::changelog::ChangelogStore;
use super::commit_evidence::CommitEvidence;
use super::commit_log::CommitLog;
use super::durable_epochs::{DurableParts, SyncRounds};
use super::owner::Standing;
use super::publication::Publication;
use super::state_ids::Ids;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::file_lock::LockPatience;
use crate::meters::{Meters, SourcePositions};
use crate::operators::{EpochRows, RowKind, Tally};
use crate::store::{Body, Creation, PendingResults, StoreResult};

/// The place to which a job publishes its epochs.
pub trait Output: Debug + Send + Sync + 'static {
    /// Takes the lock on the output, if it is one that can be locked. Called by process 0, before
    /// it waits for the others. Waits with `patience` for a former run that ends.
    ///
    /// # Errors
    ///
    /// `Configuration` if another job on this host has it, and `Temporary` if that is ending.
    fn lock(&mut self, _patience: &LockPatience) -> Result<()> {
        Ok(())
    }

    /// Returns the note in the lock, for the other processes.
    fn lock_note(&self) -> Option<String> {
        None
    }

    /// Checks that this process sees the output of process 0, whose lock has the note `lock_note`.
    ///
    /// # Errors
    ///
    /// `Configuration` if it is another one.
    fn join(&self, _lock_note: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// Returns whether what was written can be looked at again.
    fn reads_back(&self) -> bool {
        true
    }

    /// Checks that the output takes epochs, before anything is read that it would refuse. Changes
    /// nothing that remains. Warns of the limits of the output if `warns` is set.
    fn probe(&self, warns: bool) -> BoxFuture<'_, Result<()>>;

    /// Returns the newest claim on the output, which this run may follow. `None` if there is none.
    ///
    /// # Errors
    ///
    /// `Configuration`, naming the owner, if another job is running.
    fn standing<'a>(
        &'a self,
        _start: &'a OutputStart<'a>,
    ) -> BoxFuture<'a, Result<Option<Standing>>> {
        ready(Ok(None)).boxed()
    }

    /// Claims the output for this run, after the claim `former`. `recent` is an epoch a short while
    /// ago: later ones may be those of a job that is running.
    ///
    /// # Errors
    ///
    /// `Configuration` if another job has committed an epoch a short while ago.
    fn claim<'a>(
        &'a self,
        _start: &'a OutputStart<'a>,
        _former: Option<&'a Standing>,
        _recent: Epoch,
    ) -> BoxFuture<'a, Result<Claiming>> {
        ready(Ok(Claiming::Unneeded)).boxed()
    }

    /// Returns whether the job has committed `epoch`.
    ///
    /// # Errors
    ///
    /// `Configuration` if the marker of the epoch is another job's or another state's.
    fn is_committed<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        evidence: &'a CommitEvidence,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<bool>>;

    /// Removes what a crash left of epochs that are the job's own and not committed.
    fn clear<'a>(&'a self, epochs: &'a [Epoch]) -> BoxFuture<'a, Result<()>>;

    /// Returns the newest epoch that the output holds, committed or not, from `from` on. New epochs
    /// begin after it.
    fn newest<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        from: Epoch,
    ) -> BoxFuture<'a, Result<Option<Epoch>>>;

    /// Refuses an output in which a later release has committed `epoch`, the newest that this state
    /// knows: that release may have stored more than this one understands.
    ///
    /// # Errors
    ///
    /// `Configuration`, naming the number of the format.
    fn refuse_later(&self, epoch: Epoch) -> BoxFuture<'_, Result<()>> {
        tracing::trace!(epoch, "this output keeps no format with an epoch");
        ready(Ok(())).boxed()
    }

    /// Returns the writer of the epochs of a run.
    ///
    /// # Errors
    ///
    /// `Configuration` if the output cannot be opened any more.
    fn writer(&self, run: WriterSettings) -> Result<OpenWriter>;

    /// Tries out what a run would do, for `wordtide check`. Returns names and values of what was
    /// found.
    fn check(&self) -> BoxFuture<'_, Result<Vec<(&'static str, String)>>>;
}

/// Writes the epochs of one run.
pub trait EpochWriter: Debug + Send + Sync + 'static {
    /// Returns the parts that have rows, ascending.
    ///
    /// # Errors
    ///
    /// `Failed` for a row that cannot be published.
    fn encode(&self, sets: &[EpochRows], parts: u32) -> Result<Vec<EncodedPart>>;

    /// Writes a part on this thread, which may block, as the first step of
    /// [`EpochWriter::write_part`]. Called when the end of the epoch is durable. `None` if the
    /// output has no such step.
    fn begin_part(&self, _epoch: Epoch, _part: &EncodedPart) -> Option<BegunPart> {
        None
    }

    /// Waits for `work`, which begins the parts of `epoch` and returns false if one could not be
    /// begun. Logs an output that does not answer.
    fn answered<'a>(&'a self, _epoch: Epoch, work: BoxFuture<'a, bool>) -> BoxFuture<'a, ()> {
        work.map(drop).boxed()
    }

    /// Writes a part. Returns when the output needs nothing more of it until the commit. Sends the
    /// report on it by `steps.known` before, as soon as it is known. An error is final.
    fn write_part(
        &self,
        epoch: Epoch,
        part: EncodedPart,
        steps: PartSteps,
    ) -> BoxFuture<'_, Result<()>>;

    /// Commits an epoch: from then on readers see its parts and its marker. Called before all
    /// parts are durable, which [`CompleteEpoch::durable`] waits for. An error is final.
    fn commit(&self, epoch: CompleteEpoch) -> BoxFuture<'_, Result<()>>;

    /// Returns the place of an epoch, relative to the root of the output, for people to look at.
    /// Empty for an output without such places.
    fn place(&self, _epoch: Epoch) -> String {
        String::new()
    }

    /// Keeps the claim of this run until the job fails; the loss of the claim ends the job. `None`
    /// if there is nothing to keep.
    fn keep_claim(&self, _failure: Failure) -> Option<BoxFuture<'static, Result<()>>> {
        None
    }

    /// Returns the locked file, if the right to write is a lock of this process.
    fn lock(&self) -> Option<&Arc<File>> {
        None
    }

    /// Gives the output back, so that the next start need not wait.
    fn release(&self) -> BoxFuture<'_, StoreResult<()>> {
        ready(Ok(())).boxed()
    }
}

/// The facts about a start that an output needs.
#[derive(Clone, Debug)]
pub struct OutputStart<'a> {
    /// The settings of what is published.
    pub publication: &'a Publication,
    /// The job's state ids: markers that bear them are its own.
    pub ids: &'a Ids,
    /// A random number of this run.
    pub run: String,
    /// Set to follow the claim of a job that may be running.
    pub take_over: bool,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// Unix milliseconds by the job's clock.
    pub wall_ms: u64,
}

/// The outcome of an attempt to claim an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claiming {
    /// The output has no claims.
    Unneeded,
    /// Another start was quicker.
    Lost,
    /// The claim of this run.
    Taken(Box<Standing>),
}

/// The settings of a writer.
#[derive(Clone, Debug)]
pub struct WriterSettings {
    /// The settings of what is published.
    pub publication: Publication,
    /// The claim of this run.
    pub claim: Option<Standing>,
    /// The note of process 0 in the lock.
    pub lock_note: Option<String>,
    /// True in process 0.
    pub is_first: bool,
    /// Notes epochs before they are committed. `None` in a job without state.
    pub commits: Option<CommitLog>,
    /// The results that are not stored yet.
    pub results: PendingResults,
    /// The state folder. `None` in a job without state.
    pub state: Option<PathBuf>,
    /// The figures of the process.
    pub meters: Meters,
    /// The runtime of the requests.
    pub runtime: Handle,
}

/// A writer, and the place of its changelog.
#[derive(Clone, Debug)]
pub struct OpenWriter {
    /// The writer of epochs.
    pub writer: Arc<dyn EpochWriter>,
    /// The place of the changelog. `None` in a job without state.
    pub changelog: Option<Arc<dyn ChangelogStore>>,
}

/// A part that is not stored yet.
#[derive(Clone, Debug)]
pub struct EncodedPart {
    /// Its number.
    pub part: u32,
    /// Rows in it.
    pub rows: u64,
    /// Its bytes.
    pub body: Body,
}

/// A part that is written and will be made durable, or the error of that.
pub struct BegunPart(pub StoreResult<Creation<'static>>);

impl Debug for BegunPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BegunPart").field(&self.0.is_ok()).finish()
    }
}

/// The steps of writing a part that others know of.
#[derive(Debug)]
pub struct PartSteps {
    /// Takes the report as soon as it is known.
    pub known: oneshot::Sender<PartReport>,
    /// The parts that are synced together with those of other workers and with the marker.
    pub rounds: SyncRounds,
    /// The part, if [`EpochWriter::begin_part`] has written it.
    pub begun: Option<BegunPart>,
}

/// One part, stored or about to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// Its number.
    pub part: u32,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// MD5 of its bytes in hexadecimal digits, if the output has objects.
    pub md5: String,
}

/// An epoch of which all parts are known and will be durable.
#[derive(Clone, Debug)]
pub struct CompleteEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// Lines and words that all workers read and counted in it.
    pub tally: Tally,
    /// The kind of its rows, also if there are none.
    pub kind: RowKind,
    /// Rows of all parts.
    pub rows: u64,
    /// False if the epoch publishes no result, because no window ends with it.
    pub publishes: bool,
    /// Becomes known when all of the parts and the changes of the epoch are durable.
    pub durable: DurableParts,
    /// The parts, by number: those with rows.
    pub stored: BTreeMap<u32, PartReport>,
    /// Number of parts of a result.
    pub parts: u32,
    /// Where sources that are read again were at its end.
    pub positions: SourcePositions,
}
