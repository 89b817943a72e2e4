//! A drained table, kept for the next epoch.

use crate::epoch::Epoch;

/// The last drained table, kept for the next epoch: a steady stream of epochs then allocates
/// nothing.
#[derive(Debug)]
pub struct Spare<T> {
    table: Option<T>,
    /// The first open epoch that was seen last.
    first_open: Epoch,
    /// Number of epochs that have passed without a use of the table.
    unused_epochs: u32,
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Spare { table: None, first_open: Epoch::default(), unused_epochs: 0 }
    }
}

impl<T> Spare<T> {
    /// Number of epochs without words after which the memory is freed.
    const UNUSED_EPOCHS_MAX: u32 = 4;

    /// Returns the kept table, if there is one.
    pub fn take(&mut self) -> Option<T> {
        self.table.take()
    }

    /// Returns true if a table is kept.
    pub fn has(&self) -> bool {
        self.table.is_some()
    }

    /// Keeps a drained table.
    pub fn keep(&mut self, table: T) {
        self.table = Some(table);
        self.unused_epochs = 0;
    }

    /// Notes the first open epoch, and frees a table that was not used for some epochs.
    pub fn pass(&mut self, first_open: Option<&Epoch>) {
        if first_open.is_some_and(|first| *first > self.first_open) {
            self.first_open = first_open.copied().unwrap_or_default();
            self.unused_epochs += 1;
        }
        if first_open.is_none() || self.unused_epochs > Self::UNUSED_EPOCHS_MAX {
            self.table = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::WordTable;

    #[test]
    fn unused_table_is_freed_after_some_epochs() {
        let mut spare = Spare::default();
        spare.pass(Some(&10));
        for first_used in [10, 15] {
            spare.keep(WordTable::default());
            // The same epoch is seen any number of times.
            for epoch in [0, 1, 2, 3, 4, 4, 4] {
                spare.pass(Some(&(first_used + epoch)));
                assert!(spare.table.is_some(), "after {epoch} epochs");
            }
            spare.pass(Some(&(first_used + 5)));
            assert!(spare.table.is_none());
        }
        spare.keep(WordTable::default());
        spare.pass(None);
        assert!(spare.table.is_none(), "no epoch follows");
    }
}
