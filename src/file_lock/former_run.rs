//! The run before this one, as a start that finds an address in use sees it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{ATTEMPTS_MAX, ENDING_WAIT_MAX, PAUSE, states_end, still_ending, stopped};
use crate::error::{Error, Result};

/// A run of the same job that may still be ending. It holds the locks of the state or of a local
/// output until its job has ended, and an address for a moment longer.
#[derive(Clone)]
pub struct FormerRun {
    /// The state folder, in which each process has a lock.
    state: Option<PathBuf>,
    /// The lock of a local output.
    output: Option<PathBuf>,
    /// Returns true once a stop was asked for.
    is_stopped: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for FormerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FormerRun { state, output, .. } = self;
        f.debug_struct("FormerRun").field("state", state).field("output", output).finish()
    }
}

impl FormerRun {
    /// Returns the run that holds locks in the folder `state`, or the lock `output`. A wait for it
    /// ends when `is_stopped` returns true.
    pub fn new(
        state: Option<PathBuf>,
        output: Option<PathBuf>,
        is_stopped: impl Fn() -> bool + Send + Sync + 'static,
    ) -> FormerRun {
        FormerRun { state, output, is_stopped: Arc::new(is_stopped) }
    }

    /// Calls `bind` again for as long as it fails because an address is in use, and the former run
    /// may be the one that uses it: 2 s, and longer if that run states that it ends. It blocks.
    ///
    /// # Errors
    ///
    /// The last error of `bind`; `Temporary` if the former run is still ending after 80 s;
    /// `Stopped` at a stop.
    pub fn bind<T>(&self, mut bind: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + ENDING_WAIT_MAX;
        let (mut left, mut was_held, mut is_told) = (ATTEMPTS_MAX, false, false);
        loop {
            let error = match bind() {
                Err(error) if is_in_use(&error) => error,
                bound => return bound,
            };
            let holder = self.holder();
            let is_late = Instant::now() >= deadline;
            if holder == Some(Holder::Ending) && is_late {
                let held = self.state.as_ref().or(self.output.as_ref());
                return Err(still_ending(held.unwrap_or(&PathBuf::new())));
            }
            let ends = holder == Some(Holder::Ending);
            // The address is given up a moment after the locks.
            was_held |= holder.is_some();
            if !ends && (!was_held || left == 0) {
                return Err(error);
            }
            left -= usize::from(!ends);
            if !std::mem::replace(&mut is_told, true) {
                tracing::info!("{error}: the run before this one may be ending; trying again");
            }
            if (self.is_stopped)() {
                return Err(stopped());
            }
            // Nothing wakes a thread when an address is given up.
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Returns the state of the process that holds one of the locks, the ending one first.
    fn holder(&self) -> Option<Holder> {
        let entries = self.state.iter().flat_map(fs::read_dir).flatten().flatten();
        let is_lock = |name: &str| name.starts_with("lock-");
        let locks = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(is_lock))
            .map(|entry| entry.path());
        locks.chain(self.output.clone()).filter_map(|path| holder(&path).ok().flatten()).max()
    }
}

/// The state of a process that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    /// It does not state that it ends.
    Running,
    /// It states that it ends.
    Ending,
}

/// Returns the holder of a lock, if there is one. The lock is shared for a moment only.
fn holder(path: &Path) -> io::Result<Option<Holder>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) if states_end(&file) => Ok(Some(Holder::Ending)),
        Err(Errno::WOULDBLOCK) => Ok(Some(Holder::Running)),
        locked => Ok(locked.map(|()| None)?),
    }
}

/// Returns true if a process holds the lock at `path`.
pub fn is_held(path: &Path) -> bool {
    holder(path).is_ok_and(|holder| holder.is_some())
}

/// Returns true if the error follows from an address that is in use.
fn is_in_use(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::error::ErrorKind;
    use crate::file_lock::HeldLocks;

    #[test]
    fn address_of_ending_run_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = Arc::new(File::create_new(dir.path().join("lock-1")).expect("a file"));
        let former = FormerRun::new(Some(dir.path().to_owned()), None, || false);
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let bind = || {
            TcpListener::bind(address).map_err(|cause| {
                Error::new(ErrorKind::Configuration, format!("in use: {cause}")).cause(cause)
            })
        };
        let mut attempts = 0;
        former
            .bind(|| {
                attempts += 1;
                bind()
            })
            .expect_err("no run holds a lock: another program has the port");
        assert_eq!(attempts, 1);
        flock(&lock, FlockOperation::LockExclusive).expect("nobody has it");
        let mut locks = HeldLocks::default();
        locks.add(&lock);
        let mut held = Some((lock, taken));
        let mut attempts = 0;
        let bound = former.bind(|| {
            attempts += 1;
            match attempts {
                2 => locks.note_end(),
                // More than for a run that does not state its end.
                n if n == 2 * ATTEMPTS_MAX => drop(held.take()),
                _ => {}
            }
            bind()
        });
        drop(bound.expect("it is free"));
        let refused = former.bind(|| Err::<(), _>(Error::new(ErrorKind::Usage, "something else")));
        assert_eq!(refused.expect_err("not in use").kind(), ErrorKind::Usage);
    }
}
