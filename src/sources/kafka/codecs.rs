//! The codecs of record batches, each as a stream: a batch is never decompressed as a whole.

use std::io::{self, Read};

use bytes::{Buf, Bytes, buf::Reader};
use flate2::read::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;

/// Largest block of a snappy stream that is decompressed. Java writes blocks of 32 KiB, other
/// clients whole batches.
const SNAPPY_BLOCK_BYTES_MAX: usize = 64 << 20;

/// The beginning of a snappy stream as Java's clients write it.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Its length with the two versions that follow the magic bytes.
const XERIAL_HEADER_BYTES: usize = 16;

/// Returns the decompressed bytes of a batch whose attributes name this codec; `None` for bytes
/// that are not compressed.
///
/// # Errors
///
/// `InvalidData` for a codec that is not known or a header that is none of it.
pub fn decompressed(codec: i16, bytes: Bytes) -> io::Result<Option<Box<dyn Read + Send>>> {
    Ok(match codec {
        0 => None,
        1 => Some(Box::new(MultiGzDecoder::new(bytes.reader()))),
        2 => Some(Box::new(SnappyReader::new(bytes))),
        3 => Some(Box::new(FrameDecoder::new(bytes.reader()))),
        4 => Some(Box::new(zstd_decoder(bytes)?)),
        _ => return Err(damaged("a batch names a codec that is not known")),
    })
}

/// A zstd stream over the bytes of a batch.
type Zstd = zstd::stream::read::Decoder<'static, io::BufReader<Reader<Bytes>>>;

/// Returns the decompressed records of a zstd batch.
fn zstd_decoder(bytes: Bytes) -> io::Result<Zstd> {
    zstd::stream::read::Decoder::new(bytes.reader())
}

/// Returns the error of compressed bytes that are not what their codec demands.
fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A snappy stream: blocks with their lengths before them, or one block alone.
struct SnappyReader {
    /// The bytes that are not decompressed yet.
    left: Bytes,
    /// True if blocks with lengths follow, as Java's clients write them.
    is_framed: bool,
    /// The decompressed block.
    block: Vec<u8>,
    /// Where the next byte to read stands in `block`.
    at: usize,
}

impl SnappyReader {
    /// Looks at the beginning of `left` to find out which of the two forms it has.
    fn new(mut left: Bytes) -> SnappyReader {
        let is_framed = left.starts_with(XERIAL_MAGIC) && left.len() >= XERIAL_HEADER_BYTES;
        if is_framed {
            left.advance(XERIAL_HEADER_BYTES);
        }
        SnappyReader { left, is_framed, block: Vec::new(), at: 0 }
    }

    /// Decompresses the next block into `self.block`.
    fn next_block(&mut self) -> io::Result<()> {
        let compressed = if self.is_framed {
            if self.left.len() < 4 {
                return Err(damaged("a snappy stream ends too early"));
            }
            let len = self.left.get_u32() as usize;
            if len > self.left.len() {
                return Err(damaged("a snappy stream ends too early"));
            }
            self.left.split_to(len)
        } else {
            std::mem::take(&mut self.left)
        };
        let len = snap::raw::decompress_len(&compressed)?;
        if len > SNAPPY_BLOCK_BYTES_MAX {
            return Err(damaged("a block of snappy is too large"));
        }
        self.block.resize(len, 0);
        let written = snap::raw::Decoder::new().decompress(&compressed, &mut self.block)?;
        self.block.truncate(written);
        self.at = 0;
        Ok(())
    }
}

impl Read for SnappyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.left.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let read = into.len().min(self.block.len() - self.at);
        into[..read].copy_from_slice(&self.block[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"to be or not to be";

    fn read(codec: i16, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let stream = decompressed(codec, bytes.into())?;
        stream.expect("a codec").read_to_end(&mut text)?;
        Ok(text)
    }

    fn snappy(text: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(text).expect("snappy")
    }

    #[test]
    fn each_codec_gives_the_bytes_back() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(TEXT).expect("gzip");
        assert_eq!(read(1, gzip.finish().expect("gzip")).expect("gzip"), TEXT);
        assert_eq!(read(2, snappy(TEXT)).expect("snappy"), TEXT);
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(TEXT).expect("lz4");
        assert_eq!(read(3, lz4.finish().expect("lz4")).expect("lz4"), TEXT);
        let zstd = zstd::encode_all(TEXT, 1).expect("zstd");
        assert_eq!(read(4, zstd).expect("zstd"), TEXT);
        assert!(decompressed(0, Bytes::new()).expect("no codec").is_none());
        assert!(decompressed(5, Bytes::new()).is_err());
    }

    #[test]
    fn framed_snappy_is_read_block_by_block() {
        let mut framed = XERIAL_MAGIC.to_vec();
        framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for half in TEXT.chunks(TEXT.len() / 2) {
            let block = snappy(half);
            framed.extend((block.len() as u32).to_be_bytes());
            framed.extend(block);
        }
        assert_eq!(read(2, framed.clone()).expect("snappy"), TEXT);
        framed.truncate(framed.len() - 1);
        assert!(read(2, framed).is_err());
    }
}
