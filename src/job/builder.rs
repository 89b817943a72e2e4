//! The builder of jobs: gathers the settings of a job one by one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::job_settings::{JobSettings, StatePlace};
use super::{Job, check_settings, start};
use crate::cluster::ClusterSettings;
use crate::epoch::Clock;
use crate::error::Result;
use crate::file_lock::FormerRun;
use crate::journal::JournalSettings;
use crate::lines::LongLine;
use crate::meters::Meters;
use crate::operators::{Counts, Lines, RowKind, Rows};
use crate::outputs::format::{Compression, Format};
use crate::outputs::{OnCommit, WriteMode};
use crate::settings::{FolderLayout, Settings};
use crate::sources::{Source, Stop};
use crate::store::{StoreSettings, Target};

/// Gathers what a job is made of; [`JobBuilder::start`] starts it.
pub struct JobBuilder(JobSettings);

impl std::fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobBuilder")
            .field("sources", &self.0.sources)
            .field("target", &self.0.target)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl JobBuilder {
    /// Returns a builder without source, definition and output.
    pub(super) fn new() -> JobBuilder {
        JobBuilder(JobSettings::default())
    }

    /// Adds a source of lines. Source k of all belongs to process k mod n.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.0.sources.push((source, None));
        self
    }

    /// Adds a source of lines that `process` reads, whatever its place among the sources.
    #[must_use]
    pub fn source_at(mut self, process: usize, source: Source) -> Self {
        self.0.sources.push((source, Some(process)));
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
        self.0.definition = Some((name.into(), Arc::new(definition)));
        self
    }

    /// Declares that the definition looks at whole lines, as `keys` and `archive` do, not only at
    /// their words: a line above the limit is then dropped and logged, instead of cut at a space.
    #[must_use]
    pub fn whole_lines(mut self) -> Self {
        self.0.on_long_line = LongLine::Drop;
        self
    }

    /// Declares that the definition publishes lines without counts. A database makes another table
    /// for them.
    #[must_use]
    pub fn publishes_lines(mut self) -> Self {
        self.0.sql.rows = RowKind::Lines;
        self
    }

    /// Declares that an epoch publishes only the words whose counts have changed, so that those
    /// which it does not publish stay in the table or index of [`WriteMode::Upsert`].
    #[must_use]
    pub fn publishes_changes(mut self) -> Self {
        self.0.sql.changes = true;
        self
    }

    /// Declares that the definition has windows, one of which ends every `slide`.
    ///
    /// The end of a window is an epoch of its own then, also if it passes between two runs or while
    /// no epoch can be cut, and it is the last epoch when all sources have ended, if that is at
    /// most a day ahead. Without this, lines that are read shortly before may be in no window that
    /// is published. The start fails with `Usage` unless `slide` is a multiple of the interval.
    #[must_use]
    pub fn windows_end_every(mut self, slide: Duration) -> Self {
        self.0.slide = Some(slide);
        self
    }

    /// Sets how rows come into the table of a database or into an index.
    #[must_use]
    pub fn write(mut self, write: WriteMode) -> Self {
        self.0.sql.write = write;
        self
    }

    /// Sets the output, to which results go.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        self.0.target = Some(target);
        self
    }

    /// Sets the suffix of the names of epochs, after a dot.
    #[must_use]
    pub fn suffix(mut self, suffix: Option<String>) -> Self {
        self.0.form.suffix = suffix;
        self
    }

    /// Sets the format of a row. [`Format::Scala`] splits as Scala's program does, too.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.0.form.format = format;
        self
    }

    /// Sets the compression of parts. By default text is not compressed, and Parquet is, by zstd.
    #[must_use]
    pub fn compress(mut self, compression: Option<Compression>) -> Self {
        self.0.form.compression = compression;
        self
    }

    /// Sets the way in which the folders of epochs are named.
    #[must_use]
    pub fn layout(mut self, layout: FolderLayout) -> Self {
        self.0.form.layout = layout;
        self
    }

    /// Sets the time zone of dates and hours in the names of folders, by its IANA name.
    #[must_use]
    pub fn time_zone(mut self, name: Option<String>) -> Self {
        self.0.form.time_zone = name;
        self
    }

    /// Sets where state is kept.
    #[must_use]
    pub fn state(mut self, state: StatePlace) -> Self {
        self.0.state = state;
        self
    }

    /// Sets the limits of the journals in the state, and when they are synced.
    #[must_use]
    pub fn journal(mut self, journal: JournalSettings) -> Self {
        self.0.journal = journal;
        self
    }

    /// Gives up the journals with these ids, and the lines in them: the job starts without them.
    #[must_use]
    pub fn abandon(mut self, journals: Vec<String>) -> Self {
        self.0.abandoned = journals;
        self
    }

    /// Runs a kept journal again instead of reading sources: the folder of one, or a state.
    #[must_use]
    pub fn replay(mut self, journal: PathBuf) -> Self {
        self.0.replay = Some(journal);
        self
    }

    /// Sets everything else.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.0.settings = settings;
        self
    }

    /// Sets how an object store is reached.
    #[must_use]
    pub fn store(mut self, store: StoreSettings) -> Self {
        self.0.store = store;
        self
    }

    /// Allows to start on a prefix to which another job has committed a short while ago.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.0.take_over = take_over;
        self
    }

    /// Sets the processes that take part, and which of them this is; one alone where not given.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterSettings) -> Self {
        self.0.cluster = cluster;
        self
    }

    /// Sets the clock; that of the machine where not given.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.clock = clock;
        self
    }

    /// Sets the signal that asks the job to stop; it may come before the job has started.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.0.stop = stop;
        self
    }

    /// Calls `observer` with every committed epoch, in order. It runs on a worker and must be
    /// quick.
    #[must_use]
    pub fn on_commit(mut self, observer: OnCommit) -> Self {
        self.0.on_commit = Some(observer);
        self
    }

    /// Sets where the job writes its figures.
    #[must_use]
    pub(crate) fn meters(mut self, meters: Meters) -> Self {
        self.0.meters = meters;
        self
    }

    /// Returns the run before this one, with the same state or local output, which may be ending.
    /// Settings that cannot run have none.
    pub(crate) fn former_run(&self) -> Option<FormerRun> {
        check_settings::former_run(self.0.clone())
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
        start::start(self.0)
    }
}
