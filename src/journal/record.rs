//! Records: what they say.

use serde::{Deserialize, Serialize};

/// Most bytes of the socket in one DATA record.
pub const DATA_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of splitter state in a MARK.
pub const SPLITTER_BYTES_MAX: usize = 1024;

/// A place in the record stream of one journal, in bytes of whole records since its beginning.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position(pub u64);

/// Why a connection's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EosKind {
    /// The sender closed in order: a partial line is a line.
    Fin,
    /// The connection was reset: the uncut rest is dropped.
    Reset,
    /// This program stopped: a partial line is a line.
    Stop,
    /// This program died; recovery wrote the record. A partial line is a line.
    Crash,
}

/// Where reading the log goes on after a cut, so that lines which were open at the cut come out
/// whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// First record to be read again; never behind the cut.
    pub position: Position,
    /// Bytes of that record's DATA which belong to lines that are done with.
    pub skip: u32,
    /// The splitter's own state at that byte: opaque here, at most [`SPLITTER_BYTES_MAX`] bytes.
    pub splitter: Vec<u8>,
}

impl Resume {
    /// Goes on exactly at `position`, with a fresh splitter.
    pub fn at(position: Position) -> Resume {
        Resume { position, ..Resume::default() }
    }
}

/// How far a source that can be read again was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOffset {
    /// First byte that was not read, with [`SourceOffset::ENDED`] if the source ended there.
    pub offset: u64,
    /// A hash of what lies before it, so that another file under the same name is noticed.
    pub fingerprint: u64,
}

impl SourceOffset {
    /// Set in the offset of a source whose end was taken: its unfinished last line has become a
    /// line.
    pub const ENDED: u64 = 1 << 63;

    /// Bytes that were read.
    pub fn bytes(self) -> u64 {
        self.offset & !Self::ENDED
    }

    /// Returns true if the source ended there.
    pub fn is_end(self) -> bool {
        self.offset & Self::ENDED != 0
    }
}

/// The end of an epoch: everything before `cut` that no earlier mark took belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The epoch that ends.
    pub epoch: u64,
    /// The epoch to which the bytes behind the cut belong at the earliest.
    pub next_epoch: u64,
    /// End of the last record that counts for `epoch`.
    pub cut: Position,
    /// Where a replay of the next epoch begins.
    pub resume: Resume,
    /// For a source that can be read again.
    pub source: Option<SourceOffset>,
}

/// All epochs up to `epoch` are committed; the log is needed from `resume` on only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The newest epoch that is committed.
    pub epoch: u64,
    /// Where a replay of the next epoch begins.
    pub resume: Resume,
    /// For a source that can be read again.
    pub source: Option<SourceOffset>,
}

/// One record as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Bytes as they came from the socket.
    Data {
        /// The connection they came by.
        connection: u64,
        /// 1 to [`DATA_BYTES_MAX`] bytes.
        bytes: &'a [u8],
    },
    /// A connection has no more bytes.
    Eos {
        /// Which connection.
        connection: u64,
        /// Why.
        kind: EosKind,
    },
    /// The unfinished line of a connection kept so many bytes that it was cut there.
    LineCut {
        /// The connection whose line it is.
        connection: u64,
    },
    /// An epoch ends.
    Mark {
        /// The contents of the record.
        mark: Mark,
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
        /// The MARK before this one, so that recovery walks back from mark to mark.
        previous: Option<Position>,
    },
    /// Tells how far the log was on disk, in a long epoch.
    Sync {
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
    },
    /// Epochs are committed.
    Done {
        /// The contents of the record.
        done: Done,
        /// Everything before this position was on disk when the record was written.
        synced_through: Position,
    },
}

impl Record<'_> {
    /// The proof of durability that the record carries.
    pub fn synced_through(&self) -> Option<Position> {
        match self {
            Record::Mark { synced_through, .. }
            | Record::Sync { synced_through }
            | Record::Done { synced_through, .. } => Some(*synced_through),
            Record::Data { .. } | Record::Eos { .. } | Record::LineCut { .. } => None,
        }
    }
}

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// First byte of the record.
    pub position: Position,
    /// First byte behind it: the position of the next record.
    pub end: Position,
    /// The contents of the record.
    pub record: Record<'a>,
}
