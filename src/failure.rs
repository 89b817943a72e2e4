//! The first error of a job, and the wake-up of every task and thread that must stop for it.
//!
//! A worker that panics, a disk that fails and a peer that is lost end the whole job, since a part
//! of a dataflow computes nothing useful. The task or thread that detects the error calls
//! [`Failure::fail`]. The first error is kept as the cause, and all registered wake-ups are called.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Error;
use crate::feed::Wake;
use crate::liveness::Pulse;

/// A callback that is given the text of the cause.
type CauseReport = Box<dyn FnOnce(&str) + Send>;

/// The cause, and the callbacks that are still to be called.
struct FailureState {
    /// The first cause.
    cause: Option<Error>,
    /// Wakes every thread and task that must stop.
    wakes: Vec<Wake>,
    /// Callbacks for the text of the cause.
    reporters: Vec<CauseReport>,
}

/// The failure of one job, if it has failed. Clones share it.
#[derive(Clone)]
pub struct Failure {
    /// The cause and the wakes.
    state: Arc<Mutex<FailureState>>,
    /// True after the first error. A channel, so that tasks can wait for it.
    failed: watch::Sender<bool>,
    /// The signs of life of the job.
    pulse: Pulse,
}

impl Failure {
    /// Returns the state of a job that has not failed.
    pub fn new() -> Self {
        let state = FailureState { cause: None, wakes: Vec::new(), reporters: Vec::new() };
        Failure {
            state: Arc::new(Mutex::new(state)),
            failed: watch::Sender::new(false),
            pulse: Pulse::default(),
        }
    }

    /// Fails the job with this cause and calls all wake-ups. A later cause is most likely a
    /// consequence of the first one, so it is only logged.
    pub fn fail(&self, cause: Error) {
        let mut state = self.lock();
        if *self.failed.borrow() {
            tracing::debug!(%cause, "failed again, most likely for the same cause");
            return;
        }
        let text = cause.to_string();
        state.cause = Some(cause);
        let reporters = std::mem::take(&mut state.reporters);
        let wakes = std::mem::take(&mut state.wakes);
        self.failed.send_replace(true);
        // A wake-up may ask for the cause, so the lock is released first.
        drop(state);
        wakes.iter().for_each(|wake| wake());
        reporters.into_iter().for_each(|report| report(&text));
    }

    /// Returns true if the job has failed.
    pub fn is_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Waits until the job has failed.
    pub async fn failed(&self) {
        let mut failed = self.failed.subscribe();
        // The only error is a dropped sender, and `self` holds it.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Registers a callback that is called once with the text of the cause, on the thread that
    /// fails: at once if the job has failed.
    pub fn on_cause(&self, report: impl FnOnce(&str) + Send + 'static) {
        let mut state = self.lock();
        if !self.is_failed() {
            state.reporters.push(Box::new(report));
            return;
        }
        let text = state.cause.as_ref().map_or_else(|| "it failed".to_owned(), Error::to_string);
        drop(state);
        report(&text);
    }

    /// Registers a wake-up that is called once when the job fails: at once if it has failed.
    pub fn on_failure(&self, wake: Wake) {
        let mut state = self.lock();
        if self.is_failed() {
            drop(state);
            wake();
        } else {
            state.wakes.push(wake);
        }
    }

    /// Returns the pulse of the job, which each of its loops joins: a job whose threads hang has
    /// not failed, but must be noticed like one that has.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Takes the cause. The job stays failed.
    pub fn take_cause(&self) -> Option<Error> {
        self.lock().cause.take()
    }

    /// Locks the state.
    fn lock(&self) -> MutexGuard<'_, FailureState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure").field("failed", &self.is_failed()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn first_cause_is_kept_and_wakes_all() {
        let failure = Failure::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake: Wake = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        failure.on_failure(Arc::clone(&wake));
        failure.fail(Error::new(ErrorKind::Disk, "the cause"));
        failure.fail(Error::new(ErrorKind::PeerLost, "a consequence"));
        failure.on_failure(wake);
        assert_eq!(woken.load(Ordering::Relaxed), 2, "once in time, once for coming late");
        assert_eq!(failure.take_cause().map(|cause| cause.kind()), Some(ErrorKind::Disk));
        assert!(failure.is_failed() && failure.take_cause().is_none());
    }
}
