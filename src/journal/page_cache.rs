//! Lets durable bytes of the log leave the page cache.
//!
//! A log that keeps up never reads its journal. Pages of old bytes then serve the next writes. As
//! long as they stay, each write takes new memory from the system, which costs several times as
//! much as the copy where the host of a virtual machine has to provide it.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::segment;
use super::shared_state::JournalShared;

/// Durable bytes that stay, for a log that begins to lag. They are few: the pages that serve the
/// next writes are then still in the caches of the processor.
const KEPT_BYTES: u64 = 16 << 20;

/// Least number of bytes that leave together.
const STEP_BYTES_MIN: u64 = 4 << 20;

/// Most bytes that leave together, so that a sync hardly waits.
const STEP_BYTES_MAX: u64 = 64 << 20;

impl JournalShared {
    /// Lets bytes leave the page cache that are durable and not among the newest. None leave while
    /// a reader is on its way to the tail.
    pub fn uncache(&self) {
        if self.readers.load(Ordering::Relaxed) > 0 {
            return;
        }
        let synced = self.synced.load(Ordering::Acquire);
        let uncached = self.uncached.load(Ordering::Relaxed);
        let Some(range) = step(uncached, synced) else { return };
        let segments = self.ledger().between(range.start, range.end);
        for segment in segments {
            // A segment may be retired meanwhile.
            let Some(file) =
                segment.file.or_else(|| self.disk.open(&segment::name(segment.base)).ok())
            else {
                continue;
            };
            let offset = |position: u64| position.saturating_sub(segment.base) + segment::HEADER;
            file.uncache(offset(range.start)..offset(range.end).min(segment.bytes));
        }
        self.uncached.store(range.end, Ordering::Relaxed);
    }
}

/// Returns what leaves next, where the bytes before `uncached` have left.
fn step(uncached: u64, synced: u64) -> Option<Range<u64>> {
    let end = synced.saturating_sub(KEPT_BYTES).min(uncached + STEP_BYTES_MAX);
    (end >= uncached + STEP_BYTES_MIN).then_some(uncached..end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::model_disk::ModelDisk;
    use crate::journal::{Budget, Facts, Journal, JournalSettings, Position};

    #[test]
    fn old_bytes_leave_in_steps() {
        let mib = |count: u64| count << 20;
        assert_eq!(step(0, mib(19)), None, "the newest stay");
        assert_eq!(step(0, mib(20)), Some(0..mib(4)));
        assert_eq!(step(mib(4), mib(22)), None, "too few");
        assert_eq!(step(mib(4), mib(1_000)), Some(mib(4)..mib(68)), "so many at a time");
    }

    #[test]
    fn nothing_leaves_while_a_reader_lives() {
        let settings = JournalSettings::default();
        let budget = Budget::new(&settings, 1).unwrap();
        let facts = Facts { source: "a".to_owned(), parts: 1, interval_ms: 1000 };
        let disk = Arc::new(ModelDisk::default());
        let (journal, _) = Journal::open_on(disk, settings, facts, &budget).unwrap();
        let shared = &journal.shared;
        let before = shared.uncached.load(Ordering::Relaxed);
        shared.synced.store(before + KEPT_BYTES + STEP_BYTES_MIN, Ordering::Release);
        let reader = journal.reader(Position(before));
        shared.uncache();
        assert_eq!(shared.uncached.load(Ordering::Relaxed), before);
        drop(reader);
        shared.uncache();
        assert_eq!(shared.uncached.load(Ordering::Relaxed), before + STEP_BYTES_MIN);
    }
}
