//! Running a job from the command line: flags to a job, signals to a stop.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::flags::{JobFlags, SourceFlags, StateFlags};
use super::{log, values};
use crate::dataflows;
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
pub(super) fn spark(host: &str, port: &str, mut flags: JobFlags) -> Result<()> {
    let port: u16 = port.parse().map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{port:?} is not a port"))
            .hint("give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help")
    })?;
    let address = HostPort { host: host.to_owned(), port };
    flags.source.connect.insert(0, address.to_string());
    run("network_wordcount", flags)
}

/// `wordtide run DATAFLOW`.
pub(super) fn run(dataflow: &str, flags: JobFlags) -> Result<()> {
    log::install(flags.watch.verbose, flags.watch.quiet);
    let keeps_state = keeps_state(&flags);
    let job = builder(dataflow, &flags)?;
    let signals = Signals::listen()?;
    signals.supervise(job.start()?, flags.stop.stop_timeout, keeps_state).map(drop)
}

/// The job that the flags describe.
pub(super) fn builder(dataflow: &str, flags: &JobFlags) -> Result<JobBuilder> {
    let definition = dataflows::find(dataflow).ok_or_else(|| {
        let known: Vec<&str> = dataflows::ALL.iter().map(|(name, ..)| *name).collect();
        Error::new(ErrorKind::Usage, format!("there is no dataflow {dataflow:?}"))
            .hint(format!("give one of: {}; see `wordtide list`", known.join(" ")))
    })?;
    let output = &flags.output;
    let target: Target = output.to.as_deref().unwrap_or(DEFAULT_TO).parse()?;
    let state = state(&flags.state, &target);
    let builder = Job::builder()
        .dataflow(dataflow, definition)
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

/// Whether a next start can finish what this one leaves.
fn keeps_state(flags: &JobFlags) -> bool {
    let to_a_pipe = flags.output.to.as_deref() == Some("-");
    flags.state.state.is_some() || !(flags.state.no_state || to_a_pipe)
}

/// The signals that stop a job. They are listened to before it starts: a signal that found nobody
/// listening would end the process and lose what the job had begun to read.
pub(super) struct Signals {
    runtime: Runtime,
    interrupt: (Signal, i32),
    terminate: (Signal, i32),
}

impl Signals {
    /// Listens from now on.
    pub(super) fn listen() -> Result<Signals> {
        let failed = |error| super::failed("cannot listen for signals", error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (interrupt, terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        };
        let interrupt = (interrupt.map_err(failed)?, 130);
        let terminate = (terminate.map_err(failed)?, 143);
        Ok(Signals { runtime, interrupt, terminate })
    }

    /// Waits for the job; a signal stops it, a second one ends the process at once.
    pub(super) fn supervise(
        self,
        job: Job,
        stop_timeout: Duration,
        keeps_state: bool,
    ) -> Result<Summary> {
        let ended: Arc<Mutex<bool>> = Arc::default();
        let watch = Watch { job: job.handle(), stop_timeout, keeps_state, ended: Arc::clone(&ended) };
        let Signals { runtime, interrupt, terminate } = self;
        let spawned = std::thread::Builder::new()
            .name("wordtide-signals".to_owned())
            .spawn(move || runtime.block_on(watch.signals(interrupt, terminate)));
        spawned.map_err(|error| super::failed("cannot start a thread for signals", error))?;
        let summary = job.wait();
        // From here on the process ends by itself: a late time-out must not end it differently.
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        summary
    }
}

struct Watch {
    job: JobHandle,
    stop_timeout: Duration,
    keeps_state: bool,
    ended: Arc<Mutex<bool>>,
}

impl Watch {
    async fn signals(self, mut interrupt: (Signal, i32), mut terminate: (Signal, i32)) {
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

async fn either(interrupt: &mut (Signal, i32), terminate: &mut (Signal, i32)) -> i32 {
    tokio::select! {
        _ = interrupt.0.recv() => interrupt.1,
        _ = terminate.0.recv() => terminate.1,
    }
}
