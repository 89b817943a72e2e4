//! A block: a run of whole lines in one immutable buffer.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::pool::Buffer;

/// A run of whole lines, each ended by `\n`, `\r` or `\r\n`. Immutable; a clone is a pointer.
///
/// When the last clone is dropped, the buffer and its share of the bound go back to the
/// [`BlockPool`](super::BlockPool).
#[derive(Clone)]
pub struct Block {
    inner: Arc<Inner>,
}

struct Inner {
    buffer: Buffer,
    /// First byte of the text in the buffer.
    start: usize,
    /// End of the text, where its pad begins.
    end: usize,
    source: u32,
    offset: u64,
    /// Line ends of the text that only cut a line.
    cuts: u64,
    /// Lines that ended in discarded bytes before the text.
    lines_owed: u64,
    lines: OnceLock<u64>,
}

/// The fields of a block other than its bytes.
pub(super) struct Place {
    pub(super) source: u32,
    pub(super) offset: u64,
    pub(super) cuts: u64,
    pub(super) lines_owed: u64,
}

impl Block {
    /// Readable zero bytes behind the text, so that a vector load may overrun it.
    pub const PAD: usize = 64;

    /// The block of `buffer[start..end]`. Clears the pad; what lay there is lost.
    pub(super) fn new(mut buffer: Buffer, start: usize, end: usize, place: Place) -> Block {
        buffer.bytes[end..end + Block::PAD].fill(0);
        let Place { source, offset, cuts, lines_owed } = place;
        let lines = OnceLock::new();
        let inner = Inner { buffer, start, end, source, offset, cuts, lines_owed, lines };
        Block { inner: Arc::new(inner) }
    }

    /// A block of source 0 at offset 0 that holds `text` as it is, outside any pool: for tests and
    /// for definitions. The text should end with a line end.
    pub fn from_text(text: &[u8]) -> Block {
        let place = Place { source: 0, offset: 0, cuts: 0, lines_owed: 0 };
        Block::new(Buffer::unpooled(text), 0, text.len(), place)
    }

    /// The lines, never empty but for [`Block::from_text`].
    pub fn text(&self) -> &[u8] {
        let Inner { buffer, start, end, .. } = &*self.inner;
        &buffer.bytes[*start..*end]
    }

    /// The lines and [`Block::PAD`] zero bytes.
    pub fn padded(&self) -> &[u8] {
        let Inner { buffer, start, end, .. } = &*self.inner;
        &buffer.bytes[*start..*end + Block::PAD]
    }

    /// Lines that end in this block: a line cut in pieces counts once, where its end stands.
    ///
    /// Counted on the first call, by one vector pass over the text, and kept. A caller that walks
    /// the text anyway may count for itself, if cut lines do not matter to it.
    pub fn lines(&self) -> u64 {
        let inner = &*self.inner;
        *inner.lines.get_or_init(|| {
            (line_ends(self.padded()) + inner.lines_owed).saturating_sub(inner.cuts)
        })
    }

    /// Returns the fields other than the bytes.
    pub(super) fn place(&self) -> Place {
        let Inner { source, offset, cuts, lines_owed, .. } = *self.inner;
        Place { source, offset, cuts, lines_owed }
    }

    /// Index of the source.
    pub fn source(&self) -> u32 {
        self.inner.source
    }

    /// Position of the first byte of the text in the source's stream.
    pub fn offset(&self) -> u64 {
        self.inner.offset
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

/// Line ends in the text of `padded`, with `\r\n` as one: each `\n`, and each `\r` before another
/// byte.
fn line_ends(padded: &[u8]) -> u64 {
    // Few enough that a byte can hold the count of a stretch, so that the loop becomes vectors.
    const STRETCH: usize = 192;
    let text_bytes = padded.len() - Block::PAD;
    let texts = padded[..text_bytes].chunks(STRETCH);
    let nexts = padded[1..=text_bytes].chunks(STRETCH);
    let count = |(text, next): (&[u8], &[u8])| {
        let ends = text.iter().zip(next).fold(0u8, |ends, (&byte, &next)| {
            ends + u8::from((byte == b'\n') | ((byte == b'\r') & (next != b'\n')))
        });
        u64::from(ends)
    };
    texts.zip(nexts).map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_text_is_padded_with_zeros() {
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
    }
}
