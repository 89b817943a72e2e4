//! The encoding of a block that is sent to another process: a head of fixed length, then the text.

use std::fmt;

use super::Block;
use super::block::BlockFacts;
use super::block_pool::{BlockPool, Buffer, STANDARD_BYTES};

/// Greatest offset in a stream and number of lines that is believed.
const SIZE_MAX: u64 = 1 << 60;

/// The head of a block, which is sent before its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// The index of the source.
    source: u32,
    /// The place of the block among those of its source.
    offset: u64,
    /// Number of line ends that only cut a line.
    cuts: u64,
    /// Number of lines that ended in discarded bytes.
    lines_owed: u64,
    /// The length of the text that follows.
    text_bytes: u64,
}

impl BlockHead {
    /// Length of an encoded head, in bytes.
    pub const BYTES: usize = 40;

    /// Returns the head of `block`.
    pub fn of(block: &Block) -> BlockHead {
        let BlockFacts { source, offset, cuts, lines_owed } = block.facts();
        BlockHead { source, offset, cuts, lines_owed, text_bytes: block.text().len() as u64 }
    }

    /// Returns the number of bytes of text that follow.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Encodes the head as five little-endian numbers.
    pub fn encode(&self) -> [u8; BlockHead::BYTES] {
        let BlockHead { source, offset, cuts, lines_owed, text_bytes } = *self;
        let mut encoded = [0; BlockHead::BYTES];
        let numbers = [u64::from(source), offset, cuts, lines_owed, text_bytes];
        for (field, number) in encoded.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        encoded
    }

    /// Reads it back. Returns `None` for numbers that no block can have, so that no arithmetic on
    /// them overflows.
    pub fn decode(encoded: &[u8; BlockHead::BYTES]) -> Option<BlockHead> {
        let (fields, _) = encoded.as_chunks::<8>();
        let number = |at: usize| u64::from_le_bytes(fields[at]);
        let head = BlockHead {
            source: u32::try_from(number(0)).ok()?,
            offset: number(1),
            cuts: number(2),
            lines_owed: number(3),
            text_bytes: number(4),
        };
        let sizes = [head.offset, head.cuts, head.lines_owed, head.text_bytes];
        sizes.into_iter().all(|size| size <= SIZE_MAX).then_some(head)
    }
}

/// A block whose text is still to be received, with its room in the pool.
pub struct Arrival {
    /// The facts of the block.
    head: BlockHead,
    /// The buffer that the text is read into.
    buffer: Buffer,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("head", &self.head).finish_non_exhaustive()
    }
}

impl BlockPool {
    /// Waits for room for the block that `head` announces.
    pub async fn arrival(&self, head: BlockHead) -> Arrival {
        // A buffer of the standard size serves shorter texts too, because those are reused.
        let capacity = (head.text_bytes as usize).max(STANDARD_BYTES);
        let permit = self.room(capacity).await;
        Arrival { head, buffer: self.buffer(capacity, permit) }
    }
}

impl Arrival {
    /// Returns the buffer for the text. The caller fills all of it.
    pub fn text(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes[..self.head.text_bytes as usize]
    }

    /// Returns the block. The text must have been received.
    pub fn into_block(self) -> Block {
        let BlockHead { source, offset, cuts, lines_owed, text_bytes } = self.head;
        Block::new(
            self.buffer,
            0,
            text_bytes as usize,
            BlockFacts { source, offset, cuts, lines_owed },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{LineLimits, LineSplitter, StreamEnd};

    #[tokio::test]
    async fn a_block_arrives_as_it_was_sent() {
        let pool = BlockPool::new(1 << 20);
        let limits = LineLimits { line_bytes_max: 8, word_bytes_max: 8, ..LineLimits::default() };
        let mut splitter = LineSplitter::new(3, limits, pool.clone());
        let mut sent = Vec::new();
        // The second line is above the limit: a cut that must not count as the end of a line.
        for text in [&b"one\n"[..], b"two words and more\nlast"] {
            splitter.ready().await;
            splitter.spare()[..text.len()].copy_from_slice(text);
            splitter.filled(text.len());
            sent.extend(splitter.take());
        }
        sent.extend(splitter.end(StreamEnd::Fin));
        assert!(sent.len() > 1);
        for block in sent {
            let head = BlockHead::decode(&BlockHead::of(&block).encode()).expect("a head");
            let mut arrival = pool.arrival(head).await;
            arrival.text().copy_from_slice(block.text());
            let arrived = arrival.into_block();
            assert_eq!(arrived.padded(), block.padded());
            assert_eq!(arrived.lines(), block.lines());
            assert_eq!((arrived.source(), arrived.offset()), (3, block.offset()));
        }
    }
}
