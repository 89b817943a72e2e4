//! Reports to the service manager, by the protocol of sd_notify(3).
//!
//! The program reports `READY=1` when the job has started, be its sources connected or not, a
//! `STATUS=` with the newest committed epoch, `STOPPING=1`, and `WATCHDOG=1` for as long as its
//! workers take turns ([`JobHandle::takes_turns`]). A thread of its own does that, because a
//! manager that does not read blocks its writers. Without `NOTIFY_SOCKET` there is none. A
//! message that cannot be sent changes nothing for the job.
//!
//! With `-n` alone the manager knows the launcher only. The processes then report to the launcher,
//! which passes on what holds for all: see [`launcher_relay`].

mod launcher_relay;

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use launcher_relay::Relay;

use super::failed;
use crate::error::{Error, Result};
use crate::job::{JobHandle, Status};
use crate::sources::Stop;
use crate::supervise;

/// Least time between two reports of the status.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Questions to the workers in the time that the manager's watchdog allows.
const WATCHDOG_PARTS: u32 = 3;
/// Longest time for which the end of the program waits for the last message.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// A job is ready once and fails once.
const TURNS_MAX: usize = 2;
/// The longest status; a datagram has its limits.
const STATUS_BYTES_MAX: usize = 512;

/// The variable that names the manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// The field by which a process sends its launcher its index.
const PROCESS: &str = "X_WORDTIDE_PROCESS";

/// Returns true if a service manager listens.
fn is_listening() -> bool {
    std::env::var_os(SOCKET).is_some_and(|socket| !socket.is_empty())
}

/// Returns the time within which the manager expects `WATCHDOG=1`, if it watches this process.
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

/// Sends a message to the manager.
fn send(states: &[NotifyState<'_>]) {
    let socket = std::env::var_os(SOCKET).unwrap_or_default();
    let sent = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => send_to_abstract(name, states),
        None => sd_notify::notify(states),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "the service manager cannot be reached");
    }
}

/// Sends a message to a socket of Linux's abstract namespace, which `sd_notify` does not know.
fn send_to_abstract(name: &[u8], states: &[NotifyState<'_>]) -> io::Result<()> {
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let manager = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &manager).map(drop)
}

/// The voice of this process towards the service manager.
pub struct Service {
    /// `None` without a service manager.
    speaker: Option<(mpsc::Sender<NotifyTurn>, Receiver<()>)>,
}

/// The outcome of the job's start.
enum NotifyTurn {
    /// The job has begun to read.
    Ready(JobHandle),
    /// The run has failed, for this reason.
    Failed(String),
}

impl Service {
    /// Begins to speak, if a manager listens. `process` is the index among those of a launcher.
    pub fn new(stop: Stop, process: Option<usize>) -> Result<Service> {
        if !is_listening() {
            return Ok(Service { speaker: None });
        }
        let (turns, heard) = mpsc::channel(TURNS_MAX);
        let (end, ended) = sync_channel(1);
        let speaker = Speaker { process: process.map(|index| format!("{PROCESS}={index}")) };
        let work = move || speaker.speak(heard, stop, end);
        // The job does not depend on what its manager knows.
        supervise::thread("service", |error: Error| tracing::warn!("{error}"), work)?;
        Ok(Service { speaker: Some((turns, ended)) })
    }

    /// Called when the job has started.
    pub fn ready(&self, job: JobHandle) {
        self.tell(NotifyTurn::Ready(job));
    }

    /// Called when the job has ended, or could not be started. Waits until that is reported, for a
    /// short time.
    pub fn end<T>(self, result: &Result<T>) {
        if let Err(error) = result {
            self.tell(NotifyTurn::Failed(error.to_string()));
        }
        if let Some((turns, ended)) = self.speaker {
            drop(turns);
            // Nothing more can be done about a manager that does not read.
            let _ = ended.recv_timeout(END_TIMEOUT);
        }
    }

    /// Passes a turn to the thread that reports.
    fn tell(&self, turn: NotifyTurn) {
        if let Some((turns, _)) = &self.speaker {
            // It fails if the thread has failed, which has been logged. There is room for all.
            let _ = turns.try_send(turn);
        }
    }
}

/// The thread that speaks.
struct Speaker {
    /// The field that names the process, in each message to a launcher.
    process: Option<String>,
}

impl Speaker {
    /// Sends states to the service manager.
    fn say(&self, states: &[NotifyState<'_>]) {
        let mut states = states.to_vec();
        states.extend(self.process.as_deref().map(NotifyState::Custom));
        send(&states);
    }

    /// Speaks until the job has ended.
    fn speak(
        &self,
        turns: mpsc::Receiver<NotifyTurn>,
        stop: Stop,
        end: SyncSender<()>,
    ) -> Result<()> {
        let built = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime =
            built.map_err(|error| failed("cannot report to the service manager", error))?;
        runtime.block_on(self.follow(turns, stop));
        // It fails if the wait has ended.
        let _ = end.try_send(());
        Ok(())
    }

    /// Reports the life of a run: start, readiness, signs of life, stop.
    async fn follow(&self, mut turns: mpsc::Receiver<NotifyTurn>, stop: Stop) {
        self.say(&[NotifyState::Status("starting")]);
        let mut is_stopping = false;
        let first = tokio::select! {
            turn = turns.recv() => turn,
            () = stop.stopped() => {
                is_stopping = true;
                self.say(&[NotifyState::Stopping, NotifyState::Status("stopping before the start")]);
                turns.recv().await
            }
        };
        let last = match first {
            Some(NotifyTurn::Ready(job)) => {
                self.accompany(job, &mut turns, &stop, &mut is_stopping).await
            }
            other => other,
        };
        if !is_stopping {
            self.say(&[NotifyState::Stopping]);
        }
        if let Some(NotifyTurn::Failed(error)) = last {
            self.say(&[NotifyState::Status(&one_line(&error))]);
        }
    }

    /// Reports on a job until it has ended; returns its failure.
    async fn accompany(
        &self,
        job: JobHandle,
        turns: &mut mpsc::Receiver<NotifyTurn>,
        stop: &Stop,
        is_stopping: &mut bool,
    ) -> Option<NotifyTurn> {
        let mut status = job.watch();
        let mut told = describe(&status.borrow_and_update());
        self.say(&[NotifyState::Ready, NotifyState::Status(&told)]);
        let mut quiet_until = Instant::now() + STATUS_EVERY;
        let mut ticks = watchdog().map(|time| {
            let mut ticks = interval(time / WATCHDOG_PARTS);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        loop {
            let tick = async {
                match &mut ticks {
                    Some(ticks) => drop(ticks.tick().await),
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                sleep_until(quiet_until).await;
                status.changed().await
            };
            tokio::select! {
                biased;
                turn = turns.recv() => return turn,
                () = stop.stopped(), if !*is_stopping => {
                    *is_stopping = true;
                    let text = "stopping: the open epoch is cut and committed";
                    self.say(&[NotifyState::Stopping, NotifyState::Status(text)]);
                }
                () = tick => {
                    if job.takes_turns() {
                        self.say(&[NotifyState::Watchdog]);
                    } else {
                        tracing::debug!("a worker has not taken a turn: the watchdog is not told");
                    }
                }
                Ok(()) = changed, if !*is_stopping => {
                    let text = describe(&status.borrow_and_update());
                    if text != told {
                        told = text;
                        self.say(&[NotifyState::Status(&told)]);
                        quiet_until = Instant::now() + STATUS_EVERY;
                    }
                }
            }
        }
    }
}

/// The status of a job in one line.
fn describe(status: &Status) -> String {
    let committed = match &status.last {
        Some(committed) => committed.to_string(),
        None => format!("epoch {} is open", status.open),
    };
    match status.in_flight.len() {
        0 | 1 => committed,
        epochs => format!("{committed}; {epochs} epochs in flight"),
    }
}

/// A text of any kind as a status: on one line, and not too long.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=STATUS_BYTES_MAX.min(line.len())).rev().find(|at| line.is_char_boundary(*at));
    line.truncate(end.unwrap_or(0));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_open_or_newest_committed_epoch() {
        let status = Status { open: 20, ..Status::default() };
        assert_eq!(describe(&status), "epoch 20 is open");
        let status = Status { open: 40, in_flight: [20, 30].into(), ..Status::default() };
        assert_eq!(describe(&status), "epoch 40 is open; 2 epochs in flight");
    }

    #[test]
    fn long_errors_become_one_short_line() {
        assert_eq!(one_line("a\n  b"), "a b");
        assert_eq!(one_line(&"ä".repeat(600)), "ä".repeat(256));
    }
}
