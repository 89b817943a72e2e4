//! Reading the log back, while it is being written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::record::{Entry, Position};
use super::record_bytes::Fault;
use super::scan_segment::{self, Cursor, Step};
use super::segment;
use super::shared_state::JournalShared;
use crate::error::{Error, ErrorKind, Result};

/// Yields the records from a position on, in order, each verified, up to the tail and further as it
/// grows. Its buffer is its only memory: half a megabyte.
#[derive(Debug)]
pub struct Reader {
    /// The state of the journal.
    shared: Arc<JournalShared>,
    /// The position of the next record.
    position: u64,
    /// Up to where `cursor` may read without looking anew.
    limit: u64,
    /// The open segment; `None` before the first read and between two segments.
    cursor: Option<Cursor>,
}

impl Reader {
    /// Returns a reader of the records from `from` on.
    pub(crate) fn new(shared: Arc<JournalShared>, from: Position) -> Reader {
        shared.readers.fetch_add(1, Ordering::Relaxed);
        Reader { shared, position: from.0, limit: from.0, cursor: None }
    }

    /// The next record, `None` at the tail: there may be more later.
    ///
    /// # Errors
    /// `Disk` if the disk failed or the record is damaged, naming the file, the offset in it and
    /// the epochs affected; `Failed` if the position lies in a segment that is deleted.
    #[allow(clippy::should_implement_trait, reason = "an entry borrows the reader's buffer")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>> {
        if self.position >= self.limit && !self.advance()? {
            return Ok(None);
        }
        let Some(cursor) = self.cursor.as_mut() else {
            return Ok(None);
        };
        let base = cursor.base();
        match cursor.next(self.limit) {
            Ok(Step::Entry(entry)) => {
                self.position = entry.end.0;
                Ok(Some(entry))
            }
            Ok(Step::End) => Ok(None),
            Ok(Step::Bad(fault)) => Err(damage(&self.shared, base, self.position, fault)),
            Err(error) => Err(self.shared.poison("reading", &segment::name(base), error)),
        }
    }

    /// The position of the record that comes next.
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Goes on at another record: what the feeder saw in memory need not be read back.
    pub fn seek(&mut self, position: Position) {
        self.position = position.0;
        self.limit = position.0;
        self.cursor = None;
    }

    /// Looks how far the log reaches by now; `false` at its tail.
    fn advance(&mut self) -> Result<bool> {
        let appended = self.shared.appended.load(Ordering::Acquire);
        if self.position >= appended {
            return Ok(false);
        }
        let Some((found, next)) = self.shared.ledger().segment_at(self.position) else {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("journal position {} is deleted", self.position),
            ));
        };
        self.limit = appended.min(next.unwrap_or(u64::MAX));
        if self.cursor.as_ref().is_some_and(|cursor| cursor.base() == found.base) {
            return Ok(true);
        }
        let name = segment::name(found.base);
        let file = match found.file {
            Some(file) => file,
            None => (self.shared.disk.open(&name))
                .map_err(|error| self.shared.poison("opening", &name, error))?,
        };
        match &mut self.cursor {
            Some(cursor) => cursor.enter(file, found.base, self.position),
            None => {
                let seed = self.shared.seed;
                self.cursor = Some(Cursor::new(file, seed, found.base, self.position));
            }
        }
        Ok(true)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything below the tail was whole once, so a bad record is damage.
fn damage(shared: &JournalShared, base: u64, position: u64, fault: Fault) -> Error {
    let marks: Vec<(u64, u64)> = {
        let ledger = shared.ledger();
        ledger.epoch_ends.iter().map(|end| (end.epoch, end.cut.0)).collect()
    };
    let name = segment::name(base);
    let epochs = scan_segment::name_epochs(scan_segment::affected(&marks, position, position + 1));
    damage_error(&shared.disk.place(&name), base, position, fault, &epochs)
        .hint(damage_hint(&segment::id_digits(shared.id)))
}

/// The error of a record that was on disk and is not any more what it was.
pub fn damage_error(place: &str, base: u64, position: u64, fault: Fault, epochs: &str) -> Error {
    Error::new(
        ErrorKind::Disk,
        format!(
            "journal {place} is damaged at byte {}: {} at position {position}; \
             epochs affected: {epochs}",
            segment::HEADER + position.saturating_sub(base),
            fault.as_str(),
        ),
    )
    .hint("look at the disk, then see `wordtide journal check` and --abandon-journal")
}

/// Returns the hint for a damaged journal whose `id` is known, in hexadecimal digits.
pub fn damage_hint(id: &str) -> String {
    format!(
        "look at the disk and at `wordtide journal check`; --abandon-journal {id} sets this \
         journal aside and starts without its lines"
    )
}
