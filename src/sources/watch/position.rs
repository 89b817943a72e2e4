//! The position of a source among its files, as the ends of epochs record it.

use super::found_file::shown;
use crate::error::{Error, ErrorKind, Result};

/// All files with a lower number were read, and so many bytes of the text of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePosition {
    /// The number of a file in the ledger.
    pub number: u64,
    /// The first byte of its text that was not read.
    pub offset: u64,
}

/// The first byte of an encoded position: the version of the encoding.
const FORMAT: u8 = 1;

impl FilePosition {
    /// Returns the position before any byte of the file with this number.
    pub fn before(number: u64) -> FilePosition {
        FilePosition { number, offset: 0 }
    }

    /// Encodes the position for a record of the log.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Decodes a position; nothing is the position before the first file.
    ///
    /// # Errors
    ///
    /// `Disk` for bytes that are no position.
    pub fn decode(bytes: &[u8]) -> Result<FilePosition> {
        if bytes.is_empty() {
            return Ok(FilePosition::default());
        }
        let fields = bytes.strip_prefix(&[FORMAT]).and_then(|fields| {
            let (number, offset) = fields.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*number), u64::from_le_bytes(offset.try_into().ok()?)))
        });
        let (number, offset) = fields.ok_or_else(|| {
            let message = format!("the journal holds no position of files: {:?}", shown(bytes));
            Error::new(ErrorKind::Disk, message).hint("was it written by a newer version?")
        })?;
        Ok(FilePosition { number, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_reads_back() {
        let position = FilePosition { number: 1 << 40, offset: 77 };
        assert_eq!(FilePosition::decode(&position.encode()).expect("encoded"), position);
        assert_eq!(FilePosition::decode(&[]).expect("the first"), FilePosition::before(0));
        for bytes in [&b"x"[..], &[1, 2], &[2; 17]] {
            assert_eq!(FilePosition::decode(bytes).expect_err("none").kind(), ErrorKind::Disk);
        }
    }
}
