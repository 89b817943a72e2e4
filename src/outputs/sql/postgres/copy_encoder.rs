//! The binary format of `COPY`: a head, rows of fields with lengths, a tail.

use bytes::Bytes;

use super::super::staged_rows::{RowEncoder, StagedRow, as_text};
use crate::epoch::Epoch;

/// The first bytes: signature, flags, and the length of an extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The last bytes: a row of -1 fields.
const TAIL: [u8; 2] = [0xff, 0xff];

/// Encodes rows for `COPY`.
#[derive(Debug)]
pub struct CopyEncoder {
    /// The encoded rows.
    bytes: Vec<u8>,
    /// The epoch of every row, if the table has a column for it.
    epoch: Option<i64>,
}

impl CopyEncoder {
    /// Returns an encoder that has the head.
    pub fn new(epoch: Option<Epoch>) -> CopyEncoder {
        CopyEncoder { bytes: HEAD.to_vec(), epoch: epoch.map(|epoch| epoch as i64) }
    }

    /// Adds a field.
    fn field(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }
}

impl RowEncoder for CopyEncoder {
    type Piece = Bytes;

    /// Encodes a row: the number of fields, then each with its length.
    fn row(&mut self, row: StagedRow<'_>) {
        let fields: u16 =
            3 + u16::from(matches!(row, StagedRow::Word { .. }) && self.epoch.is_some());
        self.bytes.extend_from_slice(&fields.to_be_bytes());
        if let Some(epoch) = self.epoch {
            self.field(&epoch.to_be_bytes());
        }
        match row {
            StagedRow::Word { key, count, word } => {
                let text = as_text(word);
                if text.as_bytes().contains(&0) {
                    // A text of PostgreSQL cannot hold U+0000. The key is that of the word itself.
                    self.field(text.replace('\0', "\u{2400}").as_bytes());
                } else {
                    self.field(text.as_bytes());
                }
                self.field(key);
                self.field(&count.to_be_bytes());
            }
            StagedRow::Line { number, line } => {
                self.field(&number.to_be_bytes());
                self.field(line);
            }
        }
    }

    /// Takes the encoded bytes; the last ones end with the tail.
    fn take(&mut self, is_last: bool) -> Bytes {
        if is_last {
            self.bytes.extend_from_slice(&TAIL);
        }
        let capacity = self.bytes.len();
        std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_becomes_its_symbol_and_key_stays() {
        let mut encoder = CopyEncoder::new(None);
        encoder.row(StagedRow::Word { key: &[7; 32], count: 2, word: b"a\0b" });
        let bytes = encoder.take(true);
        let row = &bytes[HEAD.len()..];
        assert_eq!(row[..2], [0, 3]);
        assert_eq!(&row[2..11], [&[0, 0, 0, 5][..], "a\u{2400}b".as_bytes()].concat());
        assert_eq!(&row[row.len() - 2..], TAIL);
    }
}
