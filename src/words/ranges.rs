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

use super::drain_sink::DrainSink;
use super::hash::{Key, hash};
use super::kept_ranges::{KeptLimit, KeptRanges};
use super::range_lists::ListedWords;
use super::range_table::{RangeHomes, RangeTable};
use super::ranging::Ranging;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The tables of the ranges of one process, in one epoch.
#[derive(Debug)]
pub struct Ranges {
    ranging: Ranging,
    /// Index of the first range.
    first: usize,
    /// The table of each range, from its first word on.
    tables: Vec<Mutex<Option<RangeTable>>>,
    /// Empty tables, which ranges of all epochs take and give back.
    kept: KeptRanges,
    /// Memory of all tables.
    heap_bytes: AtomicUsize,
    /// Words that were added since the last [`take_sums`](Self::take_sums).
    words: AtomicU64,
    /// Distinct words that were drained since then.
    distinct: AtomicU64,
}

impl Ranges {
    /// Makes the empty ranges of a process, which keep their memory for themselves.
    pub fn new(ranging: Ranging, process: usize) -> Ranges {
        Ranges::with(KeptRanges::new(ranging, process, KeptLimit::default()), ranging, process)
    }

    /// Makes the empty ranges of a process. They take their tables from `kept` and give them back
    /// when they are drained.
    pub fn with(kept: KeptRanges, ranging: Ranging, process: usize) -> Ranges {
        let own = ranging.of_process(process);
        Ranges {
            ranging,
            first: own.start,
            tables: own.map(|_| Mutex::default()).collect(),
            kept,
            heap_bytes: AtomicUsize::new(0),
            words: AtomicU64::new(0),
            distinct: AtomicU64::new(0),
        }
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
    fn lock(&self, at: usize) -> MutexGuard<'_, Option<RangeTable>> {
        self.tables[at].lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Changes the table of a range. Returns the table's homes.
    fn change(&self, range: usize, change: impl FnOnce(&mut RangeTable)) -> RangeHomes {
        let at = range - self.first;
        let mut table = self.lock(at);
        let before = table.as_ref().map_or(0, RangeTable::heap_bytes);
        let table = table.get_or_insert_with(|| self.kept.take(at));
        change(table);
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
        let words = |range| self.lock(range - self.first).as_ref().map_or(0, RangeTable::len);
        share.map(words).sum()
    }

    /// Calls `emit(hash, word, count)` as [`drain_to`](Self::drain_to) gives words.
    pub fn drain(&self, share: Range<usize>, emit: impl FnMut(u64, &[u8], u64)) {
        self.drain_to(share, emit);
    }

    /// Gives `to` every word of some ranges once, ascending by (hash, word), and removes them. The
    /// memory of a range is kept when its words are given.
    pub fn drain_to(&self, share: Range<usize>, mut to: impl DrainSink) {
        for at in share.start - self.first..share.end - self.first {
            let Some(mut table) = self.lock(at).take() else { continue };
            self.heap_bytes.fetch_sub(table.heap_bytes(), Ordering::Relaxed);
            self.distinct.fetch_add(table.len() as u64, Ordering::Relaxed);
            let needed = table.homes_needed();
            table.drain(&mut to);
            self.kept.keep(at, table, needed);
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

    fn add_word(&mut self, hash: u64, word: &[u8], count: u64) {
        Ranges::add_word(self, hash, word, count);
    }
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

        fn add_word(&mut self, hash: u64, word: &[u8], count: u64) {
            let mut has = self.0.iter().filter(|ranges| ranges.has(ranges.range(hash)));
            has.next().expect("one has it").add_word(hash, word, count);
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
                    all.add_word(hash(word), word, 1);
                    *expected.entry((hash(word), word.to_vec())).or_default() += 2;
                    *expected.entry((hash(b"often"), b"often".to_vec())).or_default() += 1;
                }
                let long = b"sixteen161616161";
                all.add_word(hash(long), long, 1);
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
        // Their hash is 0, as that of no text is: their first bytes make one factor 0.
        let word = |number: u32| {
            [&0xFF51_AFD7_ED55_8CCD_u64.to_le_bytes()[..], &number.to_le_bytes()].concat()
        };
        for _ in 0..2 {
            (0..4000).for_each(|number| ranges.add_word(0, &word(number), 3));
            assert!(ranges.heap_bytes() > 100_000);
            let found = drained(&ranges, ranges.share(0, 1));
            assert!(found.len() == 4000 && found.iter().all(|(_, count)| *count == 3));
            assert_eq!(ranges.heap_bytes(), 0);
            assert!(ranges.kept.heap_bytes() <= 32 << 10, "only slots grew");
        }
    }

    #[test]
    fn large_ranges_keep_some_of_their_memory() {
        let ranges = Ranges::new(Ranging::new(1), 0);
        let one_range = (0..).map(|lo| Key { lo, hi: 8 << 56 }).filter(|key| key.hash() >> 56 == 9);
        let list: Vec<u64> = one_range.take(40_000).flat_map(|key| [key.hi, key.lo]).collect();
        for _ in 0..2 {
            assert_eq!(ranges.count(9, &list), 65_536);
            assert!(ranges.heap_bytes() > 65_536 * 24);
            ranges.note_words(90_000);
            assert_eq!(ranges.distinct(ranges.share(0, 1)), 40_000);
            assert_eq!(drained(&ranges, ranges.share(0, 1)).len(), 40_000);
            assert_eq!(ranges.heap_bytes(), 0);
            let kept = ranges.kept.heap_bytes();
            assert!(kept > 32_768 * 24 && kept < 34_000 * 24, "{kept} bytes");
            assert_eq!(ranges.take_sums(), (90_000, 40_000));
            assert_eq!(ranges.take_sums(), (0, 0));
        }
    }

    #[test]
    fn next_epoch_takes_drained_tables_of_this_one() {
        let (ranging, share) = (Ranging::new(1), 0..256);
        let kept = KeptRanges::new(ranging, 0, KeptLimit::default());
        let epoch = || Ranges::with(kept.clone(), ranging, 0);
        let (this, next) = (epoch(), epoch());
        let word = |number: u64| number.to_le_bytes();
        let fill = |ranges: &Ranges, words: u64| {
            (0..words).for_each(|number| ranges.add_word(hash(&word(number)), &word(number), 1));
        };
        fill(&this, 100_000);
        // Both are open.
        next.add_word(hash(b"tide"), b"tide", 1);
        let all_bytes = this.heap_bytes();
        assert_eq!(drained(&this, share.clone()).len(), 100_000);
        assert!(kept.heap_bytes() > all_bytes / 2);
        let one_more = all_bytes / 256 * 5 / 4;
        fill(&next, 100_000);
        assert!(kept.heap_bytes() <= one_more, "the next epoch has not taken them");
        assert_eq!(drained(&next, share).len(), 100_001);
        assert!(kept.heap_bytes() <= all_bytes + one_more, "more than one epoch's");
    }
}
