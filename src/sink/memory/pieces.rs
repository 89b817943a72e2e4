//! Which objects of a place there are, and which of them are still of use.

use std::fmt;

use crate::epoch::Epoch;
use crate::operators::Change;

/// An object of less weighs as much: it costs a request, however small it is.
const PIECE_BYTES_MIN: u64 = 256 << 10;
/// Changes that weigh less are not worth a new base.
const BASE_BYTES_MIN: u64 = 4 << 20;

/// One part of one of the definition's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) counts: u32,
    pub(super) part: u32,
}

impl Place {
    pub(super) fn of(change: &Change) -> Place {
        Place { counts: change.counts, part: change.part }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.counts, self.part)
    }
}

/// A stored object, ordered by epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) epoch: Epoch,
    /// Whether it holds all up to its epoch, or only what came in it.
    is_base: bool,
    pub(super) bytes: u64,
}

impl Piece {
    pub(super) fn change(epoch: Epoch) -> Piece {
        Piece { epoch, is_base: false, bytes: 0 }
    }

    pub(super) fn base(epoch: Epoch) -> Piece {
        Piece { epoch, is_base: true, bytes: 0 }
    }

    /// The same, of this length.
    pub(super) fn of(self, bytes: u64) -> Piece {
        Piece { bytes, ..self }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_base { "base" } else { "change" };
        write!(f, "{:014}.{kind}", self.epoch)
    }
}

/// Reads a name below the job's directory; `None` for a name that is not exactly as written here.
pub(super) fn parse(name: &str, bytes: u64) -> Option<(Place, Piece)> {
    let (place, piece) = name.split_once('/')?;
    let (counts, part) = place.split_once('-')?;
    let place = Place { counts: counts.parse().ok()?, part: part.parse().ok()? };
    let (epoch, kind) = piece.split_once('.')?;
    let epoch = epoch.parse().ok()?;
    let piece = match kind {
        "base" => Piece::base(epoch),
        "change" => Piece::change(epoch),
        _ => return None,
    };
    // `+5` and `7` parse as numbers and would be looked for under another name.
    (format!("{place}/{piece}") == name).then(|| (place, piece.of(bytes)))
}

/// The objects of one place: at most one base, then changes, ascending by epoch.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    stored: Vec<Piece>,
    /// For how long a change shows in results; `None` for ever.
    pub(super) lasts_ms: Option<u64>,
    is_merging: bool,
    /// Grows when merging fails, so that it is not tried with every epoch.
    patience_bytes: u64,
}

impl Pieces {
    /// Takes over what was found, as far as it makes up the contents at `through`; gives back the
    /// rest.
    pub(super) fn adopt(&mut self, mut found: Vec<Piece>, through: Epoch) -> Vec<Piece> {
        found.sort_unstable();
        let base = found.iter().rposition(|piece| piece.is_base && piece.epoch <= through);
        let is_used = |at: usize, piece: &Piece| {
            piece.epoch <= through && !piece.is_base && base.is_none_or(|base| at > base)
                || base == Some(at)
        };
        let since = base.map(|base| found[base].epoch);
        let mut rest = Vec::new();
        for (at, piece) in found.into_iter().enumerate() {
            let is_in_base = !piece.is_base && since == Some(piece.epoch);
            let to = if is_used(at, &piece) && !is_in_base { &mut self.stored } else { &mut rest };
            to.push(piece);
        }
        rest
    }

    pub(super) fn stored(&self) -> &[Piece] {
        &self.stored
    }

    /// Notes a new change; one of the same epoch, from before a crash, is replaced by it.
    pub(super) fn add(&mut self, piece: Piece) {
        self.stored.retain(|stored| stored.is_base || stored.epoch != piece.epoch);
        let at = self.stored.partition_point(|stored| stored.epoch <= piece.epoch);
        self.stored.insert(at, piece);
    }

    /// Takes out what no result behind the committed `epoch` shows.
    pub(super) fn expire(&mut self, epoch: Epoch) -> Vec<Piece> {
        let Some(lasts_ms) = self.lasts_ms else { return Vec::new() };
        self.stored.extract_if(.., |piece| piece.epoch.saturating_add(lasts_ms) <= epoch).collect()
    }

    /// The pieces up to the committed `epoch` if they are to become one base. They stay until that
    /// is told by [`Pieces::merged`].
    pub(super) fn take_due(&mut self, epoch: Epoch) -> Vec<Piece> {
        if self.is_merging || self.lasts_ms.is_some() {
            return Vec::new();
        }
        let committed = self.stored.partition_point(|piece| piece.epoch <= epoch);
        let due = &self.stored[..committed];
        let weight = |piece: &Piece| piece.bytes.max(PIECE_BYTES_MIN);
        let changes: u64 = due.iter().filter(|piece| !piece.is_base).map(weight).sum();
        let base: u64 = due.iter().filter(|piece| piece.is_base).map(weight).sum();
        if changes < base.max(BASE_BYTES_MIN) + self.patience_bytes {
            return Vec::new();
        }
        self.is_merging = true;
        due.to_vec()
    }

    /// Replaces what was due by the base that was made of it; gives back what is of no use any
    /// more. Without a base all stays as it was.
    pub(super) fn merged(&mut self, due: Vec<Piece>, base: Option<Piece>) -> Vec<Piece> {
        self.is_merging = false;
        let Some(base) = base else {
            self.patience_bytes += BASE_BYTES_MIN;
            return Vec::new();
        };
        self.patience_bytes = 0;
        self.stored.drain(..due.len());
        self.stored.insert(0, base);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(epoch: Epoch, bytes: u64) -> Piece {
        Piece::change(epoch).of(bytes)
    }

    fn base(epoch: Epoch, bytes: u64) -> Piece {
        Piece::base(epoch).of(bytes)
    }

    #[test]
    fn names_read_back_and_sort_as_their_epochs() {
        let place = Place { counts: 1, part: 7 };
        for piece in [change(1_795_345_210_000, 5), base(20, 9)] {
            assert_eq!(parse(&format!("{place}/{piece}"), piece.bytes), Some((place, piece)));
        }
        assert!(change(9_000, 0).to_string() < change(10_000, 0).to_string());
        for name in
            ["1-00007", "1-00007/x.base", "1-00007/20.tmp", "x-1/20.base", "", "1-00007/20.base"]
        {
            assert_eq!(parse(name, 0), None, "{name}");
        }
    }

    #[test]
    fn the_newest_committed_base_and_the_changes_behind_it_make_up_the_contents() {
        let found = [
            change(50, 1), // not committed
            change(10, 1), // in the base
            base(20, 1),   // an older base
            change(30, 1), // in the base, which was made of it
            base(30, 1),
            change(40, 1),
            base(50, 1), // of an epoch that was not committed
        ];
        let mut pieces = Pieces::default();
        let rest = pieces.adopt(found.to_vec(), 40);
        assert_eq!(pieces.stored(), [base(30, 1), change(40, 1)]);
        assert_eq!(rest.len(), 5);
    }

    #[test]
    fn only_what_is_committed_is_merged_and_once_at_a_time() {
        let mut pieces = Pieces::default();
        for epoch in 1..=3 {
            pieces.add(change(epoch, BASE_BYTES_MIN / 2));
        }
        assert_eq!(pieces.take_due(1), []);
        let due = pieces.take_due(2);
        assert_eq!(due.len(), 2);
        assert_eq!(pieces.take_due(3), [], "one merge at a time");
        pieces.add(change(4, 1));
        let merged = base(2, 7 * BASE_BYTES_MIN);
        assert_eq!(pieces.merged(due.clone(), Some(merged)), due);
        assert_eq!(pieces.stored().len(), 3);
        assert_eq!(pieces.take_due(4), [], "a large base waits for as many changes");
    }

    #[test]
    fn a_merge_that_failed_is_not_tried_with_every_epoch() {
        let mut pieces = Pieces::default();
        pieces.add(change(1, BASE_BYTES_MIN));
        let due = pieces.take_due(1);
        assert_eq!(pieces.merged(due, None), []);
        assert_eq!(pieces.take_due(1), []);
        pieces.add(change(2, BASE_BYTES_MIN));
        assert_eq!(pieces.take_due(2).len(), 2);
    }

    #[test]
    fn a_window_lets_go_of_what_it_has_passed() {
        let mut pieces = Pieces { lasts_ms: Some(20), ..Pieces::default() };
        (1..4).for_each(|n| pieces.add(change(10 * n, BASE_BYTES_MIN)));
        assert_eq!(pieces.expire(40), [change(10, BASE_BYTES_MIN), change(20, BASE_BYTES_MIN)]);
        assert_eq!(pieces.take_due(40), [], "windows have no base");
    }

    #[test]
    fn an_epoch_that_is_counted_again_replaces_its_change() {
        let mut pieces = Pieces::default();
        [change(10, 1), change(20, 2), change(10, 3)].into_iter().for_each(|one| pieces.add(one));
        assert_eq!(pieces.stored(), [change(10, 3), change(20, 2)]);
    }
}
