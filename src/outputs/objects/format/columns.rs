//! Rows as bytes, for a format that is written column by column, and for outputs without files.
//!
//! Rows are first copied, one after the other, into chunks of a [`Body`]. The file is encoded and
//! compressed from them later. The body may have been on disk meanwhile, so a row may lie in two of
//! its pieces. All of that happens on threads that may block, and not on the workers.
//!
//! ```text
//! body = kind, row …      row = length of text (u32), count (i64, 0 for lines), text
//! ```

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::operators::RowKind;
use crate::store::Body;

/// The length of what precedes the text of a row.
const HEAD_BYTES: usize = 12;

/// A batch ends with the row that reaches one of these limits. They depend on the rows alone, and
/// so does the file that is made of the batches.
const BATCH_ROWS: usize = 8 << 10;
const BATCH_TEXT_BYTES: usize = 1 << 20;

/// The longest text of a row. Parquet counts the bytes of a page in 31 bits.
pub const ROW_BYTES_MAX: usize = 1 << 30;

/// Returns the first byte of a body.
fn tag(kind: RowKind) -> u8 {
    match kind {
        RowKind::Counts => b'c',
        RowKind::Lines => b'l',
    }
}

/// Appends what precedes all rows.
pub fn begin(kind: RowKind, out: &mut Vec<u8>) {
    out.push(tag(kind));
}

/// Appends a row, whose text has at most [`ROW_BYTES_MAX`] bytes.
pub fn push_row(text: &[u8], count: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(text);
}

/// Consecutive rows of a part.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// The texts.
    pub texts: Vec<Bytes>,
    /// The count of each row; 0 for lines.
    pub counts: Vec<i64>,
    /// The length of all texts.
    pub text_bytes: usize,
}

impl RowBatch {
    /// Removes all rows and keeps the memory of the lists.
    fn clear(&mut self) {
        self.texts.clear();
        self.counts.clear();
        self.text_bytes = 0;
    }

    /// Returns true if no row may be added.
    fn is_full(&self) -> bool {
        self.texts.len() >= BATCH_ROWS || self.text_bytes >= BATCH_TEXT_BYTES
    }
}

/// Reads the rows of a body back.
pub struct RowReader {
    /// The pieces of the body, some of which may be on disk.
    pieces: Box<dyn Iterator<Item = io::Result<Bytes>> + Send>,
    /// Bytes that were read and not returned.
    rest: Bytes,
}

impl fmt::Debug for RowReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowReader").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

/// Returns the kind of the rows in `body`, and a reader of them.
///
/// # Errors
///
/// Those of reading the file that holds the body; `InvalidData` for bytes that are no rows.
pub fn read(body: &Body) -> io::Result<(RowKind, RowReader)> {
    let mut pieces = Box::new(body.pieces());
    let mut rest = pieces.next().transpose()?.unwrap_or_default();
    let first = (!rest.is_empty()).then(|| rest.split_to(1));
    let kind = match first.as_deref() {
        Some(b"c") => RowKind::Counts,
        Some(b"l") => RowKind::Lines,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok((kind, RowReader { pieces, rest }))
}

impl RowReader {
    /// Fills `batch` with the next rows. It has none at the end.
    ///
    /// # Errors
    ///
    /// Those of [`read`].
    pub fn fill(&mut self, batch: &mut RowBatch) -> io::Result<()> {
        batch.clear();
        while !batch.is_full() {
            if let Some((count, text)) = self.take_row() {
                batch.text_bytes += text.len();
                batch.texts.push(text);
                batch.counts.push(count);
            } else if !self.read_more()? {
                break;
            }
        }
        Ok(())
    }

    /// Removes the next row, if all of it was read.
    fn take_row(&mut self) -> Option<(i64, Bytes)> {
        let end = row_end(&self.rest).filter(|end| *end <= self.rest.len())?;
        let row = self.rest.split_to(end);
        let count = i64::from_le_bytes(row[4..HEAD_BYTES].try_into().ok()?);
        Some((count, row.slice(HEAD_BYTES..)))
    }

    /// Reads on until the next row is whole. Returns false at the end.
    fn read_more(&mut self) -> io::Result<bool> {
        let Some(piece) = self.pieces.next().transpose()? else {
            // The last row was whole, or the body is cut off.
            let is_end = self.rest.is_empty();
            return if is_end { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        if self.rest.is_empty() {
            self.rest = piece;
            return Ok(true);
        }
        // A long row is joined once, and not again with each piece.
        let mut joined = Vec::from(std::mem::take(&mut self.rest));
        joined.extend_from_slice(&piece);
        while row_end(&joined).is_none_or(|end| end > joined.len()) {
            let Some(piece) = self.pieces.next().transpose()? else { break };
            joined.extend_from_slice(&piece);
        }
        self.rest = joined.into();
        Ok(true)
    }
}

/// Returns the end of the row that begins `bytes`, if its head is there.
fn row_end(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    (bytes.len() >= HEAD_BYTES).then_some(HEAD_BYTES + length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_from_pieces_of_any_length() {
        let rows: Vec<(String, i64)> =
            (0..300).map(|row| ("x".repeat(row % 40), row as i64 - 7)).collect();
        let mut bytes = Vec::new();
        begin(RowKind::Counts, &mut bytes);
        rows.iter().for_each(|(text, count)| push_row(text.as_bytes(), *count, &mut bytes));
        for length in [1, 7, 50, 1000, bytes.len()] {
            let body = Body::from_chunks(bytes.chunks(length).map(Bytes::copy_from_slice));
            let (kind, mut reader) = read(&body).expect("a body");
            assert_eq!(kind, RowKind::Counts);
            let (mut batch, mut found) = (RowBatch::default(), Vec::new());
            loop {
                reader.fill(&mut batch).expect("rows");
                if batch.texts.is_empty() {
                    break;
                }
                let texts =
                    batch.texts.iter().map(|text| String::from_utf8_lossy(text).into_owned());
                found.extend(texts.zip(batch.counts.clone()));
            }
            assert_eq!(found, rows, "pieces of {length}");
        }
    }

    #[test]
    fn batches_are_cut_by_their_rows_alone() {
        let sizes = |length: usize| {
            let mut bytes = Vec::new();
            begin(RowKind::Lines, &mut bytes);
            (0..BATCH_ROWS + 100).for_each(|_| push_row(b"line", 0, &mut bytes));
            (0..3).for_each(|_| push_row(&vec![b'x'; BATCH_TEXT_BYTES], 0, &mut bytes));
            let body = Body::from_chunks(bytes.chunks(length).map(Bytes::copy_from_slice));
            let (_, mut reader) = read(&body).expect("a body");
            let (mut batch, mut sizes) = (RowBatch::default(), Vec::new());
            loop {
                reader.fill(&mut batch).expect("rows");
                if batch.texts.is_empty() {
                    return sizes;
                }
                sizes.push(batch.texts.len());
            }
        };
        assert_eq!(sizes(1 << 20), [BATCH_ROWS, 101, 1, 1]);
        assert_eq!(sizes(100_001), [BATCH_ROWS, 101, 1, 1]);
    }

    #[test]
    fn body_that_is_cut_off_is_an_error() {
        let mut bytes = Vec::new();
        begin(RowKind::Lines, &mut bytes);
        push_row(b"line", 0, &mut bytes);
        bytes.pop();
        let (_, mut reader) = read(&Body::from(bytes)).expect("a body");
        reader.fill(&mut RowBatch::default()).expect_err("half a row");
        assert!(read(&Body::from("")).is_err());
    }
}
