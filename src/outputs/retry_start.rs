//! Retries of a start, which is patient for a while only.

use std::time::Duration;

use crate::backoff::BackoffPolicy;
use crate::epoch::{Clock, SystemClock};
use crate::error::Result;
use crate::store::StoreResult;

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Repeats `attempt` while the store is out of reach, for at most the patience of a start.
pub async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let (clock, mut is_logged) = (SystemClock::new(), false);
    let mut backoff = BackoffPolicy::DEFAULT.start();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() || clock.monotonic() > START_PATIENCE => {
                return Err(error.into());
            }
            Err(error) if !std::mem::replace(&mut is_logged, true) => {
                let patience = START_PATIENCE.as_secs();
                tracing::warn!("{error}; tried again for {patience} s before giving up");
            }
            Err(error) => tracing::debug!("tried again: {error}"),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}
