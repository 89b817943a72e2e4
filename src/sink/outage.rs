//! When to speak of a store that takes no objects.
//!
//! An operator wants a line when an outage begins, a reminder while it lasts, and a line when it is
//! over; not one for each of a thousand tries, and none at all for a single request that failed
//! while its neighbours got through. This is that rule, without clock and without store.

use std::time::{Duration, Instant};

/// An outage that lasts is told again so often.
const REMIND: Duration = Duration::from_secs(60);
/// A store that comes and goes is told of this often at most.
const QUIET: Duration = Duration::from_secs(10);

/// Why an object could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The store is out of reach or overloaded; that passes by itself.
    Away,
    /// The store refuses; somebody has to do something.
    Refused,
}

/// What is known of an outage, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// When the first try of those that have failed since the last success began.
    since: Option<Instant>,
    /// What was told last, and when.
    told: Option<(Trouble, Instant)>,
    /// Whether the outage that goes on was told.
    open: bool,
    /// When an object was stored last.
    stored: Option<Instant>,
}

impl Outage {
    /// Notes that a try that began at `began` has met `trouble`; says whether to tell it.
    pub(super) fn met(&mut self, trouble: Trouble, began: Instant, now: Instant) -> bool {
        let others_got_through = self.stored.is_some_and(|stored| stored > began);
        if others_got_through && trouble == Trouble::Away {
            return false;
        }
        self.since.get_or_insert(began);
        let again_after = if self.open { REMIND } else { QUIET };
        let due = match self.told {
            Some((told, at)) => told != trouble || now.duration_since(at) >= again_after,
            None => true,
        };
        if due {
            self.told = Some((trouble, now));
            self.open = true;
        }
        due
    }

    /// Notes that an object was stored; how long the outage lasted, if one was told of.
    pub(super) fn passed(&mut self, now: Instant) -> Option<Duration> {
        self.stored = Some(now);
        let since = self.since.take()?;
        std::mem::take(&mut self.open).then(|| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `script` against a new outage; times are seconds from its start.
    fn told(script: &[(u64, u64, Trouble)]) -> Vec<bool> {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        script
            .iter()
            .map(|(began, now, trouble)| outage.met(*trouble, at(*began), at(*now)))
            .collect()
    }

    #[test]
    fn an_outage_is_told_at_once_and_then_every_minute() {
        use Trouble::Away;
        let tries = [(0, 1, Away), (2, 3, Away), (50, 60, Away), (55, 61, Away), (62, 66, Away)];
        assert_eq!(told(&tries), [true, false, false, true, false]);
    }

    #[test]
    fn a_refusal_in_an_outage_is_news() {
        let tries = [(0, 1, Trouble::Away), (2, 3, Trouble::Refused), (4, 5, Trouble::Refused)];
        assert_eq!(told(&tries), [true, true, false]);
    }

    #[test]
    fn the_end_of_an_outage_is_told_once_if_its_beginning_was() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(outage.passed(at(0)), None);
        assert!(outage.met(Trouble::Away, at(1), at(4)));
        assert_eq!(outage.passed(at(6)), Some(Duration::from_secs(5)));
        assert_eq!(outage.passed(at(7)), None);
        assert!(!outage.met(Trouble::Away, at(8), at(9)), "it comes and goes");
        assert_eq!(outage.passed(at(10)), None, "what was not told does not end");
        assert!(outage.met(Trouble::Away, at(11), at(15)));
    }

    #[test]
    fn one_that_fails_while_others_get_through_is_no_outage_but_a_refusal_is() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        outage.passed(at(5));
        assert!(!outage.met(Trouble::Away, at(1), at(6)));
        assert!(outage.met(Trouble::Refused, at(1), at(6)));
    }
}
