//! Claims the prefix of an object store for this run, or finds its owner.
//!
//! A start looks at the newest claim (`stand`) before it changes anything. One of its own state,
//! or one that was given back, it may follow at once. It watches that of another job: if the owner
//! renews it, the start ends; if it does not for the time that the claim names, the owner is
//! gone. Then it creates the next claim (`take`), which fences the one before, and waits until
//! its owner must have noticed.

use std::time::Duration;

use super::claim_object::{Claim, ClaimKeys};
use crate::epoch::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::outputs::owner::{Owner, Standing};
use crate::outputs::retry_start::StartRetrier;
use crate::outputs::state_ids::Ids;
use crate::store::{Store, StoreErrorKind};

/// So many looks at the claim of another are taken in one of its periods.
const LOOKS_A_PERIOD: u32 = 4;

/// One start's attempt to claim a prefix.
#[derive(Debug)]
pub struct ClaimAttempt<'a> {
    /// Retries requests to the store.
    pub retrier: &'a StartRetrier,
    /// The store.
    pub store: &'a dyn Store,
    /// The names of claims.
    pub keys: ClaimKeys,
    /// The job's state ids.
    pub ids: &'a Ids,
    /// Set to follow the claim of a job that may be running.
    pub take_over: bool,
}

impl ClaimAttempt<'_> {
    /// Returns the newest claim, which this run may follow; none where there is no claim.
    ///
    /// # Errors
    ///
    /// `Configuration`, naming the owner, if another job is running.
    pub async fn stand(&self) -> Result<Option<Standing>> {
        loop {
            let Some(standing) = self.newest().await? else { return Ok(None) };
            let owner = &standing.owner;
            if self.take_over || owner.released || self.ids.contains(&owner.state) {
                return Ok(Some(standing));
            }
            match self.watch(&standing).await? {
                WatchedClaim::Renewed => return Err(owned(owner)),
                WatchedClaim::Stale => return Ok(Some(standing)),
                WatchedClaim::Followed => {}
            }
        }
    }

    /// Watches a claim until it is renewed, followed or stale.
    async fn watch(&self, standing: &Standing) -> Result<WatchedClaim> {
        let Standing { term, owner } = standing;
        let (clock, stale) = (SystemClock::new(), owner.stale_after());
        tracing::info!("the output was last claimed by {owner}: watching it for {stale:?} at most");
        loop {
            tokio::time::sleep(owner.period() / LOOKS_A_PERIOD).await;
            // The time is taken before the look: a renewal after it is seen by the next one.
            let waited = clock.monotonic();
            match self.newest().await? {
                Some(now) if now.term == *term && now.owner == *owner => {
                    if waited >= stale {
                        tracing::warn!(
                            "{owner} has not renewed its claim for {stale:?}: it is gone"
                        );
                        return Ok(WatchedClaim::Stale);
                    }
                }
                Some(now) if now.term == *term && !now.owner.released => {
                    return Ok(WatchedClaim::Renewed);
                }
                _ => return Ok(WatchedClaim::Followed),
            }
        }
    }

    /// Creates the claim of `owner` after `standing`; `None` if another start was quicker.
    pub async fn take(
        &self,
        standing: Option<&Standing>,
        mut owner: Owner,
    ) -> Result<Option<Standing>> {
        let term = standing.map_or(0, |standing| standing.term) + 1;
        if let Some(standing) = standing {
            owner.follow(&standing.owner);
        }
        let claim = Standing { term, owner };
        let created = self.retrier.run(|| async {
            match self.keys.create(self.store, &claim).await {
                Err(error) if error.kind == StoreErrorKind::Exists => Ok(false),
                created => created.map(|()| true),
            }
        });
        if !created.await? {
            return Ok(None);
        }
        if let Some(fenced) = standing.filter(|_| self.take_over) {
            self.outwait(fenced).await?;
        }
        self.retrier.run(|| self.keys.forget_before(self.store, term)).await?;
        Ok(Some(claim))
    }

    /// Waits until the owner of a claim that was followed has ended, or must have noticed.
    async fn outwait(&self, fenced: &Standing) -> Result<()> {
        let (clock, owner) = (SystemClock::new(), &fenced.owner);
        let mut released = owner.released || self.ids.contains(&owner.state);
        while !released && clock.monotonic() < owner.stale_after() {
            tokio::time::sleep(owner.period() / LOOKS_A_PERIOD).await;
            let read = || async {
                match self.keys.read(self.store, fenced.term).await {
                    Err(error) if error.kind == StoreErrorKind::NotFound => Ok(true),
                    read => read.map(|owner| owner.released),
                }
            };
            released = self.retrier.run(read).await?;
        }
        tracing::warn!("the output was taken over from {owner}");
        Ok(())
    }

    /// Returns the newest claim, with retries for a while.
    async fn newest(&self) -> Result<Option<Standing>> {
        self.retrier.run(|| self.keys.newest(self.store)).await
    }
}

/// The outcome of watching a claim.
enum WatchedClaim {
    /// Its owner has renewed it: the output is in use.
    Renewed,
    /// It was not renewed for as long as it names: the owner is gone.
    Stale,
    /// Another start has created the next claim.
    Followed,
}

/// Returns the error of an output that another run owns.
fn owned(owner: &Owner) -> Error {
    let message = format!("the output is owned by {owner}, which is running");
    Error::new(ErrorKind::Configuration, message)
        .hint("stop it, give --to a prefix of its own, or --take-over to end it")
}

/// The time for which a run may try to give its claim back when it ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Renews a claim until the job fails; the loss of the claim ends the job.
pub async fn keep(claim: Claim, failure: Failure) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(claim.period()) => {}
            () = failure.failed() => return Ok(()),
        }
        match claim.renew().await {
            Ok(()) => {}
            Err(error) if error.kind == StoreErrorKind::Exists => {
                failure.fail(error.into());
                // The next owner waits for this. It fails where the store is away, too.
                let released = tokio::time::timeout(RELEASE_TIMEOUT, claim.release()).await;
                tracing::debug!(?released, "the lost claim is given back");
                return Ok(());
            }
            Err(error) => tracing::debug!("the claim is renewed later: {error}"),
        }
    }
}
