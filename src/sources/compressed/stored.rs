//! A regular file as the bytes that a text is made of.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::text::Stored;

/// The bytes of a file, read at places of its own.
pub struct StoredFile {
    /// The open file, which others may read, too.
    file: Arc<File>,
    /// Where the next byte is read.
    at: u64,
    /// The number of bytes that are read; `None` for all there are.
    bytes: Option<u64>,
}

impl StoredFile {
    /// Returns all bytes of `file`.
    pub fn whole(file: Arc<File>) -> StoredFile {
        StoredFile { file, at: 0, bytes: None }
    }

    /// Returns the first `bytes` bytes of `file`. If it has fewer when they are read, reading fails
    /// with `InvalidData`.
    pub fn first(file: File, bytes: u64) -> StoredFile {
        StoredFile { file: Arc::new(file), at: 0, bytes: Some(bytes) }
    }
}

impl Read for StoredFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.at));
        let most = left.min(into.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut into[..most], self.at)?;
        if read == 0 && self.bytes.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has become shorter"));
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Stored for StoredFile {
    fn seek_to(&mut self, offset: u64) {
        self.at = offset;
    }
}
