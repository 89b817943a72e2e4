//! Splits bytes, in pieces of any size, into [`Block`]s of whole lines. Nothing here does I/O.
//!
//! A socket delivers bytes in pieces that have nothing to do with lines. The workers need whole
//! lines, many at a time, without a look at each of them. A [`LineSplitter`] therefore lets its
//! reader read straight into a pooled buffer, searches the new bytes *from the back* for the last
//! line end, and passes the buffer itself on as a [`Block`]. Only the few bytes of the unfinished
//! line are copied. The tokenizer reads the text of a block.
//!
//! # Line ends
//!
//! `\n`, `\r` and `\r\n` end a line, exactly as in Java's `BufferedReader.readLine`, because the
//! lines must be those of the Spark program. A lone `\r` ends its line at once; a `\n` that follows
//! it is ignored, even if it comes with the next read or after a restart.
//!
//! # Lines that do not end
//!
//! Memory is bounded, so a line is bounded too ([`LineLimits`]). For word counts an over-long line
//! is *cut at spaces* ([`LongLine::CutAtSpace`]): a space that becomes a line end separates the
//! same two words as before, so the counts stay those of the whole line, whatever the cut. To keep
//! that true for Scala's `split(" ")` too, which drops trailing empty words, a run of spaces before
//! a word becomes as many line ends (an empty line is an empty word to Python and to Scala), and a
//! line is never cut before its very end. A word above `word_bytes_max` whose end is out of reach
//! is discarded while it streams in, with the separator after it; the words around it, empty ones
//! too, are counted as if it had been counted and then removed. Words that end in time are not
//! checked here: the tokenizer has the same limit, so it does not matter which of the two meets the
//! word.
//!
//! Two cases differ from Scala's rule; both count for Python as they should.
//! In a line above `line_bytes_max`: a discarded word, one space, end of line, gives one empty word
//! that Scala's program would have dropped; and a run of more than 128 KiB of spaces (more than
//! `line_bytes_max`, if that is less) loses empty words that a word after it would have saved.
//! Only spaces separate words here: a line above the limit whose words are separated by tabs alone
//! is one word.
//!
//! Definitions on whole lines choose [`LongLine::Drop`].
//!
//! # Memory
//!
//! [`BlockPool`] bounds the bytes of all living blocks and of the buffers that are being read into.
//! A splitter never holds room while it waits for room, so splitters cannot block each other;
//! the one unfinished line that each keeps is outside the bound and limited by `line_bytes_max`.

mod block;
mod block_bytes;
mod block_pool;
mod line_limits;
mod splitter;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use block_bytes::BlockHead;
#[cfg(any(test, feature = "internals"))]
pub use block_pool::RoomGrant;
pub use block_pool::{BlockPool, RoomRequest};
pub use splitter::LineSplitter;

use serde::{Deserialize, Serialize};

/// The limits of lines and words, and the treatment of a line above its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LineLimits {
    /// Longest line in bytes, its end not counted. With [`LongLine::CutAtSpace`] a value below
    /// `word_bytes_max` is read as `word_bytes_max`.
    pub line_bytes_max: usize,
    /// Longest word in bytes. Only a word without an end in an over-long line is checked against it
    /// here.
    pub word_bytes_max: usize,
    /// The treatment of a longer line.
    pub on_long_line: LongLine,
}

impl Default for LineLimits {
    fn default() -> Self {
        LineLimits {
            line_bytes_max: 16 << 20,
            word_bytes_max: 1 << 20,
            on_long_line: LongLine::CutAtSpace,
        }
    }
}

/// The treatment of a line longer than [`LineLimits::line_bytes_max`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongLine {
    /// The line is cut at spaces, so that its words are counted as usual.
    #[default]
    CutAtSpace,
    /// The line is discarded whole, and counted in [`LineStats::dropped_lines`].
    Drop,
}

/// The end of a connection of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamEnd {
    /// The sender closed the connection. An unfinished line counts as a line.
    Fin,
    /// The program was asked to stop. An unfinished line counts as a line.
    Stop,
    /// The program died while reading, and recovery found that. An unfinished line counts as a
    /// line.
    Crash,
    /// The connection was reset. An unfinished line is dropped, as Spark does.
    Reset,
}

/// The part of a line that the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinePart {
    /// The next byte begins a line.
    #[default]
    Start,
    /// The next byte continues a line that was cut.
    Continued,
    /// The next byte continues an oversized word, which is being discarded.
    SkippedWord,
    /// The next byte continues an over-long line, which is being discarded.
    SkippedLine,
}

/// The state from which a splitter resumes at [`SplitterState::resume_offset`].
///
/// The bytes of an unfinished line are not part of it: they are fed again on resuming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitterState {
    /// Offset in the source's stream of the first byte that is needed again. All bytes before it
    /// are in blocks, or discarded.
    pub resume_offset: u64,
    /// Number of bytes received from `resume_offset` on. They must be fed again.
    pub unfinished_bytes: u64,
    /// True if a `\n` at `resume_offset` belongs to the `\r` before it.
    pub pending_cr: bool,
    /// The part of a line that the byte at `resume_offset` belongs to.
    pub line_part: LinePart,
    /// Number of lines that ended inside discarded bytes and are still to be counted in a block.
    pub lines_owed: u64,
}

/// Numbers of bytes, words and lines that a splitter discarded since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStats {
    /// Bytes of unfinished lines that a reset dropped.
    pub dropped_bytes: u64,
    /// Words above [`LineLimits::word_bytes_max`] discarded as they streamed in.
    pub oversized_words: u64,
    /// Lines above [`LineLimits::line_bytes_max`] discarded whole.
    pub dropped_lines: u64,
}
