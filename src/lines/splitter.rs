//! The splitter: what was read so far of one source, cut into blocks at the last line end.
//!
//! Each byte is looked at once for a line end, from the back of what is new. Only a line above the
//! limit is looked at again, near its last word.

mod overlong;
mod room;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use memchr::{memchr2, memchr3, memrchr2};
use tokio::sync::OwnedSemaphorePermit;

use super::block::BlockFacts;
use super::block_pool::{Buffer, STANDARD_BYTES};
use super::line_limits;
use super::{
    Block, BlockPool, LineLimits, LinePart, LineStats, LongLine, SplitterState, StreamEnd,
};

/// Room that a read finds at least.
const SPARE_BYTES_MIN: usize = 64 << 10;

/// An unfinished line up to this length is put aside, so that a quiet source holds no buffer.
const CARRY_BYTES_MAX: usize = 4 << 10;

/// A line that was cut once is over the limit for good: more of it goes in pieces of about this
/// size.
const PIECE_BYTES: usize = STANDARD_BYTES / 2;

/// A block that fills less than one part in this many of its buffer is copied out of it, so that
/// one short line does not hold 256 KiB.
const COPY_SHARE: usize = 8;

/// Turns the bytes of one source, in any cut, into [`Block`]s of whole lines.
///
/// The loop of a reader: wait until the source has bytes, wait for room, read, take.
///
/// ```
/// # use wordtide::internals::lines::{BlockPool, LineLimits, LineSplitter, StreamEnd};
/// # fn read(into: &mut [u8]) -> usize { into[..6].copy_from_slice(b"a\r\nb c"); 6 }
/// let mut splitter = LineSplitter::new(0, LineLimits::default(), BlockPool::default());
/// splitter.ready_blocking();
/// let bytes = read(splitter.spare());
/// splitter.filled(bytes);
/// let block = splitter.take().expect("one line has ended");
/// assert_eq!(block.text(), b"a\r\n");
/// let last = splitter.end(StreamEnd::Fin).expect("the rest counts as a line");
/// assert_eq!(last.text(), b"b c\n");
/// ```
///
/// Room is held from `ready` to `take`. With many sources on one pool, wait for a source's bytes
/// *before* asking for room, so that quiet sources hold none.
pub struct LineSplitter {
    /// The index of the source, which blocks bear.
    source: u32,
    /// The limits of lines and words.
    limits: LineLimits,
    /// Gives buffers, and bounds them.
    pool: BlockPool,
    /// The buffer that is read into. None after a block took it or a short rest was put aside.
    buffer: Option<Buffer>,
    /// The unfinished line while there is no buffer.
    carry: Vec<u8>,
    /// Longest unfinished line that is put aside.
    carry_bytes_max: usize,
    /// First byte in the buffer (or in `carry`) that is in no block.
    start: usize,
    /// No line end lies in `start..scanned`.
    scanned: usize,
    /// The end of the last byte read.
    filled: usize,
    /// An unfinished line above this length is looked at for a cut.
    cut_above: usize,
    /// Position of `start` in the source's stream.
    offset: u64,
    // With one of the next two set, nothing is unfinished: `start == filled`.
    /// True if the last byte was CR, so that LF belongs to the same end.
    pending_cr: bool,
    /// The part of a line that the next byte continues.
    line_part: LinePart,
    /// Lines that ended in discarded bytes and are not in a block yet.
    lines_owed: u64,
    /// The counts of what was discarded.
    stats: LineStats,
}

impl LineSplitter {
    /// A splitter at the beginning of the stream of `source`.
    pub fn new(source: u32, limits: LineLimits, pool: BlockPool) -> Self {
        LineSplitter::resume(source, limits, pool, SplitterState::default())
    }

    /// A splitter that goes on from `state`. The next byte fed must be that at
    /// [`SplitterState::resume_offset`].
    pub fn resume(source: u32, limits: LineLimits, pool: BlockPool, state: SplitterState) -> Self {
        let mut splitter = LineSplitter {
            source,
            limits,
            pool,
            buffer: None,
            carry: Vec::new(),
            carry_bytes_max: CARRY_BYTES_MAX,
            start: 0,
            scanned: 0,
            filled: 0,
            cut_above: 0,
            offset: state.resume_offset,
            pending_cr: state.pending_cr,
            line_part: state.line_part,
            lines_owed: state.lines_owed,
            stats: LineStats::default(),
        };
        splitter.cut_above = splitter.next_cut_above(0);
        splitter
    }

    /// Returns the state that a later [`LineSplitter::resume`] needs. It holds for the blocks taken
    /// so far.
    pub fn state(&self) -> SplitterState {
        SplitterState {
            resume_offset: self.offset,
            unfinished_bytes: (self.filled - self.start) as u64,
            pending_cr: self.pending_cr,
            line_part: self.line_part,
            lines_owed: self.lines_owed,
        }
    }

    /// Drops all that is not in [`state`](LineSplitter::state), so that this splitter and one that
    /// [resumes](LineSplitter::resume) here cut the same lines at the same places from now on.
    ///
    /// Called at a cut between epochs: a replay from the cut must agree about each over-long
    /// line with the run that drew it. The resumed splitter is to be fed what is unfinished before
    /// its first `take`.
    pub fn settle(&mut self) {
        self.cut_above = self.next_cut_above(0);
    }

    /// Returns the counts of what was discarded since this splitter was made.
    pub fn stats(&self) -> LineStats {
        self.stats
    }

    /// Waits until the pool grants room for the next read. This is the back-pressure.
    ///
    /// Safe to cancel. No room is held while waiting.
    pub async fn ready(&mut self) {
        if !self.is_ready() {
            let capacity = self.capacity_wanted();
            let permit = self.pool.room(capacity).await;
            self.seat(capacity, permit);
        }
    }

    /// As [`LineSplitter::ready`] for a reader that has its own thread: parks it meanwhile.
    pub fn ready_blocking(&mut self) {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut ready = pin!(self.ready());
        while ready.as_mut().poll(&mut context) == Poll::Pending {
            std::thread::park();
        }
    }

    /// As [`LineSplitter::ready`] without waiting: false if the pool has no room now.
    pub fn try_ready(&mut self) -> bool {
        if !self.is_ready() {
            let capacity = self.capacity_wanted();
            match self.pool.try_room(capacity) {
                None => return false,
                permit => self.seat(capacity, permit),
            }
        }
        true
    }

    /// Where the next read goes: at least 64 KiB, mostly 256 KiB. Its content means nothing.
    ///
    /// # Panics
    ///
    /// If not `ready` since the last `take`: reading without room would void the pool's bound.
    pub fn spare(&mut self) -> &mut [u8] {
        let filled = self.filled;
        match &mut self.buffer {
            Some(buffer) if buffer.permit.is_some() => {
                let capacity = buffer.capacity();
                &mut buffer.bytes[filled..capacity]
            }
            _ => panic!("LineSplitter::spare needs LineSplitter::ready first"),
        }
    }

    /// Notes that `bytes` bytes were read into the front of [`LineSplitter::spare`].
    ///
    /// # Panics
    ///
    /// If that is more than there was room for.
    pub fn filled(&mut self, bytes: usize) {
        let capacity = self.buffer.as_ref().map_or(self.filled, Buffer::capacity);
        assert!(bytes <= capacity - self.filled, "more bytes read than there was room for");
        self.filled += bytes;
        if bytes > 0 && (self.pending_cr || self.is_skipping()) {
            self.skip();
        }
    }

    /// The lines that have ended and are in no block yet, or as much of an over-long line as can be
    /// given away. Gives back room that no block needs.
    pub fn take(&mut self) -> Option<Block> {
        let mut buffer = self.buffer.take()?;
        let bytes = &mut buffer.bytes;
        let mut end = memrchr2(b'\n', b'\r', &bytes[self.scanned..self.filled])
            .map_or(self.start, |at| self.scanned + at + 1);
        self.scanned = self.filled;
        let mut text_end = end;
        let mut cuts = 0;
        if end > self.start {
            self.line_part = LinePart::Start;
            self.cut_above = self.line_bytes_max();
            self.pending_cr = end == self.filled && bytes[end - 1] == b'\r';
            if self.limits.on_long_line == LongLine::Drop
                && end - self.start > self.limits.line_bytes_max
            {
                let lines = &mut bytes[self.start..end];
                let (kept, dropped) =
                    line_limits::drop_long_lines(lines, self.limits.line_bytes_max);
                text_end = self.start + kept;
                self.stats.dropped_lines += dropped;
            }
        }
        if self.filled - end > self.cut_above {
            let line = &mut bytes[end..self.filled];
            let text_bytes;
            (text_bytes, cuts) = self.shorten(line);
            if text_bytes > 0 {
                text_end = end + text_bytes;
                if end > self.start {
                    line_limits::unglue(&mut bytes[self.start..text_end], end - self.start);
                }
            }
            end = if self.is_skipping() { self.filled } else { end + text_bytes };
        }
        self.give(buffer, text_end, end, cuts)
    }

    /// Ends a connection of the source: what remains becomes a last line or is dropped, as `end`
    /// has it, and the next connection begins a new one. Never waits: a last line that the pool has
    /// no room for is given beyond the bound.
    pub fn end(&mut self, end: StreamEnd) -> Option<Block> {
        let finish = end != StreamEnd::Reset && self.line_is_unfinished();
        if finish {
            self.append_line_end();
        }
        let block = self.take();
        if finish {
            // The stream has no such byte.
            self.offset -= 1;
        }
        if end != StreamEnd::Reset && self.line_part == LinePart::SkippedWord {
            self.lines_owed += 1;
        }
        let unfinished_bytes = (self.filled - self.start) as u64;
        self.stats.dropped_bytes += unfinished_bytes;
        self.offset += unfinished_bytes;
        self.buffer = None;
        self.carry = Vec::new();
        (self.start, self.scanned, self.filled) = (0, 0, 0);
        self.pending_cr = false;
        self.line_part = LinePart::Start;
        self.cut_above = self.line_bytes_max();
        block
    }

    /// Returns true while bytes are discarded.
    fn is_skipping(&self) -> bool {
        matches!(self.line_part, LinePart::SkippedWord | LinePart::SkippedLine)
    }

    /// Returns true if there is room to read into.
    fn is_ready(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| {
            buffer.permit.is_some() && buffer.capacity() - self.filled >= SPARE_BYTES_MIN
        })
    }

    /// Returns the length above which a line is cut or dropped.
    fn line_bytes_max(&self) -> usize {
        match self.limits.on_long_line {
            LongLine::CutAtSpace => self.limits.line_bytes_max.max(self.limits.word_bytes_max),
            LongLine::Drop => self.limits.line_bytes_max,
        }
    }

    /// Returns the bytes of the unfinished line.
    pub fn unfinished(&self) -> &[u8] {
        let bytes: &[u8] = self.buffer.as_ref().map_or(&self.carry, |buffer| &buffer.bytes);
        &bytes[self.start..self.filled]
    }

    /// The capacity of the buffer for the next read; that of the present one if it can stay.
    /// Lets go of the room held, since waiting with it could block others for ever.
    fn capacity_wanted(&mut self) -> usize {
        let held = self.filled - self.start;
        let needed = held + SPARE_BYTES_MIN;
        if let Some(buffer) = &mut self.buffer {
            buffer.permit = None;
            let capacity = buffer.capacity();
            // Moving to the front pays only if what moves is less than what was given away.
            if capacity >= self.filled + SPARE_BYTES_MIN
                || (capacity >= needed && held <= self.start)
            {
                return capacity;
            }
        }
        if needed <= STANDARD_BYTES {
            return STANDARD_BYTES;
        }
        // Twice as much, so that each byte is copied O(1) times, and the longest line's at once
        // where that is not much more: the old and the new buffer are both in memory for a moment.
        let longest = self.line_bytes_max().saturating_add(STANDARD_BYTES);
        let grown = if held > longest / 4 { longest } else { 2 * held };
        needed.max(grown)
    }

    /// Makes a buffer of `capacity` the one to read into, with what is unfinished in it.
    fn seat(&mut self, capacity: usize, permit: Option<OwnedSemaphorePermit>) {
        let held = self.filled - self.start;
        match &mut self.buffer {
            Some(buffer) if buffer.capacity() == capacity => {
                buffer.permit = permit;
                if capacity - self.filled >= SPARE_BYTES_MIN {
                    return;
                }
                buffer.bytes.copy_within(self.start..self.filled, 0);
            }
            _ => {
                let mut buffer = self.pool.buffer(capacity, permit);
                buffer.bytes[..held].copy_from_slice(self.unfinished());
                self.buffer = Some(buffer);
                self.carry.clear();
                self.carry.shrink_to(self.carry_bytes_max.min(CARRY_BYTES_MAX));
            }
        }
        self.scanned -= self.start;
        (self.start, self.filled) = (0, held);
    }

    /// Discards what new bytes at the front belong to a line end, word or line already dealt with.
    fn skip(&mut self) {
        let Some(buffer) = &self.buffer else { return };
        let bytes = &buffer.bytes[self.start..self.filled];
        let mut used = 0;
        if self.pending_cr {
            self.pending_cr = false;
            used = usize::from(bytes[0] == b'\n');
        }
        if self.is_skipping() {
            let stop = match self.line_part {
                LinePart::SkippedWord => memchr3(b' ', b'\n', b'\r', bytes),
                _ => memchr2(b'\n', b'\r', bytes),
            };
            used = match stop {
                None => bytes.len(),
                Some(at) if bytes[at] == b' ' => {
                    self.line_part = LinePart::Continued;
                    at + 1
                }
                Some(at) => {
                    // The line of a skipped word counts; a dropped line is counted by the
                    // statistics.
                    self.lines_owed += u64::from(self.line_part == LinePart::SkippedWord);
                    self.line_part = LinePart::Start;
                    self.cut_above = self.line_bytes_max();
                    let (next, pending_cr) = line_limits::past_line_end(bytes, at);
                    self.pending_cr = pending_cr;
                    next
                }
            };
        }
        self.offset += used as u64;
        self.start += used;
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        }
        self.scanned = self.start;
    }

    /// Gives `start..text_end` away as a block and goes on at `end`.
    fn give(
        &mut self,
        mut buffer: Buffer,
        text_end: usize,
        end: usize,
        cuts: usize,
    ) -> Option<Block> {
        let (start, text_bytes) = (self.start, text_end - self.start);
        let place = BlockFacts {
            source: self.source,
            offset: self.offset,
            cuts: cuts as u64,
            lines_owed: self.lines_owed,
        };
        self.offset += (end - start) as u64;
        self.start = end;
        if text_bytes > 0 {
            self.lines_owed = 0;
        }
        if text_bytes > 0 && text_bytes >= buffer.capacity() / COPY_SHARE {
            self.put_aside(&buffer);
            return Some(Block::new(buffer, start, text_end, place));
        }
        let mut permit = buffer.permit.take();
        let block = (text_bytes > 0).then(|| {
            let text = &buffer.bytes[start..text_end];
            let exact = self.pool.exact(text, permit.as_mut());
            Block::new(exact, 0, text_bytes, place)
        });
        if self.filled - self.start <= self.carry_bytes_max {
            self.put_aside(&buffer);
        } else {
            self.buffer = Some(buffer);
        }
        block
    }

    /// Copies what is unfinished out of `buffer`, which goes elsewhere.
    fn put_aside(&mut self, buffer: &Buffer) {
        self.carry.clear();
        self.carry.extend_from_slice(&buffer.bytes[self.start..self.filled]);
        self.start = 0;
        (self.scanned, self.filled) = (self.carry.len(), self.carry.len());
    }

    /// Returns true if the text ends inside a line.
    fn line_is_unfinished(&self) -> bool {
        match self.unfinished().last() {
            Some(byte) => !matches!(byte, b'\n' | b'\r'),
            None => self.line_part == LinePart::Continued,
        }
    }

    /// Ends the unfinished line as if the stream had done so.
    fn append_line_end(&mut self) {
        let mut buffer = self.unfinished_in_buffer();
        if buffer.permit.is_none() {
            buffer.permit = self.pool.try_room(buffer.capacity());
        }
        // Every buffer has a byte for this after its capacity.
        buffer.bytes[self.filled] = b'\n';
        self.buffer = Some(buffer);
        self.filled += 1;
    }

    /// Takes the buffer with the unfinished line in it, making one if the line was put aside.
    fn unfinished_in_buffer(&mut self) -> Buffer {
        self.buffer.take().unwrap_or_else(|| {
            let capacity = self.unfinished().len();
            let mut buffer = self.pool.buffer(capacity, None);
            buffer.bytes[..capacity].copy_from_slice(self.unfinished());
            buffer
        })
    }
}

impl fmt::Debug for LineSplitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineSplitter")
            .field("source", &self.source)
            .field("limits", &self.limits)
            .field("state", &self.state())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
