//! The objects of a part of the changelog: their names, and which of them are needed.

use std::fmt;

use crate::epoch::Epoch;
use crate::operators::PartChange;

/// The least weight of an object, because every object costs a request.
const OBJECT_BYTES_MIN: u64 = 256 << 10;
/// The least weight of changes that are merged.
const BASE_BYTES_MIN: u64 = 4 << 20;

/// One part of one of the definition's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangelogPart {
    /// The number of the counts in the definition.
    pub counts: u32,
    /// The part.
    pub part: u32,
}

impl ChangelogPart {
    /// Returns the part of a change.
    pub fn of(change: &PartChange) -> ChangelogPart {
        ChangelogPart { counts: change.counts, part: change.part }
    }
}

impl fmt::Display for ChangelogPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.counts, self.part)
    }
}

/// A stored object, ordered by epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangelogObject {
    /// The epoch of a change, or the last epoch of a base.
    pub epoch: Epoch,
    /// True for a base, which holds the input up to its epoch. A change holds the input in it.
    is_base: bool,
    /// Its length.
    pub bytes: u64,
}

impl ChangelogObject {
    /// Returns the change of `epoch`, of length 0.
    pub fn change(epoch: Epoch) -> ChangelogObject {
        ChangelogObject { epoch, is_base: false, bytes: 0 }
    }

    /// Returns the base up to `epoch`, of length 0.
    pub fn base(epoch: Epoch) -> ChangelogObject {
        ChangelogObject { epoch, is_base: true, bytes: 0 }
    }

    /// Returns the same object with another length.
    pub fn of(self, bytes: u64) -> ChangelogObject {
        ChangelogObject { bytes, ..self }
    }
}

impl fmt::Display for ChangelogObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_base { "base" } else { "change" };
        write!(f, "{:014}.{kind}", self.epoch)
    }
}

/// Parses a name below the directory of the job. Returns `None` unless the name is exactly as
/// written by this module.
pub fn parse(name: &str, bytes: u64) -> Option<(ChangelogPart, ChangelogObject)> {
    let (part, object) = name.split_once('/')?;
    let (counts, part) = part.split_once('-')?;
    let part = ChangelogPart { counts: counts.parse().ok()?, part: part.parse().ok()? };
    let (epoch, kind) = object.split_once('.')?;
    let epoch = epoch.parse().ok()?;
    let object = match kind {
        "base" => ChangelogObject::base(epoch),
        "change" => ChangelogObject::change(epoch),
        _ => return None,
    };
    // `+5` and `7` parse as numbers, but the object would be read under another name.
    (format!("{part}/{object}") == name).then(|| (part, object.of(bytes)))
}

/// The objects of one part: at most one base, then changes, ascending by epoch.
#[derive(Debug, Default)]
pub struct PartObjects {
    /// The objects that are stored.
    stored: Vec<ChangelogObject>,
    /// The epoch of the newest change that was linked or adopted; 0 if there was none.
    newest: Epoch,
    /// The time for which results contain a change. `None` for ever.
    pub lasts_ms: Option<u64>,
    /// True while objects are being merged.
    is_merging: bool,
    /// Additional weight before the next merge. It grows with each failed merge, so that a merge is
    /// not retried at every epoch.
    postponed_bytes: u64,
}

impl PartObjects {
    /// Adds the objects that make up the contents at `through`: the newest base that is committed
    /// and the later changes. Returns the other ones.
    pub fn adopt(
        &mut self,
        mut found: Vec<ChangelogObject>,
        through: Epoch,
    ) -> Vec<ChangelogObject> {
        found.sort_unstable();
        let base = found.iter().rposition(|object| object.is_base && object.epoch <= through);
        let is_used = |at: usize, object: &ChangelogObject| {
            object.epoch <= through && !object.is_base && base.is_none_or(|base| at > base)
                || base == Some(at)
        };
        let since = base.map(|base| found[base].epoch);
        let mut rest = Vec::new();
        for (at, object) in found.into_iter().enumerate() {
            let is_in_base = !object.is_base && since == Some(object.epoch);
            let to = if is_used(at, &object) && !is_in_base { &mut self.stored } else { &mut rest };
            to.push(object);
        }
        self.newest = self.stored.last().map_or(0, |object| object.epoch);
        rest
    }

    /// Returns the epoch of the change before that of `epoch`, which becomes the newest one.
    pub fn link(&mut self, epoch: Epoch) -> Epoch {
        std::mem::replace(&mut self.newest, epoch)
    }

    /// Returns the objects, ascending by epoch.
    pub fn stored(&self) -> &[ChangelogObject] {
        &self.stored
    }

    /// Adds a change. It replaces a change of the same epoch from before a crash.
    pub fn add(&mut self, object: ChangelogObject) {
        self.stored.retain(|stored| stored.is_base || stored.epoch != object.epoch);
        let at = self.stored.partition_point(|stored| stored.epoch <= object.epoch);
        self.stored.insert(at, object);
    }

    /// Removes and returns the changes that no result after that of the committed `epoch` contains.
    pub fn expire(&mut self, epoch: Epoch) -> Vec<ChangelogObject> {
        let Some(lasts_ms) = self.lasts_ms else { return Vec::new() };
        self.stored
            .extract_if(.., |object| object.epoch.saturating_add(lasts_ms) <= epoch)
            .collect()
    }

    /// Returns the objects up to the committed `epoch` if they are due for a merge. They stay in
    /// the list until [`PartObjects::merged`].
    pub fn take_due(&mut self, epoch: Epoch) -> Vec<ChangelogObject> {
        if self.is_merging || self.lasts_ms.is_some() {
            return Vec::new();
        }
        let committed = self.stored.partition_point(|object| object.epoch <= epoch);
        let due = &self.stored[..committed];
        let weight = |object: &ChangelogObject| object.bytes.max(OBJECT_BYTES_MIN);
        let changes: u64 = due.iter().filter(|object| !object.is_base).map(weight).sum();
        let base: u64 = due.iter().filter(|object| object.is_base).map(weight).sum();
        if changes < base.max(BASE_BYTES_MIN) + self.postponed_bytes {
            return Vec::new();
        }
        self.is_merging = true;
        due.to_vec()
    }

    /// Replaces the objects in `due` by the base that was made of them, and returns them. Keeps
    /// them and returns nothing if there is no base because the merge has failed.
    pub fn merged(
        &mut self,
        due: Vec<ChangelogObject>,
        base: Option<ChangelogObject>,
    ) -> Vec<ChangelogObject> {
        self.is_merging = false;
        let Some(base) = base else {
            self.postponed_bytes += BASE_BYTES_MIN;
            return Vec::new();
        };
        self.postponed_bytes = 0;
        self.stored.drain(..due.len());
        self.stored.insert(0, base);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(epoch: Epoch, bytes: u64) -> ChangelogObject {
        ChangelogObject::change(epoch).of(bytes)
    }

    fn base(epoch: Epoch, bytes: u64) -> ChangelogObject {
        ChangelogObject::base(epoch).of(bytes)
    }

    #[test]
    fn names_read_back_and_sort_as_their_epochs() {
        let part = ChangelogPart { counts: 1, part: 7 };
        for object in [change(1_795_345_210_000, 5), base(20, 9)] {
            assert_eq!(parse(&format!("{part}/{object}"), object.bytes), Some((part, object)));
        }
        assert!(change(9_000, 0).to_string() < change(10_000, 0).to_string());
        for name in
            ["1-00007", "1-00007/x.base", "1-00007/20.tmp", "x-1/20.base", "", "1-00007/20.base"]
        {
            assert_eq!(parse(name, 0), None, "{name}");
        }
    }

    #[test]
    fn contents_are_base_and_later_changes() {
        let found = [
            change(50, 1), // not committed
            change(10, 1), // in the base
            base(20, 1),   // an older base
            change(30, 1), // in the base, which was made of it
            base(30, 1),
            change(40, 1),
            base(50, 1), // of an epoch that was not committed
        ];
        let mut objects = PartObjects::default();
        let rest = objects.adopt(found.to_vec(), 40);
        assert_eq!(objects.stored(), [base(30, 1), change(40, 1)]);
        assert_eq!(rest.len(), 5);
    }

    #[test]
    fn committed_objects_are_merged_one_at_a_time() {
        let mut objects = PartObjects::default();
        for epoch in 1..=3 {
            objects.add(change(epoch, BASE_BYTES_MIN / 2));
        }
        assert_eq!(objects.take_due(1), []);
        let due = objects.take_due(2);
        assert_eq!(due.len(), 2);
        assert_eq!(objects.take_due(3), [], "one merge at a time");
        objects.add(change(4, 1));
        let merged = base(2, 7 * BASE_BYTES_MIN);
        assert_eq!(objects.merged(due.clone(), Some(merged)), due);
        assert_eq!(objects.stored().len(), 3);
        assert_eq!(objects.take_due(4), [], "a large base waits for as many changes");
    }

    #[test]
    fn failed_merge_is_postponed() {
        let mut objects = PartObjects::default();
        objects.add(change(1, BASE_BYTES_MIN));
        let due = objects.take_due(1);
        assert_eq!(objects.merged(due, None), []);
        assert_eq!(objects.take_due(1), []);
        objects.add(change(2, BASE_BYTES_MIN));
        assert_eq!(objects.take_due(2).len(), 2);
    }

    #[test]
    fn window_drops_expired_changes() {
        let mut objects = PartObjects { lasts_ms: Some(20), ..PartObjects::default() };
        (1..4).for_each(|n| objects.add(change(10 * n, BASE_BYTES_MIN)));
        assert_eq!(objects.expire(40), [change(10, BASE_BYTES_MIN), change(20, BASE_BYTES_MIN)]);
        assert_eq!(objects.take_due(40), [], "windows have no base");
    }

    #[test]
    fn recounted_epoch_replaces_its_change() {
        let mut objects = PartObjects::default();
        [change(10, 1), change(20, 2), change(10, 3)].into_iter().for_each(|one| objects.add(one));
        assert_eq!(objects.stored(), [change(10, 3), change(20, 2)]);
    }
}
