//! Walks over the records of one segment, and looks for records after a bad one.

use std::io;
use std::sync::Arc;

use memchr::memmem;

use super::disk::File;
use super::record::{Entry, Position, Record};
use super::record_bytes::{
    self, CONTROL_MAX, CONTROL_SHORT, DATA, FRAME, Fault, PAYLOAD_MAX, TAG_START,
};
use super::segment::{HEADER, read_full};

/// Bytes read at a time; holds the longest record.
const WINDOW: usize = 512 * 1024;
/// A whole record always fits the window.
const _: () = assert!(WINDOW >= FRAME + PAYLOAD_MAX);

/// Bytes read at a time where most are stepped over; holds a frame and mostly its record.
const SKIM_WINDOW: usize = 4096;

/// The contents of a log at a position.
#[derive(Debug)]
pub enum Step<'a> {
    /// A whole record.
    Entry(Entry<'a>),
    /// The limit is reached.
    End,
    /// Bytes that are no record.
    Bad(Fault),
}

/// Reads the records of one segment in order, each verified.
#[derive(Debug)]
pub struct Cursor {
    /// The file of the segment.
    file: Arc<dyn File>,
    /// The seed of checksums, which the id of the journal gives.
    seed: u32,
    /// The position of the first byte of the segment in the log.
    base: u64,
    /// The position of the next record in the log.
    position: u64,
    /// The window into the file.
    buffer: Vec<u8>,
    /// The bytes from `position` on that are in `buffer`.
    at: usize,
    /// Bytes of the window that hold contents of the file.
    filled: usize,
}

impl Cursor {
    /// Returns a cursor at `from`, which reads whole windows.
    pub fn new(file: Arc<dyn File>, seed: u32, base: u64, from: u64) -> Cursor {
        Cursor::with_window(file, seed, base, from, WINDOW)
    }

    /// For one record without bytes of a sender: reads little more than that.
    pub fn for_control(file: Arc<dyn File>, seed: u32, base: u64, from: u64) -> Cursor {
        Cursor::with_window(file, seed, base, from, FRAME + CONTROL_SHORT)
    }

    /// Returns a cursor with a window of this size.
    fn with_window(file: Arc<dyn File>, seed: u32, base: u64, from: u64, window: usize) -> Cursor {
        Cursor { file, seed, base, position: from, buffer: vec![0; window], at: 0, filled: 0 }
    }

    /// Goes on in another segment, with the same buffer.
    pub fn enter(&mut self, file: Arc<dyn File>, base: u64, from: u64) {
        self.file = file;
        self.base = base;
        self.position = from;
        self.at = 0;
        self.filled = 0;
    }

    /// Returns the position of the next record.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the position of the first byte of the segment.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The record at the position, which must end at `limit` or before it. Stays where it is if
    /// there is none.
    pub fn next(&mut self, limit: u64) -> io::Result<Step<'_>> {
        let left = limit.saturating_sub(self.position);
        if left == 0 {
            return Ok(Step::End);
        }
        if left < FRAME as u64 {
            // No record fits: the end of a segment, unless something stands there.
            let whole = self.fill(left as usize, left, WINDOW)?;
            let rest = &self.buffer[self.at..self.filled];
            let clean = whole && rest.iter().all(|&b| b == 0);
            return Ok(Step::Bad(if clean { Fault::Empty } else { Fault::Missing }));
        }
        if !self.fill(FRAME, left, WINDOW)? {
            return Ok(Step::Bad(Fault::Missing));
        }
        let bytes = match record_bytes::measure(&self.frame(), left) {
            Ok(bytes) => bytes,
            Err(fault) => return Ok(Step::Bad(fault)),
        };
        if bytes > self.buffer.len() {
            self.buffer.resize(bytes, 0);
        }
        if !self.fill(bytes, left, WINDOW)? {
            return Ok(Step::Bad(Fault::Missing));
        }
        let whole = &self.buffer[self.at..self.at + bytes];
        match record_bytes::decode(self.seed, self.position, whole) {
            Ok(record) => {
                let position = Position(self.position);
                self.position += bytes as u64;
                self.at += bytes;
                Ok(Step::Entry(Entry { position, end: Position(self.position), record }))
            }
            Err(fault) => Ok(Step::Bad(fault)),
        }
    }

    /// As [`next`](Cursor::next), but steps over the bytes of Data without looking at them, where
    /// the record ends before `trusted`.
    pub fn skim(&mut self, limit: u64, trusted: u64) -> io::Result<Step<'_>> {
        /// Bytes that must be at hand to judge a record without its payload.
        const HEAD: usize = FRAME + 8;
        let left = limit.saturating_sub(self.position);
        if self.position >= trusted
            || left < HEAD as u64
            || !self.fill(HEAD, left, SKIM_WINDOW)?
            || self.frame()[4] != DATA
        {
            return self.next(limit);
        }
        let bytes = match record_bytes::measure(&self.frame(), left) {
            Ok(bytes) if bytes > HEAD && self.position + bytes as u64 <= trusted => bytes,
            _ => return self.next(limit),
        };
        let mut connection = [0; 8];
        connection.copy_from_slice(&self.buffer[self.at + FRAME..self.at + HEAD]);
        let connection = u64::from_le_bytes(connection);
        let position = Position(self.position);
        self.position += bytes as u64;
        self.at = (self.at + bytes).min(self.filled);
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
        }
        let record = Record::Data { connection, bytes: &[] };
        Ok(Step::Entry(Entry { position, end: Position(self.position), record }))
    }

    /// Returns the frame at the cursor.
    fn frame(&self) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame.copy_from_slice(&self.buffer[self.at..self.at + FRAME]);
        frame
    }

    /// Brings `want` bytes from the position on into the buffer, reading up to `window` bytes;
    /// `false` if the file ends before.
    fn fill(&mut self, want: usize, left: u64, window: usize) -> io::Result<bool> {
        let have = self.filled - self.at;
        if have >= want {
            return Ok(true);
        }
        self.buffer.copy_within(self.at..self.filled, 0);
        self.at = 0;
        self.filled = have;
        let end = self.buffer.len().min(left.min(window as u64) as usize);
        let offset = HEADER + (self.position - self.base) + have as u64;
        self.filled += read_full(&*self.file, offset, &mut self.buffer[have..end])?;
        Ok(self.filled >= want)
    }

    /// Steps over a record whose frame can be followed though its payload is bad; `None` if the
    /// next record does not follow it.
    pub fn hop(&mut self, limit: u64) -> io::Result<Option<u64>> {
        let (position, left) = (self.position, limit.saturating_sub(self.position));
        if left < FRAME as u64 || !self.fill(FRAME, left, WINDOW)? {
            return Ok(None);
        }
        let Ok(bytes) = record_bytes::measure(&self.frame(), left) else {
            return Ok(None);
        };
        let next = position + bytes as u64;
        let mut ahead = Cursor::new(Arc::clone(&self.file), self.seed, self.base, next);
        let follows = next == limit || matches!(ahead.next(limit)?, Step::Entry(_));
        Ok(follows.then_some(next))
    }
}

/// Calls `found` with each record without bytes of a sender that stands whole anywhere in
/// `from..limit` of a segment, some of them twice, and returns the end of the last byte there that
/// is not zero.
///
/// Data is not looked for: at its lengths a hostile sender could make the search quadratic.
pub fn scan_after(
    file: &dyn File,
    seed: u32,
    base: u64,
    from: u64,
    limit: u64,
    mut found: impl FnMut(u64, u64, Record<'_>),
) -> io::Result<u64> {
    /// A record that begins in one window and ends in the next is seen whole in one of them.
    const OVERLAP: usize = FRAME + CONTROL_MAX;
    let mut window = vec![0; WINDOW];
    let (mut start, mut used) = (from, from);
    while start < limit {
        let want = (limit - start).min(WINDOW as u64) as usize;
        let got = read_full(file, HEADER + (start - base), &mut window[..want])?;
        let bytes = &window[..got];
        if let Some(length) = length_without_zeros(bytes) {
            used = used.max(start + length as u64);
        }
        for tag in memmem::find_iter(bytes, TAG_START) {
            let Some(at) = tag.checked_sub(FRAME) else {
                continue;
            };
            let mut frame = [0; FRAME];
            frame.copy_from_slice(&bytes[at..tag]);
            let Ok(length) = record_bytes::measure(&frame, limit - start - at as u64) else {
                continue;
            };
            let position = start + at as u64;
            if !record_bytes::may_be_control(seed, position, &frame, &bytes[tag..]) {
                continue;
            }
            let whole = bytes.get(at..at + length.min(OVERLAP));
            if let Some(Ok(record)) = whole.map(|whole| record_bytes::decode(seed, position, whole))
            {
                found(position, position + length as u64, record);
            }
        }
        if got < WINDOW || start + got as u64 == limit {
            break;
        }
        start += (WINDOW - OVERLAP) as u64;
    }
    Ok(used)
}

/// Length up to the last byte that is not zero; whole blocks are compared, since most of a
/// preallocated segment is zeros and a restart waits for this.
fn length_without_zeros(bytes: &[u8]) -> Option<usize> {
    /// The contents of a preallocated file.
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(ZEROS.len());
        let block = &bytes[start..end];
        if *block != ZEROS[..block.len()] {
            return block.iter().rposition(|&b| b != 0).map(|at| start + at + 1);
        }
        end = start;
    }
    None
}

/// Returns the epochs to which bytes of `from..to` belong, by their ends `(epoch, cut)` in order of
/// the cuts, and true if bytes after the last end are among them.
pub fn affected(marks: &[(u64, u64)], from: u64, to: u64) -> (Vec<u64>, bool) {
    let mut start = 0;
    let mut epochs = Vec::new();
    for &(epoch, cut) in marks {
        if start < to && from < cut && start < cut {
            epochs.push(epoch);
        }
        start = cut;
    }
    (epochs, to > start)
}

/// As a reader of a message wants it.
pub fn name_epochs((epochs, open): (Vec<u64>, bool)) -> String {
    let mut names: Vec<String> = epochs.iter().map(u64::to_string).collect();
    if open {
        names.push("the one not yet marked".to_owned());
    }
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_belong_to_epochs_around_them() {
        let marks = [(10, 100), (20, 100), (30, 250)];
        assert_eq!(affected(&marks, 0, 1), (vec![10], false));
        assert_eq!(affected(&marks, 99, 101), (vec![10, 30], false));
        assert_eq!(affected(&marks, 240, 300), (vec![30], true));
        assert_eq!(affected(&[], 5, 6), (vec![], true));
    }

    #[test]
    fn zeros_at_the_end_are_not_counted() {
        let mut bytes = vec![0; 10_000];
        assert_eq!(length_without_zeros(&bytes), None);
        bytes[5_000] = 1;
        assert_eq!(length_without_zeros(&bytes), Some(5_001));
        bytes[9_999] = 1;
        assert_eq!(length_without_zeros(&bytes), Some(10_000));
    }
}
