//! Makes the output this run's, as process 0: everything that can stop the start is checked before
//! anything is changed.

use super::agreement::FormerRuns;
use super::find_journals;
use super::recover_epochs::{self, RecoveryPlan};
use crate::epoch::{self, Epoch, Schedule};
use crate::error::{ErrorKind, Result};
use crate::outputs::{Claiming, CommitEvidence, CommitLog, Output, OutputStart, Standing};
use crate::state::State;

/// The markers of so many intervals before the start are looked at for those of other jobs.
const RECENT_INTERVALS: u64 = 4;

/// A start of process 0 that knows what all processes found.
pub struct OutputOpening<'a> {
    /// The output, with its lock.
    pub output: &'a dyn Output,
    /// The facts about the start that the output needs.
    pub start: OutputStart<'a>,
    /// The log of commits in the state of process 0; none in a job without state.
    pub commits: Option<CommitLog>,
    /// The state of process 0, which is kept from the moment when the output may bear its id.
    pub state: Option<&'a State>,
    /// The traces of former runs in all processes.
    pub found: &'a FormerRuns,
    /// Ids of journals that are given up.
    pub abandoned: &'a [String],
    /// The schedule of a job that begins now, after an epoch.
    pub schedule: &'a dyn Fn(Option<Epoch>) -> Schedule,
}

/// The output as it is when this run begins to write there.
#[derive(Debug)]
pub struct OwnedOutput {
    /// The first epoch that is opened.
    pub open: Epoch,
    /// The epochs to count again and those that are committed.
    pub recovery_plan: RecoveryPlan,
    /// The newest committed epoch, where the state is an older copy that does not know it.
    pub later: Option<Epoch>,
    /// The claim as it was taken; `None` for an output without claims.
    pub claim: Option<Standing>,
}

impl OutputOpening<'_> {
    /// Takes the output and settles what former runs left in it.
    ///
    /// # Errors
    ///
    /// `Configuration`, naming the owner, where it is another job's.
    pub async fn own(&self) -> Result<OwnedOutput> {
        self.output.probe(true).await?;
        find_journals::check_none_missing(&self.found.journals, self.abandoned)?;
        let (recovery_plan, later, claim) = self.claim().await?;
        if let Some(newest) = recovery_plan.newest.filter(|_| self.output.reads_back()) {
            self.output.refuse_later(newest).await?;
        }
        let attempt = self.evidence(None).attempt.map(|attempt| attempt.epoch);
        if let Some(attempt) = attempt.filter(|epoch| recovery_plan.replay.contains(epoch))
            && let Some(commits) = &self.commits
        {
            commits.retract(attempt)?;
        }
        recover_epochs::clear(&recovery_plan, self.output).await?;
        let open = (self.schedule)(recovery_plan.newest).open();
        let newest = self.output.newest(&self.start, open).await?.max(recovery_plan.newest);
        let open = (self.schedule)(newest).open();
        self.warn_of_lead(open);
        let recovery_plan = RecoveryPlan { abandoned: self.abandoned.to_vec(), ..recovery_plan };
        Ok(OwnedOutput { open, recovery_plan, later, claim })
    }

    /// Judges what former runs left, looks for a [later](Self::later) epoch, and claims the output.
    async fn claim(&self) -> Result<(RecoveryPlan, Option<Epoch>, Option<Standing>)> {
        loop {
            let former = self.output.standing(&self.start).await?;
            let mut evidence = self.evidence(former.as_ref());
            // Not `settled`: an epoch without a marker may still be this state's to count.
            let later = self.later(&evidence).await?;
            evidence.used = evidence.used.max(later);
            let recovery_plan = self.judge(&evidence).await?;
            let present = (self.schedule)(None).open();
            let recent = present.saturating_sub(RECENT_INTERVALS * self.start.interval_ms).max(1);
            // A stop may come while the claim is on its way: the state must stay then.
            let was_tentative = self.state.is_some_and(State::keep);
            let claimed = self.output.claim(&self.start, former.as_ref(), recent).await;
            let is_refused =
                claimed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Configuration);
            if was_tentative && is_refused {
                self.state.inspect(|state| state.unkeep());
            }
            match claimed? {
                Claiming::Unneeded => return Ok((recovery_plan, later, None)),
                Claiming::Lost => {}
                // Once more: the former owner may have gone on until it was fenced.
                Claiming::Taken(claim) => {
                    return Ok((self.judge(&evidence).await?, later, Some(*claim)));
                }
            }
        }
    }

    /// Finds out which epochs of the journals are committed.
    async fn judge(&self, evidence: &CommitEvidence) -> Result<RecoveryPlan> {
        recover_epochs::judge(&self.found.journals, self.output, &self.start, evidence).await
    }

    /// Returns the newest epoch in the output if the job has committed it and the state does not
    /// know it, because the state is an older copy.
    async fn later(&self, evidence: &CommitEvidence) -> Result<Option<Epoch>> {
        let marked = self.found.journals.iter().filter_map(|list| list.last).max();
        let known = marked.max(evidence.newest()).filter(|_| self.found.begun.is_some());
        let Some(known) = known.filter(|_| self.output.reads_back()) else { return Ok(None) };
        let named = self.output.newest(&self.start, known.saturating_add(1)).await?;
        let Some(named) = named.filter(|named| *named > known) else { return Ok(None) };
        match self.output.is_committed(&self.start, evidence, named).await {
            Ok(is_committed) => Ok(Some(named).filter(|_| is_committed)),
            // The marker of another job is no reason to refuse the start.
            Err(error) if error.kind() == ErrorKind::Configuration => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gathers the evidence of former commits.
    fn evidence(&self, former: Option<&Standing>) -> CommitEvidence {
        let OutputStart { ids, wall_ms, .. } = self.start;
        // Any program can write an object: an epoch far from now is not believed.
        let newest = former.and_then(|former| former.owner.newest);
        let newest = newest.filter(|newest| epoch::is_plausible(*newest, wall_ms));
        let is_own = former.is_some_and(|former| ids.contains(&former.owner.state));
        let claimed = newest.filter(|_| is_own);
        let mut evidence = CommitEvidence::of(ids.clone(), &self.found.attempts, claimed);
        evidence.used = newest;
        let journals = self.found.journals.iter().flat_map(|list| &list.found);
        evidence.journals = journals.map(|found| found.id.clone()).collect();
        if !self.output.reads_back() {
            evidence.attempt = None;
        }
        evidence
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
