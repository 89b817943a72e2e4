//! Retries of a start, which is patient for a while only.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::BackoffPolicy;
use crate::error::Result;
use crate::store::StoreResult;

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Repeats `attempt` while the store is out of reach. Gives up after the first failure that comes
/// later than the patience of a start after the first one, so that an attempt which a store left
/// without an answer for long is repeated, too.
pub async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let (mut failed, mut backoff) = (None, BackoffPolicy::DEFAULT.start());
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() => return Err(error.into()),
            Err(error) => {
                let first = *failed.get_or_insert_with(Instant::now);
                if first.elapsed() > START_PATIENCE {
                    return Err(error.into());
                }
                if is_due(&LOGGED, Instant::now()) {
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

/// The time of the last warning of the process. A start has several requests under way, and one
/// outage is to be logged once.
static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);

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
