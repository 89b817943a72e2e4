//! The flags of a cluster: which process this is, where the others are, and what starts them.
//!
//! There are three ways to start one. `-n N` alone makes this command the *launcher*: it starts N
//! copies of itself on this host with the same arguments and waits for them. `-n N -p I` with
//! addresses makes it process I of N, which other hosts start, too. Without `-n` it is a cluster of
//! one process, which opens no port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::flags::WorkerFlags;
use super::service_manager::Relay;
use super::signals::{Listener, StopSignal};
use super::{failed, log_lines};
use crate::cluster::launcher::{Inherited, LaunchSettings, Launcher, Lifeline, LifelineEvent};
use crate::cluster::{
    ClusterSettings, MeshKey, PROCESSES_MAX, default_addresses, parse_addresses,
    process_of_this_host, read_hostfile,
};
use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;
use crate::supervise;

/// How much longer than the processes' own stop the launcher waits for them: `--stop-timeout` is
/// theirs, and they need a little more to report that it has passed.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// Returns true if this process only starts the others: `-n N` without `-p` and addresses, or
/// `--restart` with one process.
pub fn is_launcher(flags: &WorkerFlags) -> bool {
    let WorkerFlags { processes, process, hostfile, addresses, restart, .. } = flags;
    let elsewhere = process.is_some() || hostfile.is_some() || addresses.is_some();
    (*processes > 1 || *processes == 1 && *restart > 0) && !elsewhere
}

/// Returns the index of this process for the log: `None` for the launcher of the others.
pub fn index(flags: &WorkerFlags) -> Option<usize> {
    if is_launcher(flags) {
        return None;
    }
    let given = match flags.process.as_deref() {
        Some("auto") => process_of_this_host().ok(),
        given => given.and_then(|index| index.parse().ok()),
    };
    Some(given.unwrap_or(0))
}

/// The cluster that the flags describe, and the pipe to the launcher, if one started this process.
///
/// Fails with `Usage` for flags that do not describe a cluster, and with `Configuration` if the
/// hostfile or the key file cannot be read or holds something else.
pub fn settings(flags: &WorkerFlags) -> Result<(ClusterSettings, Option<Lifeline>)> {
    let inherited = Inherited::read(|name| std::env::var(name).ok())?;
    let process = match flags.process.as_deref() {
        Some("auto") => process_of_this_host()?,
        Some(index) => index.parse().map_err(|_| {
            Error::new(ErrorKind::Usage, format!("{index:?} is not the index of a process"))
                .hint("give -p/--process a number from 0, or auto")
        })?,
        None if flags.processes > 1 => {
            return Err(Error::new(
                ErrorKind::Usage,
                "addresses were given, but not which is ours",
            )
            .hint("give -p/--process the index of this process, or auto"));
        }
        None => 0,
    };
    let addresses = match (&flags.hostfile, &flags.addresses) {
        (Some(_) | None, None) if flags.processes == 1 => Vec::new(),
        (Some(file), _) => read_hostfile(file, flags.processes)?,
        (None, Some(list)) => parse_addresses(list)?,
        (None, None) => default_addresses(flags.processes),
    };
    let mesh_key = match &flags.mesh_key_file {
        Some(file) if flags.processes > 1 => Some(MeshKey::read(file)?),
        _ => inherited.mesh_key,
    };
    let settings = ClusterSettings {
        threads: flags.threads,
        processes: flags.processes,
        process,
        addresses,
        mesh_key,
        start_timeout: flags.start_timeout,
        stall_timeout: flags.stall_timeout,
        generation: inherited.generation,
        ..ClusterSettings::default()
    };
    settings.validate()?;
    if flags.restart > 0 && inherited.lifeline.is_none() {
        tracing::warn!(
            "--restart does nothing here: it is for processes that one command starts, without \
             -p, --addresses and --hostfile"
        );
    }
    Ok((settings, inherited.lifeline))
}

/// Logs how many workers there are, and if that is more than this machine can run at once.
pub fn announce(settings: &ClusterSettings) {
    let ClusterSettings { threads, processes, process, .. } = *settings;
    let workers = threads * processes;
    if workers > 1 && process == 0 {
        let es = if processes == 1 { "" } else { "es" };
        let s = if threads == 1 { "" } else { "s" };
        tracing::info!("{processes} process{es} x {threads} thread{s} = {workers} workers");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if threads > cores {
        tracing::warn!("-w {threads} is more than the {cores} cores of this machine");
    }
}

/// Starts all processes of the cluster on this machine and returns the exit code of the whole: that
/// of the process that failed first, or of the second signal that ended them.
///
/// Fails with `Usage` for more than `PROCESSES_MAX` processes, and with `Failed` if one of them
/// cannot be started.
pub fn launch(flags: &WorkerFlags, stop_timeout: Duration, signals: Listener) -> Result<u8> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, processes) = (flags.threads, flags.processes);
    if processes > PROCESSES_MAX {
        return Err(Error::new(ErrorKind::Usage, format!("-n/--processes is {processes}"))
            .hint(format!("give -n at most {PROCESSES_MAX}")));
    }
    if threads.saturating_mul(processes) > cores {
        tracing::warn!(
            "-n {processes} -w {threads} is more than the {cores} cores of this machine"
        );
    }
    let exe = std::env::current_exe()
        .map_err(|error| failed("cannot find this program to start it again", error))?;
    let relay = Relay::open(processes).map_err(|error| {
        failed("cannot make a socket in the folder for temporary files (TMPDIR)", error)
    })?;
    let (launcher, stop) = Launcher::new(LaunchSettings {
        exe,
        args: std::env::args_os().skip(1).collect(),
        processes,
        restarts: flags.restart,
        grace_stopped: stop_timeout + STOP_MARGIN,
        environment: relay.as_ref().map(Relay::environment).unwrap_or_default(),
        phase: relay.as_ref().map(Relay::phase).unwrap_or_default(),
        ..LaunchSettings::default()
    });
    let second = Arc::new(AtomicU8::new(0));
    let heard = Arc::clone(&second);
    // The launcher has no patience of its own: its processes have, and it waits longer than they.
    signals.on_wish(None, move |wish| {
        if let StopSignal::EndNow(code) = wish {
            heard.store(code, Ordering::Relaxed);
        }
        // First: a service manager that does not read must not hold up the stop.
        stop.stop();
        if matches!(wish, StopSignal::Stop(_)) {
            tracing::info!(
                event = "stopping",
                "stopping all processes; a second signal ends them at once"
            );
            Relay::stopping();
        }
    })?;
    let code = launcher.run(&|index, line| {
        log_lines::relay(index, line);
    });
    if second.load(Ordering::Relaxed) == 0 {
        Relay::stopping();
    }
    drop(relay);
    let code = code?;
    Ok(match (code, second.load(Ordering::Relaxed)) {
        (0, _) | (_, 0) => u8::try_from(code).unwrap_or(1),
        (_, killed) => killed,
    })
}

/// Stops or ends the job when the launcher asks for it, and calls `orphaned` when it is gone. A
/// process without its launcher has nothing to pass its lines of the log on to.
///
/// Fails with `Failed` if the thread that waits cannot be started.
pub fn stop_with_launcher(
    lifeline: Lifeline,
    stop: Stop,
    end_now: impl Fn() + Send + 'static,
    orphaned: impl Fn() + Send + 'static,
) -> Result<()> {
    let blind = stop.clone();
    let wait = move || {
        lifeline.follow(|event| match event {
            LifelineEvent::Stop => stop.stop(),
            LifelineEvent::EndNow => end_now(),
            LifelineEvent::Orphaned => orphaned(),
        })
    };
    let fail = move |error: Error| {
        // Whether the launcher lives cannot be seen any more.
        tracing::warn!("{error}");
        blind.stop();
    };
    supervise::thread("lifeline", fail, wait).map(drop)
}
