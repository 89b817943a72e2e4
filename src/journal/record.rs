//! The records of a journal.

use serde::{Deserialize, Serialize};

use crate::lines::{LinePart, SplitterState, StreamEnd};

/// Most bytes of the socket in one Data record.
pub const DATA_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of [`Resume::positions`].
pub const POSITIONS_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of the name of a producer.
pub const PRODUCER_NAME_BYTES_MAX: usize = 256;

/// The bit that the ids of *lasting* connections have: those of producers. They go on after a
/// crash or a stop, so recovery does not end them.
pub const LASTING: u64 = 1 << 63;
/// In a StreamEnd record: every connection that is not lasting.
pub const ALL_CONNECTIONS: u64 = u64::MAX;
/// In a state that an earlier version wrote: the connection whose record comes next.
pub const NEXT_CONNECTION: u64 = u64::MAX - 1;

/// A place in the record stream of one journal, in bytes of whole records since its beginning.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position(pub u64);

/// Where reading the log goes on after a cut, so that lines which were open at the cut come out
/// whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// First record to be read again; never after the cut.
    pub position: Position,
    /// The end of the records that were split into lines. Of the records before it, only Data of
    /// `connections` is needed again.
    pub split: Position,
    /// Records and bytes before `split`, which order the lines of the source.
    pub order: u64,
    /// The open connections whose splitter is not in its first state.
    pub connections: Vec<ConnectionState>,
    /// The positions of a source that can be read again, in its own encoding; else empty.
    pub positions: Vec<u8>,
    /// The producers that are known.
    pub producers: Vec<Producer>,
}

impl Resume {
    /// Goes on exactly at `position`, with fresh splitters.
    pub fn at(position: Position) -> Resume {
        Resume { position, split: position, ..Resume::default() }
    }
}

/// The state of one connection at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// The connection.
    pub connection: u64,
    /// The record with the first byte of its unfinished line, or the end of what was split.
    pub position: Position,
    /// Bytes of that record's Data which belong to lines that are done with.
    pub skip: u32,
    /// The state of its splitter.
    pub splitter: SplitterState,
}

impl ConnectionState {
    /// Returns true if a fresh splitter does the same: no line is unfinished.
    pub fn is_fresh(&self) -> bool {
        let SplitterState { unfinished_bytes, pending_cr, line_part, lines_owed, .. } =
            self.splitter;
        unfinished_bytes == 0 && !pending_cr && line_part == LinePart::Start && lines_owed == 0
    }
}

/// A sender whose bytes are numbered, so that it can send them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its name for itself, at most [`PRODUCER_NAME_BYTES_MAX`] bytes.
    pub name: Vec<u8>,
    /// Its lasting connection.
    pub connection: u64,
    /// The number of its next byte: so many are in the log.
    pub next: u64,
    /// The epoch that was open when it sent last.
    pub last_epoch: u64,
}

/// The end of an epoch: everything before `cut` that no earlier EpochEnd took belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch that ends.
    pub epoch: u64,
    /// The epoch to which the bytes after the cut belong at the earliest.
    pub next_epoch: u64,
    /// End of the last record that counts for `epoch`.
    pub cut: Position,
    /// Where a replay of the next epoch begins.
    pub resume: Resume,
}

/// All epochs up to `epoch` are committed; the log is needed from `resume` on only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitNote {
    /// The newest epoch that is committed.
    pub epoch: u64,
    /// Where a replay of the next epoch begins.
    pub resume: Resume,
}

/// One record as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Bytes as they came from the source.
    Data {
        /// The connection they came by.
        connection: u64,
        /// 1 to [`DATA_BYTES_MAX`] bytes.
        bytes: &'a [u8],
    },
    /// A connection has no more bytes.
    StreamEnd {
        /// The connection, or [`ALL_CONNECTIONS`].
        connection: u64,
        /// The way in which it ended.
        kind: StreamEnd,
    },
    /// The unfinished line of a connection kept so many bytes that it was cut there.
    LineCut {
        /// The connection whose line it is.
        connection: u64,
    },
    /// The first bytes of an unfinished line once more, so that the records which held them are
    /// not needed any more.
    Repeat {
        /// The connection whose line it is.
        connection: u64,
        /// The number of the first of these bytes in the stream of the connection.
        offset: u64,
        /// 1 to [`DATA_BYTES_MAX`] bytes.
        bytes: &'a [u8],
    },
    /// A lasting connection is that of this producer.
    Producer {
        /// The connection.
        connection: u64,
        /// The name of the producer.
        name: &'a [u8],
    },
    /// An epoch ends.
    EpochEnd {
        /// The contents of the record.
        end: EpochEnd,
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
        /// The EpochEnd before this one, so that recovery walks back from one to the other.
        previous: Option<Position>,
    },
    /// States how far the log was on disk, in a long epoch.
    Synced {
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
    },
    /// Epochs are committed.
    Committed {
        /// The contents of the record.
        note: CommitNote,
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
    },
}

impl Record<'_> {
    /// Returns the proof of durability that the record carries.
    pub fn synced_through(&self) -> Option<Position> {
        match self {
            Record::EpochEnd { synced_through, .. }
            | Record::Synced { synced_through }
            | Record::Committed { synced_through, .. } => Some(*synced_through),
            _ => None,
        }
    }
}

/// A record and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// First byte of the record.
    pub position: Position,
    /// First byte after it: the position of the next record.
    pub end: Position,
    /// The contents of the record.
    pub record: Record<'a>,
}
