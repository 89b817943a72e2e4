//! Signals: the first stops the job, a later one ends the process at once.
//!
//! SIGINT, SIGTERM and SIGHUP are alike. `timeout`, a terminal, a service manager or a closing
//! session often send several of them within moments, to the process and to its group; so those
//! within [`ONE_WISH`] of the first count as one. A later one is from a user that does not want to
//! wait.
//!
//! The process listens before the job starts: a signal without a handler would end it and
//! lose what the job had begun to read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tracing::Level;

use super::exit_codes::{self, INTERRUPTED, TERMINATED};
use super::{end_process, failed, log_lines, parse_values};
use crate::error::{Error, Result};
use crate::job::{Job, JobHandle, Summary};
use crate::sources::Stop;
use crate::supervise;

/// Signals that come within this time of the first are one wish to stop.
const ONE_WISH: Duration = Duration::from_secs(1);

/// A request by a signal, or by the time since the stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// The first signal: commit what was read, then end. A command that has nothing to commit ends
    /// at once, with this exit code.
    Stop(u8),
    /// A later signal: end at once, with this exit code.
    EndNow(u8),
    /// The stop has taken too long.
    Overdue,
}

/// The signals that ask for a stop.
pub struct Listener {
    /// Runs the task that waits for signals.
    runtime: Runtime,
    /// SIGINT.
    interrupt: Signal,
    /// SIGTERM.
    terminate: Signal,
    /// `None` where SIGHUP was ignored at the start, as `nohup` has it: it stays so.
    hangup: Option<Signal>,
}

impl Listener {
    /// Listens from now on.
    ///
    /// Fails with `Failed` if handlers cannot be installed.
    pub fn new() -> Result<Listener> {
        let cannot = |error| failed("cannot listen for signals", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let listener = {
            let _entered = runtime.enter();
            let hangup = (!is_ignored(SignalKind::hangup())).then(|| signal(SignalKind::hangup()));
            let interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
            let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
            (interrupt, terminate, hangup.transpose().map_err(cannot)?)
        };
        let (interrupt, terminate, hangup) = listener;
        Ok(Listener { runtime, interrupt, terminate, hangup })
    }

    /// Waits on a thread of its own and calls `act` for each wish.
    ///
    /// [`StopSignal::Overdue`] comes when a stop has taken longer than its patience. The stop may
    /// be asked for by a signal, by the launcher, by another process or by the job itself: the time
    /// is the same.
    pub fn on_wish(
        self,
        patience: Option<(Stop, Duration)>,
        mut act: impl FnMut(StopSignal) + Send + 'static,
    ) -> Result<()> {
        let Listener { runtime, mut interrupt, mut terminate, mut hangup } = self;
        let listen = async move {
            let mut stopping: Option<Instant> = None;
            let mut overdue: Option<Instant> = None;
            let mut patience = patience;
            loop {
                let asked = async {
                    match &patience {
                        Some((stop, _)) => stop.stopped().await,
                        None => std::future::pending().await,
                    }
                };
                let code = tokio::select! {
                    _ = interrupt.recv() => INTERRUPTED,
                    _ = terminate.recv() => TERMINATED,
                    () = received(&mut hangup) => TERMINATED,
                    () = asked => {
                        let taken = patience.take().map(|(_, patience)| patience);
                        overdue = taken.and_then(|taken| Instant::now().checked_add(taken));
                        continue;
                    }
                    () = reached(overdue) => {
                        overdue = None;
                        act(StopSignal::Overdue);
                        continue;
                    }
                };
                match stopping {
                    None => {
                        act(StopSignal::Stop(code));
                        stopping = Some(Instant::now());
                    }
                    Some(first) if first.elapsed() < ONE_WISH => {
                        tracing::debug!(
                            "another signal within a second of the first: the same stop"
                        );
                    }
                    Some(_) => act(StopSignal::EndNow(code)),
                }
            }
        };
        let listen = move || {
            runtime.block_on(listen);
            Ok(())
        };
        supervise::thread("signals", end_deaf, listen).map(drop)
    }
}

/// Ends the process: without this thread it could not be stopped.
fn end_deaf(error: Error) {
    log_lines::say(Level::ERROR, "failed", &format!("wordtide: error: {error}"));
    end_process::at_once(exit_codes::exit_code(error.kind()));
}

/// Completes with the next signal; never, where it is ignored.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Completes at this time; never, where there is none.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns true if the process was started with this signal ignored. There is no safe call that
/// asks; where the system has no `/proc`, none counts as ignored.
fn is_ignored(kind: SignalKind) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| ignores(&status, kind.as_raw_value()))
}

/// Reads the set of ignored signals of a process's status: hexadecimal, bit 0 for signal 1.
fn ignores(status: &str, signal: i32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = set.and_then(|set| u128::from_str_radix(set.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
}

/// The job, as the thread that waits for signals knows it.
#[derive(Default)]
struct WatchedSignals {
    /// The job to stop, once it runs.
    job: Option<JobHandle>,
    /// The job has ended by itself: a late time-out must not end the process differently.
    ended: bool,
    /// The launcher is gone. No process takes the exit code, so the job is started again.
    orphaned: bool,
}

/// Stops a job by signals.
pub struct Supervisor {
    /// Asks the run to stop.
    stop: Stop,
    /// The objects that a signal acts on.
    watched: Arc<Mutex<WatchedSignals>>,
    /// True if a next start can finish what this one leaves.
    keeps_state: bool,
}

impl Supervisor {
    /// Begins to act on signals. `keeps_state` is true if a next start can finish what this one
    /// leaves.
    pub fn new(signals: Listener, stop_timeout: Duration, keeps_state: bool) -> Result<Supervisor> {
        let (stop, watched) = (Stop::new(), Arc::<Mutex<WatchedSignals>>::default());
        let supervisor =
            Supervisor { stop: stop.clone(), watched: Arc::clone(&watched), keeps_state };
        signals.on_wish(Some((stop.clone(), stop_timeout)), move |wish| match wish {
            StopSignal::Stop(_) => {
                let what = match lock(&watched).job {
                    Some(_) => "the open epoch is cut and committed",
                    None => "nothing was read",
                };
                tracing::info!(
                    event = "stopping",
                    "stopping: {what}; a second signal ends at once"
                );
                stop.stop();
            }
            StopSignal::Overdue => {
                let why = format!("--stop-timeout of {}", parse_values::show(stop_timeout));
                end(&watched, &why, if keeps_state { 75 } else { 1 });
            }
            StopSignal::EndNow(code) => end(&watched, "a second signal", code),
        })?;
        Ok(supervisor)
    }

    /// Returns what the first signal sets; the job is to be built with it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Returns the function to call when the launcher of this process is gone.
    ///
    /// With state the process ends at once: a stop could wait for a store that is away, with the
    /// state locked, and refuse the next start of the same job. Without state no other run can
    /// commit what was read, so the job stops.
    pub fn orphan(&self) -> impl Fn() + Send + use<> {
        let (stop, watched, keeps_state) =
            (self.stop.clone(), Arc::clone(&self.watched), self.keeps_state);
        move || {
            lock(&watched).orphaned = true;
            end_process::drop_last();
            if keeps_state {
                end(&watched, "the death of its launcher", 75);
            } else {
                stop.stop();
            }
        }
    }

    /// Returns the function to call when the launcher of this process has got a second signal. The
    /// launcher chooses the exit code of all.
    pub fn end_now(&self) -> impl Fn() + Send + use<> {
        let watched = Arc::clone(&self.watched);
        move || end(&watched, "a second signal", TERMINATED)
    }

    /// Waits for the job. If it has finished, the process has the exit code `finished` when it ends
    /// with success, and notes the finish in the state as its last act.
    pub fn wait(&self, job: Job, finished: u8) -> Result<Summary> {
        lock(&self.watched).job = Some(job.handle());
        let ended = job.end();
        let mut watched = lock(&self.watched);
        watched.ended = true;
        let (summary, finish) = ended?;
        if let Some(finish) = finish.filter(|_| !watched.orphaned) {
            end_process::set_last(finish, finished);
        }
        Ok(summary)
    }
}

/// Locks what a signal acts on.
fn lock(watched: &Mutex<WatchedSignals>) -> MutexGuard<'_, WatchedSignals> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process without waiting for the job, and names the epochs that are not committed.
fn end(watched: &Mutex<WatchedSignals>, why: &str, code: u8) {
    let watched = lock(watched);
    if watched.ended {
        return;
    }
    let status = watched.job.as_ref().map(JobHandle::status).unwrap_or_default();
    let epochs: Vec<String> = status.in_flight.iter().map(u64::to_string).collect();
    let left = if epochs.is_empty() { "the open epoch".to_owned() } else { epochs.join(", ") };
    let text = format!("wordtide: ended by {why}; not committed: {left}");
    log_lines::say(Level::ERROR, "stopped", &text);
    end_process::at_once(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, 1) && ignores(status, 13));
        assert!(!ignores(status, 2) && !ignores(status, 15));
        assert!(!ignores("SigIgn:\t0000000000001000\n", 1) && !ignores("", 1));
    }
}
