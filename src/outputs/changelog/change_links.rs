//! The order of the changes of a part: each names the one before it, so that a start notices one
//! that is gone.
//!
//! A base names none: it replaces all changes up to its epoch, and bears the epoch of the last of
//! them. The change before the first one of a window may be gone, since no result contains it any
//! more. Nothing follows the newest change of a part: the state folder names it
//! ([`NewestChanges`](super::NewestChanges)).

use serde::{Deserialize, Serialize};

use super::part_objects::ChangelogPart;
use crate::epoch::Epoch;
use crate::operators::PartChange;

/// A change, with the one before it.
#[derive(Clone, Debug)]
pub struct LinkedChange {
    /// The change.
    pub change: PartChange,
    /// The epoch of the change of the same part before it; 0 if it is the first. `None` for a base,
    /// and for changes of releases that did not name it.
    pub before: Option<Epoch>,
}

/// The newest change of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestChange {
    /// The number of the counts in the definition.
    pub counts: u32,
    /// The part.
    pub part: u32,
    /// The epoch of the change.
    pub epoch: Epoch,
    /// The time for which results contain it. `None` for ever.
    pub lasts_ms: Option<u64>,
}

impl NewestChange {
    /// Returns the facts of a change that is its part's newest.
    pub fn of(change: &PartChange) -> NewestChange {
        let PartChange { counts, part, lasts_ms, ref run } = *change;
        NewestChange { counts, part, epoch: run.epoch, lasts_ms }
    }

    /// Returns the part.
    pub fn of_part(&self) -> ChangelogPart {
        ChangelogPart { counts: self.counts, part: self.part }
    }
}

/// Returns the epoch of a change that is gone, if one is.
///
/// `stored` are the base and the changes of a part, ascending. `newest` is the newest change that
/// the state knows of. `result` is the newest committed epoch with a result; `None` if a loss of
/// power may have taken a later one: then changes of windows, which may have been removed for that
/// one, are not judged.
pub fn find_gap(
    stored: &[LinkedChange],
    newest: Option<NewestChange>,
    result: Option<Epoch>,
) -> Option<Epoch> {
    let lasts_ms = stored
        .last()
        .map_or_else(|| newest.and_then(|newest| newest.lasts_ms), |last| last.change.lasts_ms);
    let is_needed = |epoch: Epoch| {
        lasts_ms.is_none_or(|lasts_ms| {
            result.is_some_and(|result| epoch.saturating_add(lasts_ms) > result)
        })
    };
    let mut last = 0;
    for LinkedChange { change, before } in stored {
        let gone = before.filter(|before| *before != 0 && *before != last && is_needed(*before));
        if gone.is_some() {
            return gone;
        }
        last = change.run.epoch;
    }
    newest.map(|newest| newest.epoch).filter(|epoch| *epoch > last && is_needed(*epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::Run;

    fn change(epoch: Epoch, before: Option<Epoch>, lasts_ms: Option<u64>) -> LinkedChange {
        let run = Run { epoch, ..Run::default() };
        LinkedChange { change: PartChange { counts: 0, part: 1, lasts_ms, run }, before }
    }

    fn newest(epoch: Epoch, lasts_ms: Option<u64>) -> Option<NewestChange> {
        Some(NewestChange { counts: 0, part: 1, epoch, lasts_ms })
    }

    #[test]
    fn every_missing_change_of_totals_is_named() {
        let all =
            [change(10, Some(0), None), change(20, Some(10), None), change(30, Some(20), None)];
        assert_eq!(find_gap(&all, newest(30, None), Some(30)), None);
        for gone in 0..3 {
            let rest: Vec<_> = [0, 1, 2].into_iter().filter(|at| *at != gone).collect();
            let rest: Vec<_> = rest.into_iter().map(|at| all[at].clone()).collect();
            let epoch = all[gone].change.run.epoch;
            assert_eq!(find_gap(&rest, newest(30, None), Some(30)), Some(epoch));
        }
        assert_eq!(find_gap(&[], newest(30, None), Some(30)), Some(30));
        assert_eq!(
            find_gap(&all[..2], newest(10, None), Some(30)),
            None,
            "the state knows an older one"
        );
        let with_base = [change(20, None, None), change(30, Some(20), None)];
        assert_eq!(find_gap(&with_base, newest(30, None), Some(30)), None);
        assert_eq!(
            find_gap(&with_base[1..], newest(30, None), Some(30)),
            Some(20),
            "the base is gone"
        );
    }

    #[test]
    fn changes_after_their_window_are_not_missed() {
        let rest = [change(30, Some(20), Some(20)), change(50, Some(30), Some(20))];
        assert_eq!(find_gap(&rest, newest(50, Some(20)), Some(40)), None);
        assert_eq!(find_gap(&rest, newest(50, Some(20)), Some(39)), Some(20));
        assert_eq!(find_gap(&[], newest(50, Some(20)), Some(70)), None);
        assert_eq!(find_gap(&[], newest(50, Some(20)), Some(69)), Some(50));
    }

    #[test]
    fn windows_are_judged_by_proven_results_only() {
        let rest = [change(30, Some(20), Some(20)), change(50, Some(30), Some(20))];
        assert_eq!(find_gap(&rest, newest(60, Some(20)), None), None);
        let totals = [change(30, Some(20), None)];
        assert_eq!(find_gap(&totals, newest(30, None), None), Some(20));
    }

    #[test]
    fn changes_of_earlier_releases_are_not_judged() {
        let old = [change(10, None, None), change(30, None, None), change(40, Some(30), None)];
        assert_eq!(find_gap(&old, None, Some(40)), None);
    }
}
