//! Lines above the limit: how the splitter gives parts of them away.

use super::{LineSplitter, PIECE_BYTES};
use crate::lines::{Block, LinePart, LongLine, line_limits};

impl LineSplitter {
    /// Cuts the unfinished line where it is, as if it were above the limit: at the last space. If
    /// there is none, the beginning of a word fills the line, and the word is discarded. It never
    /// waits.
    ///
    /// Called after [`LineSplitter::take`] with no bytes fed in between.
    pub fn cut_open_line(&mut self) -> Option<Block> {
        if self.filled == self.start {
            return None;
        }
        let (start, filled) = (self.start, self.filled);
        let mut buffer = self.unfinished_in_buffer();
        let line = &mut buffer.bytes[start..filled];
        let (text_bytes, cuts) = self.shorten(line);
        if text_bytes == 0 && !self.is_skipping() {
            let Some(last @ b' ') = line.last_mut() else {
                self.stats.oversized_words += 1;
                self.line_part = LinePart::SkippedWord;
                self.cut_above = self.next_cut_above(0);
                return self.give(buffer, start, filled, 0);
            };
            // One word fills the line, and the space after it is its separator.
            *last = b'\n';
            self.line_part = LinePart::Continued;
            self.cut_above = self.next_cut_above(0);
            return self.give(buffer, filled, filled, 1);
        }
        let end = if self.is_skipping() { filled } else { start + text_bytes };
        self.give(buffer, start + text_bytes, end, cuts)
    }

    /// Deals with an unfinished line above the limit: returns how many of its bytes are now whole
    /// lines, and the line ends put into them.
    pub fn shorten(&mut self, line: &mut [u8]) -> (usize, usize) {
        if self.limits.on_long_line == LongLine::Drop {
            self.stats.dropped_lines += 1;
            self.line_part = LinePart::SkippedLine;
            return (0, 0);
        }
        let Some(cut) = line_limits::cut(line, self.limits.word_bytes_max) else {
            // A long word may go on for many short reads: look again when there is twice as much.
            self.cut_above = (2 * line.len()).min(self.line_bytes_max());
            return (0, 0);
        };
        self.line_part = LinePart::Continued;
        if cut.oversized {
            self.stats.oversized_words += 1;
            self.line_part = LinePart::SkippedWord;
        }
        self.cut_above = self.next_cut_above(line.len() - cut.text_bytes);
        (cut.text_bytes, cut.cuts)
    }

    /// From which length on an unfinished line, of which `rest` bytes are there, is to be cut.
    pub fn next_cut_above(&self, rest: usize) -> usize {
        match (self.line_part, self.limits.on_long_line) {
            (LinePart::Start, _) | (_, LongLine::Drop) => self.line_bytes_max(),
            // Twice the rest, so that short reads do not have it searched again and again.
            _ => PIECE_BYTES.max(2 * rest).min(self.line_bytes_max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{BlockPool, LineLimits, StreamEnd};

    /// Feeds `pieces`, cutting the open line after each, and ends the stream; returns the text.
    fn cut_after(on_long_line: LongLine, pieces: &[&str]) -> (String, LineSplitter) {
        let limits = LineLimits { on_long_line, ..LineLimits::default() };
        let mut splitter = LineSplitter::new(0, limits, BlockPool::default());
        let mut text = String::new();
        let mut note = |block: Option<Block>| {
            let block = block.as_ref().map(|block| String::from_utf8_lossy(block.text()));
            text.push_str(&block.unwrap_or_default());
        };
        for piece in pieces {
            assert!(splitter.try_ready());
            splitter.spare()[..piece.len()].copy_from_slice(piece.as_bytes());
            splitter.filled(piece.len());
            note(splitter.take());
            note(splitter.cut_open_line());
        }
        note(splitter.end(StreamEnd::Fin));
        (text, splitter)
    }

    #[test]
    fn open_line_is_cut_at_its_last_space() {
        let (text, splitter) = cut_after(LongLine::CutAtSpace, &["x\na b c", "d e\nf g\n", "h"]);
        assert_eq!(text, "x\na b\ncd e\nf g\n", "the word h has no space before it");
        assert_eq!(splitter.stats().oversized_words, 1);
    }

    #[test]
    fn open_line_of_one_word_loses_the_word() {
        let (text, splitter) = cut_after(LongLine::CutAtSpace, &["abc", "def gh i\n"]);
        assert_eq!((text.as_str(), splitter.stats().oversized_words), ("gh i\n", 1));
    }

    #[test]
    fn open_line_of_finished_word_keeps_the_word() {
        let (text, splitter) = cut_after(LongLine::CutAtSpace, &["abc ", "gh\n"]);
        assert_eq!((text.as_str(), splitter.stats().oversized_words), ("abc\ngh\n", 0));
    }

    #[test]
    fn open_line_of_whole_lines_is_dropped() {
        let (text, splitter) = cut_after(LongLine::Drop, &["a\nb c", " d\ne\n"]);
        assert_eq!((text.as_str(), splitter.stats().dropped_lines), ("a\ne\n", 1));
    }
}
