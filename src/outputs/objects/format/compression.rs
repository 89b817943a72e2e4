//! Compression of parts: the text of a part becomes one gzip member or one zstd frame.
//!
//! The same text gives the same bytes. The header of a gzip member has neither a time nor a name,
//! and both levels are constants. The bytes do not depend on the pieces in which a text is kept.
//! A part without rows is a valid stream of nothing, because most readers refuse an empty file.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::GzBuilder;
use serde::{Deserialize, Serialize};
use zstd::stream::write::Encoder as ZstdEncoder;

use super::CHUNK_BYTES;
use crate::error::{Error, ErrorKind};
use crate::named_values::named_values;
use crate::store::Body;

/// The level of gzip: the default of its command.
pub const GZIP_LEVEL: u32 = 6;

/// The level of zstd: the default of its command.
pub const ZSTD_LEVEL: i32 = 3;

/// The length of the blocks that an encoder is given.
const BLOCK_BYTES: usize = 64 << 10;

/// The compression of parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// gzip, at `GZIP_LEVEL`.
    Gzip,
    /// zstd, at `ZSTD_LEVEL`.
    Zstd,
}

named_values!(Compression, "--compress", None => "none", Gzip => "gzip", Zstd => "zstd");

/// Compresses a text. It blocks; gzip takes a second for 50 MB.
///
/// # Errors
///
/// `Failed` if the encoder has no memory, or a text on disk cannot be read back.
pub fn compress(text: &Body, compression: Compression) -> Result<Body, Error> {
    let compressed = match compression {
        Compression::None => return Ok(text.clone()),
        Compression::Gzip => gzip(text),
        Compression::Zstd => zstd(text),
    };
    compressed.map_err(|error| {
        let message = format!("cannot compress a part with {compression}: {error}");
        Error::new(ErrorKind::Failed, message).cause(error).hint("see --compress")
    })
}

/// Returns one gzip member that contains `text`.
fn gzip(text: &Body) -> io::Result<Body> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    let mut encoder = GzBuilder::new().mtime(0).write(ChunkWriter::default(), level);
    in_blocks(text, |block| encoder.write_all(block))?;
    Ok(encoder.finish()?.finish())
}

/// Returns one zstd frame that contains `text`. Its header has the length, which readers need that
/// decompress in one step, and its end a checksum.
fn zstd(text: &Body) -> io::Result<Body> {
    let mut encoder = ZstdEncoder::new(ChunkWriter::default(), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(text.bytes()))?;
    in_blocks(text, |block| encoder.write_all(block))?;
    Ok(encoder.finish()?.finish())
}

/// Calls `write` with the text, in blocks whose lengths do not depend on its pieces. An encoder may
/// return other bytes for the same text in other blocks.
fn in_blocks(text: &Body, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    for piece in text.pieces() {
        let piece = piece?;
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (taken, left) = rest.split_at(rest.len().min(BLOCK_BYTES - block.len()));
            block.extend_from_slice(taken);
            rest = left;
            if block.len() == BLOCK_BYTES {
                write(&block)?;
                block.clear();
            }
        }
    }
    write(&block)
}

/// Collects the output of an encoder in chunks, so that an object is never one allocation.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    /// The chunks that are full.
    chunks: Vec<Bytes>,
    /// The chunk that is written to.
    chunk: Vec<u8>,
}

impl ChunkWriter {
    /// Returns the bytes that were written.
    pub fn finish(mut self) -> Body {
        self.chunks.push(self.chunk.into());
        Body::from_chunks(self.chunks)
    }
}

impl Write for ChunkWriter {
    /// Takes all bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.chunks.push(std::mem::take(&mut self.chunk).into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn bytes(body: &Body) -> Vec<u8> {
        body.load().expect("in memory").concat()
    }

    /// More than an encoder keeps.
    fn text() -> Vec<u8> {
        let rows = (0..200_000).map(|row| format!("word{}\t{}\n", row * 7919 % 100_003, row % 7));
        rows.collect::<String>().into_bytes()
    }

    fn compressed(text: &[u8], length: usize, compression: Compression) -> Body {
        let chunks = text.chunks(length).map(Bytes::copy_from_slice);
        compress(&Body::from_chunks(chunks), compression).expect("memory")
    }

    fn decompressed(compression: Compression, stored: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        match compression {
            Compression::None => text.extend_from_slice(stored),
            Compression::Gzip => {
                let mut decoder = flate2::read::GzDecoder::new(stored);
                decoder.read_to_end(&mut text).expect("one member");
                assert!(decoder.into_inner().is_empty(), "bytes after the member");
            }
            // In one step, by the length in the header.
            Compression::Zstd => {
                let length = zstd::zstd_safe::get_frame_content_size(stored).expect("a frame");
                let length = length.expect("the length is in the header") as usize;
                text = zstd::bulk::decompress(stored, length).expect("one frame");
            }
        }
        text
    }

    #[test]
    fn compressed_text_reads_back_whatever_its_pieces() {
        for compression in Compression::ALL {
            for text in [text(), b"a\t1\n".to_vec(), Vec::new()] {
                let body = compressed(&text, CHUNK_BYTES, compression);
                let stored = bytes(&body);
                assert_eq!(decompressed(compression, &stored), text, "{compression}");
                assert_eq!(body.bytes(), stored.len() as u64);
                assert_eq!(body.md5(), Body::from(stored.clone()).md5(), "of the stored bytes");
                for length in [CHUNK_BYTES, CHUNK_BYTES + 17, 1000] {
                    let again = compressed(&text, length, compression);
                    assert!(bytes(&again) == stored, "{compression}, pieces of {length}");
                }
            }
        }
    }

    #[test]
    fn gzip_header_has_no_time_and_name() {
        let stored = bytes(&compressed(&text(), CHUNK_BYTES, Compression::Gzip));
        assert_eq!(stored[..9], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0], "flags, time and level");
        assert!(stored.len() < text().len() / 2);
    }

    #[test]
    fn names_of_compressions_read_back() {
        for compression in Compression::ALL {
            assert_eq!(compression.to_string().parse::<Compression>().ok(), Some(compression));
        }
        let error = "bzip2".parse::<Compression>().expect_err("no such compression");
        assert!(error.to_string().contains("--compress"), "{error}");
    }
}
