//! The word table of an open epoch, and how tables drain into runs.

use std::mem;
use std::ops::Range;

use timely::container::NoopBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;

use super::columns::WordColumn;
use super::context::Context;
use super::run::Run;
use crate::epoch::Epoch;
use crate::words::{self, Ranges, WordTable};

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

/// Words with their counts, to be sent as runs.
pub trait Drain {
    /// Returns the number of distinct words.
    fn distinct(&self) -> usize;

    /// Calls `emit(hash, word, count)` with every word once, ascending by (hash, word), and removes
    /// them.
    fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64));
}

impl Drain for &mut WordTable {
    fn distinct(&self) -> usize {
        self.len()
    }

    fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64)) {
        WordTable::drain(self, emit);
    }
}

/// Some of the ranges of a process.
#[derive(Debug)]
pub struct RangeShare<'a> {
    ranges: &'a Ranges,
    share: Range<usize>,
}

impl<'a> RangeShare<'a> {
    /// Returns the ranges that this worker drains at the end of an epoch.
    pub fn of_worker(ranges: &'a Ranges, context: &Context) -> RangeShare<'a> {
        let threads = context.settings.threads;
        RangeShare { ranges, share: ranges.share(context.index % threads, threads) }
    }

    /// Returns all ranges.
    pub fn all(ranges: &'a Ranges) -> RangeShare<'a> {
        RangeShare { ranges, share: ranges.share(0, 1) }
    }
}

impl Drain for RangeShare<'_> {
    fn distinct(&self) -> usize {
        self.ranges.distinct(self.share.clone())
    }

    fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64)) {
        self.ranges.drain(self.share.clone(), emit);
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
    pub fn drain(&mut self, context: &Context, output: &mut RunOutput<'_>) {
        send_runs(&mut self.table, &self.capability, context, output);
    }
}

/// Sends the words of a table and empties it.
///
/// Each owner in this process receives one sorted run. Each owner elsewhere receives several, one
/// after the other: timely keeps send buffers of the size of the largest message ever sent.
pub fn send_runs(
    mut table: impl Drain,
    capability: &Capability<Epoch>,
    context: &Context,
    output: &mut RunOutput<'_>,
) {
    let distinct = table.distinct();
    if distinct == 0 {
        return;
    }
    let epoch = *capability.time();
    // A little more than an equal share: a column that grows is moved or doubled.
    let share = distinct / context.settings.owners;
    let room = if context.settings.owners == 1 { share } else { share + share / 32 };
    let run = |owner: u32| {
        let local = context.is_local(owner as usize);
        let room = if local { room } else { room.min(REMOTE_RUN_BYTES / 32) };
        Run::new(epoch, owner, WordColumn::with_room(room, 8 * room))
    };
    let mut runs: Vec<Run> = (0..context.settings.owners as u32).map(run).collect();
    let mut session = output.session_with_builder(capability);
    // Words come in the order of parts, so a division is needed only where a part begins.
    let (mut part, mut owner) = (0, context.owner(0));
    table.drain(|hash, word: &[u8], count| {
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
