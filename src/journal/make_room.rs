//! Room on the disk for what is to be appended as a whole.

use super::FullCause;
use super::shared_state::{JournalShared, Spare};
use crate::error::Result;

impl JournalShared {
    /// Makes files until records with `bytes` bytes of Data fit into those at hand, beside the
    /// reserve. Returns why that cannot be.
    ///
    /// Fails with `Disk` if no file can be made for another reason than a full disk.
    pub fn make_room(&self, bytes: u64) -> Result<Option<FullCause>> {
        let mut ledger = self.ledger();
        if let Some(cause) = self.stock_reserve(&mut ledger)? {
            return Ok(Some(cause));
        }
        // The disk may have room again: it is asked below.
        ledger.disk_full = false;
        if self.free_in(&ledger, bytes) < bytes {
            return Ok(Some(FullCause::Cap));
        }
        let (least, mut next) = (self.budget.segment_bytes_min(), ledger.next_bytes);
        let before = ledger.spares.len();
        while self.free_at_hand(&ledger) < bytes {
            match self.make_file(&mut ledger, next)? {
                Ok(spare) => ledger.spares.push(spare),
                Err(_) if next > least => next = (next / 2).max(least),
                Err(cause) => {
                    // What a refused body would have taken is left to others: the output may be
                    // on the same disk.
                    for Spare { name, .. } in ledger.spares.split_off(before) {
                        let removed = self.disk.remove(&name);
                        removed.map_err(|error| self.poison("removing", &name, error))?;
                    }
                    ledger.settle();
                    return Ok(Some(cause));
                }
            }
        }
        Ok(None)
    }
}
