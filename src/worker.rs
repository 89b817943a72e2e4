//! The workers of a process: each builds the dataflow and steps until it is complete or the job has
//! failed.
//!
//! A worker does not poll. It parks until a message, a block or a finished request wakes it. After
//! a panic in one worker the others would wait for ever, so a panic is caught here and becomes the
//! job's failure, which wakes all.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use timely::WorkerConfig;
use timely::communication::{AllocatorBuilder, WorkerGuards};
use timely::dataflow::operators::probe::Probe;
use timely::worker::Worker;

use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::{Feed, Wake};
use crate::meters::Meters;
use crate::operators::{
    self, Context, DataflowSettings, Lines, ProcessRanges, Restored, Rows, Tallies,
};
use crate::outputs::{self, Changelog, OnCommit, OutputHandle};
use crate::supervise::panic_text;
use crate::trace::Tracer;

/// A dataflow definition: from the lines of all sources to the rows to publish.
pub type Definition = Arc<dyn for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync>;

/// The inputs of the workers of one process. All workers get the same.
#[derive(Clone)]
pub struct Plan {
    /// The definition that is computed.
    pub definition: Definition,
    /// The queue of this process's blocks.
    pub feed: Feed,
    /// True if all processes are on this host, so words may be sent from one to another.
    pub shares_host: bool,
    /// The ranges of words that the workers of this process share.
    pub ranges: ProcessRanges,
    /// The settings of the operators.
    pub settings: DataflowSettings,
    /// The changelog: its content from former runs, and its writer; `None` without state.
    pub memory: Option<(Restored, Changelog)>,
    /// The output.
    pub output: OutputHandle,
    /// Called on worker 0 for every committed epoch.
    pub on_commit: OnCommit,
    /// Measures the operators; `None` if it was not asked for.
    pub tracer: Option<Tracer>,
    /// The failure of the job.
    pub failure: Failure,
    /// The figures of the process.
    pub meters: Meters,
    /// Finds the cause of a panic, which may only follow from a lost peer.
    pub explain_panic: ExplainPanic,
}

/// Turns the message of a worker's panic into the cause of the job's failure, or returns `None` if
/// the panic is the cause itself.
pub type ExplainPanic = Arc<dyn Fn(&str) -> Option<Error> + Send + Sync>;

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The running workers of a process. Dropping this waits for their end.
pub type Workers = WorkerGuards<()>;

/// Starts the workers of this process with the given allocators and guard.
///
/// Fails with `Failed` if a thread cannot be started.
pub fn spawn(
    plan: Plan,
    (allocators, others): (Vec<AllocatorBuilder>, Box<dyn std::any::Any + Send>),
) -> Result<Workers> {
    let run = move |worker: &mut Worker| run(worker, &plan);
    timely::execute::execute_from(allocators, others, WorkerConfig::default(), run)
        .map_err(|why| Error::new(ErrorKind::Failed, format!("cannot start the workers: {why}")))
}

/// Runs one worker to its end.
fn run(worker: &mut Worker, plan: &Plan) {
    if let Some(tracer) = &plan.tracer {
        tracer.install(worker);
    }
    live(worker, &plan.failure, &*plan.explain_panic, |worker| build(worker, plan));
}

/// Builds a dataflow and steps until it is complete or the job has failed. A panic of `build` or of
/// an operator fails the job.
pub fn live(
    worker: &mut Worker,
    failure: &Failure,
    explain_panic: &dyn Fn(&str) -> Option<Error>,
    build: impl FnOnce(&mut Worker),
) {
    let thread = std::thread::current();
    let unpark: Wake = Arc::new(move || thread.unpark());
    failure.on_failure(Arc::clone(&unpark));
    let pulse = failure.pulse().join(unpark);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        build(worker);
        while worker.has_dataflows() && !failure.is_failed() {
            worker.step_or_park(None);
            pulse.answer();
            if let Some(what) = operators::take_malformed() {
                failure.fail(malformed(what));
            }
        }
    }));
    if let Err(panic) = lived {
        let text = panic_text(&*panic);
        let message = format!("worker {} panicked: {text}", worker.index());
        let cause = explain_panic(text);
        failure.fail(cause.unwrap_or_else(|| Error::new(ErrorKind::Panicked, message)));
    }
    // Timely waits until all dataflows are complete or dropped. A failed one never completes.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// Returns the error for data of a peer that cannot be decoded.
fn malformed(what: &str) -> Error {
    let message = format!("another process of the cluster sent {what} that cannot be read");
    Error::new(ErrorKind::PeerLost, message).hint("run one version everywhere")
}

/// Builds the dataflow of a job: read, the definition, write the parts, commit.
fn build(worker: &mut Worker, plan: &Plan) {
    let (index, peers) = (worker.index(), worker.peers());
    let owns = |part: u32| plan.settings.owner(part) == index;
    let context = Rc::new(Context {
        index,
        peers,
        dividing: if plan.shares_host { peers / plan.settings.threads } else { 1 },
        ranges: plan.ranges.clone(),
        counting: Cell::default(),
        settings: plan.settings.clone(),
        tallies: Tallies::metered(plan.meters.add_worker(index)),
        changes: plan.memory.as_ref().map(|(restored, _)| restored.take(owns)).unwrap_or_default(),
        failure: plan.failure.clone(),
        meters: plan.meters.clone(),
    });
    // The probe is not kept: the driver learns of a commit by `on_commit`.
    worker.dataflow_named("wordtide", |scope| {
        let lines =
            operators::read(scope, plan.feed.clone(), index % plan.settings.threads, context);
        let rows = (plan.definition)(lines);
        let (output, failure) = (plan.output.clone(), plan.failure.clone());
        let keeper = plan.memory.as_ref().map(|(_, keeper)| keeper.clone());
        let messages = outputs::write_parts(rows, output.clone(), keeper.clone(), failure.clone());
        let (counts, on_commit) = ((plan.settings.parts, peers), Arc::clone(&plan.on_commit));
        outputs::commit(messages, counts, (output, keeper), on_commit, failure).probe();
    });
}
