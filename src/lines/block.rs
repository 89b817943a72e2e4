//! Blocks: whole lines in one immutable buffer.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::block_pool::{Buffer, PAD_BYTES};

/// Consecutive whole lines, each ended by `\n`, `\r` or `\r\n`. A block is immutable, and a clone
/// is a pointer.
///
/// When the last clone is dropped, the buffer and its share of the bound go back to the
/// [`BlockPool`](super::BlockPool).
#[derive(Clone)]
pub struct Block {
    /// The buffer, given back with the last clone.
    shared: Arc<SharedBlock>,
}

/// The buffer and the facts that the clones of a block share.
struct SharedBlock {
    /// The bytes, with a pad.
    buffer: Buffer,
    /// Index of the first byte of the text in the buffer.
    start: usize,
    /// Index after the last byte of the text. The pad begins here.
    end: usize,
    /// The index of the source.
    source: u32,
    /// The place of the block among those of its source.
    offset: u64,
    /// Number of line ends in the text that only cut a line.
    cuts: u64,
    /// Number of lines that ended in discarded bytes before the text.
    lines_owed: u64,
    /// Number of lines, counted when it is first asked for.
    lines: OnceLock<u64>,
}

/// The facts of a block other than its bytes.
pub(crate) struct BlockFacts {
    /// The index of the source.
    pub source: u32,
    /// The place of the block among those of its source.
    pub offset: u64,
    /// Number of line ends in the text that only cut a line.
    pub cuts: u64,
    /// Number of lines that ended in discarded bytes before the text.
    pub lines_owed: u64,
}

impl Block {
    /// Number of zero bytes that follow the text, so that a vector load may read past it.
    pub const PAD: usize = PAD_BYTES;

    /// Makes a block of `buffer[start..end]`. The bytes of the pad are overwritten with zeros.
    pub(crate) fn new(mut buffer: Buffer, start: usize, end: usize, facts: BlockFacts) -> Block {
        buffer.bytes[end..end + Block::PAD].fill(0);
        let BlockFacts { source, offset, cuts, lines_owed } = facts;
        let lines = OnceLock::new();
        let shared = SharedBlock { buffer, start, end, source, offset, cuts, lines_owed, lines };
        Block { shared: Arc::new(shared) }
    }

    /// Makes a block of source 0 at offset 0 with a copy of `text`, outside any pool, for tests.
    /// The text should end with a line end.
    pub fn from_text(text: &[u8]) -> Block {
        let facts = BlockFacts { source: 0, offset: 0, cuts: 0, lines_owed: 0 };
        Block::new(Buffer::unpooled(text), 0, text.len(), facts)
    }

    /// Places the block at `offset` among those of its source. A block that has clones stays where
    /// it is.
    pub fn placed_at(mut self, offset: u64) -> Block {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.offset = offset;
        }
        self
    }

    /// Returns the text of the lines. It is empty only in a block of [`Block::from_text`].
    pub fn text(&self) -> &[u8] {
        let SharedBlock { buffer, start, end, .. } = &*self.shared;
        &buffer.bytes[*start..*end]
    }

    /// Returns the text followed by [`Block::PAD`] zero bytes.
    pub fn padded(&self) -> &[u8] {
        let SharedBlock { buffer, start, end, .. } = &*self.shared;
        &buffer.bytes[*start..*end + Block::PAD]
    }

    /// Returns the number of lines that end in this block. A line that was cut counts once, where
    /// it ends.
    ///
    /// The first call counts, in one vector pass over the text, and stores the result.
    pub fn lines(&self) -> u64 {
        let shared = &*self.shared;
        *shared.lines.get_or_init(|| {
            (line_ends(self.padded()) + shared.lines_owed).saturating_sub(shared.cuts)
        })
    }

    /// Returns the fields other than the bytes.
    pub(crate) fn facts(&self) -> BlockFacts {
        let SharedBlock { source, offset, cuts, lines_owed, .. } = *self.shared;
        BlockFacts { source, offset, cuts, lines_owed }
    }

    /// Returns the index of the source.
    pub fn source(&self) -> u32 {
        self.shared.source
    }

    /// Returns the offset of the first byte of the text in the source's stream.
    pub fn offset(&self) -> u64 {
        self.shared.offset
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("source", &self.source())
            .field("offset", &self.offset())
            .field("bytes", &self.text().len())
            .finish_non_exhaustive()
    }
}

/// Returns the number of line ends in the text of `padded`: each `\n`, and each `\r` that no `\n`
/// follows.
fn line_ends(padded: &[u8]) -> u64 {
    // So short that the second pass finds it in the first-level cache.
    const STRETCH: usize = 8 << 10;
    let text_bytes = padded.len() - Block::PAD;
    let starts = (0..text_bytes).step_by(STRETCH);
    let count = |start: usize| {
        let end = text_bytes.min(start + STRETCH);
        match memchr::memchr(b'\r', &padded[start..end]) {
            None => memchr::memchr_iter(b'\n', &padded[start..end]).count() as u64,
            Some(_) => mixed_line_ends(&padded[start..end], &padded[start + 1..=end]),
        }
    };
    starts.map(count).sum()
}

/// Returns the number of line ends in `text` with carriage returns. `next` is the text from its
/// second byte on, and the byte that follows.
fn mixed_line_ends(text: &[u8], next: &[u8]) -> u64 {
    // A stretch is so short that a byte holds its count, and the compiler uses vectors of bytes.
    /// Bytes that are looked at together.
    const STRETCH: usize = 192;
    let count = |(text, next): (&[u8], &[u8])| {
        let ends = text.iter().zip(next).fold(0u8, |ends, (&byte, &next)| {
            ends + u8::from((byte == b'\n') | ((byte == b'\r') & (next != b'\n')))
        });
        u64::from(ends)
    };
    text.chunks(STRETCH).zip(next.chunks(STRETCH)).map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_of_text_is_padded_with_zeros() {
        let block = Block::from_text(b"a b\n");
        assert_eq!(block.text(), b"a b\n");
        assert_eq!(block.padded().len(), 4 + Block::PAD);
        assert!(block.padded()[4..].iter().all(|&byte| byte == 0));
        assert_eq!((block.source(), block.offset(), block.lines()), (0, 0, 1));
    }

    #[test]
    fn every_kind_of_line_end_counts_once() {
        assert_eq!(Block::from_text(b"").lines(), 0);
        assert_eq!(Block::from_text(b"\r\n\r\n").lines(), 2);
        assert_eq!(Block::from_text(b"\r\r\n\n\r").lines(), 4);
        assert_eq!(Block::from_text(b"a\nb\rc\r\n").lines(), 3);
        assert_eq!(Block::from_text(&b"\n".repeat(1_000)).lines(), 1_000);
        assert_eq!(Block::from_text(&b"\r\n".repeat(1_001)[1..]).lines(), 1_001);
        for len in (8 << 10) - 3..(8 << 10) + 3 {
            for (end, lines) in [("\n", 1), ("\r", 1), ("\r\n", 1), ("\n\r", 2), ("\r\r", 2)] {
                let text = ["a".repeat(len), end.to_owned(), "b".repeat(9_000), "\n".into()];
                assert_eq!(Block::from_text(text.concat().as_bytes()).lines(), lines + 1, "{len}");
            }
        }
    }
}
