//! Makes the output this run's, as process 0: everything that can stop the start is checked before
//! anything is changed.

use super::agreement::FormerRuns;
use super::claiming::ClaimAttempt;
use super::journals;
use super::output::{JobOutput, NamedEpochs};
use super::recovery::{self, CommitEvidence, RecoveryPlan};
use crate::cluster::random_bytes;
use crate::epoch::{self, Epoch, Schedule};
use crate::error::Result;
use crate::outputs::{ClaimKeys, CommitLog, Owner, Publication, Standing};
use crate::state::Ids;
use crate::store::Target;

/// The markers of so many intervals before the start are looked at for those of other jobs.
const RECENT_INTERVALS: u64 = 4;

/// A start of process 0 that knows what all processes found.
pub(super) struct OutputOpening<'a> {
    pub(super) output: &'a JobOutput,
    pub(super) target: &'a Target,
    pub(super) publication: &'a Publication,
    /// The log of commits in the state of process 0; none in a job without state.
    pub(super) commits: Option<CommitLog>,
    pub(super) ids: &'a Ids,
    pub(super) found: &'a FormerRuns,
    /// Ids of journals that are given up.
    pub(super) abandoned: &'a [String],
    pub(super) take_over: bool,
    /// The schedule of a job that begins now, after an epoch.
    pub(super) schedule: &'a dyn Fn(Option<Epoch>) -> Schedule,
    pub(super) interval_ms: u64,
    pub(super) wall_ms: u64,
}

/// The output as it is when this run begins to write there.
#[derive(Debug)]
pub(super) struct OwnedOutput {
    /// The first epoch that is opened.
    pub(super) open: Epoch,
    pub(super) recovery_plan: RecoveryPlan,
    pub(super) claim: Option<Standing>,
}

impl OutputOpening<'_> {
    /// Takes the output and settles what former runs left in it.
    ///
    /// # Errors
    ///
    /// `Configuration`, naming the owner, where it is another job's.
    pub(super) async fn own(&self) -> Result<OwnedOutput> {
        self.output.probe(self.target).await?;
        self.output.warn_of_limits(self.target).await;
        journals::check_none_missing(&self.found.journals, self.abandoned)?;
        let (recovery_plan, claim) = match self.target {
            Target::Oss { .. } | Target::S3 { .. } => self.claim().await?,
            // Locally the lock is held already.
            _ => (self.judge(&self.evidence(None)).await?, None),
        };
        let attempt = self.evidence(None).attempt.map(|attempt| attempt.epoch);
        if let Some(attempt) = attempt.filter(|epoch| recovery_plan.replay.contains(epoch))
            && let Some(commits) = &self.commits
        {
            commits.retract(attempt)?;
        }
        recovery::clear(&recovery_plan, &*self.output.store, self.publication).await?;
        let open = (self.schedule)(recovery_plan.newest).open();
        let newest = self.since(open).newest().await?.max(recovery_plan.newest);
        let open = (self.schedule)(newest).open();
        self.warn_of_lead(open);
        let recovery_plan = RecoveryPlan { abandoned: self.abandoned.to_vec(), ..recovery_plan };
        Ok(OwnedOutput { open, recovery_plan, claim })
    }

    /// Judges what former runs left, and claims the prefix of an object store.
    async fn claim(&self) -> Result<(RecoveryPlan, Option<Standing>)> {
        let store = &*self.output.store;
        let keys = ClaimKeys::of(&self.publication.layout);
        let claiming = ClaimAttempt { store, keys, ids: self.ids, take_over: self.take_over };
        loop {
            let former = claiming.stand().await?;
            let evidence = self.evidence(former.as_ref());
            let recovery_plan = self.judge(&evidence).await?;
            if !self.take_over {
                self.refuse_foreign(former.as_ref(), recovery_plan.newest).await?;
            }
            if let Some(claim) = claiming.take(former.as_ref(), self.owner()?).await? {
                // Once more: the former owner may have gone on until it was fenced.
                return Ok((self.judge(&evidence).await?, Some(claim)));
            }
        }
    }

    async fn judge(&self, evidence: &CommitEvidence) -> Result<RecoveryPlan> {
        let (journals, store) = (&self.found.journals, &*self.output.store);
        recovery::judge(journals, store, self.publication, evidence).await
    }

    async fn refuse_foreign(&self, former: Option<&Standing>, newest: Option<Epoch>) -> Result<()> {
        // The end of the former owner, and of those whose claims it followed, is known.
        let is_former = |id: &str| {
            let owner = former.map(|former| &former.owner);
            owner.is_some_and(|owner| owner.state == id || owner.former.iter().any(|f| f == id))
        };
        let open = (self.schedule)(newest).open();
        let from = open.saturating_sub(RECENT_INTERVALS * self.interval_ms).max(1);
        let is_known = |id: &str| self.ids.contains(id) || is_former(id);
        self.since(from).refuse_foreign(&self.publication.job, is_known).await
    }

    /// Gathers the evidence of former commits.
    fn evidence(&self, former: Option<&Standing>) -> CommitEvidence {
        // Anybody can write an object: an epoch far from now is not believed.
        let newest = former.and_then(|former| former.owner.newest);
        let newest = newest.filter(|newest| epoch::is_plausible(*newest, self.wall_ms));
        let is_own = former.is_some_and(|former| self.ids.contains(&former.owner.state));
        let claimed = newest.filter(|_| is_own);
        let mut evidence = CommitEvidence::of(self.ids.clone(), &self.found.attempts, claimed);
        evidence.used = newest;
        if *self.target == Target::Stdout {
            // Nothing that was printed can be looked at.
            evidence.attempt = None;
        }
        evidence
    }

    fn owner(&self) -> Result<Owner> {
        let Publication { job, state, started, .. } = self.publication;
        let mut owner = Owner::new(job, state, *started, self.interval_ms);
        owner.run = format!("{:032x}", u128::from_ne_bytes(random_bytes()?));
        Ok(owner)
    }

    fn since(&self, from: Epoch) -> NamedEpochs<'_> {
        let (store, layout) = (&*self.output.store, &self.publication.layout);
        NamedEpochs { store, layout, from, wall_ms: self.wall_ms, interval_ms: self.interval_ms }
    }

    /// Warns of a first epoch that lies far ahead of the clock.
    fn warn_of_lead(&self, open: Epoch) {
        let following = (self.schedule)(None).open();
        if open > following.saturating_add(60_000) {
            let ahead_s = (open - following) / 1_000;
            tracing::warn!(
                "epochs are named from {open} on, {ahead_s} s ahead of the clock: later names are \
                 used below the prefix or in the state"
            );
        }
    }
}
