//! The word table of an open epoch, and how it drains into runs.

use std::mem;

use timely::container::NoopBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;

use super::columns::WordColumn;
use super::context::Context;
use super::run::Run;
use crate::epoch::Epoch;
use crate::words::{self, WordTable};

/// Size in bytes at which a run to another process is sent: a quarter of timely's initial send
/// buffer, so that several runs fill one.
const REMOTE_RUN_BYTES: usize = 240 << 10;

/// The output of an operator that sends runs.
pub type RunOutput<'a> = OutputBuilderSession<'a, Epoch, NoopBuilder<Run>>;

/// The table of one open epoch, with the capability to send its runs.
pub struct OpenTable {
    /// Allows to send at the epoch.
    pub capability: Capability<Epoch>,
    /// The counted words.
    pub table: WordTable,
}

/// The last drained table, kept for the next epoch: a steady stream of epochs then allocates
/// nothing.
#[derive(Debug, Default)]
pub struct SpareTable {
    table: Option<WordTable>,
    /// The first open epoch that was seen last.
    first_open: Epoch,
    /// Number of epochs that have passed without a use of the table.
    unused_epochs: u32,
}

impl SpareTable {
    /// Number of epochs without words after which the memory is freed.
    const UNUSED_EPOCHS_MAX: u32 = 4;

    /// Returns the kept table, or a new one with `scale`.
    pub fn take(&mut self, scale: u32) -> WordTable {
        self.table.take().unwrap_or_else(|| WordTable::new(scale))
    }

    /// Keeps a drained table.
    pub fn keep(&mut self, table: WordTable) {
        self.table = Some(table);
        self.unused_epochs = 0;
    }

    /// Notes the first open epoch, and frees a table that was not used for some epochs.
    pub fn pass(&mut self, first_open: Option<&Epoch>) {
        if first_open.is_some_and(|first| *first > self.first_open) {
            self.first_open = first_open.copied().unwrap_or_default();
            self.unused_epochs += 1;
        }
        if first_open.is_none() || self.unused_epochs > SpareTable::UNUSED_EPOCHS_MAX {
            self.table = None;
        }
    }
}

impl OpenTable {
    /// Drains the table if it is larger than `Context::table_bytes_max`.
    pub fn drain_if_large(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        if self.table.heap_bytes() > context.settings.table_bytes_max {
            self.drain(context, output);
        }
    }

    /// Sends the words of the table and empties it.
    ///
    /// Each owner in this process receives one sorted run. Each owner elsewhere receives several,
    /// one after the other: timely keeps send buffers of the size of the largest message ever sent.
    pub fn drain(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        if self.table.is_empty() {
            return;
        }
        let epoch = *self.capability.time();
        // A little more than an equal share: a column that grows is moved or doubled.
        let share = self.table.len() / context.settings.owners;
        let room = if context.settings.owners == 1 { share } else { share + share / 32 };
        let run = |owner: u32| {
            let local = context.is_local(owner as usize);
            let room = if local { room } else { room.min(REMOTE_RUN_BYTES / 32) };
            Run::new(epoch, owner, WordColumn::with_room(room, 8 * room))
        };
        let mut runs: Vec<Run> = (0..context.settings.owners as u32).map(run).collect();
        let mut session = output.session_with_builder(&self.capability);
        // Words come in the order of parts, so a division is needed only where a part begins.
        let (mut part, mut owner) = (0, context.owner(0));
        self.table.drain(&mut |hash, word: &[u8], count| {
            let of = words::part(hash, context.settings.parts);
            if of != part {
                (part, owner) = (of, context.owner(of));
            }
            runs[owner].push(hash, word, count as i64);
            if runs[owner].bytes() >= REMOTE_RUN_BYTES && !context.is_local(owner) {
                session.give_container(&mut mem::replace(&mut runs[owner], run(owner as u32)));
            }
        });
        runs.iter_mut().filter(|run| !run.is_empty()).for_each(|run| session.give_container(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_table_is_freed_after_some_epochs() {
        let mut spare = SpareTable::default();
        spare.pass(Some(&10));
        for first_used in [10, 15] {
            spare.keep(WordTable::new(1));
            // The same epoch is seen any number of times.
            for epoch in [0, 1, 2, 3, 4, 4, 4] {
                spare.pass(Some(&(first_used + epoch)));
                assert!(spare.table.is_some(), "after {epoch} epochs");
            }
            spare.pass(Some(&(first_used + 5)));
            assert!(spare.table.is_none());
        }
        spare.keep(WordTable::new(1));
        spare.pass(None);
        assert!(spare.table.is_none(), "no epoch follows");
    }
}
