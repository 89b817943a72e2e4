//! Retries of a start, which is patient for a while only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::BackoffPolicy;
use crate::error::Result;
use crate::meters::Meters;
use crate::store::StoreResult;

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// The hint of a failure that has none of its own.
const HINT: &str = "check the place in --to, the network and the server";

/// Retries the requests of a start, and shows that the store is out of reach. Clones share the log:
/// a start has several requests under way, and one outage is to be logged once.
#[derive(Clone, Debug, Default)]
pub struct StartRetrier {
    /// The figures of the process.
    meters: Meters,
    /// The time of the last warning.
    logged: Arc<Mutex<Option<Instant>>>,
}

impl StartRetrier {
    /// Returns a retrier that reports to `meters`.
    pub fn new(meters: Meters) -> StartRetrier {
        StartRetrier { meters, ..StartRetrier::default() }
    }

    /// Repeats `attempt` while the store is out of reach. Gives up after the first failure that
    /// comes later than the patience of a start after the first one, so that an attempt which a
    /// store left without an answer for long is repeated, too.
    pub async fn run<T, F>(&self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let (mut failed, mut backoff) = (None, BackoffPolicy::DEFAULT.start());
        loop {
            match attempt().await {
                Ok(done) => {
                    if failed.is_some() {
                        self.meters.output_available();
                    }
                    return Ok(done);
                }
                Err(error) if !error.is_transient() => return Err(error.into()),
                Err(mut error) => {
                    error.hint.get_or_insert_with(|| HINT.to_owned());
                    self.meters.output_away(&error.to_string());
                    let first = *failed.get_or_insert_with(Instant::now);
                    if first.elapsed() > START_PATIENCE {
                        return Err(error.into());
                    }
                    if is_due(&self.logged, Instant::now()) {
                        let patience = START_PATIENCE.as_secs();
                        tracing::warn!("{error}; tried again for {patience} s before giving up");
                    } else {
                        tracing::debug!("tried again: {error}");
                    }
                }
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }
}

/// Returns whether a warning is due, and notes it as logged.
fn is_due(logged: &Mutex<Option<Instant>>, now: Instant) -> bool {
    let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = logged.is_none_or(|before| now.duration_since(before) > START_PATIENCE);
    if is_due {
        *logged = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_of_several_requests_is_logged_once() {
        let (logged, start) = (Mutex::new(None), Instant::now());
        let is_due_at = |seconds| is_due(&logged, start + Duration::from_secs(seconds));
        let due = [0, 0, 1, 29, 31, 32, 70].map(is_due_at);
        assert_eq!(due, [true, false, false, false, true, false, true]);
    }
}
