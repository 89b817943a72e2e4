//! Files have the bytes that the crate `parquet` writes for the same rows.

use std::sync::Arc;

use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use proptest::prelude::*;

use super::encode;
use super::file_writer::CREATED_BY;
use super::{GROUP_ROWS, GROUP_TEXT_BYTES};
use crate::operators::RowKind;
use crate::outputs::objects::format::columns::{self, RowBatch};
use crate::outputs::objects::format::compression::{Compression, GZIP_LEVEL, ZSTD_LEVEL};
use crate::store::Body;

/// Writes rows by the library, with row groups and batches as `encode` has them.
fn library(rows: &Body, compression: Compression) -> ParquetResult<Vec<u8>> {
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Gzip => Codec::GZIP(GzipLevel::try_new(GZIP_LEVEL)?),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
    };
    let properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(codec)
        .set_column_dictionary_enabled(ColumnPath::from("word"), false)
        .set_column_dictionary_enabled(ColumnPath::from("line"), false);
    let (kind, mut rows) = columns::read(rows)?;
    let schema = match kind {
        RowKind::Counts => {
            "message counts { required binary word (STRING); required int64 count; }"
        }
        RowKind::Lines => "message lines { required binary line; }",
    };
    let schema = Arc::new(parse_message_type(schema)?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build()))?;
    let mut batch = RowBatch::default();
    rows.fill(&mut batch)?;
    while !batch.texts.is_empty() {
        let mut group = file.next_row_group()?;
        let mut column = group.next_column()?.expect("a column");
        let (mut counts, mut bytes) = (Vec::new(), 0);
        while !batch.texts.is_empty() && counts.len() < GROUP_ROWS && bytes < GROUP_TEXT_BYTES {
            let texts: Vec<ByteArray> = batch.texts.drain(..).map(Into::into).collect();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
            counts.append(&mut batch.counts);
            bytes += batch.text_bytes;
            rows.fill(&mut batch)?;
        }
        column.close()?;
        if kind == RowKind::Counts {
            let mut column = group.next_column()?.expect("a column");
            column.typed::<Int64Type>().write_batch(&counts, None, None)?;
            column.close()?;
        }
        group.close()?;
    }
    file.into_inner()
}

/// Compares the bytes of both, with each compression.
fn compare(rows: impl Iterator<Item = (Vec<u8>, i64)>, kind: RowKind) {
    compare_with(&Compression::ALL, rows, kind);
}

/// Compares the bytes of both without compression, which has no part in how rows become pages.
fn compare_pages(rows: impl Iterator<Item = (Vec<u8>, i64)>, kind: RowKind) {
    compare_with(&[Compression::None], rows, kind);
}

fn compare_with(
    compressions: &[Compression],
    rows: impl Iterator<Item = (Vec<u8>, i64)>,
    kind: RowKind,
) {
    let mut bytes = Vec::new();
    columns::begin(kind, &mut bytes);
    rows.for_each(|(text, count)| columns::push_row(&text, count, &mut bytes));
    let body = Body::from(bytes);
    for compression in compressions.iter().copied() {
        let ours = encode(&body, compression).expect("rows").load().expect("in memory").concat();
        let theirs = library(&body, compression).expect("rows");
        let differs = ours.iter().zip(&theirs).position(|(our, their)| our != their);
        assert_eq!((ours.len(), differs), (theirs.len(), None), "{compression}, {kind:?}");
    }
}

/// A number that looks random, for row `row`.
fn scattered(row: usize) -> i64 {
    (row as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)
}

#[test]
fn many_words_give_the_library_bytes() {
    // Several pages. Small counts, as those of words are: most are 1.
    let word = |row: usize| format!("word{}", scattered(row)).into_bytes();
    compare((0..50_000).map(|row| (word(row), 1 + scattered(row) % 100 / 97)), RowKind::Counts);
    // Runs of all lengths, ascending words.
    let long = (0..30_000_usize).map(|row| (format!("{row:08}").into(), (row.isqrt() / 7) as i64));
    compare_pages(long, RowKind::Counts);
    // More counts than a dictionary takes, and plain ones after it.
    compare_pages((0..160_000).map(|row| (Vec::new(), scattered(row))), RowKind::Counts);
    compare_pages((0..131_072).rev().map(|row| (Vec::new(), row as i64)), RowKind::Counts);
}

#[test]
fn long_texts_give_the_library_bytes() {
    // Texts around the length of a page, and lengths that fill a page in the middle of a batch.
    for length in [700_usize, 1000, 1020, 1024, 5_000, (1 << 20) - 5, (1 << 20) - 4, 1 << 20] {
        let rows = (3 << 20) / length;
        let text = move |row: usize| {
            let mut text = row.to_string().into_bytes();
            text.resize(length - row % 3, b'a' + (row % 23) as u8);
            text
        };
        compare_pages((0..rows).map(move |row| (text(row), row as i64)), RowKind::Counts);
        compare_pages((0..rows).map(move |row| (text(row), 0)), RowKind::Lines);
    }
    // Two row groups, of words that are longer than a page.
    let words = (10..80).map(|word| (word.to_string().repeat(500_000).into_bytes(), word));
    compare_pages(words, RowKind::Counts);
}

#[test]
fn cut_bounds_are_the_library_bounds() {
    let last = ["a", "\u{7f}", "\u{7ff}", "\u{d7ff}", "\u{ffff}", "\u{10ffff}", "é", "日", "🌊"];
    for tail in last {
        for before in 58..66 {
            for text in ["x".repeat(before) + tail, tail.repeat(before)] {
                let long = text + "tail that is cut";
                compare([(long.clone().into_bytes(), 1)].into_iter(), RowKind::Counts);
                compare([(long.into_bytes(), 0)].into_iter(), RowKind::Lines);
            }
        }
    }
    for bytes in [vec![0xff; 100], [vec![b'x'; 60], vec![0xff; 40]].concat()] {
        compare([(bytes, 0)].into_iter(), RowKind::Lines);
    }
    compare(std::iter::empty(), RowKind::Counts);
    compare(std::iter::empty(), RowKind::Lines);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_rows_give_the_library_bytes(
        rows in prop::collection::vec(
            (prop::collection::vec(any::<char>(), 0..80), prop_oneof![any::<i64>(), 0..3_i64]),
            0..300,
        ),
        repeats in 1..120_usize,
    ) {
        let row = |(text, count): &(Vec<char>, i64)| {
            (text.iter().collect::<String>().into_bytes(), *count)
        };
        let rows = rows.iter().map(row).flat_map(|row| std::iter::repeat_n(row, repeats));
        compare(rows.clone(), RowKind::Counts);
        compare(rows, RowKind::Lines);
    }
}
