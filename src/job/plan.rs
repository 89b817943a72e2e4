//! The plan of a job: its checked settings, and the steps that each process takes with them.
//!
//! [`check`](super::check_settings::check) makes it. Then process 0 opens state and output and
//! decides where the job begins, and all processes recover what former runs left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Runtime;

use super::agreement::{Agreement, FormerRuns, explain_panic};
use super::assign_sources::{BlockSharing, Readers};
use super::claim_output::{OutputOpening, OwnedOutput};
use super::epoch_driver::{EpochProcess, Follower, Leader};
use super::epoch_progress::EpochProgress;
use super::find_journals::{self, JournalList};
use super::job_settings::{JobSettings, StatePlace};
use super::put_journals_away;
use super::recover_epochs::{self, JournalPlan};
use super::replay_journal;
use super::resources::StateAndOutput;
use super::restore_changelog;
use super::running_sources::RunningSources;
use super::source_logs::{OwnSources, Streams, StreamsEnd};
use super::stop_during_start::until_stopped;
use crate::cluster::{ClusterSettings, Control, Mesh};
use crate::durable_file::remove_temporaries;
use crate::epoch::Schedule;
use crate::epochs::{EpochFollower, EpochLeader, EpochRoom};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::file_lock::LockPatience;
use crate::journal::{Budget, SyncPolicy};
use crate::lines::{BlockPool, LineLimits};
use crate::operators::{DataflowSettings, ProcessRanges, Restored};
use crate::outputs::{
    self, Attempts, Changelog, CommitLog, Ids, NewestChanges, NewestChangesLog, OnCommit,
    OpenWriter, Output, OutputHandle, OutputSettings, OutputStart, Publication, WriterSettings,
    bound_results,
};
use crate::random::random_bytes;
use crate::sources::Source;
use crate::state::{Identity, State};
use crate::store::{PendingResults, Target};
use crate::supervise::supervise;
use crate::trace::Tracer;
use crate::worker::{Definition, Plan};

/// A job whose settings are checked, as far as that goes without touching anything.
pub struct JobPlan {
    /// The settings, with what the output and the number of threads imply for them.
    pub asked: JobSettings,
    /// The function from lines to rows.
    pub definition: Definition,
    /// The output, with the prefix and the layout that the settings ask for.
    pub target: Target,
    /// With the number of parts 0 where it is free to follow the number of workers.
    pub identity: Identity,
    /// The settings of the output, whichever it is.
    pub output: OutputSettings,
    /// True if process 0 alone writes to the output.
    pub is_single: bool,
    /// The process that reads each source.
    pub readers: Readers,
    /// Unix milliseconds of the start.
    pub started_ms: u64,
}

impl JobPlan {
    /// Opens state and output as process 0, which decides the number of parts: that which the job
    /// was begun with, else the number of workers now.
    ///
    /// Fails with `Configuration` if the state is another job's, or state or output are in use. A
    /// state that was made just now is removed again.
    pub fn open_first(&self) -> Result<(u32, StateAndOutput)> {
        let dir = self.state_dir();
        let recorded = dir.as_deref().and_then(State::recorded_parts);
        let recorded = match &self.asked.replay {
            Some(dir) => Some(replay_journal::parts(dir, self.identity.interval_ms)?),
            None => recorded,
        };
        let workers = (self.asked.cluster.processes * self.asked.settings.threads) as u32;
        let parts = self.asked.settings.parts.or(recorded).unwrap_or(workers);
        // The others wait for this process, and give the start up after their `start_timeout`.
        let ClusterSettings { processes, start_timeout, .. } = self.asked.cluster;
        let patience = self.lock_patience((processes > 1).then_some(start_timeout));
        let state = self.open_state(parts, &patience)?;
        Ok((parts, StateAndOutput { state, output: self.open_output(&patience)? }))
    }

    /// Opens the output as process 0, with its lock.
    ///
    /// Fails with `Configuration` if it is not valid, or another process holds the lock.
    fn open_output(&self, patience: &LockPatience) -> Result<Box<dyn Output>> {
        let mut output = outputs::open(&self.target, &self.output)?;
        output.lock(patience)?;
        Ok(output)
    }

    /// Returns how long this start waits for locks, which a stop ends.
    fn lock_patience(&self, start_timeout: Option<Duration>) -> LockPatience {
        let stop = self.asked.stop.clone();
        LockPatience::of_start(start_timeout, move || stop.is_stopped())
    }

    /// Decides as process 0 where the job begins, knowing what all processes `found`.
    ///
    /// # Errors
    ///
    /// `Configuration` if the output is another job's or a journal is missing.
    pub fn decide(
        &self,
        runtime: &Runtime,
        own: Option<&(u32, StateAndOutput)>,
        found: &FormerRuns,
    ) -> Result<Agreement> {
        let (parts, opened) = own.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "a process other than 0 was asked to decide")
        })?;
        let ids = Ids::agree(&found.ids)?;
        // Before anything bears the id: a crash must not leave objects of a state that is lost.
        opened.state.as_ref().map_or(Ok(()), |state| state.adopt(&ids))?;
        let publication = self.publication(*parts, &ids);
        let start = OutputStart {
            publication: &publication,
            ids: &ids,
            run: format!("{:032x}", u128::from_ne_bytes(random_bytes()?)),
            take_over: self.asked.take_over,
            interval_ms: self.identity.interval_ms,
            wall_ms: self.asked.clock.wall_ms(),
        };
        let owning = OutputOpening {
            output: &*opened.output,
            start,
            commits: self.commit_log(opened)?,
            state: opened.state.as_ref(),
            found,
            abandoned: &self.asked.abandoned,
            schedule: &|after| self.schedule(after),
        };
        let OwnedOutput { open, recovery_plan, later, claim } =
            runtime.block_on(until_stopped(&self.asked.stop, owning.own()))?;
        restore_changelog::check_begun(found, opened.state.as_ref().map(State::dir))?;
        let finished = restore_changelog::finished(found);
        let begun = found.begun.filter(|_| finished.is_none()).unwrap_or(open);
        let lock_note = opened.output.lock_note();
        let parts = *parts;
        let is_watched = self.asked.meters.keeps_top();
        let through = recovery_plan.committed_before(open);
        let (result, is_result_proven) = found.newest_result(through, later);
        let dir = Changelog::dir(&publication.job, begun);
        let changes = NewestChanges::choose(&found.changes, &dir, through);
        Ok(Agreement {
            open,
            parts,
            recovery_plan,
            result,
            is_result_proven,
            changes,
            begun,
            finished,
            lock_note,
            ids,
            claim,
            is_watched,
        })
    }

    /// Opens the writer of the epochs of this run.
    ///
    /// Fails with `Disk` if the commit log or the local changelog cannot be opened.
    pub fn open_writer(
        &self,
        opened: &StateAndOutput,
        agreed: &Agreement,
        results: &PendingResults,
        runtime: &Runtime,
    ) -> Result<OpenWriter> {
        let is_first = self.asked.cluster.process == 0;
        let state = opened.state.as_ref().filter(|_| self.asked.replay.is_none());
        opened.output.writer(WriterSettings {
            publication: self.publication(agreed.parts, &agreed.ids),
            claim: agreed.claim.clone(),
            lock_note: agreed.lock_note.clone(),
            is_first,
            commits: if is_first { self.commit_log(opened)? } else { None },
            results: results.clone(),
            state: state.map(|state| state.dir().to_owned()),
            meters: self.asked.meters.clone(),
            runtime: runtime.handle().clone(),
        })
    }

    /// Opens the log of commits in the state, if there is one.
    fn commit_log(&self, opened: &StateAndOutput) -> Result<Option<CommitLog>> {
        let syncs = self.asked.journal.sync != SyncPolicy::Never;
        let open = |state: &State| CommitLog::open(state.dir(), syncs);
        opened.state.as_ref().map(open).transpose()
    }

    /// Finds the traces of former runs in the state of this process.
    ///
    /// Fails with `Disk` if the state cannot be read, or holds a damaged journal, and with
    /// `Configuration` if a replay finds no journal that was kept.
    pub fn find(&self, sources: &OwnSources) -> Result<FormerRuns> {
        if let Some(dir) = &self.asked.replay {
            let mut found = JournalList::default();
            if self.asked.cluster.process == 0 {
                let definition = self.identity.definition_name();
                replay_journal::warn_of_other_definition(dir, definition);
                let kept = replay_journal::open_all(dir)?;
                kept.into_iter().for_each(|journal| journal.add_to(&mut found));
            }
            return Ok(FormerRuns { journals: vec![found], ..FormerRuns::default() });
        }
        let Some(dir) = self.state_dir() else {
            return Ok(FormerRuns {
                journals: vec![JournalList::default()],
                ..FormerRuns::default()
            });
        };
        if let (StatePlace::Below(_), 0) = (&self.asked.state, self.asked.cluster.process) {
            recover_epochs::warn_of_other_states(&dir, self.identity.definition_name());
        }
        let own: Vec<String> = sources.own.iter().map(|(_, _, name)| name.clone()).collect();
        let journals = vec![find_journals::find(&dir, &own, &self.asked.abandoned)?];
        let (ids, attempts) = (vec![Ids::read(&dir)?], vec![Attempts::read(&dir)?]);
        let (changes, begun) = (NewestChanges::read(&dir)?, restore_changelog::begun(&dir)?);
        Ok(FormerRuns { journals, ids, attempts, changes, begun })
    }

    /// Opens the changelog and reads it back; `None` for a job without state.
    ///
    /// Fails with `Configuration` or `Temporary` if a stored change cannot be read, with `Disk` if
    /// the state cannot be written, and with `Stopped` at a stop.
    pub fn remember(
        &self,
        runtime: &Runtime,
        opened: &StateAndOutput,
        writer: &OpenWriter,
        agreed: &Agreement,
        failure: &Failure,
    ) -> Result<Option<(Restored, Changelog)>> {
        let (Some(state), Some(place)) = (&opened.state, &writer.changelog) else {
            return Ok(None);
        };
        let job = self.publication(agreed.parts, &agreed.ids).job;
        let is_first = self.asked.cluster.process == 0;
        if let Some(finished) = agreed.finished.filter(|_| is_first) {
            // The note of the new beginning comes after it: a start that dies before the note
            // removes the changelog again.
            let (retrier, dir) = (&self.output.retrier, Changelog::dir(&job, finished));
            let discarded = restore_changelog::discard(retrier, &**place, &dir);
            runtime.block_on(until_stopped(&self.asked.stop, discarded.map(Ok)))?;
        }
        restore_changelog::note_begun(state.dir(), agreed.begun)?;
        let (place, handle) = (Arc::clone(place), runtime.handle().clone());
        let log = is_first.then(|| NewestChangesLog::new(state.dir(), &agreed.changes));
        let dir = Changelog::dir(&job, agreed.begun);
        let newest = (agreed.changes.clone(), log);
        let changelog = Changelog::new(place, dir, newest, failure.clone(), handle);
        let owners = self.owners();
        let owns = |part: u32| {
            let worker = part as usize % owners;
            worker / self.asked.settings.threads == self.asked.cluster.process
        };
        let through = agreed.committed_through();
        let result = (agreed.result, agreed.is_result_proven);
        let restored =
            restore_changelog::restore(&self.output.retrier, &changelog, owns, through, result);
        Ok(Some((runtime.block_on(until_stopped(&self.asked.stop, restored))?, changelog)))
    }

    /// Returns the bound of the results that wait to be stored. What an earlier run left of them is
    /// removed.
    ///
    /// Fails with `Disk` if the folder of results cannot be emptied.
    pub fn results(&self, opened: &StateAndOutput) -> Result<PendingResults> {
        let memory_bytes_max = self.asked.settings.results_bytes_max as u64;
        opened.results(
            self.asked.cluster.process,
            memory_bytes_max,
            self.asked.journal.journal_bytes_max,
        )
    }

    /// Opens the source logs of this process, each at the position where it was left.
    ///
    /// Fails with `Disk` if a journal cannot be opened, with `Configuration` if one was made for
    /// another job, and with `Usage` if `--journal-max` is too small for the sources.
    pub fn open_streams(&self, sources: OwnSources, agreed: &Agreement) -> Result<Streams> {
        let (recovery_plan, threads) = (&agreed.recovery_plan, self.asked.settings.threads);
        match &self.asked.replay {
            Some(dir) if self.asked.cluster.process == 0 => {
                return Streams::replay(dir, recovery_plan, agreed.open, threads);
            }
            Some(_) => return Streams::none(recovery_plan, agreed.open, threads),
            None => {}
        }
        let dir = self.state_dir();
        let budget = Budget::new(&self.asked.journal, sources.journalled())?;
        let plan = dir.as_deref().map(|state| JournalPlan {
            state,
            settings: self.asked.journal.clone(),
            budget,
            parts: agreed.parts,
            interval_ms: self.identity.interval_ms,
            process: self.asked.cluster.process,
        });
        let process = self.asked.cluster.process;
        dir.iter().try_for_each(|dir| {
            put_journals_away::set_aside(dir, &recovery_plan.abandoned)?;
            put_journals_away::put_finished_away(dir, process, &recovery_plan.finished)
        })?;
        Streams::open(sources, plan.as_ref(), recovery_plan, agreed.open, threads)
    }

    /// Notes the journals of all processes in the state of process 0, and waits until all processes
    /// have come this far: from here on they read.
    ///
    /// Fails with `PeerLost` if a process does not come this far, and with `Disk` if a note cannot
    /// be written.
    pub fn note_journals(&self, streams: &mut Streams, control: &Control) -> Result<()> {
        let dir = self.state_dir().filter(|_| self.asked.replay.is_none());
        streams.note_all(control, dir.as_deref())
    }

    /// Opens state and output as a process other than 0, as `agreed`.
    ///
    /// Fails with `Configuration` if the output is not the one that process 0 has locked or refuses
    /// this process, and with `Temporary` if it cannot be reached from here for a while.
    pub fn open_as_follower(
        &self,
        runtime: &Runtime,
        agreed: &Agreement,
    ) -> Result<StateAndOutput> {
        // All processes have found each other: none counts the time of the start any more.
        let state = self.open_state(agreed.parts, &self.lock_patience(None))?;
        state.as_ref().map_or(Ok(()), |state| state.adopt(&agreed.ids))?;
        let output = outputs::open(&self.target, &self.output)?;
        output.join(agreed.lock_note.as_deref())?;
        // Its credentials and its way to the store are its own.
        runtime.block_on(until_stopped(&self.asked.stop, output.probe(false)))?;
        if let Some(state) = &state {
            state.keep();
        }
        Ok(StateAndOutput { state, output })
    }

    /// Returns the state folder; `None` for a job without state.
    fn state_dir(&self) -> Option<PathBuf> {
        self.asked.state.dir(&self.identity)
    }

    /// Opens the state folder as this process's, or makes it, with the identity of the job.
    ///
    /// Fails with `Configuration` if it is another job's, or in use.
    fn open_state(&self, parts: u32, patience: &LockPatience) -> Result<Option<State>> {
        let identity = Identity { parts, ..self.identity.clone() };
        let process = self.asked.cluster.process;
        let open = |dir: PathBuf| {
            let state = State::open(&dir, &identity, process, patience)?;
            // Of the processes that share the folder, the one of the least index tidies it up.
            if !state.is_shared_below(process) {
                remove_temporaries(&dir);
            }
            Ok(state)
        };
        self.state_dir().map(open).transpose()
    }

    /// Returns a schedule whose first epoch follows `after` and the present.
    fn schedule(&self, after: Option<u64>) -> Schedule {
        let (wall_ms, monotonic) = (self.asked.clock.wall_ms(), self.asked.clock.monotonic());
        Schedule::new(self.asked.settings.interval, self.asked.slide, wall_ms, monotonic, after)
    }

    /// Returns the plan that every worker of this process follows: where it begins, what it reads
    /// and writes, and what it remembers.
    pub fn worker_plan(
        &self,
        feed: Feed,
        agreed: &Agreement,
        (output, on_commit, memory): (OutputHandle, OnCommit, Option<(Restored, Changelog)>),
        tracer: Option<Tracer>,
        failure: &Failure,
        mesh: &Mesh,
    ) -> Plan {
        let settings = &self.asked.settings;
        Plan {
            definition: Arc::clone(&self.definition),
            feed,
            shares_host: mesh.is_one_host,
            ranges: ProcessRanges::default(),
            settings: DataflowSettings {
                threads: settings.threads,
                parts: agreed.parts,
                owners: self.owners(),
                interval_ms: self.identity.interval_ms,
                words: settings.words.clone(),
                table_bytes_max: settings.table_bytes_max,
            },
            memory,
            output,
            on_commit,
            tracer,
            failure: failure.clone(),
            meters: self.asked.meters.clone(),
            explain_panic: explain_panic(mesh.control.clone()),
        }
    }

    /// Returns the settings and the identity under which results are published.
    pub fn publication(&self, parts: u32, ids: &Ids) -> Publication {
        let identity = Identity { parts, ..self.identity.clone() };
        Publication {
            order: self.asked.settings.order,
            empty_epochs: self.asked.settings.empty_epochs,
            job: identity.digest(),
            state: ids.id.clone().unwrap_or_default(),
            started: self.started_ms,
        }
    }

    /// Returns the number of workers, from the first on, that own parts: some outputs are those of
    /// process 0 alone.
    fn owners(&self) -> usize {
        let writing = if self.is_single { 1 } else { self.asked.cluster.processes };
        writing * self.asked.settings.threads
    }

    /// Returns the settings of the data links.
    pub fn sharing<'a>(&'a self, streams: &'a Streams, failure: &'a Failure) -> BlockSharing<'a> {
        BlockSharing {
            process: self.asked.cluster.process,
            readers: &self.readers,
            feed: &streams.feed,
            progress: streams.progress(),
            blocks_bytes_max: self.asked.settings.blocks_bytes_max,
            // A line is cut soon after it has become too long: this is only a bound.
            text_bytes_max: 4 * self.asked.settings.line_bytes_max as u64 + (1 << 20),
            failure,
        }
    }

    /// Starts the sources, and the task that bounds the results which wait to be stored.
    ///
    /// Fails with `Failed` if a thread cannot be started.
    pub fn read(
        &self,
        runtime: &Runtime,
        streams: Streams,
        results: &PendingResults,
        failure: &Failure,
    ) -> Result<(Arc<EpochProgress>, RunningSources, StreamsEnd)> {
        let limits = LineLimits {
            line_bytes_max: self.asked.settings.line_bytes_max,
            word_bytes_max: self.asked.settings.words.word_bytes_max,
            on_long_line: self.asked.on_long_line,
        };
        let pool = BlockPool::new(self.asked.settings.blocks_bytes_max);
        let bound = bound_results(results.clone(), pool.clone());
        supervise(failure, runtime.handle(), "results", bound);
        streams.start(limits, &pool, self.asked.settings.once, (failure, &self.asked.meters))
    }

    /// Starts the task that drives the epochs: the leader in process 0, a follower elsewhere.
    pub fn drive_epochs(&self, runtime: &Runtime, process: EpochProcess, agreed: &Agreement) {
        let ClusterSettings { processes, process: index, .. } = self.asked.cluster;
        if self.asked.replay.is_some() {
            supervise(&process.failure.clone(), runtime.handle(), "replay", process.replay());
            return;
        }
        if index > 0 {
            let failure = process.failure.clone();
            let follower = Follower { process, epochs: EpochFollower::new(agreed.open) };
            supervise(&failure, runtime.handle(), "follower", follower.run());
            return;
        }
        let failure = process.failure.clone();
        let before = agreed.open.saturating_sub(self.identity.interval_ms);
        let schedule = self.schedule(Some(before));
        let epochs = EpochLeader::new(schedule, agreed.open, processes, self.asked.settings.epochs);
        // More can come from a folder or a topic that has been read to its end.
        let can_grow = |source: &Source| matches!(source, Source::Watch(_) | Source::Kafka(_));
        let goes_on =
            self.state_dir().is_some() && self.asked.sources.iter().any(|(s, _)| can_grow(s));
        let leader = Leader {
            process,
            processes,
            clock: Arc::clone(&self.asked.clock),
            epochs: epochs.goes_on(goes_on),
            room: EpochRoom::new(self.asked.settings.epochs_in_flight_max(), processes),
        };
        supervise(&failure, runtime.handle(), "leader", leader.run());
    }
}
