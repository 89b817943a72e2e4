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
mod builder;
mod check_settings;
mod claim_output;
mod committed_stream;
mod control_messages;
mod epoch_driver;
mod epoch_progress;
mod epoch_ranges;
mod find_journals;
mod job_settings;
mod log_names;
mod plan;
mod put_journals_away;
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
mod sync_requests;
mod sync_thread;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};

use crate::cluster::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::liveness::Pulse;
use crate::meters::OperatorStats;
use crate::outputs::Committed;
use crate::sources::Stop;
use crate::state::FinishNote;
use crate::trace::Tracer;
use crate::worker::Workers;

pub use builder::JobBuilder;
pub use committed_stream::Commits;
pub use job_settings::StatePlace;
use resources::JobResources;
use source_logs::StreamsEnd;
pub use status::{Status, Summary};

/// How long the processes wait for each other's good-bye when all is done.
const BYE_TIMEOUT: Duration = Duration::from_secs(5);

/// Stops and watches a job from elsewhere. Clones are the same job's.
#[derive(Clone, Debug)]
pub struct JobHandle {
    /// Asks the job to stop.
    stop: Stop,
    /// The status, replaced whole.
    status: watch::Sender<Status>,
    /// Sends committed epochs while the job lives.
    announced: broadcast::WeakSender<Committed>,
    /// The signs of life of workers and driver.
    pulse: Pulse,
    /// The figures of operators; `None` if they are not measured.
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
    /// [`measure_operators`] or [`events`] is set.
    ///
    /// [`measure_operators`]: crate::settings::Settings::measure_operators
    /// [`events`]: crate::settings::Settings::events
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
    /// Stops and watches the job.
    handle: JobHandle,
    /// The first cause of an end.
    failure: Failure,
    /// The workers of this process.
    workers: Workers,
    /// The threads for sockets and requests.
    runtime: Arc<Runtime>,
    /// The links to the other processes.
    links: Control,
    /// The end of the source logs, which is left to do.
    streams: StreamsEnd,
    /// Ends when no block can come or go any more.
    shipping: Receiver<()>,
    /// The commits from the first on, until they are taken.
    first_commits: Option<Commits>,
    /// State folder and output, held until the end.
    resources: JobResources,
}

/// The end of a job that has finished in all its processes: nothing more can come.
#[derive(Debug)]
pub(crate) struct Finish {
    /// The note of that, for the program to set as its last act; `None` in a job without state, and
    /// in processes other than 0.
    pub(crate) note: Option<FinishNote>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Job {
    /// Returns a builder of jobs without source, definition and output.
    pub fn builder() -> JobBuilder {
        JobBuilder::new()
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
        let (summary, finish) = self.end()?;
        if let Some(note) = finish.and_then(|finish| finish.note) {
            note.set();
        }
        Ok(summary)
    }

    /// Waits as [`Job::wait`] does, and returns how the job has finished, if it was not stopped.
    ///
    /// # Errors
    ///
    /// As [`Job::wait`].
    pub(crate) fn end(self) -> Result<(Summary, Option<Finish>)> {
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
        // Nothing is sent: it ends with the last task that ships or takes in, at once after a
        // failure.
        shipping.recv().unwrap_or_default();
        let mut finish = None;
        if !failure.is_failed() {
            let finished = !handle.stop.is_stopped();
            let closed = streams.close(&links, finished);
            match closed.and_then(|finished| links.finish(BYE_TIMEOUT).map(|()| finished)) {
                Ok(finished) => {
                    let note = |finished| Finish { note: resources.prepare_note(finished) };
                    finish = finished.map(note);
                    resources.release(&runtime);
                }
                Err(lost) => failure.fail(lost),
            }
        }
        // A blocked thread (an idle terminal) must not hold up the end.
        if let Ok(runtime) = Arc::try_unwrap(runtime) {
            runtime.shutdown_background();
        }
        match failure.take_cause() {
            Some(cause) => Err(cause),
            None => Ok((handle.status().summary(), finish)),
        }
    }
}
