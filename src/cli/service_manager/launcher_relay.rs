//! The launcher between its processes and the service manager.
//!
//! The manager takes messages of the launcher only. So the launcher has a socket of its own, in a
//! folder that only its user can enter, and names it to the processes. It passes on: ready, once,
//! when process 0 first is; the status of process 0; the watchdog's sign, when every process has
//! given it. While processes are not there or not ready (they start, or are started again) it gives
//! that sign itself, because their start has time limits of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{END_TIMEOUT, PROCESS, SOCKET, WATCHDOG_PARTS, is_listening, send, watchdog};
use crate::error::{Error, Result};
use crate::supervise;

/// The longest message that is read; a longer one is cut.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Names that are tried for the folder.
const FOLDERS_MAX: u32 = 100;
/// How often the launcher looks at its processes if there is no watchdog.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The socket of a launcher. Its folder is removed with the value.
#[derive(Debug)]
pub struct Relay {
    /// The private folder of the socket, removed with the relay.
    folder: PathBuf,
    /// Changes with each start and each end of the processes.
    phase: Arc<AtomicUsize>,
    /// True if the service manager expects signs of life.
    watches: bool,
}

impl Relay {
    /// Begins to relay for so many processes; `None` if no manager listens.
    ///
    /// # Errors
    ///
    /// An error of the folder, the socket or the thread.
    pub fn open(processes: usize) -> io::Result<Option<Relay>> {
        if !is_listening() {
            return Ok(None);
        }
        let folder = make_folder()?;
        let phase = Arc::<AtomicUsize>::default();
        let relay = Relay { folder, phase: Arc::clone(&phase), watches: watchdog().is_some() };
        let socket = UnixDatagram::bind(relay.socket())?;
        let every = watchdog().map_or(LOOK_EVERY, |time| time / WATCHDOG_PARTS);
        socket.set_read_timeout(Some(every))?;
        let passing = Passing { processes, every, ..Passing::default() };
        let fail = |error: Error| tracing::warn!("{error}");
        supervise::thread("relay", fail, move || passing.run(&socket, &phase))
            .map_err(io::Error::other)?;
        Ok(Some(relay))
    }

    /// Returns the path of the socket.
    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Returns what the launcher sets in the environment of its processes, or removes.
    pub fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let mut variables = vec![
            (SOCKET.into(), Some(self.socket().into())),
            // The time is theirs, too; the process id is the launcher's.
            ("WATCHDOG_PID".into(), None),
        ];
        if !self.watches {
            variables.push(("WATCHDOG_USEC".into(), None));
        }
        variables
    }

    /// Returns the number that the launcher raises when its processes start and when they end.
    pub fn phase(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.phase)
    }

    /// Called when the launcher is asked to stop, and at its end. The manager learns of it once.
    /// Returns after a short time, whether or not the manager reads.
    pub fn stopping() {
        /// Reported once: every message would fail alike.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            let (done, told) = sync_channel(1);
            let tell = move || {
                send(&[NotifyState::Stopping]);
                // The caller may have stopped waiting.
                let _ = done.try_send(());
                Ok(())
            };
            let fail = |error: Error| tracing::warn!("{error}");
            if supervise::thread("stopping", fail, tell).is_ok() {
                let _ = told.recv_timeout(END_TIMEOUT);
            }
        });
    }
}

/// Makes a folder that only this user can enter.
fn make_folder() -> io::Result<PathBuf> {
    let base = std::env::temp_dir();
    let mut number = 0;
    loop {
        let folder = base.join(format!("wordtide-notify-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            // One that exists is never used: another user may have made it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < FOLDERS_MAX => {
                number += 1;
            }
            made => return made.map(|()| folder),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What is left of it lies in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The messages that were passed on, and the last state of each process.
#[derive(Default)]
struct Passing {
    /// The number of processes of the cluster.
    processes: usize,
    /// How often the service manager expects a sign of life.
    every: Duration,
    /// The phase in which the sets below were filled.
    phase: usize,
    /// Processes that are ready.
    ready: BTreeSet<usize>,
    /// Processes that have given a sign since the last one that was passed on.
    alive: BTreeSet<usize>,
    /// True when the manager knows that all processes read.
    is_ready: bool,
    /// The time of the last sign of life to the manager.
    signed: Option<Instant>,
}

impl Passing {
    /// Passes on what holds for all processes, until the launcher ends.
    fn run(mut self, socket: &UnixDatagram, phase: &AtomicUsize) -> Result<()> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        loop {
            // A failed read is a time-out, or nothing that a retry in some time could make worse.
            let bytes = socket.recv(&mut message).unwrap_or(0);
            let text = String::from_utf8_lossy(&message[..bytes]).into_owned();
            let phase = phase.load(Ordering::Relaxed);
            self.take(&text, phase, Instant::now()).iter().for_each(|line| {
                send(&[NotifyState::Custom(line)]);
            });
        }
    }

    /// Takes a message, or none after a time; returns the lines to pass on.
    fn take(&mut self, message: &str, phase: usize, now: Instant) -> Vec<String> {
        if phase != self.phase {
            self.phase = phase;
            self.ready.clear();
            self.alive.clear();
        }
        let mut lines = Vec::new();
        let process = message.lines().find_map(|line| {
            let index = line.strip_prefix(PROCESS)?.strip_prefix('=')?.parse::<usize>().ok()?;
            (index < self.processes).then_some(index)
        });
        if let Some(process) = process {
            for line in message.lines() {
                match line {
                    "READY=1" => {
                        self.ready.insert(process);
                        if process == 0 && !std::mem::replace(&mut self.is_ready, true) {
                            lines.push(line.to_owned());
                        }
                    }
                    "WATCHDOG=1" => {
                        self.alive.insert(process);
                    }
                    line if process == 0 && line.starts_with("STATUS=") => {
                        lines.push(line.to_owned());
                    }
                    _ => {}
                }
            }
        }
        let is_due = self.signed.is_none_or(|signed| now - signed >= self.every);
        let are_alive = self.alive.len() == self.processes;
        if are_alive || self.ready.len() < self.processes && is_due {
            self.alive.clear();
            self.signed = Some(now);
            lines.push("WATCHDOG=1".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing() -> Passing {
        let every = Duration::from_secs(1);
        Passing { processes: 2, every, ..Passing::default() }
    }

    fn ready(passing: &mut Passing, phase: usize, now: Instant) -> Vec<String> {
        let first = passing.take("READY=1\nSTATUS=a\nX_WORDTIDE_PROCESS=0\n", phase, now);
        let second = passing.take("READY=1\nSTATUS=b\nX_WORDTIDE_PROCESS=1\n", phase, now);
        [first, second].concat()
    }

    #[test]
    fn launcher_is_ready_once() {
        let (mut passing, now) = (passing(), Instant::now());
        assert_eq!(ready(&mut passing, 1, now), ["READY=1", "STATUS=a", "WATCHDOG=1"]);
        // They are started again: the launcher was ready all the time.
        let again = now + Duration::from_secs(9);
        assert_eq!(ready(&mut passing, 3, again), ["STATUS=a", "WATCHDOG=1"]);
    }

    #[test]
    fn sign_of_life_needs_every_process() {
        let (mut passing, now) = (passing(), Instant::now());
        ready(&mut passing, 1, now);
        let later = now + Duration::from_secs(9);
        let sign = |passing: &mut Passing, process: usize| {
            passing.take(&format!("WATCHDOG=1\nX_WORDTIDE_PROCESS={process}\n"), 1, later)
        };
        assert!(sign(&mut passing, 0).is_empty() && sign(&mut passing, 0).is_empty());
        assert_eq!(sign(&mut passing, 1), ["WATCHDOG=1"]);
        assert!(passing.take("", 1, later).is_empty(), "one of them hangs");
        // All have ended and are started again: the launcher's own sign.
        assert_eq!(passing.take("", 2, later + Duration::from_secs(9)), ["WATCHDOG=1"]);
        assert!(passing.take("", 2, later + Duration::from_secs(9)).is_empty(), "too soon");
    }

    #[test]
    fn strangers_are_not_passed_on() {
        let (mut passing, now) = (passing(), Instant::now());
        ready(&mut passing, 1, now);
        for message in ["READY=1\n", "STATUS=x\nX_WORDTIDE_PROCESS=7\n", "MAINPID=1\n", ""] {
            assert!(passing.take(message, 1, now).is_empty(), "{message}");
        }
    }
}
