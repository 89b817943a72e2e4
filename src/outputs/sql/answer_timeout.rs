//! The limit of the time without an answer.

use std::pin::pin;
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
        self.limit_between(place, &AtomicU64::new(0), answer).await
    }

    /// Waits for `answer`, for at most the limit after each change of `progress`.
    ///
    /// # Errors
    ///
    /// Those of [`Silence::limit`].
    pub async fn limit_between<T>(
        &self,
        place: &str,
        progress: &AtomicU64,
        answer: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let limit_ms = self.limit_ms.load(Ordering::Relaxed);
        let (mut answer, limit) = (pin!(answer), Duration::from_millis(limit_ms));
        loop {
            let before = progress.load(Ordering::Relaxed);
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(answer) => return answer,
                // It is taking what is sent.
                Err(_) if progress.load(Ordering::Relaxed) != before => {}
                Err(_) => break,
            }
        }
        self.limit_ms.store((2 * limit_ms).min(PATIENCE_MAX_MS), Ordering::Relaxed);
        let message = format!("{place} has not answered for {} s", limit_ms / 1000);
        Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate())
    }

    /// Begins with 30 s again. Called after a commit.
    pub fn reset(&self) {
        self.limit_ms.store(SILENCE_MAX_MS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

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

    #[tokio::test]
    async fn progress_puts_the_limit_off() {
        let silence = Silence { limit_ms: Arc::new(AtomicU64::new(1)) };
        let progress = AtomicU64::new(0);
        // Each poll is a step. A limit that ends polls once more.
        let steps = || {
            let mut left = 9;
            let progress = &progress;
            std::future::poll_fn(move |_| {
                left -= 1;
                progress.fetch_add(1, Ordering::Relaxed);
                if left == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
            })
        };
        silence.limit_between("it", &progress, steps()).await.expect("it goes on");
        silence.limit("it", steps()).await.expect_err("one answer has one limit");
    }
}
