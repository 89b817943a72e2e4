//! The bytes on disk that the journals of one process may hold together.
//!
//! Half of the limit is divided: each journal has a *share*, which no other can take, so that each
//! can always hold an unfinished line and go on. The other half belongs to those that need it. A
//! journal that is alone has all of it as its share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wait_for_room::Gate;
use super::{JournalSettings, SEGMENTS_MIN, record_bytes, segment};
use crate::error::{Error, ErrorKind, Result};

/// Longest segment file.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Records are made shorter for many journals, down to this.
const RECORD_BYTES_MIN: usize = 16 << 10;

/// The bytes on disk that the journals of one process may hold together. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The state that the journals share.
    shared: Arc<BudgetState>,
}

#[derive(Debug)]
struct BudgetState {
    /// Bytes that each journal can count on.
    share: u64,
    /// Bytes beside the shares.
    common: u64,
    /// Longest Data record that fits a share.
    record_bytes_max: usize,
    /// Bytes that journals hold beyond their shares.
    borrowed: Mutex<u64>,
    /// Wakes writers that wait for bytes.
    gate: Gate,
}

/// A journal's part of what is borrowed beyond the shares; dropping it gives that back.
#[derive(Debug)]
pub struct Account {
    /// The budget that the account is of.
    budget: Budget,
    /// Bytes above the share.
    borrowed: u64,
}

impl Budget {
    /// A budget of `settings.journal_bytes_max` bytes for so many journals.
    ///
    /// # Errors
    /// `Usage` if the shares could not hold the least that a journal needs.
    pub fn new(settings: &JournalSettings, journals: usize) -> Result<Budget> {
        let bytes_max = settings.journal_bytes_max;
        let journals = journals.max(1) as u64;
        let (half, whole) = (bytes_max / (2 * journals), bytes_max / journals);
        let mut record_bytes_max = settings.record_bytes_max;
        while journals > 1
            && whole < share_min(record_bytes_max)
            && record_bytes_max > RECORD_BYTES_MIN
        {
            record_bytes_max = (record_bytes_max / 2).max(RECORD_BYTES_MIN);
        }
        let least = share_min(record_bytes_max);
        if whole < least {
            let of = if journals > 1 { format!(" for {journals} sources") } else { String::new() };
            return Err(Error::new(
                ErrorKind::Usage,
                format!("a journal of {bytes_max} bytes is too small{of}"),
            )
            .hint(format!("give --journal-max at least {}", journals * least)));
        }
        let share = if journals == 1 || half < least { whole } else { half };
        Ok(Budget {
            shared: Arc::new(BudgetState {
                share,
                common: bytes_max - journals * share,
                record_bytes_max,
                borrowed: Mutex::new(0),
                gate: Gate::default(),
            }),
        })
    }

    /// Most bytes of one append.
    pub fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max
    }

    /// Length of the longest segment file.
    pub fn segment_bytes_max(&self) -> u64 {
        (self.shared.share / SEGMENTS_MIN).min(SEGMENT_BYTES_MAX)
    }

    /// Length of the first segment file and of the reserve: a quiet source takes twice this.
    pub fn segment_bytes_min(&self) -> u64 {
        let least = share_min(self.shared.record_bytes_max) / SEGMENTS_MIN;
        least.next_power_of_two().min(self.segment_bytes_max())
    }

    /// Most bytes of records that an unfinished line may keep in a journal. With the segments that
    /// these begin and end in, the one written to and the reserve it stays within a share.
    pub fn line_bytes_max(&self) -> u64 {
        self.shared.share / 2
    }

    /// Where the writers of full journals wait.
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// An account that holds nothing.
    pub fn account(&self) -> Account {
        Account { budget: self.clone(), borrowed: 0 }
    }

    /// Locks the number of borrowed bytes.
    fn borrowed(&self) -> MutexGuard<'_, u64> {
        // A number is whole whatever its last user did.
        self.shared.borrowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Bytes that a journal which holds `held` bytes may still take.
    pub fn left(&self, held: u64) -> u64 {
        let shared = &self.budget.shared;
        let common = shared.common.saturating_sub(*self.budget.borrowed());
        // What is held beyond the share is borrowed already.
        shared.share.saturating_sub(held) + common
    }

    /// Notes that the journal now holds `held` bytes, allowed or not.
    pub fn settle(&mut self, held: u64) {
        let borrowed = held.saturating_sub(self.budget.shared.share);
        let mut sum = self.budget.borrowed();
        *sum = *sum - self.borrowed + borrowed;
        self.borrowed = borrowed;
    }

    /// Takes `bytes` more for a journal that holds `held` bytes; false if they are not left.
    pub fn take(&mut self, held: u64, bytes: u64) -> bool {
        let shared = &self.budget.shared;
        let borrowed = (held + bytes).saturating_sub(shared.share);
        let mut sum = self.budget.borrowed();
        let next = *sum - self.borrowed + borrowed;
        let is_left = next <= shared.common || borrowed == 0;
        if is_left {
            *sum = next;
            self.borrowed = borrowed;
        }
        is_left
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        *self.budget.borrowed() -= self.borrowed;
    }
}

/// The least share with which a journal works: a segment holds two of the longest records.
fn share_min(record_bytes_max: usize) -> u64 {
    let longest =
        (record_bytes::FRAME + 8 + record_bytes_max).max(record_bytes::CONTROL_SHORT) as u64;
    SEGMENTS_MIN * (segment::HEADER + 2 * longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(journal_bytes_max: u64) -> JournalSettings {
        JournalSettings { journal_bytes_max, ..JournalSettings::default() }
    }

    #[test]
    fn share_stays_free_when_half_is_taken() {
        let budget = Budget::new(&settings(80 << 20), 4).expect("enough");
        let mut greedy = budget.account();
        let mut held = 0;
        while greedy.take(held, 1 << 20) {
            held += 1 << 20;
        }
        assert_eq!(held, 50 << 20, "its own tenth of the half and the other half");
        let mut modest = budget.account();
        assert!(modest.take(0, 10 << 20) && !modest.take(10 << 20, 1));
        greedy.settle(49 << 20);
        assert_eq!(modest.left(10 << 20), 1 << 20);
        drop(greedy);
        assert_eq!(modest.left(10 << 20), 40 << 20);
    }

    #[test]
    fn default_limit_serves_thousands_of_sources() {
        let default = JournalSettings::default();
        for journals in [1, 2, 230, 1_000, 5_000, 10_000] {
            let budget = Budget::new(&default, journals).expect("it fits");
            let least = 2 * (segment::HEADER + budget.record_bytes_max() as u64);
            assert!(budget.segment_bytes_max() >= least && budget.segment_bytes_min() >= least);
        }
        let error = Budget::new(&default, 1_000_000).expect_err("too many");
        assert!(error.to_string().contains("--journal-max at least"), "{error}");
    }
}
