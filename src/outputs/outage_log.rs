//! Decides when an outage of a store is logged.
//!
//! An outage has a line when it begins, a reminder while it lasts, and a line when it is over. The
//! thousand attempts during it have none, and neither has a single request that fails while others
//! succeed. The rule needs neither a clock nor a store.

use std::time::{Duration, Instant};

/// The time between two lines during an outage.
const REMIND: Duration = Duration::from_secs(60);
/// The shortest time between two outages that are both logged.
const QUIET: Duration = Duration::from_secs(10);

/// The reason for which an object could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageCause {
    /// The store is out of reach or overloaded, which ends by itself.
    Away,
    /// The store refuses until a setting is changed.
    Refused,
}

/// An outage, and the lines that were logged for it.
#[derive(Debug, Default)]
pub struct OutageLog {
    /// The start of the first attempt that has failed since the last success.
    since: Option<Instant>,
    /// The time at which an attempt failed last.
    failed_at: Option<Instant>,
    /// The cause in the last line, and its time.
    logged: Option<(OutageCause, Instant)>,
    /// True if the present outage was logged.
    is_open: bool,
    /// The time at which an object was stored last.
    stored: Option<Instant>,
}

impl OutageLog {
    /// Notes that an attempt that began at `began` has failed with `cause`. Returns true if that is
    /// to be logged.
    pub fn failed(&mut self, cause: OutageCause, began: Instant, now: Instant) -> bool {
        let others_succeeded = self.stored.is_some_and(|stored| stored > began);
        if others_succeeded && cause == OutageCause::Away {
            return false;
        }
        self.since.get_or_insert(began);
        self.failed_at = Some(now);
        let again_after = if self.is_open { REMIND } else { QUIET };
        let due = match self.logged {
            Some((logged, at)) => logged != cause || now.duration_since(at) >= again_after,
            None => true,
        };
        if due {
            self.logged = Some((cause, now));
            self.is_open = true;
        }
        due
    }

    /// Notes that an attempt that began at `began` has no answer yet: its own success ends the
    /// outage. Returns true if that is to be logged.
    pub fn silent(&mut self, began: Instant, now: Instant) -> bool {
        let failed_at = self.failed_at;
        let is_due = self.failed(OutageCause::Away, began, now);
        self.failed_at = failed_at;
        is_due
    }

    /// Returns true if the last attempts have failed, be that logged or not.
    pub fn is_out(&self) -> bool {
        self.since.is_some()
    }

    /// Notes that an object was stored by an attempt that began at `began`. Returns the length of
    /// the outage if it is over and was logged. An attempt that had begun before another one
    /// failed ends none: on a full disk an empty object is stored beside one that does not fit.
    pub fn succeeded(&mut self, began: Instant, now: Instant) -> Option<Duration> {
        self.stored = Some(now);
        if self.failed_at.is_some_and(|failed| began < failed) {
            return None;
        }
        let since = self.since.take()?;
        std::mem::take(&mut self.is_open).then(|| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `script` against a new outage; times are seconds from its start.
    fn logged(script: &[(u64, u64, OutageCause)]) -> Vec<bool> {
        let (mut outage, start) = (OutageLog::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        script
            .iter()
            .map(|(began, now, cause)| outage.failed(*cause, at(*began), at(*now)))
            .collect()
    }

    #[test]
    fn outage_is_logged_at_once_and_every_minute() {
        use OutageCause::Away;
        let tries = [(0, 1, Away), (2, 3, Away), (50, 60, Away), (55, 61, Away), (62, 66, Away)];
        assert_eq!(logged(&tries), [true, false, false, true, false]);
    }

    #[test]
    fn refusal_in_an_outage_is_logged() {
        let tries =
            [(0, 1, OutageCause::Away), (2, 3, OutageCause::Refused), (4, 5, OutageCause::Refused)];
        assert_eq!(logged(&tries), [true, true, false]);
    }

    #[test]
    fn end_is_logged_once_after_a_beginning() {
        let (mut outage, start) = (OutageLog::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(outage.succeeded(at(0), at(0)), None);
        assert!(outage.failed(OutageCause::Away, at(1), at(4)));
        assert_eq!(outage.succeeded(at(5), at(6)), Some(Duration::from_secs(5)));
        assert_eq!(outage.succeeded(at(6), at(7)), None);
        assert!(!outage.failed(OutageCause::Away, at(8), at(9)), "it comes and goes");
        assert_eq!(outage.succeeded(at(9), at(10)), None, "what was not logged does not end");
        assert!(outage.failed(OutageCause::Away, at(11), at(15)));
    }

    #[test]
    fn single_failure_is_no_outage() {
        let (mut outage, start) = (OutageLog::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        outage.succeeded(at(4), at(5));
        assert!(!outage.failed(OutageCause::Away, at(1), at(6)));
        assert!(outage.failed(OutageCause::Refused, at(1), at(6)));
    }

    #[test]
    fn object_beside_a_failed_one_ends_no_outage() {
        let (mut outage, start) = (OutageLog::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(outage.failed(OutageCause::Away, at(1), at(2)));
        assert_eq!(outage.succeeded(at(1), at(3)), None, "it began before the failure");
        assert!(outage.is_out());
        assert_eq!(outage.succeeded(at(4), at(5)), Some(Duration::from_secs(4)));
        assert!(outage.silent(at(20), at(30)));
        assert_eq!(outage.succeeded(at(20), at(31)), Some(Duration::from_secs(11)));
    }
}
