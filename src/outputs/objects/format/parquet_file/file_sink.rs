//! The bytes of a file that are written, and their number: metadata has the positions of pages.

use std::io::Write;

use super::thrift::ThriftWriter;
use crate::outputs::objects::format::compression::ChunkWriter;
use crate::store::Body;

/// The chunks of the file, and how much is written.
#[derive(Debug, Default)]
pub struct FileSink {
    chunks: ChunkWriter,
    written: u64,
}

impl FileSink {
    /// Returns the length of what is written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        // Memory takes all bytes.
        let _ = self.chunks.write(bytes);
        self.written += bytes.len() as u64;
    }

    /// Returns the file.
    pub fn finish(self) -> Body {
        self.chunks.finish()
    }

    /// Appends a structure. Returns its position and its length.
    pub fn put_struct(&mut self, content: ThriftWriter) -> (u64, usize) {
        let (offset, bytes) = (self.written, content.finish());
        self.put(&bytes);
        (offset, bytes.len())
    }
}
