//! Bytes in any cut in, [`Block`]s of whole lines out. Nothing here does I/O.
//!
//! A socket hands over bytes in pieces that have nothing to do with lines. Everything behind the
//! journal wants whole lines, many at a time, without touching each of them: so a [`LineSplitter`]
//! lets its reader read straight into a pooled buffer, looks *from the back* for the last line end
//! in what is new, and gives the buffer itself away as a [`Block`]. Only the few bytes of the
//! unfinished line are copied. What lies in a block is left to the tokenizer.
//!
//! # Line ends
//!
//! `\n`, `\r` and `\r\n`, exactly as Java's `BufferedReader.readLine` has them, since the lines
//! must be those of the Spark program. A lone `\r` ends its line at once; a `\n` behind it is
//! swallowed, even if it comes with the next read or after a restart.
//!
//! # Lines that do not end
//!
//! Memory has a bound, so a line has one too ([`LineLimits`]). For word counts an over-long line is
//! *cut at spaces* ([`LongLine::CutAtSpace`]): a space that becomes a line end separates the same
//! two words as before, so the counts stay those of the whole line, whatever the cut. To keep that
//! true for Scala's `split(" ")` too, which drops trailing empty words, a run of spaces before a
//! word becomes as many line ends (an empty line is an empty word to Python and to Scala), and a
//! line is never cut before its very end. A word above `word_bytes_max` whose end is out of reach
//! is discarded as it streams in, with the separator behind it; the words around it, empty ones
//! too, are counted as if it had been counted and then taken away. Words that end in time are not
//! judged here: the tokenizer has the same limit, so that it does not matter who meets the word.
//!
//! Two cases cannot be told to Scala's rule by text alone; both count for Python as they should.
//! In a line above `line_bytes_max`: a discarded word, one space, end of line, gives one empty word
//! that Scala's program would have dropped; and a run of more than 128 KiB of spaces (more than
//! `line_bytes_max`, if that is less) loses empty words that a word behind it would have saved.
//! Words are parted by spaces only here: a line above the limit whose words are parted by tabs
//! alone is one word.
//!
//! Definitions on whole lines choose [`LongLine::Drop`].
//!
//! # Memory
//!
//! [`BlockPool`] bounds the bytes of all living blocks and of the buffers that are being read into.
//! A splitter never holds room while it waits for room, so splitters cannot block each other;
//! the one unfinished line that each keeps is outside the bound and limited by `line_bytes_max`.

mod block;
mod long;
mod pool;
mod shipped;
mod splitter;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use pool::BlockPool;
pub use shipped::{Arrival, BlockHead};
pub use splitter::LineSplitter;

use serde::{Deserialize, Serialize};

/// How long a line and a word may be, and what becomes of a line that is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LineLimits {
    /// Longest line in bytes, its end not counted. With [`LongLine::CutAtSpace`] a value below
    /// `word_bytes_max` is read as `word_bytes_max`.
    pub line_bytes_max: usize,
    /// Longest word in bytes. Only words that run out of an over-long line are held to it here.
    pub word_bytes_max: usize,
    /// What becomes of a longer line.
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

/// What becomes of a line longer than [`LineLimits::line_bytes_max`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongLine {
    /// It is cut at spaces, so that its words are counted as ever.
    #[default]
    CutAtSpace,
    /// It is discarded whole, and counted in [`LineStats::dropped_lines`].
    Drop,
}

/// How a connection of a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamEnd {
    /// The sender closed it: an unfinished line counts as a line.
    Fin,
    /// This program was told to stop: as [`StreamEnd::Fin`].
    Stop,
    /// This program died while reading, and recovery says so: as [`StreamEnd::Fin`].
    Crash,
    /// The connection broke: an unfinished line is dropped, as Spark does.
    Reset,
}

/// What lies between the last block and the next byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinePart {
    /// The next byte begins a line.
    #[default]
    Start,
    /// The next byte goes on with a line that was cut.
    Continued,
    /// The next byte goes on with an oversized word, which is being discarded.
    SkippedWord,
    /// The next byte goes on with an over-long line, which is being discarded.
    SkippedLine,
}

/// All that a splitter must know to go on at [`SplitterState::resume_offset`].
///
/// The bytes of an unfinished line are not in it: who resumes feeds them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitterState {
    /// Position in the source's stream of the first byte that is needed again: all before it is in
    /// a block or discarded.
    pub resume_offset: u64,
    /// Bytes received from `resume_offset` on; they are to be fed again.
    pub unfinished_bytes: u64,
    /// A `\n` at `resume_offset` belongs to a `\r` before it.
    pub pending_cr: bool,
    /// Where in its line the byte at `resume_offset` stands.
    pub line_part: LinePart,
    /// Lines that ended inside discarded bytes and are still to be counted in a block.
    pub lines_owed: u64,
}

/// What a splitter discarded since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStats {
    /// Bytes of unfinished lines that a reset dropped.
    pub dropped_bytes: u64,
    /// Words above [`LineLimits::word_bytes_max`] discarded as they streamed in.
    pub oversized_words: u64,
    /// Lines above [`LineLimits::line_bytes_max`] discarded whole.
    pub dropped_lines: u64,
}
