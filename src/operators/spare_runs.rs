//! Runs that are no longer needed, kept for the next epoch.
//!
//! Memory that is touched for the first time costs a page fault every 4 KiB, which is half of the
//! time that it takes to add up two runs. Runs of moderate size are therefore kept. They come from
//! one thread and go to another, so all workers of a process share them.

use std::sync::{Mutex, MutexGuard};

use super::run::Run;

/// Most memory that is kept in a process.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The least memory of a run that is kept: less is soon touched. It also bounds their number, which
/// is looked through.
const RUN_BYTES_MIN: usize = 64 << 10;

/// A run may have room for so many times the words that are asked for.
const ROOM_FACTOR_MAX: usize = 4;

/// The kept runs of this process.
static SPARE: SpareRuns = SpareRuns(Mutex::new(Vec::new()));

/// Returns a kept run with room for `words` words, if there is one.
pub fn take(words: usize) -> Option<Run> {
    SPARE.take(words)
}

/// Keeps the memory of a run that is no longer needed.
pub fn keep(run: Run) {
    SPARE.keep(run);
}

/// Empty runs, in the order in which they were kept.
struct SpareRuns(Mutex<Vec<Run>>);

impl SpareRuns {
    /// Locks the runs.
    fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        // Runs are put and taken as a whole, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn take(&self, words: usize) -> Option<Run> {
        let mut spare = self.lock();
        let most = words.saturating_mul(ROOM_FACTOR_MAX);
        let fits = |run: &Run| (words..=most).contains(&run.words.hashes.capacity());
        let at = spare.iter().position(fits)?;
        Some(spare.remove(at))
    }

    fn keep(&self, mut run: Run) {
        if !(RUN_BYTES_MIN..=KEPT_BYTES_MAX / 4).contains(&run.heap_bytes()) {
            return;
        }
        run.clear();
        let mut spare = self.lock();
        let mut kept = run.heap_bytes() + spare.iter().map(Run::heap_bytes).sum::<usize>();
        spare.push(run);
        // The oldest were kept longest without a use.
        while kept > KEPT_BYTES_MAX {
            kept -= spare.remove(0).heap_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::WordColumn;
    use super::*;

    #[test]
    fn kept_runs_fit_and_have_a_limit() {
        let spare = SpareRuns(Mutex::default());
        let make = |words| Run::new(7, 1, WordColumn::with_room(words, 8 * words));
        let mut run = make(10_000);
        run.push(1, b"tide", 3);
        spare.keep(run);
        assert!(spare.take(10_001).is_none() && spare.take(2_499).is_none(), "small, large");
        let run = spare.take(2_500).expect("it is kept");
        assert!(run.is_empty() && run.words.bytes.is_empty() && spare.take(10_000).is_none());
        spare.keep(make(10));
        assert!(spare.lock().is_empty(), "not worth it");
        (0..100).for_each(|_| spare.keep(make(100_000)));
        let kept: usize = spare.lock().iter().map(Run::heap_bytes).sum();
        assert!(kept <= KEPT_BYTES_MAX && kept > KEPT_BYTES_MAX / 2);
        spare.keep(make(1 << 20));
        assert!(spare.take(1 << 20).is_none(), "larger than a quarter of all");
    }
}
