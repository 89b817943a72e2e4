//! The limit of the time without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// The time without an answer after which a session is given up.
const SILENCE_MAX_MS: u64 = 30_000;
/// The longest such time. It doubles with each session that was given up, because a server may need
/// longer for a very large epoch, and would never finish it.
const PATIENCE_MAX_MS: u64 = 960_000;

/// Gives up what does not answer. Clones share the time.
#[derive(Clone, Debug)]
pub struct Silence {
    /// The limit in milliseconds, which the session changes for long statements.
    limit_ms: Arc<AtomicU64>,
}

impl Silence {
    /// Returns a limit of 30 s.
    pub fn new() -> Silence {
        Silence { limit_ms: Arc::new(AtomicU64::new(SILENCE_MAX_MS)) }
    }

    /// Waits for `answer`, for at most the limit.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there is none; else those of `answer`.
    pub async fn limit<T>(
        &self,
        place: &str,
        answer: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let limit_ms = self.limit_ms.load(Ordering::Relaxed);
        match tokio::time::timeout(Duration::from_millis(limit_ms), answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.limit_ms.store((2 * limit_ms).min(PATIENCE_MAX_MS), Ordering::Relaxed);
                let message = format!("{place} has not answered for {} s", limit_ms / 1000);
                Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate())
            }
        }
    }

    /// Begins with 30 s again. Called after a commit.
    pub fn reset(&self) {
        self.limit_ms.store(SILENCE_MAX_MS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_ends_after_growing_times() {
        let silence = Silence { limit_ms: Arc::new(AtomicU64::new(1)) };
        for next_ms in [2, 4, 8] {
            let never = std::future::pending::<StoreResult<()>>();
            let error = silence.limit("it", never).await.expect_err("silence");
            assert!(error.message.contains("it has not answered"), "{error}");
            assert_eq!(silence.limit_ms.load(Ordering::Relaxed), next_ms);
        }
        silence.reset();
        assert_eq!(silence.limit_ms.load(Ordering::Relaxed), SILENCE_MAX_MS);
        let answer = silence.limit("it", async { Ok(7) }).await.expect("an answer");
        assert_eq!(answer, 7);
    }
}
