//! Retries the requests of the sink until the store accepts them.
//!
//! A store makes a few quick attempts by itself. This module repeats a failed request with growing
//! pauses for as long as it takes. Only errors that a retry does not cure, such as a failed disk or
//! a wrong request, are returned; the job then ends. When the first request succeeds again, the
//! others are repeated at once. An [outage](super::outage_log) is logged when
//! it begins, every minute, and when it is over.

use std::fmt::Display;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::outage_log::{OutageCause, OutageLog};
use crate::backoff::BackoffPolicy;
use crate::error::Error;
use crate::meters::{Meters, Outcome, OutputOp};
use crate::store::{PendingResults, StoreErrorKind, StoreResult};

/// A store that has not answered for this long is reported as out of reach, although its own
/// attempts continue.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Retries requests to one store. Clones share the outage and its log.
#[derive(Clone, Debug)]
pub struct Retrier {
    /// The store in log lines.
    store: Arc<str>,
    /// The time after which a store that has not answered is reported.
    pub silence_max: Duration,
    /// The pauses between the attempts of a request.
    pauses: BackoffPolicy,
    /// The outage, if there is one.
    outage: Arc<Mutex<OutageLog>>,
    /// Wakes the requests that pause when an outage is over.
    back: Arc<Notify>,
    /// Learns of outages, because results are then moved to disk.
    results: PendingResults,
    /// The figures of the process.
    meters: Meters,
}

impl Retrier {
    /// Returns a retrier for requests to the store with this description, without an outage.
    pub fn new(store: String, results: PendingResults, meters: Meters) -> Retrier {
        let (store, silence_max) = (store.into(), SILENCE_MAX);
        let (pauses, outage, back) = (BackoffPolicy::JITTERED, Arc::default(), Arc::default());
        Retrier { store, silence_max, pauses, outage, back, results, meters }
    }

    /// Repeats `attempt` until it succeeds. `what` names the object in log lines. An error is
    /// final.
    pub async fn run<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = StoreResult<T>>,
    {
        self.repeat(what, attempt, |_| {}).await
    }

    /// Works as [`Retrier::run`], and counts each attempt in the figures as a request of kind `op`.
    pub async fn counted<T, F>(
        &self,
        op: OutputOp,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let meter = self.meters.output();
        let count = |outcome| {
            meter.request(op, outcome);
            let is_repeated = matches!(outcome, Outcome::Refused | Outcome::Unavailable);
            meter.retries.add(u64::from(is_repeated));
        };
        self.repeat(what, attempt, count).await
    }

    /// Waits for `step`, the beginning of an attempt on `what` that is neither repeated nor counted
    /// here. Logs a store that does not answer.
    pub async fn step<T, E>(
        &self,
        what: &str,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let answer = self.answered(what, began, step).await;
        // A step is no stored object, so it ends no outage but that of its own silence.
        if answer.is_ok() && began.elapsed() >= self.silence_max {
            self.succeeded(began);
        }
        answer
    }

    /// Repeats `attempt` until it succeeds. Calls `count` with the outcome of each.
    async fn repeat<T, F>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
        count: impl Fn(Outcome),
    ) -> Result<T, Error>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let mut backoff = self.pauses.start();
        loop {
            let began = Instant::now();
            // Made before the attempt, so that an outage that ends during an attempt is noticed.
            let back = self.back.notified();
            let error = match self.answered(what, began, attempt()).await {
                Ok(stored) => {
                    count(Outcome::Ok);
                    self.succeeded(began);
                    return Ok(stored);
                }
                Err(error) => error,
            };
            match error.kind {
                // Credentials and rights may be corrected during a run, so this is not final.
                StoreErrorKind::Denied | StoreErrorKind::NotFound => {
                    count(Outcome::Refused);
                    self.failed(began, OutageCause::Refused, &error);
                }
                StoreErrorKind::Unavailable => {
                    count(Outcome::Unavailable);
                    self.failed(began, OutageCause::Away, &error);
                }
                _ => {
                    count(Outcome::Failed);
                    return Err(error.into());
                }
            }
            // The pause stays as long for the next failure: an overloaded store is not met by more
            // requests than before.
            let _ = tokio::time::timeout(backoff.next_pause(), back).await;
        }
    }

    /// Waits for the answer to an attempt. Logs a store that does not answer before its own
    /// attempts have failed.
    async fn answered<T>(&self, what: &str, began: Instant, attempt: impl Future<Output = T>) -> T {
        let mut attempt = pin!(attempt);
        loop {
            match tokio::time::timeout(self.silence_max, &mut attempt).await {
                Ok(answer) => return answer,
                Err(_) => {
                    // Also if other requests succeed: a pipe accepts parts while a marker waits.
                    self.results.set_away(true);
                    let (store, silent) = (&self.store, began.elapsed().as_secs());
                    let silence = format!("{store} has not taken {what} for {silent} s");
                    self.meters.output_away(&silence);
                    let is_due = self.outage().silent(began, Instant::now());
                    self.log(is_due, &silence);
                }
            }
        }
    }

    /// Called when an attempt that began at `began` has succeeded. Logs the end of an outage.
    fn succeeded(&self, began: Instant) {
        let (was_out, ended) = {
            let mut outage = self.outage();
            let was_out = outage.is_out();
            let ended = outage.succeeded(began, Instant::now());
            (was_out && !outage.is_out(), ended)
        };
        if was_out {
            self.meters.output_available();
        }
        if let Some(lasted) = ended {
            self.results.set_away(false);
            self.back.notify_waiters();
            let (store, lasted) = (&self.store, lasted.as_secs());
            tracing::info!("{store} takes objects again, after {lasted} s");
        }
        // Its silence was reported to the results, perhaps without a line in the log.
        if began.elapsed() >= self.silence_max {
            self.results.set_away(false);
            self.meters.output_available();
        }
    }

    /// Called when an attempt that began at `began` has failed. Logs the failure if a line is due.
    fn failed(&self, began: Instant, cause: OutageCause, error: &dyn Display) {
        let is_due = self.outage().failed(cause, began, Instant::now());
        self.log(is_due, error);
    }

    /// Shows why an object is not stored, and logs it if a line is due.
    fn log(&self, is_due: bool, error: &dyn Display) {
        if self.outage().is_out() {
            self.meters.output_away(&error.to_string());
        }
        if !is_due {
            tracing::debug!("retried: {error}");
            return;
        }
        self.results.set_away(true);
        tracing::warn!(
            "{error}; nothing is lost: closed epochs are kept and retried until they are stored"
        );
    }

    /// Locks the outage.
    fn outage(&self) -> MutexGuard<'_, OutageLog> {
        // Plain values, each written at once, so a panic elsewhere leaves nothing half-done.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::StoreError;

    #[tokio::test]
    async fn end_of_outage_wakes_the_other_requests() {
        let mut retrier =
            Retrier::new("store".into(), PendingResults::unlimited(), Meters::default());
        let hour = Duration::from_secs(3600);
        retrier.pauses = BackoffPolicy::doubling(hour, hour);
        let is_back = AtomicBool::new(false);
        let attempt = || async {
            if is_back.load(Ordering::SeqCst) {
                return Ok(());
            }
            Err(StoreError::new(StoreErrorKind::Unavailable, "away"))
        };
        let pausing = retrier.run("a part", attempt);
        let another = async {
            is_back.store(true, Ordering::SeqCst);
            retrier.run("another part", attempt).await
        };
        // The first is polled first, and fails.
        let both = async { futures::join!(pausing, another) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await;
        let (first, second) = both.expect("nobody waits for the pause to end");
        first.and(second).expect("both are stored");
    }
}
