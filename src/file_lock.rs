//! Locks on files, by `flock`, which the kernel gives back with the process that holds one.
//!
//! A start waits for a lock for a short time before it refuses: the processes of a cluster that was
//! killed end a moment after their launcher, and a survey shares a lock while it looks. A run that
//! ends states that in the files that it has locked ([`HeldLocks`]), and a start waits longer for
//! it: the end takes as long as the output needs for the last epochs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Attempts to take a lock before it counts as that of a running job,
const ATTEMPTS_MAX: usize = 200;

/// and the pause between two of them: two seconds in all.
const PAUSE: Duration = Duration::from_millis(10);

/// Attempts to take the lock of a run that ends: 80 seconds in all, more than a stop takes by
/// default.
const ENDING_ATTEMPTS_MAX: usize = 8_000;

/// The last line of the file of a lock that is held by a run which ends.
const ENDING: &[u8] = b"ending\n";

/// Locks `file`, which is open for reading, too, for this process alone; returns false if another
/// one keeps the lock. Logs that it waits for a run that ends.
///
/// # Errors
///
/// Those of a file system without locks.
pub fn exclusive(file: &File) -> rustix::io::Result<bool> {
    // The kernel wakes only a thread that blocks for the lock without an end.
    attempt(file, || std::thread::park_timeout(PAUSE))
}

/// Attempts to lock `file`, with a `pause` after each attempt that fails.
fn attempt(file: &File, mut pause: impl FnMut()) -> rustix::io::Result<bool> {
    let (mut left, mut left_ending) = (ATTEMPTS_MAX, ENDING_ATTEMPTS_MAX);
    let mut is_told = false;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno),
        }
        let ends = states_end(file);
        let attempts = if ends { &mut left_ending } else { &mut left };
        if *attempts == 0 {
            return Ok(false);
        }
        *attempts -= 1;
        if ends && !std::mem::replace(&mut is_told, true) {
            tracing::info!("the run before this one is ending: waiting until it has ended");
        }
        pause();
    }
}

/// Returns true if `path` still names the file, so that others lock the same one.
pub fn bears_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
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
            assert_eq!(attempt(&job, || drop(other.take())), Ok(true));
            assert_eq!(attempt(&open(), || {}), Ok(false));
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
            let taken = attempt(&open(), || {
                pauses += 1;
                if pauses == most {
                    drop(held.take());
                }
            });
            (taken, pauses)
        };
        let mut held = Some(held);
        assert_eq!(pauses(&mut held, usize::MAX), (Ok(false), ATTEMPTS_MAX));
        locks.note_end();
        locks.note_end();
        assert_eq!(std::fs::read(&path).expect("a file"), b"pid 7\nending\n");
        let (taken, long) = pauses(&mut held, usize::MAX);
        assert_eq!(taken, Ok(false));
        assert!(long > 10 * ATTEMPTS_MAX, "{long}");
        assert_eq!(pauses(&mut held, 5 * ATTEMPTS_MAX), (Ok(true), 5 * ATTEMPTS_MAX));
        // The run has given its lock back.
        locks.note_end();
    }
}
