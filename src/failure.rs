//! The first error of a job, and the means to wake everyone who has to stop for it.
//!
//! A worker that panics, a disk that fails and a peer that is lost end the whole job: half a
//! dataflow computes nothing. Whoever meets the error calls [`Failure::fail`]; the first one is
//! kept as the cause, and all that were registered to be woken notice and leave.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Error;
use crate::feed::Wake;

/// Is given the text of the cause.
type Report = Box<dyn FnOnce(&str) + Send>;

struct State {
    cause: Option<Error>,
    wakes: Vec<Wake>,
    /// Called with the text of the cause.
    reporters: Vec<Report>,
}

/// The fate of one job. Clones share it.
#[derive(Clone)]
pub struct Failure {
    state: Arc<Mutex<State>>,
    failed: watch::Sender<bool>,
}

impl Failure {
    /// All is well so far.
    pub fn new() -> Self {
        let state = State { cause: None, wakes: Vec::new(), reporters: Vec::new() };
        Failure { state: Arc::new(Mutex::new(state)), failed: watch::Sender::new(false) }
    }

    /// Ends the job for this cause; a later one is a consequence and is only logged.
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
        drop(state);
        wakes.iter().for_each(|wake| wake());
        reporters.into_iter().for_each(|report| report(&text));
    }

    /// Whether the job has failed.
    pub fn is_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Resolves once the job has failed.
    pub async fn failed(&self) {
        let mut failed = self.failed.subscribe();
        // The sender lives as long as `self`, so waiting cannot end without a failure.
        failed.wait_for(|failed| *failed).await.map(drop).unwrap_or_default();
    }

    /// Has `report` called with the text of the cause in the thread that fails; at once if the job
    /// has failed already.
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

    /// Has `wake` called when the job fails, at once if it has already.
    pub fn on_failure(&self, wake: Wake) {
        let mut state = self.lock();
        if self.is_failed() {
            drop(state);
            wake();
        } else {
            state.wakes.push(wake);
        }
    }

    /// Takes out the cause; the job stays failed.
    pub fn take_cause(&self) -> Option<Error> {
        self.lock().cause.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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
    fn the_first_cause_is_kept_and_everyone_is_woken_once() {
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
