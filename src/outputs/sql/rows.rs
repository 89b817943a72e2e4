//! The rows of an epoch between the worker that encodes them and the transaction that inserts them.
//!
//! ```text
//! counts   length of the word (4 bytes), count (8), SHA-256 of the word (32), the word
//! lines    length of the line (4 bytes), the line
//! ```
//!
//! The rows of a part are sorted by SHA-256, the primary key of the table, because a database
//! inserts sorted keys faster than others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::{EpochRows, Row, RowKind};
use crate::outputs::negative::negative;
use crate::outputs::output::EncodedPart;
use crate::store::{Body, StoreError, StoreErrorKind};
use crate::words;

/// The length of a key.
pub const KEY_BYTES: usize = 32;
/// The length of the chunks of encoded rows. A part is never one allocation.
const CHUNK_BYTES: usize = 256 << 10;
/// The length of what stands before a word, and before a line.
const COUNT_HEAD: usize = 4 + 8 + KEY_BYTES;
const LINE_HEAD: usize = 4;

/// Returns the key of a word: its SHA-256.
pub fn key(word: &[u8]) -> [u8; KEY_BYTES] {
    Sha256::digest(word).into()
}

/// Returns a word as text, with ill-formed UTF-8 replaced as the text formats replace it.
pub fn as_text(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(word)
}

/// Returns the encoded parts that have rows, ascending.
///
/// # Errors
///
/// `Failed` for a row that is not of `kind`, or with a negative count.
pub fn encode(kind: RowKind, sets: &[EpochRows], parts: u32) -> Result<Vec<EncodedPart>> {
    let mut open: BTreeMap<u32, OpenTable> = BTreeMap::new();
    let mut failed = None;
    for set in sets {
        set.rows.for_each(&mut |row| {
            let added = match row {
                Row::Count { hash, word, count } => {
                    counted(kind, &mut open, words::part(hash, parts), word, count)
                }
                Row::Ranked { word, count } => counted(kind, &mut open, 0, word, count),
                Row::Line { part, line } => {
                    open.entry(part).or_default().line(line);
                    if kind == RowKind::Lines { Ok(()) } else { Err(mixed(kind)) }
                }
            };
            if let Err(error) = added {
                failed.get_or_insert(error);
            }
        });
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(open.into_iter().map(|(part, open)| open.close(part)).collect()),
    }
}

/// Adds a word to its part.
fn counted(
    kind: RowKind,
    open: &mut BTreeMap<u32, OpenTable>,
    part: u32,
    word: &[u8],
    count: i64,
) -> Result<()> {
    if count < 0 {
        return Err(negative(word, count));
    }
    if kind != RowKind::Counts {
        return Err(mixed(kind));
    }
    open.entry(part).or_default().word(word, count);
    Ok(())
}

/// Returns the error of a row that the table has no columns for.
fn mixed(kind: RowKind) -> Error {
    let (found, declared) = match kind {
        RowKind::Counts => ("a line without a count", "words with counts"),
        RowKind::Lines => ("a word with a count", "lines"),
    };
    let message = format!("the definition publishes {found}, and the table is one of {declared}");
    Error::new(ErrorKind::Failed, message)
        .hint("declare what it publishes with `JobBuilder::publishes_lines`")
}

/// A part to which rows are being added.
#[derive(Default)]
struct OpenTable {
    /// Keys, counts and places of words in `text`.
    words: Vec<([u8; KEY_BYTES], i64, usize, usize)>,
    text: Vec<u8>,
    chunks: Vec<Bytes>,
    chunk: Vec<u8>,
    rows: u64,
}

impl OpenTable {
    fn word(&mut self, word: &[u8], count: i64) {
        self.words.push((key(word), count, self.text.len(), word.len()));
        self.text.extend_from_slice(word);
    }

    fn line(&mut self, line: &[u8]) {
        self.chunk.extend_from_slice(&(line.len() as u32).to_le_bytes());
        self.chunk.extend_from_slice(line);
        self.end_row();
    }

    /// Counts a row, and moves the chunk away if it is full.
    fn end_row(&mut self) {
        self.rows += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + 4096));
            self.chunks.push(full.into());
        }
    }

    /// Returns the part, with its words sorted by key.
    fn close(mut self, part: u32) -> EncodedPart {
        let mut words = std::mem::take(&mut self.words);
        words.sort_unstable_by_key(|word| word.0);
        let text = std::mem::take(&mut self.text);
        for (key, count, start, length) in words {
            self.chunk.extend_from_slice(&(length as u32).to_le_bytes());
            self.chunk.extend_from_slice(&count.to_le_bytes());
            self.chunk.extend_from_slice(&key);
            self.chunk.extend_from_slice(&text[start..start + length]);
            self.end_row();
        }
        self.chunks.push(self.chunk.into());
        EncodedPart { part, rows: self.rows, body: Body::from_chunks(self.chunks) }
    }
}

/// One row on its way into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagedRow<'a> {
    /// A word.
    Word {
        /// Its key.
        key: &'a [u8; KEY_BYTES],
        /// Its count.
        count: i64,
        /// The word.
        word: &'a [u8],
    },
    /// A line.
    Line {
        /// Its number in the epoch, from 0.
        number: i64,
        /// The line.
        line: &'a [u8],
    },
}

/// The rows of one epoch, for one insertion. A clone reads them from the beginning.
#[derive(Clone, Debug)]
pub struct StagedRows {
    /// The kind of the rows.
    pub kind: RowKind,
    /// The epoch, for tables that have a column for it.
    pub epoch: Option<Epoch>,
    /// The parts, in their order.
    pub parts: Vec<Body>,
}

impl StagedRows {
    /// Returns a reader at the first row.
    pub fn reader(&self) -> RowReader {
        let pieces: Vec<_> = self.parts.iter().map(Body::pieces).collect();
        RowReader {
            kind: self.kind,
            pieces: Box::new(pieces.into_iter().flatten()),
            carry: Vec::new(),
            number: 0,
        }
    }
}

/// Reads staged rows piece by piece, so that an epoch on disk never is in memory as a whole.
pub struct RowReader {
    kind: RowKind,
    pieces: Box<dyn Iterator<Item = io::Result<Bytes>> + Send>,
    /// The beginning of a row whose end is in the next piece.
    carry: Vec<u8>,
    /// The number of the next line.
    number: i64,
}

impl RowReader {
    /// Calls `visit` with the rows of the next piece. Returns false after the last one.
    ///
    /// # Errors
    ///
    /// Those of reading a body that is on disk, and those of `visit`.
    pub fn next_piece<E>(
        &mut self,
        mut visit: impl FnMut(StagedRow<'_>) -> Result<(), E>,
    ) -> Result<bool, E>
    where
        E: From<io::Error>,
    {
        let Some(piece) = self.pieces.next() else {
            if self.carry.is_empty() {
                return Ok(false);
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        let piece = piece?;
        let carried = std::mem::take(&mut self.carry);
        let joined =
            if carried.is_empty() { piece } else { [&carried[..], &piece].concat().into() };
        let mut rest = &joined[..];
        while let Some((row, length)) = parse(self.kind, self.number, rest) {
            visit(row)?;
            self.number += 1;
            rest = &rest[length..];
        }
        self.carry = rest.to_vec();
        Ok(true)
    }
}

/// Returns the row at the beginning of `bytes` and its length. `None` if its end is not there.
fn parse(kind: RowKind, number: i64, bytes: &[u8]) -> Option<(StagedRow<'_>, usize)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    match kind {
        RowKind::Counts => {
            let word = bytes.get(COUNT_HEAD..COUNT_HEAD + length)?;
            let count = i64::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
            let key = bytes.get(12..)?.first_chunk()?;
            Some((StagedRow::Word { key, count, word }, COUNT_HEAD + length))
        }
        RowKind::Lines => {
            let line = bytes.get(LINE_HEAD..LINE_HEAD + length)?;
            Some((StagedRow::Line { number, line }, LINE_HEAD + length))
        }
    }
}

/// Returns the error of a body on disk that cannot be read.
pub fn unreadable(error: &io::Error) -> StoreError {
    let message = format!("results that wait on disk cannot be read: {error}");
    StoreError::new(StoreErrorKind::Disk, message).hint("see --state")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::operators::RowSet;

    /// Literal rows.
    struct Literal(Vec<(&'static [u8], Option<i64>)>);

    impl RowSet for Literal {
        fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
            for (text, count) in &self.0 {
                visit(match count {
                    Some(count) => {
                        Row::Count { hash: words::hash(text), word: text, count: *count }
                    }
                    None => Row::Line { part: text.len() as u32 % 2, line: text },
                });
            }
        }
    }

    fn encoded(kind: RowKind, rows: Vec<(&'static [u8], Option<i64>)>) -> Result<Vec<EncodedPart>> {
        encode(kind, &[EpochRows { epoch: 1, rows: Arc::new(Literal(rows)) }], 2)
    }

    #[test]
    fn words_come_back_sorted_by_key() {
        let words: [&[u8]; 4] = [b"", b"a\0b", b"tide", "\u{1f30a}".as_bytes()];
        let rows = words.map(|word| (word, Some(word.len() as i64))).to_vec();
        let parts = encoded(RowKind::Counts, rows).expect("counts");
        // Single bytes as pieces: a row may end anywhere.
        let bytes: Vec<u8> =
            parts.iter().flat_map(|part| part.body.load().expect("memory").concat()).collect();
        let body = Body::from_chunks(bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])));
        let staged = StagedRows { kind: RowKind::Counts, epoch: None, parts: vec![body] };
        let (mut reader, mut found) = (staged.reader(), Vec::new());
        let mut visit = |row: StagedRow<'_>| {
            let StagedRow::Word { key: found_key, count, word } = row else { panic!("{row:?}") };
            assert_eq!((*found_key, count), (key(word), word.len() as i64));
            found.push(word.to_vec());
            Ok::<_, io::Error>(())
        };
        while reader.next_piece(&mut visit).expect("whole rows") {}
        found.sort();
        assert_eq!(found, words);
    }

    #[test]
    fn lines_are_numbered_through_all_parts() {
        let rows = [&b"one"[..], b"", b"four", b"x"].map(|line| (line, None)).to_vec();
        let parts = encoded(RowKind::Lines, rows).expect("lines");
        let parts = parts.into_iter().map(|part| part.body).collect();
        let (mut reader, mut found) =
            (StagedRows { kind: RowKind::Lines, epoch: Some(1), parts }.reader(), Vec::new());
        let mut visit = |row: StagedRow<'_>| {
            let StagedRow::Line { number, line } = row else { panic!("{row:?}") };
            found.push((number, String::from_utf8_lossy(line).into_owned()));
            Ok::<_, io::Error>(())
        };
        while reader.next_piece(&mut visit).expect("whole rows") {}
        let expected = [(0, ""), (1, "four"), (2, "one"), (3, "x")];
        assert_eq!(found, expected.map(|(number, line)| (number, line.to_owned())));
    }

    #[test]
    fn rows_of_other_kind_are_refused() {
        for (kind, count) in [(RowKind::Counts, None), (RowKind::Lines, Some(1))] {
            let error = encoded(kind, vec![(b"x", count)]).expect_err("another kind");
            assert!(error.to_string().contains("publishes_lines"), "{error}");
        }
        encoded(RowKind::Counts, vec![(b"x", Some(-1))]).expect_err("a negative count");
    }
}
