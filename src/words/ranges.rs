//! Ranges: many small tables, each for a range of hashes, that the workers of a process share.
//!
//! A table beyond the caches costs a miss for nearly each word. Here the slots of a range fit the
//! second-level cache or nearly so, and a worker counts many words of one range at a time, which it
//! has listed before ([`RangeLists`](super::range_lists::RangeLists)). Lines of the slots are read
//! once a list, one after the other.
//!
//! A range is locked while a list is counted in it. There are many more ranges than workers, so
//! they seldom meet, and each word is held once, whichever worker has read it. A range grows while
//! its slots are in the cache.
//!
//! If processes share the words of a host, each has the ranges of a part of the hashes. Ranges are
//! in the order of hashes, as slots are, so ranges one after the other drain as one table does.

use super::drained::Drained;
use super::hash::{Key, hash};
use super::range_lists::ListedWords;
use super::range_table::{RangeHomes, RangeTable};
use super::ranging::Ranging;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Homes of an empty range.
const HOMES_MIN: RangeHomes = RangeHomes { tiny: 1 << 10, short: 1 << 6 };

/// Memory in bytes that the slots of a drained range may keep. The memory of more words would raise
/// the peak, since the run of the words takes it again.
const KEPT_BYTES_MAX: usize = 1 << 19;

/// The tables of the ranges of one process, in one epoch.
#[derive(Debug)]
pub struct Ranges {
    ranging: Ranging,
    /// Index of the first range.
    first: usize,
    tables: Vec<Mutex<RangeTable>>,
    /// Memory of all tables.
    heap_bytes: AtomicUsize,
    /// Words that were added since the last [`take_sums`](Self::take_sums).
    words: AtomicU64,
    /// Distinct words that were drained since then.
    distinct: AtomicU64,
}

impl Ranges {
    /// Makes the empty ranges of a process.
    pub fn new(ranging: Ranging, process: usize) -> Ranges {
        let own = ranging.of_process(process);
        let table = || RangeTable::new(ranging.ranges() as u64, HOMES_MIN);
        let tables: Vec<_> = own.clone().map(|_| Mutex::new(table())).collect();
        let ranges = Ranges {
            ranging,
            first: own.start,
            tables,
            heap_bytes: AtomicUsize::new(0),
            words: AtomicU64::new(0),
            distinct: AtomicU64::new(0),
        };
        let bytes = (0..ranges.tables.len()).map(|at| ranges.lock(at).heap_bytes()).sum();
        ranges.heap_bytes.store(bytes, Ordering::Relaxed);
        ranges
    }

    /// Returns the range of a hash.
    #[inline]
    pub fn range(&self, hash: u64) -> usize {
        (hash >> self.ranging.shift()) as usize
    }

    /// Returns true if `range` is one of these.
    pub fn has(&self, range: usize) -> bool {
        range.checked_sub(self.first).is_some_and(|at| at < self.tables.len())
    }

    /// Locks the table at `at`. A worker that panicked ends the job, whatever its table is like.
    fn lock(&self, at: usize) -> MutexGuard<'_, RangeTable> {
        self.tables[at].lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Changes the table of a range. Returns the table's homes.
    fn change(&self, range: usize, change: impl FnOnce(&mut RangeTable)) -> RangeHomes {
        let mut table = self.lock(range - self.first);
        let before = table.heap_bytes();
        change(&mut table);
        // Wraps around where memory was freed, in both steps.
        let more = table.heap_bytes().wrapping_sub(before);
        if more != 0 {
            self.heap_bytes.fetch_add(more, Ordering::Relaxed);
        }
        table.homes()
    }

    /// Adds 1 to each word of a list of `range`. Returns the number of homes of its slots.
    pub fn count(&self, range: usize, list: &[u64]) -> usize {
        let homes = self.change(range, |table| table.add_list(list));
        homes.tiny.max(homes.short)
    }

    /// Adds `count` (not 0) to a word, which may hold any bytes, with this hash.
    pub fn add_word(&self, of: u64, word: &[u8], count: u64) {
        debug_assert_eq!(of, hash(word));
        self.change(self.range(of), |table| match word.len() {
            0..=super::hash::SHORT_BYTES_MAX => table.add(Key::of(word), count),
            _ => table.add_long(word, count),
        });
    }

    /// Notes that `words` words were added, for [`take_sums`](Self::take_sums).
    pub fn note_words(&self, words: u64) {
        self.words.fetch_add(words, Ordering::Relaxed);
    }

    /// Returns the allocated memory in bytes, used or not.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes.load(Ordering::Relaxed)
    }

    /// Returns the ranges of worker `worker` of `workers`, to be drained by it.
    pub fn share(&self, worker: usize, workers: usize) -> Range<usize> {
        let at = |worker| self.first + self.tables.len() * worker / workers;
        at(worker)..at(worker + 1)
    }

    /// Returns the hashes of some ranges.
    pub fn hashes(&self, share: Range<usize>) -> Range<u128> {
        let at = |range: usize| (range as u128) << self.ranging.shift();
        at(share.start)..at(share.end)
    }

    /// Returns the number of distinct words in some ranges.
    pub fn distinct(&self, share: Range<usize>) -> usize {
        share.map(|range| self.lock(range - self.first).len()).sum()
    }

    /// Calls `emit(hash, word, count)` as [`drain_to`](Self::drain_to) gives words.
    pub fn drain(&self, share: Range<usize>, emit: impl FnMut(u64, &[u8], u64)) {
        self.drain_to(share, emit);
    }

    /// Gives `to` every word of some ranges once, ascending by (hash, word), and empties them. A
    /// small range keeps its memory.
    pub fn drain_to(&self, share: Range<usize>, mut to: impl Drained) {
        for range in share {
            self.change(range, |table| {
                let needed = table.homes_needed();
                self.distinct.fetch_add(table.len() as u64, Ordering::Relaxed);
                table.drain(&mut to);
                table.reset(kept_homes(needed));
            });
        }
    }

    /// Returns the numbers of words and of distinct words since the last call.
    pub fn take_sums(&self) -> (u64, u64) {
        let take = |sum: &AtomicU64| sum.swap(0, Ordering::Relaxed);
        (take(&self.words), take(&self.distinct))
    }
}

/// The place of all lists, if one process has all ranges.
impl ListedWords for &Ranges {
    fn count(&mut self, range: usize, list: &[u64]) -> usize {
        Ranges::count(self, range, list)
    }

    fn long(&mut self, hash: u64, word: &[u8]) {
        self.add_word(hash, word, 1);
    }
}

/// Returns the homes that an emptied range keeps.
fn kept_homes(needed: RangeHomes) -> RangeHomes {
    if needed.bytes() > KEPT_BYTES_MAX {
        return HOMES_MIN;
    }
    let (tiny, short) = (needed.tiny.max(HOMES_MIN.tiny), needed.short.max(HOMES_MIN.short));
    RangeHomes { tiny, short }
}

#[cfg(test)]
mod tests {
    use super::super::range_lists::RangeLists;
    use super::*;
    use std::collections::BTreeMap;

    /// Words ascending as ranges drain them, with their counts.
    type Counts = BTreeMap<(u64, Vec<u8>), u64>;

    fn drained(ranges: &Ranges, share: Range<usize>) -> Vec<((u64, Vec<u8>), u64)> {
        let mut found = Vec::new();
        ranges.drain(share, |hash, word, count| found.push(((hash, word.to_vec()), count)));
        assert!(found.is_sorted_by(|(one, _), (other, _)| one < other), "out of order");
        found
    }

    /// Lists for the ranges of all processes.
    struct AllRanges(Vec<Ranges>);

    impl ListedWords for AllRanges {
        fn count(&mut self, range: usize, list: &[u64]) -> usize {
            let has: Vec<_> = self.0.iter().filter(|ranges| ranges.has(range)).collect();
            assert_eq!(has.len(), 1, "one process has range {range}");
            has[0].count(range, list)
        }

        fn long(&mut self, hash: u64, word: &[u8]) {
            let mut has = self.0.iter().filter(|ranges| ranges.has(ranges.range(hash)));
            has.next().expect("one has it").add_word(hash, word, 1);
        }
    }

    #[test]
    fn words_of_all_processes_drain_in_order() {
        for processes in [1, 2, 3, 20] {
            let ranging = Ranging::new(processes);
            let make = |process| Ranges::new(ranging, process);
            let mut all = AllRanges((0..processes).map(make).collect());
            let mut lists = RangeLists::new(ranging, 1);
            for round in 0..2 {
                let mut expected = Counts::new();
                for number in 0..40_000_u64 {
                    let word = "x".repeat(number as usize % 3 * 7) + &number.to_string();
                    let word = &word.as_bytes()[..word.len().min(15)];
                    lists.push(&mut all, Key::of(word));
                    lists.push(&mut all, Key::of(b"often"));
                    all.long(hash(word), word);
                    *expected.entry((hash(word), word.to_vec())).or_default() += 2;
                    *expected.entry((hash(b"often"), b"often".to_vec())).or_default() += 1;
                }
                let long = b"sixteen161616161";
                all.long(hash(long), long);
                expected.insert((hash(long), long.to_vec()), 1);
                lists.flush(&mut all);
                let mut found = Vec::new();
                for ranges in &all.0 {
                    for worker in 0..3 {
                        found.extend(drained(ranges, ranges.share(worker, 3)));
                    }
                }
                assert!(found.is_sorted_by(|(one, _), (other, _)| one < other));
                assert!(found.into_iter().collect::<Counts>() == expected, "round {round}");
            }
        }
    }

    #[test]
    fn crafted_words_leave_nothing_in_kept_ranges() {
        let ranges = Ranges::new(Ranging::new(1), 0);
        let fresh_bytes = ranges.heap_bytes();
        // Their hash is 0, as that of no text is: their first bytes make one factor 0.
        let word = |number: u32| {
            [&0xFF51_AFD7_ED55_8CCD_u64.to_le_bytes()[..], &number.to_le_bytes()].concat()
        };
        for _ in 0..2 {
            (0..4000).for_each(|number| ranges.add_word(0, &word(number), 3));
            assert!(ranges.heap_bytes() > fresh_bytes + 100_000);
            let found = drained(&ranges, ranges.share(0, 1));
            assert!(found.len() == 4000 && found.iter().all(|(_, count)| *count == 3));
            assert!(ranges.heap_bytes() <= fresh_bytes + 8192, "only slots grew");
        }
    }

    #[test]
    fn large_ranges_free_their_memory() {
        let ranges = Ranges::new(Ranging::new(1), 0);
        let fresh_bytes = ranges.heap_bytes();
        let one_range = (0..).map(|lo| Key { lo, hi: 8 << 56 }).filter(|key| key.hash() >> 56 == 9);
        let list: Vec<u64> = one_range.take(20_000).flat_map(|key| [key.hi, key.lo]).collect();
        assert_eq!(ranges.count(9, &list), 32_768);
        assert!(ranges.heap_bytes() > fresh_bytes + 32_768 * 24 - 4096);
        ranges.note_words(50_000);
        assert_eq!(ranges.distinct(ranges.share(0, 1)), 20_000);
        assert_eq!(drained(&ranges, ranges.share(0, 1)).len(), 20_000);
        assert_eq!(ranges.heap_bytes(), fresh_bytes);
        assert_eq!(ranges.take_sums(), (50_000, 20_000));
        assert_eq!(ranges.take_sums(), (0, 0));
    }
}
