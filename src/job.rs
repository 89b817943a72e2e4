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

mod borders;
mod output;
mod pace;
mod reading;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use timely::communication::WorkerGuards;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::epoch::{Clock, Schedule, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::lines::{BlockPool, LineLimits, LongLine};
use crate::operators::{Counts, Lines, Rows};
use crate::settings::Settings;
use crate::sink::format::Format;
use crate::sink::{Layout, OnCommit, Publication, Publisher};
use crate::source::{self, Intake, Source, Stop};
use crate::state::{Identity, State};
use crate::store::Target;
use crate::words::Split;
use crate::worker::{self, Definition, Plan};

use borders::Borders;
use output::Output;
use pace::Pacer;
use reading::Reading;
pub use status::{Status, Summary};

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
    sources: Vec<Source>,
    definition: Option<(String, Definition)>,
    target: Option<Target>,
    suffix: Option<String>,
    format: Format,
    state: StatePlace,
    settings: Settings,
    clock: Arc<dyn Clock>,
    on_commit: Option<OnCommit>,
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
    /// Adds a source of lines.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// What is computed, under a name that is part of the job's identity.
    #[must_use]
    pub fn dataflow<F>(self, name: impl Into<String>, definition: F) -> Self
    where
        F: for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static,
    {
        self.dataflow_rows(name, move |lines: Lines<'_>| Rows::from(definition(lines)))
    }

    /// The same for a definition that returns rows of its own making.
    #[must_use]
    pub fn dataflow_rows<F>(mut self, name: impl Into<String>, definition: F) -> Self
    where
        F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
    {
        self.definition = Some((name.into(), Arc::new(definition)));
        self
    }

    /// Where results go.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// What the names of epochs end in, behind a dot.
    #[must_use]
    pub fn suffix(mut self, suffix: Option<String>) -> Self {
        self.suffix = suffix;
        self
    }

    /// The bytes of a row. [`Format::Scala`] splits as Scala's program does, too.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Where state is kept.
    #[must_use]
    pub fn state(mut self, state: StatePlace) -> Self {
        self.state = state;
        self
    }

    /// Everything else.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The clock; that of the machine where not given.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Has every committed epoch told to `observer`, in order. It runs on a worker: be quick.
    #[must_use]
    pub fn on_commit(mut self, observer: OnCommit) -> Self {
        self.on_commit = Some(observer);
        self
    }

    /// Starts the job: checks everything that can be checked, then begins to read.
    ///
    /// # Errors
    ///
    /// `Usage` for settings that cannot run, `Configuration` for what the outside refuses (an output
    /// that cannot be written, a state of another job), `Disk` where the local disk fails.
    pub fn start(mut self) -> Result<Job> {
        self.settings.validate()?;
        let missing = |what: &str, hint: &str| {
            Error::new(ErrorKind::Usage, format!("the job has no {what}")).hint(hint)
        };
        if self.sources.is_empty() {
            return Err(missing("source", "give --connect, --file or --stdin"));
        }
        let (name, definition) =
            self.definition.take().ok_or_else(|| missing("dataflow", "name one of `wordtide list`"))?;
        let target = self.target.take().ok_or_else(|| missing("output", "give --to"))?;
        if self.format == Format::Scala && self.settings.words.split == Split::Space {
            self.settings.words.split = Split::SpaceScala;
        }
        let identity = self.identity(name, &target);
        let (identity, state) = open_state(&self.state, identity, self.settings.parts.is_none())?;
        let output = Output::open(&target)?;
        self.launch(definition, target, identity, state, output)
    }

    fn identity(&self, definition: String, target: &Target) -> Identity {
        let settings = &self.settings;
        Identity {
            definition,
            interval_ms: settings.interval.as_millis() as u64,
            parts: settings.parts.unwrap_or(settings.threads as u32),
            words: settings.words.clone(),
            line_bytes_max: settings.line_bytes_max,
            format: self.format,
            order: settings.order,
            empty_epochs: settings.empty_epochs,
            output: target.to_string(),
            suffix: self.suffix.clone(),
        }
    }

    fn launch(
        self,
        definition: Definition,
        target: Target,
        identity: Identity,
        state: Option<State>,
        output: Output,
    ) -> Result<Job> {
        let settings = self.settings;
        let runtime = runtime()?;
        let layout = Layout::new(target.prefix(), self.suffix);
        let first = Schedule::new(settings.interval, self.clock.wall_ms(), self.clock.monotonic(), None);
        let newest = runtime.block_on(output::newest_from(&*output.store, &layout, first.open()))?;
        let now = (self.clock.wall_ms(), self.clock.monotonic());
        let schedule = Schedule::new(settings.interval, now.0, now.1, newest);

        let failure = Failure::new();
        let feed = Feed::new(settings.threads, schedule.open());
        let (status, on_commit) = status::observe(schedule.open(), self.on_commit);
        let publication = Publication {
            layout,
            format: self.format,
            order: settings.order,
            empty_epochs: settings.empty_epochs,
            job: identity.digest(),
        };
        let store = Arc::clone(&output.store);
        let plan = Plan {
            definition,
            feed: feed.clone(),
            threads: settings.threads,
            parts: identity.parts,
            interval_ms: identity.interval_ms,
            words: settings.words.clone(),
            table_bytes_max: settings.table_bytes_max,
            publisher: Publisher::new(publication, store, runtime.handle().clone()),
            on_commit,
            failure: failure.clone(),
        };
        let workers = worker::spawn(plan, worker::threads_only(settings.threads)?)?;

        let (stop, reading_stop) = (Stop::new(), Stop::new());
        let pool = BlockPool::new(settings.blocks_bytes_max);
        let limits = LineLimits {
            line_bytes_max: settings.line_bytes_max,
            word_bytes_max: settings.words.word_bytes_max,
            on_long_line: LongLine::CutAtSpace,
        };
        let sources = self.sources.into_iter().zip(0..).map(|(source, index)| {
            let (pool, feed) = (pool.clone(), feed.clone());
            (source, Intake::new(index, limits, pool, feed, reading_stop.clone()))
        });
        let sources = {
            let _entered = runtime.enter();
            source::start(sources.collect(), settings.once)
        };
        let pacer = Pacer {
            clock: self.clock,
            schedule,
            borders: Borders::new(feed),
            reading: Reading::new(sources, reading_stop),
            stop: stop.clone(),
            status: status.clone(),
            epochs: settings.epochs,
            in_flight_max: settings.epochs_in_flight_max(),
            failure: failure.clone(),
        };
        runtime.spawn(pacer.run());
        let handle = JobHandle { stop, status };
        Ok(Job { handle, failure, workers, runtime, _state: state, _output: output })
    }
}

/// Opens the state, if there is to be one. Where the number of parts was not given, the one that a
/// state was begun with is kept: it belongs to the job, not to today's number of workers.
fn open_state(
    place: &StatePlace,
    mut identity: Identity,
    parts_are_free: bool,
) -> Result<(Identity, Option<State>)> {
    let dir = match place {
        StatePlace::None => return Ok((identity, None)),
        StatePlace::Dir(dir) => dir.clone(),
        StatePlace::Below(dir) => {
            let mut free = identity.clone();
            if parts_are_free {
                free.parts = 0;
            }
            dir.join(format!("{}-{}", identity.definition, free.digest()))
        }
    };
    if let Some(parts) = State::recorded_parts(&dir).filter(|_| parts_are_free) {
        identity.parts = parts;
    }
    let state = State::open(&dir, &identity)?;
    Ok((identity, Some(state)))
}

/// Two threads: one may read a socket while the other signs or encrypts a request.
fn runtime() -> Result<Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wordtide-io")
        .enable_all()
        .build();
    built.map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot start the runtime for sockets and requests").cause(error)
    })
}

/// Stops and watches a job from elsewhere. Clones are the same job's.
#[derive(Clone, Debug)]
pub struct JobHandle {
    stop: Stop,
    status: watch::Sender<Status>,
}

impl JobHandle {
    /// Asks the job to stop: the open epoch is cut, counted, stored and committed.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// How the job stands.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows how the job stands: the receiver wakes with every cut and commit.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }
}

/// A running job. To let go of it without [`Job::wait`] blocks until the workers have ended.
pub struct Job {
    handle: JobHandle,
    failure: Failure,
    workers: WorkerGuards<()>,
    runtime: Runtime,
    _state: Option<State>,
    _output: Output,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Job {
    /// Begins a job: [`JobBuilder`] gathers what it is made of.
    pub fn builder() -> JobBuilder {
        JobBuilder {
            sources: Vec::new(),
            definition: None,
            target: None,
            suffix: None,
            format: Format::default(),
            state: StatePlace::default(),
            settings: Settings::default(),
            clock: SystemClock::shared(),
            on_commit: None,
        }
    }

    /// A handle to stop and watch the job from elsewhere.
    pub fn handle(&self) -> JobHandle {
        self.handle.clone()
    }

    /// How the job stands.
    pub fn status(&self) -> Status {
        self.handle.status()
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
        let Job { handle, failure, workers, runtime, .. } = self;
        for joined in workers.join() {
            if let Err(panic) = joined {
                failure.fail(Error::new(ErrorKind::Panicked, format!("a worker ended: {panic}")));
            }
        }
        // A blocked thread (a terminal that nobody types into) must not hold up the end.
        runtime.shutdown_background();
        match failure.take_cause() {
            Some(cause) => Err(cause),
            None => Ok(handle.status().summary()),
        }
    }
}

