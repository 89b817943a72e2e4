//! Encodes the rows of an epoch as the bytes of its parts.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::format::{
    CHUNK_BYTES, Format, PlainForm, ROW_BYTES_MAX, append_rows, begin_columns, push_row,
};
use super::part_encoding::Encoding;
use super::spare_chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::{EpochRows, Row, RowKind, Run};
use crate::outputs::negative_count::negative;
use crate::outputs::output::EncodedPart;
use crate::settings::RowOrder;
use crate::store::{Body, BodyWriter};
use crate::words;

/// The room of a chunk beyond its length: rows are written some at a time.
const CHUNK_SLACK: usize = 20 << 10;
/// Number of chunks after which a part has larger ones, which lie in huge pages.
const LARGE_AFTER: usize = 32;
/// The length of the chunks of a large part.
const LARGE_CHUNK_BYTES: usize = 4 << 20;

/// Returns the parts that have rows, ascending. Large parts are hashed on threads of `runtime`.
///
/// # Errors
///
/// `Failed` for a row that cannot be published.
pub fn encode(
    sets: &[EpochRows],
    order: RowOrder,
    encoding: Encoding,
    runtime: &Handle,
    parts: u32,
) -> Result<Vec<EncodedPart>> {
    let open = BTreeMap::new();
    let mut encoder = Encoder { order, encoding, runtime, current: None, open, error: None };
    let form = encoding.format.plain_form().filter(|_| order == RowOrder::Hash);
    for set in sets {
        match (set.rows.run(), &form) {
            (Some(run), Some(form)) => encoder.run(run, form, parts),
            _ => set.rows.for_each(&mut |row| encoder.row(row, parts)),
        }
    }
    // Parts that are sorted now may have errors, too.
    let Encoder { mut open, current, mut error, .. } = encoder;
    open.extend(current);
    let encoded = open.into_iter().map(|(part, open)| open.close(part, &mut error)).collect();
    error.map_or(Ok(encoded), Err)
}

/// Encodes the rows of one epoch.
struct Encoder<'a> {
    order: RowOrder,
    encoding: Encoding,
    runtime: &'a Handle,
    /// The part of the last row. Rows mostly come part by part.
    current: Option<(u32, OpenPart)>,
    /// The other parts.
    open: BTreeMap<u32, OpenPart>,
    /// The first error of a row.
    error: Option<Error>,
}

impl Encoder<'_> {
    /// Adds a row to its part.
    fn row(&mut self, row: Row<'_>, parts: u32) {
        let part = match row {
            Row::Count { hash, .. } => words::part(hash, parts),
            Row::Ranked { .. } => 0,
            Row::Line { part, .. } => part,
        };
        let kind = row.kind();
        if self.current.as_ref().is_none_or(|(current, _)| *current != part) {
            self.turn_to(part, kind);
        }
        let Some((_, open)) = &mut self.current else { return };
        open.rows += 1;
        if kind != open.kind {
            self.error.get_or_insert_with(mixed);
            return;
        }
        match row {
            Row::Count { word, count, .. } | Row::Ranked { word, count } if count < 0 => {
                self.error.get_or_insert_with(|| negative(word, count));
            }
            Row::Count { word, count, .. } if self.order == RowOrder::Word => {
                open.unsorted.push((word.into(), count));
            }
            Row::Count { word, count, .. } | Row::Ranked { word, count } => {
                open.count(word, count, &mut self.error);
            }
            Row::Line { line, .. } => open.line(line, &mut self.error),
        }
    }

    /// Adds the rows of a run, part by part.
    fn run(&mut self, run: &Run, form: &PlainForm, parts: u32) {
        let hashes = &run.words.hashes[..];
        let mut next = 0;
        while let Some(hash) = hashes.get(next) {
            let part = words::part(*hash, parts);
            let end =
                next + hashes[next..].partition_point(|hash| words::part(*hash, parts) <= part);
            self.turn_to(part, RowKind::Counts);
            let Some((_, open)) = &mut self.current else { return };
            open.rows += (end - next) as u64;
            if open.kind != RowKind::Counts {
                self.error.get_or_insert_with(mixed);
                return;
            }
            while next < end {
                let full = open.chunk_bytes();
                next = append_rows((open.format, form), run, (next, end), full, &mut open.chunk);
                if next < end && open.chunk.len() < full {
                    let word = run.words.word(next).word;
                    self.error.get_or_insert_with(|| negative(word, run.counts[next]));
                    return;
                }
                open.flush_full_chunk();
            }
        }
    }

    /// Makes `part` the current one; if it is new, it takes rows of `kind`.
    #[cold]
    fn turn_to(&mut self, part: u32, kind: RowKind) {
        self.open.extend(self.current.take());
        let known = self.open.remove(&part);
        let open = known.unwrap_or_else(|| OpenPart::new(kind, self.encoding, self.runtime));
        self.current = Some((part, open));
    }
}

/// A part to which rows are being added.
struct OpenPart {
    kind: RowKind,
    format: Format,
    bytes: WrittenBytes,
    chunk: Vec<u8>,
    /// Chunks that were full.
    chunks: usize,
    rows: u64,
    /// Rows that wait to be sorted by word.
    unsorted: Vec<(Box<[u8]>, i64)>,
}

/// The chunks of a part.
enum WrittenBytes {
    /// Those of the object, whose MD5 is computed meanwhile.
    Object(BodyWriter),
    /// Those of which the object is made later.
    Raw(Vec<Bytes>),
}

impl OpenPart {
    /// Returns a part without rows.
    fn new(kind: RowKind, encoding: Encoding, runtime: &Handle) -> OpenPart {
        let bytes = if encoding.is_immediate() {
            WrittenBytes::Object(BodyWriter::new(runtime.clone()))
        } else {
            WrittenBytes::Raw(Vec::new())
        };
        let mut chunk = spare_chunks::take().unwrap_or_default();
        if encoding.format == Format::Parquet {
            begin_columns(kind, &mut chunk);
        }
        let format = encoding.format;
        OpenPart { kind, format, bytes, chunk, chunks: 0, rows: 0, unsorted: Vec::new() }
    }

    /// Adds the row of a word. Notes an error if the word is too long for the format.
    fn count(&mut self, word: &[u8], count: i64, error: &mut Option<Error>) {
        match self.format {
            Format::Parquet => self.columns(word, count, error),
            format => format.row(word, count, &mut self.chunk),
        }
        self.flush_full_chunk();
    }

    /// Adds a line, which is raw bytes in every format that is text. Notes an error if the line is
    /// too long for the format.
    fn line(&mut self, line: &[u8], error: &mut Option<Error>) {
        match self.format {
            Format::Parquet => self.columns(line, 0, error),
            _ => {
                self.chunk.extend_from_slice(line);
                self.chunk.push(b'\n');
            }
        }
        self.flush_full_chunk();
    }

    /// Adds a row that is written as columns.
    fn columns(&mut self, text: &[u8], count: i64, error: &mut Option<Error>) {
        if text.len() <= ROW_BYTES_MAX {
            push_row(text, count, &mut self.chunk);
        } else {
            error.get_or_insert_with(|| too_long(text.len()));
        }
    }

    /// Moves the chunk to the body if it is full.
    fn flush_full_chunk(&mut self) {
        if self.chunk.len() >= self.chunk_bytes() {
            self.chunks += 1;
            let is_large = self.chunks >= LARGE_AFTER;
            let kept = if is_large { None } else { spare_chunks::take() };
            let room = self.chunk_bytes() + CHUNK_SLACK;
            let make = || {
                let mut chunk =
                    if is_large { words::vec_mapped(room) } else { Vec::with_capacity(room) };
                // A chunk does not grow: it keeps no more addresses than it needs.
                chunk.shrink_to(room);
                chunk
            };
            let next = kept.unwrap_or_else(make);
            let full = spare_chunks::bytes(std::mem::replace(&mut self.chunk, next));
            match &mut self.bytes {
                WrittenBytes::Object(body) => body.push(full),
                WrittenBytes::Raw(chunks) => chunks.push(full),
            }
        }
    }

    /// Returns the length from which the chunk is full.
    #[inline]
    fn chunk_bytes(&self) -> usize {
        if self.chunks < LARGE_AFTER { CHUNK_BYTES } else { LARGE_CHUNK_BYTES }
    }

    /// Returns the part. Adds the rows that are sorted by word first.
    fn close(mut self, part: u32, error: &mut Option<Error>) -> EncodedPart {
        let mut unsorted = std::mem::take(&mut self.unsorted);
        unsorted.sort_unstable();
        unsorted.iter().for_each(|(word, count)| self.count(word, *count, error));
        let (rows, last) = (self.rows, spare_chunks::last_bytes(self.chunk));
        let body = match self.bytes {
            WrittenBytes::Object(mut body) => {
                body.push(last);
                body.finish()
            }
            WrittenBytes::Raw(chunks) => Body::from_chunks(chunks.into_iter().chain([last])),
        };
        EncodedPart { part, rows, body }
    }
}

/// Returns the error of a definition that publishes both words and lines.
fn mixed() -> Error {
    let message = "the result holds words with counts and lines in one part";
    Error::new(ErrorKind::Failed, message)
        .hint("the dataflow definition must publish rows of one kind: correct it")
}

/// Returns the error of a row that is too long for the format.
fn too_long(bytes: usize) -> Error {
    let message = format!("a row of {bytes} bytes is too long for a Parquet file");
    Error::new(ErrorKind::Failed, message)
        .hint("give a smaller --max-line-bytes, or a --format that is text")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::format::Compression;
    use super::*;
    use crate::operators::{RowSet, rows_of};

    /// Rows that are visited one by one.
    struct Visited(Arc<dyn RowSet>);

    impl RowSet for Visited {
        fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
            self.0.for_each(visit);
        }
    }

    /// Returns rows of words with these counts, in the order of their hashes.
    fn rows(words: &[(String, i64)]) -> Arc<dyn RowSet> {
        let mut words: Vec<_> = words
            .iter()
            .map(|(word, count)| (words::hash(word.as_bytes()), word, *count))
            .collect();
        words.sort_unstable();
        words.dedup_by_key(|(_, word, _)| *word);
        let mut run = Run::default();
        words.iter().for_each(|(hash, word, count)| run.push(*hash, word.as_bytes(), *count));
        rows_of(run)
    }

    fn encoded(
        sets: &[Arc<dyn RowSet>],
        format: Format,
        parts: u32,
    ) -> Result<Vec<(u32, u64, Vec<u8>)>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let sets: Vec<_> =
            sets.iter().map(|rows| EpochRows { epoch: 10, rows: Arc::clone(rows) }).collect();
        let encoding = Encoding::new(format, Some(Compression::None));
        let encoded = encode(&sets, RowOrder::Hash, encoding, runtime.handle(), parts)?;
        let bytes = |part: &EncodedPart| part.body.load().expect("memory").concat();
        Ok(encoded.iter().map(|part| (part.part, part.rows, bytes(part))).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_of_runs_equal_rows_visited(
            words in prop::collection::vec(("[a-z']{0,18}|.{0,8}", 0..3_000_000_000_i64), 0..90),
            copies in 1..3_usize,
            parts in 1..7_u32,
        ) {
            let runs: Vec<_> = (0..copies).map(|_| rows(&words)).collect();
            let visited: Vec<Arc<dyn RowSet>> =
                runs.iter().map(|run| Arc::new(Visited(Arc::clone(run))) as _).collect();
            for format in [Format::Python, Format::Jsonl, Format::Parquet] {
                let found = encoded(&runs, format, parts).expect("rows");
                prop_assert_eq!(found, encoded(&visited, format, parts).expect("rows"));
            }
        }
    }

    #[test]
    fn negative_count_in_a_run_is_an_error() {
        let words: Vec<_> = (0..500).map(|number| (number.to_string(), number - 1)).collect();
        let error = encoded(&[rows(&words)], Format::Tsv, 3).expect_err("-1");
        assert!(error.to_string().contains("-1"), "{error}");
        let many: Vec<_> = (0..90_000).map(|number| (number.to_string(), number)).collect();
        let text: usize = many.iter().map(|(word, count)| format!("{word}\t{count}\n").len()).sum();
        let found = encoded(&[rows(&many)], Format::Tsv, 1).expect("rows");
        assert_eq!((found[0].1, found[0].2.len()), (90_000, text), "several chunks");
    }
}
