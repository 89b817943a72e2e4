//! Parts as Parquet files: the columns `word` and `count`, or `line`.
//!
//! A file is written with the low-level writer, column by column, from batches of rows. Memory: a
//! batch, the counts of a row group, and what the library gathers of a column. There is no column
//! for the epoch, because a reader of partitioned folders takes it from the path.
//!
//! The same rows give the same bytes: the program that wrote the file is named by a constant, and
//! nothing in the file depends on time or on threads.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use super::columns::{self, RowBatch, RowReader};
use super::compression::{ChunkWriter, Compression, GZIP_LEVEL, ZSTD_LEVEL};
use crate::error::{Error, ErrorKind};
use crate::operators::RowKind;
use crate::store::Body;

/// The writer in the footer, in the form that readers parse. The version is that of this encoding
/// and not of the program, because the bytes of a part do not change between releases.
const CREATED_BY: &str = "wordtide version 1.0.0";

/// A row group ends with the batch that reaches one of these limits.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_TEXT_BYTES: usize = 64 << 20;

/// The columns of word counts.
static COUNTS: LazyLock<ParquetResult<TypePtr>> = LazyLock::new(|| {
    schema("message counts { required binary word (STRING); required int64 count; }")
});

/// The column of lines, which are bytes in no particular encoding.
static LINES: LazyLock<ParquetResult<TypePtr>> =
    LazyLock::new(|| schema("message lines { required binary line; }"));

fn schema(text: &str) -> ParquetResult<TypePtr> {
    parse_message_type(text).map(Arc::new)
}

/// Encodes the rows of a part, which [`columns`] has written, as one file. It blocks.
///
/// # Errors
///
/// `Failed` if the library refuses the rows, or a body on disk cannot be read back.
pub fn encode(rows: &Body, compression: Compression) -> Result<Body, Error> {
    write(rows, compression).map_err(|error| {
        let message = format!("cannot write a Parquet file: {error}");
        Error::new(ErrorKind::Failed, message).cause(error).hint("give another --format")
    })
}

/// Writes the file.
fn write(rows: &Body, compression: Compression) -> ParquetResult<Body> {
    let (kind, mut rows) = columns::read(rows)?;
    let schema = match kind {
        RowKind::Counts => &COUNTS,
        RowKind::Lines => &LINES,
    };
    let schema = schema.as_ref().map_err(|error| general(&error.to_string()))?;
    let (sink, properties) = (ChunkWriter::default(), properties(compression)?);
    let mut file = SerializedFileWriter::new(sink, Arc::clone(schema), properties)?;
    let mut batch = RowBatch::default();
    rows.fill(&mut batch)?;
    while !batch.texts.is_empty() {
        let mut group = file.next_row_group()?;
        let counts = write_texts(&mut group, kind, &mut rows, &mut batch)?;
        if kind == RowKind::Counts {
            write_counts(&mut group, &counts)?;
        }
        group.close()?;
    }
    Ok(file.into_inner()?.finish())
}

/// Returns the properties of all files with this compression.
fn properties(compression: Compression) -> ParquetResult<WriterPropertiesPtr> {
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Gzip => Codec::GZIP(GzipLevel::try_new(GZIP_LEVEL)?),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
    };
    let properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(codec)
        // The words of an epoch are distinct: a dictionary of them is only a detour. Counts have
        // one, since most of them are small.
        .set_column_dictionary_enabled(ColumnPath::from("word"), false)
        .set_column_dictionary_enabled(ColumnPath::from("line"), false);
    Ok(Arc::new(properties.build()))
}

/// Writes the column of words or lines, from `batch` and the batches after it. Returns the counts
/// of the rows of the group, and leaves the first batch of the next group in `batch`.
fn write_texts(
    group: &mut SerializedRowGroupWriter<'_, ChunkWriter>,
    kind: RowKind,
    rows: &mut RowReader,
    batch: &mut RowBatch,
) -> ParquetResult<Vec<i64>> {
    let mut column = group.next_column()?.ok_or_else(|| general("there is no column for texts"))?;
    let writer = column.typed::<ByteArrayType>();
    let (mut counts, mut text_bytes) = (Vec::new(), 0);
    let mut values: Vec<ByteArray> = Vec::new();
    while !batch.texts.is_empty() && counts.len() < GROUP_ROWS && text_bytes < GROUP_TEXT_BYTES {
        let texts = batch.texts.drain(..);
        values.clear();
        values.extend(texts.map(|text| match kind {
            RowKind::Counts => well_formed(text).into(),
            RowKind::Lines => text.into(),
        }));
        writer.write_batch(&values, None, None)?;
        counts.append(&mut batch.counts);
        text_bytes += batch.text_bytes;
        rows.fill(batch)?;
    }
    column.close()?;
    Ok(counts)
}

/// Writes the column of counts.
fn write_counts(
    group: &mut SerializedRowGroupWriter<'_, ChunkWriter>,
    counts: &[i64],
) -> ParquetResult<()> {
    let mut column =
        group.next_column()?.ok_or_else(|| general("there is no column for counts"))?;
    column.typed::<Int64Type>().write_batch(counts, None, None)?;
    column.close()
}

/// Returns a word as well-formed UTF-8, because readers trust a STRING to be that. Ill-formed bytes
/// become U+FFFD, as in `jsonl`.
fn well_formed(word: Bytes) -> Bytes {
    match String::from_utf8_lossy(&word) {
        Cow::Borrowed(_) => word,
        Cow::Owned(text) => text.into(),
    }
}

fn general(message: &str) -> ParquetError {
    ParquetError::General(message.to_owned())
}

#[cfg(test)]
mod tests {
    use parquet::basic::LogicalType;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

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
