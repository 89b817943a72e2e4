//! Signals: the first stops the job, a second one ends the process at once.
//!
//! They are listened to before the job starts: a signal that found nobody listening would end the
//! process and lose what the job had begun to read.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{failed, values};
use crate::error::Result;
use crate::job::{Job, JobHandle, Summary};
use crate::source::Stop;

/// SIGINT and SIGTERM, each with the exit code that a second one gives.
pub(super) struct Listener {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Listener {
    /// Listens from now on.
    pub(super) fn new() -> Result<Listener> {
        let cannot = |error| failed("cannot listen for signals", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let (interrupt, terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        };
        let (interrupt, terminate) = (interrupt.map_err(cannot)?, terminate.map_err(cannot)?);
        Ok(Listener { runtime, interrupt, terminate })
    }

    /// Waits on a thread of its own; `act` is called with the number of the signal, counted from 1,
    /// and its exit code. What it returns is how long to wait for the next before it is called with
    /// the number 0.
    pub(super) fn on_signal(
        self,
        mut act: impl FnMut(u32, u8) -> Option<Duration> + Send + 'static,
    ) -> Result<()> {
        let Listener { runtime, mut interrupt, mut terminate } = self;
        let listen = async move {
            let mut patience = None;
            for number in 1.. {
                let late = async {
                    match patience {
                        Some(patience) => tokio::time::sleep(patience).await,
                        None => std::future::pending().await,
                    }
                };
                patience = tokio::select! {
                    _ = interrupt.recv() => act(number, 130),
                    _ = terminate.recv() => act(number, 143),
                    () = late => act(0, 0),
                };
            }
        };
        let thread = std::thread::Builder::new().name("wordtide-signals".to_owned());
        let spawned = thread.spawn(move || runtime.block_on(listen));
        spawned.map(drop).map_err(|error| failed("cannot start a thread for signals", error))
    }
}

/// What is known of the job by the thread that waits for signals.
#[derive(Default)]
struct Watched {
    job: Option<JobHandle>,
    /// The job has ended by itself: a late time-out must not end the process differently.
    ended: bool,
}

/// Stops a job by signals.
pub(super) struct Supervisor {
    stop: Stop,
    watched: Arc<Mutex<Watched>>,
}

impl Supervisor {
    /// Begins to listen. `keeps_state` says whether a next start can finish what this one leaves.
    pub(super) fn new(stop_timeout: Duration, keeps_state: bool) -> Result<Supervisor> {
        let (stop, watched) = (Stop::new(), Arc::<Mutex<Watched>>::default());
        let supervisor = Supervisor { stop: stop.clone(), watched: Arc::clone(&watched) };
        Listener::new()?.on_signal(move |number, code| {
            match number {
                1 => {
                    tracing::info!(
                        "stopping: the open epoch is cut and committed; a second signal ends at once"
                    );
                    stop.stop();
                }
                0 => {
                    let why = format!("--stop-timeout of {}", values::show(stop_timeout));
                    end(&watched, &why, if keeps_state { 75 } else { 1 });
                }
                _ => end(&watched, "a second signal", code),
            }
            Some(stop_timeout)
        })?;
        Ok(supervisor)
    }

    /// What the first signal sets; the job is to be built with it.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Whether the job was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// Waits for the job.
    pub(super) fn wait(&self, job: Job) -> Result<Summary> {
        lock(&self.watched).job = Some(job.handle());
        let summary = job.wait();
        lock(&self.watched).ended = true;
        summary
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process without waiting for anything, and says what that leaves behind.
#[allow(clippy::disallowed_methods)] // a hung job cannot be returned from
fn end(watched: &Mutex<Watched>, why: &str, code: u8) {
    let watched = lock(watched);
    if watched.ended {
        return;
    }
    let status = watched.job.as_ref().map(JobHandle::status).unwrap_or_default();
    let epochs: Vec<String> = status.in_flight.iter().map(u64::to_string).collect();
    let left = if epochs.is_empty() { "the open epoch".to_owned() } else { epochs.join(", ") };
    writeln!(std::io::stderr(), "wordtide: ended by {why}; not committed: {left}").ok();
    std::process::exit(code.into());
}
