//! The state and the output of a process, held for as long as the job lives.

use tokio::runtime::Runtime;

use super::changelog;
use super::claiming::{self, RELEASE_TIMEOUT};
use super::output::JobOutput;
use crate::failure::Failure;
use crate::outputs::{Changelog, Claim, Ownership};
use crate::state::State;
use crate::supervise::supervise;

/// The opened state and output of a process.
#[derive(Debug)]
pub(super) struct StateAndOutput {
    /// `None` in a job without state.
    pub(super) state: Option<State>,
    pub(super) output: JobOutput,
}

/// Renews the claim in `ownership` from now on, and returns it; `None` for an output without one.
///
/// Called before anything that may take longer than the claim lasts.
pub(super) fn renew_claim(
    ownership: &Ownership,
    runtime: &Runtime,
    failure: &Failure,
) -> Option<Claim> {
    let Ownership::Claimed(claim) = ownership else { return None };
    let renewed = claiming::keep(claim.clone(), failure.clone());
    supervise(failure, runtime.handle(), "renew the claim", renewed);
    Some(claim.clone())
}

/// The resources that a process holds for as long as the job lives.
#[derive(Debug)]
pub(super) struct JobResources {
    pub(super) opened: StateAndOutput,
    /// The changelog of a job with state.
    pub(super) changelog: Option<Changelog>,
    /// The claim on the prefix of an object store.
    pub(super) claim: Option<Claim>,
    /// True in process 0, which removes what the processes share.
    pub(super) is_first: bool,
}

impl JobResources {
    /// Releases the lock on a local output, or the claim on an object store, so that the next start
    /// need not wait.
    pub(super) fn release(&self, runtime: &Runtime) {
        // A task that the runtime ends later may still hold the lock, so it is not left to a drop.
        self.opened.output.release_lock();
        let Some(claim) = &self.claim else { return };
        // Within the runtime: the timeout needs its clock.
        let release = async { tokio::time::timeout(RELEASE_TIMEOUT, claim.release()).await };
        match runtime.block_on(release) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the claim on the output was not given back: {error}"),
            Err(_) => tracing::warn!("the claim on the output was not given back in time"),
        }
    }

    /// Removes the changelog of a job that has finished: the next start begins with an empty one.
    pub(super) fn forget(&self, runtime: &Runtime) {
        let (Some(state), Some(changelog)) = (&self.opened.state, &self.changelog) else { return };
        // First the note that names it: after a crash in between, no job finds the changelog.
        changelog::forget_begun(state.dir());
        if self.is_first
            && let Err(error) = runtime.block_on(changelog.discard())
        {
            tracing::warn!("{error}; what the finished job remembered is left there");
        }
    }
}
