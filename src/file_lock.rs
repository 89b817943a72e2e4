//! Locks on files, by `flock`, which the kernel gives back with the process that holds one.
//!
//! A start waits for a lock for a short time before it refuses: the processes of a cluster that was
//! killed end a moment after their launcher, and a survey shares a lock while it looks.

use std::fs::File;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Attempts to take a lock before it counts as that of a running job,
const ATTEMPTS_MAX: usize = 200;

/// and the pause between two of them: two seconds in all.
const PAUSE: Duration = Duration::from_millis(10);

/// Locks `file` for this process alone; returns false if another one keeps the lock.
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
    for _ in 0..ATTEMPTS_MAX {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => pause(),
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
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
}
