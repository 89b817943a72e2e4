//! Pauses between the attempts of an operation that is retried.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The rule by which pauses grow: from `min` by `factor` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackoffPolicy {
    /// The first pause.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// The ratio of a pause to the one before it.
    pub factor: u32,
    /// True if a pause is a random time between half of its length and all of it. Clients that have
    /// met the same failure then do not retry at the same time.
    pub has_jitter: bool,
}

impl BackoffPolicy {
    /// Pauses from 100 ms to 5 s that double, without jitter.
    pub(crate) const DEFAULT: BackoffPolicy =
        BackoffPolicy::doubling(Duration::from_millis(100), Duration::from_secs(5));

    /// [`BackoffPolicy::DEFAULT`] with jitter.
    pub(crate) const JITTERED: BackoffPolicy =
        BackoffPolicy { has_jitter: true, ..BackoffPolicy::DEFAULT };

    /// Returns pauses from `min` to `max` that double, without jitter.
    pub(crate) const fn doubling(min: Duration, max: Duration) -> BackoffPolicy {
        BackoffPolicy { min, max, factor: 2, has_jitter: false }
    }

    /// Returns the pauses of one operation.
    pub(crate) fn start(self) -> Backoff {
        Backoff { policy: self, next: self.min }
    }
}

/// The pauses of one operation.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    /// How pauses grow, and how long the longest is.
    policy: BackoffPolicy,
    /// The next pause, before jitter.
    next: Duration,
}

impl Backoff {
    /// Returns the pause before the next attempt. The one after it is longer.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(self.policy.factor).min(self.policy.max);
        if self.policy.has_jitter { jittered(pause) } else { pause }
    }

    /// Begins with the shortest pause again. Called after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.policy.min;
    }
}

/// Returns a random time between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    // The keys of a `RandomState` are random, and so is the hash of any value.
    let random = RandomState::new().hash_one(()) as u32;
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_max_until_reset() {
        let mut backoff = BackoffPolicy::DEFAULT.start();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_pause().as_millis(), 100);
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        let max = BackoffPolicy::JITTERED.max;
        let pauses: Vec<_> = (0..100).map(|_| jittered(max)).collect();
        assert!(pauses.iter().all(|pause| (max / 2..=max).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "no jitter: {pauses:?}");
    }
}
