//! Running a job from the command line: flags to a job, signals to a stop.
//!
//! ```text
//! flags ─► log ─► signals ─► launcher? ─► cluster settings ─► HTTP server ─► job ─► wait ─► code
//! ```
//!
//! Signals are listened for before anything that may take long, so a stop is obeyed during the
//! start, too. The HTTP server begins before the job and ends after it, and shows both.

use std::path::{Path, PathBuf};

use super::definitions::Dataflow;
use super::flags::{DEFAULT_STATE, JobFlags, SourceFlags, StateFlags, StoreFlags};
use super::form_of_flags::form;
use super::monitor_server::{self, RunServer};
use super::progress_line::Progress;
use super::service_manager::Service;
use super::signals::{Listener, Supervisor};
use super::unused_flags::{self, RunKind};
use super::{cluster_flags, given_flags, log_lines};
use crate::cluster::launcher::EXIT_FINISHED;
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Job, JobBuilder, StatePlace};
use crate::journal::JournalSettings;
use crate::outputs::{self, Output, OutputSettings, SqlSettings, StartRetrier, WriteMode};
use crate::settings::Settings;
use crate::sources::{
    HostPort, HttpListener, KafkaProperties, KafkaTopic, ListenAddress, ListenSettings, Source,
    Watch, open_file_limit,
};
use crate::store::{StoreSettings, Target};
use crate::words::WordOptions;

/// `wordtide HOST PORT`: Spark's own shape.
///
/// Fails as [`run_job`] does.
pub fn spark(host: &str, port: &str, mut flags: JobFlags) -> Result<u8> {
    let port: u16 = port.parse().map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{port:?} is not a port"))
            .hint("give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help")
    })?;
    let address = HostPort::new(host, port)?;
    flags.source.connect.insert(0, address.to_string());
    run(Some(Dataflow::NetworkWordcount), flags)
}

/// `wordtide run DATAFLOW`: network_wordcount without one. Returns the exit code.
///
/// Fails as [`run_job`] does.
pub fn run(dataflow: Option<Dataflow>, flags: JobFlags) -> Result<u8> {
    let interval = flags.epochs.interval;
    let dataflow = dataflow.unwrap_or(Dataflow::NetworkWordcount);
    unused_flags::check_words(&dataflow)?;
    run_job(flags, |job| dataflow.define(job, interval))
}

/// `wordtide replay DIR`.
///
/// Fails with `Configuration` if the folder holds no kept journal, and otherwise as [`run_job`]
/// does.
pub fn replay(dir: PathBuf, dataflow: Option<Dataflow>, flags: JobFlags) -> Result<u8> {
    let interval = flags.epochs.interval;
    let dataflow = dataflow.unwrap_or(Dataflow::NetworkWordcount);
    let define = |job| Ok(dataflow.define(job, interval)?.state(StatePlace::None).replay(dir));
    unused_flags::check(&flags, RunKind::Replay, || flags.output.target())?;
    run_checked(flags, define)
}

/// Runs a job as one process of a cluster, or as the launcher of a whole one.
///
/// Fails with `Usage` for flags that cannot run, before anything is written, and then with the
/// cause for which the job ended.
pub fn run_job<F>(flags: JobFlags, define: F) -> Result<u8>
where
    F: FnOnce(JobBuilder) -> Result<JobBuilder>,
{
    unused_flags::check(&flags, RunKind::Job, || flags.output.target())?;
    run_checked(flags, define)
}

/// Fails with `Configuration` if the settings file can be read once only: each process that a
/// launcher starts reads it again, and would find nothing.
fn check_config(config: Option<&Path>) -> Result<()> {
    let Some(config) = config.filter(|path| path.metadata().is_ok_and(|found| !found.is_file()))
    else {
        return Ok(());
    };
    let message = format!("the settings file {} is no regular file", config.display());
    Err(Error::new(ErrorKind::Configuration, message)
        .hint("with -n and --restart each process reads it: give --config a file on disk"))
}

/// Runs a job whose flags are all of use.
///
/// Fails as [`run_job`] does.
fn run_checked<F>(flags: JobFlags, define: F) -> Result<u8>
where
    F: FnOnce(JobBuilder) -> Result<JobBuilder>,
{
    log_lines::install(&flags.watch, cluster_flags::index(&flags.workers));
    open_file_limit::raise_limit();
    let signals = Listener::new()?;
    let job = define(builder(&flags)?)?;
    if cluster_flags::is_launcher(&flags.workers) {
        monitor_server::check(&flags.watch, flags.workers.processes)?;
        check_passed(&flags.source.listen)?;
        check_config(flags.file.config.as_deref())?;
        return cluster_flags::launch(&flags.workers, flags.stop.stop_timeout, signals);
    }
    let (settings, lifeline) = cluster_flags::settings(&flags.workers)?;
    let supervisor = Supervisor::new(signals, flags.stop.stop_timeout, flags.keeps_state())?;
    let launched = lifeline.is_some().then_some(settings.process);
    let address = monitor_server::address_of(&flags.watch, launched)?;
    // One in the environment may be another job's.
    let token_file = flags.source.token_file.as_deref().filter(|_| address.is_some());
    if let Some(lifeline) = lifeline {
        let (end_now, orphaned) = (supervisor.end_now(), supervisor.orphan());
        cluster_flags::stop_with_launcher(lifeline, supervisor.stop(), end_now, orphaned)?;
    }
    let job = job.cluster(settings.clone()).stop(supervisor.stop());
    let start = || RunServer::start(address, token_file, supervisor.stop());
    // The run before this one may still have the port.
    let server = match job.former_run() {
        Some(former) => former.bind(start),
        None => start(),
    };
    let server = match server {
        Err(error) if error.kind() == ErrorKind::Stopped => return stopped(&error),
        server => server?,
    };
    cluster_flags::announce(&settings);
    let service = Service::new(supervisor.stop(), launched)?;
    let progress = Progress::start(&flags, server.meters());
    let job = job.meters(server.meters());
    let ended = job.start().and_then(|job| {
        service.ready(job.handle());
        // The launcher must know that the job is not to be started again.
        let finished = if launched == Some(0) { EXIT_FINISHED } else { 0 };
        supervisor.wait(job, finished).map(|_| 0)
    });
    service.end(&ended);
    let ended = server.end(ended);
    drop(progress);
    log_lines::say_in_json("stopped", "the run has ended");
    match ended {
        Ok(code) => Ok(code),
        Err(error) if error.kind() == ErrorKind::Stopped => stopped(&error),
        Err(error) => Err(error),
    }
}

/// Logs that a run was stopped before it had begun, which is no failure.
fn stopped(error: &Error) -> Result<u8> {
    tracing::info!("{error}");
    Ok(0)
}

/// Returns the job that the flags describe, but for what is computed.
///
/// Fails with `Usage` for an output or a source that cannot be parsed.
fn builder(flags: &JobFlags) -> Result<JobBuilder> {
    let target = flags.output.target()?;
    let write = write_mode(flags, &target);
    let (state, form) = (state(&flags.state, &target), form(&flags.output, &target));
    let builder = Job::builder()
        .to(target)
        .suffix(form.suffix)
        .format(form.format)
        .compress(form.compression)
        .layout(form.layout)
        .time_zone(form.time_zone)
        .write(write)
        .state(state)
        .journal(journal(&flags.state))
        .abandon(flags.state.abandon_journal.clone())
        .store(store(&flags.store))
        .take_over(flags.store.take_over)
        .settings(settings(flags));
    Ok(sources(flags)?.into_iter().fold(builder, |builder, (at, source)| match at {
        Some(process) => builder.source_at(process, source),
        None => builder.source(source),
    }))
}

/// Returns how rows come into a database or an index. For another output a setting that was not
/// typed may be another job's, and does nothing.
fn write_mode(flags: &JobFlags, target: &Target) -> WriteMode {
    let is_other = !matches!(target, Target::Database(_) | Target::Search(_));
    if is_other && given_flags::was_found("write") {
        return WriteMode::default();
    }
    flags.output.write
}

/// Returns the settings of a job that the flags describe.
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
        results_bytes_max: flags.state.results_memory,
        measure_operators: flags.watch.http.is_some(),
        events: flags.profile.events.clone(),
        events_bytes_max: flags.profile.events_max as u64,
        ..Settings::default()
    }
}

/// Opens the output that the flags name.
///
/// Fails with `Usage` if `--to` cannot be parsed or excludes another flag, and with `Configuration`
/// if the store or the folder cannot be used.
pub fn output(flags: &JobFlags) -> Result<Box<dyn Output>> {
    let target = flags.output.target()?;
    let form = form(&flags.output, &target);
    let write = write_mode(flags, &target);
    let target = form.place(target);
    outputs::check_form(&target, &form, flags.output.sort)?;
    let form = form.form(&target, flags.epochs.interval.as_millis() as u64)?;
    let sql = SqlSettings {
        write,
        word_bytes_max: flags.source.max_word_bytes,
        line_bytes_max: flags.source.max_line_bytes,
        ..SqlSettings::default()
    };
    let (store, retrier) = (store(&flags.store), StartRetrier::default());
    outputs::open(&target, &OutputSettings { store, form, sql, retrier })
}

/// Returns the settings of object stores: for the output, and for `--watch` of a bucket.
fn store(flags: &StoreFlags) -> StoreSettings {
    StoreSettings {
        oss_endpoint: flags.oss_endpoint.clone(),
        oss_region: flags.oss_region.clone(),
        s3_endpoint: flags.s3_endpoint.clone(),
        s3_region: flags.s3_region.clone(),
        s3_addressing: flags.s3_addressing,
        allow_http: flags.allow_http,
        ca_file: flags.ca_file.clone(),
        ..StoreSettings::default()
    }
}

/// Returns the sources in the order of their kinds, each with the process that reads it, where one
/// was named. Standard input is that of process 0.
///
/// Fails with `Usage` for an address that cannot be parsed, and for a certificate without its key.
fn sources(all: &JobFlags) -> Result<Vec<(Option<usize>, Source)>> {
    let flags = &all.source;
    let has_listeners = !flags.listen.is_empty() || !flags.listen_http.is_empty();
    if has_listeners && flags.tls_cert.is_some() != flags.tls_key.is_some() {
        return Err(Error::new(ErrorKind::Usage, "a certificate and its key belong together")
            .hint("give --tls-cert and --tls-key, or neither"));
    }
    let mut sources = Vec::new();
    for value in &flags.connect {
        let (at, address) = at_process(value, "--connect")?;
        sources.push((at, Source::Connect(address.parse()?)));
    }
    for value in &flags.listen {
        let (at, address) = at_process(value, "--listen")?;
        let mut listen = ListenSettings::new(address.parse()?);
        listen.connections_max = flags.max_connections;
        listen.tls = flags.tls();
        sources.push((at, Source::Listen(listen)));
    }
    sources.extend(flags.file.iter().map(|path| (None, Source::File(path.clone()))));
    for place in &flags.watch {
        sources.push((None, Source::Watch(Box::new(watched(place, all)?))));
    }
    for value in &flags.listen_http {
        sources.push(http_listener(value, all)?);
    }
    let topics = topics(flags)?.into_iter();
    sources.extend(topics.map(|topic| (None, Source::Kafka(Box::new(topic)))));
    sources.extend(flags.stdin.then_some((Some(0), Source::Stdin)));
    Ok(sources)
}

/// Returns the place that a value of `--watch` names, and how it is watched.
fn watched(place: &str, flags: &JobFlags) -> Result<Watch> {
    let SourceFlags { watch_existing, watch_every, .. } = flags.source;
    let (place, store) = (place.parse()?, store(&flags.store));
    Ok(Watch { place, existing: watch_existing, every: watch_every, store })
}

/// Returns the listener of a value of `--listen-http`, which is `ADDR:PORT`, or `I=ADDR:PORT` for
/// process I.
fn http_listener(value: &str, flags: &JobFlags) -> Result<(Option<usize>, Source)> {
    /// The flag, for messages.
    const FLAG: &str = "--listen-http";
    let (at, address) = at_process(value, FLAG)?;
    let source = &flags.source;
    // A body is kept as a whole or not at all, so a journal must have room for several.
    let kept_bytes_max = if flags.keeps_state() { flags.state.journal_max / 4 } else { usize::MAX };
    let listener = HttpListener {
        address: HostPort::to_listen(address, FLAG)?,
        token_file: source.token_file.clone(),
        body_bytes_max: source.max_body_bytes.min(kept_bytes_max),
        connections_max: source.max_connections,
        tls: source.tls(),
    };
    Ok((at, Source::Http(listener)))
}

/// Returns the topics of Kafka, with the settings of their client, which all of them share.
///
/// Fails with `Usage` for a setting that is not known, and for a password on the command line.
fn topics(flags: &SourceFlags) -> Result<Vec<KafkaTopic>> {
    if flags.kafka.is_empty() {
        return Ok(Vec::new());
    }
    let mut properties = KafkaProperties::default();
    for setting in &flags.kafka_config {
        if KafkaProperties::has_password(setting) && !given_flags::was_found("kafka-config") {
            let message = "a password on the command line can be read by every user";
            let hint = "put it into a file and give --kafka-config sasl.password.file=PATH, or \
                        give it in WORDTIDE_KAFKA_CONFIG";
            return Err(Error::new(ErrorKind::Usage, message).hint(hint));
        }
        properties.add(setting)?;
    }
    let topic = |text: &String| {
        let topic: KafkaTopic = text.parse()?;
        let topic = topic.properties(properties.clone());
        Ok(flags.kafka_start.map_or(topic.clone(), |start| topic.start(start)))
    };
    flags.kafka.iter().map(topic).collect()
}

/// Refuses the socket of a service manager for processes that the manager has not started.
fn check_passed(listen: &[String]) -> Result<()> {
    for value in listen {
        let address: ListenAddress = at_process(value, "--listen")?.1.parse()?;
        if address.is_passed() {
            let message =
                format!("--listen {address} is a socket of one process, and -n starts more");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --listen ADDR:PORT, or start each process as a service of its own"));
        }
    }
    Ok(())
}

/// Separates the index of a process from the rest of a value of `flag`.
///
/// Fails with `Usage` if something else stands before the `=`.
fn at_process<'a>(value: &'a str, flag: &str) -> Result<(Option<usize>, &'a str)> {
    let (at, address) = match value.split_once('=') {
        Some((at, address)) => (Some(at), address),
        None => (None, value),
    };
    let at = at.map(str::parse).transpose().map_err(|_| {
        let message = format!("{value:?} does not begin with the index of a process");
        Error::new(ErrorKind::Usage, message)
            .hint(format!("give {flag} as HOST:PORT, or I=HOST:PORT for process I"))
    })?;
    Ok((at, address))
}

/// Returns where state is kept.
fn state(flags: &StateFlags, target: &Target) -> StatePlace {
    match &flags.state {
        Some(dir) => StatePlace::Dir(dir.clone()),
        // What goes to a pipe is gone: there is nothing to go on from.
        None if flags.no_state || *target == Target::Stdout => StatePlace::None,
        None => StatePlace::Below(PathBuf::from(DEFAULT_STATE)),
    }
}

/// Returns the settings of the journals.
fn journal(flags: &StateFlags) -> JournalSettings {
    JournalSettings {
        journal_bytes_max: flags.journal_max as u64,
        sync: flags.sync,
        sync_every: flags.sync_every,
        keep_journal: flags.keep_journal,
        ..JournalSettings::default()
    }
}
