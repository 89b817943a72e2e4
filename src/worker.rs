//! One worker's life: build the dataflow, then step until it is complete or the job has failed.
//!
//! A worker never polls: it parks until a message, a block or a finished request wakes it. A panic
//! in one worker would leave the others parked for ever, waiting for progress that cannot come; so
//! it is caught here, becomes the job's failure, and that wakes all.

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
use crate::operators::{self, Context, Lines, Restored, Rows, Tallies};
use crate::sink::{self, Keeper, OnCommit, Publisher};
use crate::supervise::panic_text;
use crate::words::WordOptions;

/// A dataflow definition: from the lines of all sources to the rows to publish.
pub type Definition = Arc<dyn for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync>;

/// All that the workers of one process need, each the same.
#[derive(Clone)]
pub struct Plan {
    /// What is computed.
    pub definition: Definition,
    /// Where this process's blocks wait.
    pub feed: Feed,
    /// Workers in this process.
    pub threads: usize,
    /// Whether all processes are on this host, so that words may go from one to another.
    pub shares_host: bool,
    /// Parts of a result.
    pub parts: u32,
    /// Workers 0 to this, of all processes, own the parts.
    pub owners: usize,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// How lines become words.
    pub words: WordOptions,
    /// A table larger than this is drained early.
    pub table_bytes_max: usize,
    /// What former runs kept of counts with memory, and what keeps it; none where nothing survives.
    pub memory: Option<(Restored, Keeper)>,
    /// Where results go.
    pub publisher: Publisher,
    /// Told of every committed epoch, on worker 0.
    pub on_commit: OnCommit,
    /// The fate of the job.
    pub failure: Failure,
    /// What a panic with this message means: it may only follow from a lost peer.
    pub explain_panic: ExplainPanic,
}

/// Turns the message of a worker's panic into the cause of the job's failure.
pub type ExplainPanic = Arc<dyn Fn(&str) -> Option<Error> + Send + Sync>;

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("threads", &self.threads)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

/// The running workers of a process; whoever lets go of them waits for their end.
pub type Workers = WorkerGuards<()>;

/// Starts the workers of this process; the guards join them.
pub fn spawn(
    plan: Plan,
    (allocators, others): (Vec<AllocatorBuilder>, Box<dyn std::any::Any + Send>),
) -> Result<Workers> {
    let run = move |worker: &mut Worker| run(worker, &plan);
    timely::execute::execute_from(allocators, others, WorkerConfig::default(), run)
        .map_err(|why| Error::new(ErrorKind::Failed, format!("cannot start the workers: {why}")))
}

fn run(worker: &mut Worker, plan: &Plan) {
    live(worker, &plan.failure, &*plan.explain_panic, |worker| build(worker, plan));
}

/// Builds a dataflow and steps until it is complete or the job has failed; a panic is a failure.
pub(crate) fn live(
    worker: &mut Worker,
    failure: &Failure,
    explain_panic: &dyn Fn(&str) -> Option<Error>,
    build: impl FnOnce(&mut Worker),
) {
    let thread = std::thread::current();
    let unpark: Wake = Arc::new(move || thread.unpark());
    failure.on_failure(unpark);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        build(worker);
        while worker.has_dataflows() && !failure.is_failed() {
            worker.step_or_park(None);
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
    // What is left of a failed dataflow must go, or timely would go on waiting for it.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// Returns the error of a job to which a peer has sent data that cannot be read.
fn malformed(what: &str) -> Error {
    let message = format!("another process of the cluster sent {what} that cannot be read");
    Error::new(ErrorKind::PeerLost, message).hint("run one version everywhere")
}

fn build(worker: &mut Worker, plan: &Plan) {
    let (index, peers) = (worker.index(), worker.peers());
    let owns = |part: u32| part as usize % plan.owners == index;
    let context = Rc::new(Context {
        index,
        peers,
        threads: plan.threads,
        routing: if plan.shares_host { peers } else { plan.threads },
        parts: plan.parts,
        owners: plan.owners,
        interval_ms: plan.interval_ms,
        words: plan.words.clone(),
        table_bytes_max: plan.table_bytes_max,
        tallies: Tallies::default(),
        memory: plan.memory.as_ref().map(|(restored, _)| restored.take(owns)).unwrap_or_default(),
        failure: plan.failure.clone(),
    });
    worker.dataflow_named("wordtide", |scope| {
        let lines = operators::read(scope, plan.feed.clone(), index % plan.threads, context);
        let rows = (plan.definition)(lines);
        let (publisher, failure) = (plan.publisher.clone(), plan.failure.clone());
        let keeper = plan.memory.as_ref().map(|(_, keeper)| keeper.clone());
        let reports = sink::write_parts(rows, publisher.clone(), keeper, failure.clone());
        let on_commit = Arc::clone(&plan.on_commit);
        sink::commit(reports, plan.parts, publisher, on_commit, failure).probe();
    });
}
