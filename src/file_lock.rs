//! Locks on files, by `flock`, which the kernel gives back with the process that holds one.
//!
//! A start waits for a lock for a short time before it refuses: the processes of a cluster that was
//! killed end a moment after their launcher, and a survey shares a lock while it looks. A run that
//! ends states that in the files that it has locked ([`HeldLocks`]), and a start waits longer for
//! it: the end takes as long as the output needs for the last epochs. [`LockPatience`] ends both
//! waits at a stop, and before the peers of a cluster give the start up.

mod former_run;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};

pub use former_run::{FormerRun, is_held};

/// Attempts to take a lock before it counts as that of a running job,
const ATTEMPTS_MAX: usize = 200;

/// and the pause between two of them: two seconds in all.
const PAUSE: Duration = Duration::from_millis(10);

/// The longest wait for the locks of a run that ends: more than a stop takes by default.
const ENDING_WAIT_MAX: Duration = Duration::from_secs(80);

/// The last line of the file of a lock that is held by a run which ends.
const ENDING: &[u8] = b"ending\n";

/// The outcome of an attempt to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The lock is this process's.
    Locked,
    /// Another process keeps the lock.
    Held,
    /// A run that ends has not given the lock back in time.
    StillEnding,
    /// A stop came first.
    Stopped,
}

/// How long a start waits for the locks of other processes. All locks of a start share one.
#[derive(Clone)]
pub struct LockPatience {
    /// The end of all waits.
    deadline: Instant,
    /// Returns true once a stop was asked for.
    is_stopped: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for LockPatience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockPatience").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl LockPatience {
    /// Returns the patience of a start that begins now and ends when `is_stopped` returns true. In
    /// a cluster the others wait for the `start_timeout`, of which three quarters may pass.
    pub fn of_start(
        start_timeout: Option<Duration>,
        is_stopped: impl Fn() -> bool + Send + Sync + 'static,
    ) -> LockPatience {
        let limit = start_timeout.map_or(ENDING_WAIT_MAX, |limit| limit / 4 * 3);
        let deadline = Instant::now() + limit.min(ENDING_WAIT_MAX);
        LockPatience { deadline, is_stopped: Arc::new(is_stopped) }
    }

    /// Returns the reason to wait no longer, if there is one.
    fn end(&self, ends: bool) -> Option<LockOutcome> {
        let late = if ends { LockOutcome::StillEnding } else { LockOutcome::Held };
        let stopped = (self.is_stopped)().then_some(LockOutcome::Stopped);
        stopped.or((Instant::now() >= self.deadline).then_some(late))
    }
}

impl Default for LockPatience {
    /// Returns the patience of a process that is not stopped otherwise than by a signal.
    fn default() -> Self {
        LockPatience::of_start(None, || false)
    }
}

/// Locks `file`, which is open for reading, too, for this process alone. Logs that it waits for a
/// run that ends.
///
/// # Errors
///
/// Those of a file system without locks.
pub fn exclusive(file: &File, patience: &LockPatience) -> rustix::io::Result<LockOutcome> {
    attempt(file, |ends| {
        let end = patience.end(ends);
        if end.is_none() {
            // The kernel wakes only a thread that blocks for the lock without an end.
            std::thread::park_timeout(PAUSE);
        }
        end
    })
}

/// Attempts to lock `file`. After each attempt that fails it calls `pause`, with true if the holder
/// ends; that returns a reason to give up.
fn attempt(
    file: &File,
    mut pause: impl FnMut(bool) -> Option<LockOutcome>,
) -> rustix::io::Result<LockOutcome> {
    let mut left = ATTEMPTS_MAX;
    let mut is_told = false;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(LockOutcome::Locked),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno),
        }
        let ends = states_end(file);
        if !ends && left == 0 {
            return Ok(LockOutcome::Held);
        }
        left -= usize::from(!ends);
        if ends && !std::mem::replace(&mut is_told, true) {
            tracing::info!("the run before this one is ending: waiting until it has ended");
        }
        if let Some(end) = pause(ends) {
            return Ok(end);
        }
    }
}

/// Returns the error of a lock that a run which ends has not given back in time.
pub fn still_ending(path: &Path) -> Error {
    let message = format!("the run before this one is still ending and holds {}", path.display());
    Error::new(ErrorKind::Temporary, message).hint("start again when it has ended")
}

/// Returns the error of a start that was stopped while it waited for a lock.
pub fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "stopped: nothing was read, and nothing is lost")
}

/// Returns true if `path` still names the file, so that others lock the same one.
///
/// # Errors
///
/// Those of the disk. They say nothing of another owner.
pub fn bears_name(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns true if the file of a lock states that the run of its holder ends.
fn states_end(file: &File) -> bool {
    let mut last = [0; ENDING.len()];
    let at = file.metadata().map(|metadata| metadata.len().checked_sub(last.len() as u64));
    let Ok(Some(at)) = at else { return false };
    file.read_exact_at(&mut last, at).is_ok() && last == ENDING
}

/// The locks of a run. The holders give them back, not this value.
#[derive(Clone, Debug, Default)]
pub struct HeldLocks(Vec<Weak<File>>);

impl HeldLocks {
    /// Adds the file of a lock that is held.
    pub fn add(&mut self, lock: &Arc<File>) {
        self.0.push(Arc::downgrade(lock));
    }

    /// States in each file that the run ends. Called when it stops to read. It blocks.
    pub fn note_end(&self) {
        for file in self.0.iter().filter_map(Weak::upgrade).filter(|file| !states_end(file)) {
            let noted = file.metadata().map(|metadata| metadata.len());
            let noted = noted.and_then(|end| file.write_all_at(ENDING, end));
            // Without the line a start waits for a shorter time.
            noted
                .unwrap_or_else(|error: io::Error| tracing::debug!(%error, "the end is not noted"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_that_is_given_back_soon_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || File::create(dir.path().join("lock")).expect("a file");
        for held in [FlockOperation::NonBlockingLockShared, FlockOperation::LockExclusive] {
            let (job, other) = (open(), open());
            flock(&other, held).expect("nobody has it");
            let mut other = Some(other);
            let give_back = |_| {
                drop(other.take());
                None
            };
            assert_eq!(attempt(&job, give_back), Ok(LockOutcome::Locked));
            assert_eq!(attempt(&open(), |_| None), Ok(LockOutcome::Held));
        }
    }

    #[test]
    fn run_that_ends_is_waited_for_longer() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        std::fs::write(&path, "pid 7\n").expect("a file");
        let open = || File::options().read(true).write(true).open(&path).expect("a file");
        let held = Arc::new(open());
        flock(&*held, FlockOperation::LockExclusive).expect("nobody has it");
        let mut locks = HeldLocks::default();
        locks.add(&held);
        let pauses = |held: &mut Option<Arc<File>>, most: usize| {
            let mut pauses = 0;
            let taken = attempt(&open(), |ends| {
                pauses += 1;
                if pauses == most {
                    drop(held.take());
                }
                (ends && pauses > most).then_some(LockOutcome::StillEnding)
            });
            (taken, pauses)
        };
        let mut held = Some(held);
        assert_eq!(pauses(&mut held, usize::MAX), (Ok(LockOutcome::Held), ATTEMPTS_MAX));
        locks.note_end();
        locks.note_end();
        assert_eq!(std::fs::read(&path).expect("a file"), b"pid 7\nending\n");
        let long = 5 * ATTEMPTS_MAX;
        assert_eq!(pauses(&mut held, long), (Ok(LockOutcome::Locked), long));
        // The run has given its lock back.
        locks.note_end();
    }

    #[test]
    fn patience_ends_at_stop_and_before_peers() {
        let patience = |limit_s, is_stopped| {
            let limit = Some(Duration::from_secs(limit_s));
            LockPatience::of_start(limit, move || is_stopped)
        };
        assert_eq!(patience(60, false).end(true), None);
        assert_eq!(patience(60, true).end(true), Some(LockOutcome::Stopped));
        assert_eq!(patience(0, false).end(true), Some(LockOutcome::StillEnding));
        assert_eq!(patience(0, false).end(false), Some(LockOutcome::Held));
        let (begun, limit) = (Instant::now(), Duration::from_secs(60));
        assert!(patience(60, false).deadline < begun + limit, "the peers leave first");
        assert!(patience(3_600, false).deadline <= Instant::now() + ENDING_WAIT_MAX);
    }
}
