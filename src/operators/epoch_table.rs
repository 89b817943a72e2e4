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
        self.table.drain(&mut |hash, word: &[u8], count| {
            let owner = context.owner(words::part(hash, context.settings.parts));
            runs[owner].push(hash, word, count as i64);
            if runs[owner].bytes() >= REMOTE_RUN_BYTES && !context.is_local(owner) {
                session.give_container(&mut mem::replace(&mut runs[owner], run(owner as u32)));
            }
        });
        runs.iter_mut().filter(|run| !run.is_empty()).for_each(|run| session.give_container(run));
    }
}
