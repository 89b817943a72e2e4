//! The segment that is appended to, and what is cleared in it ahead of the tail.

use std::sync::Arc;

use super::disk::File;
use super::record_bytes::FRAME;
use super::segment::HEADER;
use super::shared_state::Spare;

/// The segment that is written to.
#[derive(Debug)]
pub struct Active {
    /// The file of the segment.
    pub file: Arc<dyn File>,
    /// The position of its first byte in the log.
    pub base: u64,
    /// First position that is not in it.
    pub end: u64,
    /// The offset in the file up to which nothing old stands after the tail.
    pub cleared: u64,
}

/// The unit in which a file is cleared before it is written: a write that ends within a page which
/// is not in memory would have to read that page first.
const PAGE: u64 = 4096;
/// The most that is cleared after a record.
static ZEROS: [u8; PAGE as usize + FRAME] = [0; PAGE as usize + FRAME];

impl Active {
    /// Returns the segment that begins at `base` in the file of `spare`, whose header is written.
    pub fn begun(spare: Spare, base: u64) -> Active {
        let cleared = if spare.holds_old { HEADER + PAGE } else { u64::MAX };
        Active { file: spare.file, base, end: base + spare.bytes - HEADER, cleared }
    }

    /// Returns the zeros to write after a record that ends at the offset `end` of the file. After
    /// the last record there is room for no frame, or there are zeros, so that the log ends there
    /// whatever the file held before.
    pub fn zeros_after(&self, end: u64) -> &'static [u8] {
        let length = HEADER + (self.end - self.base);
        let wanted = (end + FRAME as u64).min(length);
        if wanted <= self.cleared {
            return &[];
        }
        &ZEROS[..(wanted.next_multiple_of(PAGE).min(length) - end) as usize]
    }
}

/// Returns the zeros to write after the header of a segment in the file of `spare`.
pub fn zeros_after_header(spare: &Spare) -> &'static [u8] {
    if spare.holds_old { &ZEROS[..PAGE.min(spare.bytes - HEADER) as usize] } else { &[] }
}
