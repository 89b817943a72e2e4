//! Encodes the rows of an epoch as the bytes of its parts.

use std::collections::BTreeMap;

use super::format::Format;
use super::publish::Publisher;
use crate::error::{Error, Result};
use crate::operators::{EpochRows, Row};
use crate::outputs::negative::negative;
use crate::outputs::output::EncodedPart;
use crate::settings::RowOrder;
use crate::store::BodyWriter;
use crate::words;

/// The length of the chunks of encoded rows. A part is never one allocation.
const CHUNK_BYTES: usize = 256 << 10;

/// Returns the parts that have rows, ascending.
pub(super) fn encode(
    sets: &[EpochRows],
    publisher: &Publisher,
    parts: u32,
) -> Result<Vec<EncodedPart>> {
    let mut encoder = Encoder { publisher, open: BTreeMap::new(), error: None };
    for set in sets {
        set.rows.for_each(&mut |row| encoder.row(row, parts));
    }
    match encoder.error {
        Some(error) => Err(error),
        None => {
            let format = publisher.form.format;
            Ok(encoder.open.into_iter().map(|(part, open)| open.close(part, format)).collect())
        }
    }
}

/// Encodes the rows of one epoch.
struct Encoder<'a> {
    publisher: &'a Publisher,
    open: BTreeMap<u32, OpenPart>,
    /// The first error of a row.
    error: Option<Error>,
}

/// A part to which rows are being added.
struct OpenPart {
    body: BodyWriter,
    chunk: Vec<u8>,
    rows: u64,
    /// Rows that wait to be sorted by word.
    unsorted: Vec<(Box<[u8]>, i64)>,
}

impl Encoder<'_> {
    /// Adds a row to its part.
    fn row(&mut self, row: Row<'_>, parts: u32) {
        match row {
            Row::Count { hash, word, count } => {
                self.refuse_negative(word, count);
                let (order, format) = self.form();
                let open = self.open(words::part(hash, parts));
                match order {
                    RowOrder::Hash => open.encode(word, count, format),
                    RowOrder::Word => open.unsorted.push((word.into(), count)),
                }
            }
            Row::Ranked { word, count } => {
                self.refuse_negative(word, count);
                let (_, format) = self.form();
                self.open(0).encode(word, count, format);
            }
            Row::Line { part, line } => self.open(part).line(line),
        }
    }

    /// Returns the order and the format of rows.
    fn form(&self) -> (RowOrder, Format) {
        (self.publisher.publication.order, self.publisher.form.format)
    }

    /// Returns the part with the number `part` and counts one more row of it.
    fn open(&mut self, part: u32) -> &mut OpenPart {
        let open = self.open.entry(part).or_insert_with(|| OpenPart {
            body: BodyWriter::new(self.publisher.runtime().clone()),
            chunk: Vec::new(),
            rows: 0,
            unsorted: Vec::new(),
        });
        open.rows += 1;
        open
    }

    /// Notes an error if a count is negative.
    fn refuse_negative(&mut self, word: &[u8], count: i64) {
        if count < 0 && self.error.is_none() {
            self.error = Some(negative(word, count));
        }
    }
}

impl OpenPart {
    /// Adds the row of a word.
    fn encode(&mut self, word: &[u8], count: i64, format: Format) {
        format.row(word, count, &mut self.chunk);
        self.flush_full_chunk();
    }

    /// Adds a line, which is raw bytes in every format.
    fn line(&mut self, line: &[u8]) {
        self.chunk.extend_from_slice(line);
        self.chunk.push(b'\n');
        self.flush_full_chunk();
    }

    /// Moves the chunk to the body if it is full.
    fn flush_full_chunk(&mut self) {
        if self.chunk.len() >= CHUNK_BYTES {
            let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + 4096));
            self.body.push(full.into());
        }
    }

    /// Returns the part. Adds the rows that are sorted by word first.
    fn close(mut self, part: u32, format: Format) -> EncodedPart {
        let mut unsorted = std::mem::take(&mut self.unsorted);
        unsorted.sort_unstable();
        unsorted.iter().for_each(|(word, count)| self.encode(word, *count, format));
        self.body.push(self.chunk.into());
        EncodedPart { part, rows: self.rows, body: self.body.finish() }
    }
}
