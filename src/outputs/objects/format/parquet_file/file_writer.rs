//! The file around the columns: its first and last bytes, and the metadata.
//!
//! ```text
//! file = "PAR1", pages …, bounds of pages …, places of pages …, metadata, its length, "PAR1"
//! ```

use super::bounds::WrittenBounds;
use super::column_chunk::{DICTIONARY, PLAIN, RUNS, WrittenColumn};
use super::file_sink::FileSink;
use super::thrift::{ThriftType, ThriftWriter};
use crate::store::Body;

/// The first and the last bytes of a file.
const MAGIC: &[u8] = b"PAR1";

/// The writer in the metadata, in the form that readers parse. The version is that of this encoding
/// and not of the program, because the bytes of a part do not change between releases.
pub const CREATED_BY: &str = "wordtide version 1.0.0";

/// The columns that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Words: UTF-8.
    Word,
    /// The counts of words.
    Count,
    /// Lines: bytes in no particular encoding.
    Line,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Count => "count",
            Self::Line => "line",
        }
    }

    /// Returns the number of the type: integers of 64 bits, or bytes.
    fn kind(self) -> i32 {
        if self == Self::Count { 2 } else { 6 }
    }
}

/// A row group that is written.
#[derive(Debug)]
struct RowGroup {
    offset: u64,
    columns: Vec<WrittenColumn>,
}

/// The parts of the page index that are written: the position and the length of each.
type IndexPlace = (u64, usize);

/// A file that is being written.
#[derive(Debug)]
pub struct FileWriter {
    /// Where columns are written, between row groups.
    pub sink: FileSink,
    message: &'static str,
    columns: &'static [Column],
    groups: Vec<RowGroup>,
}

impl FileWriter {
    /// Begins a file whose schema has the name `message`.
    pub fn new(message: &'static str, columns: &'static [Column]) -> Self {
        let mut sink = FileSink::default();
        sink.put(MAGIC);
        Self { sink, message, columns, groups: Vec::new() }
    }

    /// Takes a row group whose columns are written from `offset` on.
    pub fn add_group(&mut self, offset: u64, columns: Vec<WrittenColumn>) {
        self.groups.push(RowGroup { offset, columns });
    }

    /// Writes the metadata and returns the file.
    pub fn finish(mut self) -> Body {
        let columns = || self.groups.iter().flat_map(|group| &group.columns);
        let sink = &mut self.sink;
        let bounds: Vec<IndexPlace> =
            columns().map(|column| sink.put_struct(page_bounds(&column.bounds))).collect();
        let kinds = self.columns.iter().cycle();
        let places: Vec<IndexPlace> = columns()
            .zip(kinds)
            .map(|(column, kind)| sink.put_struct(page_places(column, *kind)))
            .collect();
        let places: Vec<_> = bounds.into_iter().zip(places).collect();
        let metadata = self.metadata(&places);
        let (_, length) = self.sink.put_struct(metadata);
        self.sink.put(&(length as u32).to_le_bytes());
        self.sink.put(MAGIC);
        self.sink.finish()
    }

    /// Returns the metadata of the file.
    fn metadata(&self, places: &[(IndexPlace, IndexPlace)]) -> ThriftWriter {
        let mut out = ThriftWriter::new();
        out.i32(1, 1);
        self.put_schema(&mut out);
        let rows = |group: &RowGroup| group.columns.first().map_or(0, |column| column.rows as i64);
        out.i64(3, self.groups.iter().map(rows).sum());
        out.list(4, ThriftType::Struct, self.groups.len());
        let mut places = places.iter();
        for (ordinal, group) in self.groups.iter().enumerate() {
            out.begin_element();
            out.list(1, ThriftType::Struct, group.columns.len());
            for ((column, kind), place) in group.columns.iter().zip(self.columns).zip(&mut places) {
                put_chunk(column, *kind, *place, &mut out);
            }
            let sum = |bytes: fn(&WrittenColumn) -> usize| {
                group.columns.iter().map(bytes).sum::<usize>() as i64
            };
            out.i64(2, sum(|column| column.plain_bytes));
            out.i64(3, rows(group));
            out.i64(5, group.offset as i64);
            out.i64(6, sum(|column| column.stored_bytes));
            // It has 16 bits, so a file of more groups has none.
            if i16::try_from(self.groups.len()).is_ok() {
                out.i16(7, ordinal as i16);
            }
            out.end();
        }
        out.binary(6, CREATED_BY.as_bytes());
        // Each column is in the order of its type.
        out.list(7, ThriftType::Struct, self.columns.len());
        for _ in self.columns {
            out.begin_element();
            out.begin(1);
            out.end();
            out.end();
        }
        out
    }

    /// Writes the schema: the root and the columns, none of which may be null.
    fn put_schema(&self, out: &mut ThriftWriter) {
        out.list(2, ThriftType::Struct, 1 + self.columns.len());
        out.begin_element();
        out.binary(4, self.message.as_bytes());
        out.i32(5, self.columns.len() as i32);
        out.end();
        for column in self.columns {
            out.begin_element();
            out.i32(1, column.kind());
            out.i32(3, 0);
            out.binary(4, column.name().as_bytes());
            if *column == Column::Word {
                // That it is text, for older readers and for others.
                out.i32(6, 0);
                out.begin(10);
                out.begin(1);
                out.end();
                out.end();
            }
            out.end();
        }
    }
}

/// Writes the metadata of a column of a row group.
fn put_chunk(
    column: &WrittenColumn,
    kind: Column,
    (bounds, places): (IndexPlace, IndexPlace),
    out: &mut ThriftWriter,
) {
    out.begin_element();
    out.i64(2, 0);
    out.begin(3);
    out.i32(1, kind.kind());
    let mut encodings = vec![PLAIN, RUNS];
    encodings.extend(column.dictionary.map(|_| DICTIONARY));
    out.list(2, ThriftType::I32, encodings.len());
    encodings.iter().for_each(|encoding| out.integer(i64::from(*encoding)));
    out.list(3, ThriftType::Binary, 1);
    out.binary_element(kind.name().as_bytes());
    out.i32(4, column.codec);
    out.i64(5, column.rows as i64);
    out.i64(6, column.plain_bytes as i64);
    out.i64(7, column.stored_bytes as i64);
    out.i64(9, column.pages.first().map_or(0, |page| page.offset as i64));
    if let Some(offset) = column.dictionary {
        out.i64(11, offset as i64);
    }
    put_statistics(&column.bounds, kind, out);
    out.list(13, ThriftType::Struct, column.page_kinds.len());
    for (page, encoding, pages) in &column.page_kinds {
        out.begin_element();
        out.i32(1, *page);
        out.i32(2, *encoding);
        out.i32(3, *pages);
        out.end();
    }
    if kind != Column::Count {
        out.begin(16);
        out.i64(1, column.pages.iter().map(|page| page.text_bytes as i64).sum());
        out.end();
    }
    out.end();
    out.i64(4, places.0 as i64);
    out.i32(5, places.1 as i32);
    out.i64(6, bounds.0 as i64);
    out.i32(7, bounds.1 as i32);
    out.end();
}

/// Writes the bounds of a column. Older readers know them of signed numbers only.
fn put_statistics(bounds: &WrittenBounds, kind: Column, out: &mut ThriftWriter) {
    let (least, greatest) = (&bounds.least, &bounds.greatest);
    out.begin(12);
    if kind == Column::Count {
        out.binary(1, &greatest.0);
        out.binary(2, &least.0);
    }
    out.i64(3, 0);
    out.binary(5, &greatest.0);
    out.binary(6, &least.0);
    out.bool(7, greatest.1);
    out.bool(8, least.1);
    out.end();
}

/// Returns the bounds of the pages of a column.
fn page_bounds(bounds: &WrittenBounds) -> ThriftWriter {
    let (mut out, pages) = (ThriftWriter::new(), &bounds.pages);
    out.list(1, ThriftType::Bool, pages.len());
    pages.iter().for_each(|_| out.bool_element(false));
    out.list(2, ThriftType::Binary, pages.len());
    pages.iter().for_each(|(least, _)| out.binary_element(least));
    out.list(3, ThriftType::Binary, pages.len());
    pages.iter().for_each(|(_, greatest)| out.binary_element(greatest));
    out.i32(4, bounds.order);
    out.list(5, ThriftType::I64, pages.len());
    pages.iter().for_each(|_| out.integer(0));
    out
}

/// Returns the places of the pages of a column.
fn page_places(column: &WrittenColumn, kind: Column) -> ThriftWriter {
    let (mut out, pages) = (ThriftWriter::new(), &column.pages);
    out.list(1, ThriftType::Struct, pages.len());
    for page in pages {
        out.begin_element();
        out.i64(1, page.offset as i64);
        out.i32(2, page.bytes as i32);
        out.i64(3, page.first_row as i64);
        out.end();
    }
    if kind != Column::Count {
        out.list(2, ThriftType::I64, pages.len());
        pages.iter().for_each(|page| out.integer(page.text_bytes as i64));
    }
    out
}
