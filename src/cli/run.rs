//! Running a job from the command line: flags to a job, signals to a stop.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::definitions::Dataflow;
use super::flags::{JobFlags, SourceFlags, StateFlags};
use super::{cluster, log, values};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Job, JobBuilder, JobHandle, StatePlace, Summary};
use crate::settings::Settings;
use crate::source::{HostPort, Source};
use crate::store::Target;
use crate::words::WordOptions;

/// Where results go when nobody says where.
const DEFAULT_TO: &str = "wordtide-out/counts";
/// Where states are kept when nobody says where.
const DEFAULT_STATE: &str = "wordtide-state";

/// `wordtide HOST PORT`: Spark's own shape.
pub(super) fn spark(host: &str, port: &str, mut flags: JobFlags) -> Result<u8> {
    let port: u16 = port.parse().map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{port:?} is not a port"))
            .hint("give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help")
    })?;
    let address = HostPort { host: host.to_owned(), port };
    flags.source.connect.insert(0, address.to_string());
    run(Some(Dataflow::NetworkWordcount), flags)
}

/// `wordtide run DATAFLOW`.
pub(super) fn run(dataflow: Option<Dataflow>, flags: JobFlags) -> Result<u8> {
    let interval = flags.epochs.interval;
    let dataflow = dataflow.unwrap_or(Dataflow::NetworkWordcount);
    run_job(flags, |job| dataflow.define(job, interval))
}

/// Runs a job as one process of a cluster, or as the launcher of a whole one.
pub(super) fn run_job<F>(flags: JobFlags, define: F) -> Result<u8>
where
    F: FnOnce(JobBuilder) -> Result<JobBuilder>,
{
    log::install(flags.watch.verbose, flags.watch.quiet);
    let job = define(builder(&flags)?)?;
    if cluster::is_launcher(&flags.workers) {
        return cluster::launch(&flags.workers, flags.stop.stop_timeout);
    }
    let (settings, lifeline) = cluster::settings(&flags.workers)?;
    cluster::announce(&settings);
    let keeps_state = !flags.state.no_state;
    let started = job.cluster(settings).start()?;
    if let Some(lifeline) = lifeline {
        cluster::stop_with_launcher(lifeline, started.handle())?;
    }
    supervise(started, flags.stop.stop_timeout, keeps_state).map(|_| 0)
}

/// The job that the flags describe, but for what is computed.
fn builder(flags: &JobFlags) -> Result<JobBuilder> {
    let output = &flags.output;
    let target: Target = output.to.as_deref().unwrap_or(DEFAULT_TO).parse()?;
    let state = state(&flags.state, &target);
    let builder = Job::builder()
        .to(target)
        .suffix(output.suffix.clone())
        .format(output.format)
        .state(state)
        .settings(settings(flags));
    Ok(sources(&flags.source)?.into_iter().fold(builder, JobBuilder::source))
}

fn settings(flags: &JobFlags) -> Settings {
    let words = WordOptions {
        split: flags.words.split,
        lowercase: flags.words.lowercase,
        word_bytes_max: flags.source.max_word_bytes,
    };
    Settings {
        interval: flags.epochs.interval,
        epochs: flags.epochs.epochs,
        once: flags.source.once,
        threads: flags.workers.threads,
        parts: flags.output.parts,
        words,
        line_bytes_max: flags.source.max_line_bytes,
        empty_epochs: flags.output.empty_epochs,
        order: flags.output.sort,
        stop_timeout: flags.stop.stop_timeout,
        ..Settings::default()
    }
}

/// Sources of one kind: mixing them is more likely a slip than a wish.
fn sources(flags: &SourceFlags) -> Result<Vec<Source>> {
    let SourceFlags { connect, file, stdin, .. } = flags;
    let kinds = [!connect.is_empty(), !file.is_empty(), *stdin];
    if kinds.iter().filter(|given| **given).count() > 1 {
        return Err(Error::new(ErrorKind::Usage, "sources of different kinds were given")
            .hint("give one kind: HOST PORT or --connect, --file, or --stdin"));
    }
    if *stdin {
        return Ok(vec![Source::Stdin]);
    }
    let files = file.iter().cloned().map(|path| Ok(Source::File(path)));
    let connections = connect.iter().map(|address| address.parse().map(Source::Connect));
    files.chain(connections).collect()
}

fn state(flags: &StateFlags, target: &Target) -> StatePlace {
    match &flags.state {
        Some(dir) => StatePlace::Dir(dir.clone()),
        // What goes to a pipe is gone: there is nothing to go on from.
        None if flags.no_state || *target == Target::Stdout => StatePlace::None,
        None => StatePlace::Below(PathBuf::from(DEFAULT_STATE)),
    }
}

/// Waits for the job; a signal stops it, a second one ends the process at once.
pub(super) fn supervise(job: Job, stop_timeout: Duration, keeps_state: bool) -> Result<Summary> {
    let ended: Arc<Mutex<bool>> = Arc::default();
    let watch = Watch { job: job.handle(), stop_timeout, keeps_state, ended: Arc::clone(&ended) };
    let (runtime, interrupt, terminate) = signals()?;
    let spawned = std::thread::Builder::new()
        .name("wordtide-signals".to_owned())
        .spawn(move || runtime.block_on(watch.signals(interrupt, terminate)));
    spawned.map_err(|error| super::failed("cannot start a thread for signals", error))?;
    let summary = job.wait();
    // From here on the process ends by itself: a late time-out must not end it differently.
    *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    summary
}

/// A signal, and the exit code that a second one gives.
pub(super) type Ending = (Signal, i32);

/// A runtime that waits for the signals that stop a program.
pub(super) fn signals() -> Result<(tokio::runtime::Runtime, Ending, Ending)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| super::failed("cannot wait for signals", error))?;
    let both = {
        let _entered = runtime.enter();
        [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143)]
            .map(|(kind, code)| signal(kind).map(|signal| (signal, code)))
    };
    match both {
        [Ok(interrupt), Ok(terminate)] => Ok((runtime, interrupt, terminate)),
        _ => Err(Error::new(ErrorKind::Failed, "cannot listen for signals")),
    }
}

struct Watch {
    job: JobHandle,
    stop_timeout: Duration,
    keeps_state: bool,
    ended: Arc<Mutex<bool>>,
}

impl Watch {
    async fn signals(self, mut interrupt: Ending, mut terminate: Ending) {
        either(&mut interrupt, &mut terminate).await;
        tracing::info!("stopping: the open epoch is cut and committed; a second signal ends at once");
        self.job.stop();
        let late = tokio::time::sleep(self.stop_timeout);
        tokio::select! {
            code = either(&mut interrupt, &mut terminate) => self.end("a second signal", code),
            () = late => {
                let after = format!("--stop-timeout of {}", values::show(self.stop_timeout));
                self.end(&after, if self.keeps_state { 75 } else { 1 });
            }
        }
    }

    /// Ends the process without waiting for anything, and says what that leaves behind.
    #[allow(clippy::disallowed_methods)] // a hung job cannot be returned from
    fn end(&self, why: &str, code: i32) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return;
        }
        let status = self.job.status();
        let epochs: Vec<String> = status.in_flight.iter().map(u64::to_string).collect();
        let left = if epochs.is_empty() { "the open epoch".to_owned() } else { epochs.join(", ") };
        writeln!(std::io::stderr(), "wordtide: ended by {why}; not committed: {left}").ok();
        std::process::exit(code);
    }
}

/// Waits for one of the two; returns its exit code.
pub(super) async fn either(interrupt: &mut Ending, terminate: &mut Ending) -> i32 {
    tokio::select! {
        _ = interrupt.0.recv() => interrupt.1,
        _ = terminate.0.recv() => terminate.1,
    }
}
