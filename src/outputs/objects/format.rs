//! Formats of rows: encodes a word and its count as one line of text, or as columns.
//!
//! [`Format::Python`] and [`Format::Scala`] give the same bytes as Spark's `saveAsTextFiles` in its
//! Python and its Scala program. Python prints a word by `repr`, which the module `python_repr`
//! implements. The other formats are for readers that do not expect Spark's. [`Format::Parquet`] is
//! no text: its rows are gathered as bytes (`columns`), of which `parquet_file` makes a file.
//! Text may be compressed as a whole (`compression`).
//!
//! A word is decoded before and is well-formed UTF-8. No other word causes a panic: `python` and
//! `jsonl`, whose rows must be text, replace ill-formed bytes by U+FFFD, and the other formats
//! write them unchanged.
//!
//! An epoch has millions of rows, and nearly all words are short and plain ASCII. Rows of such
//! words are written without a look at each byte (`plain_rows`), all others by `row_text`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::named_values::named_values;

mod columns;
mod compression;
mod parquet_file;
mod plain_rows;
mod python_repr;
mod row_text;

pub use columns::ROW_BYTES_MAX;
pub use columns::{RowBatch, RowReader, begin as begin_columns, push_row, read as read_rows};
pub use compression::Compression;
pub use compression::compress;
pub use parquet_file::encode as encode_parquet;
pub use plain_rows::{PlainForm, append_rows};

/// The length of the chunks of encoded rows. A part is never one allocation.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The format of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `('a', 2)`, as in Spark's Python program, by the rules of Python 3.11's `repr`.
    #[default]
    Python,
    /// `(a,2)`, as in Spark's Scala and Java programs. Nothing is quoted or escaped.
    Scala,
    /// The word, a TAB, the count. A word may contain a TAB: the count follows the last one.
    Tsv,
    /// `a,2`, without a header, quoted by RFC 4180. The line ends in LF, as in all formats.
    Csv,
    /// `{"word":"a","count":2}`, one JSON object a line.
    Jsonl,
    /// A Parquet file with the columns `word` and `count`, or `line`.
    Parquet,
}

named_values!(Format, "--format",
    Python => "python", Scala => "scala", Tsv => "tsv", Csv => "csv", Jsonl => "jsonl",
    Parquet => "parquet");

/// Returns a table with true for the bytes of `range`, except for `quote` and the backslash.
const fn bytes_without(range: RangeInclusive<u8>, quote: u8) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = *range.start() as usize;
    while byte <= *range.end() as usize {
        table[byte] = true;
        byte += 1;
    }
    table[quote as usize] = false;
    table[b'\\' as usize] = false;
    table
}

/// Most bytes that are appended without a call.
const FEW_BYTES: usize = 16;

/// Appends bytes. Copies of a fixed length need no call, which would take longer than a short word.
#[inline]
fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let length = bytes.len();
    let mut few = [0; FEW_BYTES];
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        _ if length > FEW_BYTES => return out.extend_from_slice(bytes),
        // Two pieces, which may overlap.
        (Some(head), Some(tail)) if length <= 8 => {
            few[..4].copy_from_slice(head);
            few[length - 4..length].copy_from_slice(tail);
        }
        (Some(_), Some(_)) => {
            few[..8].copy_from_slice(&bytes[..8]);
            few[length - 8..length].copy_from_slice(&bytes[length - 8..]);
        }
        _ => few.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from),
    }
    out.extend_from_slice(&few);
    out.truncate(out.len() - FEW_BYTES + length);
}

#[cfg(test)]
mod tests;
