//! Starts a job: checks its settings, connects the processes, agrees where to begin, then starts
//! workers, sources and the driver of epochs.
//!
//! ```text
//! check ─► open state and output (process 0) ─► connect the processes ─► find former runs
//!   ─► agree ─► open state and output (others) ─► open journals ─► restore totals
//!   ─► workers ─► read
//! ```
//!
//! Process 0 opens state and output before it lets the others in, so that what is refused is
//! refused at once; the others open theirs when they know what process 0 decided. Nothing is read
//! before every process has come to the end of these steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::agreement::{Agreement, CAUSE_WAIT, FormerRuns};
use super::check_settings;
use super::epoch_driver::EpochProcess;
use super::epoch_progress::EpochProgress;
use super::job_settings::JobSettings;
use super::plan::JobPlan;
use super::resources::{JobResources, StateAndOutput, keep_claim};
use super::share_figures;
use super::source_logs::OwnSources;
use super::stop_during_start::{ReadingBegun, watch_stop};
use super::{Job, JobHandle, committed_stream, status};
use crate::cluster::{self, Control, Mesh, Message};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::file_lock::stopped;
use crate::meters::Phase;
use crate::operators::Restored;
use crate::outputs::{Changelog, Committed, OnCommit, OutputHandle, SyncRounds};
use crate::sources::Stop;
use crate::supervise::{self, supervise};
use crate::trace::Tracer;
use crate::worker;

/// How long a stopped start may take to leave in good order. A disk that does not answer cannot be
/// interrupted; the start is left to itself then.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a job; the caller waits for the job, or for a stop.
///
/// The steps run on a thread of their own, so that a step which blocks delays no stop.
///
/// Fails with `Stopped` if a stop comes before anything was read, and otherwise with the first
/// cause in any process.
pub fn start(asked: JobSettings) -> Result<Job> {
    let runtime = Arc::new(runtime()?);
    let (stop, begun) = (asked.stop.clone(), ReadingBegun::default());
    let (give, mut given) = mpsc::channel(1);
    let fail = give.clone();
    let work = {
        let (runtime, begun) = (Arc::clone(&runtime), begun.clone());
        move || {
            let started = steps(asked, runtime, begun);
            // It fails if the caller has left; then nothing has begun.
            drop(give.try_send(started));
            Ok(())
        }
    };
    supervise::thread("start", move |error| drop(fail.try_send(Err(error))), work)?;
    let started = runtime.block_on(async {
        tokio::select! {
            biased;
            started = given.recv() => return started,
            () = stop.stopped() => {}
        }
        match tokio::time::timeout(LEAVE_TIMEOUT, given.recv()).await {
            Ok(started) => started,
            // The job reads already, and ends as a running job does.
            Err(_) if begun.is_set() => given.recv().await,
            Err(_) => Some(Err(stopped())),
        }
    });
    started.unwrap_or_else(|| Err(Error::new(ErrorKind::Panicked, "the start has no result")))
}

/// The steps of a start, one after the other. Each can fail, and a stop ends each.
fn steps(asked: JobSettings, runtime: Arc<Runtime>, begun: ReadingBegun) -> Result<Job> {
    let (plan, sources) = check_settings::check(asked)?;
    let start = Start::of(plan, runtime, begun)?;
    let own = start.open_first()?;
    let mesh = find_others(&start.plan, start.stop.clone())?;
    let failing = start.watch(&mesh.control);
    begin(start, sources, own, mesh).map_err(|error| failing.cause_of(error))
}

/// A start whose settings are checked.
struct Start {
    /// The checked settings, and the steps that are taken with them.
    plan: JobPlan,
    /// Runs sockets and requests.
    runtime: Arc<Runtime>,
    /// Ends every wait of the start.
    stop: Stop,
    /// The figures of operators; `None` if they are not measured.
    tracer: Option<Tracer>,
    /// The first cause in this process.
    failure: Failure,
    /// Set when all processes have agreed to begin to read.
    begun: ReadingBegun,
}

impl Start {
    /// Prepares what a start needs besides its plan.
    fn of(plan: JobPlan, runtime: Arc<Runtime>, begun: ReadingBegun) -> Result<Start> {
        let tracer = Tracer::of_job(&plan.asked.settings, plan.asked.cluster.process)?;
        if let Some(tracer) = tracer.clone() {
            plan.asked.meters.operators().set(move || tracer.operators());
        }
        let (stop, failure) = (plan.asked.stop.clone(), Failure::new());
        Ok(Start { plan, runtime, stop, tracer, failure, begun })
    }

    /// Opens state and output in process 0, before the others are let in: what is refused is
    /// refused at once.
    fn open_first(&self) -> Result<Option<(u32, StateAndOutput)>> {
        let is_first = self.plan.asked.cluster.process == 0;
        if is_first { self.plan.open_first().map(Some) } else { Ok(None) }
    }

    /// Passes stops and failures on between the processes from now on.
    fn watch(&self, links: &Control) -> FailingStart {
        let cluster = &self.plan.asked.cluster;
        let (failure, stop, begun) = (&self.failure, self.stop.clone(), self.begun.clone());
        let meters = self.plan.asked.meters.clone();
        share_figures::note_failure(failure, meters, links.clone(), cluster.process);
        if cluster.processes > 1 {
            let watching = watch_stop(stop.clone(), links.clone(), cluster.process, begun.clone());
            supervise(failure, self.runtime.handle(), "watch stop", watching);
            pass_on_failure(failure, links.clone());
        }
        FailingStart { failure: failure.clone(), links: links.clone(), stop, begun }
    }
}

/// Finds the cause of a start that has failed, and passes it on.
struct FailingStart {
    /// The first cause in this process, if there is one.
    failure: Failure,
    /// The links to the other processes.
    links: Control,
    /// Set if this process was asked to stop.
    stop: Stop,
    /// Set if reading has begun: a stop then ends the job as one that runs.
    begun: ReadingBegun,
}

impl FailingStart {
    /// Returns the first cause, of which `error` may only be a consequence.
    fn cause_of(self, error: Error) -> Error {
        let FailingStart { failure, links, stop, begun } = self;
        // The first failure was sent to the others already; this error only follows from it.
        if let Some(cause) = failure.take_cause() {
            return cause;
        }
        let is_stop = stop.is_stopped() || links.is_stop_asked();
        let may_follow = matches!(error.kind(), ErrorKind::PeerLost | ErrorKind::Stopped);
        if is_stop && may_follow && !begun.is_set() {
            // A stop of one is a stop of all. It fails where the others have gone already.
            let reason = "it was told to stop".to_owned();
            drop(links.broadcast(Message::AskStop { reason }));
            return stopped();
        }
        // The others should not only see the connections close.
        links.fail(&error.to_string());
        error
    }
}

/// Agrees with the other processes where the job begins, and opens state and output, which process
/// 0 has opened before.
///
/// Fails with the same error in every process if process 0 refuses what former runs left, and with
/// an error of this process alone if it cannot open them.
fn agree(
    plan: &JobPlan,
    sources: &OwnSources,
    runtime: &Runtime,
    own: Option<(u32, StateAndOutput)>,
    control: &Control,
) -> Result<(Agreement, StateAndOutput)> {
    let found = plan.find(sources)?;
    let decide = |found: &FormerRuns| plan.decide(runtime, own.as_ref(), found);
    let agreed = Agreement::reach(control, &found, decide)?;
    let opened = match own {
        Some((_, opened)) => opened,
        // A process 0 that has ended has given the output back: its cause is the first one.
        None => plan
            .open_as_follower(runtime, &agreed)
            .map_err(|error| control.cause_within(CAUSE_WAIT).map_or(error, |loss| loss.into()))?,
    };
    // The markers of this run bear this: the number of parts was not known before.
    let job = plan.publication(agreed.parts, &agreed.ids).job;
    plan.asked.meters.update_facts(|facts| facts.job = job);
    Ok((agreed, opened))
}

/// Starts the job among the processes that have found each other. Workers begin before sources do,
/// so that the first block finds a reader.
fn begin(
    start: Start,
    sources: OwnSources,
    own: Option<(u32, StateAndOutput)>,
    mut mesh: Mesh,
) -> Result<Job> {
    let Start { plan, runtime, stop, tracer, failure, begun } = start;
    let block_links = std::mem::take(&mut mesh.blocks);
    let (agreed, opened) = agree(&plan, &sources, &runtime, own, &mesh.control)?;
    let mut streams = plan.open_streams(sources, &agreed)?;
    let (announce, first_commits) = committed_stream::channel();
    let announced = announce.downgrade();
    let Publishing { output, changelog, resources } =
        open_publishing(&plan, opened, &agreed, (&runtime, &failure), streams.progress())?;
    let (progress, observer) = (Arc::clone(streams.progress()), plan.asked.on_commit.clone());
    let on_commit = note_commits(progress, resources.changelog.clone(), observer);
    let meters = plan.asked.meters.clone();
    let replay = &agreed.recovery_plan.replay;
    let (status, on_commit) =
        status::observe((agreed.open, replay), announce, Some(on_commit), meters.clone());
    let work = (output.clone(), on_commit, changelog);
    let worker_plan =
        plan.worker_plan(streams.feed.clone(), &agreed, work, tracer.clone(), &failure, &mesh);
    if stop.is_stopped() && plan.asked.cluster.process == 0 {
        return Err(stopped());
    }
    plan.note_journals(&mut streams, &mesh.control)?;
    begun.set();
    mesh.control.resume();
    let shipping = plan.sharing(&streams, &failure).start(&runtime, block_links)?;
    let workers = worker::spawn(worker_plan, mesh.allocators()?)?;
    let read = plan.read(&runtime, streams, &output.results, &failure).inspect_err(|error| {
        // Otherwise the workers would wait for lines, and their guards for the workers.
        failure.fail(Error::new(error.kind(), error.to_string()));
    });
    let (progress, reading, streams) = read?;
    meters.enter(Phase::Counting, "");
    let Mesh { control, inbox, .. } = mesh;
    share_figures::share(&meters, &control, agreed.is_watched, &failure, runtime.handle());
    let links = control.clone();
    let process = EpochProcess {
        progress,
        reading,
        control,
        inbox,
        stop: stop.clone(),
        status: status.clone(),
        failure: failure.clone(),
        results: output.results,
        changelog: resources.changelog.clone(),
        locks: resources.locks(),
        meters,
    };
    plan.drive_epochs(&runtime, process, &agreed);
    let pulse = failure.pulse().clone();
    let handle = JobHandle { stop, status, announced, pulse, tracer };
    Ok(Job {
        handle,
        failure,
        workers,
        runtime,
        links,
        streams,
        shipping,
        first_commits: Some(first_commits),
        resources,
    })
}

/// The output of a process, with what it needs while the job lives.
struct Publishing {
    /// The handle that the operators write with.
    output: OutputHandle,
    /// The changelog, and what it has of former runs; `None` in a job without state.
    changelog: Option<(Restored, Changelog)>,
    /// The resources that are held until the job ends.
    resources: JobResources,
}

/// Opens the writer of epochs and reads the changelog back.
fn open_publishing(
    plan: &JobPlan,
    opened: StateAndOutput,
    agreed: &Agreement,
    (runtime, failure): (&Runtime, &Failure),
    progress: &EpochProgress,
) -> Result<Publishing> {
    let durable = progress.durable_epochs().clone();
    if plan.asked.cluster.processes == 1 {
        progress.complete_when_recorded();
    }
    let results = plan.results(&opened)?;
    let opened_writer = plan.open_writer(&opened, agreed, &results, runtime)?;
    let writer = Arc::clone(&opened_writer.writer);
    // From here on: to read the changelog back may take longer than a claim lasts.
    keep_claim(&*writer, runtime, failure);
    let restored = plan.remember(runtime, &opened, &opened_writer, agreed, failure)?;
    let changelog = restored.as_ref().map(|(_, changelog)| changelog.clone());
    let is_first = plan.asked.cluster.process == 0;
    let resources = JobResources { opened, changelog, writer: Arc::clone(&writer), is_first };
    let (meters, runtime) = (plan.asked.meters.clone(), runtime.handle().clone());
    let rounds = SyncRounds::none();
    let output = OutputHandle { writer, results, meters, durable, rounds, runtime };
    Ok(Publishing { output, changelog: restored, resources })
}

/// Waits for the other processes of the cluster, or for a stop.
fn find_others(plan: &JobPlan, stop: Stop) -> Result<Mesh> {
    let mesh = cluster::connect_until(&plan.asked.cluster, async move { stop.stopped().await })?;
    mesh.ok_or_else(|| {
        Error::new(
            ErrorKind::Stopped,
            "stopped before all processes of the cluster had come: nothing was read",
        )
    })
}

/// Returns an observer of commits that notifies the journals and the changelog, then calls `then`.
fn note_commits(
    progress: Arc<EpochProgress>,
    changelog: Option<Changelog>,
    then: Option<OnCommit>,
) -> OnCommit {
    Arc::new(move |committed: Committed| {
        progress.committed(committed.epoch);
        if let Some(changelog) = &changelog {
            changelog.committed(committed.epoch);
        }
        if let Some(then) = &then {
            then(committed);
        }
    })
}

/// Builds a runtime of two threads: one may read a socket while the other signs or encrypts a
/// request.
fn runtime() -> Result<Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wordtide-io")
        .enable_all()
        .build();
    built.map_err(|error| {
        Error::new(ErrorKind::Failed, "cannot start the runtime for sockets and requests")
            .cause(error)
    })
}

/// Sends the cause of a failure to the other processes, which end with it and name the cause.
///
/// It happens in the thread that fails, not in a task of its own: the data sockets must be closed
/// whatever else has failed, or the workers would wait for their peers for ever.
fn pass_on_failure(failure: &Failure, links: Control) {
    failure.on_cause(move |cause| {
        if links.cause().is_none() {
            links.fail(cause);
        }
    });
}
