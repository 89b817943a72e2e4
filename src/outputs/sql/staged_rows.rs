//! The rows of an epoch between the dataflow that counts them and the transaction that inserts
//! them.
//!
//! ```text
//! rows ─► [columns] ─► [stage: key, sort] ─► results ─► [merge, encode a piece] ─► session
//!         in square brackets: on threads that may block
//! ```
//!
//! Rows are first copied, in the form that files of columns are made of. [`stage`] gives each word
//! its key and sorts the rows of a part by it, and a [`StagedReader`] merges the parts, because a
//! database inserts sorted keys faster than others. A staged word is a row of columns whose text is
//! the key and then the word.

mod merge_parts;
mod staged_row;

use std::borrow::Cow;
use std::fmt;
use std::io;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use sha2::{Digest, Sha256};

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind};
use crate::operators::RowKind;
use crate::outputs::objects::{CHUNK_BYTES, RowBatch, begin_columns, push_row, read_rows};
use crate::store::{Body, StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

pub use merge_parts::StagedReader;
pub use staged_row::{KEY_BYTES, StagedRow};

/// Returns the key of a word: its SHA-256.
fn key(word: &[u8]) -> [u8; KEY_BYTES] {
    Sha256::digest(word).into()
}

/// Returns a word as text, with ill-formed UTF-8 replaced as the text formats replace it.
pub fn as_text(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(word)
}

/// Returns the staged form of a part, whose rows were copied. It blocks.
///
/// # Errors
///
/// `Failed` for rows that are not of `kind`, and `Disk` if a body on disk cannot be read back.
pub fn stage(kind: RowKind, written: &Body) -> Result<Body, Error> {
    let (found, mut rows) = read_rows(written).map_err(|error| Error::from(unreadable(&error)))?;
    if found != kind {
        return Err(mixed(kind));
    }
    if kind == RowKind::Lines {
        return Ok(written.clone());
    }
    let (mut batch, mut words) = (RowBatch::default(), Vec::new());
    loop {
        rows.fill(&mut batch).map_err(|error| Error::from(unreadable(&error)))?;
        if batch.texts.is_empty() {
            break;
        }
        let texts = batch.texts.drain(..);
        words.extend(texts.zip(&batch.counts).map(|(word, count)| (key(&word), *count, word)));
    }
    words.sort_unstable_by_key(|word| word.0);
    let (mut chunks, mut chunk, mut text) = (Vec::new(), Vec::new(), Vec::new());
    begin_columns(kind, &mut chunk);
    for (key, count, word) in words {
        text.clear();
        text.extend_from_slice(&key);
        text.extend_from_slice(&word);
        push_row(&text, count, &mut chunk);
        // A part is never one allocation.
        if chunk.len() >= CHUNK_BYTES {
            chunks.push(std::mem::take(&mut chunk).into());
        }
    }
    chunks.push(Bytes::from(chunk));
    Ok(Body::from_chunks(chunks))
}

/// Returns the error of rows that the table has no columns for.
fn mixed(kind: RowKind) -> Error {
    let (found, declared) = match kind {
        RowKind::Counts => ("lines without counts", "words with counts"),
        RowKind::Lines => ("words with counts", "lines"),
    };
    let message = format!("the definition publishes {found}, and the table is one of {declared}");
    Error::new(ErrorKind::Failed, message)
        .hint("declare what it publishes with `JobBuilder::publishes_lines`")
}

/// The rows of one epoch, for one insertion. A clone reads them from the beginning.
#[derive(Clone, Debug)]
pub struct StagedRows {
    /// The kind of the rows.
    pub kind: RowKind,
    /// The epoch, for tables that have a column for it.
    pub epoch: Option<Epoch>,
    /// The staged parts, in their order.
    pub parts: Vec<Body>,
}

impl StagedRows {
    /// Returns a reader at the first row.
    pub fn reader(&self) -> StagedReader {
        StagedReader::new(self.kind, self.parts.clone())
    }

    /// Returns the rows as pieces that `encoder` makes of them, for a session that sends them.
    pub fn pieces<E: RowEncoder>(&self, encoder: E) -> RowPieces<E> {
        RowPieces { running: Some(begin(self.reader(), encoder)) }
    }
}

/// Encodes rows in the form in which a session sends them.
pub trait RowEncoder: Send + 'static {
    /// The unit in which rows are sent.
    type Piece: Send + 'static;

    /// Adds a row.
    fn row(&mut self, row: StagedRow<'_>);

    /// Returns what was encoded since the last call. `is_last` is set after the last row.
    fn take(&mut self, is_last: bool) -> Self::Piece;
}

/// A piece, and what makes the next one; `None` after the last piece.
type Encoded<E> = (<E as RowEncoder>::Piece, Option<(StagedReader, E)>);

/// The encoded pieces of an insertion. While the caller sends one, the next is encoded.
pub struct RowPieces<E: RowEncoder> {
    /// The encoding of the next piece. `None` after the last piece.
    running: Option<BoxFuture<'static, io::Result<Encoded<E>>>>,
}

impl<E: RowEncoder> fmt::Debug for RowPieces<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowPieces").field("has_more", &self.running.is_some()).finish()
    }
}

/// Begins to encode a piece on a thread that may block.
fn begin<E: RowEncoder>(
    mut reader: StagedReader,
    mut encoder: E,
) -> BoxFuture<'static, io::Result<Encoded<E>>> {
    let encoded = supervise::blocking(move || {
        let has_more = reader.next_batch(|row| {
            encoder.row(row);
            Ok::<_, io::Error>(())
        })?;
        Ok((encoder.take(!has_more), has_more.then_some((reader, encoder))))
    });
    encoded.boxed()
}

impl<E: RowEncoder> RowPieces<E> {
    /// Returns the next piece. `None` after the last one.
    ///
    /// # Errors
    ///
    /// `Disk` if a body on disk cannot be read back.
    pub async fn next(&mut self) -> StoreResult<Option<E::Piece>> {
        self.read().await.map_err(|error| unreadable(&error))
    }

    /// Returns the next piece. `None` after the last one.
    ///
    /// # Errors
    ///
    /// Those of reading a body that is on disk.
    pub async fn read(&mut self) -> io::Result<Option<E::Piece>> {
        // It stays where it is while it is waited for: who stops waiting loses no piece.
        let Some(running) = &mut self.running else { return Ok(None) };
        let encoded = running.await;
        self.running = None;
        let (piece, rest) = encoded?;
        self.running = rest.map(|(reader, encoder)| begin(reader, encoder));
        Ok(Some(piece))
    }
}

/// Returns the error of a body on disk that cannot be read.
pub fn unreadable(error: &io::Error) -> StoreError {
    let message = format!("results that wait on disk cannot be read: {error}");
    StoreError::new(StoreErrorKind::Disk, message).hint("see --state")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: RowKind, rows: &[(&[u8], i64)]) -> Body {
        let mut bytes = Vec::new();
        begin_columns(kind, &mut bytes);
        rows.iter().for_each(|(text, count)| push_row(text, *count, &mut bytes));
        // Single bytes as pieces: a row may end anywhere.
        Body::from_chunks(bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])))
    }

    fn staged(kind: RowKind, parts: &[&[(&[u8], i64)]]) -> StagedRows {
        let parts = parts.iter().map(|rows| stage(kind, &written(kind, rows)).expect("rows"));
        StagedRows { kind, epoch: Some(1), parts: parts.collect() }
    }

    #[test]
    fn words_come_back_sorted_by_key() {
        let words: [&[u8]; 4] = [b"", b"a\0b", b"tide", "\u{1f30a}".as_bytes()];
        let rows = words.map(|word| (word, word.len() as i64));
        let (mut reader, mut found) =
            (staged(RowKind::Counts, &[&rows]).reader(), Vec::<([u8; 32], Vec<u8>)>::new());
        let mut visit = |row: StagedRow<'_>| {
            let StagedRow::Word { key: found_key, count, word } = row else { panic!("{row:?}") };
            assert_eq!((*found_key, count), (key(word), word.len() as i64));
            found.push((*found_key, word.to_vec()));
            Ok::<_, io::Error>(())
        };
        while reader.next_batch(&mut visit).expect("whole rows") {}
        assert!(found.is_sorted());
        let mut found: Vec<_> = found.into_iter().map(|(_, word)| word).collect();
        found.sort();
        assert_eq!(found, words);
    }

    #[test]
    fn parts_merge_in_the_order_of_keys() {
        // More than a batch, in more parts than are merged at a time; some parts are empty.
        let words: Vec<String> = (0..20_000).map(|word| format!("w{word}")).collect();
        let parts: Vec<Vec<(&[u8], i64)>> = (0..20)
            .map(|part| {
                let of_part = words.iter().enumerate().filter(|(word, _)| word % 19 == part);
                of_part.map(|(number, word)| (word.as_bytes(), number as i64)).collect()
            })
            .collect();
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let (mut reader, mut keys) = (staged(RowKind::Counts, &parts).reader(), Vec::new());
        let mut found = std::collections::BTreeMap::new();
        let mut visit = |row: StagedRow<'_>| {
            let StagedRow::Word { key: found_key, count, word } = row else { panic!("{row:?}") };
            assert_eq!(*found_key, key(word));
            keys.push(*found_key);
            found.insert(count, String::from_utf8_lossy(word).into_owned());
            Ok::<_, io::Error>(())
        };
        while reader.next_batch(&mut visit).expect("whole rows") {}
        assert_eq!(keys.len(), words.len());
        assert!(found.into_values().eq(words.iter().cloned()));
        let descents = keys.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert_eq!(descents, 1, "two groups of parts");
    }

    #[test]
    fn lines_are_numbered_through_all_parts() {
        let parts: [&[(&[u8], i64)]; 3] = [&[(b"one", 0), (b"", 0)], &[], &[(b"x", 0)]];
        let (mut reader, mut found) = (staged(RowKind::Lines, &parts).reader(), Vec::new());
        let mut visit = |row: StagedRow<'_>| {
            let StagedRow::Line { number, line } = row else { panic!("{row:?}") };
            found.push((number, String::from_utf8_lossy(line).into_owned()));
            Ok::<_, io::Error>(())
        };
        while reader.next_batch(&mut visit).expect("whole rows") {}
        let expected = [(0, "one"), (1, ""), (2, "x")];
        assert_eq!(found, expected.map(|(number, line)| (number, line.to_owned())));
    }

    #[test]
    fn rows_of_other_kind_are_refused() {
        for (kind, other) in [(RowKind::Counts, RowKind::Lines), (RowKind::Lines, RowKind::Counts)]
        {
            let error = stage(kind, &written(other, &[(b"x", 1)])).expect_err("another kind");
            assert!(error.to_string().contains("publishes_lines"), "{error}");
        }
    }

    /// Joins words with commas, and ends with a dot.
    struct Commas(Vec<u8>);

    impl RowEncoder for Commas {
        type Piece = Vec<u8>;

        fn row(&mut self, row: StagedRow<'_>) {
            let StagedRow::Line { line, .. } = row else { panic!("{row:?}") };
            self.0.extend_from_slice(&[line, b","].concat());
        }

        fn take(&mut self, is_last: bool) -> Vec<u8> {
            self.0.extend_from_slice(if is_last { b"." } else { b"" });
            std::mem::take(&mut self.0)
        }
    }

    #[tokio::test]
    async fn pieces_end_with_the_last() {
        let parts: [&[(&[u8], i64)]; 2] = [&[(b"one", 0)], &[(b"two", 0)]];
        let mut pieces = staged(RowKind::Lines, &parts).pieces(Commas(Vec::new()));
        let mut found = Vec::new();
        while let Some(piece) = pieces.next().await.expect("rows in memory") {
            found.push(String::from_utf8(piece).expect("text"));
        }
        assert_eq!(found, ["one,two,", "."]);
    }
}
