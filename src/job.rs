//! The embedding API: a job is built, started, watched, stopped and waited for.
//!
//! ```no_run
//! use wordtide::{Job, Source, Target, dataflows};
//!
//! # fn main() -> wordtide::Result<()> {
//! let job = Job::builder()
//!     .source(Source::Connect("localhost:9999".parse()?))
//!     .dataflow("network_wordcount", dataflows::network_wordcount::dataflow)
//!     .to("out/counts".parse()?)
//!     .start()?;
//! let summary = job.wait()?;
//! println!("{} epochs", summary.epochs);
//! # Ok(())
//! # }
//! ```
//!
//! A job has threads of its own: one for each worker, and a small runtime for sockets and requests.
//! It installs no signal handler, no panic hook and no log subscriber; a panic of a worker comes
//! back as an error of [`Job::wait`]. Several jobs may run in one process.

mod agreement;
mod assign_sources;
mod claim_output;
mod committed_stream;
mod control_messages;
mod epoch_completion;
mod epoch_driver;
mod epoch_ranges;
mod find_journals;
mod plan;
mod recover_epochs;
mod replay_journal;
mod resources;
mod restore_changelog;
mod running_sources;
mod share_figures;
mod source_logs;
mod start;
mod status;
mod stop_during_start;
mod sync_thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};

use crate::cluster::{ClusterSettings, Control};
use crate::epoch::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::journal::JournalSettings;
use crate::lines::LongLine;
use crate::liveness::Pulse;
use crate::meters::{Meters, OperatorStats};
use crate::operators::{Counts, Lines, RowKind, Rows};
use crate::outputs::format::{Compression, Format};
use crate::outputs::{Committed, FormSettings, OnCommit, SqlSettings, WriteMode};
use crate::settings::{FolderLayout, Settings};
use crate::sources::{Source, Stop};
use crate::store::{StoreSettings, Target};
use crate::trace::Tracer;
use crate::worker::{Definition, Workers};

pub use committed_stream::Commits;
use resources::JobResources;
use source_logs::StreamsEnd;
pub use status::{Status, Summary};

/// How long the processes wait for each other's good-bye when all is done.
const BYE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the state of a job is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatePlace {
    /// Nowhere: a crash loses what was not committed, and a restart is a new job.
    #[default]
    None,
    /// In exactly this directory.
    Dir(PathBuf),
    /// In a directory below this one, named by definition and identity, so that a job with other
    /// flags is another job.
    Below(PathBuf),
}

/// Gathers what a job is made of; [`JobBuilder::start`] starts it.
pub struct JobBuilder {
    sources: Vec<(Source, Option<usize>)>,
    definition: Option<(String, Definition)>,
    target: Option<Target>,
    form: FormSettings,
    state: StatePlace,
    journal: JournalSettings,
    abandoned: Vec<String>,
    replay: Option<PathBuf>,
    settings: Settings,
    store: StoreSettings,
    sql: SqlSettings,
    take_over: bool,
    cluster: ClusterSettings,
    clock: Arc<dyn Clock>,
    stop: Stop,
    on_commit: Option<OnCommit>,
    on_long_line: LongLine,
    meters: Meters,
}

impl std::fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobBuilder")
            .field("sources", &self.sources)
            .field("target", &self.target)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl JobBuilder {
    /// Adds a source of lines. Source k of all belongs to process k mod n.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.sources.push((source, None));
        self
    }

    /// Adds a source of lines that `process` reads, whatever its place among the sources.
    #[must_use]
    pub fn source_at(mut self, process: usize, source: Source) -> Self {
        self.sources.push((source, Some(process)));
        self
    }

    /// Sets the definition, under a name that is part of the job's identity.
    #[must_use]
    pub fn dataflow<F>(self, name: impl Into<String>, definition: F) -> Self
    where
        F: for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static,
    {
        self.dataflow_rows(name, move |lines: Lines<'_>| Rows::from(definition(lines)))
    }

    /// Sets a definition that returns rows of its own making.
    #[must_use]
    pub fn dataflow_rows<F>(mut self, name: impl Into<String>, definition: F) -> Self
    where
        F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
    {
        self.definition = Some((name.into(), Arc::new(definition)));
        self
    }

    /// Declares that the definition looks at whole lines, as `keys` and `archive` do, not only at
    /// their words: a line above the limit is then dropped and logged, instead of cut at a space.
    #[must_use]
    pub fn whole_lines(mut self) -> Self {
        self.on_long_line = LongLine::Drop;
        self
    }

    /// Declares that the definition publishes lines without counts. A database makes another table
    /// for them.
    #[must_use]
    pub fn publishes_lines(mut self) -> Self {
        self.sql.rows = RowKind::Lines;
        self
    }

    /// Declares that an epoch publishes only the words whose counts have changed, so that those
    /// which it does not publish stay in the table or index of [`WriteMode::Upsert`].
    #[must_use]
    pub fn publishes_changes(mut self) -> Self {
        self.sql.changes = true;
        self
    }

    /// Sets how rows come into the table of a database or into an index.
    #[must_use]
    pub fn write(mut self, write: WriteMode) -> Self {
        self.sql.write = write;
        self
    }

    /// Sets the output, to which results go.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Sets the suffix of the names of epochs, after a dot.
    #[must_use]
    pub fn suffix(mut self, suffix: Option<String>) -> Self {
        self.form.suffix = suffix;
        self
    }

    /// Sets the format of a row. [`Format::Scala`] splits as Scala's program does, too.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.form.format = format;
        self
    }

    /// Sets the compression of parts. By default text is not compressed, and Parquet is, by zstd.
    #[must_use]
    pub fn compress(mut self, compression: Option<Compression>) -> Self {
        self.form.compression = compression;
        self
    }

    /// Sets the way in which the folders of epochs are named.
    #[must_use]
    pub fn layout(mut self, layout: FolderLayout) -> Self {
        self.form.layout = layout;
        self
    }

    /// Sets the time zone of dates and hours in the names of folders, by its IANA name.
    #[must_use]
    pub fn time_zone(mut self, name: Option<String>) -> Self {
        self.form.time_zone = name;
        self
    }

    /// Sets where state is kept.
    #[must_use]
    pub fn state(mut self, state: StatePlace) -> Self {
        self.state = state;
        self
    }

    /// Sets the limits of the journals in the state, and when they are synced.
    #[must_use]
    pub fn journal(mut self, journal: JournalSettings) -> Self {
        self.journal = journal;
        self
    }

    /// Gives up the journals with these ids, and the lines in them: the job starts without them.
    #[must_use]
    pub fn abandon(mut self, journals: Vec<String>) -> Self {
        self.abandoned = journals;
        self
    }

    /// Runs a kept journal again instead of reading sources: the folder of one, or a state.
    #[must_use]
    pub fn replay(mut self, journal: PathBuf) -> Self {
        self.replay = Some(journal);
        self
    }

    /// Sets everything else.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets how an object store is reached.
    #[must_use]
    pub fn store(mut self, store: StoreSettings) -> Self {
        self.store = store;
        self
    }

    /// Allows to start on a prefix to which another job has committed a short while ago.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }

    /// Sets the processes that take part, and which of them this is; one alone where not given.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterSettings) -> Self {
        self.cluster = cluster;
        self
    }

    /// Sets the clock; that of the machine where not given.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the signal that asks the job to stop; it may come before the job has started.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Calls `observer` with every committed epoch, in order. It runs on a worker and must be
    /// quick.
    #[must_use]
    pub fn on_commit(mut self, observer: OnCommit) -> Self {
        self.on_commit = Some(observer);
        self
    }

    /// Sets where the job writes its figures.
    #[must_use]
    pub(crate) fn meters(mut self, meters: Meters) -> Self {
        self.meters = meters;
        self
    }

    /// Starts the job: checks everything that can be checked, finds the other processes, then
    /// begins to read.
    ///
    /// # Errors
    ///
    /// `Usage` for settings that cannot run, `Configuration` for what the outside refuses (an
    /// output that cannot be written, a state of another job), `PeerLost` when processes of the
    /// cluster did not come in time, `Disk` where the local disk fails.
    pub fn start(self) -> Result<Job> {
        start::start(self)
    }
}

/// Stops and watches a job from elsewhere. Clones are the same job's.
#[derive(Clone, Debug)]
pub struct JobHandle {
    stop: Stop,
    status: watch::Sender<Status>,
    announced: broadcast::WeakSender<Committed>,
    pulse: Pulse,
    tracer: Option<Tracer>,
}

impl JobHandle {
    /// Asks the job to stop: the open epoch is cut, counted, stored and committed.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Returns the status of the job.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns the figures of this process's operators so far, by worker. Empty unless
    /// [`Settings::measure_operators`] or [`Settings::events`] is set.
    pub fn operators(&self) -> Vec<OperatorStats> {
        self.tracer.as_ref().map(Tracer::operators).unwrap_or_default()
    }

    /// Follows the status of the job: the receiver wakes with every cut and commit.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Returns true if every worker, and the driver of the epochs, has taken a turn since the call
    /// before, and asks them to take another. A watchdog calls it once in some seconds. Stores,
    /// disks and sources that do not answer hang none of them.
    pub fn takes_turns(&self) -> bool {
        self.pulse.ask()
    }

    /// Returns the epochs committed from now on. [`Job::committed`] has those before, too.
    pub fn committed(&self) -> Commits {
        Commits::of(self.announced.upgrade())
    }
}

/// A running job. To let go of it without [`Job::wait`] blocks until the workers have ended.
pub struct Job {
    handle: JobHandle,
    failure: Failure,
    workers: Workers,
    runtime: Arc<Runtime>,
    links: Control,
    streams: StreamsEnd,
    /// Ends when no block can come or go any more.
    shipping: Receiver<()>,
    first_commits: Option<Commits>,
    resources: JobResources,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Job {
    /// Returns a builder of jobs without source, definition and output.
    pub fn builder() -> JobBuilder {
        JobBuilder {
            sources: Vec::new(),
            definition: None,
            target: None,
            form: FormSettings::default(),
            state: StatePlace::default(),
            journal: JournalSettings::default(),
            abandoned: Vec::new(),
            replay: None,
            settings: Settings::default(),
            store: StoreSettings::default(),
            sql: SqlSettings::default(),
            take_over: false,
            cluster: ClusterSettings::default(),
            clock: SystemClock::shared(),
            stop: Stop::new(),
            on_commit: None,
            on_long_line: LongLine::CutAtSpace,
            meters: Meters::default(),
        }
    }

    /// Returns a handle to stop and watch the job from elsewhere.
    pub fn handle(&self) -> JobHandle {
        self.handle.clone()
    }

    /// Returns the status of the job.
    pub fn status(&self) -> Status {
        self.handle.status()
    }

    /// Returns the epochs that the job commits, from its first; a second call returns those from
    /// then on. Only process 0 of a cluster sees them.
    pub fn committed(&mut self) -> Commits {
        self.first_commits.take().unwrap_or_else(|| self.handle.committed())
    }

    /// Asks the job to stop: the open epoch is cut, counted, stored and committed.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Waits until the job has ended and everything is committed.
    ///
    /// # Errors
    ///
    /// The first cause for which the job ended otherwise; what was committed before stays valid.
    pub fn wait(self) -> Result<Summary> {
        let Job {
            handle,
            failure,
            workers,
            runtime,
            links,
            streams,
            shipping,
            first_commits: _,
            resources,
        } = self;
        for joined in workers.join() {
            if let Err(panic) = joined {
                failure.fail(Error::new(ErrorKind::Panicked, format!("a worker ended: {panic}")));
            }
        }
        if let Some(tracer) = &handle.tracer {
            tracer.finish();
        }
        // Nobody sends: it ends with the last task that ships or takes in, at once after a failure.
        shipping.recv().unwrap_or_default();
        if !failure.is_failed() {
            let finished = !handle.stop.is_stopped();
            let ended = streams.close(&links, finished, || resources.forget(&runtime));
            if let Err(lost) = ended.and_then(|()| links.finish(BYE_TIMEOUT)) {
                failure.fail(lost);
            }
        }
        if !failure.is_failed() {
            resources.release(&runtime);
        }
        // A blocked thread (a terminal that nobody types into) must not hold up the end.
        if let Ok(runtime) = Arc::try_unwrap(runtime) {
            runtime.shutdown_background();
        }
        match failure.take_cause() {
            Some(cause) => Err(cause),
            None => Ok(handle.status().summary()),
        }
    }
}
