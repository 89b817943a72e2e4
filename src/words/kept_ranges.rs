//! The memory of drained ranges, kept for the ranges of the next epoch.
//!
//! The next epoch has usually begun when an epoch is drained. Ranges of an epoch have no table
//! before their first list, so they take the table that the epoch before has drained meanwhile, and
//! the memory exists once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::range_table::{RangeHomes, RangeTable};
use super::ranging::Ranging;

/// Homes of a new table.
const HOMES_MIN: RangeHomes = RangeHomes { tiny: 1 << 10, short: 1 << 6 };

/// Memory in bytes that the slots of a drained range keep: 65,536 homes of words of up to 7 bytes,
/// and some of others. More would raise the peak, since the run of the words takes it again.
const KEPT_BYTES_MAX: usize = 17 << 16;

/// The same where other operators need the memory.
const KEPT_BYTES_LESS: usize = 9 << 16;

/// Empty tables for the ranges of a process, at most one of each range. Clones share them.
#[derive(Clone, Debug)]
pub struct KeptRanges {
    /// Number of ranges of all processes.
    ranges: u64,
    /// The tables of this process.
    tables: Arc<[Mutex<Option<RangeTable>>]>,
    limit: KeptLimit,
}

/// The limit of the memory that ranges keep. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct KeptLimit {
    /// True if other operators need the memory.
    is_less: Arc<AtomicBool>,
}

impl KeptLimit {
    /// Keeps less memory from now on.
    pub fn keep_less(&self) {
        self.is_less.store(true, Ordering::Relaxed);
    }

    /// Returns the memory in bytes that the slots of a range keep.
    fn bytes(&self) -> usize {
        if self.is_less.load(Ordering::Relaxed) { KEPT_BYTES_LESS } else { KEPT_BYTES_MAX }
    }
}

impl KeptRanges {
    /// Begins without tables.
    pub fn new(ranging: Ranging, process: usize, limit: KeptLimit) -> KeptRanges {
        let tables = ranging.of_process(process).map(|_| Mutex::default()).collect();
        KeptRanges { ranges: ranging.ranges() as u64, tables, limit }
    }

    /// Locks the table at `at`, which is whole whatever its last user did.
    fn lock(&self, at: usize) -> MutexGuard<'_, Option<RangeTable>> {
        self.tables[at].lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Removes the table at `at`, or makes one.
    pub(super) fn take(&self, at: usize) -> RangeTable {
        let kept = self.lock(at).take();
        kept.unwrap_or_else(|| RangeTable::new(self.ranges, HOMES_MIN))
    }

    /// Keeps a drained table with the homes that its words needed, as far as the limit allows.
    pub(super) fn keep(&self, at: usize, mut table: RangeTable, needed: RangeHomes) {
        table.reset(kept_homes(needed, self.limit.bytes()));
        let mut kept = self.lock(at);
        // Another epoch's, which was open at the same time.
        if kept.as_ref().is_none_or(|other| other.heap_bytes() < table.heap_bytes()) {
            *kept = Some(table);
        }
    }

    /// Frees all tables.
    pub fn clear(&self) {
        (0..self.tables.len()).for_each(|at| *self.lock(at) = None);
    }

    /// Returns the allocated memory in bytes.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let bytes = |at| self.lock(at).as_ref().map_or(0, RangeTable::heap_bytes);
        (0..self.tables.len()).map(bytes).sum()
    }
}

/// Returns the homes that a drained table keeps in `bytes_max` bytes, or the least.
fn kept_homes(needed: RangeHomes, bytes_max: usize) -> RangeHomes {
    let RangeHomes { mut tiny, mut short } = needed;
    while (RangeHomes { tiny, short }).bytes() > bytes_max {
        (tiny, short) = (tiny / 2, short / 2);
    }
    RangeHomes { tiny: tiny.max(HOMES_MIN.tiny), short: short.max(HOMES_MIN.short) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_homes_have_a_limit() {
        let kept_in = |bytes_max, tiny, short| {
            let RangeHomes { tiny, short } = kept_homes(RangeHomes { tiny, short }, bytes_max);
            (tiny, short)
        };
        let kept = |tiny, short| kept_in(KEPT_BYTES_MAX, tiny, short);
        assert_eq!(kept(1, 1), (HOMES_MIN.tiny, HOMES_MIN.short));
        assert_eq!(kept(1 << 16, 1 << 11), (1 << 16, 1 << 11));
        assert_eq!(kept(1 << 16, 1 << 12), (1 << 15, 1 << 11));
        assert_eq!(kept(1 << 20, 1), (1 << 16, HOMES_MIN.short));
        assert_eq!(kept(1, 1 << 20), (HOMES_MIN.tiny, 1 << 15));
        assert_eq!(kept_in(0, 1 << 20, 1 << 20), (HOMES_MIN.tiny, HOMES_MIN.short));
    }

    #[test]
    fn larger_table_of_a_range_is_kept() {
        let kept = KeptRanges::new(Ranging::new(1), 0, KeptLimit::default());
        let homes = |tiny| RangeHomes { tiny, short: 64 };
        for tiny in [1 << 11, 1 << 13, 1 << 12] {
            kept.keep(7, RangeTable::new(256, HOMES_MIN), homes(tiny));
        }
        assert_eq!(kept.take(7).homes(), homes(1 << 13));
        assert_eq!(kept.take(7).homes(), HOMES_MIN);
        kept.keep(7, RangeTable::new(256, HOMES_MIN), homes(1 << 13));
        kept.clear();
        assert_eq!(kept.heap_bytes(), 0);
        kept.limit.keep_less();
        kept.keep(7, RangeTable::new(256, HOMES_MIN), homes(1 << 16));
        assert_eq!(kept.take(7).homes(), homes(1 << 15));
    }
}
