//! The refreshes that commits share.
//!
//! A refresh makes everything visible that was stored before it began, and costs the server a new
//! segment. When several epochs are written at the same time, as after an outage, one refresh is
//! enough for all that were written by then.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::epoch::Epoch;

/// The times of writes and refreshes of one index, by this process.
#[derive(Debug, Default)]
pub struct Refreshes(Mutex<RefreshTimes>);

/// The times.
#[derive(Debug, Default)]
struct RefreshTimes {
    /// The time at which the last rows of an epoch were stored, until it is committed.
    written: BTreeMap<Epoch, Instant>,
    /// The beginning of the newest refresh that has succeeded.
    refreshed: Option<Instant>,
}

impl Refreshes {
    /// Notes that rows of `epoch` are stored since `at`.
    pub fn written(&self, epoch: Epoch, at: Instant) {
        let mut times = self.lock();
        let last = times.written.entry(epoch).or_insert(at);
        *last = at.max(*last);
    }

    /// Notes that a refresh that began at `began` has succeeded.
    pub fn refreshed(&self, began: Instant) {
        let mut times = self.lock();
        times.refreshed = times.refreshed.max(Some(began));
    }

    /// Returns true if the rows of `epoch`, all of which are stored, are visible already. Called
    /// once, by the commit of the epoch.
    pub fn are_visible(&self, epoch: Epoch) -> bool {
        let mut times = self.lock();
        let written = times.written.remove(&epoch);
        // Nothing is known of an epoch without rows.
        written.is_some_and(|written| times.refreshed.is_some_and(|began| began > written))
    }

    /// Locks the times.
    fn lock(&self) -> MutexGuard<'_, RefreshTimes> {
        // Each is changed at once, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refresh_covers_what_was_written_before_it() {
        let (refreshes, start) = (Refreshes::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        for (epoch, s) in [(10, 1), (20, 3), (20, 2), (30, 4), (40, 1), (40, 5)] {
            refreshes.written(epoch, at(s));
        }
        assert!(!refreshes.are_visible(10), "nothing was refreshed");
        refreshes.refreshed(at(4));
        refreshes.refreshed(at(2));
        assert!(refreshes.are_visible(20));
        assert!(!refreshes.are_visible(30), "at the same time");
        assert!(!refreshes.are_visible(40), "one part was stored after it");
        assert!(!refreshes.are_visible(50), "an epoch without rows");
        assert!(refreshes.lock().written.is_empty());
    }
}
