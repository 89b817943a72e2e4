//! The state and the output of a process, held for as long as the job lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::restore_changelog;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::file_lock::HeldLocks;
use crate::outputs::{Changelog, EpochWriter, Output};
use crate::state::{FinishNote, FinishedJournals, State};
use crate::store::{PendingResults, ResultsLimits};
use crate::supervise::supervise;

/// The time for which a run may try to give the output back when it ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The opened state and output of a process.
#[derive(Debug)]
pub struct StateAndOutput {
    /// `None` in a job without state.
    pub state: Option<State>,
    /// The output, with its lock where it has one.
    pub output: Box<dyn Output>,
}

impl StateAndOutput {
    /// Returns the bound of the results of `process` that wait to be stored: so many bytes in
    /// memory, and so many in the state folder. What an earlier run left of them is removed.
    ///
    /// # Errors
    ///
    /// `Disk` if the folder cannot be emptied.
    pub fn results(
        &self,
        process: usize,
        memory_bytes_max: u64,
        disk_bytes_max: u64,
    ) -> Result<PendingResults> {
        let state = self.state.as_ref().map(State::dir);
        let folder = state.map(|dir| dir.join(format!("results-{process}")));
        if let Some(folder) = &folder {
            PendingResults::sweep(folder).map_err(|error| {
                let message = format!("cannot empty {}: {error}", folder.display());
                Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
            })?;
        }
        Ok(PendingResults::new(ResultsLimits { memory_bytes_max, disk_bytes_max, folder }))
    }
}

/// Keeps the claim of `writer` from now on, if the output has claims.
///
/// Called before anything that may take longer than the claim lasts.
pub fn keep_claim(writer: &dyn EpochWriter, runtime: &Runtime, failure: &Failure) {
    if let Some(kept) = writer.keep_claim(failure.clone()) {
        supervise(failure, runtime.handle(), "renew the claim", kept);
    }
}

/// The resources that a process holds for as long as the job lives.
#[derive(Debug)]
pub struct JobResources {
    /// The state folder and the output, which stay locked.
    pub opened: StateAndOutput,
    /// The changelog of a job with state.
    pub changelog: Option<Changelog>,
    /// The writer, which holds the claim or the lock on the output.
    pub writer: Arc<dyn EpochWriter>,
    /// True in process 0, which removes what the processes share.
    pub is_first: bool,
}

impl JobResources {
    /// Returns the locks that this process holds.
    pub fn locks(&self) -> HeldLocks {
        let mut locks = HeldLocks::default();
        let state = self.opened.state.as_ref().map(State::lock);
        state.into_iter().chain(self.writer.lock()).for_each(|lock| locks.add(lock));
        locks
    }

    /// Releases the lock on a local output, or the claim on an object store, so that the next start
    /// need not wait.
    pub fn release(&self, runtime: &Runtime) {
        let release = self.writer.release();
        // Within the runtime: the timeout needs its clock.
        let release = async { tokio::time::timeout(RELEASE_TIMEOUT, release).await };
        match runtime.block_on(release) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the claim on the output was not given back: {error}"),
            Err(_) => tracing::warn!("the claim on the output was not given back in time"),
        }
    }

    /// Prepares the note that the job with these journals has finished, as process 0; `None` in
    /// other processes, in a job without state, and if the note cannot be written.
    pub fn prepare_note(&self, finished: FinishedJournals) -> Option<FinishNote> {
        let state = self.opened.state.as_ref().filter(|_| self.is_first)?;
        let begun = restore_changelog::begun(state.dir());
        let prepared = begun.and_then(|begun| {
            FinishedJournals { begun, ..finished }.prepare(state.dir(), state.lock())
        });
        let prepared = prepared.inspect_err(|error| {
            tracing::warn!("{error}; the next start reads nothing again");
        });
        prepared.ok()
    }
}
