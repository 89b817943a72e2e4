//! The word table of an open epoch, and how tables drain into runs.

use std::mem;
use std::ops::Range;

use timely::container::NoopBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilderSession, Session};

use super::columns::WordColumn;
use super::context::{Context, DataflowSettings};
use super::run::Run;
use super::spare_runs;
use crate::epoch::Epoch;
use crate::words::{self, DrainSink, Key, Ranges, WordTable};

/// Size in bytes at which a run to another process is sent: a quarter of timely's initial send
/// buffer, so that several runs fill one.
const REMOTE_RUN_BYTES: usize = 240 << 10;

/// The output of an operator that sends runs.
pub type RunOutput<'a> = OutputBuilderSession<'a, Epoch, NoopBuilder<Run>>;

/// A session of such an output at one epoch.
type RunSession<'a, 'b> = Session<'a, 'b, Epoch, NoopBuilder<Run>, Capability<Epoch>>;

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
    fn distinct(&mut self) -> usize;

    /// Returns the hashes that the words may have.
    fn hashes(&self) -> Range<u128>;

    /// Gives `to` every word once, ascending by (hash, word), and removes them.
    fn drain(&mut self, to: impl DrainSink);
}

impl Drain for &mut WordTable {
    fn distinct(&mut self) -> usize {
        self.settle_frequent();
        self.len()
    }

    fn hashes(&self) -> Range<u128> {
        0..1 << 64
    }

    fn drain(&mut self, to: impl DrainSink) {
        WordTable::drain_to(self, to);
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
    fn distinct(&mut self) -> usize {
        self.ranges.distinct(self.share.clone())
    }

    fn hashes(&self) -> Range<u128> {
        self.ranges.hashes(self.share.clone())
    }

    fn drain(&mut self, to: impl DrainSink) {
        self.ranges.drain_to(self.share.clone(), to);
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

/// Returns the least hash of `part` of `parts`; after the last part one more than there are.
fn first_hash(part: u32, parts: u32) -> u128 {
    (u128::from(part) << 64).div_ceil(parts.into())
}

/// Returns the number of words that each owner is likely to have, of `distinct` words whose hashes
/// are in `hashes`.
fn rooms(distinct: usize, hashes: Range<u128>, settings: &DataflowSettings) -> Vec<usize> {
    let mut shares = vec![0; settings.owners];
    for part in 0..settings.parts {
        let first = |part: u32| first_hash(part, settings.parts);
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
    let rooms = rooms(distinct, table.hashes(), &context.settings);
    let mut sender = RunSender {
        epoch: *capability.time(),
        runs: vec![None; rooms.len()],
        rooms,
        context,
        session: output.session_with_builder(capability),
        owner: 0,
        run: Run::default(),
        part_ends: 0,
        is_local: true,
    };
    table.drain(&mut sender);
    let RunSender { owner, run, mut runs, mut session, .. } = sender;
    runs[owner] = Some(run);
    let runs = runs.iter_mut().flatten().filter(|run| !run.is_empty());
    runs.for_each(|run| session.give_container(run));
}

/// Sends the words of a table that is drained. Words come in the order of parts, so the owner is
/// looked up only where a part begins.
struct RunSender<'a, 'b, 'c> {
    epoch: Epoch,
    /// Number of words that each owner is likely to have.
    rooms: Vec<usize>,
    context: &'c Context,
    session: RunSession<'a, 'b>,
    /// The runs of the other owners.
    runs: Vec<Option<Run>>,
    /// The owner of the part.
    owner: usize,
    /// The run of this owner.
    run: Run,
    /// The least hash of the next part. 0 before the first part is known.
    part_ends: u128,
    /// True if the owner is in this process.
    is_local: bool,
}

impl RunSender<'_, '_, '_> {
    /// Prepares for a word with this hash.
    #[inline(always)]
    fn turn_to(&mut self, hash: u64) {
        if u128::from(hash) >= self.part_ends {
            self.begin_part(hash);
        } else if !self.is_local && self.run.bytes() >= REMOTE_RUN_BYTES {
            let next = self.new_run();
            self.session.give_container(&mut mem::replace(&mut self.run, next));
        }
    }

    /// Turns to the owner of the part of this hash.
    #[cold]
    fn begin_part(&mut self, hash: u64) {
        let parts = self.context.settings.parts;
        let part = words::part(hash, parts);
        self.part_ends = first_hash(part + 1, parts);
        self.runs[self.owner] = Some(mem::take(&mut self.run));
        self.owner = self.context.owner(part);
        self.is_local = self.context.is_local(self.owner);
        // An empty run without memory is that of an owner that had no turn.
        let kept = self.runs[self.owner].take().filter(|run| run.heap_bytes() > 0);
        self.run = kept.unwrap_or_else(|| self.new_run());
    }

    /// Returns an empty run for the owner.
    fn new_run(&self) -> Run {
        let (room, owner) = (self.rooms[self.owner], self.owner as u32);
        if !self.is_local {
            let room = room.min(REMOTE_RUN_BYTES / 32);
            return Run::new(self.epoch, owner, WordColumn::with_room(room, 8 * room));
        }
        let make = || Run::new(self.epoch, owner, WordColumn::with_room(room, 8 * room));
        let run = spare_runs::take(room).unwrap_or_else(make);
        Run { epoch: self.epoch, worker: owner, ..run }
    }
}

impl DrainSink for &mut RunSender<'_, '_, '_> {
    #[inline(always)]
    fn short(&mut self, hash: u64, key: Key, count: u64) {
        self.turn_to(hash);
        self.run.push_short(hash, key, count as i64);
    }

    fn word(&mut self, hash: u64, word: &[u8], count: u64) {
        self.turn_to(hash);
        self.run.push(hash, word, count as i64);
    }
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

    #[test]
    fn table_of_frequent_words_alone_is_not_empty() {
        let (mut table, text) = (
            WordTable::default(),
            [
                b"the sea
",
                &[0; 64][..],
            ]
            .concat(),
        );
        let add = |table: &mut WordTable| {
            table.add_block(&text, 8, &WordOptions::default());
            Drain::distinct(&mut &mut *table)
        };
        assert_eq!(add(&mut table), 2);
        table.choose_frequent();
        table.drain(|_, _, _| ());
        assert_eq!(add(&mut table), 2);
        assert!(table.frequent().heap_bytes() > 0, "none was chosen");
    }
}
