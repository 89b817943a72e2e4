//! Starting a job: check, find the others, agree, then start workers, sources and the pace.
//!
//! Process 0 opens state and output before it lets the others in, so that what is refused is
//! refused at once; the others open theirs when they know what process 0 decided.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::borders::{Borders, Crossing};
use super::links::Agreement;
use super::output::{self, Output};
use super::pace::{Follower, Leader, Process};
use super::reading::Reading;
use super::recovery::{self, Found, JournalPlan};
use super::replay;
use super::sharing::{self, Readers, Sharing};
use super::streams::{OwnSources, Streams, StreamsEnd};
use super::{Job, JobBuilder, JobHandle, StatePlace, commits, status};
use crate::cluster::{self, ClusterSettings, Control, Mesh};
use crate::epoch::{Clock, Schedule};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::journal::JournalSettings;
use crate::lines::{BlockPool, LineLimits, LongLine};
use crate::settings::Settings;
use crate::sink::format::Format;
use crate::sink::{Committed, Layout, OnCommit, Publication, Publisher};
use crate::source::Stop;
use crate::state::{Identity, State};
use crate::store::{StoreSettings, Target};
use crate::words::Split;
use crate::worker::{self, Definition, ExplainPanic, Plan};

/// How long a panic that follows from a lost peer waits for the word that says which.
const CAUSE_WAIT: Duration = Duration::from_secs(1);

/// What was asked for, checked as far as that goes without touching anything.
struct Order {
    definition: Definition,
    target: Target,
    layout: Layout,
    format: Format,
    /// With the number of parts 0 where it is free to follow the number of workers.
    identity: Identity,
    place: StatePlace,
    settings: Settings,
    store: StoreSettings,
    take_over: bool,
    journal: JournalSettings,
    /// A kept journal to be run again.
    replay: Option<PathBuf>,
    /// Ids of journals that are gone for good.
    abandoned: Vec<String>,
    readers: Readers,
    cluster: ClusterSettings,
    clock: Arc<dyn Clock>,
    on_long_line: LongLine,
}

/// What a process holds for as long as the job lives.
#[derive(Debug)]
pub(super) struct Holdings {
    _state: Option<State>,
    output: Output,
}

pub(super) fn start(mut builder: JobBuilder) -> Result<Job> {
    let on_commit = builder.on_commit.take();
    let stop = builder.stop.clone();
    let (order, sources) = check(builder)?;
    let runtime = runtime()?;
    let own = if order.cluster.process == 0 { Some(order.open_first()?) } else { None };

    let mut mesh = find_others(&order, stop.clone())?;
    let block_links = std::mem::take(&mut mesh.blocks);
    let (allocators, control, inbox) = mesh.into_parts()?;
    let found = order.find(&sources)?;
    let agreed = Agreement::reach(&control, &found, order.cluster.start_timeout, |found| {
        order.decide(&runtime, own.as_ref(), found)
    })?;
    let holdings = match own {
        Some((_, holdings)) => holdings,
        None => order.open_as_follower(&agreed)?,
    };

    let failure = Failure::new();
    let streams = order.open_streams(sources, &agreed)?;
    let on_commit = note_commits(Arc::clone(streams.crossing()), on_commit);
    let (announce, first_commits) = commits::channel();
    let announced = announce.downgrade();
    let (status, on_commit) = status::observe(agreed.open, announce, Some(on_commit));
    status.send_modify(|status| status.in_flight.extend(&agreed.judgement.replay));
    let publication = order.publication(agreed.parts);
    let store = Arc::clone(&holdings.output.store);
    let publisher = Publisher::new(publication, store, runtime.handle().clone());
    let explain = explain_panic(control.clone());
    let plan = order.plan(streams.feed.clone(), &agreed, publisher, on_commit, &failure, explain);
    let shipping = order.sharing(&streams, &failure).start(&runtime, block_links)?;
    let workers = worker::spawn(plan, allocators)?;

    stop_without_reader(&runtime, &holdings.output, stop.clone());
    let (borders, reading, streams) = order.read(&runtime, streams, &failure)?;
    let (links, watched) = (control.clone(), failure.clone());
    let process = Process {
        borders,
        reading,
        control,
        inbox,
        stop: stop.clone(),
        status: status.clone(),
        failure: failure.clone(),
    };
    if order.cluster.processes > 1 {
        runtime.spawn(tell_failure(watched, links.clone()));
    }
    order.set_pace(&runtime, process, &agreed);
    let handle = JobHandle { stop, status, announced };
    let first_commits = Some(first_commits);
    let _holdings = holdings;
    Ok(Job {
        handle,
        failure,
        workers,
        runtime,
        links,
        streams,
        shipping,
        first_commits,
        _holdings,
    })
}

/// Waits for the other processes of the cluster, or for the wish to stop.
fn find_others(order: &Order, stop: Stop) -> Result<Mesh> {
    let mesh = cluster::connect_until(&order.cluster, async move { stop.stopped().await })?;
    mesh.ok_or_else(|| {
        Error::new(ErrorKind::PeerLost, "stopped before all processes of the cluster had come")
    })
}

fn check(builder: JobBuilder) -> Result<(Order, OwnSources)> {
    let JobBuilder { definition, target, suffix, format, state, store, take_over, .. } = builder;
    let (journal, clock, on_long_line) = (builder.journal, builder.clock, builder.on_long_line);
    let sources = builder.sources;
    let (mut settings, mut cluster) = (builder.settings, builder.cluster);
    if state != StatePlace::None {
        journal.validate()?;
    }
    settings.validate()?;
    cluster.threads = settings.threads;
    cluster.validate()?;
    let missing = |what: &str, hint: &str| {
        Error::new(ErrorKind::Usage, format!("the job has no {what}")).hint(hint)
    };
    if sources.is_empty() && builder.replay.is_none() {
        return Err(missing("source", "give --connect, --file or --stdin"));
    }
    let (name, definition) =
        definition.ok_or_else(|| missing("dataflow", "name one of `wordtide list`"))?;
    let target = target.ok_or_else(|| missing("output", "give --to"))?;
    let (sources, readers) = sharing::place(sources, cluster.processes)?;
    if format == Format::Scala && settings.words.split == Split::Space {
        settings.words.split = Split::SpaceScala;
    }
    let identity = Identity {
        definition: name,
        interval_ms: settings.interval.as_millis() as u64,
        parts: settings.parts.unwrap_or(0),
        words: settings.words.clone(),
        line_bytes_max: settings.line_bytes_max,
        format,
        order: settings.order,
        empty_epochs: settings.empty_epochs,
        output: target.to_string(),
        suffix: suffix.clone(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let fingerprint = format!("{version} {}{}", identity.digest(), readers.fingerprint(&sources));
    cluster.fingerprint = *blake3::hash(fingerprint.as_bytes()).as_bytes();
    let layout = Layout::new(target.prefix(), suffix);
    let sources = sharing::own(sources, &readers, &cluster)?;
    let order = Order {
        definition,
        target,
        layout,
        format,
        identity,
        place: state,
        settings,
        store,
        take_over,
        journal,
        abandoned: builder.abandoned,
        readers,
        replay: builder.replay,
        cluster,
        clock,
        on_long_line,
    };
    Ok((order, sources))
}

impl Order {
    /// Opens state and output as process 0, which decides the number of parts: that which the job
    /// was begun with, else the number of workers now.
    fn open_first(&self) -> Result<(u32, Holdings)> {
        let dir = self.state_dir();
        let recorded = dir.as_deref().and_then(State::recorded_parts);
        let recorded = match &self.replay {
            Some(dir) => Some(self.replayed_parts(dir)?),
            None => recorded,
        };
        let workers = (self.cluster.processes * self.settings.threads) as u32;
        let parts = self.settings.parts.or(recorded).unwrap_or(workers);
        let state = self.open_state(parts)?;
        let output = match Output::open(&self.target, &self.store) {
            Ok(output) => output,
            Err(error) => {
                state.into_iter().for_each(State::discard_if_new);
                return Err(error);
            }
        };
        Ok((parts, Holdings { _state: state, output }))
    }

    /// The number of parts of a job that is run again, whose interval must be that of now.
    fn replayed_parts(&self, dir: &Path) -> Result<u32> {
        let interval_ms = self.identity.interval_ms;
        let refused = |message: String, hint: String| {
            Err(Error::new(ErrorKind::Configuration, message).hint(hint))
        };
        if self.cluster.processes > 1 {
            return refused("a replay runs in one process".into(), "give -w instead of -n".into());
        }
        let glimpses = replay::glimpses(dir)?;
        let Some((_, first)) = glimpses.first() else { return Ok(1) };
        if let Some((folder, other)) = glimpses.iter().find(|(_, at)| at.interval_ms != interval_ms)
        {
            let message = format!("{} has epochs of {} ms", folder.display(), other.interval_ms);
            return refused(message, format!("give --interval {}ms", other.interval_ms));
        }
        Ok(first.parts)
    }

    fn decide(
        &self,
        runtime: &Runtime,
        own: Option<&(u32, Holdings)>,
        found: &[Found],
    ) -> Result<Agreement> {
        let (parts, holdings) = own.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "a process other than 0 was asked to decide")
        })?;
        let store = &*holdings.output.store;
        let publication = self.publication(*parts);
        let (judgement, newest) = runtime.block_on(async {
            holdings.output.probe(&self.target).await?;
            recovery::miss_none(self.state_dir().as_deref(), found, &self.abandoned)?;
            let judgement = recovery::judge(found, store, &publication).await?;
            let open = self.schedule(judgement.newest).open();
            if matches!(self.target, Target::Oss { .. } | Target::S3 { .. }) && !self.take_over {
                let recent = open.saturating_sub(4 * self.identity.interval_ms);
                let job = &publication.job;
                output::refuse_foreign(store, &self.layout, recent.max(1), job).await?;
            }
            let newest = output::newest_from(store, &self.layout, open).await?;
            let newest = newest.max(judgement.newest);
            Ok::<_, Error>((judgement, newest))
        })?;
        let open = self.schedule(newest).open();
        Ok(Agreement { open, parts: *parts, judgement, lock_note: holdings.output.lock_note() })
    }

    /// The journals that this process finds.
    fn find(&self, sources: &OwnSources) -> Result<Vec<Found>> {
        if let Some(dir) = &self.replay {
            let mut found = Vec::new();
            for (folder, glimpse) in replay::glimpses(dir)? {
                found.push(replay::open(&folder, &glimpse)?.found());
            }
            return Ok(found);
        }
        let Some(dir) = self.state_dir() else { return Ok(Vec::new()) };
        if let (StatePlace::Below(_), 0) = (&self.place, self.cluster.process) {
            recovery::tell_of_others(&dir, self.definition_name());
        }
        let own: Vec<String> = sources.own.iter().map(|(_, _, name)| name.clone()).collect();
        recovery::find(&dir, &own, sources.all.as_deref())
    }

    fn open_streams(&self, sources: OwnSources, agreed: &Agreement) -> Result<Streams> {
        let threads = self.settings.threads;
        if let Some(dir) = &self.replay {
            return Streams::replay(dir, &agreed.judgement, agreed.open, threads);
        }
        let dir = self.state_dir();
        let plan = dir.as_deref().map(|state| JournalPlan {
            state,
            settings: self.journal.clone(),
            parts: agreed.parts,
            interval_ms: self.identity.interval_ms,
        });
        Streams::open(sources, plan.as_ref(), &agreed.judgement, agreed.open, threads)
    }

    fn open_as_follower(&self, agreed: &Agreement) -> Result<Holdings> {
        let state = self.open_state(agreed.parts)?;
        let output = Output::join(&self.target, &self.store, agreed.lock_note.as_deref())?;
        Ok(Holdings { _state: state, output })
    }

    fn state_dir(&self) -> Option<PathBuf> {
        match &self.place {
            StatePlace::None => None,
            StatePlace::Dir(dir) => Some(dir.clone()),
            StatePlace::Below(dir) => {
                Some(dir.join(format!("{}-{}", self.definition_name(), self.identity.digest())))
            }
        }
    }

    fn open_state(&self, parts: u32) -> Result<Option<State>> {
        let identity = Identity { parts, ..self.identity.clone() };
        let open = |dir: PathBuf| State::open(&dir, &identity, self.cluster.process);
        self.state_dir().map(open).transpose()
    }

    fn schedule(&self, after: Option<u64>) -> Schedule {
        let (wall_ms, monotonic) = (self.clock.wall_ms(), self.clock.monotonic());
        Schedule::new(self.settings.interval, wall_ms, monotonic, after)
    }

    /// What every worker of this process is to do.
    fn plan(
        &self,
        feed: Feed,
        agreed: &Agreement,
        publisher: Publisher,
        on_commit: OnCommit,
        failure: &Failure,
        explain_panic: ExplainPanic,
    ) -> Plan {
        Plan {
            definition: Arc::clone(&self.definition),
            feed,
            threads: self.settings.threads,
            parts: agreed.parts,
            owners: self.owners(),
            interval_ms: self.identity.interval_ms,
            words: self.settings.words.clone(),
            table_bytes_max: self.settings.table_bytes_max,
            publisher,
            on_commit,
            failure: failure.clone(),
            explain_panic,
        }
    }

    fn publication(&self, parts: u32) -> Publication {
        let identity = Identity { parts, ..self.identity.clone() };
        Publication {
            layout: self.layout.clone(),
            format: self.format,
            order: self.settings.order,
            empty_epochs: self.settings.empty_epochs,
            job: identity.digest(),
        }
    }

    /// How many workers, from the first on, own parts: standard output is that of process 0 alone.
    fn owners(&self) -> usize {
        let writing = if self.target == Target::Stdout { 1 } else { self.cluster.processes };
        writing * self.settings.threads
    }

    fn sharing<'a>(&'a self, streams: &'a Streams, failure: &'a Failure) -> Sharing<'a> {
        Sharing {
            process: self.cluster.process,
            readers: &self.readers,
            feed: &streams.feed,
            crossing: streams.crossing(),
            blocks_bytes_max: self.settings.blocks_bytes_max / 2,
            // A line is cut soon after it has become too long: this is only a bound.
            text_bytes_max: 4 * self.settings.line_bytes_max as u64 + (1 << 20),
            failure,
        }
    }

    fn read(
        &self,
        runtime: &Runtime,
        streams: Streams,
        failure: &Failure,
    ) -> Result<(Arc<Borders>, Reading, StreamsEnd)> {
        let pool = BlockPool::new(self.settings.blocks_bytes_max);
        let limits = LineLimits {
            line_bytes_max: self.settings.line_bytes_max,
            word_bytes_max: self.settings.words.word_bytes_max,
            on_long_line: self.on_long_line,
        };
        streams.start(runtime, limits, &pool, self.settings.once, failure)
    }

    fn definition_name(&self) -> &str {
        self.identity.definition.split(' ').next().unwrap_or_default()
    }

    fn set_pace(&self, runtime: &Runtime, process: Process, agreed: &Agreement) {
        let ClusterSettings { processes, process: index, .. } = self.cluster;
        if index > 0 {
            runtime.spawn(Follower(process).run());
            return;
        }
        if self.replay.is_some() {
            runtime.spawn(process.replay());
            return;
        }
        let leader = Leader {
            process,
            processes,
            clock: Arc::clone(&self.clock),
            schedule: self.schedule(Some(agreed.open - self.identity.interval_ms)),
            epochs: self.settings.epochs,
            in_flight_max: self.settings.epochs_in_flight_max(),
        };
        runtime.spawn(leader.run());
    }
}

/// Has the journals told of commits, too.
fn note_commits(crossing: Arc<Crossing>, then: Option<OnCommit>) -> OnCommit {
    Arc::new(move |committed: Committed| {
        crossing.committed(committed.epoch);
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

/// A panic in timely may only say that a peer is gone; then the control links know which and why.
fn explain_panic(control: Control) -> ExplainPanic {
    Arc::new(move |text| {
        cluster::classify_panic(text)?;
        Some(control.cause_within(CAUSE_WAIT)?.into())
    })
}

/// Tells the other processes why this one ends: they share its fate and should name the cause.
async fn tell_failure(failure: Failure, links: Control) {
    failure.failed().await;
    if links.cause().is_none() {
        let cause = failure.cause_text().unwrap_or_else(|| "it failed".to_owned());
        // It waits for the others to be told, which a task must not.
        tokio::task::spawn_blocking(move || drop(links.fail(&cause)));
    }
}

/// Stops the job when whoever reads its standard output has gone.
fn stop_without_reader(runtime: &Runtime, output: &Output, stop: Stop) {
    if let Some(gone) = output.reader_gone() {
        runtime.spawn(async move {
            gone.await;
            stop.stop();
        });
    }
}
