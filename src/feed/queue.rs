//! Blocks by epoch.

use std::collections::{BTreeMap, VecDeque};

use crate::epoch::Epoch;
use crate::lines::Block;

/// Blocks that wait, the lowest epoch first, within it in order.
#[derive(Default)]
pub struct Queue {
    /// No queue is empty.
    by_epoch: BTreeMap<Epoch, VecDeque<Block>>,
    /// Number of blocks in all epochs.
    len: usize,
}

impl Queue {
    /// Returns the number of blocks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the oldest epoch that has blocks.
    pub fn lowest(&self) -> Option<Epoch> {
        self.by_epoch.keys().next().copied()
    }

    /// Adds a block after those of its epoch.
    pub fn push(&mut self, epoch: Epoch, block: Block) {
        self.by_epoch.entry(epoch).or_default().push_back(block);
        self.len += 1;
    }

    /// Removes the first block of the oldest epoch.
    pub fn pop(&mut self) -> Option<(Epoch, Block)> {
        let mut lowest = self.by_epoch.first_entry()?;
        let (epoch, block) = (*lowest.key(), lowest.get_mut().pop_front()?);
        if lowest.get().is_empty() {
            lowest.remove();
        }
        self.len -= 1;
        Some((epoch, block))
    }
}
