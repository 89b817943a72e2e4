//! Parts as Parquet files: the columns `word` and `count`, or `line`.
//!
//! A file is written column by column, from batches of rows. Memory: a batch, the counts of a row
//! group, and a page or the pages of a column that wait for its dictionary. There is no column for
//! the epoch, because a reader of partitioned folders takes it from the path.
//!
//! The same rows give the same bytes: the program that wrote the file is named by a constant, and
//! nothing in the file depends on time or on threads. The bytes are those of the crate `parquet`
//! with the same settings, which the tests compare. The crate itself is not used: it compiles
//! readers, types and encodings that are not needed, and that was a fifteenth of a clean build.

mod bounds;
mod column_chunk;
mod dictionary;
mod file_sink;
mod file_writer;
#[cfg(test)]
mod library_tests;
mod page_codec;
mod thrift;

use std::borrow::Cow;
use std::io;

use bytes::Bytes;

use self::column_chunk::{CountColumn, TextColumn, WrittenColumn};
use self::file_writer::{Column, FileWriter};
use self::page_codec::PageCodec;
use super::columns::{self, RowBatch, RowReader};
use super::compression::Compression;
use crate::error::{Error, ErrorKind};
use crate::operators::RowKind;
use crate::store::Body;

/// A row group ends with the batch that reaches one of these limits.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_TEXT_BYTES: usize = 64 << 20;

/// Encodes the rows of a part, which [`columns`] has written, as one file. It blocks.
///
/// # Errors
///
/// `Failed` if a page is too long or cannot be compressed, or a body on disk cannot be read back.
pub fn encode(rows: &Body, compression: Compression) -> Result<Body, Error> {
    write(rows, compression).map_err(|error| {
        let message = format!("cannot write a Parquet file: {error}");
        Error::new(ErrorKind::Failed, message).cause(error).hint("give another --format")
    })
}

/// Writes the file.
fn write(rows: &Body, compression: Compression) -> io::Result<Body> {
    let (kind, mut rows) = columns::read(rows)?;
    let mut file = match kind {
        RowKind::Counts => FileWriter::new("counts", &[Column::Word, Column::Count]),
        RowKind::Lines => FileWriter::new("lines", &[Column::Line]),
    };
    let mut batch = RowBatch::default();
    rows.fill(&mut batch)?;
    while !batch.texts.is_empty() {
        let offset = file.sink.written();
        let codec = PageCodec::new(compression)?;
        let texts = TextColumn::new(&mut file.sink, codec, kind == RowKind::Counts);
        let (texts, counts) = write_texts(texts, kind, &mut rows, &mut batch)?;
        let mut group = vec![texts];
        if kind == RowKind::Counts {
            let mut column = CountColumn::new(&mut file.sink, PageCodec::new(compression)?);
            column.write(&counts)?;
            group.push(column.finish()?);
        }
        file.add_group(offset, group);
    }
    Ok(file.finish())
}

/// Writes the column of words or lines, from `batch` and the batches after it. Returns it with the
/// counts of its rows, and leaves the first batch of the next group in `batch`.
fn write_texts(
    mut column: TextColumn<'_>,
    kind: RowKind,
    rows: &mut RowReader,
    batch: &mut RowBatch,
) -> io::Result<(WrittenColumn, Vec<i64>)> {
    let (mut counts, mut text_bytes) = (Vec::new(), 0);
    while !batch.texts.is_empty() && counts.len() < GROUP_ROWS && text_bytes < GROUP_TEXT_BYTES {
        if kind == RowKind::Counts {
            batch.texts.iter_mut().for_each(make_well_formed);
        }
        column.write(&batch.texts)?;
        counts.append(&mut batch.counts);
        text_bytes += batch.text_bytes;
        rows.fill(batch)?;
    }
    Ok((column.finish()?, counts))
}

/// Makes a word well-formed UTF-8, because readers trust a STRING to be that. Ill-formed bytes
/// become U+FFFD, as in `jsonl`.
fn make_well_formed(word: &mut Bytes) {
    if let Cow::Owned(text) = String::from_utf8_lossy(word) {
        *word = text.into();
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::{Compression as Codec, LogicalType};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::file_writer::CREATED_BY;
    use super::*;

    fn file(rows: &[(&[u8], Option<i64>)], kind: RowKind, compression: Compression) -> Bytes {
        let mut bytes = Vec::new();
        columns::begin(kind, &mut bytes);
        rows.iter().for_each(|(text, count)| {
            columns::push_row(text, count.unwrap_or(0), &mut bytes);
        });
        let body = encode(&Body::from(bytes), compression).expect("rows");
        body.load().expect("in memory").concat().into()
    }

    fn counts(rows: &[(&str, i64)], compression: Compression) -> Bytes {
        let rows: Vec<_> =
            rows.iter().map(|(word, count)| (word.as_bytes(), Some(*count))).collect();
        file(&rows, RowKind::Counts, compression)
    }

    fn read_counts(file: Bytes) -> Vec<(String, i64)> {
        let reader = SerializedFileReader::new(file).expect("a file");
        let rows = reader.get_row_iter(None).expect("rows").map(|row| {
            let row = row.expect("a row");
            (row.get_string(0).expect("a word").clone(), row.get_long(1).expect("a count"))
        });
        rows.collect()
    }

    #[test]
    fn words_and_counts_read_back() {
        let rows = [("", 1), ("tide", i64::MAX), ("a\tb\0\"'", 0), ("日本\u{1f30a}", 7)];
        let expected: Vec<_> =
            rows.iter().map(|(word, count)| (word.to_string(), *count)).collect();
        for compression in Compression::ALL {
            let stored = counts(&rows, compression);
            assert_eq!(counts(&rows, compression), stored, "{compression}");
            assert_eq!(read_counts(stored), expected, "{compression}");
        }
    }

    #[test]
    fn columns_are_typed_and_have_statistics() {
        let reader = SerializedFileReader::new(counts(&[("b", 2), ("a", 9)], Compression::Zstd));
        let reader = reader.expect("a file");
        let metadata = reader.metadata();
        assert_eq!(metadata.file_metadata().created_by(), Some(CREATED_BY));
        let columns = metadata.file_metadata().schema_descr().columns().to_vec();
        assert_eq!(
            columns.iter().map(|column| column.name()).collect::<Vec<_>>(),
            ["word", "count"]
        );
        assert_eq!(columns[0].logical_type_ref(), Some(&LogicalType::String));
        let group = metadata.row_group(0);
        let word = group.column(0).statistics().expect("statistics");
        assert_eq!(
            (word.min_bytes_opt(), word.max_bytes_opt()),
            (Some(&b"a"[..]), Some(&b"b"[..]))
        );
        let count = group.column(1).statistics().expect("statistics");
        assert_eq!(count.min_bytes_opt(), Some(&2_i64.to_le_bytes()[..]));
        assert!(matches!(group.column(0).compression(), Codec::ZSTD(_)));
    }

    #[test]
    fn file_without_rows_has_its_columns() {
        for (kind, names) in
            [(RowKind::Counts, &["word", "count"][..]), (RowKind::Lines, &["line"])]
        {
            let reader = SerializedFileReader::new(file(&[], kind, Compression::Zstd));
            let reader = reader.expect("a file");
            let schema = reader.metadata().file_metadata().schema_descr();
            let found: Vec<_> = schema.columns().iter().map(|column| column.name()).collect();
            assert_eq!(found, names);
            assert_eq!(reader.get_row_iter(None).expect("rows").count(), 0);
        }
    }

    #[test]
    fn lines_are_bytes_and_words_are_text() {
        let ill_formed: &[u8] = b"caf\xc3 \xff";
        let lines = file(&[(ill_formed, None), (b"", None)], RowKind::Lines, Compression::Zstd);
        let reader = SerializedFileReader::new(lines).expect("a file");
        let lines: Vec<_> = reader
            .get_row_iter(None)
            .expect("rows")
            .map(|row| row.expect("a row").get_bytes(0).expect("a line").data().to_vec())
            .collect();
        assert_eq!(lines, [ill_formed, b""]);
        // Each word by itself: the two together would be well-formed.
        let words = [(&b"\xc3"[..], Some(1)), (b"\xa9", Some(2))];
        let words = read_counts(file(&words, RowKind::Counts, Compression::Zstd));
        assert_eq!(words, [("\u{fffd}".to_owned(), 1), ("\u{fffd}".to_owned(), 2)]);
    }

    #[test]
    fn long_parts_have_several_row_groups() {
        let words: Vec<String> = (10..80).map(|word| word.to_string().repeat(500_000)).collect();
        let rows: Vec<_> = words.iter().map(|word| (&word[..], 1)).collect();
        let stored = counts(&rows, Compression::Zstd);
        let reader = SerializedFileReader::new(stored.clone()).expect("a file");
        assert_eq!(reader.num_row_groups(), 2);
        let read = read_counts(stored);
        assert!(read.iter().map(|(word, _)| word).eq(&words), "in order");
    }
}
