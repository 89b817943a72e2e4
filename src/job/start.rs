//! Starting a job: check, find the others, agree, then start workers, sources and the pace.
//!
//! Process 0 opens state and output before it lets the others in, so that what is refused is
//! refused at once; the others open theirs when they know what process 0 decided.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::borders::Crossing;
use super::links::Agreement;
use super::order::{self, Order};
use super::output::Output;
use super::pace::Process;
use super::streams::OwnSources;
use super::{Job, JobBuilder, JobHandle, commits, memory, status};
use crate::cluster::{self, Control, Mesh};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::sink::{Committed, Keeper, OnCommit, Publisher};
use crate::source::Stop;
use crate::state::State;
use crate::supervise::{self, supervise};
use crate::worker;

/// What a process holds for as long as the job lives.
#[derive(Debug)]
pub(super) struct Holdings {
    pub(super) state: Option<State>,
    pub(super) output: Output,
    /// What keeps the memory of a job with state.
    pub(super) keeper: Option<Keeper>,
    /// Whether this process sees to what all have in common.
    pub(super) is_first: bool,
}

impl Holdings {
    /// Ends the memory of a job that has finished: the next start begins with nothing.
    pub(super) fn forget(&self, runtime: &Runtime) {
        let (Some(state), Some(keeper)) = (&self.state, &self.keeper) else { return };
        // First whose it is, then what it is: cut off in between, it is nobody's.
        memory::forget_begun(state.dir());
        if self.is_first
            && let Err(error) = runtime.block_on(keeper.discard())
        {
            tracing::warn!("{error}; what the finished job remembered is left there");
        }
    }
}

pub(super) fn start(mut builder: JobBuilder) -> Result<Job> {
    let on_commit = builder.on_commit.take();
    let stop = builder.stop.clone();
    let (order, sources) = order::check(builder)?;
    let runtime = runtime()?;
    let own = if order.cluster.process == 0 { Some(order.open_first()?) } else { None };
    let mesh = find_others(&order, stop.clone())?;
    let links = mesh.control.clone();
    begin(order, sources, runtime, own, mesh, (stop, on_commit)).inspect_err(|error| {
        // The others should not only see the connections close.
        links.fail(&error.to_string());
    })
}

/// Starts the job among the processes that have found each other.
fn begin(
    order: Order,
    sources: OwnSources,
    runtime: Runtime,
    own: Option<(u32, Holdings)>,
    mut mesh: Mesh,
    (stop, on_commit): (Stop, Option<OnCommit>),
) -> Result<Job> {
    let block_links = std::mem::take(&mut mesh.blocks);
    let found = order.find(&sources)?;
    let timeout = order.cluster.start_timeout;
    let agreed = Agreement::reach(&mesh.control, &found, timeout, |found| {
        order.decide(&runtime, own.as_ref(), found)
    })?;
    let mut holdings = match own {
        Some((_, holdings)) => holdings,
        None => order.open_as_follower(&runtime, &agreed)?,
    };

    let failure = Failure::new();
    let streams = order.open_streams(sources, &agreed, &mesh.control)?;
    let (announce, first_commits) = commits::channel();
    let announced = announce.downgrade();
    let publication = order.publication(agreed.parts);
    let store = Arc::clone(&holdings.output.store);
    let results = order.results(&holdings)?;
    let publisher = Publisher::new(publication, store, runtime.handle().clone());
    let publisher = publisher.bounded_by(results.clone());
    let memory = order.remember(&runtime, &holdings, &publisher, &agreed, &failure)?;
    holdings.keeper = memory.as_ref().map(|(_, keeper)| keeper.clone());
    let keeper = holdings.keeper.clone();
    let on_commit = note_commits(Arc::clone(streams.crossing()), keeper.clone(), on_commit);
    let (status, on_commit) = status::observe(agreed.open, announce, Some(on_commit));
    status.send_modify(|status| status.in_flight.extend(&agreed.judgement.replay));
    let bounded = publisher.clone();
    let mut plan = order.plan(streams.feed.clone(), &agreed, publisher, on_commit, &failure, &mesh);
    plan.memory = memory;
    let shipping = order.sharing(&streams, &failure).start(&runtime, block_links)?;
    let workers = worker::spawn(plan, mesh.allocators()?)?;

    let read = order.read(&runtime, streams, &bounded, &failure).inspect_err(|error| {
        // Workers that were not told would wait for lines, and their guards for them.
        failure.fail(Error::new(error.kind(), error.to_string()));
    });
    let (borders, reading, streams) = read?;
    let Mesh { control, inbox, .. } = mesh;
    let (links, watched) = (control.clone(), failure.clone());
    let process = Process {
        borders,
        reading,
        control,
        inbox,
        stop: stop.clone(),
        status: status.clone(),
        failure: failure.clone(),
        results,
        keeper,
    };
    if order.cluster.processes > 1 {
        let telling = tell_failure(watched, links.clone());
        supervise(&failure, runtime.handle(), "report failure", telling);
    }
    order.set_pace(&runtime, process, &agreed);
    let handle = JobHandle { stop, status, announced };
    let first_commits = Some(first_commits);
    Ok(Job { handle, failure, workers, runtime, links, streams, shipping, first_commits, holdings })
}

/// Waits for the other processes of the cluster, or for the wish to stop.
fn find_others(order: &Order, stop: Stop) -> Result<Mesh> {
    let mesh = cluster::connect_until(&order.cluster, async move { stop.stopped().await })?;
    mesh.ok_or_else(|| {
        Error::new(
            ErrorKind::PeerLost,
            "stopped before all processes of the cluster had come: nothing was read",
        )
    })
}

/// Has the journals and the memory told of commits, too.
fn note_commits(
    crossing: Arc<Crossing>,
    keeper: Option<Keeper>,
    then: Option<OnCommit>,
) -> OnCommit {
    Arc::new(move |committed: Committed| {
        crossing.committed(committed.epoch);
        if let Some(keeper) = &keeper {
            keeper.committed(committed.epoch);
        }
        if let Some(then) = &then {
            then(committed);
        }
    })
}

/// Two threads: one may read a socket while the other signs or encrypts a request.
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

/// Tells the other processes why this one ends: they share its fate and should name the cause.
async fn tell_failure(failure: Failure, links: Control) -> Result<()> {
    failure.failed().await;
    if links.cause().is_none() {
        let cause = failure.cause_text().unwrap_or_else(|| "it failed".to_owned());
        // It waits for the others to be told, which a task must not.
        supervise::blocking(move || drop(links.fail(&cause))).await;
    }
    Ok(())
}
