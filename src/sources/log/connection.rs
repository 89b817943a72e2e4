//! One connection of a source log: its splitter, and where its unfinished line stands in the log.

use std::collections::VecDeque;

use crate::journal::{ConnectionState, Position};
use crate::lines::{Block, BlockPool, LineLimits, LineSplitter, LineStats, SplitterState};

/// More anchors than that and every second one goes: a resume may begin somewhat early.
const ANCHORS_MAX: usize = 1024;

/// An unfinished line up to this length is copied out of its buffer, at least where there are many.
const COPIED_BYTES_MAX: u64 = 64 << 10;

/// Least bytes of the buffer that a longer line stays in.
const BUFFER_BYTES_MIN: u64 = 256 << 10;

/// Returns the bytes of memory that an unfinished line of so many bytes holds at most. It depends
/// on nothing else, so that a replay comes to the same result.
fn line_memory(bytes: u64) -> usize {
    let held = if bytes > COPIED_BYTES_MAX { (2 * bytes).max(BUFFER_BYTES_MIN) } else { bytes };
    usize::try_from(held).unwrap_or(usize::MAX)
}

/// A connection whose bytes are being split.
#[derive(Debug)]
pub struct Connection {
    /// Splits the bytes of the connection.
    pub splitter: LineSplitter,
    /// The state after the last bytes that were handed over.
    state: SplitterState,
    /// Bytes split since the connection began.
    pub fed: u64,
    /// Offset and position of records that may hold the beginning of the unfinished line.
    anchors: VecDeque<(u64, Position)>,
    /// Bytes that were read and not handed over.
    pub pending: usize,
    /// The first record that is needed of a connection which a former run had open, and how many of
    /// its bytes are not.
    pub begin: Option<(Position, u64)>,
    /// Bytes of the line that was open where this began. They are fed before anything is taken.
    pub unfinished: u64,
    /// The part of the splitter's discards that was reported.
    pub reported: LineStats,
    /// Bytes of memory that the unfinished line is taken to hold: see [`line_memory`].
    pub held: usize,
}

impl Connection {
    /// A connection at its byte `offset`, with nothing unfinished.
    pub fn new(source: u32, limits: LineLimits, pool: BlockPool, offset: u64) -> Connection {
        let state = SplitterState { resume_offset: offset, ..SplitterState::default() };
        Connection::from_state(source, limits, pool, state)
    }

    /// A connection that goes on where a former run was at a cut.
    pub fn resume(
        source: u32,
        limits: LineLimits,
        pool: BlockPool,
        state: &ConnectionState,
    ) -> Connection {
        let begin = Some((state.position, u64::from(state.skip)));
        let unfinished = state.splitter.unfinished_bytes;
        let connection = Connection::from_state(source, limits, pool, state.splitter);
        Connection { begin, unfinished, ..connection }
    }

    /// Makes a connection that goes on where a record has left it.
    fn from_state(
        source: u32,
        limits: LineLimits,
        pool: BlockPool,
        state: SplitterState,
    ) -> Connection {
        Connection {
            splitter: LineSplitter::resume(source, limits, pool, state),
            state,
            fed: state.resume_offset,
            anchors: VecDeque::new(),
            pending: 0,
            begin: None,
            unfinished: 0,
            reported: LineStats::default(),
            held: line_memory(state.unfinished_bytes),
        }
    }

    /// Takes the lines that `fed` bytes in the record at `position` have ended; the first `skipped`
    /// bytes of the record had been split before.
    pub fn take(
        &mut self,
        position: Option<Position>,
        (skipped, fed): (u64, u64),
    ) -> Option<Block> {
        let was_open = self.unfinished > 0;
        self.unfinished = self.unfinished.saturating_sub(fed);
        let block = if was_open {
            // Nothing of it can have ended; and a connection that waits holds no room.
            self.splitter.release();
            None
        } else {
            self.splitter.take()
        };
        if let Some(position) = position {
            self.anchor(position, (skipped, fed));
        } else {
            self.fed += fed;
        }
        self.settle_state();
        block
    }

    /// Notes that the record at `position` holds the next `bytes` bytes, after `skipped` others.
    pub fn anchor(&mut self, position: Position, (skipped, bytes): (u64, u64)) {
        if self.anchors.len() >= ANCHORS_MAX {
            let mut at = 0;
            self.anchors.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
        if bytes > 0 {
            self.anchors.push_back((self.fed.saturating_sub(skipped), position));
        }
        self.fed += bytes;
    }

    /// Replaces the anchors: the unfinished line stands in these records, too.
    pub fn move_anchors(&mut self, anchors: VecDeque<(u64, Position)>) {
        self.anchors = anchors;
    }

    /// Takes over the splitter's state, after a record was dealt with.
    pub fn settle_state(&mut self) {
        self.state = self.splitter.state();
        let begins = self.state.resume_offset;
        while self.anchors.get(1).is_some_and(|(offset, _)| *offset <= begins) {
            self.anchors.pop_front();
        }
        if self.state.unfinished_bytes == 0 {
            self.anchors.clear();
        }
    }

    /// Takes over how much memory the unfinished line holds; returns by how much that has changed.
    /// A line of a former run, the bytes of which are not all here yet, holds what it held there.
    pub fn update_held(&mut self) -> isize {
        if self.unfinished > 0 {
            return 0;
        }
        let before = std::mem::replace(&mut self.held, line_memory(self.state.unfinished_bytes));
        self.held as isize - before as isize
    }

    /// Returns the first record that the unfinished line needs.
    pub fn first_record(&self) -> Option<Position> {
        self.anchors.front().map(|(_, position)| *position)
    }

    /// Returns the state after the last bytes that were handed over.
    pub fn splitter_state(&self) -> SplitterState {
        self.state
    }

    /// Returns the state at a cut, up to which the log was split through `split`.
    pub fn at_cut(&self, id: u64, split: Position) -> ConnectionState {
        let (position, skip) = match self.anchors.front() {
            Some((offset, position)) => {
                (*position, self.state.resume_offset.saturating_sub(*offset))
            }
            // What a former run left is not fed yet.
            None if self.unfinished > 0 => self.begin.unwrap_or((split, 0)),
            None => (split, 0),
        };
        ConnectionState { connection: id, position, skip: skip as u32, splitter: self.state }
    }
}
