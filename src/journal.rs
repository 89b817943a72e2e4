//! The journal: a local log, so that every byte that was read is counted exactly once.
//!
//! A socket cannot be read twice. So a source appends what it reads to this log, and all lines come
//! out of the log: a replay after a crash runs the same code as a normal run. An epoch is closed by
//! an EpochEnd record, whose *cut* is a position in the log. Nothing of an epoch is published
//! before the `fdatasync` that covers its EpochEnd ([`Syncer::sync`]). A Committed record states
//! which epochs are published; segments wholly before it are released.
//!
//! ```text
//! STATE/<source id>/lock                        flock: one process owns a journal
//!                   00000000000000000000.wtj    segments, named by their first position:
//!                   00000000000067104768.wtj    header (4 KiB), then records, preallocated
//!                   spare-2                     the reserve, so that an EpochEnd always has room,
//!                                               and files of released segments
//! ```
//!
//! **Order.** Data and StreamEnd are appended as they come. EpochEnd(e) is appended, then synced,
//! then the frontier may pass e. Parts and marker of e are stored, then Committed(e) is appended
//! and synced, then segments before its resume position are emptied and become spares, or are
//! deleted if there are enough. The caller gives the resume position with the EpochEnd: the cut, or
//! the start of a line that was open there.
//!
//! **Torn or damaged.** EpochEnd, Synced and Committed records and the header of each segment state
//! `synced_through`: how far the log was on disk when they were written. A bad record after all of
//! these positions is a torn tail, which a crash may leave: it is cut off. A bad record before one
//! of them is damage: the disk lost what it had synced. Then the journal does not open
//! ([`ErrorKind::Disk`](crate::ErrorKind)), and the error names the place and the epochs. A segment
//! that is shorter than its header states is damage, too: only one that was never synced may have
//! lost its length with the power.
//!
//! **A restart takes the same time whatever the log holds.** A header states the log's state at the
//! beginning of its segment, and EpochEnds are chained. Opening reads the header of the last
//! segment, steps over the records from the segment in which its `synced_through` lies, verifies
//! those after the last `synced_through` (about a second of reading), and walks the chain of the
//! EpochEnds that are not committed. All bytes before were synced once; they are verified when they
//! are replayed.
//!
//! **Full** is an answer and no error: the source stops reading and waits for [`Room`], while
//! EpochEnd, Synced and Committed records go into the reserve. An error of the disk is final and is
//! not tried again: a second `fdatasync` may succeed without having written what the first one
//! lost.

mod append_records;
mod disk;
mod disk_budget;
mod dump_and_check;
mod fields;
mod group_sync;
mod make_room;
mod measure_usage;
mod open_journal;
mod page_cache;
mod read_back;
mod record;
mod record_bytes;
mod recover;
mod remove_journal;
mod resume_bytes;
mod scan_segment;
mod segment;
mod segment_files;
mod shared_state;
mod summary;
mod wait_for_room;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod model_disk;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use append_records::Journal;
pub use disk::{Disk, File};
pub use disk_budget::Budget;
pub use dump_and_check::{FOLDER_HINT, check, dump};
pub use group_sync::{Durable, Syncer};
pub use measure_usage::{JournalUsage, usage};
pub use read_back::{Reader, damage_hint};
pub use record::{
    ALL_CONNECTIONS, ConnectionState, DATA_BYTES_MAX, EpochEnd, LASTING, NEXT_CONNECTION,
    PRODUCER_NAME_BYTES_MAX, Position, Producer, Record, Resume,
};
#[cfg(any(test, feature = "internals"))]
pub use record::{Entry, POSITIONS_BYTES_MAX};
#[cfg(feature = "internals")]
pub use recover::Recovery;
pub use remove_journal::{CLOSED, put_away};
pub use segment::{Facts, id_digits};
pub use shared_state::Room;
pub use summary::{JournalSummary, peek};

use crate::error::{Error, ErrorKind, Result};

/// When bytes are forced to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncPolicy {
    /// Before anything of an epoch is published, and every [`JournalSettings::sync_every`]: power
    /// loss loses at most what arrived in that time.
    #[default]
    Epoch,
    /// At every append: power loss loses nothing that was read.
    Always,
    /// When a segment is full only. A crash of the program still loses nothing; power loss may lose
    /// an epoch that was published, which is then published twice under two names.
    Never,
}

/// Limits and habits of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalSettings {
    /// Most bytes of files, the reserve among them; segments kept by `keep_journal` are not
    /// counted. A line that is open at a cut is held as a whole: the cap has to be well above the
    /// line limit.
    pub journal_bytes_max: u64,
    /// When bytes are forced to disk.
    pub sync: SyncPolicy,
    /// How long a byte that was read may wait to be on disk: `--sync-every`, from 10 ms to 1 h.
    pub sync_every: Duration,
    /// Keeps the segments that are done, for `wordtide replay`.
    pub keep_journal: bool,
    /// Most bytes of one append, at most 256 KiB.
    pub record_bytes_max: usize,
}

impl Default for JournalSettings {
    fn default() -> Self {
        JournalSettings {
            journal_bytes_max: 4 << 30,
            sync: SyncPolicy::Epoch,
            sync_every: Duration::from_secs(1),
            keep_journal: false,
            record_bytes_max: DATA_BYTES_MAX,
        }
    }
}

/// Shortest and longest [`JournalSettings::sync_every`].
const SYNC_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3600));
/// Segments that a journal's share of the limit holds at least.
const SEGMENTS_MIN: u64 = 8;

impl JournalSettings {
    /// # Errors
    /// `Usage` if a segment could not hold two of the longest records, a record is beyond the
    /// limit, or the time between syncs is.
    pub fn validate(&self) -> Result<()> {
        let (least, most) = SYNC_EVERY;
        if self.sync_every < least || self.sync_every > most {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("a sync every {:?} is out of range", self.sync_every),
            )
            .hint("give --sync-every from 10ms to 1h"));
        }
        if self.record_bytes_max == 0 || self.record_bytes_max > DATA_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("journal records of {} bytes", self.record_bytes_max),
            )
            .hint(format!("give 1 to {DATA_BYTES_MAX}")));
        }
        Budget::new(self, 1).map(drop)
    }
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a full journal has not taken the record"]
pub enum Append {
    /// The record is in the log, safe from a crash of the program.
    Stored {
        /// Its first byte.
        position: Position,
        /// The position of the next record.
        end: Position,
    },
    /// Nothing was written: wait for room and append again.
    Full(Full),
}

/// The reason for which a journal took nothing, and the ticket to wait with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The limit that is reached.
    pub cause: FullCause,
    /// The state of the gate when the journal was found full.
    pub(crate) ticket: Ticket,
}

/// The cause of a full journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FullCause {
    /// `--journal-max` is reached: room comes when an epoch is committed.
    Cap,
    /// The disk is full: room comes when other files go, or an epoch is committed.
    Disk,
}

/// The moment at which a journal was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);
