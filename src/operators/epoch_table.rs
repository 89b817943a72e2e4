//! The word table of an open epoch, and how tables drain into runs.

use std::mem;
use std::ops::Range;

use timely::container::NoopBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilderSession;

use super::columns::WordColumn;
use super::context::{Context, DataflowSettings};
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

    /// Returns the hashes that the words may have.
    fn hashes(&self) -> Range<u128>;

    /// Calls `emit(hash, word, count)` with every word once, ascending by (hash, word), and removes
    /// them.
    fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64));
}

impl Drain for &mut WordTable {
    fn distinct(&self) -> usize {
        self.len()
    }

    fn hashes(&self) -> Range<u128> {
        0..1 << 64
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

    fn hashes(&self) -> Range<u128> {
        self.ranges.hashes(self.share.clone())
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

/// Drains all ranges of this process if each worker's part of them is larger than a table may be.
pub fn send_if_large(
    ranges: &Ranges,
    capability: &Capability<Epoch>,
    context: &Context,
    output: &mut RunOutput<'_>,
) {
    let DataflowSettings { threads, table_bytes_max, .. } = context.settings;
    if ranges.heap_bytes() / threads > table_bytes_max {
        send_runs(RangeShare::all(ranges), capability, context, output);
    }
}

/// Returns the number of words that each owner is likely to have, of `distinct` words whose hashes
/// are in `hashes`.
fn rooms(distinct: usize, hashes: Range<u128>, settings: &DataflowSettings) -> Vec<usize> {
    let mut shares = vec![0; settings.owners];
    for part in 0..settings.parts {
        let first = |part: u32| ((part as u128) << 64).div_ceil(settings.parts as u128);
        let (from, to) = (first(part).max(hashes.start), first(part + 1).min(hashes.end));
        shares[settings.owner(part)] += to.saturating_sub(from);
    }
    let all = (hashes.end - hashes.start).max(1);
    let room = |share: u128| {
        let words = (distinct as u128 * (share >> 32) / (all >> 32).max(1)) as usize;
        // A little more than the likely number: a column that grows is moved or doubled.
        if share == all { distinct } else { words + words / 32 }
    };
    shares.into_iter().map(room).collect()
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
    let rooms = rooms(distinct, table.hashes(), &context.settings);
    let run = |owner: u32| {
        let room = rooms[owner as usize];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Ranging, WordOptions};

    #[test]
    fn rooms_follow_hashes_of_a_share() {
        let settings = |owners, parts| {
            let words = WordOptions::default();
            DataflowSettings {
                threads: 2,
                parts,
                owners,
                interval_ms: 1,
                words,
                table_bytes_max: 1,
            }
        };
        let of = |hashes, owners, parts| rooms(3200, hashes, &settings(owners, parts));
        let whole = 0..1 << 64;
        assert_eq!(of(whole.clone(), 1, 3), [3200]);
        assert_eq!(of(whole.clone(), 2, 2), [1650, 1650]);
        assert_eq!(of(whole.clone(), 3, 2), [1650, 1650, 0], "no part, no room");
        assert_eq!(of(whole, 2, 4), [1650, 1650]);
        let ranges = Ranges::new(Ranging::new(1), 0);
        let share = |worker| ranges.hashes(ranges.share(worker, 2));
        assert_eq!(of(share(0), 2, 2), [3200, 0]);
        assert_eq!(of(share(1), 2, 2), [0, 3200]);
        assert_eq!(of(share(1), 2, 1), [3200, 0]);
        assert_eq!(of(share(0), 2, 4), [1650, 1650]);
        let second = Ranges::new(Ranging::new(2), 1);
        assert_eq!(of(second.hashes(second.share(1, 2)), 4, 4), [0, 0, 0, 3200]);
        assert_eq!(of(7 << 56..7 << 56, 2, 2), [0, 0]);
    }
}
