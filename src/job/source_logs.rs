//! The source logs of one process: one for each of its sources, with or without a journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

use super::control_messages::WHILE_ALIVE;
use super::epoch_progress::{EpochProgress, ProgressEnds};
use super::find_journals::{self, KnownJournal};
use super::recover_epochs::{self, JournalPlace, JournalPlan, OpenJournal, RecoveryPlan};
use super::replay_journal;
use super::running_sources::RunningSources;
use super::sync_thread::SyncThread;
use crate::cluster::Control;
use crate::crash_points::crash_point;
use crate::durable_file::sync_folder;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::journal::Journal;
use crate::lines::{BlockPool, LineLimits};
use crate::meters::{Meters, SourceFacts};
use crate::sources::{self, KafkaTopic, LogSetup, Past, Source, SourceLog, Started, Stop};
use crate::state::FinishedJournals;

/// A source, and what is known of its log.
struct UnstartedSource {
    /// The source; `None` where only its journal is left.
    source: Option<Source>,
    /// The index of the source among those of all processes.
    index: u32,
    /// The journal, and how far a former run has come in it; `None` without state.
    log: Option<(Journal, Past)>,
    /// The folder of the journal, to be put away in the end.
    place: Option<JournalPlace>,
    /// Nothing is read but what a former run has recorded.
    is_orphan: bool,
}

impl UnstartedSource {
    /// Takes a source and its journal, if it has one.
    fn new(source: Option<Source>, index: u32, opened: Option<OpenJournal>) -> UnstartedSource {
        let (log, place) = match opened {
            Some(OpenJournal { journal, past, place }) => (Some((journal, past)), Some(place)),
            None => (None, None),
        };
        UnstartedSource { source, index, log, place, is_orphan: false }
    }
}

/// The source logs of a process, before anything is read.
pub struct Streams {
    /// The sources of this process, then the journals whose source is gone.
    sources: Vec<UnstartedSource>,
    /// How many sources all processes have.
    count: usize,
    /// The first epoch that is opened.
    open: Epoch,
    /// Cuts and commits on their way to the logs.
    progress: Arc<EpochProgress>,
    /// The receiving ends of `progress`.
    ends: ProgressEnds,
    /// Where the blocks of the logs go.
    pub feed: Feed,
    /// Notes of journals that other processes will put away.
    elsewhere: Vec<(PathBuf, KnownJournal)>,
    /// True if journals are kept when they are done.
    keep: bool,
}

/// A journal that this run uses. The note that the job has finished names it.
#[derive(Debug)]
struct UsedJournal {
    /// The folder of the journal and its note.
    place: JournalPlace,
    /// It is of no use after any clean end: no process reads its source.
    is_orphan: bool,
    /// Set when nothing more can come from the source.
    has_ended: Arc<AtomicBool>,
}

impl UsedJournal {
    /// Returns true if nothing more can come from the source.
    fn has_ended(&self) -> bool {
        self.is_orphan || self.has_ended.load(Ordering::Acquire)
    }
}

/// The sources of this process, each with its index and name among all.
pub struct OwnSources {
    /// The index, the source and the name of its log.
    pub own: Vec<(u32, Source, String)>,
    /// How many there are in all processes.
    pub count: u32,
}

impl OwnSources {
    /// How many of them cannot be read again, so that their bytes go into a journal.
    pub fn journalled(&self) -> usize {
        self.own.iter().filter(|(_, source, _)| !source.can_be_read_again()).count()
    }

    /// The topics of Kafka, by the names that all shares of one have in common.
    fn topics(&self) -> BTreeMap<String, KafkaTopic> {
        let topics = self.own.iter().filter_map(|(_, source, name)| match source {
            Source::Kafka(topic) => Some((KafkaTopic::base_name(name)?, KafkaTopic::clone(topic))),
            _ => None,
        });
        topics.collect()
    }
}

/// Returns a source that goes on where the shares of a former run, which may have been others, have
/// recorded that they were.
fn going_on(source: Source, name: &str, recovery_plan: &RecoveryPlan) -> Result<Source> {
    let recorded = KafkaTopic::base_name(name).and_then(|name| recovery_plan.topics.get(&name));
    match (source, recorded) {
        (Source::Kafka(topic), Some(recorded)) => {
            Ok(Source::Kafka(Box::new(topic.known(recorded)?)))
        }
        (source, _) => Ok(source),
    }
}

impl Streams {
    /// The streams of a process that reads none, for as long as the others have theirs.
    pub fn none(recovery_plan: &RecoveryPlan, open: Epoch, threads: usize) -> Result<Streams> {
        Streams::gather(Vec::new(), recovery_plan, open, threads, true)
    }

    /// Lets process 0 note the journals of all in its state.
    pub fn note_all(&mut self, control: &Control, state: Option<&Path>) -> Result<()> {
        let own = self.sources.iter().filter_map(|source| {
            let is_orphan = source.is_orphan;
            Some(KnownJournal { is_orphan, ..source.place.as_ref()?.known() })
        });
        let elsewhere = find_journals::note_all(control, state, &own.collect::<Vec<_>>())?;
        let noted = elsewhere.into_iter().zip(std::iter::repeat(state));
        self.elsewhere = noted.filter_map(|(known, at)| Some((at?.to_owned(), known))).collect();
        Ok(())
    }

    /// The streams of kept journals, to be run again.
    ///
    /// Fails with `Disk` if a journal cannot be read, and with `Configuration` if none was kept.
    pub fn replay(
        dir: &Path,
        recovery_plan: &RecoveryPlan,
        open: Epoch,
        threads: usize,
    ) -> Result<Streams> {
        let mut kept = Vec::new();
        for journal in replay_journal::open_all(dir)? {
            let past = journal.past(recovery_plan, open);
            let index = kept.len() as u32;
            let log = Some((journal.journal, past));
            kept.push(UnstartedSource { source: None, index, log, place: None, is_orphan: true });
        }
        Streams::gather(kept, recovery_plan, open, threads, true)
    }

    /// Opens the journals, if there is a `plan` for them, and begins each stream where it was left.
    ///
    /// Fails with `Disk` if a journal cannot be opened, and with `Configuration` if one was made
    /// for another job, or has lines of a source that is not given now.
    pub fn open(
        sources: OwnSources,
        plan: Option<&JournalPlan<'_>>,
        recovery_plan: &RecoveryPlan,
        open: Epoch,
        threads: usize,
    ) -> Result<Streams> {
        let mut begun = Vec::new();
        let orphans = match plan {
            Some(plan) => plan.open_orphans(recovery_plan, &sources.topics())?,
            None => Vec::new(),
        };
        for (index, source, name) in sources.own {
            let source = going_on(source, &name, recovery_plan)?;
            let journal = plan
                .as_ref()
                .map(|plan| plan.open(&name, source.can_be_read_again(), recovery_plan));
            begun.push(UnstartedSource::new(Some(source), index, journal.transpose()?));
        }
        for (index, source, orphan) in orphans {
            let orphan = UnstartedSource::new(source, sources.count + index, Some(orphan));
            begun.push(UnstartedSource { is_orphan: true, ..orphan });
        }
        let keep = plan.as_ref().is_some_and(|plan| plan.settings.keep_journal);
        let streams = Streams::gather(begun, recovery_plan, open, threads, keep)?;
        Ok(Streams { count: sources.count as usize, ..streams })
    }

    /// Makes feed and progress for these sources. Epochs that a former run cut begin as cut.
    fn gather(
        begun: Vec<UnstartedSource>,
        recovery_plan: &RecoveryPlan,
        open: Epoch,
        threads: usize,
        keep: bool,
    ) -> Result<Streams> {
        let pasts = begun.iter().filter_map(|begun| begun.log.as_ref().map(|(_, past)| past));
        let recorded = recover_epochs::ends_to_pass(recovery_plan, pasts);
        let feed = Feed::new(threads, recorded.first().map_or(open, |(epoch, _)| *epoch));
        let (progress, ends) = EpochProgress::new(feed.clone(), begun.len(), &recorded, open);
        let (sources, elsewhere, count) = (begun, Vec::new(), 0);
        Ok(Streams { sources, count, open, progress, ends, feed, elsewhere, keep })
    }

    /// Returns the receiver of commits.
    pub fn progress(&self) -> &Arc<EpochProgress> {
        &self.progress
    }

    /// Starts to read and to bring back.
    ///
    /// Fails with `Failed` if a thread cannot be started.
    pub fn start(
        self,
        limits: LineLimits,
        pool: &BlockPool,
        once: bool,
        (failure, meters): (&Failure, &Meters),
    ) -> Result<(Arc<EpochProgress>, RunningSources, StreamsEnd)> {
        let Streams { sources, count, open, progress, ends, feed, elsewhere, keep } = self;
        let stop = Stop::new();
        let threads = LogThreads::new(sources.len())?;
        let (mut logs, mut journals, mut syncers) = (Vec::new(), Vec::new(), Vec::new());
        for (unstarted, inbox) in sources.into_iter().zip(ends.logs) {
            let UnstartedSource { source, index, log, place, is_orphan } = unstarted;
            let is_replayable = source.as_ref().is_some_and(Source::can_be_read_again);
            let (journal, past) = match log {
                Some((journal, past)) => (Some(journal), past),
                None => (None, Past { is_replayable, ..Past::default() }),
            };
            if let (true, Some(source), Some(place)) = (is_orphan, &source, &place) {
                let (kind, name) = (source.kind().to_owned(), place.known().source);
                let facts = SourceFacts { kind, name, ..meters.source(index).facts().clone() };
                meters.declare_source(index, facts);
            }
            let log = SourceLog::new(LogSetup {
                source: index,
                journal,
                past,
                open,
                feed: feed.clone(),
                events: Arc::clone(&progress) as Arc<_>,
                inbox,
                limits,
                pool: pool.clone(),
                stop: stop.clone(),
                meter: meters.source(index),
            });
            syncers.extend(log.syncer());
            log.gauge().into_iter().for_each(|gauge| meters.journal().add(gauge));
            let has_ended = log.has_ended();
            journals.extend(place.map(|place| UsedJournal { place, is_orphan, has_ended }));
            logs.push((source, log));
        }
        let syncing = SyncThread::start(Arc::clone(&progress), ends.sync, syncers, failure)?;
        let Started { ended, closed } =
            sources::start(logs, (once, count), failure, threads.handle());
        let end = StreamsEnd {
            progress: Arc::clone(&progress),
            closed,
            syncing,
            journals,
            elsewhere,
            keep,
            _threads: threads,
        };
        Ok((progress, RunningSources::new(ended, stop), end))
    }
}

/// The threads on which sources are read and written to their journals: those may wait for the
/// disk, which no request, clock or control link should wait for.
#[derive(Debug)]
struct LogThreads {
    /// `None` when it is being shut down.
    runtime: Option<Runtime>,
    /// Starts tasks on these threads.
    handle: Handle,
}

/// More would not write faster to one disk.
const LOG_THREADS_MAX: usize = 4;

impl LogThreads {
    /// Starts one thread per log, up to [`LOG_THREADS_MAX`].
    fn new(logs: usize) -> Result<LogThreads> {
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(logs.clamp(1, LOG_THREADS_MAX))
            .thread_name("wordtide-log")
            .enable_all()
            .build();
        let runtime = built.map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot start the threads that read sources").cause(error)
        })?;
        let handle = runtime.handle().clone();
        Ok(LogThreads { runtime: Some(runtime), handle })
    }

    /// Returns what starts tasks on these threads.
    fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for LogThreads {
    fn drop(&mut self) {
        // A read that blocks (an idle terminal) must not hold up the end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Longest wait for the logs to note the last commits. A start without these notes asks the store.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The work that is left when a job has ended.
#[derive(Debug)]
pub struct StreamsEnd {
    /// Asks the logs to close.
    progress: Arc<EpochProgress>,
    /// Disconnected when every log is closed.
    closed: Receiver<()>,
    /// Syncs what the logs note last.
    syncing: SyncThread,
    /// The journals of this process.
    journals: Vec<UsedJournal>,
    /// Notes of the journals of other processes, each with the state folder that the note is in.
    elsewhere: Vec<(PathBuf, KnownJournal)>,
    /// True if journals are kept when they are done.
    keep: bool,
    /// The threads of the logs, which end last.
    _threads: LogThreads,
}

impl StreamsEnd {
    /// Closes the journals of a job that committed everything, and puts away those of sources that
    /// are not read any more. Returns the ids of all others that this process knows, if the job has
    /// finished in every process and was not just stopped.
    ///
    /// Process 0 first takes back its notes of the journals that are put away. A journal that is
    /// gone while a note names it would be missed at the next start; one without a note is noted
    /// again.
    ///
    /// # Errors
    ///
    /// `PeerLost` if another process is lost before it has come this far; nothing is put away then.
    pub fn close(self, links: &Control, finished: bool) -> Result<Option<FinishedJournals>> {
        let StreamsEnd { progress, closed, syncing, journals, elsewhere, keep, _threads } = self;
        // What the logs note last is synced before the thread ends.
        progress.close_logs();
        let _ = closed.recv_timeout(CLOSE_TIMEOUT);
        drop(syncing);
        links.resume();
        // A job has not finished while more can come, as of a folder that is read once a day.
        let finished = finished && journals.iter().all(UsedJournal::has_ended);
        let answer = links.agree(vec![finished.into()], WHILE_ALIVE, |each| {
            let finished = each.iter().all(|finished| finished == &[1]);
            let gone = elsewhere.iter().filter(|(_, known)| known.is_orphan);
            forget_durably(gone.map(|(state, known)| (state.as_path(), known)));
            Ok(vec![finished.into()])
        })?;
        crash_point("finish.agreed");
        let finished = answer == [1];
        let (orphans, used): (Vec<_>, Vec<_>) =
            journals.into_iter().partition(|journal| journal.is_orphan);
        forget_durably(orphans.iter().map(|journal| journal.place.noted()));
        crash_point("recovery.before_put_away");
        orphans.iter().for_each(|journal| recover_epochs::close(&journal.place, keep));
        let used = used.into_iter().map(|journal| journal.place.known());
        let all = used.chain(elsewhere.into_iter().map(|(_, known)| known));
        let ids = all.filter(|known| !known.is_orphan).map(|known| known.id).collect();
        if !finished {
            return Ok(None);
        }
        // Once more: all have come this far, whichever is lost from now on.
        links.agree(Vec::new(), WHILE_ALIVE, |_| Ok(Vec::new()))?;
        Ok(Some(FinishedJournals { journals: ids, keep, begun: None }))
    }
}

/// Takes notes of journals back, each from a state folder, and waits until that is on disk.
fn forget_durably<'a>(notes: impl Iterator<Item = (&'a Path, &'a KnownJournal)>) {
    let mut folders = BTreeSet::new();
    for (state, known) in notes {
        known.forget(state);
        folders.insert(state);
    }
    for folder in folders {
        if let Err(error) = sync_folder(folder) {
            tracing::warn!("cannot sync {}: {error}", folder.display());
        }
    }
}
